// Cones of positive semidefinite matrices, given as scaled vectors (upper triangle column by column, off-diagonal entries
// times sqrt 2): small matrices in the workspace, which the whole block multiplies and a warp decomposes.
//
// A matrix of a cone of order k is k x k by rows. `ORDER` is the largest order, at most the lanes of a warp; `SQUARES`
// and `ORDERS` are the sums of k^2 and of k over all cones. Eigenvalues and singular values come from one-sided Jacobi
// rotations: they are accurate relative to the largest, and those of a product of factors even relative to themselves.
#pragma once
#include "layout.cuh"

#if SEMIS

constexpr real ROOT2 = 1.4142135623730951, BY_ROOT2 = 0.70710678118654752;

// The first row and the order of a cone, and where its matrices and its vectors of k begin among those of all.
DEVICE int first_of(int c) { return GLOBAL(header().semis + 4 * c); }
DEVICE int order_of(int c) { return GLOBAL(header().semis + 4 * c + 1); }
DEVICE int square_of(int c) { return GLOBAL(header().semis + 4 * c + 2); }
DEVICE int vector_of(int c) { return GLOBAL(header().semis + 4 * c + 3); }

// The place of entry (i, j) in the vector, and the entry.
DEVICE int packed(int i, int j) { return i < j ? j * (j + 1) / 2 + i : i * (i + 1) / 2 + j; }
DEVICE real entry(const real *v, int i, int j) { return v[packed(i, j)] * (i == j ? 1.0 : BY_ROOT2); }

// f(c, k, i, j) for every entry of every cone, by all threads; where cones are many, by a warp for each.
template <class F> DEVICE void each_entry(F f) {
    const bool apart = SEMIS >= WARPS;
    LOOP for (int c = apart ? warp() : 0; c < SEMIS; c += apart ? WARPS : 1) {
        const int k = order_of(c);
        LOOP for (int at = apart ? lane() : thread(); at < k * k; at += apart ? 32 : THREADS) f(c, k, at / k, at % k);
    }
}

// sum_l a[l] b[l], with strides.
DEVICE real inner(const real *a, int by_a, const real *b, int by_b, int k) {
    real sum = 0.0;
    UNROLL_4 for (int l = 0; l < k; ++l) sum += a[l * by_a] * b[l * by_b];
    return sum;
}

// sum_l a[l] mat(v)[l][j].
DEVICE real inner_entry(const real *a, const real *v, int j, int k) {
    real sum = 0.0;
    UNROLL_4 for (int l = 0; l < k; ++l) sum += a[l] * entry(v, l, j);
    return sum;
}

// L with L L' = X over X, both symmetric or lower triangular and by columns, by one warp; ends with its meeting.
FUNCTION void cholesky(real *X, int k) {
    const int i = lane();
    LOOP for (int p = 0; p < k; ++p) {
        const real by = rsqrt(larger(X[p * k + p], 1e-300));
        __syncwarp();
        if (i < k) X[p * k + i] = i < p ? 0.0 : X[p * k + i] * by;
        __syncwarp();
        if (i < k && i > p) {
            const real l = X[p * k + i];
            LOOP for (int q = p + 1; q <= i; ++q) X[q * k + i] -= l * X[p * k + q];
        }
        __syncwarp();
    }
}

// Rotates the columns of W (by columns) until they are orthogonal, and those of X along; by one warp. `goal` is the
// cosine that counts as orthogonal after a last round, which squares it.
template <bool COMPANION> FUNCTION void orthogonalize(real *W, real *X, int k, real goal) {
    constexpr int SHARE = ORDER > 16 ? 2 : ORDER > 8 ? 4 : 8;  // lanes of a pair of columns
    const int pair = lane() / SHARE, part = lane() % SHARE, ring = ((k + 1) & ~1) - 1;
    LOOP for (int sweep = 0; sweep < 16; ++sweep) {
        real far = 0.0;
        LOOP for (int round = 0; round < ring; ++round) {
            // Every pair meets once in a sweep: the last column stands still, the others move round.
            const int p = pair == 0 ? ring : (round + pair) % ring, q = (round - pair + ring) % ring;
            const bool active = 2 * pair <= ring && p < k && q < k;
            real *a = W + p * k, *b = W + q * k, aa = 0.0, bb = 0.0, ab = 0.0;
            if (active)
                LOOP for (int i = part; i < k; i += SHARE) aa += a[i] * a[i], bb += b[i] * b[i], ab += a[i] * b[i];
            aa = lanes_sum<SHARE>(aa), bb = lanes_sum<SHARE>(bb), ab = lanes_sum<SHARE>(ab);
            const real square_cos = ab * ab, size = aa * bb;
            if (active && square_cos > 1e-30 * size) {
                far = larger(far, square_cos / size);
                const real zeta = (bb - aa) / (2.0 * ab);
                const real tan = (zeta < 0.0 ? -1.0 : 1.0) / (fabs(zeta) + sqrt(1.0 + zeta * zeta));
                const real cos = rsqrt(1.0 + tan * tan), sin = cos * tan;
                LOOP for (int i = part; i < k; i += SHARE) {
                    const real x = a[i], y = b[i];
                    a[i] = cos * x - sin * y, b[i] = sin * x + cos * y;
                }
                if (COMPANION) {
                    real *u = X + p * k, *v = X + q * k;
                    LOOP for (int i = part; i < k; i += SHARE) {
                        const real x = u[i], y = v[i];
                        u[i] = cos * x - sin * y, v[i] = sin * x + cos * y;
                    }
                }
            }
            __syncwarp();
        }
        if (warp_max(far) <= goal * goal) break;
    }
}

// A shift that makes the symmetric W positive definite and well conditioned, added to its diagonal; by one warp.
DEVICE real shifted(real *W, int k) {
    real sum = 0.0;
    LOOP for (int at = lane(); at < k * k; at += 32) sum += W[at] * W[at];
    const real norm = sqrt(warp_sum(sum)), shift = norm > 0.0 ? 2.0 * norm : 1.0;
    if (lane() < k) W[lane() * k + lane()] += shift;
    __syncwarp();
    return shift;
}

// W becomes tridiagonal, by Householder's reflections and one warp: the diagonal in its place, and the off-diagonal above
// it. Of step p, column p holds the vector v of the reflection and row p the w of the update W - v w' - w v'.
FUNCTION void tridiagonalize(real *W, int k) {
    const int i = lane();
    LOOP for (int p = 0; p + 2 < k; ++p) {
        const bool below = i > p && i < k;
        const real x = below ? W[i * k + p] : 0.0, norm = sqrt(warp_sum(x * x));
        const real head = W[(p + 1) * k + p], alpha = head > 0.0 ? -norm : norm, v = i == p + 1 ? x - alpha : x;
        const real by = norm > 0.0 ? 1.0 / (norm * (norm + fabs(head))) : 0.0;  // 2/v'v
        __syncwarp();
        if (below) W[i * k + p] = v;
        __syncwarp();
        real w = 0.0;
        if (below) UNROLL_4 for (int j = p + 1; j < k; ++j) w += W[j * k + i] * W[j * k + p];
        w = by * w;
        w -= 0.5 * by * warp_sum(below ? v * w : 0.0) * v;
        if (below) W[p * k + i] = w;
        __syncwarp();
        if (below) UNROLL_4 for (int j = p + 1; j < k; ++j) W[j * k + i] -= W[j * k + p] * w + W[p * k + j] * v;
        __syncwarp();
        if (i == 0) W[p * k + p + 1] = alpha;
    }
    __syncwarp();
}

// A lower bound of the least eigenvalue of the symmetric W, within 1e-6 of it, relatively where it is larger than one; W
// is overwritten; by one warp. Each lane counts the eigenvalues below a point of its own, by Sturm's sequence.
FUNCTION real least_eigenvalue(real *W, int k) {
    tridiagonalize(W, k);
    const int i = lane();
    const real own = i < k ? W[i * k + i] : 1e300, left = i > 0 && i < k ? fabs(W[(i - 1) * k + i]) : 0.0;
    const real right = i + 1 < k ? fabs(W[i * k + i + 1]) : 0.0;
    real low = -warp_max(i < k ? left + right - own : -1e300), high = -warp_max(-own);
    if (!(high - low < 1e300)) return -1e300;  // NaN or infinity
    LOOP for (int pass = 0; pass < 16 && high - low > 1e-6 * larger(1.0, fabs(low)); ++pass) {
        const real at = low + (high - low) * ((i + 1) / 33.0);
        real q = W[0] - at;
        bool clear = q > 0.0;
        LOOP for (int j = 1; j < k; ++j) {
            const real off = W[(j - 1) * k + j];
            q = W[j * k + j] - at - off * off / (clear ? larger(q, 1e-290) : 1.0);
            clear = clear && q > 0.0;
        }
        const real up = -warp_max(clear ? -1e300 : -at);  // the least point with an eigenvalue below
        low = larger(low, warp_max(clear ? at : -1e300)), high = smaller(high, up);
    }
    return low;
}

// out (rows of the cone, n): the vectors of M mat(a_j) M' for the scaled columns a_j of A, row by row; `room` for 8 k n
// numbers. Call meet() before it; ends with one.
FUNCTION void congruent_rows(const real *A, real scale, const real *d, const real *M, int k, real *room, real *out) {
    LOOP for (int first = 0; first < k; first += 8) {
        LOOP for (int unit = thread(); unit < k * n; unit += THREADS) {
            const int b = unit / n, j = unit - b * n;
            real sums[8];
            UNROLL for (int u = 0; u < 8; ++u) sums[u] = 0.0;
            UNROLL_4 for (int a = 0; a < k; ++a) {
                const real v = GLOBAL(A + packed(a, b) * n + j) * (a == b ? 1.0 : BY_ROOT2);
                UNROLL for (int u = 0; u < 8; ++u)
                    if (first + u < k) sums[u] += M[(first + u) * k + a] * v;
            }
            UNROLL for (int u = 0; u < 8; ++u)
                if (first + u < k) room[(u * k + b) * n + j] = sums[u];
        }
        meet();
        const int high = k - first < 8 ? k - first : 8;
        LOOP for (int unit = thread(); unit < high * n; unit += THREADS) {
            const int u = unit / n, j = unit - u * n, i = first + u;
            const real by = scale * d[j];
            LOOP for (int low = 0; low <= i; low += 8) {
                real sums[8];
                UNROLL for (int v = 0; v < 8; ++v) sums[v] = 0.0;
                UNROLL_4 for (int b = 0; b < k; ++b) {
                    const real t = room[(u * k + b) * n + j];
                    UNROLL for (int v = 0; v < 8; ++v)
                        if (low + v <= i) sums[v] += t * M[(low + v) * k + b];
                }
                UNROLL for (int v = 0; v < 8; ++v)
                    if (low + v <= i) out[packed(i, low + v) * n + j] = sums[v] * (low + v == i ? by : by * ROOT2);
            }
        }
        meet();
    }
}

#endif
