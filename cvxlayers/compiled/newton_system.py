"""The linear system [P, A'; A, -H] of one problem inside a kernel: assembled, factored and solved.

It is that of an iteration of the interior-point method, and with H = D^-1 - I that of the derivative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxlayers.compiled.compiler import apart, lent
from cvxlayers.compiled.cone_program import Matrices, times_A, times_A_transposed
from cvxlayers.compiled.cones import ZERO, Cones, inverse_times, subtract_hessian, times_hessian, turned
from cvxlayers.compiled.projection import times_T
from cvxlayers.compiled.quasidefinite import Supernodes, Targets, factor, subtract_product
from cvxlayers.compiled.quasidefinite import solve as solve_factored

REGULARIZATION = 1e-11

STRUCTURE = (  # the type of the arrays that `cvxlayers.conic.structure` has for a kernel
    "Tuple((i8[::1], i8[::1], i8[::1], i8[::1],"  # patterns
    " i8[::1], i8[::1], i8[::1], i8[::1], f8[::1], i8[::1], i8[::1], i8,"  # cones
    " i8[::1], i8[::1],"  # supernodes
    " i8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1],"  # and their targets
    " i8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1],"  # those of the products
    " i8[:,::1], i8[:,::1], i8[:,::1],"  # products
    " f8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1]))"  # system
)


class System(NamedTuple):
    """The linear system: its supernodes, the places of its entries, its values and room for vectors.

    `cvxlayers.conic.structure.System` says what the arrays up to ``diagonal`` hold.
    """

    nodes: Supernodes
    products: Targets
    entries: np.ndarray
    origin: np.ndarray
    turn: np.ndarray
    sign: np.ndarray
    place: np.ndarray
    P_place: np.ndarray
    A_place: np.ndarray
    H_place: np.ndarray
    diagonal: np.ndarray
    fixed: np.ndarray  # the values with H = 0
    values: np.ndarray
    vectors: np.ndarray
    v: np.ndarray
    rx: np.ndarray
    rz: np.ndarray
    tx: np.ndarray
    tz: np.ndarray


@apart
def workspace(structure):
    """Matrices, cones and system with room for one problem of this structure."""
    (
        P_rows, P_starts, A_rows, A_starts,
        kind, start, size, order, alpha, extra, store_at, _,
        first, offset,
        node_begin, node_rows, node_base, node_shift, node_relative, node_tail,
        begin, rows, base, shift, relative, tail,
        entries, origin, turn,
        sign, place, P_place, A_place, H_place, diagonal,
    ) = structure  # fmt: skip
    n, m, N = P_starts.size - 1, size.sum(), sign.size
    room = store = longest = 1
    for c in range(kind.size):
        room = max(room, 4 * order[c] * order[c], 2 * size[c])
        store = max(store, store_at[c] + max(3 * order[c] * order[c], 27))
    for k in range(begin.size - 1):
        longest = max(longest, begin[k + 1] - begin[k])
    M = Matrices(
        np.empty(P_rows.size), P_rows, P_starts, np.empty(n),
        np.zeros(A_rows.size + 1), A_rows, A_starts, np.empty(m),
    )  # fmt: skip
    C = Cones(kind, start, size, order, alpha, extra, store_at, np.ones(m), np.ones(m), np.empty(store), np.empty(room))
    nodes = Supernodes(
        first, offset, Targets(node_begin, node_rows, node_base, node_shift, node_relative, node_tail),
        np.empty((8, N - first[first.size - 2])), np.empty(8), np.empty(N),
    )  # fmt: skip
    values = offset[offset.size - 1]
    K = System(
        nodes, Targets(begin, rows, base, shift, relative, tail), entries, origin, turn,
        sign, place, P_place, A_place, H_place, diagonal,
        np.empty(values), np.empty(values), np.empty(longest), np.empty(N),
        np.empty(n), np.empty(m), np.empty(n), np.empty(m),
    )  # fmt: skip
    return M, C, K


@lent
def assemble(M, C, K):
    """The entries that stay the same through all iterations; H is definite and needs no regularization."""
    n = M.q.size
    K.fixed[:] = 0.0
    for k in range(M.P.size):
        K.fixed[K.P_place[k]] += M.P[k]
    for k in range(K.A_place.size):
        if K.A_place[k] >= 0:
            K.fixed[K.A_place[k]] += M.A[k]
    for k in range(n):
        K.fixed[K.diagonal[k]] += REGULARIZATION
    for c in range(C.kind.size):
        if C.kind[c] == ZERO:
            for k in range(n + C.start[c], n + C.start[c] + C.size[c]):
                K.fixed[K.diagonal[k]] -= REGULARIZATION


@lent
def factor_system(M, C, K):
    """Factor the system with the scaling of C."""
    for k in range(K.values.size):
        K.values[k] = K.fixed[k]
    subtract_hessian(C, K.H_place, K.values)
    count = none = np.int64(0)  # a plain 0 is a type of its own, for which Numba would compile what takes it once more
    first, second, third = (0.0, 0.0, 0.0), (0.0, 0.0), 0.0
    for k in range(K.products.begin.size - 1):
        begin, row, at, q = K.products.begin[k], K.origin[0, k], K.origin[1, k], K.origin[2, k]
        length = K.products.begin[k + 1] - begin
        weight = -1.0
        if at < 0:
            weight = -1.0 / (C.w[row] * C.w[row])
            for b in range(length):
                K.vectors[b] = M.A[K.entries[0, begin + b]]
        elif q == 0:
            first, second, third = turned(C.store[at + 9 : at + 18], K.turn[0, k], K.turn[1, k], K.turn[2, k])
            for b in range(begin, begin + length):
                value = first[0] * M.A[K.entries[0, b]] + second[0] * M.A[K.entries[1, b]]
                K.vectors[b - begin] = value + third * M.A[K.entries[2, b]]
        elif q == 1:
            for b in range(begin, begin + length):
                K.vectors[b - begin] = first[1] * M.A[K.entries[0, b]] + second[1] * M.A[K.entries[1, b]]
        else:
            for b in range(begin, begin + length):
                K.vectors[b - begin] = first[2] * M.A[K.entries[0, b]]
        count = subtract_product(K.nodes, K.products, k, none, weight, K.vectors, none, K.values, count)
    factor(K.nodes, K.sign, K.values, count)


@lent
def _eliminated(M, K, rx, rz, x):
    """x becomes the solution for r_x + A'v, with v in K.tz, and the rows of r_z that are kept, whose own is in K.v."""
    n, m = rx.size, rz.size
    times_A_transposed(M, K.tz, x)
    for i in range(n):
        K.v[K.place[i]] = rx[i] + x[i]
    for i in range(m):
        if K.place[n + i] >= 0:
            K.v[K.place[n + i]] = rz[i]
    for i in range(n + m, K.place.size):
        K.v[K.place[i]] = 0.0
    solve_factored(K.nodes, K.sign, K.values, K.v)
    for i in range(n):
        x[i] = K.v[K.place[i]]


@lent
def direct(M, C, K, rx, rz, x, z):
    """x and z become the solution of the regularized system."""
    n, m = rx.size, rz.size
    inverse_times(C, K.place[n : n + m], rz, K.tz)
    _eliminated(M, K, rx, rz, x)
    times_A(M, x, z)
    for i in range(m):
        K.tz[i] = z[i] - rz[i]
    inverse_times(C, K.place[n : n + m], K.tz, z)
    for i in range(m):
        if K.place[n + i] >= 0:
            z[i] = K.v[K.place[n + i]]


@lent
def approximate(M, C, K, rx, r, x, z):
    """x and z become the solution of the derivative's factored system for the right-hand sides r_x and r = D g_z."""
    n, m = rx.size, r.size
    place = K.place[n : n + m]
    times_T(C, place, r, K.tz)
    times_hessian(C, r, z)
    for i in range(m):
        z[i] += r[i]
    _eliminated(M, K, rx, z, x)
    times_A(M, x, K.rz)
    inverse_times(C, place, K.rz, z)
    for i in range(m):
        z[i] = K.v[place[i]] if place[i] >= 0 else z[i] - K.tz[i]
