// Dense matrices of one problem: products with matrices in global memory, and a Cholesky factor in shared memory.
//
// LANES threads share a row of a product, COLUMNS = ceil(n / LANES) entries each. TILES is how many 16 x 16 tiles of a
// Gram matrix a warp holds in registers at a time, CHUNK how many rows of the factor are staged in shared memory.
#pragma once
#include "block.cuh"

constexpr int GROUPS = THREADS / LANES;
constexpr int AHEAD = COLUMNS >= 8 ? 1 : 8 / COLUMNS;

// A v, |A| v, or the maxima instead of the sums of |A| v.
enum Product { PLAIN, ABSOLUTE, LARGEST };

template <Product PRODUCT> DEVICE real accumulate(real sum, real a, real v) {
    if (PRODUCT == PLAIN) return sum + a * v;
    return PRODUCT == LARGEST ? fmax(sum, fabs(a) * v) : sum + fabs(a) * v;
}

// R vectors, one `stride` after the other.
struct Vectors {
    real *at;
    int stride;
};

// out_r = A u_r, or what PRODUCT says, for A (m, n) by rows. Call meet() before it, if others wrote u, and after it.
template <int R, Product PRODUCT> FUNCTION void times_rows(const real *A, int m, int n, Vectors u, Vectors out) {
    const int l = thread() % LANES, group = thread() / LANES;
    real entries[R][COLUMNS];
    UNROLL for (int k = 0; k < COLUMNS; ++k) {
        const int j = l + LANES * k;
        UNROLL for (int r = 0; r < R; ++r) entries[r][k] = j < n ? u.at[r * u.stride + j] : 0.0;
    }
    LOOP for (int first = 0; first < m; first += GROUPS * AHEAD) {
        real a[AHEAD][COLUMNS];
        UNROLL for (int t = 0; t < AHEAD; ++t) {
            const int i = first + group + t * GROUPS;
            const real *row = A + i * n + l;
            UNROLL for (int k = 0; k < COLUMNS; ++k) a[t][k] = i < m && l + LANES * k < n ? row[LANES * k] : 0.0;
        }
        UNROLL for (int t = 0; t < AHEAD; ++t) {
            const int i = first + group + t * GROUPS;
            UNROLL for (int r = 0; r < R; ++r) {
                real v = 0.0;
                UNROLL for (int k = 0; k < COLUMNS; ++k) v = accumulate<PRODUCT>(v, a[t][k], entries[r][k]);
                v = PRODUCT == LARGEST ? lanes_max<LANES>(v) : lanes_sum<LANES>(v);
                if (l == 0 && i < m) out.at[r * out.stride + i] = v;
            }
        }
    }
}

// out_r = A'v_r, or what PRODUCT says. n is at most THREADS; several threads share a column where there are enough, and
// their parts meet in `parts` (R * THREADS). Thread j writes entry j. Call meet() before and after it.
template <int R, Product PRODUCT>
FUNCTION void times_columns(const real *A, int m, int n, Vectors v, Vectors out, real *parts) {
    const int shares = THREADS / n, share = thread() / n, j = thread() - share * n;
    real sums[R];
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
    if (share < shares) {
        constexpr int DEEP = 8;
        const int step = shares * n;
        const real *a = A + share * n + j;
        int i = share;
        LOOP for (; i + (DEEP - 1) * shares < m; i += DEEP * shares, a += DEEP * step) {
            real entry[DEEP];
            UNROLL for (int t = 0; t < DEEP; ++t) entry[t] = a[t * step];
            UNROLL for (int t = 0; t < DEEP; ++t)
                UNROLL for (int r = 0; r < R; ++r)
                    sums[r] = accumulate<PRODUCT>(sums[r], entry[t], v.at[r * v.stride + i + t * shares]);
        }
        LOOP for (; i < m; i += shares, a += step)
            UNROLL for (int r = 0; r < R; ++r) sums[r] = accumulate<PRODUCT>(sums[r], *a, v.at[r * v.stride + i]);
        UNROLL for (int r = 0; r < R; ++r) parts[(r * shares + share) * n + j] = sums[r];
    }
    meet();
    if (share == 0) {
        LOOP for (int other = 1; other < shares; ++other) {
            UNROLL for (int r = 0; r < R; ++r) {
                const real part = parts[(r * shares + other) * n + j];
                sums[r] = PRODUCT == LARGEST ? fmax(sums[r], part) : sums[r] + part;
            }
        }
        UNROLL for (int r = 0; r < R; ++r) out.at[r * out.stride + j] = sums[r];
    }
}

// A symmetric matrix by its lower triangle: 8 x 8 tiles, tile (I, J) with I >= J at I (I + 1) / 2 + J. Within a tile,
// columns are swapped by fours in every other pair of rows, so that a warp's fragments meet no bank twice.
DEVICE int tile_at(int I, int J) { return (I * (I + 1) / 2 + J) * 64; }
DEVICE int within(int r, int c) { return r * 8 + (c ^ ((r & 2) << 1)); }

struct Factor {
    real *L;       // the tiles
    real *pivots;  // 8 tiles entries: the diagonal before the elimination
    int n, tiles;
};

// L becomes sum_k w_k w_k' + base, the rows w_k (k < m) written by stage(k, row, n_padded) one warp at a time, and
// base(i, j) the other term (i, j < n). The diagonal is padded with ones. `rows` holds CHUNK * (16 ceil(n/16) + 4).
DEVICE int stage_stride(int n) { return (n + 15) / 16 * 16 + 4; }

template <class Stage, class Base>
DEVICE void gram(const Factor &f, int m, real *rows, Stage stage, Base base) {
    const int wide = (f.n + 15) / 16, total = wide * (wide + 1) / 2, stride = stage_stride(f.n);
    const int g = lane() >> 2, t = lane() & 3;
    LOOP for (int first = 0; first < total; first += WARPS * TILES) {
        real sums[TILES][8];
        int I[TILES], J[TILES];
        UNROLL for (int u = 0; u < TILES; ++u) {
            UNROLL for (int e = 0; e < 8; ++e) sums[u][e] = 0.0;
            const int index = first + warp() + u * WARPS;
            I[u] = (int)((sqrtf(8.0f * index + 1.0f) - 1.0f) * 0.5f);
            I[u] += (I[u] + 1) * (I[u] + 2) / 2 <= index;
            I[u] -= I[u] * (I[u] + 1) / 2 > index;
            J[u] = index - I[u] * (I[u] + 1) / 2;
            if (index >= total) I[u] = -1;
        }
        LOOP for (int k = 0; k < m; k += CHUNK) {
            LOOP for (int row = warp(); row < CHUNK; row += WARPS) {
                if (k + row < m)
                    stage(k + row, rows + row * stride, stride - 4);
                else
                    LOOP for (int j = lane(); j < stride - 4; j += 32) rows[row * stride + j] = 0.0;
            }
            meet();
            const int deep = m - k < CHUNK ? (m - k + 3) & ~3 : CHUNK;
            UNROLL for (int u = 0; u < TILES; ++u) {
                if (I[u] < 0) continue;
                const real *left = rows + t * stride + 16 * I[u] + g, *right = rows + t * stride + 16 * J[u] + g;
                LOOP for (int d = 0; d < deep; d += 4) {
                    const real a0 = left[d * stride], a1 = left[d * stride + 8];
                    multiply_tile(sums[u], a0, a1, right[d * stride]);
                    multiply_tile(sums[u] + 4, a0, a1, right[d * stride + 8]);
                }
            }
            meet();
        }
        UNROLL for (int u = 0; u < TILES; ++u) {
            UNROLL for (int e = 0; e < 8; e += 2) {
                const int row = 2 * I[u] + ((e >> 1) & 1), col = 2 * J[u] + (e >> 2);
                if (I[u] < 0 || row >= f.tiles || col > row) continue;
                real *at = f.L + tile_at(row, col) + within(g, 2 * t);
                at[0] = sums[u][e], at[1] = sums[u][e + 1];
            }
        }
    }
    meet();
    // A warp adds the other term to rows of its own.
    LOOP for (int i = warp(); i < 8 * f.tiles; i += WARPS) {
        LOOP for (int j = lane(); j <= i; j += 32) {
            real *at = f.L + tile_at(i / 8, j / 8) + within(i % 8, j % 8);
            const real value = i < f.n ? *at + base(i, j) : i == j ? 1.0 : 0.0;
            *at = value;
            if (i == j) f.pivots[i] = value;
        }
    }
    meet();
}

constexpr real LEAST_PIVOT = 1e-15;  // relative to the diagonal; a smaller one counts as infinite: its unknown is zero

// The Cholesky factor of the matrix in L, in place, with the inverses of the diagonal tiles in their places.
FUNCTION void factorize(const Factor &f) {
    const int g = lane() >> 2, t = lane() & 3;
    LOOP for (int k = 0; k < f.tiles; ++k) {
        real *diagonal = f.L + tile_at(k, k);
        const int below = 8 * (f.tiles - 1 - k);
        real X[36];
        if (warp() == 0 || warp() * 32 < below) {
            // Every thread factors the 8 x 8 tile for itself, and inverts it.
            UNROLL for (int i = 0; i < 8; ++i)
                UNROLL for (int j = 0; j <= i; ++j) X[i * (i + 1) / 2 + j] = diagonal[within(i, j)];
            UNROLL for (int j = 0; j < 8; ++j) {
                const real pivot = X[j * (j + 1) / 2 + j];
                const real inverse = pivot > LEAST_PIVOT * f.pivots[8 * k + j] ? rsqrt(pivot) : 0.0;
                X[j * (j + 1) / 2 + j] = inverse;
                UNROLL for (int i = j + 1; i < 8; ++i) X[i * (i + 1) / 2 + j] *= inverse;
                UNROLL for (int i = j + 1; i < 8; ++i)
                    UNROLL for (int l = j + 1; l <= i; ++l)
                        X[i * (i + 1) / 2 + l] -= X[i * (i + 1) / 2 + j] * X[l * (l + 1) / 2 + j];
            }
            UNROLL for (int j = 0; j < 8; ++j)
                UNROLL for (int i = j + 1; i < 8; ++i) {
                    real sum = X[i * (i + 1) / 2 + j] * X[j * (j + 1) / 2 + j];
                    UNROLL for (int l = j + 1; l < i; ++l)
                        sum += X[i * (i + 1) / 2 + l] * X[l * (l + 1) / 2 + j];
                    X[i * (i + 1) / 2 + j] = -sum * X[i * (i + 1) / 2 + i];
                }
            LOOP for (int r = thread(); r < below; r += THREADS) {
                real *row = f.L + tile_at(k + 1 + r / 8, k);
                real a[8];
                UNROLL for (int c = 0; c < 8; ++c) a[c] = row[within(r % 8, c)];
                UNROLL for (int c = 0; c < 8; ++c) {
                    real sum = 0.0;
                    UNROLL for (int l = 0; l <= c; ++l) sum += a[l] * X[c * (c + 1) / 2 + l];
                    row[within(r % 8, c)] = sum;
                }
            }
        }
        meet();
        if (thread() == 0) {
            UNROLL for (int i = 0; i < 8; ++i)
                UNROLL for (int j = 0; j <= i; ++j) diagonal[within(i, j)] = X[i * (i + 1) / 2 + j];
        }
        // Of the rest, subtract the product of the panel with itself; the units, two tiles high, go round the warps.
        int turn = 0;
        LOOP for (int I = k + 1; I < f.tiles; I += 2) {
            const bool two = I + 1 < f.tiles;
            const int last = two ? I + 1 : I;
            const real *left = f.L + tile_at(I, k), *under = f.L + tile_at(last, k);
            LOOP for (int J = k + 1 + ((warp() - turn) & (WARPS - 1)); J <= last; J += WARPS) {
                const bool upper = J <= I;
                real *C = f.L + tile_at(I, J) + within(g, 2 * t), *D = f.L + tile_at(last, J) + within(g, 2 * t);
                const real *right = f.L + tile_at(J, k);
                real c[4] = {0.0, 0.0, 0.0, 0.0};
                if (upper) c[0] = C[0], c[1] = C[1];
                if (two) c[2] = D[0], c[3] = D[1];
                UNROLL for (int h = 0; h < 8; h += 4) {
                    const int at = within(g, h + t);
                    multiply_tile(c, -left[at], -under[at], right[at]);
                }
                if (upper) C[0] = c[0], C[1] = c[1];
                if (two) D[0] = c[2], D[1] = c[3];
            }
            turn += last - k;
        }
        meet();
    }
}

// y_r becomes (L L')^-1 y_r, for R vectors of 8 tiles entries one after the other, the last ones zero.
// Begins with no meeting: call meet() after writing y; ends with one.
template <int R> FUNCTION void solve_factored(const Factor &f, real *y) {
    const int size = 8 * f.tiles, r = thread() / 8, i = thread() % 8;
    LOOP for (int k = 0; k < f.tiles; ++k) {
        const real *X = f.L + tile_at(k, k);
        if (warp() == 0) {
            real sum = 0.0;
            if (r < R) {
                UNROLL for (int j = 0; j < 8; ++j) sum += j <= i ? X[within(i, j)] * y[r * size + 8 * k + j] : 0.0;
            }
            __syncwarp();
            if (r < R) y[r * size + 8 * k + i] = sum;
        }
        meet();
        LOOP for (int row = 8 * (k + 1) + thread(); row < size; row += THREADS) {
            const real *l = f.L + tile_at(row / 8, k);
            real sums[R];
            UNROLL for (int q = 0; q < R; ++q) sums[q] = 0.0;
            UNROLL for (int j = 0; j < 8; ++j) {
                const real entry = l[within(row % 8, j)];
                UNROLL for (int q = 0; q < R; ++q) sums[q] += entry * y[q * size + 8 * k + j];
            }
            UNROLL for (int q = 0; q < R; ++q) y[q * size + row] -= sums[q];
        }
        meet();
    }
    LOOP for (int k = f.tiles - 1; k >= 0; --k) {
        const real *X = f.L + tile_at(k, k);
        if (warp() == 0) {
            real sum = 0.0;
            if (r < R) {
                UNROLL for (int j = 0; j < 8; ++j) sum += j >= i ? X[within(j, i)] * y[r * size + 8 * k + j] : 0.0;
            }
            __syncwarp();
            if (r < R) y[r * size + 8 * k + i] = sum;
        }
        meet();
        LOOP for (int col = thread(); col < 8 * k; col += THREADS) {
            const real *l = f.L + tile_at(k, col / 8);
            real sums[R];
            UNROLL for (int q = 0; q < R; ++q) sums[q] = 0.0;
            UNROLL for (int j = 0; j < 8; ++j) {
                const real entry = l[within(j, col % 8)];
                UNROLL for (int q = 0; q < R; ++q) sums[q] += entry * y[q * size + 8 * k + j];
            }
            UNROLL for (int q = 0; q < R; ++q) y[q * size + col] -= sums[q];
        }
        meet();
    }
}
