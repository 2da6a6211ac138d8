"""The linear system of the derivative for sparse cone programs, one problem at a time.

With D the derivative of the projection onto K* at z - s (see `cvxlayers.conic.kkt`), the system in its bounded form is

    [ P     A'      ] [ w_x ]   [ g_x   ]
    [ DA   -(I - D) ] [ w_z ] = [ D g_z ]

Where D can be inverted, it is [P, A'; A, -H] with H = D^-1 - I, which is factored with D kept away from zero and one;
refinement against the bounded form makes up for that. The program is equilibrated first.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import kernel, lent
from cvxlayers.compiled.cone_program import equilibrate, times_A, times_A_transposed, times_P
from cvxlayers.compiled.cones import NONNEGATIVE
from cvxlayers.compiled.linear_algebra import assign, largest_entry
from cvxlayers.compiled.newton_system import STRUCTURE, approximate, assemble, factor_system, workspace
from cvxlayers.compiled.projection import decompose, times_derivative

_REFINEMENTS = 12
_TARGET = 1e-14
_FAIR = 1e-9  # a residual above this calls for another method
_SINGULAR = 1e8  # so does a solution larger than this times its right-hand side


@lent
def _refined(M, C, K, gx, g, x, z, rx, rz, dx, dz):
    """x and z become the solution for g_x and g = D g_z; its residual relative to them. The last four are room."""
    size = max(largest_entry(gx), largest_entry(g))
    x[:], z[:] = 0.0, 0.0
    assign(rx, gx)
    assign(rz, g)
    error = 1.0
    if size == 0.0:
        return 0.0
    for _ in range(_REFINEMENTS):
        approximate(M, C, K, rx, rz, dx, dz)
        for i in range(dx.size):
            dx[i] += x[i]
        for i in range(dz.size):
            dz[i] += z[i]
        times_P(M, dx, rx)
        times_A_transposed(M, dz, K.tx)
        for i in range(dx.size):
            rx[i] = gx[i] - rx[i] - K.tx[i]
        times_A(M, dx, rz)
        for i in range(dz.size):
            K.tz[i] = rz[i] + dz[i]
        times_derivative(C, K.tz, rz)
        for i in range(dz.size):
            rz[i] = g[i] + dz[i] - rz[i]
        new = max(largest_entry(rx), largest_entry(rz)) / size
        if not new < error:
            break
        last, error = error, new
        assign(x, dx)
        assign(z, dz)
        if error < _TARGET or error > 0.5 * last:
            break
    return error


@kernel(
    "void(f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1],"  # P, q, A, b
    f" {STRUCTURE}, f8[:,::1], f8[:,::1], f8[:,:,::1], f8[:,:,::1], f8[::1], i8, i8,"
    " f8[:,:,::1], f8[:,:,::1], f8[::1], f8[::1], b1[::1])"
)
def derivative(
    P, q, A, b, structure, z, s, gx, gz, probe, start, stop, wx_out, wz_out, residual, margin, failed
):  # fmt: skip
    """The elements in range(start, stop) of a batch, with P (1 or B, nnz) and so on; writes the last five arrays.

    z and s (B, m) are a primal-dual pair, gx (R, B, n) and gz (R, B, m) the right-hand sides. ``failed`` marks the
    elements for which another method is to be taken: at a kink of a curved cone, or near a singular system, which the
    random vector ``probe`` (n + m) finds out.
    """
    n, m = gx.shape[2], gz.shape[2]
    M, C, K = workspace(structure)
    d, e, ratio = np.empty(n), np.empty(m), np.empty(m)
    zs, ss, x, v = np.empty(m), np.empty(m), np.empty(n), np.empty(m)
    hx, hz, rx, rz, dx, dz = np.empty(n), np.empty(m), np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    alike = C.kind > NONNEGATIVE
    for element in range(start, stop):
        cost = equilibrate(
            M, P[element if P.shape[0] > 1 else 0], q[element if q.shape[0] > 1 else 0],
            A[element if A.shape[0] > 1 else 0], b[element if b.shape[0] > 1 else 0],
            C.start, C.size, alike, d, e, rz, rx,
        )  # fmt: skip
        for i in range(m):
            ratio[i] = e[i] * e[i] / cost
            zs[i], ss[i] = z[element, i] * cost / e[i], s[element, i] * e[i]
        margin[element], good = decompose(C, zs, ss, ratio)
        failed[element] = not good
        if not good:
            continue
        assemble(M, C, K)
        factor_system(M, C, K)
        for i in range(n):
            hx[i] = probe[i]
        times_derivative(C, probe[n:], hz)
        error = _refined(M, C, K, hx, hz, x, v, rx, rz, dx, dz)
        if not (error < _FAIR and max(largest_entry(x), largest_entry(v)) < _SINGULAR):
            failed[element] = True
            continue
        residual[element] = 0.0
        for k in range(gx.shape[0]):
            for i in range(n):
                hx[i] = cost * d[i] * gx[k, element, i]
            for i in range(m):
                dz[i] = e[i] * gz[k, element, i]
            times_derivative(C, dz, hz)
            error = _refined(M, C, K, hx, hz, x, v, rx, rz, dx, dz)
            residual[element] = max(residual[element], error)
            for i in range(n):
                wx_out[k, element, i] = d[i] * x[i]
            for i in range(m):
                wz_out[k, element, i] = e[i] * v[i] / cost
        failed[element] = not residual[element] < _FAIR
