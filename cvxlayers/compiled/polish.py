"""Newton's method on the optimality conditions inside a kernel, from near a solution to one of machine precision.

With z and s the projections of u onto K* and of -u onto K, (x, u) is a solution exactly when Px + A'z + q = 0 and
Ax + s = b. The derivative of these equations is the system of `cvxlayers.compiled.derivative`: convergence is quadratic
wherever the solution map is differentiable, so that an interior-point method can stop early.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import lent
from cvxlayers.compiled.cone_program import times_A, times_A_transposed, times_P, worst_residual
from cvxlayers.compiled.linear_algebra import dot
from cvxlayers.compiled.newton_system import approximate, factor_system
from cvxlayers.compiled.projection import decompose, project, times_derivative

_STEPS = 6
_GAIN = 0.1  # a step that leaves a larger share of the residuals than this ends the attempt
_KINK = 1e-7  # spectral values of u below this, relative to the largest, may be zero: there the way in matters


@lent
def polish(M, C, K, x, z, s, u, rx, rz, Px, ATz, Ax, dx, dz, r, ratio, cost, over_d, over_e, goal):
    """Move (x, z, s), a point of the equilibrated program, towards its solution; the largest residual.

    ``u`` is z - s at first; the step ends with residuals of at most ``goal``, or where it does not get on. Infinity is
    returned where the point may be at a kink of the projection. ``rx`` and the seven after it are room.
    """
    last = np.inf
    for _ in range(_STEPS):
        least, most = project(C, u, z, s)
        times_P(M, x, Px)
        times_A_transposed(M, z, ATz)
        times_A(M, x, Ax)
        for i in range(x.size):
            rx[i] = Px[i] + ATz[i] + M.q[i]
        for i in range(z.size):
            rz[i] = Ax[i] + s[i] - M.b[i]
        xPx, qx, bz = dot(x, Px), dot(M.q, x), dot(M.b, z)
        worst = worst_residual(M, Px, ATz, Ax, s, rx, rz, xPx, qx, bz, 1.0, cost, over_d, over_e)
        if not (least > _KINK * max(1.0, most) and np.isfinite(worst)):
            return np.inf
        if worst <= goal or worst > _GAIN * last:
            return worst
        last = worst
        decompose(C, z, s, ratio)  # what cannot be factored accurately is tried: the residuals tell
        factor_system(M, C, K)
        for i in range(x.size):
            rx[i] = -rx[i]
        for i in range(z.size):
            rz[i] = -rz[i]
        times_derivative(C, rz, r)
        approximate(M, C, K, rx, r, dx, dz)
        times_A(M, dx, Ax)
        for i in range(x.size):
            x[i] += dx[i]
        for i in range(z.size):
            u[i] += dz[i] + Ax[i] - rz[i]
    return np.inf
