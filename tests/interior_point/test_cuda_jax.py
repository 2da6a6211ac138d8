"""The CUDA kernels in JAX programs, on the host: XLA calls the emulated kernels as it calls the real ones on a GPU."""

from __future__ import annotations

import threading
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvxlayers.array import foreign, jax_cuda
from cvxlayers.conic import array_kkt, array_newton
from cvxlayers.conic.program import ConeProgram
from cvxlayers.sets import Nonnegative, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point import dispatch
from cvxlayers.solvers.interior_point.cuda import kernels, large
from cvxlayers.solvers.interior_point.cuda.launch import SHARED_BYTES, layout, solve_launch
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.status import Status
from tests.interior_point import emulation, sparse_programs
from tests.interior_point.test_cuda_emulated import CASES, dense, matrices
from tests.layers import problems
from tests.solvers.problems import dense_program, infeasible, solvable

pytestmark = [
    pytest.mark.skipif(emulation.COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(find_spec("jax.ffi") is None, reason="needs JAX with foreign functions"),
]


@pytest.fixture
def started(monkeypatch):
    """Programs for the CPU take the kernels; the names of those that were started."""
    names, alone = [], threading.Lock()

    def run(start: kernels.Start, addresses, stream) -> None:
        with alone:
            names.append(start.name)
            emulation.start(start.name, start.launch, start.blocks, start.arguments(addresses))

    def fits(cone: Product, n: int, m: int, device, program: ConeProgram | None = None) -> bool:
        rows = layout(cone)
        return rows is not None and solve_launch(rows, n, m) is not None

    def sparse(program: ConeProgram | None, devices) -> Sparsity | None:
        return None if program is None else Sparsity.of(program)

    assert jax.devices("cpu") and jax_cuda.register("cpu")
    monkeypatch.setattr(kernels.Start, "__call__", run)
    monkeypatch.setattr(kernels, "kernel", lambda *args: None)
    monkeypatch.setattr(kernels, "shared_memory", lambda device: SHARED_BYTES)
    monkeypatch.setattr("cvxlayers.solvers.interior_point.cuda.fits", fits)
    monkeypatch.setattr("cvxlayers.solvers.interior_point.cuda.sparse", sparse)
    monkeypatch.setattr(jax_cuda, "devices", lambda: tuple(jax.devices("cpu")[:1]))
    monkeypatch.setattr(jax_cuda, "PLATFORM", "cpu")
    return names


LARGE = {"large": ((Zero(2), Nonnegative(20)), 218), "large curved": ((Nonnegative(9), SecondOrder(6)), 217)}


def program(name: str, batch: int, seed: int = 3, shared: bool = False):
    blocks, n = (CASES | LARGE)[name]
    of = dense_program(blocks, n)
    return of.cone, *map(jnp.asarray, matrices(dense(of, solvable(of, batch, seed=seed, shared=shared))))


def close(one, other, tol: float = 1e-12) -> None:
    for a, b in zip(jax.block_until_ready(tuple(one)), other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol)


@pytest.mark.parametrize("name", ["linear", "all"])
def test_solves(started, name):
    """The same numbers as the emulated kernel itself; under jit, and in eager code."""
    cone, *data = program(name, 3)
    expected = emulation.solve(cone, *map(np.asarray, data))
    close(dispatch.solve(cone, *data, Native()), expected)
    close(jax.jit(partial(dispatch.solve, cone, settings=Native()))(*data), expected)
    assert started == ["solve"] * 2


def test_patterns(started, monkeypatch):
    """Kernels with patterns get their table, too."""
    case = sparse_programs.CASES["control"]()
    rows = layout(case.cone)
    assert rows is not None
    known = Sparsity(case.program, rows)
    monkeypatch.setitem(Sparsity._known, case.program, known)
    data = [jnp.asarray(v) for v in case.arrays]
    expected = emulation.solve(case.cone, *case.arrays, sparsity=known)
    out = jax.jit(partial(dispatch.solve, case.cone, settings=Native(), program=case.program))(*data)
    close(out, expected)
    gx, gz = data[1], jnp.zeros_like(out.z)
    w = dispatch.linear_solve(case.cone, data[0], data[2], out.z, out.s, gx, gz, Native(), program=case.program)
    arguments = (case.cone, case.P, case.A, expected.z, expected.s, case.q[None], np.zeros((1, *expected.z.shape)))
    close(w, (v[0] for v in emulation.linear_solve(*arguments, sparsity=known)))
    assert started == ["solve", "linear_solve"]


@pytest.mark.parametrize("name", [pytest.param("large", marks=pytest.mark.slow), "large curved"])
def test_in_parts(started, name):
    """Large programs: one call of XLA's, whose memory is that of all parts; with the numbers of PyTorch's path."""
    cone, P, q, A, b = program(name, 4)
    n, m = q.shape[-1], b.shape[-1]
    assert kernels.in_parts(cone, n, m) and large.portion(n, 4) == 2
    expected, right = emulation.solve(cone, *map(np.asarray, (P, q, A, b))), q[None]
    found = jax.jit(jax.vmap(partial(dispatch.solve, cone, settings=Native())))(P, q, A, b)
    close(found, expected)
    w = jax.jit(partial(dispatch.linear_solve, cone, settings=Native()))(P, A, found[1], found[2], q, 0 * b)
    wanted = emulation.linear_solve(cone, *map(np.asarray, (P, A, *found[1:3], right, 0 * b[None])))
    close(w, (v[0] for v in wanted), 1e-10)
    close(w, array_kkt.linear_solve(cone, P, A, found[1], found[2], q, 0 * b)[:2] + (wanted[2][0],), 1e-6)
    assert started == ["solve", "linear_solve"] and (expected.status == Status.SOLVED).all()


def test_two_batch_dimensions_and_none(started):
    cone, P, q, A, b = program("linear", 6)
    out = dispatch.solve(cone, P, q, A, b, Native())
    shaped = dispatch.solve(cone, *(v.reshape(2, 3, *v.shape[1:]) for v in (P, q, A, b)), Native())
    close((v.reshape(6, *v.shape[2:]) for v in shaped), out)
    alone = dispatch.solve(cone, P[1], q[1], A[1], b[1], Native())
    close(alone, (v[1] for v in out))
    assert len(started) == 3


@pytest.mark.parametrize("axes", [(0, 0, 0, 0), (None, 0, None, None), (None, None, 0, 0), (None, 0, None, 1)])
def test_vmap(started, axes):
    """An axis of vmap becomes part of the batch, and what is shared stays shared: one start."""
    cone, P, q, A, b = program("linear", 4)
    data = [v if axis == 0 else v[0] for v, axis in zip((P, q, A, b), axes, strict=True)]
    if axes[3] == 1:
        data[3] = b.T
    out = jax.vmap(partial(dispatch.solve, cone, settings=Native()), in_axes=axes)(*data)
    jax.block_until_ready(out)
    assert started == ["solve"]
    full = [v if axis == 0 else jnp.broadcast_to(v[:1], v.shape) for v, axis in zip((P, q, A, b), axes, strict=True)]
    full[3] = b if axes[3] is not None else full[3]
    close(out, dispatch.solve(cone, *full, Native()))


def test_vmap_of_vmap(started):
    """The outer axis over q, the inner one over b, P and A shared: all pairs in one start."""
    cone, P, q, A, b = program("linear", 3, shared=True)
    inner = jax.vmap(lambda q, b: dispatch.solve(cone, P[0], q, A[0], b, Native()), in_axes=(None, 0))
    out = jax.jit(jax.vmap(inner, in_axes=(0, None)))(q, b[:2])
    jax.block_until_ready(out)
    assert started == ["solve"]
    for i in range(3):
        for j in range(2):
            close((v[i, j] for v in out), dispatch.solve(cone, P[0], q[i], A[0], b[j], Native()))


def test_vmap_over_batches(started):
    """vmap in front of a visible batch, over arrays of different batches."""
    cone, P, q, A, b = program("linear", 6)
    out = jax.vmap(lambda q, b: dispatch.solve(cone, P[:3], q, A[:1], b, Native()), in_axes=(0, None))(
        q.reshape(2, 3, -1), b[:1]
    )
    jax.block_until_ready(out)
    assert started == ["solve"]
    expected = dispatch.solve(cone, jnp.concat([P[:3]] * 2), q, A[:1], b[:1], Native())
    close((v.reshape(6, *v.shape[2:]) for v in out), expected)


@pytest.mark.parametrize("name", ["linear", "curved"])
@pytest.mark.parametrize("several", [False, True])
def test_linear_solve(started, name, several):
    cone, P, q, A, b = program(name, 3)
    out = dispatch.solve(cone, P, q, A, b, Native())
    rng = np.random.default_rng(1)
    lead = (2, 3) if several else (3,)
    gx, gz = (jnp.asarray(rng.standard_normal((*lead, k))) for k in (q.shape[-1], b.shape[-1]))
    found = jax.block_until_ready(dispatch.linear_solve(cone, P, A, out.z, out.s, gx, gz, Native()))
    assert started == ["solve", "linear_solve"]
    sides = [np.asarray(g).reshape(-1, 3, g.shape[-1]) for g in (gx, gz)]
    expected = emulation.linear_solve(cone, *map(np.asarray, (P, A, out.z, out.s)), *sides)
    close(found, (v.reshape(g.shape) for v, g in zip(expected, found, strict=True)))
    assert found[2].shape == lead and found[2].max() <= 1e-12
    over = jax.vmap(partial(dispatch.linear_solve, cone, settings=Native()), in_axes=(0,) * 6)
    if not several:
        close(over(P, A, out.z, out.s, gx, gz), found)
    else:  # more right-hand sides of one system
        over = jax.vmap(over, in_axes=(None,) * 4 + (0, 0))
        close(over(P, A, out.z, out.s, gx, gz), found)
        over = jax.vmap(partial(dispatch.linear_solve, cone, P, A, out.z, out.s, settings=Native()))
        close(over(gx, gz), found)
    assert started[2:] == ["linear_solve"] * (2 if several else 1)


@pytest.mark.parametrize("name", ["linear", "all"])
def test_polish(started, name):
    cone, P, q, A, b = program(name, 3)
    out = dispatch.solve(cone, P, q, A, b, Native())
    point = (out.x, out.z, out.s, out.residuals)
    found = dispatch.polish(cone, P, q, A, b, *point, Native())
    if cone.linear:
        close(found, point)
        return
    close(found, array_newton.polish(cone, P, q, A, b, *point), 1e-9)
    assert started == ["solve", "pair", "linear_solve", "pair"]
    over = jax.vmap(partial(dispatch.polish, cone, settings=Native()), in_axes=(0,) * 8)
    close(over(P, q, A, b, *point), found)


def test_failed_elements(started):
    """NaN and infeasible elements have their status, and leave their neighbours as they are."""
    blocks, n = CASES["linear"]
    of = dense_program(blocks, n)
    good, bad = (dense(of, made) for made in (solvable(of, 3, seed=6), infeasible(of, 3, seed=6)[0]))
    P, q, A, b = (np.concat([u[:2], v[:1], u[2:]]) for u, v in zip(matrices(good), matrices(bad), strict=True))
    before = dispatch.solve(of.cone, *map(jnp.asarray, (P, q, A, b)), Native())
    q[1, 0] = np.nan
    after = dispatch.solve(of.cone, *map(jnp.asarray, (P, q, A, b)), Native())
    assert after.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.INFEASIBLE, Status.SOLVED]
    close((v[::3] for v in after), (v[::3] for v in before))


def test_empty_batch(started):
    cone, P, q, A, b = program("linear", 2)
    out = jax.vmap(partial(dispatch.solve, cone, settings=Native()))(P[:0], q[:0], A[:0], b[:0])
    assert out.x.shape == (0, q.shape[-1]) and out.status.shape == (0,)


def layer_of(name: str, **options):
    from cvxlayers.jax import CvxpyLayer

    case = problems.get(name)
    made = CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp, **options)
    return made, [jnp.asarray(v) for v in case.values]


@pytest.mark.parametrize("name", ["nonnegative", "second_order", "geometric"])
def test_layers(started, name):
    """Solutions, gradients and their batches: by kernels as on the host."""

    def both(made):
        def loss(*values):
            return sum((o * jnp.cos(jnp.arange(o.size).reshape(o.shape))).sum() for o in made(*values))

        gradient = jax.grad(loss, argnums=tuple(range(len(values))))
        return jax.block_until_ready((made(*batched), jax.jit(jax.vmap(gradient))(*batched)))

    made, values = layer_of(name, solver="native", on_failure="nan")
    batched = [jnp.stack([v, 1.01 * v, 0.99 * v]) for v in values]
    found = both(made)
    assert {"solve", "linear_solve"} <= set(started)
    started.clear()
    expected = both(layer_of(name, solver="clarabel", solver_args={"tol": 1e-10})[0])
    assert not started
    close(found[0], expected[0], 1e-6)
    close(found[1], expected[1], 1e-5)


def test_derivatives_of_a_layer(started):
    """Jacobians in both modes, and second derivatives, against differences."""
    made, values = layer_of("second_order", solver="native")

    def x(v):
        return made(v, *values[1:])[0].ravel()

    backward, forward = jax.jacrev(x)(values[0]), jax.jacfwd(x)(values[0])
    close(backward, forward, 1e-7)
    direction = jnp.cos(jnp.arange(values[0].size).reshape(values[0].shape))
    step = 1e-5
    numeric = (x(values[0] + step * direction) - x(values[0] - step * direction)) / (2 * step)
    close(jnp.tensordot(backward, direction, values[0].ndim), numeric, 1e-5)


def test_gradients_at_rows_that_are_nearly_active(started):
    """What the kernel leaves of z in an inactive row is nothing to the derivative."""
    import cvxpy as cp

    from cvxlayers.jax import CvxpyLayer

    x, p, h = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    made = CvxpyLayer(cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - p)), [x <= h]), [p, h], [x], solver="native")
    for slack in (1e-1, 1e-2, 3e-3, 1e-3):
        given = jnp.ones(2), jnp.array([1.0 + slack, 1.0 - slack])
        backward = jax.jacrev(lambda *v: made(*v)[0], argnums=(0, 1))(*given)
        close(backward, (np.diag([1.0, 0.0]), np.diag([0.0, 1.0])), 1e-9)
    assert started


def test_loops_and_threads(started):
    """Inside scan, and from several threads at once."""
    cone, P, q, A, b = program("linear", 4)
    solve = jax.jit(lambda q: dispatch.solve(cone, P[:1], q[None], A[:1], b[:1], Native()).x[0])
    expected = [solve(v) for v in q]
    close(jax.lax.scan(lambda carry, v: (carry, solve(v)), 0, q)[1], expected)
    found = [None] * 8

    def work(i):
        found[i] = solve(q[i % 4])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close(found, expected + expected)


def test_errors_are_raised(started, monkeypatch):
    """What goes wrong inside a call fails the computation, with its message."""
    cone, *data = program("linear", 2)
    solve = jax.jit(partial(dispatch.solve, cone, settings=Native()))

    def broken(*args):
        raise ValueError("no such kernel")

    monkeypatch.setattr(kernels.Start, "__call__", broken)
    with pytest.raises(Exception, match="no such kernel"):
        jax.block_until_ready(solve(*data))
    monkeypatch.setattr(foreign, "_TASKS", {})
    with pytest.raises(Exception, match="another process"):
        jax.block_until_ready(solve(*data))
    monkeypatch.undo()
    assert jax.devices("cpu")  # and the process lives


def test_streams_are_asked_of_xla():
    """The CPU has none: its answer is an error with a message, which becomes ours."""
    assert jax.devices("cpu") and jax_cuda.register("cpu")
    with pytest.raises(Exception, match=r"cvxlayers: RuntimeError: .*not available"):
        jax.block_until_ready(jax.jit(lambda: jax_cuda.call(jax_cuda._Nothing(), (), (((1,), np.int32),)))())


def test_frames_of_another_kind_are_refused(monkeypatch):
    """A structure that is smaller than expected, or another version: an error, nothing is read."""
    assert jax.devices("cpu") and jax_cuda.register("cpu")

    def run():
        jax.clear_caches()
        jax.block_until_ready(jax.jit(lambda: jax_cuda.call(jax_cuda._Nothing(), (), (((1,), np.int32),)))())

    monkeypatch.setattr(foreign, "_MAJOR", 7)
    with pytest.raises(Exception, match="version 0"):
        run()
    monkeypatch.undo()

    class Longer(foreign._Values):
        _fields_ = [("more", foreign.ctypes.c_int64)]

    monkeypatch.setattr(foreign, "_Values", Longer)
    with pytest.raises(Exception, match=r"Longer|onger"):
        run()


def test_keys_are_those_of_what_is_done():
    cone, *_ = program("linear", 2)
    rows = layout(cone)
    launch = solve_launch(rows, 5, cone.size)
    one, same, other = (kernels.Start("solve", launch, blocks, (("tol", 1e-8),), ("P",)) for blocks in (2, 2, 3))
    assert foreign.key_of(one) == foreign.key_of(same) != foreign.key_of(other)


def test_not_on_this_machine():
    """Without an NVIDIA GPU there are no devices, and everything is as it was."""
    if any(device.platform != "cpu" for device in jax.devices()):
        pytest.skip("has another device")
    assert jax_cuda.devices() == ()
    cone, *data = program("linear", 2)
    text = str(jax.make_jaxpr(partial(dispatch.solve, cone, settings=Native()))(*data))
    assert "while" in text and "ffi_call" not in text
    assert dispatch.form(cone, 5, cone.size, jax.devices()[0], Native()).endswith("compiled by XLA")
