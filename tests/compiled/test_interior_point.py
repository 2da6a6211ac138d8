"""The parts of the compiled interior-point method, against dense linear algebra and the definitions of the cones."""

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("numba")

from cvxlayers.compiled import second_order, semidefinite, three_dimensional
from cvxlayers.compiled.quasidefinite import Supernodes, Targets, factor, solve
from cvxlayers.conic.supernodes import SupernodalStructure, minimum_degree


@pytest.mark.parametrize(
    ("n", "m", "density"), [(1, 0, 1.0), (5, 3, 0.5), (40, 30, 0.1), (30, 40, 1.0), (80, 60, 0.03)]
)
def test_factors_solve_quasidefinite_systems(n, m, density):
    P, A = sp.random(n, n, density, random_state=1), sp.random(m, n, density, random_state=2)
    K = sp.csc_array(sp.block_array([[P @ P.T + sp.eye_array(n), A.T], [A, -0.1 * sp.eye_array(m)]]))
    upper = sp.triu(K).tocoo()
    S = SupernodalStructure(minimum_degree(K), upper.row, upper.col)
    values = np.zeros(S.size)
    values[S.position(upper.row, upper.col)] = upper.data
    sign = np.where(S.order < n, 1.0, -1.0)
    width = int(S.first[-1] - S.first[-2])
    nodes = Supernodes(S.first, S.offset, Targets(*S.nodes), np.zeros((8, width)), np.zeros(8), np.zeros(n + m))
    assert factor(nodes, sign, values, 0) == 0
    rhs = np.random.default_rng(0).standard_normal(n + m)
    v = rhs[S.order]
    solve(nodes, sign, values, v)
    x = np.empty(n + m)
    x[S.order] = v
    np.testing.assert_allclose(K @ x, rhs, atol=1e-10)


def hessians(exponential: bool, a: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and second derivative of the dual barrier, as PyTorch differentiates its definition."""
    import torch

    def barrier(v):
        x, y, w = v
        if exponential:
            return -torch.log(y - x - x * torch.log(w / -x)) - torch.log(-x) - torch.log(w)
        b = 1 - a
        return -torch.log((x / a) ** (2 * a) * (y / b) ** (2 * b) - w * w) - b * torch.log(x) - a * torch.log(y)

    point = torch.tensor(z, dtype=torch.float64)
    gradient, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    return gradient(barrier, point).numpy(), hessian(barrier, point).numpy()


def three_dimensional_points():
    rng = np.random.default_rng(0)
    for k in range(20):
        a, x, y, u, v = rng.uniform(0.1, 0.9), *rng.uniform(0.4, 2.0, 4)
        if k % 2:
            s = np.array([x - y, y, y * np.exp((x - y) / y) + rng.uniform(0.1, 1)])
            z = np.array([-u, v - 1, u * np.exp((1 - v) / u - 1) + rng.uniform(0.1, 1)])
        else:
            s = np.array([x, y, rng.uniform(-0.9, 0.9) * x**a * y ** (1 - a)])
            z = np.array([a * u, (1 - a) * v, rng.uniform(-0.9, 0.9) * u**a * v ** (1 - a)])
        yield bool(k % 2), a, s, z


def test_the_scaling_of_three_dimensional_cones():
    for exponential, a, s, z in three_dimensional_points():
        gradient, hessian = hessians(exponential, a, z)
        for point in (s, -0.3 * gradient):  # anywhere, and on the central path
            out = np.zeros(27)
            three_dimensional.scaling(exponential, a, point, z, out)
            h, g = out[:9].reshape(3, 3), out[9:18].reshape(3, 3)
            np.testing.assert_allclose(h @ g.T, np.eye(3), atol=1e-7)
            np.testing.assert_allclose(h.T @ (h @ z), point, atol=1e-9)
            np.testing.assert_allclose(out[18:21], -gradient, rtol=1e-9)
            q = out[21:27][[0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(3, 3)
            np.testing.assert_allclose(q @ hessian, np.eye(3), atol=1e-6)
            shadow = np.array(three_dimensional.shadow(exponential, a, *point))
            np.testing.assert_allclose(h.T @ (h @ shadow), -gradient, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(-hessians(exponential, a, shadow)[0], point, rtol=1e-9)


def test_the_corrector_of_three_dimensional_cones():
    rng = np.random.default_rng(1)
    for exponential, a, s, z in three_dimensional_points():
        out = np.zeros(27)
        three_dimensional.scaling(exponential, a, s, z, out)
        dz, ds = rng.standard_normal((2, 3))
        v, step = np.linalg.solve(hessians(exponential, a, z)[1], ds), 1e-5
        change = hessians(exponential, a, z + step * dz)[1] - hessians(exponential, a, z - step * dz)[1]
        expected = -0.5 * change @ v / (2 * step)
        found = three_dimensional.corrector(exponential, a, z, dz, ds, out)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_scaling_of_second_order_and_semidefinite_cones():
    rng = np.random.default_rng(0)
    s, z = rng.standard_normal((2, 5))
    s[0], z[0] = np.linalg.norm(s[1:]) + 0.1, np.linalg.norm(z[1:]) + 0.2
    w, lam, back = np.zeros(5), np.zeros(5), np.zeros(5)
    eta = second_order.scaling(s, z, w, lam)
    second_order.square_times(w, eta, z, back)
    np.testing.assert_allclose(back, s, atol=1e-12)
    d, u0, u1, v1 = second_order.expansion(w)
    u, v = np.concatenate([[u0], u1 * w[1:]]), np.concatenate([[0.0], v1 * w[1:]])
    W2 = eta**2 * (np.diag([d, 1, 1, 1, 1]) + np.outer(u, u) - np.outer(v, v))
    np.testing.assert_allclose(W2 @ z, s, atol=1e-12)
    t = second_order.longest(s, -z)
    np.testing.assert_allclose((s - t * z)[0], np.linalg.norm((s - t * z)[1:]), atol=1e-12)

    k = 4
    S, Z = (root @ root.T + 0.1 * np.eye(k) for root in rng.standard_normal((2, k, k)))
    s, z = np.zeros(10), np.zeros(10)
    semidefinite.pack(S, s)
    semidefinite.pack(Z, z)
    own, lam = np.zeros((3, k, k)), np.zeros(10)
    assert semidefinite.scaling(s, z, own, lam, np.zeros((3, k, k)))
    np.testing.assert_allclose(own[0] @ Z @ own[0].T, np.diag(lam[:k]), atol=1e-10)
    np.testing.assert_allclose(own[1] @ S @ own[1].T, np.diag(lam[:k]), atol=1e-10)
    np.testing.assert_allclose(own[2] @ Z @ own[2], S, atol=1e-10)
    for _ in range(20):
        X = rng.standard_normal((k, k))
        X = X + X.T
        least = np.linalg.eigvalsh(X)[0]
        found = semidefinite.least(X.copy(), np.zeros(k), np.zeros(k))
        assert least - 2e-3 * abs(least) - 1e-12 <= found <= least + 1e-12
