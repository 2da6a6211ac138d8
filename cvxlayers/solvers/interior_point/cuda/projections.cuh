// The derivative D of the projection onto K* at z - s, by its eigenvalues and eigenvectors, cone by cone.
//
// As in cvxlayers/sets: an eigenvalue is 0 or 1 where z and s differ by a factor above 1e4, and z/(z + s) where they do
// not. What is kept is the D of the scaled problem: with H = D^-1 - I, rows times e and the cost times c make it
// e^2 H / c, so an eigenvalue becomes lam / (lam + (e^2 / c)(1 - lam)).
#pragma once
#include "layout.cuh"
#include "semidefinite.cuh"
#include "three.cuh"

constexpr real SNAP = 1e4;
constexpr real RHO = 1e-7;  // added to I - D: bounds the weights D / (I - D), and refinement takes it out again

DEVICE real *lam() { return tall_kept(CONES_KEPT); }         // rows: eigenvalues; of a second-order cone, the normal n
DEVICE real *root() { return tall_kept(CONES_KEPT + 1); }    // rows: the roots of the weights
DEVICE real *ends() { return tall_kept(CONES_KEPT + 2); }    // second-order cones: of (1, n), (1, -n), and the rest (3 each)
DEVICE real *basis() { return ends() + (3 * SOCS + 1) / 2 * 2; }  // exponential and power cones: V, by rows (9 each)
// Second-order cones: two vectors (n) that the staged rows are made of.
DEVICE real *vectors() {
    return header().workspace +
           (TALL ? 0 : (TALL_PASSING + CONES_KEPT + 2) * tall + (3 * SOCS + 1) / 2 * 2 + (9 * THREES + 1) / 2 * 2);
}

#if SEMIS
// Semidefinite cones: the eigenvectors of Z - S as the rows of Q', two matrices that pass, and the eigenvalues of Z and
// of S; of D, the eigenvalues are in the rows' lam, in the order of the vectors. The staged rows, and room to make them.
DEVICE real *Qt() { return vectors() + 2 * n * SOCS; }
DEVICE real *passing(int which) { return Qt() + (1 + which) * SQUARES; }
DEVICE real *spectrum_z() { return Qt() + 3 * SQUARES; }
DEVICE real *spectrum_s() { return spectrum_z() + ORDERS; }
DEVICE real *turned() { return spectrum_s() + ORDERS; }
DEVICE real *room() { return turned() + (SEMI - ROUND) * n; }
#endif

DEVICE real snapped(real z, real s) {
    z = larger(z, 0.0), s = larger(s, 0.0);
    if (z > SNAP * s) return 1.0;
    if (s > SNAP * z) return 0.0;
    return z + s > 0.0 ? z / (z + s) : 0.5;
}

// What is done with D: lam itself, 1 - lam, or 1/(1 - lam + RHO).
enum Map { ACTIVE, INACTIVE, INVERSE };

template <Map MAP> DEVICE real mapped(real value) {
    if (MAP == ACTIVE) return value;
    return MAP == INACTIVE ? 1.0 - value : 1.0 / (1.0 - value + RHO);
}

DEVICE real weight(real value) { return value * mapped<INVERSE>(value); }

// V and the eigenvalues of a symmetric 3 x 3 matrix D (00, 01, 02, 11, 12, 22), by Jacobi's rotations.
FUNCTION void eigen3(const real *D, real *V, real *values) {
    real A[3][3] = {{D[0], D[1], D[2]}, {D[1], D[3], D[4]}, {D[2], D[4], D[5]}};
    real U[3][3] = {{1.0, 0.0, 0.0}, {0.0, 1.0, 0.0}, {0.0, 0.0, 1.0}};
    LOOP for (int sweep = 0; sweep < 8; ++sweep) {
        UNROLL for (int pair = 0; pair < 3; ++pair) {
            const int p = pair == 2 ? 1 : 0, q = pair == 0 ? 1 : 2, r = 3 - p - q;
            if (fabs(A[p][q]) <= 1e-300) continue;
            const real theta = (A[q][q] - A[p][p]) / (2.0 * A[p][q]);
            const real tan = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
            const real cos = rsqrt(tan * tan + 1.0), sin = tan * cos;
            A[p][p] -= tan * A[p][q], A[q][q] += tan * A[p][q], A[p][q] = A[q][p] = 0.0;
            const real rp = A[r][p], rq = A[r][q];
            A[r][p] = A[p][r] = cos * rp - sin * rq, A[r][q] = A[q][r] = sin * rp + cos * rq;
            UNROLL for (int i = 0; i < 3; ++i) {
                const real up = U[i][p], uq = U[i][q];
                U[i][p] = cos * up - sin * uq, U[i][q] = sin * up + cos * uq;
            }
        }
    }
    UNROLL for (int i = 0; i < 3; ++i) {
        const real value = A[i][i], noise = 16.0 * 2.2e-16;
        values[i] = value < noise ? 0.0 : value > 1.0 - noise ? 1.0 : value;
        UNROLL for (int j = 0; j < 3; ++j) V[3 * i + j] = U[i][j];
    }
}

DEVICE bool contained(const real *v, real alpha, bool dual) {
    if (alpha < 0.0) {
        if (dual) {
            if (v[0] < 0.0 && v[2] > 0.0) return v[1] >= v[0] * (1.0 + log(-v[2] / v[0]));
            return v[0] == 0.0 && v[1] >= 0.0 && v[2] >= 0.0;
        }
        if (v[1] > 0.0 && v[2] > 0.0) return v[0] <= v[1] * log(v[2] / v[1]);
        return v[0] <= 0.0 && v[1] == 0.0 && v[2] >= 0.0;
    }
    const real a = dual ? alpha : 1.0, b = dual ? 1.0 - alpha : 1.0;
    return v[0] >= 0.0 && v[1] >= 0.0 && pow(v[0] / a, alpha) * pow(v[1] / b, 1.0 - alpha) >= fabs(v[2]);
}

// D of an exponential or a power cone: with B = (I + lambda Hess phi)^-1 for the boundary phi = 0 of K,
// D = I - B + B z z'B / z'Bz; B is I but for one direction a, with eigenvalue beta there.
FUNCTION void derivative3(const real *z, const real *s, real alpha, real *D) {
    const real u[3] = {z[0] - s[0], z[1] - s[1], z[2] - s[2]}, minus[3] = {-u[0], -u[1], -u[2]};
    const bool inside = contained(u, alpha, true), outside = contained(minus, alpha, false);
    UNROLL for (int i = 0; i < 6; ++i) D[i] = 0.0;
    if (inside || outside) {
        D[0] = D[3] = D[5] = inside ? outside ? 0.5 : 1.0 : 0.0;
        return;
    }
    real cos, sin, beta, za, zb;
    const real x = alpha < 0.0 ? s[0] : larger(s[0], 0.0), y = larger(s[1], 0.0), r2 = x * x + y * y;
    const bool some = r2 > 0.0;
    const real by_r = some ? rsqrt(r2) : 0.0;
    if (alpha < 0.0) {
        const real p = z[0] < 0.0 ? -z[0] : 0.0;
        cos = some ? y * by_r : 0.0, sin = some ? x * by_r : -1.0;
        const real bent = y * cos * cos;
        beta = bent + p > 0.0 ? bent / (bent + p) : bent;
        za = cos * z[0] - sin * z[1], zb = some ? cos * z[0] : p;
    } else {
        const real b = 1.0 - alpha, product = fabs(z[2] * s[2]);
        if (!(x > 0.0 && y > 0.0)) {
            const real along = y > 0.0 ? y : x, across = y > 0.0 ? z[0] : z[1], power = y > 0.0 ? b : alpha;
            D[0] = x > 0.0 ? 0.0 : 1.0, D[3] = y > 0.0 ? 0.0 : 1.0;
            D[5] = power < 0.5 ? 1.0 : power > 0.5 ? 0.0 : 2.0 * across / larger(along + 2.0 * across, 1e-300);
            return;
        }
        cos = y * by_r, sin = x * by_r;
        const real bent = (x * cos) * (y * sin);
        beta = bent / (bent + alpha * b * product);
        za = cos * z[0] - sin * z[1], zb = product * by_r;
    }
    const real scale = 1.0 / larger(fabs(za) + fabs(zb) + fabs(z[2]), 1e-300);
    za *= scale, zb *= scale;
    const real zc = z[2] * scale, total = beta * za * za + zb * zb + zc * zc;
    const real a[3] = {cos, -sin, 0.0};
    outer3(D, 1.0 - beta, a);
    if (total > 0.0) {
        const real v[3] = {cos * beta * za + sin * zb, cos * zb - sin * beta * za, zc};
        outer3(D, 1.0 / total, v);
    }
}

#if SEMIS
// The rows of Q become the eigenvectors of the symmetric matrices that they are; ends with a meeting.
FUNCTION void eigenvectors() {
    LOOP for (int c = warp(); c < SEMIS; c += WARPS) {
        const int k = order_of(c);
        real *Q = Qt() + square_of(c), *own = Q + lane() * k;
        shifted(Q, k);
        orthogonalize<false>(Q, Q, k, 1e-8);
        if (lane() < k) {
            const real by = rsqrt(inner(own, 1, own, 1, k));
            LOOP for (int i = 0; i < k; ++i) own[i] *= by;
        }
    }
    meet();
}

// Eigenvectors of the cones at (z, s), and the eigenvalues (z_i + z_j)/(z_i + z_j + s_i + s_j) of D; ends with a meeting.
template <class Scaled> DEVICE void decompose_semidefinite(const real *z, const real *s, const real *e, Scaled scaled) {
    real *T = passing(0), *Y = passing(1);
    each_entry([=](int c, int k, int i, int j) {
        const int first = first_of(c);
        Qt()[square_of(c) + i * k + j] = entry(z + first, i, j) - entry(s + first, i, j);
    });
    meet();
    eigenvectors();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c), first = first_of(c);
        T[own + i * k + j] = inner_entry(Qt() + own + i * k, z + first, j, k);
        Y[own + i * k + j] = inner_entry(Qt() + own + i * k, s + first, j, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        if (i != j) return;
        const int own = square_of(c) + i * k, at = vector_of(c) + i;
        const real zi = inner(Qt() + own, 1, T + own, 1, k), si = inner(Qt() + own, 1, Y + own, 1, k);
        const real value = snapped(zi, si);
        spectrum_z()[at] = value == 0.0 ? 0.0 : larger(zi, 0.0);
        spectrum_s()[at] = value == 1.0 ? 0.0 : larger(si, 0.0);
    });
    meet();
    each_entry([=](int c, int, int i, int j) {
        if (i > j) return;
        const int own = vector_of(c), first = first_of(c), at = first + packed(i, j);
        const real top = spectrum_z()[own + i] + spectrum_z()[own + j];
        const real total = top + spectrum_s()[own + i] + spectrum_s()[own + j];
        lam()[at] = scaled(total > 0.0 ? top / total : 0.5, e[first]);
        root()[at] = sqrt(weight(lam()[at]));
    });
    meet();
}

// v becomes f(D) v; begins and ends with a meeting.
template <Map MAP> DEVICE void apply_semidefinite(real *v) {
    real *T = passing(0), *Y = passing(1);
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        T[own + i * k + j] = inner_entry(Qt() + own + i * k, v + first_of(c), j, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        const real value = mapped<MAP>(lam()[first_of(c) + packed(i, j)]);
        Y[own + i * k + j] = value * inner(T + own + i * k, 1, Qt() + own + j * k, 1, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int q) {
        const int own = square_of(c);
        T[own + i * k + q] = inner(Qt() + own + i, k, Y + own + q, k, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        if (i > j) return;
        v[first_of(c) + packed(i, j)] = inner(T + own + i * k, 1, Qt() + own + j, k, k) * (i == j ? 1.0 : ROOT2);
    });
    meet();
}
#endif

// Eigenvalues and eigenvectors at (z, s), with the scales e of the rows and c of the cost; ends with a meeting.
FUNCTION void decompose(const real *z, const real *s, const real *e, real c) {
    auto scaled = [=](real value, real scale) {
        const real rest = scale * scale / c * (1.0 - value);
        return value + rest > 0.0 ? value / (value + rest) : value;
    };
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) {
        lam()[i] = i < ZEROS ? 1.0 : scaled(snapped(GLOBAL(z + i), GLOBAL(s + i)), e[i]);
        root()[i] = sqrt(weight(lam()[i]));
    }
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        real norm = 0.0, zn = 0.0, sn = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) norm += square(GLOBAL(z + i) - GLOBAL(s + i));
        norm = warp_sum(norm);
        const real by = norm > 0.0 ? rsqrt(norm) : 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
            const real normal = norm > 0.0 ? (GLOBAL(z + i) - GLOBAL(s + i)) * by : i == first + 1 ? 1.0 : 0.0;
            lam()[i] = normal, zn += normal * GLOBAL(z + i), sn += normal * GLOBAL(s + i);
        }
        zn = warp_sum(zn), sn = warp_sum(sn);
        if (lane() == 0) {
            const real z0 = GLOBAL(z + first), s0 = GLOBAL(s + first);
            real values[2], z_sum = 0.0, s_sum = 0.0;
            UNROLL for (int side = 0; side < 2; ++side) {
                const real zv = side ? z0 - zn : z0 + zn, sv = side ? s0 - sn : s0 + sn;
                values[side] = snapped(zv, sv);
                z_sum += values[side] == 0.0 ? 0.0 : larger(zv, 0.0);
                s_sum += values[side] == 1.0 ? 0.0 : larger(sv, 0.0);
            }
            ends()[3 * k] = scaled(values[0], e[first]), ends()[3 * k + 1] = scaled(values[1], e[first]);
            ends()[3 * k + 2] = scaled(z_sum + s_sum > 0.0 ? z_sum / (z_sum + s_sum) : 0.5, e[first]);
        }
    }
#if SEMIS
    decompose_semidefinite(z, s, e, scaled);
#endif
    LOOP for (int k = thread(); k < THREES; k += THREADS) {
        const int at = SEMI + 3 * k;
        real zk[3], sk[3], D[6], values[3];
        UNROLL for (int i = 0; i < 3; ++i) zk[i] = GLOBAL(z + at + i), sk[i] = GLOBAL(s + at + i);
        derivative3(zk, sk, alpha(k), D);
        eigen3(D, basis() + 9 * k, values);
        UNROLL for (int i = 0; i < 3; ++i) {
            lam()[at + i] = scaled(values[i], e[at]);
            root()[at + i] = sqrt(weight(lam()[at + i]));
        }
    }
#endif
    meet();
}

// v becomes f(D) v; linear row i belongs to thread i mod THREADS.
template <Map MAP> FUNCTION void apply_D(real *v) {
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) v[i] *= mapped<MAP>(lam()[i]);
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        const real v0 = v[first];
        real along = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) along += lam()[i] * v[i];
        along = warp_sum(along);
        const real up = 0.5 * mapped<MAP>(ends()[3 * k]) * (v0 + along);
        const real down = 0.5 * mapped<MAP>(ends()[3 * k + 1]) * (v0 - along), rest = mapped<MAP>(ends()[3 * k + 2]);
        if (lane() == 0) v[first] = last - first > 1 ? up + down : mapped<MAP>(ends()[3 * k]) * v0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32)
            v[i] = rest * (v[i] - lam()[i] * along) + lam()[i] * (up - down);
    }
#if SEMIS
    apply_semidefinite<MAP>(v);
#endif
    LOOP for (int k = thread(); k < THREES; k += THREADS) {
        const real *V = basis() + 9 * k;
        real *at = v + SEMI + 3 * k, turned[3];
        UNROLL for (int j = 0; j < 3; ++j)
            turned[j] = mapped<MAP>(lam()[SEMI + 3 * k + j]) * (V[j] * at[0] + V[3 + j] * at[1] + V[6 + j] * at[2]);
        UNROLL for (int i = 0; i < 3; ++i)
            at[i] = V[3 * i] * turned[0] + V[3 * i + 1] * turned[1] + V[3 * i + 2] * turned[2];
    }
#endif
}

#if SPARSE && CURVED
// Column j of W^(1/2) times the scaled A, in the curved cone that begins at row `first`: `entry(i)` is row i of the column
// as it is in memory, `put(i, value)` takes what comes of it, and `scale` is e_i d_j. See prepare_rows for the formulas.
template <class Entry, class Put> DEVICE void stage_column(int first, real scale, Entry entry, Put put) {
    if (first < ROUND) {
        const int k = block_of(first), count = start_of(k + 1) - first;
        const real *normal = lam() + first;
        const real up = weight(ends()[3 * k]), down = weight(ends()[3 * k + 1]), rest = sqrt(weight(ends()[3 * k + 2]));
        real g = 0.0;
        LOOP for (int i = 1; i < count; ++i) g += normal[i] * entry(i);
        g *= scale;
        const real head = entry(0) * scale, other = rest * g - sqrt(0.5 * down) * (head - g);
        put(0, count > 1 ? sqrt(0.5 * up) * (head + g) : sqrt(up) * head);
        LOOP for (int i = 1; i < count; ++i) put(i, rest * scale * entry(i) - normal[i] * other);
        return;
    }
    const real *V = basis() + 3 * (first - SEMI), column[3] = {entry(0), entry(1), entry(2)};
    UNROLL for (int i = 0; i < 3; ++i)
        put(i, scale * root()[first + i] * (V[i] * column[0] + V[3 + i] * column[1] + V[6 + i] * column[2]));
}
#elif !SPARSE
// For second-order cones, with g = n'A_1, the first row of W^(1/2) A is (w_+/2)^(1/2) (a_0 + g), and row i
// w_m^(1/2) a_i - n_i h with h = w_m^(1/2) g - (w_-/2)^(1/2) (a_0 - g). Call meet() after it.
DEVICE void prepare_rows(const real *A, const real *e, const real *d) {
#if CURVED
    LOOP for (int unit = thread(); unit < n * SOCS; unit += THREADS) {
        const int k = unit / n, j = unit - k * n, first = start_of(k), last = start_of(k + 1);
        const real *a = A + first * n + j;
        real g = 0.0;
        UNROLL_4 for (int i = first + 1; i < last; ++i) g += lam()[i] * GLOBAL(a + (i - first) * n);
        const real scale = e[first] * d[j], head = GLOBAL(a) * scale;
        g *= scale;
        const real up = weight(ends()[3 * k]), down = weight(ends()[3 * k + 1]), rest = weight(ends()[3 * k + 2]);
        vectors()[2 * k * n + j] = last - first > 1 ? sqrt(0.5 * up) * (head + g) : sqrt(up) * head;
        vectors()[(2 * k + 1) * n + j] = sqrt(rest) * g - sqrt(0.5 * down) * (head - g);
    }
#endif
#if SEMIS
    LOOP for (int c = 0; c < SEMIS; ++c) {
        const int first = first_of(c);
        congruent_rows(
            A + first * n, e[first], d, Qt() + square_of(c), order_of(c), room(), turned() + (first - ROUND) * n);
    }
#endif
}

// Row i of W^(1/2) times the scaled A, for i in a curved cone, by one warp and padded with zeros.
DEVICE void stage_row(int i, const real *A, const real *e, const real *d, real *row) {
#if CURVED
    const real *a = A + i * n;
    if (i < ROUND) {
        const int k = block_of(i);
        const real *vector = vectors() + 2 * k * n, scale = e[i] * sqrt(weight(ends()[3 * k + 2])), normal = lam()[i];
        const bool first = i == start_of(k);
        UNROLL for (int j = lane(); j < 16 * wide; j += 32)
            row[j] = j >= n ? 0.0 : first ? vector[j] : GLOBAL(a + j) * scale * d[j] - normal * vector[n + j];
        return;
    }
#if SEMIS
    if (i < SEMI) {
        UNROLL for (int j = lane(); j < 16 * wide; j += 32)
            row[j] = j < n ? root()[i] * turned()[(i - ROUND) * n + j] : 0.0;
        return;
    }
#endif
#if THREES
    const int k = (i - SEMI) / 3, part = i - SEMI - 3 * k;
    const real *V = basis() + 9 * k + part, scale = e[i] * root()[i];
    UNROLL for (int j = lane(); j < 16 * wide; j += 32) {
        real value = 0.0;
        if (j < n) UNROLL for (int l = 0; l < 3; ++l) value += V[3 * l] * GLOBAL(a + (l - part) * n + j);
        row[j] = j < n ? value * scale * d[j] : 0.0;
    }
#endif
#endif
}
#endif
