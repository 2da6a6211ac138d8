"""The text of the CUDA kernels, run on the host by an emulator of thread blocks: what they compute, and their races."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu_kernels import dense_qp
from cvxlayers.conic.array_newton import polish
from cvxlayers.conic.kkt import DenseKKT, spectrum
from cvxlayers.conic.program import ConeProgram, ConicSolution, DenseData
from cvxlayers.conic.residuals import judge
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point.cuda import kernels, large
from cvxlayers.solvers.interior_point.cuda.launch import layout, linear_launch, members_of, solve_launch
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.status import Status
from tests.interior_point.emulation import COMPILER, factor, factorized, linear_solve, pair, panel, solve
from tests.solvers.problems import by_cvxpy, dense_program, infeasible, objective, solvable, unbounded

emulated = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

CURVED = (Zero(1), Nonnegative(2), SecondOrder(3), SecondOrder(1), Exponential(), Power(0.7), Power(0.4))
CASES = {
    "linear": ((Zero(2), Nonnegative(8)), 5),
    "several warps": ((Zero(3), Nonnegative(22)), 20),
    "curved": (CURVED, 6),
    "semidefinite": ((Zero(1), Nonnegative(2), *(PositiveSemidefinite(k) for k in (3, 3, 1, 5))), 7),
    "wide semidefinite": ((PositiveSemidefinite(9),), 20),
    "all": ((Zero(1), Nonnegative(2), SecondOrder(3), PositiveSemidefinite(4), Exponential(), Power(0.4)), 9),
}


def dense(program: ConeProgram, data) -> DenseData:
    found = program.dense(data)
    return DenseData(found.batch, *(np.array(v) for v in (found.P, found.q, found.A, found.b, found.r)))


def matrices(data: DenseData) -> tuple[np.ndarray, ...]:
    P, A = (v if v.ndim == 3 else v[None] for v in (data.P, data.A))
    q, b = (v if v.ndim == 2 else v[None] for v in (data.q, data.b))
    return P, q, A, b


def judged(program: ConeProgram, data: DenseData, out) -> ConicSolution:
    return judge(program, data, ConicSolution(out.x, out.z, out.s, out.status.copy(), out.iterations))


def same(one, other) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@emulated
@pytest.mark.parametrize("quadratic", [True, False], ids=["quadratic", "linear objective"])
@pytest.mark.parametrize("name", CASES)
def test_solves(name, quadratic):
    blocks, n = CASES[name]
    program = dense_program(blocks, n, quadratic)
    data = dense(program, solvable(program, 6, seed=3))
    out = solve(program.cone, *matrices(data))
    assert (out.status == Status.SOLVED).all()
    found = judged(program, data, out)
    assert (found.status == Status.SOLVED).all() and found.residuals.max() <= 1e-8
    np.testing.assert_allclose(out.residuals.max(-1), found.residuals.max(-1), atol=1e-12)
    assert (out.iterations > 3).all() and (out.iterations < 40).all()
    if quadratic:
        value, _ = by_cvxpy(program, program.sparse(data), 0)
        assert objective(program, program.sparse(data), out.x)[0] == pytest.approx(value, rel=1e-6, abs=1e-6)


@emulated
@pytest.mark.parametrize("name", CASES)
def test_no_race(name):
    """The order in which the threads run between two meetings changes nothing."""
    blocks, n = CASES[name]
    program = dense_program(blocks, n)
    data = matrices(dense(program, solvable(program, 2, seed=4)))
    assert same(solve(program.cone, *data), solve(program.cone, *data, backwards=True))


@emulated
def test_shared_data_and_batches():
    """What is shared is read in place, and an element's numbers do not depend on its neighbours."""
    blocks, n = CASES["linear"]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 4, seed=5, shared=True)))
    assert len(P) == len(A) == 1
    out = solve(program.cone, P, q, A, b)
    full = solve(program.cone, np.tile(P, (4, 1, 1)), q, np.tile(A, (4, 1, 1)), b)
    assert same(out, full)
    for i in range(4):
        alone = solve(program.cone, P, q[i : i + 1], A, b[i : i + 1])
        assert same(alone, (v[i : i + 1] for v in out))


@emulated
@pytest.mark.parametrize("place", ["P", "q", "A", "b"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_invalid_elements(place, bad):
    blocks, n = CASES["linear"]
    program = dense_program(blocks, n)
    data = dict(zip("PqAb", matrices(dense(program, solvable(program, 3, seed=6))), strict=True))
    before = solve(program.cone, *data.values())
    data[place] = data[place].copy()
    data[place][1].flat[-1] = bad
    after = solve(program.cone, *data.values())
    assert after.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.SOLVED]
    assert np.isnan(after.x[1]).all() and np.isnan(after.z[1]).all() and np.isnan(after.s[1]).all()
    assert same((v[::2] for v in before), (v[::2] for v in after))


@emulated
@pytest.mark.parametrize("name", ["linear", "curved", "semidefinite", "all"])
def test_certificates(name):
    blocks, n = CASES[name]
    program = dense_program(blocks, n)
    data = dense(program, infeasible(program, 4, seed=7)[0])
    out = solve(program.cone, *matrices(data))
    assert (out.status == Status.INFEASIBLE).all()
    found = judged(program, data, out)
    assert (found.status == Status.INFEASIBLE).all()
    np.testing.assert_allclose(np.vecdot(out.z, data.b), -1.0)
    assert np.isnan(out.x).all() and np.isnan(out.s).all()

    data = dense(program, unbounded(program, 4, seed=8))
    out = solve(program.cone, *matrices(data))
    assert (out.status == Status.UNBOUNDED).all()
    assert (judged(program, data, out).status == Status.UNBOUNDED).all()
    np.testing.assert_allclose(np.vecdot(out.x, data.q), -1.0)
    assert np.isnan(out.z).all()


@emulated
def test_absent_constraints():
    """A row with b of 1e20 or infinity is no constraint: its multiplier is zero, and its slack 1e20."""
    blocks, n = CASES["linear"]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 2, seed=9)))
    b[:, 4], b[:, 7] = np.inf, 1e20
    out = solve(program.cone, P, q, A, b)
    assert (out.status == Status.SOLVED).all()
    assert (out.s[:, [4, 7]] == 1e20).all() and (out.z[:, [4, 7]] == 0.0).all()
    loose = b.copy()
    loose[:, [4, 7]] = 1e2
    np.testing.assert_allclose(out.x, solve(program.cone, P, q, A, loose).x, atol=1e-6)


@emulated
def test_weakly_active_rows():
    """It is clear of each row whether it is active: no derivative is smoothed."""
    n = 3
    P, q, A = np.eye(n)[None], np.array([[-1.0, -1.0, -1.0]]), np.eye(n)[None]
    b = 1.0 + np.array([[-2e-4, 1e-4, 1.0], [5e-5, -5e-5, 1.0], [-3e-5, 3e-4, 1.0]])  # x is the lesser of 1 and b
    out = solve(Product((Nonnegative(n),)), P, q, A, b)
    assert (out.status == Status.SOLVED).all() and (out.z * out.s == 0.0).all()
    np.testing.assert_allclose(out.x, np.minimum(b, 1.0), atol=1e-12)
    assert np.array_equal(out.z > out.s, b < 1)


@emulated
def test_undecided_rows():
    """Rows with z = s = 0 at the solution: they are on either side, and nothing is lost."""
    n = 6
    P, q, A = np.eye(n)[None], -np.ones((3, n)), np.eye(n)[None]
    b = np.where(np.arange(n) < np.array([[0], [1], [3]]), 1.0, np.linspace(0.5, 1.5, n))  # x = 1 without constraints
    out = solve(Product((Nonnegative(n),)), P, q, A, b)
    assert (out.status == Status.SOLVED).all() and out.residuals.max() <= 1e-12
    assert (out.z * out.s == 0.0).all() and (np.maximum(out.z, out.s) > 0.0).all()
    np.testing.assert_allclose(out.x, np.minimum(b, 1.0), atol=1e-12)
    wx, _, residual = linear_solve(Product((Nonnegative(n),)), P, A, out.z, out.s, q[None], 0.0 * out.z[None])
    assert residual.max() <= 1e-12
    np.testing.assert_allclose(wx[0], np.where(out.z > out.s, 0.0, q), atol=1e-8)


@emulated
@pytest.mark.parametrize("members", [0, 2])
def test_exact_solutions_of_linear_cones(members):
    """The last step is on the active rows: optimality conditions hold to rounding errors."""
    cone, P, q, A, b = dense_qp(30, 25, 4, equalities=5)
    out = solve(cone, P, q, A, b, members=members)
    z, s = out.z, b - np.einsum("bij,bj->bi", A, out.x)
    assert (out.status == Status.SOLVED).all() and (out.z * out.s == 0.0).all()
    np.testing.assert_allclose(s, out.s, atol=1e-10)
    np.testing.assert_allclose(np.einsum("bij,bj->bi", P, out.x) + np.einsum("bij,bi->bj", A, z), -q, atol=1e-10)


GIVEN_UP = {  # seed, how many programs, cones, what is added to b, and the programs that were given up
    "far from all constraints": (1, 3000, (Nonnegative(14),), 1e3, [1177, 1763]),
    "exponential": (2, 1500, (Nonnegative(5), *(Exponential(),) * 3), 0.0, [265, 924, 1071]),
    "power": (0, 1500, (Nonnegative(5), Power(0.3), Power(0.5), Power(0.9)), 0.0, [146, 880]),
}


@emulated
@pytest.mark.parametrize("name", GIVEN_UP)
def test_steps_that_were_too_short(name):
    """Steps that end at the boundary are followed by one for centering, and those that go in circles by bolder ones."""
    seed, batch, blocks, loose, elements = GIVEN_UP[name]
    rng, cone, n = np.random.default_rng(seed), Product(blocks), 8
    m = cone.size
    A = rng.normal(size=(batch, m, n))
    if loose:
        x, R, s = rng.normal(size=(batch, n)), rng.normal(size=(batch, n, n)), rng.exponential(size=(batch, m))
        z = rng.exponential(size=(batch, m))
    else:
        z, s = (np.asarray(v) for v in cone.pair(3.0 * rng.normal(size=(batch, m))))
        x, R = rng.normal(size=(batch, n)), rng.normal(size=(batch, n, 4))
    P = R @ np.swapaxes(R, 1, 2)
    q = -(np.einsum("bij,bj->bi", P, x) + np.einsum("bij,bi->bj", A, z))
    b = np.einsum("bij,bj->bi", A, x) + s + loose
    P = P + np.eye(n) if loose else P
    out = solve(cone, *(v[elements] for v in (P, q, A, b)))
    assert (out.status == Status.SOLVED).all() and out.residuals.max() <= 1e-8 and out.iterations.max() <= 25


@emulated
def test_loose_constraints():
    """Rows with a large b, whose multipliers have to become far smaller than the tolerance."""
    blocks, n = CASES["linear"]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 20, seed=9)))
    b[:, [4, 7]] = 1e4
    out = solve(program.cone, P, q, A, b)
    assert (out.status == Status.SOLVED).all() and out.residuals.max() <= 1e-8


@emulated
def test_exponential_cones_to_the_tolerance():
    """Logistic regressions whose last steps the rounding errors of the scaling once spoiled."""
    rows, n = 12, 5
    size, at = n + 3 * rows, np.arange(rows)
    Z = np.random.RandomState(0).randn(60, rows, n)[[31, 56]]
    A, b = np.zeros((2, 7 * rows, size)), np.zeros((1, 7 * rows))
    A[:, at, n + rows + at] = A[:, at, n + 2 * rows + at] = b[:, at] = 1.0  # p + r <= 1
    first, second = rows + 6 * at, rows + 6 * at + 3  # exp(-Z w - t) <= p, exp(-t) <= r
    A[:, first, :n], A[:, first, n + at], A[:, second, n + at] = Z, 1.0, 1.0
    b[:, first + 1] = b[:, second + 1] = 1.0
    A[:, first + 2, n + rows + at] = A[:, second + 2, n + 2 * rows + at] = -1.0
    P, q = np.zeros((1, size, size)), np.zeros((1, size))
    P[0, range(n), range(n)], q[0, n : n + rows] = 0.1, 1.0 / rows
    out = solve(Product((Nonnegative(rows), *(Exponential(),) * (2 * rows))), P, q, A, b)
    assert (out.status == Status.SOLVED).all() and out.residuals.max() <= 1e-9 and out.iterations.max() < 16


@emulated
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_bad_scales(scale):
    blocks, n = CASES["linear"]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 3, seed=10)))
    x = solve(program.cone, P, q, A, b).x
    columns, rows = np.ones(n), np.ones(program.m)
    columns[0], rows[3] = scale, scale
    P, A = P * columns * columns[:, None], A * columns * rows[:, None]
    out = solve(program.cone, P, q * columns, A, b * rows)
    assert (out.status <= Status.INACCURATE).all()
    np.testing.assert_allclose(out.x * columns, x, atol=1e-5 * np.abs(x).max())


LARGE = {
    "one block": (*CASES["all"], 1),
    "two members": (*CASES["all"], 2),
    "blocks": ((Zero(5), Nonnegative(50), SecondOrder(7)), 85, 1),
    "blocks and members": ((Zero(5), Nonnegative(150), SecondOrder(7)), 140, 2),
    "not symmetric": ((Nonnegative(80), Exponential(), Power(0.3)), 70, 2),
}


IMPLIED = ("blocks", "not symmetric")  # by the others, on the whole


@emulated
@pytest.mark.parametrize("name", [pytest.param(k, marks=pytest.mark.slow if k in IMPLIED else ()) for k in LARGE])
def test_large_programs(name):
    """With the factor made between two parts of the kernel, and products shared among the blocks of a cluster."""
    blocks, n, members = LARGE[name]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 3, seed=12)))
    q = q.copy()
    q[1, 0] = np.nan  # an element ends before the others
    out, plain = solve(program.cone, P, q, A, b, members=members), solve(program.cone, P, q, A, b)
    assert out.status.tolist() == plain.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.SOLVED]
    assert np.nanmax(out.residuals) <= 1e-8
    np.testing.assert_allclose(out.x[::2], plain.x[::2], atol=1e-5)
    # However the threads run, and wherever the vectors are, the numbers are the same.
    again = solve(program.cone, P, q, A, b, members=members, backwards=True, workspace=True)
    assert same(out, again)
    keep = [0, 2]
    rng = np.random.default_rng(0)
    gx, gz = rng.standard_normal((2, 2, n)), rng.standard_normal((2, 2, program.m))
    P, A = (v if len(v) == 1 else v[keep] for v in (P, A))
    arguments = (program.cone, P, A, plain.z[keep], plain.s[keep], gx, gz)
    found, expected = linear_solve(*arguments, members=members), linear_solve(*arguments)
    for one, other in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9 * np.abs(other).max())
    assert found[2].max() <= 1e-11


@emulated
@pytest.mark.parametrize("most_bytes", [1 << 29, 1])
def test_portions(monkeypatch, most_bytes):
    """Several problems in a portion, or several portions after each other; a recording has as many parts as may be."""
    blocks, n = CASES["linear"]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 8, seed=14)))
    expected = solve(program.cone, P, q, A, b)
    monkeypatch.setattr(large, "MOST_BYTES", most_bytes)
    assert large.portion(n, 8) == (3 if most_bytes > 1 else 1)
    found = solve(program.cone, P, q, A, b, members=1)
    np.testing.assert_allclose(found.x, expected.x, atol=1e-8)
    np.testing.assert_array_equal(found.status, expected.status)
    assert same(found, solve(program.cone, P, q, A, b, members=1, recording=True, max_iter=30))
    for k in (0, 7):
        alone = solve(program.cone, *(v if len(v) == 1 else v[k : k + 1] for v in (P, q, A, b)), members=1)
        assert same(alone, (v[k : k + 1] for v in found))
    g = np.zeros((1, 8, program.m))
    arguments = (program.cone, P, A, expected.z, expected.s, q[None], g)
    for one, other in zip(linear_solve(*arguments, members=1), linear_solve(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


@emulated
@pytest.mark.parametrize("name", ["linear", "curved", "semidefinite", "all"])
def test_vectors_in_the_workspace(name):
    """Programs with many rows keep their vectors in global memory; the numbers are the same."""
    blocks, n = CASES[name]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 2, seed=11)))
    out = solve(program.cone, P, q, A, b)
    assert same(out, solve(program.cone, P, q, A, b, workspace=True))
    gx, gz = np.random.default_rng(0).standard_normal((2, 2, n)), np.zeros((2, 2, program.m))
    arguments = (program.cone, P, A, out.z, out.s, gx, gz)
    assert same(linear_solve(*arguments), linear_solve(*arguments, workspace=True))


@emulated
@pytest.mark.parametrize("quadratic", [True, False], ids=["quadratic", "linear objective"])
@pytest.mark.parametrize("name", CASES)
def test_linear_solve(name, quadratic):
    """Against a dense factorization of the bounded system, and the order of the threads does not matter."""
    blocks, n = CASES[name]
    program = dense_program(blocks, n, quadratic)
    data = dense(program, solvable(program, 4, seed=12))
    P, q, A, b = matrices(data)
    out = solve(program.cone, P, q, A, b)
    rng = np.random.default_rng(1)
    gx, gz = rng.standard_normal((3, 4, n)), rng.standard_normal((3, 4, program.m))
    wx, wz, residual = linear_solve(program.cone, P, A, out.z, out.s, gx, gz)
    assert residual.shape == (3, 4) and residual.max() <= 1e-12
    wanted_x, wanted_z, _, null = DenseKKT(data, spectrum(program, out.z, out.s)).solve(gx, gz)
    assert not null
    np.testing.assert_allclose(wx, wanted_x, rtol=1e-9, atol=1e-9 * np.abs(wanted_x).max())
    np.testing.assert_allclose(wz, wanted_z, rtol=1e-9, atol=1e-9 * np.abs(wanted_z).max())
    assert same((wx, wz, residual), linear_solve(program.cone, P, A, out.z, out.s, gx, gz, backwards=True))


@emulated
@pytest.mark.parametrize("order", [3, 40, 128])
def test_diagonal_blocks(order):
    """L^-1 of a leading block, zeros above it, nothing elsewhere; NaN for a matrix that is not positive definite."""
    X = np.random.default_rng(0).standard_normal((2, 130, 130))
    M = X @ X.swapaxes(-1, -2)
    M[1, order - 1, order - 1] = -1.0
    W, part = factor(M, order), M[0, :order, :order]
    np.testing.assert_allclose(W[0, :order, :order], np.linalg.inv(np.linalg.cholesky(part)), rtol=1e-7, atol=1e-9)
    assert np.isnan(W[1, :order, :order]).all()
    assert (W[:, order:] == 7.0).all() and (W[:, :, order:] == 7.0).all()


@emulated
@pytest.mark.parametrize("n", [217, 300, 500, 512])
@pytest.mark.parametrize("start, columns, depth", [(128, 128, 128), (192, 25, 16), (16, 65, 48), (200, 1, 112)])
def test_panels(n, start, columns, depth):
    """C - A B' in the lower triangle, and A B' with a triangular B; whatever the order of the threads; nothing else."""
    M, L = np.random.default_rng(n).standard_normal((2, 3, n, n))
    columns = min(columns, n - start)
    A, B, own = L[:, start:, :depth], L[:, start : start + columns, :depth], np.s_[:, start:, start : start + columns]
    for backwards in (False, True):
        wanted, found = M.copy(), M.copy()
        wanted[own] -= np.tril(A @ B.swapaxes(-1, -2)) * np.array([1.0, 0.0, 1.0])[:, None, None]
        panel(A, B, found[own], update=True, going=[1, 0, 1], backwards=backwards)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
        depth = columns // 16 * 16
        if depth:
            right = M[:, start : start + depth, start : start + depth]
            right[:] = np.tril(right)
            wanted, found = L.copy(), L.copy()
            below, above = np.s_[:, start + depth :, start : start + depth], np.s_[:, start + depth :, :depth]
            wanted[below] = M[above] @ right.swapaxes(-1, -2)
            panel(M[above], right, found[below], update=False, backwards=backwards)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@emulated
@pytest.mark.parametrize("n, block", [(217, 128), (300, 128), (500, 128), (512, 128), (85, 64), (256, 64)])
def test_factors_by_blocks(n, block):
    """L with inverted diagonal blocks; of the matrices that are asked for, and pivots that are nothing left out."""
    X = np.random.default_rng(n).standard_normal((3, n, n))
    M, last = X @ X.swapaxes(-1, -2) / n + np.eye(n), n - 3
    M[2, last], M[2, :, last] = M[2, 0], M[2, :, 0]
    M[2, last, last] = M[2, 0, 0]  # a variable twice
    found, lower = factorized(M, block, going=[1, 0, 1]), np.tril_indices(n)
    assert (found[1] == 7.0).all()
    wanted = np.linalg.cholesky(M[0])
    for start in range(0, n, block):
        own = slice(start, start + block)
        wanted[own, own] = np.linalg.inv(wanted[own, own])
    np.testing.assert_allclose(found[0][lower], wanted[lower], rtol=1e-9, atol=1e-11)
    assert np.isfinite(found[2][lower]).all() and (found[2][last:, last] == 0.0).all()


@emulated
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_pair(scale):
    """The projections are those of the sets, at random points, near the boundary and at special ones."""
    cone = Product((Zero(1), Nonnegative(2), SecondOrder(3), PositiveSemidefinite(4), Exponential(), Power(0.4)))
    rng = np.random.default_rng(3)
    u = rng.standard_normal((300, cone.size)) * 10.0 ** rng.integers(-3, 4, (300, cone.size))
    z, s = cone.pair(u[:100])
    u = scale * np.concatenate([u, z, -s, z * rng.uniform(0, 2) - s, rng.integers(-1, 2, (100, cone.size)), 0 * z[:1]])
    found, expected = pair(cone, u), cone.pair(u)
    size = np.abs(u).max(-1, keepdims=True) + 1e-300
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a / size, b / size, rtol=0, atol=1e-13)


@emulated
@pytest.mark.parametrize("name", ["linear", "curved", "semidefinite", "all"])
def test_gradient_by_finite_differences(name):
    """grad_q = w_x and grad_b = -w_z for the loss c'x, at solutions that Newton's method has made exact."""
    blocks, n = CASES[name]
    program = dense_program(blocks, n)
    P, q, A, b = matrices(dense(program, solvable(program, 1, seed=13)))
    rng = np.random.default_rng(2)
    c, dq, db = rng.standard_normal(n), rng.standard_normal(n), rng.standard_normal(program.m)

    def solution(step: float) -> tuple[np.ndarray, ...]:
        data = (P, q + step * dq, A, b + step * db)
        out = solve(program.cone, *data)
        return polish(program.cone, *data, out.x, out.z, out.s, out.residuals)[:3]

    _, z, s = solution(0.0)
    wx, wz, _ = linear_solve(program.cone, P, A, z, s, -c[None, None], np.zeros((1, 1, program.m)))
    step = 1e-4
    wanted = ((solution(step)[0] - solution(-step)[0])[0] @ c) / (2 * step)
    assert wx[0, 0] @ dq - wz[0, 0] @ db == pytest.approx(wanted, rel=1e-6, abs=1e-6 * np.abs(c).max())


def test_what_fits():
    """Cones in the order of the canonical form, sizes that shared memory holds."""
    assert layout(Product((Nonnegative(2), PositiveSemidefinite(33)))) is None
    assert layout(Product((PositiveSemidefinite(3), SecondOrder(3)))) is None
    assert layout(Product((Nonnegative(2), Zero(3)))) is None
    semidefinite = (PositiveSemidefinite(2), PositiveSemidefinite(2), PositiveSemidefinite(3))
    curved = (SecondOrder(4), SecondOrder(4), *semidefinite, Exponential(), Power(0.3))
    rows = layout(Product((Zero(2), Nonnegative(3), *curved)))
    assert rows is not None
    assert (rows.zeros, rows.linear, rows.round, rows.semi, rows.socs, rows.threes) == (2, 5, 13, 25, 2, 2)
    assert rows.semis.tolist() == [[13, 2, 0, 0], [16, 2, 4, 2], [19, 3, 8, 4]]
    assert rows.starts.tolist() == [5, 9, 13] and rows.block.tolist() == [0] * 4 + [1] * 4
    plain = layout(Product((Nonnegative(8),)))
    assert plain is not None
    for n in (1, 16, 17, 64, 100, 128, 200, 216):
        for m in (8, 400, 2000):
            for launch in (solve_launch(plain, n, m), linear_launch(plain, n, m)):
                assert launch is not None and launch.shared_bytes <= 227 * 1024
    for n, m, members in ((217, 8, 1), (512, 2000, 1), (512, 500, 2), (300, 4096, 4)):
        for launch in (solve_launch(plain, n, m, members), linear_launch(plain, n, m, members)):
            assert launch is not None and launch.large and launch.shared_bytes <= 227 * 1024
    assert solve_launch(plain, 513, 8) is None and solve_launch(plain, 10, 5000) is None
    small, large = solve_launch(plain, 100, 8), solve_launch(plain, 300, 8)
    assert members_of(small, 1, 132, clusters=True) == members_of(large, 1, 132, clusters=False) == 1
    assert [members_of(large, batch, 132, clusters=True) for batch in (1, 29, 30, 59, 60)] == [4, 4, 2, 2, 1]


LAUNCHES = {  # shared memory, workspace, and the macros CHUNK, TALL and RESIDENT, of `solve` and of `linear_solve`
    ("linear", 10, 20, 1): ((7216, 0, 16, 1, 25), (5744, 0, 16, 1, 25)),
    ("linear", 60, 700, 1): ((123632, 0, 16, 1, 1), (87984, 0, 16, 1, 2)),
    ("linear", 128, 1200, 1): ((98064, 20400, 16, 0, 2), (190864, 0, 16, 1, 1)),
    ("linear", 216, 2000, 1): ((229008, 34000, 8, 0, 1), (222096, 22000, 8, 0, 1)),
    ("linear", 512, 2000, 4): ((117520, 36624, 16, 0, 1), (101136, 22576, 16, 0, 1)),
    ("curved", 64, 100, 1): ((44096, 128, 16, 1, 4), (36528, 128, 16, 1, 4)),
    ("curved", 160, 800, 1): ((146704, 14178, 16, 0, 1), (202576, 320, 16, 1, 1)),
    ("curved", 300, 300, 1): ((87424, 5030, 16, 1, 1), (62576, 1924, 16, 1, 1)),
}
SMALLER = {"A100": 163 * 1024, "RTX 4090": 99 * 1024}


@pytest.mark.parametrize("shape", LAUNCHES, ids=str)
def test_launches_with_the_most_memory(shape):
    """How the kernels are compiled for an H100: with these numbers they have been tried there."""
    kind, n, m, members = shape
    rows = layout(Product((Nonnegative(m), *((SecondOrder(10), Exponential()) if kind == "curved" else ()))))
    assert rows is not None
    for find, wanted in zip((solve_launch, linear_launch), LAUNCHES[shape], strict=True):
        launch = find(rows, n, len(rows.block) + rows.linear + 3 * rows.threes, members)
        assert launch is not None
        macros = dict(launch.macros)
        found = (launch.shared_bytes, launch.workspace, *(macros[name] for name in ("CHUNK", "TALL", "RESIDENT")))
        assert found == wanted


def cones_of(m: int) -> list[Product]:
    """Products of about m rows."""
    kinds = (
        (Nonnegative(m),),
        (Zero(4), Nonnegative(m - 14), SecondOrder(10)),
        (Nonnegative(4), *(SecondOrder(4),) * (m // 4)),
        (Nonnegative(4), *(Exponential(),) * (m // 3)),
        (Nonnegative(4), *(PositiveSemidefinite(8),) * (m // 36)),
        (PositiveSemidefinite(32),) * (m // 528),
    )
    return [Product(kind) for kind in kinds if kind]


@pytest.mark.parametrize("limit", SMALLER.values(), ids=SMALLER)
@pytest.mark.parametrize("clusters", [True, False])
def test_what_fits_on_smaller_gpus(monkeypatch, limit, clusters):
    """Of what `fits`, every kernel starts: of the solution, of the derivative, and between them."""
    started = []

    def run(name, launch, blocks, rows, data, numbers, results, sparsity=None):
        started.append((name, launch.members))
        for found in (launch, *(other for _, other in (large.between(launch) if launch.large else ()))):
            assert found.shared_bytes <= limit
        return (None,) * len(results)

    monkeypatch.setattr(kernels, "_run", run)
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(kernels, "shared_memory", lambda device: limit)
    monkeypatch.setattr(kernels, "multiprocessors", lambda device: (108, clusters))
    fitted = set()
    for n in (1, 16, 60, 100, 128, 150, 160, 176, 200, 216, 217, 300, 512):
        for m in (40, 300, 800, 1200, 2000, 4000):
            for cone in cones_of(m):
                if not kernels.fits(cone, n, cone.size, "cuda"):
                    continue
                fitted.add(n)
                for batch in (1, 40, 200):
                    x, z = (torch.zeros(1, 1, dtype=torch.float64).expand(batch, k) for k in (n, cone.size))
                    P, A = (v[..., None].expand(batch, v.shape[1], n) for v in (x, z))
                    kernels.solve(cone, P, x, A, z, Native())
                    kernels.linear_solve(cone, P, A, z, z, x[None], z[None])
                    if not cone.linear:
                        kernels.pair(cone, z, n)
    assert {1, 128, 217, 512} <= fitted and ("pair", 1) in started
    assert (("solve", 4) in started) == clusters


@emulated
@pytest.mark.parametrize("n, m", [(60, 700), (124, 60)])
def test_numbers_on_smaller_gpus(n, m):
    """Less shared memory: the vectors of m are in global memory, or fewer rows are staged."""
    cone, P, q, A, b = dense_qp(n, m, 1)
    rows, limit = layout(cone), 99 * 1024
    assert rows is not None and solve_launch(rows, n, m) != solve_launch(rows, n, m, limit=limit)
    out = solve(cone, P, q, A, b, limit=limit)
    assert same(out, solve(cone, P, q, A, b)) and (out.status == Status.SOLVED).all()
    arguments = (cone, P, A, out.z, out.s, q[None], np.zeros((1, 1, m)))
    assert same(linear_solve(*arguments, limit=limit), linear_solve(*arguments))
