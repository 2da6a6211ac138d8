"""The kernels with patterns, run on the host by an emulator: the numbers of the dense kernels, and what is counted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cvxlayers.conic.array_newton import polish
from cvxlayers.conic.dissection import nested_dissection
from cvxlayers.conic.program import ConeProgram
from cvxlayers.sets import Nonnegative, PositiveSemidefinite, Product, Zero
from cvxlayers.solvers.interior_point import method
from cvxlayers.solvers.interior_point.cuda import kernels
from cvxlayers.solvers.interior_point.cuda.launch import layout
from cvxlayers.solvers.interior_point.cuda.schedule import schedule
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity
from cvxlayers.solvers.interior_point.cuda.symbolic import Elimination
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.status import Status
from tests.interior_point.emulation import COMPILER, linear_solve, solve
from tests.interior_point.sparse_programs import CASES, Programs, control, network, pattern, scattered, solvable
from tests.solvers.problems import full

emulated = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def sparsity(program: ConeProgram) -> Sparsity:
    rows = layout(program.cone)
    assert rows is not None
    return Sparsity(program, rows)


def same(one, other) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def sides(programs: Programs, several: int = 2, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng, batch = np.random.default_rng(seed), len(programs.q)
    return tuple(rng.standard_normal((several, batch, k)) for k in (programs.program.n, programs.program.m))  # pyright: ignore[reportReturnType]


@emulated
@pytest.mark.parametrize("name", CASES)
def test_same_as_the_dense_kernel(name):
    """Solutions and derivatives; the NumPy text finds the same solutions."""
    case = CASES[name]()
    found = solve(case.cone, *case.arrays, sparsity=sparsity(case.program), tol=1e-10)
    dense = solve(case.cone, *case.arrays, tol=1e-10)
    assert (found.status == Status.SOLVED).all() and np.abs(found.iterations - dense.iterations).max() <= 1
    plain = method.solve(case.cone, *case.arrays, Native(tol=1e-10))
    polished = [polish(case.cone, *case.arrays, v.x, v.z, v.s, v.residuals) for v in (found, dense, plain)]
    for value, other, third in zip(*(v[:3] for v in polished), strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-11)
        np.testing.assert_allclose(value, third, rtol=0, atol=1e-11)
    arguments = (case.cone, case.P, case.A, dense.z, dense.s, *sides(case))
    wx, wz, residual = linear_solve(*arguments, sparsity=sparsity(case.program))
    assert residual.max() <= 1e-11
    for value, other in zip((wx, wz), linear_solve(*arguments), strict=False):
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-9 * np.abs(other).max())


@emulated
@pytest.mark.parametrize("name", CASES)
def test_no_race(name):
    """The order in which the threads run between two meetings changes nothing."""
    case = CASES[name]()
    known = sparsity(case.program)
    out = solve(case.cone, *case.arrays, sparsity=known)
    assert same(out, solve(case.cone, *case.arrays, sparsity=known, backwards=True))
    arguments = (case.cone, case.P, case.A, out.z, out.s, *sides(case))
    assert same(linear_solve(*arguments, sparsity=known), linear_solve(*arguments, sparsity=known, backwards=True))


@emulated
@pytest.mark.parametrize("name", ["control", "curved"])
@pytest.mark.parametrize("limit", [60, 35, 24, 14])
def test_in_the_workspace(name, limit):
    """Less shared memory: the vectors of m, those of n and the factor move to global memory, and no number changes."""
    case = CASES[name]()
    known = sparsity(case.program)
    out = solve(case.cone, *case.arrays, sparsity=known)
    arguments = (case.cone, case.P, case.A, out.z, out.s, *sides(case))
    w = linear_solve(*arguments, sparsity=known)
    launch = known.solve_launch()
    assert launch is not None
    less = launch.shared_bytes * limit // 64
    small = known.solve_launch(less)
    assert small is not None and small.shared_bytes <= less
    assert same(out, solve(case.cone, *case.arrays, sparsity=known, limit=less))
    assert same(w, linear_solve(*arguments, sparsity=known, limit=less))


@emulated
def test_batch_is_a_loop():
    """An element's numbers do not depend on its neighbours, nor on whether its matrices are shared."""
    case = CASES["control"]()
    known = sparsity(case.program)
    out = solve(case.cone, *case.arrays, sparsity=known)
    P, A = (np.tile(v, (3, 1, 1)) for v in (case.P, case.A))
    assert same(out, solve(case.cone, P, case.q, A, case.b, sparsity=known))
    for i in range(3):
        alone = solve(case.cone, case.P, case.q[i : i + 1], case.A, case.b[i : i + 1], sparsity=known)
        assert same(alone, (v[i : i + 1] for v in out))


@emulated
@pytest.mark.parametrize("place", ["P", "q", "A", "b"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_invalid_elements(place, bad):
    case = CASES["linear"]()
    known = sparsity(case.program)
    data = dict(zip("PqAb", case.arrays, strict=True))
    before = solve(case.cone, *data.values(), sparsity=known)
    data[place] = data[place].copy()
    at = tuple(np.argwhere(data[place][1])[-1])
    data[place][1][at] = bad
    after = solve(case.cone, *data.values(), sparsity=known)
    assert after.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.SOLVED]
    assert all(np.isnan(v[1]).all() for v in after[:3])
    assert same((v[::2] for v in before), (v[::2] for v in after))


@emulated
def test_certificates():
    case = control(5, 2, 1, 2)
    known, b = sparsity(case.program), case.b.copy()
    b[:, -1], b[:, -6] = -1.0, -1.0  # u >= 1 and u <= -1 for the last input
    out = solve(case.cone, case.P, case.q, case.A, b, sparsity=known)
    assert (out.status == Status.INFEASIBLE).all()
    np.testing.assert_allclose(np.vecdot(out.z, b), -1.0)
    np.testing.assert_allclose(out.z @ case.A[0], 0.0, atol=1e-6)
    flows = network(6, 15, 2)
    A, q = flows.A.copy(), flows.q.copy()
    A[0, 5:] = np.abs(A[0, 5:])  # flows may now be as negative as they like
    out = solve(flows.cone, flows.P, q, A, flows.b, sparsity=sparsity(flows.program))
    dense = solve(flows.cone, flows.P, q, A, flows.b)
    assert out.status.tolist() == dense.status.tolist() and (out.status == Status.UNBOUNDED).all()
    np.testing.assert_allclose(np.vecdot(out.x, q), -1.0)


@emulated
def test_absent_constraints():
    case = CASES["linear"]()
    known, b = sparsity(case.program), case.b.copy()
    b[:, 4], b[:, 7] = np.inf, 1e20
    out = solve(case.cone, case.P, case.q, case.A, b, sparsity=known)
    assert (out.status == Status.SOLVED).all()
    assert (out.s[:, [4, 7]] == 1e20).all() and (out.z[:, [4, 7]] == 0.0).all()
    np.testing.assert_allclose(out.x, solve(case.cone, case.P, case.q, case.A, b).x, atol=1e-7)


@emulated
def test_nothing_in_some_rows_and_columns():
    """Rows and columns of A without entries, variables without a cost, and equations that say the same twice."""
    rng = np.random.default_rng(4)
    A = scattered((Zero(4), Nonnegative(16)), 10, seed=4).A.copy()
    A[:, 6], A[:, 9], A[:, :, 3] = 0.0, 0.0, 0.0
    A[:, 2] = A[:, 1]
    P = np.zeros((3, 10, 10))
    P[:, range(5), range(5)] = rng.uniform(0.5, 1.0, (3, 5))
    case = solvable((Zero(4), Nonnegative(16)), P, A, 3)
    out = solve(case.cone, *case.arrays, sparsity=sparsity(case.program))
    dense = solve(case.cone, *case.arrays)
    assert (out.status == Status.SOLVED).all() and (dense.status == Status.SOLVED).all()
    value, other = (
        0.5 * np.vecdot(np.einsum("bij,bj->bi", P, v.x), v.x) + np.vecdot(case.q, v.x) for v in (out, dense)
    )
    np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-6)


@emulated
def test_no_rows_and_no_entries():
    """A program without constraints' entries: minimize |x|^2/2 - x_0."""
    P, A = np.eye(3)[None], np.zeros((1, 2, 3))
    program = ConeProgram(pattern(P[0]), pattern(A[0]), Product((Nonnegative(2),)))
    out = solve(program.cone, P, np.array([[-1.0, 0.0, 0.0]]), A, np.ones((1, 2)), sparsity=sparsity(program))
    assert (out.status == Status.SOLVED).all()
    np.testing.assert_allclose(out.x, [[1.0, 0.0, 0.0]], atol=1e-8)


@emulated
@pytest.mark.parametrize("name", ["linear", "long rows", "curved", "control"])
def test_gradient_by_finite_differences(name):
    """grad_q = w_x and grad_b = -w_z for the loss c'x."""
    case = CASES[name]()
    known = sparsity(case.program)
    n, m, batch = case.program.n, case.program.m, len(case.q)
    rng = np.random.default_rng(2)
    c, dq, db = rng.standard_normal((batch, n)), rng.standard_normal((batch, n)), rng.standard_normal((batch, m))
    out = solve(case.cone, *case.arrays, tol=1e-10, sparsity=known)
    wx, wz, _ = linear_solve(case.cone, case.P, case.A, out.z, out.s, -c[None], np.zeros((1, batch, m)), sparsity=known)
    step = 1e-4

    def solution(k: int) -> np.ndarray:
        data = case.P, case.q + k * step * dq, case.A, case.b + k * step * db
        out = solve(case.cone, *data, tol=1e-10, sparsity=known)
        return polish(case.cone, *data, out.x, out.z, out.s, out.residuals)[0]

    up, down = solution(1), solution(-1)
    wanted = np.vecdot(up - down, c) / (2 * step)
    np.testing.assert_allclose(
        np.vecdot(wx[0], dq) - np.vecdot(wz[0], db), wanted, rtol=1e-5, atol=1e-5 * np.abs(c).max()
    )


def test_long_rows_stay_out():
    """A full row alone would fill the factor."""
    case = CASES["long rows"]()
    known = sparsity(case.program)
    assert known.sizes["PIVOTS"] == 40 + 2 and known.sizes["KEPT_ENTRIES"] == 80
    without = Elimination(known.staged, np.zeros(case.program.m, bool), nested_dissection)
    assert known.elimination.entries < without.entries == 40 * 41 / 2


def test_long_rows_that_variables_depend_on():
    """Variables that are in long rows alone would have no pivot without them."""
    A = np.concatenate([np.ones((1, 30)), np.eye(30)])
    A[1:, 3] = 0.0
    program = ConeProgram(pattern(np.zeros((30, 30))), pattern(A), Product((Zero(1), Nonnegative(30))))
    assert sparsity(program).sizes["PIVOTS"] == 30


def test_what_pays():
    """Long horizons do, in the order of a shallow tree; dense programs, other cones and what is too large do not."""
    case = control(20, 8, 3, 1)
    known = Sparsity.of(case.program)
    assert known is not None and known is Sparsity.of(case.program)
    assert known.elimination.levels < 50 and known.elimination.entries < 5000
    assert Sparsity.of(ConeProgram(full(60, 60, upper=True), full(60, 60), Product((Nonnegative(60),)))) is None
    assert Sparsity.of(ConeProgram(full(700, 700, upper=True), full(60, 700), Product((Nonnegative(60),)))) is None
    A = pattern(np.eye(600))
    assert Sparsity.of(ConeProgram(A, A, Product((PositiveSemidefinite(3),) * 100))) is None
    assert Sparsity.of(ConeProgram(A, A, Product((Nonnegative(600),)))) is not None


@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_schedule(count, warps):
    """Each term is in a lane of its target, and a level ends before the next one begins."""
    rng = np.random.default_rng(0)
    levels, counts = rng.integers(0, 5, count), rng.integers(0, 90, count)
    steps, blocks = schedule(levels, np.arange(count), counts, np.arange(counts.sum()) + 1, 0, warps)
    begin, met, seen = np.cumsum(counts) - counts, 0, {}
    found = set()
    assert not steps[-1].any()
    for step in steps[:-1].tolist():
        for word in step:
            base, rounds, width = word & (2**36 - 1), word >> 36 & (2**22 - 1), 1 << (word >> 58 & 7)
            for lane in np.flatnonzero(blocks[base] != 2**64 - 1).tolist():
                target = int(blocks[base, lane])
                terms = blocks[base + 1 : base + 1 + rounds, lane : lane + width]
                assert lane % width == 0 and target not in found
                assert sorted(terms[terms > 0].tolist()) == list(
                    range(begin[target] + 1, begin[target] + counts[target] + 1)
                )
                found.add(target)
                assert seen.setdefault(met, levels[target]) == levels[target]
        assert len({word >> 63 for word in step}) == 1
        met += step[0] >> 63
    assert len(found) == count and met == len(set(levels.tolist()))


def test_dissection():
    """A chain of cliques takes turns in the logarithm of its length, and every order is one."""
    case = control(64, 3, 1, 1)
    known = sparsity(case.program)
    assert known.elimination.levels <= 3 * 7 + 4
    rng = np.random.default_rng(0)
    for n, density in ((1, 1.0), (2, 0.0), (30, 0.05), (30, 0.5), (200, 0.01)):
        matrix = sp.csc_array(sp.random_array((n, n), density=density, rng=rng))
        order = nested_dissection(sp.csc_array(matrix + matrix.T + sp.eye_array(n)))
        assert sorted(order.tolist()) == list(range(n))


def test_threads_share_a_pattern(monkeypatch):
    """One object for all, so that a table lives as long as the program, whose address a recorded graph has."""
    program, find, made = control(60, 8, 4, 1).program, Sparsity._found, []

    def slowly(of: ConeProgram) -> Sparsity | None:
        made.append(of)
        time.sleep(0.05)
        return find(of)

    monkeypatch.setattr(Sparsity, "_found", slowly)
    like, together = torch.zeros(1, dtype=torch.float64), threading.Barrier(4)

    def work(_) -> tuple[Sparsity | None, torch.Tensor]:
        together.wait()
        found = Sparsity.of(program)
        assert found is not None
        return found, kernels._patterns(found, like)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert len(made) == 1 and all(a is found[0][0] and b is found[0][1] for a, b in found)
