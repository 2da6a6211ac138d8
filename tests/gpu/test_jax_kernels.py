"""The fused kernels in JAX programs on a GPU: the numbers are PyTorch's, and nothing leaves the device."""

from __future__ import annotations

import threading
from functools import partial

import cvxpy as cp
import numpy as np
import pytest

from benchmarks.gpu_kernels import dense_qp
from cvxlayers import Status
from cvxlayers.solvers import Native
from cvxlayers.solvers.interior_point import dispatch
from tests.gpu import test_native_layers
from tests.interior_point.test_cuda import PROBLEMS, on_gpu
from tests.layers import problems

pytestmark = pytest.mark.gpu
jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
jnp = jax.numpy


@pytest.fixture(autouse=True)
def gpu():
    if jax.default_backend() not in ("gpu", "cuda"):
        pytest.skip("JAX has no GPU")


def layer(**options):
    from cvxlayers.jax import CvxpyLayer

    return CvxpyLayer(*test_native_layers.problem(), **options)


def values(batch: int):
    return [jnp.asarray(v.detach().numpy()) for v in test_native_layers.values(batch, "cpu")]


def expected(batch: int):
    """x and the gradients of the sum of its squares, on the host."""
    x, grads = test_native_layers.gradients(test_native_layers.layer(), test_native_layers.values(batch, "cpu"))
    return x.detach().numpy(), [g.numpy() for g in grads]


def close(one, other, tol: float) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tol, atol=tol)


def with_gradients(made):
    def loss(*values):
        (x,) = made(*values)
        return (x**2).sum(), x

    both = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)

    def call(*values):
        (_, x), grads = both(*values)
        return x, grads

    return call


def test_it_runs():
    from cvxlayers.array import jax_cuda

    assert jax_cuda.devices() == tuple(jax.local_devices())
    assert "by kernels" in str(layer().plan())


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_numbers_are_those_of_pytorch(name):
    """The same kernels on the same data: solutions, the derivative's system, and the Newton step."""
    cone, *tensors = on_gpu(PROBLEMS[name]())
    arrays = [jnp.asarray(v.cpu().numpy()) for v in tensors]
    P, q, A, b = tensors
    out = dispatch.solve(cone, P, q, A, b, Native())
    found = jax.jit(partial(dispatch.solve, cone, settings=Native()))(*arrays)
    close(found, (v.cpu() for v in out), 1e-12)
    point = (out.x, out.z, out.s, out.residuals)
    polished = jax.jit(partial(dispatch.polish, cone, settings=Native()))(*arrays, *(found[k] for k in (0, 1, 2, 5)))
    # Projections on curved cones start from differences of nearly equal numbers, whose sums come in another order.
    close(polished, (v.cpu() for v in dispatch.polish(cone, P, q, A, b, *point, Native())), 1e-9)
    generator = torch.Generator().manual_seed(0)
    right = [torch.randn((2, *v.shape), dtype=q.dtype, generator=generator).cuda() for v in (out.x, out.z)]
    wanted = dispatch.linear_solve(cone, P, A, out.z, out.s, *right, Native())
    solve = jax.jit(partial(dispatch.linear_solve, cone, settings=Native()))
    found = solve(arrays[0], arrays[2], found[1], found[2], *(jnp.asarray(v.cpu().numpy()) for v in right))
    scale = float(wanted[0].abs().max())
    close((found[0] / scale, found[2]), (wanted[0].cpu() / scale, wanted[2].cpu()), 1e-9)


@pytest.mark.parametrize("batch", [1, 64])
def test_no_transfer(batch):
    """A call and its gradients: nothing is copied from the device or to it, and the numbers are those of the host."""
    call, given = jax.jit(with_gradients(layer(on_failure="nan"))), values(batch)
    jax.block_until_ready(call(*given))
    with jax.transfer_guard("disallow"):
        x, grads = jax.block_until_ready(call(*given))
    x0, grads0 = expected(batch)
    close([x], [x0], 1e-6)
    close(grads, grads0, 1e-5)


@pytest.mark.parametrize("name", ["second_order", "semidefinite", "exponential", "power", "geometric"])
def test_curved_cones(name):
    from cvxlayers.jax import CvxpyLayer

    case = problems.get(name)

    def both(**options):
        made = CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp, on_failure="nan", **options)

        def loss(*values):
            return sum((o * jnp.cos(jnp.arange(o.size).reshape(o.shape))).sum() for o in made(*values))

        gradient = jax.jit(jax.vmap(jax.grad(loss, argnums=tuple(range(len(case.values))))))
        given = [jnp.asarray(np.stack([v, 1.01 * v, 0.99 * v])) for v in case.values]
        return jax.jit(made)(*given), gradient(*given)

    found, wanted = both(), both(solver="clarabel", solver_args={"tol": 1e-11})
    close(found[0], wanted[0], 1e-6)
    close(found[1], wanted[1], 1e-5)


def test_vmap_and_batches():
    """vmap is the batch; a mapped axis over some parameters leaves the others shared; two axes; a Jacobian."""
    made, (Q, p, G, h) = layer(on_failure="nan"), values(6)
    call = with_gradients(made)
    x, grads = jax.jit(call)(Q, p, G, h)
    x1, grads1 = jax.jit(jax.vmap(call, in_axes=(0, 0, None, 0)))(Q, p, G, h)
    close([x1, grads1[0], grads1[1], grads1[2].sum(0), grads1[3]], [x, *grads], 1e-8)
    shared = jax.jit(jax.vmap(lambda p: made(Q[0], p, G, h[0])[0]))(p)
    close([shared], [made(Q[:1], p, G, h[:1])[0]], 1e-7)
    two = jax.jit(jax.vmap(jax.vmap(lambda p, h: made(Q[0], p, G, h)[0], (None, 0)), (0, None)))(p[:2], h[:3])
    for i in range(2):
        close([two[i]], [made(Q[:1], p[i : i + 1], G, h[:3])[0]], 1e-7)
    backward, forward = (jac(lambda p: made(Q[0], p, G, h[0])[0])(p[0]) for jac in (jax.jacrev, jax.jacfwd))
    close([backward], [forward], 1e-9)


def test_loops():
    made, (Q, p, G, h) = layer(on_failure="nan"), values(5)

    @jax.jit
    def walk(p):
        return jax.lax.scan(lambda carry, v: (carry, made(Q[0], v, G, h[0])[0]), 0.0, p)[1]

    close([walk(p)], [made(Q[:1], p, G, h[:1])[0]], 1e-7)


def test_failed_elements():
    made, (Q, p, G, h) = layer(on_failure="nan"), values(5)
    before = jax.jit(made.solve)(Q, p, G, h)
    G = jnp.broadcast_to(G, (5, 20, 10)).at[3, 1].set(-G[0])
    after = jax.jit(made.solve)(Q, p.at[1, 2].set(jnp.nan), G, h.at[3, 0].set(-1.0).at[3, 1].set(-1.0))
    assert after.status.tolist() == [
        Status.SOLVED,
        Status.INVALID_INPUT,
        Status.SOLVED,
        Status.INFEASIBLE,
        Status.SOLVED,
    ]
    x, keep = after.variables[0], np.array([0, 2, 4])
    assert np.isnan(x[1]).all() and np.isnan(x[3]).all()
    close([x[keep]], [before.variables[0][keep]], 1e-7)


def test_threads():
    made, (Q, p, G, h) = layer(on_failure="nan"), values(32)
    call = jax.jit(with_gradients(made))
    wanted, found = call(Q, p, G, h)[0], [None] * 16

    def work(i):
        found[i] = jax.block_until_ready(call(Q, p, G, h))[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x in found:
        close([x], [wanted], 1e-12)


def test_on_the_host_of_a_machine_with_a_gpu():
    """What JAX compiles for the CPU takes the array operations."""
    given = [jax.device_put(v, jax.devices("cpu")[0]) for v in values(3)]
    (x,) = jax.jit(layer(on_failure="nan"))(*given)
    assert {d.platform for d in x.devices()} == {"cpu"}
    close([x], [expected(3)[0]], 1e-6)


def test_on_another_device():
    if len(jax.local_devices()) < 2:
        pytest.skip("one GPU")
    call = jax.jit(with_gradients(layer(on_failure="nan")))
    x, grads = call(*values(8))
    second = jax.local_devices()[1]
    y, others = call(*(jax.device_put(v, second) for v in values(8)))
    assert y.devices() == {second}
    close([y, *others], [x, *grads], 1e-12)


def test_large_programs_take_kernels_in_parts():
    """The host looks who is done while XLA's call is under way; nothing that JAX knows of is copied."""
    from cvxlayers.jax import CvxpyLayer

    x, p, G = cp.Variable(300), cp.Parameter(300), np.random.default_rng(0).standard_normal((200, 300))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [G @ x <= 1])
    made = CvxpyLayer(problem, [p], [x], solver="native", on_failure="nan")
    assert "kernels in parts" in str(made.plan())

    def loss(made, p):
        (found,) = made(p)
        return (found**2).sum(), found

    given = jnp.asarray(np.random.default_rng(1).standard_normal((5, 300)))
    call = jax.jit(jax.value_and_grad(partial(loss, made), has_aux=True))
    jax.block_until_ready(call(given))
    with jax.transfer_guard("disallow"):
        (_, found), gradient = jax.block_until_ready(call(given))
    host = CvxpyLayer(problem, [p], [x], solver="clarabel", solver_args={"tol": 1e-10})
    (_, wanted), expected = jax.value_and_grad(partial(loss, host), has_aux=True)(given)
    close([found], [wanted], 1e-6)
    close([gradient], [expected], 1e-5)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_large_programs_from_threads(batch):
    """Calls at the same time have memory, streams and events of their own."""
    cone, *tensors = on_gpu(dense_qp(250, 200, batch, equalities=5))
    arrays = [jnp.asarray(v.cpu().numpy()) for v in tensors]
    out = dispatch.solve(cone, *tensors, Native())
    solve, found = jax.jit(partial(dispatch.solve, cone, settings=Native())), [None] * 8

    def work(i):
        found[i] = jax.block_until_ready(solve(*arrays) if i % 2 else dispatch.solve(cone, *tensors, Native()))

    solve(*arrays)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    for i, each in enumerate(found):
        assert each is not None
        close(each if i % 2 else (v.cpu() for v in each), (v.cpu() for v in out), 1e-12)
