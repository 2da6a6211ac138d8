"""Reusable checks: what every cone must satisfy, against definitions and finite differences."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import torch

from cvxlayers.sets import Cone

with warnings.catch_warnings():
    # PyTorch compiles its forward-mode rules at the first use of forward mode, by means that it deprecates itself.
    warnings.simplefilter("ignore", DeprecationWarning)
    with torch.autograd.forward_ad.dual_level():
        torch.autograd.forward_ad.make_dual(torch.ones(1), torch.ones(1))


def points(cone: Cone, count: int, seed: int = 0) -> np.ndarray:
    """Ordinary points, points of mixed scales 1e-8 to 1e8, sign patterns with zeros, parts of K and -K*, and zero."""
    rng = np.random.default_rng(seed)
    shape = (count, cone.size)
    ordinary = rng.standard_normal(shape)
    mixed = rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 8, shape)
    scaled = rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 8, (count, 1))
    signs = rng.integers(-1, 2, shape).astype(float)
    boundary = cone.project(rng.standard_normal(shape))
    return np.concatenate(
        [ordinary, mixed, scaled, signs, boundary, cone.project_dual(ordinary), np.zeros((1, cone.size))]
    )


def regular_points(cone: Cone, count: int, seed: int = 1) -> np.ndarray:
    """Ordinary points that are not near a kink of the projection."""
    u = np.random.default_rng(seed).standard_normal((20 * count, cone.size))
    z, s = cone.pair(u)
    margin = cone.eigen(z, s)[2]
    least = np.minimum(np.linalg.norm(z, axis=-1), np.linalg.norm(s, axis=-1))
    good = (margin > 0.3) & ((least == 0) | (least > 0.1))
    assert good.sum() >= count
    return u[good][:count]


def directions(cone: Cone, count: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, cone.size))


def close(actual, expected, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def check_decomposition(cone: Cone) -> None:
    """Moreau: u = z - s, z's = 0, project and project_dual are its parts, idempotent, nonexpansive; K and K** agree."""
    u = points(cone, 200)
    scale = np.maximum(np.linalg.norm(u, axis=-1), 1e-100)
    before = u.copy()
    z, s = cone.pair(u)
    assert np.array_equal(u, before)
    assert np.max(np.abs(z - s - u).max(-1, initial=0) / scale, initial=0) < 1e-13
    assert np.max(np.abs(np.sum(z * s, -1)) / scale**2, initial=0) < 1e-13
    assert np.array_equal(cone.project_dual(u), z)
    assert np.array_equal(cone.project(-u), s)
    for project, point in ((cone.project, s), (cone.project_dual, z)):
        assert np.max(np.abs(project(point) - point).max(-1, initial=0) / scale, initial=0) < 1e-12
    ordinary, others = u[:200], points(cone, 200, seed=3)[:200]
    moved = np.linalg.norm(cone.project(ordinary) - cone.project(others), axis=-1)
    assert np.all(moved <= np.linalg.norm(ordinary - others, axis=-1) * (1 + 1e-12))
    dual = cone.dual()
    assert dual.size == cone.size and dual.dual() == cone and hash(dual.dual()) == hash(cone)
    close(dual.project(u) / scale[:, None], z / scale[:, None], 1e-12)


def check_derivative(cone: Cone) -> None:
    """D is symmetric, 0 <= D <= I, the derivative of project_dual, and what eigen says; finite at every point."""
    u, h = regular_points(cone, 20), directions(cone, 20)
    z, s = cone.pair(u)
    D = np.moveaxis(cone.derivative(z, s, np.eye(cone.size)[:, None, :]), 0, -1)
    close(D, D.swapaxes(-1, -2), 1e-10)
    lam = np.linalg.eigvalsh(D)
    assert lam.min(initial=0) > -1e-10 and lam.max(initial=1) < 1 + 1e-10
    step = 1e-6
    close(
        cone.derivative(z, s, h), (cone.project_dual(u + step * h) - cone.project_dual(u - step * h)) / (2 * step), 2e-7
    )
    everywhere = points(cone, 100)
    pair = cone.pair(everywhere)
    assert np.isfinite(cone.derivative(*pair, directions(cone, len(everywhere)))).all()


def check_smooth(cone: Cone) -> None:
    """The smoothed pair keeps u, tends to the pair, and has the derivative that `derivative` says."""
    u, h = points(cone, 20)[:20], directions(cone, 20)
    pair = cone.pair(u)
    for mu in (1.0, 1e-2, 1e-5, 1e-10):
        z, s = cone.smooth(*pair, mu)
        close(z - s, u, 1e-12)
        # ||z_mu - z|| <= sqrt(nu mu), nu the barrier's parameter, at most 3 or the size.
        assert np.all(np.linalg.norm(z - pair[0], axis=-1) <= np.sqrt(max(3, cone.size) * mu) + 1e-12)
        D = np.moveaxis(cone.derivative(z, s, np.eye(cone.size)[:, None, :], mu), 0, -1)
        close(D, D.swapaxes(-1, -2), 1e-8)
        lam = np.linalg.eigvalsh((D + D.swapaxes(-1, -2)) / 2)
        assert lam.min(initial=0) > -1e-8 and lam.max(initial=1) < 1 + 1e-8
        if mu >= 1e-5:
            step = 1e-5 * mu**0.5
            ahead, behind = (cone.smooth(pair[0] + t * h, pair[1], mu)[0] for t in (step, -step))
            close(cone.derivative(z, s, h, mu), (ahead - behind) / (2 * step), 1e-6)
    several = np.array([1.0, 1e-3, 1e-6])
    z, s = cone.smooth(pair[0][:3], pair[1][:3], several)
    Dh = cone.derivative(z, s, h[:3], several)
    for i, mu in enumerate(several):
        one = cone.smooth(pair[0][i], pair[1][i], float(mu))
        close(z[i], one[0], 1e-12)
        close(Dh[i], cone.derivative(*one, h[i], float(mu)), 1e-10)
    # One array of mu may ask for the exact derivative of some elements.
    mixed = cone.derivative(
        *(np.stack([x[0], y[1]]) for x, y in zip((z, s), pair, strict=True)), h[:2], np.array([1.0, 0.0])
    )
    close(mixed[0], Dh[0], 1e-10)
    close(mixed[1], cone.derivative(pair[0][1], pair[1][1], h[1]), 1e-10)


def check_eigen(cone: Cone) -> None:
    """V diag(lam) V' is D, V is orthogonal, and the margin lies in [0, 1], is clear inside and 0 at the origin."""
    u, h = regular_points(cone, 20), directions(cone, 20)
    for mu in (0.0, 1e-3):
        z, s = cone.pair(u) if mu == 0 else cone.smooth(*cone.pair(u), mu)
        lam, V, margin = cone.eigen(z, s, mu)
        assert lam.shape == u.shape and margin.shape == u.shape[:-1]
        assert np.all((margin >= 0) & (margin <= 1)) and np.all((lam >= 0) & (lam <= 1))
        V = np.broadcast_to(np.eye(cone.size), (*u.shape, cone.size)) if V is None else V
        close(V @ V.swapaxes(-1, -2), np.broadcast_to(np.eye(cone.size), V.shape), 1e-12)
        product = (V @ (lam * (V.swapaxes(-1, -2) @ h[..., None])[..., 0])[..., None])[..., 0]
        close(product, cone.derivative(z, s, h, mu), 1e-9)


def check_batch(cone: Cone) -> None:
    """A batch is the loop over its elements, with any number of batch dimensions, none and empty ones included."""
    u, h = points(cone, 3)[:24], directions(cone, 24)
    blocks = u[:12].reshape(2, 6, cone.size), h[:12].reshape(2, 6, cone.size)
    z, s = cone.pair(blocks[0])
    Dh, smooth = cone.derivative(z, s, blocks[1]), cone.smooth(z, s, 0.1)
    for i in range(12):
        at = divmod(i, 6)
        scale = max(1.0, float(np.abs(u[i]).max(initial=0)))
        one = cone.pair(u[i])
        close(z[at] / scale, one[0] / scale, 1e-13)
        close(Dh[at], cone.derivative(*one, h[i]), 1e-6 if scale > 10 else 1e-9)
        close(smooth[1][at] / scale, cone.smooth(*one, 0.1)[1] / scale, 1e-13)
    empty = np.zeros((0, cone.size))
    for result in (*cone.pair(empty), *cone.smooth(empty, empty, 0.1), cone.derivative(empty, empty, empty)):
        assert result.shape == (0, cone.size)
    lam, _, margin = cone.eigen(empty, empty)
    assert lam.shape == (0, cone.size) and margin.shape == (0,)
    spoiled = u[:4].copy()
    spoiled[1] = np.nan
    good = [0, 2, 3]
    assert np.array_equal(cone.project(spoiled)[good], cone.project(u[:4])[good])


def check_libraries(cone: Cone) -> None:
    """PyTorch and JAX, jitted and vmapped, give NumPy's numbers and keep float32."""
    u, h = np.concatenate([regular_points(cone, 10), np.zeros((1, cone.size))]), directions(cone, 11)

    def everything(u, h):
        z, s = cone.pair(u)
        smooth = cone.smooth(z, s, 1e-3)
        return z, s, cone.project(u), *smooth, cone.derivative(z, s, h), cone.derivative(*smooth, h, 1e-3)

    expected = everything(u, h)
    tensors = torch.from_numpy(u), torch.from_numpy(h)
    results = [
        everything(*tensors),
        torch.func.vmap(everything)(*tensors),
        jax.jit(jax.vmap(everything))(u, h),
    ]
    for result in results:
        for actual, wanted in zip(result, expected, strict=True):
            close(actual, wanted, 1e-10)
    single = u.astype(np.float32), h.astype(np.float32)
    in_torch = tuple(map(torch.from_numpy, single))
    for result in (everything(*single), everything(*in_torch), jax.jit(everything)(*single)):
        for actual, wanted in zip(result, expected, strict=True):
            assert str(actual.dtype).endswith("float32")
            close(actual, wanted, 2e-3)


def check_gradients(cone: Cone) -> None:
    """The pairs' own derivatives of first and second order, in reverse and forward mode, in PyTorch and JAX."""
    u = regular_points(cone, 2)
    x = torch.from_numpy(u)
    tolerances = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-5}
    for f in (cone.pair, lambda v: cone.smooth(v, torch.zeros_like(v), 0.1)):
        leaf = x[:1].clone().requires_grad_()
        assert torch.autograd.gradcheck(f, (leaf,), check_forward_ad=True, **tolerances)
        assert torch.autograd.gradgradcheck(f, (leaf,), **tolerances)

    def curved(sin):
        return lambda v: (sin(cone.project(v)) * v).sum()

    value = curved(torch.sin)
    gradient = torch.func.vmap(torch.func.grad(value))
    hessian = torch.func.vmap(torch.func.hessian(value))(x)
    step = 1e-5
    for j, unit in enumerate(torch.eye(cone.size, dtype=x.dtype)):
        close(hessian[..., j], (gradient(x + step * unit) - gradient(x - step * unit)) / (2 * step), 1e-6)
    rev, fwd = torch.func.jacrev, torch.func.jacfwd
    for outer, inner in ((rev, rev), (fwd, fwd), (rev, fwd)):
        close(torch.func.vmap(outer(inner(value)))(x), hessian, 1e-9)
    in_jax = curved(jax.numpy.sin)
    modes = [(jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacrev), (jax.jacfwd, jax.jacfwd), (jax.jacrev, jax.jacfwd)]
    for result in jax.jit(jax.vmap(lambda v: [outer(inner(in_jax))(v) for outer, inner in modes]))(u):
        close(result, hessian, 1e-9)


def check_second_derivative(cone: Cone) -> None:
    """`derivative` differentiated along pairs, exact and smoothed, against finite differences."""
    u, h, k = regular_points(cone, 5), directions(cone, 5), directions(cone, 5, seed=4)
    for mu in (0.0, 1e-2):

        def along(v, h, mu=mu):
            z, s = cone.pair(v)
            z, s = cone.smooth(z, s, mu) if mu else (z, s)
            return cone.derivative(z, s, h, mu)

        step = 1e-6
        expected = (along(u + step * k, h) - along(u - step * k, h)) / (2 * step)
        _, in_jax = jax.jit(lambda u, h, k, along=along: jax.jvp(lambda v: along(v, h), (u,), (k,)))(u, h, k)
        _, in_torch = torch.func.jvp(
            lambda v: along(v, torch.from_numpy(h)), (torch.from_numpy(u),), (torch.from_numpy(k),)
        )
        close(in_jax, expected, 1e-5)
        close(in_torch, expected, 1e-5)


def check_kinks(cone: Cone) -> None:
    """At kinks, at zero and at extreme scales, derivatives of project of first and second order are finite."""
    u = points(cone, 30)
    x = torch.from_numpy(u).requires_grad_()
    (first,) = torch.autograd.grad(cone.project(x).sum(), x, create_graph=True)
    assert torch.isfinite(first).all()
    assert float(first.detach().norm(dim=-1).max()) <= cone.size**0.5 * (1 + 1e-6)
    ordinary = torch.from_numpy(np.concatenate([u[:30], u[90:]])).requires_grad_()
    (first,) = torch.autograd.grad(cone.project(ordinary).sum(), ordinary, create_graph=True)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), ordinary)
        assert torch.isfinite(second).all()


CONE_CHECKS = (
    check_decomposition,
    check_derivative,
    check_smooth,
    check_eigen,
    check_batch,
    check_libraries,
    check_gradients,
    check_second_derivative,
    check_kinks,
)


def check_cone(cone: Cone) -> None:
    """All of the above."""
    for check in CONE_CHECKS:
        check(cone)
