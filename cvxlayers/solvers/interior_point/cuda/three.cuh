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

// v becomes B B'v, or with the transposed B: of a 3 x 3 matrix by rows.
DEVICE void squared3(const real *B, real *v, bool transposed) {
    const int row = transposed ? 1 : 3, col = transposed ? 3 : 1;
    real w[3];
    UNROLL for (int j = 0; j < 3; ++j) w[j] = B[j * col] * v[0] + B[row + j * col] * v[1] + B[2 * row + j * col] * v[2];
    UNROLL for (int i = 0; i < 3; ++i) v[i] = B[i * row] * w[0] + B[i * row + col] * w[1] + B[i * row + 2 * col] * w[2];
}

// A row joins the upper triangular R (00, 01, 02, 11, 12, 22): R'R grows by row row', by Givens' rotations.
DEVICE void append3(real *R, real x0, real x1, real x2) {
    auto rotate = [](real &a, real &b, real &cos, real &sin) {
        const real size = fabs(a) + fabs(b), ra = a / size, rb = b / size, norm = sqrt(ra * ra + rb * rb);
        cos = ra / norm, sin = rb / norm, a = size * norm;
    };
    real cos, sin;
    if (x0 != 0.0) {
        rotate(R[0], x0, cos, sin);
        const real r1 = R[1], r2 = R[2];
        R[1] = cos * r1 + sin * x1, x1 = cos * x1 - sin * r1;
        R[2] = cos * r2 + sin * x2, x2 = cos * x2 - sin * r2;
    }
    if (x1 != 0.0) {
        rotate(R[3], x1, cos, sin);
        const real r2 = R[4];
        R[4] = cos * r2 + sin * x2, x2 = cos * x2 - sin * r2;
    }
    if (x2 != 0.0) rotate(R[5], x2, cos, sin);
}

DEVICE void cross3(const real *a, const real *b, real *out) {
    out[0] = a[1] * b[2] - a[2] * b[1], out[1] = a[2] * b[0] - a[0] * b[2], out[2] = a[0] * b[1] - a[1] * b[0];
}

// y = R x; x = R'x, R'^-1 x and R^-1 x.
DEVICE void times_upper3(const real *R, const real *x, real *y) {
    y[0] = R[0] * x[0] + R[1] * x[1] + R[2] * x[2], y[1] = R[3] * x[1] + R[4] * x[2], y[2] = R[5] * x[2];
}

DEVICE void times_transposed3(const real *R, real *x) {
    x[2] = R[2] * x[0] + R[4] * x[1] + R[5] * x[2], x[1] = R[1] * x[0] + R[3] * x[1], x[0] = R[0] * x[0];
}

DEVICE void solve_transposed3(const real *R, real *x) {
    x[0] /= R[0];
    x[1] = (x[1] - R[1] * x[0]) / R[3];
    x[2] = (x[2] - R[2] * x[0] - R[4] * x[1]) / R[5];
}

DEVICE void solve_upper3(const real *R, real *x) {
    x[2] /= R[5];
    x[1] = (x[1] - R[4] * x[2]) / R[3];
    x[0] = (x[0] - R[1] * x[1] - R[2] * x[2]) / R[0];
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

// l and its derivatives; the gradient of f*, and its Hessian R'R, put together from terms that are all positive
// semidefinite: what is nearly singular at the boundary of the cone would not survive a sum of other terms.
struct DualBarrier {
    real level, slope[3], bend[6];  // l, grad l, Hess l
    real weight[3], gradient[3], R[6];
    real alpha, phi, z[3];

    FUNCTION DualBarrier(const real *at, real a) : alpha(a), phi(0.0) {
        UNROLL for (int i = 0; i < 3; ++i) z[i] = at[i];
        level = dual_level(z, alpha);
        UNROLL for (int i = 0; i < 6; ++i) bend[i] = R[i] = 0.0;
        const real by_u = 1.0 / z[0], by_l = 1.0 / level;
        if (alpha < 0.0) {
            const real by_w = 1.0 / z[2], ratio = -z[0] * by_w, root = sqrt(-by_u * by_l);
            weight[0] = weight[2] = 1.0, weight[1] = 0.0;
            slope[0] = log(ratio), slope[1] = 1.0, slope[2] = ratio;
            bend[0] = by_u, bend[2] = -by_w, bend[5] = z[0] * by_w * by_w;
            append3(R, slope[0] * by_l, by_l, ratio * by_l);
            append3(R, root, 0.0, root * ratio);
            append3(R, -by_u, 0.0, 0.0);
            append3(R, 0.0, 0.0, by_w);
        } else {
            const real b = 1.0 - alpha, a2 = 2.0 * alpha, b2 = 2.0 * b, by_v = 1.0 / z[1];
            phi = level + z[2] * z[2];
            const real rho = sqrt(phi), far = rho + fabs(z[2]), near = level / far, sign = z[2] < 0.0 ? -1.0 : 1.0;
            weight[0] = b, weight[1] = alpha, weight[2] = 0.0;
            slope[0] = a2 * phi * by_u, slope[1] = b2 * phi * by_v, slope[2] = -2.0 * z[2];
            bend[0] = a2 * (a2 - 1.0) * phi * by_u * by_u, bend[1] = a2 * b2 * phi * by_u * by_v;
            bend[3] = b2 * (b2 - 1.0) * phi * by_v * by_v, bend[5] = -2.0;
            // l = (rho - w)(rho + w), and rho is concave: -Hess rho = a b rho k k' with k = (1/u, -1/v, 0).
            const real x = alpha * rho * by_u, y = b * rho * by_v;
            append3(R, x / near, y / near, -sign / near);
            append3(R, x / far, y / far, sign / far);
            const real curved = sqrt(alpha * b * rho * (1.0 / near + 1.0 / far));
            append3(R, curved * by_u, -curved * by_v, 0.0);
            append3(R, sqrt(b) * by_u, 0.0, 0.0);
            append3(R, 0.0, sqrt(alpha) * by_v, 0.0);
        }
        UNROLL for (int i = 0; i < 3; ++i) gradient[i] = -slope[i] * by_l - (weight[i] > 0.0 ? weight[i] / z[i] : 0.0);
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

// The scaling H = B B' = (R'R)^-1, both by rows, with H z = s and H shadow(s) = -grad f*(z): Tuncel's update of
// mu Hess f*(z), or the latter alone where s and z are too near to the central path for the update to be well defined.
// With d = z - mu shadow(s), D = s + mu grad f*(z), and two vectors v and c orthogonal to z, d and to s, D,
// H = s s'/s'z + D D'/D'd + t v v', H^-1 = z z'/s'z + d d'/D'd + c c'/t, v'c = 1, and t v v' is what is left of
// mu Hess f* along v, which a vector orthogonal to its other two terms reads off. D'd from s'z does not cancel.
// Dahl and Andersen, "A primal-dual interior-point algorithm for nonsymmetric exponential-cone optimization",
// doi 10.1007/s10107-021-01631-4.
FUNCTION void scaling3(const real *s, const real *z, real alpha, real *B, real *R) {
    const DualBarrier f(z, alpha);
    real zt[3], dz[3], ds[3], v[3], c[3], rest[3], reader[3];
    shadow(s, alpha, zt);
    const real sz = dot3(s, z), mu = sz / 3.0, mut = -dot3(f.gradient, zt) / 3.0;
    UNROLL for (int i = 0; i < 3; ++i) ds[i] = s[i] + mu * f.gradient[i], dz[i] = z[i] - mu * zt[i];
    const real across = sz * (mu * mut - 1.0);
    if (mu * mut - 1.0 > 1e-6 && sz > 0.0 && across > 0.0) {
        cross3(z, dz, v);
        cross3(s, ds, c);
        // Of g = grad f*(z) and (Hess f*) shadow(s), less the part along g.
        times_upper3(f.R, zt, rest);
        times_transposed3(f.R, rest);
        UNROLL for (int i = 0; i < 3; ++i) rest[i] = -rest[i] - mut * f.gradient[i];
        cross3(f.gradient, rest, reader);
        const real along = dot3(v, reader), inner = dot3(v, c);
        times_upper3(f.R, reader, rest);
        const real t = mu * dot3(rest, rest) / square(along);
        if (t > 0.0 && t < 1e300 && fabs(inner) > 0.0) {
            const real root_s = rsqrt(sz), root_d = rsqrt(across), root_t = sqrt(t), by = 1.0 / (inner * root_t);
            UNROLL for (int i = 0; i < 3; ++i) {
                B[3 * i] = s[i] * root_s, B[3 * i + 1] = ds[i] * root_d, B[3 * i + 2] = v[i] * root_t;
                R[i] = z[i] * root_s, R[3 + i] = dz[i] * root_d, R[6 + i] = c[i] * by;
            }
            return;
        }
    }
    const real root = sqrt(mu);
    const real full[9] = {f.R[0], 0.0, 0.0, f.R[1], f.R[3], 0.0, f.R[2], f.R[4], f.R[5]};
    UNROLL for (int i = 0; i < 9; ++i) B[i] = root * full[i];
    UNROLL for (int j = 0; j < 3; ++j) {
        real unit[3] = {j == 0 ? 1.0 : 0.0, j == 1 ? 1.0 : 0.0, j == 2 ? 1.0 : 0.0};
        solve_transposed3(f.R, unit);
        UNROLL for (int i = 0; i < 3; ++i) R[3 * i + j] = unit[i] / root;
    }
}
