// The product of cones: zero and nonnegative cones first, then second-order, semidefinite, exponential and power cones.
//
// A symmetric cone is scaled by the point of Nesterov and Todd, the others by Tuncel's update (three.cuh). H is the
// block-diagonal matrix with H z = s. A thread takes a row, a warp a second-order cone, the block a semidefinite one, a
// thread an exponential or a power cone. Linear row i belongs to thread i mod THREADS everywhere, so that what one function writes another may
// read; only where there are curved cones is a meeting needed in between.
#pragma once
#include "layout.cuh"
#include "semidefinite.cuh"
#include "three.cuh"

constexpr real STATIC_DUAL = 1e-9;  // added to H where it is diagonal: bounds the weights, and is all there is at equalities

DEVICE real *h() { return tall_kept(CONES_KEPT); }         // rows: diagonal of H, or w of a second-order cone
DEVICE real *root() { return tall_kept(CONES_KEPT + 1); }  // rows: the root of (H + STATIC_DUAL)^-1 where it is diagonal
DEVICE real *eta() { return tall_kept(CONES_KEPT + 2); }   // second-order cones: H = eta^2 (2 w w' - J)
DEVICE real *B3() { return eta() + (SOCS + 1) / 2 * 2; }   // exponential and power cones: B and R (9 each)
DEVICE real *R3() { return B3() + 9 * THREES; }            // with H = B B' = (R'R)^-1
// Second-order cones: two vectors (n) that the rows of H^(-1/2) A are made of.
DEVICE real *vectors() {
    return header().workspace + (TALL ? 0 : (TALL_PASSING + CONES_KEPT + 2) * tall + (SOCS + 1) / 2 * 2 + 18 * THREES);
}

#if SEMIS
// Semidefinite cones, with S = R diag(lambda) R' and Z = R^-T diag(lambda) R^-1: the matrices R' and R^-1, three that
// pass, and lambda; the rows of H^(-1/2) A, and what making them takes.
DEVICE real *squares(int which) { return vectors() + 2 * n * SOCS + which * SQUARES; }
DEVICE real *Rt() { return squares(0); }
DEVICE real *Ri() { return squares(1); }
DEVICE real *passing(int which) { return squares(2 + which); }
DEVICE real *spectra() { return squares(5); }
DEVICE real *turned() { return spectra() + ORDERS; }
DEVICE real *room() { return turned() + (SEMI - ROUND) * n; }
#endif

constexpr int degree = LINEAR - ZEROS + SOCS + ORDERS + 3 * THREES;

// H = I, for a point to start from.
DEVICE void unit_cones() {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) {
        h()[i] = i < ZEROS ? 0.0 : 1.0;
        root()[i] = i < ZEROS ? 1.0 / sqrt(STATIC_DUAL) : 1.0;
    }
#if CURVED
    LOOP for (int i = LINEAR + thread(); i < ROUND; i += THREADS) {
        h()[i] = i == start_of(block_of(i)) ? 1.0 : 0.0;
        if (h()[i] == 1.0) eta()[block_of(i)] = 1.0;
    }
#endif
#if SEMIS
    LOOP for (int i = thread(); i < ORDERS; i += THREADS) spectra()[i] = 1.0;
    each_entry([](int c, int k, int i, int j) {
        const int at = square_of(c) + i * k + j;
        Rt()[at] = Ri()[at] = i == j ? 1.0 : 0.0;
    });
#endif
}

#if !CURVED
// H where the rows with z > s are equalities, and the others are hardly there.
DEVICE void fix_active_rows(const real *z, const real *s) {
    LOOP for (int i = thread(); i < m; i += THREADS) {
        h()[i] = i < ZEROS || z[i] > s[i] ? 0.0 : 1e12;
        root()[i] = rsqrt(h()[i] + STATIC_DUAL);
    }
}
#endif

#if SEMIS
// The Cholesky factors of S and Z, the singular values lambda and the vectors of L_Z'L_S: R = L_S V lambda^(-1/2).
FUNCTION void scale_semidefinite(const real *z, const real *s) {
    real *LS = Rt(), *LZ = passing(0), *W = passing(1);
    each_entry([=](int c, int k, int i, int j) {
        const int at = square_of(c) + i * k + j;
        LS[at] = entry(s + first_of(c), i, j), LZ[at] = entry(z + first_of(c), i, j);
    });
    meet();
    LOOP for (int unit = warp(); unit < 2 * SEMIS; unit += WARPS)
        cholesky((unit & 1 ? LZ : LS) + square_of(unit / 2), order_of(unit / 2));
    meet();
    each_entry([=](int c, int k, int p, int i) {
        const int own = square_of(c);
        W[own + p * k + i] = inner(LZ + own + i * k, 1, LS + own + p * k, 1, k);
    });
    meet();
    LOOP for (int c = warp(); c < SEMIS; c += WARPS) {
        const int k = order_of(c), own = square_of(c), p = lane();
        orthogonalize<true>(W + own, LS + own, k, 1e-8);
        if (p < k) spectra()[vector_of(c) + p] = larger(sqrt(inner(W + own + p * k, 1, W + own + p * k, 1, k)), 1e-150);
    }
    meet();
    each_entry([=](int c, int k, int p, int j) {
        const int own = square_of(c);
        const real by = rsqrt(spectra()[vector_of(c) + p]);
        Rt()[own + p * k + j] *= by;
        Ri()[own + p * k + j] = by * by * by * inner(W + own + p * k, 1, LZ + own + j, k, k);
    });
}

// out = M mat(v) M'; begins and ends with a meeting, and T passes.
FUNCTION void into_frame(const real *M, const real *v, real *T, real *out) {
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        T[own + i * k + j] = inner_entry(M + own + i * k, v + first_of(c), j, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        out[own + i * k + j] = inner(T + own + i * k, 1, M + own + j * k, 1, k);
    });
    meet();
}

// v becomes the vector of M mat(v) M', or with M' in the place of M; begins and ends with a meeting.
FUNCTION void congruent(const real *M, real *v, bool transposed) {
    real *T = passing(0);
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        const real *row = M + own + (transposed ? i : i * k);
        real sum = 0.0;
        LOOP for (int l = 0; l < k; ++l) sum += row[transposed ? l * k : l] * entry(v + first_of(c), l, j);
        T[own + i * k + j] = sum;
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        if (i > j) return;
        const real sum = inner(T + own + i * k, 1, M + own + (transposed ? j : j * k), transposed ? k : 1, k);
        v[first_of(c) + packed(i, j)] = sum * (i == j ? 1.0 : ROOT2);
    });
    meet();
}

// The least eigenvalue of mat(v) in each cone, for the warp that takes it; `use(c, least)`. Begins with a meeting.
template <class Use> DEVICE void least_eigenvalues(const real *v, Use use) {
    real *T = passing(0);
    meet();
    each_entry([=](int c, int k, int i, int j) { T[square_of(c) + i * k + j] = entry(v + first_of(c), i, j); });
    meet();
    LOOP for (int c = warp(); c < SEMIS; c += WARPS) use(c, least_eigenvalue(T + square_of(c), order_of(c)));
}

// The largest step up to `most` for which S + step dS, or Z + step dZ, stays definite, for the warps that find it.
FUNCTION real step_semidefinite(const real *dv, bool dual, real most) {
    real *T = passing(1);
    into_frame(dual ? Rt() : Ri(), dv, passing(0), T);
    each_entry([=](int c, int k, int i, int j) {
        const real *lambda = spectra() + vector_of(c);
        T[square_of(c) + i * k + j] *= rsqrt(lambda[i]) * rsqrt(lambda[j]);
    });
    meet();
    LOOP for (int c = warp(); c < SEMIS; c += WARPS) {
        const real least = least_eigenvalue(T + square_of(c), order_of(c));
        if (least * most < -1.0) most = -1.0 / least;
    }
    return most;
}

// d_s of the combined step: the vector of R X R', with X o lambda = share (dS~ o dZ~) - mu I in the frame of R.
FUNCTION void correct_semidefinite(
    const real *s, const real *dz, const real *dS, real mu, real share, real *ds) {
    real *X = passing(1), *Y = passing(2), *T = passing(0);
    into_frame(Ri(), dS, T, X);
    into_frame(Rt(), dz, T, Y);
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        const real *lambda = spectra() + vector_of(c), *x = X + own, *y = Y + own;
        const real product = inner(x + i * k, 1, y + j * k, 1, k) + inner(x + j * k, 1, y + i * k, 1, k);
        T[own + i * k + j] = (share * product - (i == j ? 2.0 * mu : 0.0)) / (lambda[i] + lambda[j]);
    });
    meet();
    each_entry([=](int c, int k, int i, int q) {
        const int own = square_of(c);
        X[own + i * k + q] = inner(Rt() + own + i, k, T + own + q, k, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        if (i > j) return;
        const int own = square_of(c), at = first_of(c) + packed(i, j);
        ds[at] = s[at] + inner(X + own + i * k, 1, Rt() + own + j, k, k) * (i == j ? 1.0 : ROOT2);
    });
}
#endif

// H and its root at (z, s).
FUNCTION void scale_cones(const real *z, const real *s) {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) {
        const real ratio = i < ZEROS ? 0.0 : smaller(larger(s[i] / z[i], 1e-30), 1e30);
        h()[i] = ratio;
        root()[i] = rsqrt(ratio + STATIC_DUAL);
    }
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        real ss = 0.0, zz = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) ss += s[i] * s[i], zz += z[i] * z[i];
        ss = sqrt(warp_sum(ss)), zz = sqrt(warp_sum(zz));
        const real s2 = larger((s[first] - ss) * (s[first] + ss), 1e-300);
        const real z2 = larger((z[first] - zz) * (z[first] + zz), 1e-300);
        const real by_s = rsqrt(s2), by_z = rsqrt(z2);
        real inner = lane() == 0 ? s[first] * by_s * z[first] * by_z : 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) inner += s[i] * by_s * z[i] * by_z;
        const real half = 0.5 / sqrt(larger(0.5 * (1.0 + warp_sum(inner)), 0.5));
        real tail = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
            h()[i] = (s[i] * by_s - z[i] * by_z) * half;
            tail += h()[i] * h()[i];
        }
        tail = warp_sum(tail);
        if (lane() == 0) {
            h()[first] = sqrt(1.0 + tail);  // w'Jw = 1 to the last bit
            eta()[k] = sqrt(sqrt(s2 / z2));
        }
    }
#endif
#if SEMIS
    scale_semidefinite(z, s);
#endif
#if THREES
    LOOP for (int k = thread(); k < THREES; k += THREADS)
        scaling3(s + SEMI + 3 * k, z + SEMI + 3 * k, alpha(k), B3() + 9 * k, R3() + 9 * k);
#endif
}

#if CURVED
// eta^2 (2 w w' - J) v for sign = 1, and its inverse eta^-2 (2 Jw (Jw)' - J) v for sign = -1.
DEVICE void round_product(int k, real *v, real sign) {
    const int first = start_of(k), last = start_of(k + 1);
    const real v0 = v[first];
    real inner = 0.0;
    LOOP for (int i = first + 1 + lane(); i < last; i += 32) inner += h()[i] * v[i];
    inner = 2.0 * (h()[first] * v0 + sign * warp_sum(inner));
    const real scale = sign > 0.0 ? eta()[k] * eta()[k] : 1.0 / (eta()[k] * eta()[k]);
    LOOP for (int i = first + 1 + lane(); i < last; i += 32) v[i] = scale * (sign * inner * h()[i] + v[i]);
    __syncwarp();
    if (lane() == 0) v[first] = scale * (inner * h()[first] - v0);
    __syncwarp();
}
#endif

// v becomes H v. Linear row i belongs to thread i mod THREADS here as everywhere, so that what one function writes
// another may read; only where there are curved cones is a meeting needed in between.
DEVICE void multiply_by_H(real *v) {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) v[i] *= h()[i];
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) round_product(k, v, 1.0);
#endif
#if SEMIS
    congruent(Rt(), v, false), congruent(Rt(), v, true);
#endif
#if THREES
    LOOP for (int k = thread(); k < THREES; k += THREADS) squared3(B3() + 9 * k, v + SEMI + 3 * k, false);
#endif
}

// v becomes (H + STATIC_DUAL)^-1 v; of semidefinite cones, `solve_reduced` takes care.
DEVICE void divide_by_H(real *v) {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) v[i] *= root()[i] * root()[i];
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) round_product(k, v, -1.0);
#endif
#if SEMIS
#endif
#if THREES
    LOOP for (int k = thread(); k < THREES; k += THREADS) squared3(R3() + 9 * k, v + SEMI + 3 * k, true);
#endif
}

#if SPARSE && CURVED
// Column j of H^(-1/2) times the scaled A, in the curved cone that begins at row `first`: `entry(i)` is row i of the column
// as it is in memory, `put(i, value)` takes what comes of it, and `scale` is e_i d_j. See prepare_rows for the formulas.
template <class Entry, class Put> DEVICE void stage_column(int first, real scale, Entry entry, Put put) {
    if (first < ROUND) {
        const int k = block_of(first), count = start_of(k + 1) - first;
        const real *w = h() + first;
        real sum = 0.0;
        LOOP for (int i = 1; i < count; ++i) sum += w[i] * entry(i);
        const real head = entry(0) * scale, g = w[0] * head - scale * sum, by = 1.0 / eta()[k];
        const real other = (head + g) * by / (1.0 + w[0]);
        put(0, g * by);
        LOOP for (int i = 1; i < count; ++i) put(i, entry(i) * scale * by - w[i] * other);
        return;
    }
    const real *R = R3() + 3 * (first - SEMI), column[3] = {entry(0), entry(1), entry(2)};
    UNROLL for (int i = 0; i < 3; ++i)
        put(i, scale * (R[3 * i] * column[0] + R[3 * i + 1] * column[1] + R[3 * i + 2] * column[2]));
}
#elif !SPARSE
// The vectors that `stage` needs, for the rows e_i A_ij d_j: with g = (Jw)'A, a row of H^(-1/2) A is g / eta for
// the first row of a second-order cone, and (a_i - w_i (a_0 + g) / (1 + w_0)) / eta for the others.
DEVICE void prepare_rows(const real *A, const real *e, const real *d) {
#if CURVED
    LOOP for (int unit = thread(); unit < n * SOCS; unit += THREADS) {
        const int k = unit / n, j = unit - k * n, first = start_of(k), last = start_of(k + 1);
        const real *a = A + first * n + j;
        real sum = 0.0;
        UNROLL_4 for (int i = first + 1; i < last; ++i) sum += h()[i] * a[(i - first) * n];
        const real scale = e[first] * d[j], head = a[0] * scale, g = h()[first] * head - scale * sum;
        vectors()[(2 * k) * n + j] = g / eta()[k];
        vectors()[(2 * k + 1) * n + j] = (head + g) / ((1.0 + h()[first]) * eta()[k]);
    }
#endif
#if SEMIS
    meet();
    LOOP for (int c = 0; c < SEMIS; ++c) {
        const int first = first_of(c);
        congruent_rows(
            A + first * n, e[first], d, Ri() + square_of(c), order_of(c), room(), turned() + (first - ROUND) * n);
    }
#endif
}

// Row i of H^(-1/2) times the scaled A, for i in a curved cone, by one warp and padded with zeros.
DEVICE void stage_row(int i, const real *A, const real *e, const real *d, real *row) {
#if CURVED
    const real *a = A + i * n;
    if (i < ROUND) {
        const int k = block_of(i);
        const real *vector = vectors() + 2 * k * n, scale = e[i] / eta()[k], w = h()[i];
        const bool first = i == start_of(k);
        UNROLL for (int j = lane(); j < 16 * wide; j += 32)
            row[j] = j >= n ? 0.0 : first ? vector[j] : GLOBAL(a + j) * scale * d[j] - w * vector[n + j];
        return;
    }
#if SEMIS
    if (i < SEMI) {
        UNROLL for (int j = lane(); j < 16 * wide; j += 32) row[j] = j < n ? turned()[(i - ROUND) * n + j] : 0.0;
        return;
    }
#endif
#if THREES
    const int k = (i - SEMI) / 3, part = i - SEMI - 3 * k;
    const real *r = R3() + 9 * k + 3 * part, scale = e[i];
    UNROLL for (int j = lane(); j < 16 * wide; j += 32) {
        real value = 0.0;
        if (j < n) UNROLL for (int l = 0; l < 3; ++l) value += r[l] * GLOBAL(a + (l - part) * n + j);
        row[j] = j < n ? value * scale * d[j] : 0.0;
    }
#endif
#endif
}
#endif

// The largest step up to `most` for which v + step dv stays in the symmetric cones, for v = s, or v = z, `dual`; of one
// thread.
FUNCTION real step_inside(const real *v, const real *dv, bool dual, real most) {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS)
        if (i >= ZEROS && dv[i] < 0.0) most = smaller(most, -v[i] / dv[i]);
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        real vv = 0.0, vd = 0.0, dd = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32)
            vv += v[i] * v[i], vd += v[i] * dv[i], dd += dv[i] * dv[i];
        vv = sqrt(warp_sum(vv)), vd = warp_sum(vd), dd = sqrt(warp_sum(dd));
        const real c = (v[first] - vv) * (v[first] + vv), b = v[first] * dv[first] - vd;
        const real a = (dv[first] - dd) * (dv[first] + dd), disc = b * b - a * c;
        // The first positive root of a t^2 + 2 b t + c, where there is one.
        if (a < 0.0 || (b < 0.0 && disc > 0.0)) {
            const real root = sqrt(larger(disc, 0.0));
            const real first_root = b < 0.0 ? c / (root - b) : -(b + root) / a;
            if (first_root > 0.0) most = smaller(most, first_root);
        }
        if (dv[first] < 0.0) most = smaller(most, -v[first] / dv[first]);
    }
#endif
#if SEMIS
    most = step_semidefinite(dv, dual, most);
#endif
    return most;
}

#if THREES
// The same for the exponential and power cones, by going back from `most`.
FUNCTION real step_back(const real *z, const real *dz, const real *s, const real *dS, real most) {
    LOOP for (int k = thread(); k < THREES; k += THREADS) {
        const int at = SEMI + 3 * k;
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
FUNCTION real barriers(const real *z, const real *dz, const real *s, const real *dS, real step) {
    real total = 0.0;
    LOOP for (int i = thread(); i < LINEAR; i += THREADS)
        if (i >= ZEROS) total -= log((s[i] + step * dS[i]) * (z[i] + step * dz[i]));
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        real ss = 0.0, zz = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32)
            ss += square(s[i] + step * dS[i]), zz += square(z[i] + step * dz[i]);
        ss = square(s[first] + step * dS[first]) - warp_sum(ss);
        zz = square(z[first] + step * dz[first]) - warp_sum(zz);
        if (lane() == 0) total -= 0.5 * log(ss * zz);
    }
#if SEMIS
    real *S = passing(0), *Z = passing(1);
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int first = first_of(c), at = square_of(c) + i * k + j;
        S[at] = entry(s + first, i, j) + step * entry(dS + first, i, j);
        Z[at] = entry(z + first, i, j) + step * entry(dz + first, i, j);
    });
    meet();
    LOOP for (int unit = warp(); unit < 2 * SEMIS; unit += WARPS) {
        const int k = order_of(unit / 2);
        real *L = (unit & 1 ? Z : S) + square_of(unit / 2);
        cholesky(L, k);
        if (lane() < k) total -= 2.0 * log(L[lane() * k + lane()]);
    }
#endif
    LOOP for (int k = thread(); k < THREES; k += THREADS) {
        const int at = SEMI + 3 * k;
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
FUNCTION void correct(
    const real *z, const real *s, const real *dz, const real *dS, real mu, real share, real *ds) {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS)
        ds[i] = i < ZEROS ? 0.0 : s[i] + (share * dS[i] * dz[i] - mu) / z[i];
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        const real w0 = h()[first], size = eta()[k], by = 1.0 / (1.0 + w0);
        real wz = 0.0, wd = 0.0, wS = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32)
            wz += h()[i] * z[i], wd += h()[i] * dz[i], wS += h()[i] * dS[i];
        wz = warp_sum(wz), wd = warp_sum(wd), wS = warp_sum(wS);
        // lambda = W z, v = W dz, u = W^-1 dS
        const real l0 = size * (w0 * z[first] + wz), lw = size * (z[first] + wz * by);
        const real v0 = size * (w0 * dz[first] + wd), vw = size * (dz[first] + wd * by);
        const real u0 = (w0 * dS[first] - wS) / size, uw = (wS * by - dS[first]) / size;
        real uv = 0.0, ll = 0.0, le = 0.0, we = 0.0, wl = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
            const real l = size * z[i] + lw * h()[i], v = size * dz[i] + vw * h()[i], u = dS[i] / size + uw * h()[i];
            const real eta_i = share * (u0 * v + v0 * u);
            uv += u * v, ll += l * l, le += l * eta_i, we += h()[i] * eta_i, wl += h()[i] * l;
        }
        uv = warp_sum(uv), ll = warp_sum(ll), le = warp_sum(le), we = warp_sum(we), wl = warp_sum(wl);
        const real eta_0 = share * (u0 * v0 + uv) - mu, norm = sqrt(ll), rho = larger((l0 - norm) * (l0 + norm), 1e-300);
        const real y0 = (l0 * eta_0 - le) / rho, wy = (we - y0 * wl) / l0, yw = y0 + wy * by;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
            const real l = size * z[i] + lw * h()[i], v = size * dz[i] + vw * h()[i], u = dS[i] / size + uw * h()[i];
            const real y = (share * (u0 * v + v0 * u) - y0 * l) / l0;
            ds[i] = s[i] + size * (y + yw * h()[i]);
        }
        if (lane() == 0) ds[first] = s[first] + size * (w0 * y0 + wy);
    }
#endif
#if SEMIS
    correct_semidefinite(s, dz, dS, mu, share, ds);
#endif
#if THREES
    LOOP for (int k = thread(); k < THREES; k += THREADS) {
        const int at = SEMI + 3 * k;
        const DualBarrier f(z + at, alpha(k));
        real q[3], third[3];
        UNROLL for (int i = 0; i < 3; ++i) q[i] = dS[at + i];
        solve_transposed3(f.R, q);
        solve_upper3(f.R, q);
        f.third(dz + at, q, third);
        UNROLL for (int i = 0; i < 3; ++i) ds[at + i] = s[at + i] + mu * f.gradient[i] - 0.5 * share * third[i];
    }
#endif
}

