// The product of cones: rows of zero and nonnegative cones first, then second-order, exponential and power cones.
//
// A symmetric cone is scaled by the point of Nesterov and Todd, the others by Tuncel's update (three.cuh). H is the
// block-diagonal matrix with H z = s. A thread takes a row, a warp a second-order cone, a thread an exponential or a
// power cone. CURVED says that there is any cone beside the first two, THREES that there is one of the last two.
#pragma once
#include "three.cuh"

struct Shape {
    int batch, n, m;
    int zeros, linear, round;  // the first row after the zero, the nonnegative and the second-order cones
    int socs, threes, exponentials;
    const int *starts;     // (socs + 1): first rows of the second-order cones, the last one is `round`
    const int *block;      // (round - linear): which second-order cone a row belongs to
    const real *alphas;    // (threes - exponentials): of the power cones
};

constexpr real STATIC_DUAL = 1e-9;  // added to H where it is diagonal: a bound for the weights, and all there is at equalities

struct Cones {
    const Shape *shape;
    real *h;        // rows: diagonal of H, or w of a second-order cone
    real *root;     // rows: the root of (H + STATIC_DUAL)^-1 where it is diagonal
    real *eta;      // second-order cones: H = eta^2 (2 w w' - J)
    real *H, *R;    // exponential and power cones: H, and R with H^-1 = R'R (6 each)
    real *vectors;  // second-order cones: two vectors (n) that the rows of H^(-1/2) A are made of

    DEVICE real alpha(int k) const { return k < shape->exponentials ? -1.0 : shape->alphas[k - shape->exponentials]; }
    DEVICE int degree() const { return shape->linear - shape->zeros + shape->socs + 3 * shape->threes; }

    // H = I, for a point to start from.
    DEVICE void identity() const {
        LOOP for (int i = thread(); i < shape->linear; i += THREADS) {
            h[i] = i < shape->zeros ? 0.0 : 1.0;
            root[i] = i < shape->zeros ? 1.0 / sqrt(STATIC_DUAL) : 1.0;
        }
#if CURVED
        LOOP for (int i = shape->linear + thread(); i < shape->round; i += THREADS) {
            h[i] = i == shape->starts[shape->block[i - shape->linear]] ? 1.0 : 0.0;
            if (h[i] == 1.0) eta[shape->block[i - shape->linear]] = 1.0;
        }
#endif
    }

    // H and its root at (z, s).
    FUNCTION void scale(const real *z, const real *s) const {
        LOOP for (int i = thread(); i < shape->linear; i += THREADS) {
            const real ratio = i < shape->zeros ? 0.0 : fmin(fmax(s[i] / z[i], 1e-12), 1e12);
            h[i] = ratio;
            root[i] = rsqrt(ratio + STATIC_DUAL);
        }
#if CURVED
        LOOP for (int k = warp(); k < shape->socs; k += WARPS) {
            const int first = shape->starts[k], last = shape->starts[k + 1];
            real ss = 0.0, zz = 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32) ss += s[i] * s[i], zz += z[i] * z[i];
            ss = sqrt(warp_sum(ss)), zz = sqrt(warp_sum(zz));
            const real s2 = fmax((s[first] - ss) * (s[first] + ss), 1e-300);
            const real z2 = fmax((z[first] - zz) * (z[first] + zz), 1e-300);
            const real by_s = rsqrt(s2), by_z = rsqrt(z2);
            real inner = lane() == 0 ? s[first] * by_s * z[first] * by_z : 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32) inner += s[i] * by_s * z[i] * by_z;
            const real half = 0.5 / sqrt(fmax(0.5 * (1.0 + warp_sum(inner)), 0.5));
            real tail = 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
                h[i] = (s[i] * by_s - z[i] * by_z) * half;
                tail += h[i] * h[i];
            }
            tail = warp_sum(tail);
            if (lane() == 0) {
                h[first] = sqrt(1.0 + tail);  // w'Jw = 1 to the last bit
                eta[k] = sqrt(sqrt(s2 / z2));
            }
        }
#endif
#if THREES
        LOOP for (int k = thread(); k < shape->threes; k += THREADS)
            scaling3(s + shape->round + 3 * k, z + shape->round + 3 * k, alpha(k), H + 6 * k, R + 6 * k);
#endif
    }

    // v becomes H v. Linear row i belongs to thread i mod THREADS here as everywhere, so that what one function writes
    // another may read; only where there are curved cones is a meeting needed in between.
    DEVICE void multiply(real *v) const {
        LOOP for (int i = thread(); i < shape->linear; i += THREADS) v[i] *= h[i];
#if CURVED
        LOOP for (int k = warp(); k < shape->socs; k += WARPS) round_product(k, v, 1.0);
#endif
#if THREES
        LOOP for (int k = thread(); k < shape->threes; k += THREADS) {
            real x[3], *at = v + shape->round + 3 * k;
            UNROLL for (int i = 0; i < 3; ++i) x[i] = at[i];
            times3(H + 6 * k, x, at);
        }
#endif
    }

    // v becomes (H + STATIC_DUAL)^-1 v.
    DEVICE void divide(real *v) const {
        LOOP for (int i = thread(); i < shape->linear; i += THREADS) v[i] *= root[i] * root[i];
#if CURVED
        LOOP for (int k = warp(); k < shape->socs; k += WARPS) round_product(k, v, -1.0);
#endif
#if THREES
        LOOP for (int k = thread(); k < shape->threes; k += THREADS) solve3(R + 6 * k, v + shape->round + 3 * k);
#endif
    }

#if CURVED
    // eta^2 (2 w w' - J) v for sign = 1, and its inverse eta^-2 (2 Jw (Jw)' - J) v for sign = -1.
    DEVICE void round_product(int k, real *v, real sign) const {
        const int first = shape->starts[k], last = shape->starts[k + 1];
        const real v0 = v[first];
        real inner = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) inner += h[i] * v[i];
        inner = 2.0 * (h[first] * v0 + sign * warp_sum(inner));
        const real scale = sign > 0.0 ? eta[k] * eta[k] : 1.0 / (eta[k] * eta[k]);
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) v[i] = scale * (sign * inner * h[i] + v[i]);
        __syncwarp();
        if (lane() == 0) v[first] = scale * (inner * h[first] - v0);
        __syncwarp();
    }
#endif

    // The vectors that `stage` needs, for the rows e_i A_ij d_j: with g = (Jw)'A, a row of H^(-1/2) A is g / eta for
    // the first row of a second-order cone, and (a_i - w_i (a_0 + g) / (1 + w_0)) / eta for the others.
    DEVICE void prepare(const real *A, const real *e, const real *d) const {
#if CURVED
        const int n = shape->n;
        LOOP for (int unit = thread(); unit < n * shape->socs; unit += THREADS) {
            const int k = unit / n, j = unit - k * n, first = shape->starts[k], last = shape->starts[k + 1];
            const real *a = A + (long long)first * n + j;
            real sum = 0.0;
            UNROLL_4 for (int i = first + 1; i < last; ++i) sum += h[i] * a[(long long)(i - first) * n];
            const real scale = e[first] * d[j], head = a[0] * scale, g = h[first] * head - scale * sum;
            vectors[(2 * k) * n + j] = g / eta[k];
            vectors[(2 * k + 1) * n + j] = (head + g) / ((1.0 + h[first]) * eta[k]);
        }
#endif
    }

    // Row i of H^(-1/2) times the scaled A, by one warp, padded with zeros to `padded` entries.
    DEVICE void stage(int i, const real *A, const real *e, const real *d, real *row, int padded) const {
        const int n = shape->n;
        const real *a = A + (long long)i * n;
#if CURVED
        if (i >= shape->round) {
#if THREES
            const int k = (i - shape->round) / 3, part = i - shape->round - 3 * k;
            const real *r = R + 6 * k + part * (part + 1) / 2;
            const real scale = e[i];
            LOOP for (int j = lane(); j < padded; j += 32) {
                real value = 0.0;
                if (j < n)
                    LOOP for (int l = 0; l <= part; ++l) value += r[l] * a[(long long)(l - part) * n + j];
                row[j] = j < n ? value * scale * d[j] : 0.0;
            }
#endif
            return;
        }
        if (i >= shape->linear) {
            const int k = shape->block[i - shape->linear];
            const real *vector = vectors + (long long)(2 * k) * n;
            const bool head = i == shape->starts[k];
            const real scale = e[i] / eta[k];
            LOOP for (int j = lane(); j < padded; j += 32)
                row[j] = j >= n ? 0.0 : head ? vector[j] : a[j] * scale * d[j] - h[i] * vector[n + j];
            return;
        }
#endif
        const real scale = root[i] * e[i];
        UNROLL for (int part = 0; part < (16 * ((LANES * COLUMNS + 15) / 16) + 31) / 32; ++part) {
            const int j = lane() + 32 * part;
            if (j < padded) row[j] = j < n ? a[j] * scale * d[j] : 0.0;
        }
    }

    // The largest step up to `most` for which v + step dv stays in the cones (K for v = s, K* for v = z, `dual`),
    // second-order and linear cones only; of one thread.
    FUNCTION real step(const real *v, const real *dv, real most) const {
        LOOP for (int i = thread(); i < shape->linear; i += THREADS)
            if (i >= shape->zeros && dv[i] < 0.0) most = fmin(most, -v[i] / dv[i]);
#if CURVED
        LOOP for (int k = warp(); k < shape->socs; k += WARPS) {
            const int first = shape->starts[k], last = shape->starts[k + 1];
            real vv = 0.0, vd = 0.0, dd = 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32)
                vv += v[i] * v[i], vd += v[i] * dv[i], dd += dv[i] * dv[i];
            vv = sqrt(warp_sum(vv)), vd = warp_sum(vd), dd = sqrt(warp_sum(dd));
            const real c = (v[first] - vv) * (v[first] + vv), b = v[first] * dv[first] - vd;
            const real a = (dv[first] - dd) * (dv[first] + dd), disc = b * b - a * c;
            // The first positive root of a t^2 + 2 b t + c, where there is one.
            if (a < 0.0 || (b < 0.0 && disc > 0.0)) {
                const real root = sqrt(fmax(disc, 0.0));
                const real first_root = b < 0.0 ? c / (root - b) : -(b + root) / a;
                if (first_root > 0.0) most = fmin(most, first_root);
            }
            if (dv[first] < 0.0) most = fmin(most, -v[first] / dv[first]);
        }
#endif
        return most;
    }

#if THREES
    // The same for the exponential and power cones, by going back from `most`.
    FUNCTION real step3(const real *z, const real *dz, const real *s, const real *dS, real most) const {
        LOOP for (int k = thread(); k < shape->threes; k += THREADS) {
            const int at = shape->round + 3 * k;
            LOOP for (int tries = 0; tries < 100; ++tries) {
                real next_z[3], next_s[3];
                UNROLL for (int i = 0; i < 3; ++i)
                    next_z[i] = z[at + i] + most * dz[at + i], next_s[i] = s[at + i] + most * dS[at + i];
                if (dual_level(next_z, alpha(k)) > 0.0 && primal_level(next_s, alpha(k)) > 0.0) break;
                most *= 0.8;
            }
        }
        return most;
    }

    // Sum of f(s) + f*(z) over all cones at the end of a step; of one thread. 0 in all, with the term of mu, at the
    // central path.
    FUNCTION real barrier(const real *z, const real *dz, const real *s, const real *dS, real step) const {
        real total = 0.0;
        LOOP for (int i = thread(); i < shape->linear; i += THREADS)
            if (i >= shape->zeros) total -= log((s[i] + step * dS[i]) * (z[i] + step * dz[i]));
        LOOP for (int k = warp(); k < shape->socs; k += WARPS) {
            const int first = shape->starts[k], last = shape->starts[k + 1];
            real ss = 0.0, zz = 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32)
                ss += square(s[i] + step * dS[i]), zz += square(z[i] + step * dz[i]);
            ss = square(s[first] + step * dS[first]) - warp_sum(ss);
            zz = square(z[first] + step * dz[first]) - warp_sum(zz);
            if (lane() == 0) total -= 0.5 * log(ss * zz);
        }
        LOOP for (int k = thread(); k < shape->threes; k += THREADS) {
            const int at = shape->round + 3 * k;
            real next_z[3], next_s[3], zt[3];
            UNROLL for (int i = 0; i < 3; ++i)
                next_z[i] = z[at + i] + step * dz[at + i], next_s[i] = s[at + i] + step * dS[at + i];
            shadow(next_s, alpha(k), zt);
            total += dual_barrier(next_z, alpha(k)) - dual_barrier(zt, alpha(k));
        }
        return total;
    }
#endif

    // d_s of the combined step, from the affine steps dS and dz: s + W (lambda \ (W^-1 dS o W dz - sigma mu e)) for
    // symmetric cones, and s + sigma mu grad f*(z) - f*'''(z)[dz, (Hess f*(z))^-1 dS] / 2 for the others.
    FUNCTION void correct(const real *z, const real *s, const real *dz, const real *dS, real mu, real *ds) const {
        LOOP for (int i = thread(); i < shape->linear; i += THREADS)
            ds[i] = i < shape->zeros ? 0.0 : s[i] + (dS[i] * dz[i] - mu) / z[i];
#if CURVED
        LOOP for (int k = warp(); k < shape->socs; k += WARPS) {
            const int first = shape->starts[k], last = shape->starts[k + 1];
            const real w0 = h[first], size = eta[k], by = 1.0 / (1.0 + w0);
            real wz = 0.0, wd = 0.0, wS = 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32)
                wz += h[i] * z[i], wd += h[i] * dz[i], wS += h[i] * dS[i];
            wz = warp_sum(wz), wd = warp_sum(wd), wS = warp_sum(wS);
            // lambda = W z, v = W dz, u = W^-1 dS
            const real l0 = size * (w0 * z[first] + wz), lw = size * (z[first] + wz * by);
            const real v0 = size * (w0 * dz[first] + wd), vw = size * (dz[first] + wd * by);
            const real u0 = (w0 * dS[first] - wS) / size, uw = (wS * by - dS[first]) / size;
            real uv = 0.0, ll = 0.0, le = 0.0, we = 0.0, wl = 0.0;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
                const real l = size * z[i] + lw * h[i], v = size * dz[i] + vw * h[i], u = dS[i] / size + uw * h[i];
                const real eta_i = u0 * v + v0 * u;
                uv += u * v, ll += l * l, le += l * eta_i, we += h[i] * eta_i, wl += h[i] * l;
            }
            uv = warp_sum(uv), ll = warp_sum(ll), le = warp_sum(le), we = warp_sum(we), wl = warp_sum(wl);
            const real eta_0 = u0 * v0 + uv - mu, norm = sqrt(ll), rho = fmax((l0 - norm) * (l0 + norm), 1e-300);
            const real y0 = (l0 * eta_0 - le) / rho, wy = (we - y0 * wl) / l0, yw = y0 + wy * by;
            LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
                const real l = size * z[i] + lw * h[i], v = size * dz[i] + vw * h[i], u = dS[i] / size + uw * h[i];
                const real y = (u0 * v + v0 * u - y0 * l) / l0;
                ds[i] = s[i] + size * (y + yw * h[i]);
            }
            if (lane() == 0) ds[first] = s[first] + size * (w0 * y0 + wy);
        }
#endif
#if THREES
        LOOP for (int k = thread(); k < shape->threes; k += THREADS) {
            const int at = shape->round + 3 * k;
            const DualBarrier f(z + at, alpha(k));
            real root[6], q[3], third[3] = {0.0, 0.0, 0.0};
            UNROLL for (int i = 0; i < 3; ++i) q[i] = dS[at + i];
            if (inverse_root3(f.hessian, root)) {
                solve3(root, q);
                f.third(dz + at, q, third);
            }
            UNROLL for (int i = 0; i < 3; ++i) ds[at + i] = s[at + i] + mu * f.gradient[i] - 0.5 * third[i];
        }
#endif
    }
};
