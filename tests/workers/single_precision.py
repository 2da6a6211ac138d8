"""A JAX layer where ``jax_enable_x64`` is off, as it is by default."""

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

import cvxlayers
from cvxlayers.jax import CvxpyLayer


def main() -> None:
    warnings.simplefilter("error")
    x, F, p = cp.Variable(3), cp.Parameter((2, 3)), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(F @ x) <= 1, x >= -1])
    layer = CvxpyLayer(problem, [F, p], [x])
    assert not jax.config.jax_enable_x64
    rng = np.random.default_rng(0)
    F_value, p_value = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    result = layer.solve(F_value, p_value)
    assert {v.dtype for v in (*result.variables, result.objective)} == {np.dtype("float32")}
    gradients = jax.jit(jax.grad(lambda F, p: (layer(F, p)[0] ** 2).sum(), argnums=(0, 1)))(F_value, p_value)
    assert {g.dtype for g in gradients} == {np.dtype("float32")}
    second = jax.jit(jax.hessian(lambda p: (layer(F_value, p)[0] ** 2).sum()))(jnp.asarray(p_value[0]))
    assert second.dtype == np.float32 and np.isfinite(second).all()
    assert not jax.config.jax_enable_x64

    exact = cvxlayers.solve(problem, parameters={F: F_value, p: p_value})
    assert np.allclose(result.variables[0], exact[x], atol=1e-5)
    expected = exact.vjp({x: 2 * exact[x]})
    for a, b in zip(gradients, (expected[F], expected[p]), strict=True):
        assert np.allclose(a, b, atol=2e-4), np.abs(a - b).max()
    step, changes = 1e-4, []
    for e in np.eye(3):
        ends = [cvxlayers.solve(problem, parameters={F: F_value, p: p_value[0] + t * e}) for t in (-step, step)]
        changes.append(np.subtract(*(r.vjp({x: 2 * r[x]})[p] for r in reversed(ends))) / (2 * step))
    assert np.allclose(second, changes, atol=5e-3), np.abs(second - changes).max()
    kernels()
    print("done")


def kernels() -> None:
    """Where compiled kernels do the work, they do it in float64, the substitution of variables included."""
    x, F, g = cp.Variable(3), cp.Parameter((5, 3)), cp.Parameter(5)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g)), [x <= 1]), [F, g], [x])
    rng = np.random.default_rng(1)
    left, right = np.linalg.qr(rng.normal(size=(5, 3)))[0], np.linalg.qr(rng.normal(size=(3, 3)))[0]
    F_value = jnp.asarray(left @ np.diag([1.0, 1e-2, 3e-4]) @ right)  # F'F has no digit left in float32
    g_value = F_value @ jnp.array([0.5, -0.3, 2.0])

    def loss(F, g):
        return (layer(F, g)[0] ** 2).sum()

    def both(F, g):
        return layer(F, g)[0], jax.grad(loss, argnums=1)(F, g)

    for a, b in zip(jax.jit(both)(F_value, g_value), both(F_value, g_value), strict=True):
        assert a.dtype == np.float32 and np.allclose(a, b, rtol=1e-5), (a, b)
    wide = {F: np.asarray(F_value, float), g: np.asarray(g_value, float)}
    problem = cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g)), [x <= 1])
    assert np.allclose(jax.jit(layer)(F_value, g_value)[0], cvxlayers.solve(problem, parameters=wide)[x], atol=1e-5)


if __name__ == "__main__":
    main()
