// The exponential and the power cone, one thread each.
//
// K = closure{y exp(x/y) <= z, y > 0}, or {x^a y^(1-a) >= |z|} with alpha = a in (0, 1); alpha < 0 says exponential.
// The barrier of K* is f*(z) = -log l(z) - sum_i weight_i log |z_i|, with
//   exponential: l = v - u - u log(w / -u), weights (1, 0, 1);
//   power: l = (u/a)^(2a) (v/b)^(2b) - w^2, weights (b, a, 0), b = 1 - a.
#pragma once
#include "block.cuh"

DEVICE real dot3(const real *a, const real *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// y = H x with H = (00, 01, 02, 11, 12, 22).
DEVICE void times3(const real *H, const real *x, real *y) {
    y[0] = H[0] * x[0] + H[1] * x[1] + H[2] * x[2];
    y[1] = H[1] * x[0] + H[3] * x[1] + H[4] * x[2];
    y[2] = H[2] * x[0] + H[4] * x[1] + H[5] * x[2];
}

DEVICE void outer3(real *H, real scale, const real *a) {
    H[0] += scale * a[0] * a[0];
    H[1] += scale * a[0] * a[1];
    H[2] += scale * a[0] * a[2];
    H[3] += scale * a[1] * a[1];
    H[4] += scale * a[1] * a[2];
    H[5] += scale * a[2] * a[2];
}

// R = C^-1 for the Cholesky factor C of H, lower triangular by rows: H^-1 = R'R. False if H is not positive definite.
FUNCTION bool inverse_root3(const real *H, real *R) {
    if (!(H[0] > 0.0)) return false;
    const real r0 = 1.0 / sqrt(H[0]), c10 = H[1] * r0, c20 = H[2] * r0, p1 = H[3] - c10 * c10;
    if (!(p1 > 1e-15 * H[3])) return false;
    const real r1 = 1.0 / sqrt(p1), c21 = (H[4] - c10 * c20) * r1, p2 = H[5] - c20 * c20 - c21 * c21;
    if (!(p2 > 1e-15 * H[5])) return false;
    const real r2 = 1.0 / sqrt(p2);
    R[0] = r0;
    R[1] = -c10 * r0 * r1;
    R[2] = r1;
    R[3] = -(c20 * r0 + c21 * R[1]) * r2;
    R[4] = -c21 * r1 * r2;
    R[5] = r2;
    return true;
}

// x = H^-1 x by R'R.
DEVICE void solve3(const real *R, real *x) {
    const real y0 = R[0] * x[0], y1 = R[1] * x[0] + R[2] * x[1], y2 = R[3] * x[0] + R[4] * x[1] + R[5] * x[2];
    x[0] = R[0] * y0 + R[1] * y1 + R[3] * y2;
    x[1] = R[2] * y1 + R[4] * y2;
    x[2] = R[5] * y2;
}

// l at z, not positive (or NaN) where z is not inside K*.
FUNCTION real dual_level(const real *z, real alpha) {
    if (alpha < 0.0) return z[0] < 0.0 && z[2] > 0.0 ? z[1] - z[0] - z[0] * log(-z[2] / z[0]) : -1.0;
    if (!(z[0] > 0.0 && z[1] > 0.0)) return -1.0;
    const real root = exp(alpha * log(z[0] / alpha) + (1.0 - alpha) * log(z[1] / (1.0 - alpha)));
    return (root - fabs(z[2])) * (root + fabs(z[2]));
}

// How far s is inside K, in its own units.
FUNCTION real primal_level(const real *s, real alpha) {
    if (alpha < 0.0) return s[1] > 0.0 && s[2] > 0.0 ? s[1] * log(s[2] / s[1]) - s[0] : -1.0;
    if (!(s[0] > 0.0 && s[1] > 0.0)) return -1.0;
    return exp(alpha * log(s[0]) + (1.0 - alpha) * log(s[1])) - fabs(s[2]);
}

FUNCTION real dual_barrier(const real *z, real alpha) {
    const real l = log(dual_level(z, alpha));
    if (alpha < 0.0) return -l - log(-z[0]) - log(z[2]);
    return -l - (1.0 - alpha) * log(z[0]) - alpha * log(z[1]);
}

// l, its derivatives, and those of f*.
struct DualBarrier {
    real level, slope[3], bend[6];  // l, grad l, Hess l
    real weight[3], gradient[3], hessian[6];
    real alpha, phi, z[3];

    FUNCTION DualBarrier(const real *at, real a) : alpha(a), phi(0.0) {
        UNROLL for (int i = 0; i < 3; ++i) z[i] = at[i];
        level = dual_level(z, alpha);
        UNROLL for (int i = 0; i < 6; ++i) bend[i] = 0.0;
        if (alpha < 0.0) {
            weight[0] = weight[2] = 1.0, weight[1] = 0.0;
            slope[0] = -log(-z[2] / z[0]), slope[1] = 1.0, slope[2] = -z[0] / z[2];
            bend[0] = 1.0 / z[0], bend[2] = -1.0 / z[2], bend[5] = z[0] / (z[2] * z[2]);
        } else {
            const real a2 = 2.0 * alpha, b2 = 2.0 - a2;
            phi = level + z[2] * z[2];
            weight[0] = 1.0 - alpha, weight[1] = alpha, weight[2] = 0.0;
            slope[0] = a2 * phi / z[0], slope[1] = b2 * phi / z[1], slope[2] = -2.0 * z[2];
            bend[0] = a2 * (a2 - 1.0) * phi / (z[0] * z[0]), bend[1] = a2 * b2 * phi / (z[0] * z[1]);
            bend[3] = b2 * (b2 - 1.0) * phi / (z[1] * z[1]), bend[5] = -2.0;
        }
        UNROLL for (int i = 0; i < 3; ++i) gradient[i] = -slope[i] / level - (weight[i] > 0.0 ? weight[i] / z[i] : 0.0);
        UNROLL for (int i = 0; i < 6; ++i) hessian[i] = -bend[i] / level;
        outer3(hessian, 1.0 / (level * level), slope);
        hessian[0] += weight[0] / (z[0] * z[0]);
        hessian[3] += weight[1] > 0.0 ? weight[1] / (z[1] * z[1]) : 0.0;
        hessian[5] += weight[2] > 0.0 ? weight[2] / (z[2] * z[2]) : 0.0;
    }

    // out = f*'''(z)[p, q]
    FUNCTION void third(const real *p, const real *q, real *out) const {
        real T[3], Bp[3], Bq[3];
        if (alpha < 0.0) {
            const real u = z[0], w = z[2];
            T[0] = -p[0] * q[0] / (u * u) + p[2] * q[2] / (w * w);
            T[1] = 0.0;
            T[2] = (p[0] * q[2] + p[2] * q[0]) / (w * w) - 2.0 * u * p[2] * q[2] / (w * w * w);
        } else {
            const real a2 = 2.0 * alpha, b2 = 2.0 - a2, u = z[0], v = z[1];
            const real both = p[0] * q[1] + p[1] * q[0];
            const real uuv = a2 * (a2 - 1.0) * b2 * phi / (u * u * v), uvv = a2 * b2 * (b2 - 1.0) * phi / (u * v * v);
            T[0] = a2 * (a2 - 1.0) * (a2 - 2.0) * phi / (u * u * u) * p[0] * q[0] + uuv * both + uvv * p[1] * q[1];
            T[1] = uuv * p[0] * q[0] + uvv * both + b2 * (b2 - 1.0) * (b2 - 2.0) * phi / (v * v * v) * p[1] * q[1];
            T[2] = 0.0;
        }
        times3(bend, p, Bp);
        times3(bend, q, Bq);
        const real sp = dot3(slope, p) / level, sq = dot3(slope, q) / level, pq = dot3(p, Bq) / level;
        UNROLL for (int i = 0; i < 3; ++i) {
            out[i] = (-T[i] + Bp[i] * sq + Bq[i] * sp + slope[i] * (pq - 2.0 * sp * sq)) / level;
            if (weight[i] > 0.0) out[i] -= 2.0 * weight[i] * p[i] * q[i] / (z[i] * z[i] * z[i]);
        }
    }
};

// The z with s = -grad f*(z), for s inside K.
FUNCTION void shadow(const real *s, real alpha, real *z) {
    if (alpha < 0.0) {
        // e + log(1 + e) = l / y; with this concave function, Newton's method climbs to the root from below.
        const real y = s[1], r = (y * log(s[2] / y) - s[0]) / y;
        real e = larger(0.5 * r, r - log1p(r));
        LOOP for (int i = 0; i < 8; ++i) e -= (e + log1p(e) - r) * (1.0 + e) / (2.0 + e);
        const real u = -1.0 / (e * y);
        z[0] = u;
        z[1] = 1.0 / y + u + u * log((1.0 + e) * y / s[2]);
        z[2] = (1.0 + e) / (e * s[2]);
        return;
    }
    // With t = phi / l: u = (2 a t + b) / x, v = (2 b t + a) / y, w = -z l / 2, l = 4 (t - 1) / z^2 closes the system:
    // one equation in log(t - 1), solved by Newton's method within a bracket.
    const real beta = 1.0 - alpha, size = fabs(s[2]);
    const real base = 2.0 * (alpha * log(alpha * s[0]) + beta * log(beta * s[1])) + log(4.0);
    const real target = size > 0.0 ? 2.0 * log(size) : -1e4;
    real low = -700.0, high = 80.0, at = 0.0;
    if (size > 0.0) {
        LOOP for (int i = 0; i < 80; ++i) {
            const real e = exp(at), t = 1.0 + e, p = 2.0 * alpha * t + beta, q = 2.0 * beta * t + alpha;
            const real f = at + log(t) + base - target - 2.0 * (alpha * log(p) + beta * log(q));
            const real df = 1.0 + e / t - 4.0 * e * (alpha * alpha / p + beta * beta / q);
            if (f > 0.0) high = at;
            else low = at;
            real next = at - f / df;
            if (!(next > low && next < high)) next = 0.5 * (low + high);
            const bool done = fabs(next - at) <= 1e-15 * (1.0 + fabs(at));
            at = next;
            if (done) break;
        }
    } else {
        at = -1e4;
    }
    const real e = exp(at), t = 1.0 + e;
    z[0] = (2.0 * alpha * t + beta) / s[0];
    z[1] = (2.0 * beta * t + alpha) / s[1];
    z[2] = size > 0.0 ? -2.0 * e / s[2] : 0.0;
}

// The scaling H with H z = s and H shadow(s) = -grad f*(z), by Tuncel's update of mu Hess f*(z); without the update
// where s and z are too near to the central path, or to the boundary, for it to be well defined.
// Dahl and Andersen, "A primal-dual interior-point algorithm for nonsymmetric exponential-cone optimization",
// doi 10.1007/s10107-021-01631-4.
FUNCTION void scaling3(const real *s, const real *z, real alpha, real *H, real *R) {
    const DualBarrier f(z, alpha);
    real zt[3], st[3], dz[3], ds[3], Hz[3];
    shadow(s, alpha, zt);
    UNROLL for (int i = 0; i < 3; ++i) st[i] = -f.gradient[i];
    const real sz = dot3(s, z), mu = sz / 3.0, mut = dot3(st, zt) / 3.0;
    UNROLL for (int i = 0; i < 3; ++i) ds[i] = s[i] - mu * st[i], dz[i] = z[i] - mu * zt[i];
    const real across = dot3(ds, dz);
    times3(f.hessian, zt, Hz);
    const real off = mu * mut - 1.0, curve = dot3(zt, Hz) - 3.0 * mut * mut;
    if (fabs(off) > 1e-8 && fabs(curve) > 2e-16 && sz > 0.0 && across > 0.0) {
        real rest[6], axis[3], tmp[3];
        UNROLL for (int i = 0; i < 6; ++i) rest[i] = f.hessian[i];
        outer3(rest, -1.0 / 3.0, st);
        UNROLL for (int i = 0; i < 3; ++i) tmp[i] = mut * st[i] - Hz[i];
        outer3(rest, -1.0 / curve, tmp);
        const real norm = sqrt(rest[0] * rest[0] + rest[3] * rest[3] + rest[5] * rest[5] +
                               2.0 * (rest[1] * rest[1] + rest[2] * rest[2] + rest[4] * rest[4]));
        axis[0] = z[1] * zt[2] - z[2] * zt[1];
        axis[1] = z[2] * zt[0] - z[0] * zt[2];
        axis[2] = z[0] * zt[1] - z[1] * zt[0];
        UNROLL for (int i = 0; i < 6; ++i) H[i] = 0.0;
        outer3(H, 1.0 / sz, s);
        outer3(H, 1.0 / across, ds);
        outer3(H, mu * norm / dot3(axis, axis), axis);
        if (inverse_root3(H, R)) return;
    }
    UNROLL for (int i = 0; i < 6; ++i) H[i] = mu * f.hessian[i];
    if (inverse_root3(H, R)) return;
    // So near to the boundary that not even the Hessian can be factored: its diagonal.
    H[1] = H[2] = H[4] = 0.0;
    UNROLL for (int i = 0; i < 6; i += i == 0 ? 3 : 2) H[i] = larger(fabs(H[i]), 1e-300);
    inverse_root3(H, R);
}
