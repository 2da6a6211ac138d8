// Dense matrices of one problem: products with matrices in global memory, and the inverse Cholesky factor in shared
// memory, if it fits.
//
// LANES threads share a row of a product. TILES is how many 16 x 16 tiles of a Gram matrix a warp holds in registers at
// a time, CHUNK how many rows of its factor are staged in shared memory.
#pragma once
#include "product.cuh"

// An entry of a matrix in global memory, which the kernel itself may have written.
template <bool WRITTEN> DEVICE real fetched(const real *at) { return WRITTEN ? *at : GLOBAL(at); }

// out_r = A u_r, or what PRODUCT says, for A (rows, n) by rows. Call meet() before it, if others wrote u, and after it.
// Members of a cluster take equal parts of the rows.
template <int R, Product PRODUCT, int rows = m, bool WRITTEN = false> FUNCTION void times_rows(const real *A, Vectors u, Vectors out) {
    constexpr int COLUMNS = (n + LANES - 1) / LANES, GROUPS = THREADS / LANES, AHEAD = COLUMNS > 14 ? 2 : 28 / COLUMNS > 4 ? 4 : 28 / COLUMNS;
    constexpr bool HELD = COLUMNS <= 14;  // registers hold u, too
    const int l = thread() % LANES, group = thread() / LANES;
    real entries[R][HELD ? COLUMNS : 1];
    UNROLL for (int k = 0; k < COLUMNS && HELD; ++k) {
        const int j = l + LANES * k;
        UNROLL for (int r = 0; r < R; ++r) entries[r][k] = j < n ? u.at[r * u.stride + j] : 0.0;
    }
    constexpr int PART = (rows + CLUSTER - 1) / CLUSTER;  // the rows of a member
    const int from = member() * PART, to = from + PART < rows ? from + PART : rows;
    real *own = CLUSTER > 1 ? left() : out.at + from;
    const int stride = CLUSTER > 1 ? PART : out.stride;
    LOOP for (int first = from; first < to; first += GROUPS * AHEAD) {
        real a[AHEAD][COLUMNS];
        UNROLL for (int t = 0; t < AHEAD; ++t) {
            const int i = first + group + t * GROUPS;
            const real *row = A + i * n + l;
            UNROLL for (int k = 0; k < COLUMNS; ++k)
                a[t][k] = i < to && l + LANES * k < n ? fetched<WRITTEN>(row + LANES * k) : 0.0;
        }
        real sums[AHEAD][R];
        UNROLL for (int t = 0; t < AHEAD; ++t)
            UNROLL for (int r = 0; r < R; ++r) sums[t][r] = 0.0;
        UNROLL for (int k = 0; k < COLUMNS; ++k) {
            UNROLL for (int r = 0; r < R; ++r) {
                const int j = l + LANES * k;
                const real entry = HELD ? entries[r][HELD ? k : 0] : j < n ? u.at[r * u.stride + j] : 0.0;
                UNROLL for (int t = 0; t < AHEAD; ++t) sums[t][r] = accumulate<PRODUCT>(sums[t][r], a[t][k], entry);
            }
        }
        UNROLL for (int t = 0; t < AHEAD; ++t) {
            if (first + t * GROUPS >= to) break;
            const int i = first + group + t * GROUPS;
            UNROLL for (int r = 0; r < R; ++r) {
                real v = sums[t][r];
                v = PRODUCT == LARGEST ? lanes_max<LANES>(v) : lanes_sum<LANES>(v);
                if (l == 0 && i < to) own[r * stride + i - from] = v;
            }
        }
    }
    if (CLUSTER == 1) return;
    meet_all();
    LOOP for (int i = thread(); i < rows; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) out.at[r * out.stride + i] = taken(own + r * PART + i % PART, i / PART);
    turn();
}

// out_r = A'v_r, or what PRODUCT says, for A (rows, n). n is at most THREADS; several threads share a column where
// there are enough, and their parts meet. Thread j writes entry j. Call meet() before and after it.
template <int R, Product PRODUCT, int rows, bool WRITTEN = false> FUNCTION void times_columns(const real *A, Vectors v, Vectors out) {
    constexpr int PART = (rows + CLUSTER - 1) / CLUSTER;  // the rows of a member
    constexpr int SHARES = THREADS / n, EACH = (PART + SHARES - 1) / SHARES, TURNS = (EACH + 15) / 16, DEEP = TURNS ? (EACH + TURNS - 1) / TURNS : 0;
    const int from = member() * PART, to = from + PART < rows ? from + PART : rows;
    const int share = thread() / n, j = thread() - share * n;
    real sums[R], *parts = SHARED + PARTS_AT;
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
    if (share < SHARES) {
        LOOP for (int i = from + share; i < to; i += DEEP * SHARES) {
            real entry[DEEP > 0 ? DEEP : 1];
            const real *a = A + i * n + j;
            UNROLL for (int t = 0; t < DEEP; ++t) entry[t] = i + t * SHARES < to ? fetched<WRITTEN>(a + t * SHARES * n) : 0.0;
            UNROLL for (int t = 0; t < DEEP; ++t) {
                if (i + t * SHARES >= to) break;
                UNROLL for (int r = 0; r < R; ++r)
                    sums[r] = accumulate<PRODUCT>(sums[r], entry[t], v.at[r * v.stride + i + t * SHARES]);
            }
        }
        if (SHARES > 1) UNROLL for (int r = 0; r < R; ++r) parts[(r * SHARES + share) * n + j] = sums[r];
    }
    if (SHARES > 1) meet();
    if (share == 0) {
        UNROLL for (int other = 1; other < SHARES; ++other) {
            UNROLL for (int r = 0; r < R; ++r) {
                const real part = parts[(r * SHARES + other) * n + j];
                sums[r] = PRODUCT == LARGEST ? larger(sums[r], part) : sums[r] + part;
            }
        }
        UNROLL for (int r = 0; r < R; ++r) (CLUSTER > 1 ? left() + r * n : out.at + r * out.stride)[j] = sums[r];
    }
    if (CLUSTER == 1) return;
    meet_all();
    if (thread() < n) {
        UNROLL for (int r = 0; r < R; ++r) {
            real sum = 0.0;
            UNROLL for (int k = 0; k < CLUSTER; ++k) {
                const real part = taken(left() + r * n + thread(), k);
                sum = PRODUCT == LARGEST ? larger(sum, part) : sum + part;
            }
            out.at[r * out.stride + thread()] = sum;
        }
    }
    turn();
}

// out_r = A u_r, A'v_r and P u_r; see product.cuh.
template <int R, Product PRODUCT> DEVICE void times_A(Vectors u, Vectors out) { times_rows<R, PRODUCT>(header().A, u, out); }
template <int R, Product PRODUCT> DEVICE void times_At(Vectors v, Vectors out) { times_columns<R, PRODUCT, m>(header().A, v, out); }
template <int R, Product PRODUCT> DEVICE void times_P(Vectors u, Vectors out) { times_columns<R, PRODUCT, n>(header().P, u, out); }

// What the sparse matrices need; the dense ones are read where they are.
DEVICE void open_matrices(const word *, bool) {}

// Zero, or NaN if P or A holds NaN or infinity; of one thread of one member.
FUNCTION real check_matrices(bool quadratic) {
    const int first = thread() + THREADS * member(), step = THREADS * CLUSTER;
    real bad = 0.0;
    UNROLL_4 for (int k = first; k < m * n; k += step) bad += 0.0 * GLOBAL(header().A + k);
    if (quadratic) {
        UNROLL_4 for (int k = first; k < n * n; k += step) bad += 0.0 * GLOBAL(header().P + k);
    }
    return bad;
}

#if LARGE
#include "large.cuh"
#else

// A symmetric or triangular matrix by its lower triangle: 8 x 8 tiles, tile (I, J) with I >= J at I (I + 1) / 2 + J.
// Within a tile, columns are swapped by fours in every other pair of rows, so that a warp's fragments meet no bank
// twice.
DEVICE real *tile(int I, int J) { return SHARED + FACTOR_AT + (I * (I + 1) / 2 + J) * 64; }
DEVICE int within(int r, int c) { return r * 8 + (c ^ ((r & 2) << 1)); }

// The factor becomes sum_k w_k w_k' + base(i, j), padded with the identity, with rows w_k (k < m): `load(k, j)` is an entry as it is in memory,
// `scaled(k, j, entry)` that of w_k, and `whole(k)` says that stage(k, row) writes the row instead, by one warp.
template <class Load, class Scaled, class Whole, class Stage, class Base>
DEVICE void gram(Load load, Scaled scaled, Whole whole, Stage stage, Base base) {
    constexpr int TOTAL = wide * (wide + 1) / 2, PARTS = (16 * wide + 31) / 32, EACH = (CHUNK + WARPS - 1) / WARPS;
    const int g = lane() >> 2, t = lane() & 3;
    real *rows = SHARED + STAGED_AT;
    LOOP for (int first = 0; first < TOTAL; first += WARPS * TILES) {
        real sums[TILES][8];
        int left[TILES], right[TILES];  // first rows and columns of the tiles
        UNROLL for (int u = 0; u < TILES; ++u) {
            const int index = first + warp() + u * WARPS;
            int I = 0;
            LOOP while ((I + 1) * (I + 2) / 2 <= index) ++I;
            left[u] = index < TOTAL ? 16 * I : -1, right[u] = 16 * (index - I * (I + 1) / 2);
            UNROLL for (int e = 0; e < 8; ++e) {
                const int i = left[u] + g + 8 * ((e >> 1) & 1), j = right[u] + 8 * (e >> 2) + 2 * t + (e & 1);
                sums[u][e] = left[u] >= 0 && i < n && j < n ? base(i, j) : i == j ? 1.0 : 0.0;
            }
        }
        real entry[EACH][PARTS];
        auto fetch = [&](int k) {
            UNROLL for (int e = 0; e < EACH; ++e) {
                const int i = k + warp() + e * WARPS;
                UNROLL for (int part = 0; part < PARTS; ++part) {
                    const int j = lane() + 32 * part;
                    entry[e][part] = i < m && warp() + e * WARPS < CHUNK && j < n && !whole(i) ? load(i, j) : 0.0;
                }
            }
        };
        fetch(0);
        LOOP for (int k = 0; k < m; k += CHUNK) {
            UNROLL for (int e = 0; e < EACH; ++e) {
                const int i = k + warp() + e * WARPS;
                real *row = rows + (warp() + e * WARPS) * stage_stride;
                if (warp() + e * WARPS >= CHUNK) break;
                if (i < m && whole(i)) {
                    stage(i, row);
                } else {
                    UNROLL for (int part = 0; part < PARTS; ++part) {
                        const int j = lane() + 32 * part;
                        if (j < 16 * wide) row[j] = i < m && j < n ? scaled(i, j, entry[e][part]) : 0.0;
                    }
                }
            }
            meet();
            if (k + CHUNK < m) fetch(k + CHUNK);
            const int deep = m - k < CHUNK ? (m - k + 3) & ~3 : CHUNK;
            const real *at = rows + t * stage_stride + g;
            LOOP for (int d = 0; d < deep; d += 4, at += 4 * stage_stride) {
                UNROLL for (int u = 0; u < TILES; ++u) {
                    if (left[u] < 0) break;
                    const real a0 = at[left[u]], a1 = at[left[u] + 8];
                    multiply_tile(sums[u], a0, a1, at[right[u]]);
                    multiply_tile(sums[u] + 4, a0, a1, at[right[u] + 8]);
                }
            }
            meet();
        }
        UNROLL for (int u = 0; u < TILES; ++u) {
            UNROLL for (int e = 0; e < 8; e += 2) {
                const int row = left[u] / 8 + ((e >> 1) & 1), col = right[u] / 8 + (e >> 2);
                if (left[u] < 0 || row >= tiles || col > row) continue;
                real *at = tile(row, col) + within(g, 2 * t);
                at[0] = sums[u][e], at[1] = sums[u][e + 1];
                if (row == col && g / 2 == t) SHARED[PIVOTS_AT + 8 * row + g] = g % 2 ? at[1] : at[0];
            }
        }
    }
    meet();
}

constexpr real LEAST_PIVOT = 1e-15;  // relative to the diagonal; a smaller one counts as infinite: its unknown is zero

// Tile (k, k) becomes the inverse of its Cholesky factor, by one warp. Every lane factors it; lane j solves for column j of
// the inverse in the same steps, which are the longest chain of all.
DEVICE void invert_diagonal(int k) {
    real *at = tile(k, k), L[36], x[8];
    const int j = lane() & 7;
    UNROLL for (int i = 0; i < 8; ++i) {
        x[i] = i == j ? 1.0 : 0.0;
        UNROLL for (int l = 0; l <= i; ++l) L[i * (i + 1) / 2 + l] = at[within(i, l)];
    }
    UNROLL for (int l = 0; l < 8; ++l) {
        const real pivot = L[l * (l + 1) / 2 + l];
        const real inverse = pivot > LEAST_PIVOT * SHARED[PIVOTS_AT + 8 * k + l] ? rsqrt(pivot) : 0.0;
        UNROLL for (int i = l + 1; i < 8; ++i) L[i * (i + 1) / 2 + l] *= inverse;
        x[l] *= inverse;
        UNROLL for (int i = l + 1; i < 8; ++i) {
            x[i] -= L[i * (i + 1) / 2 + l] * x[l];
            UNROLL for (int c = l + 1; c <= i; ++c)
                L[i * (i + 1) / 2 + c] -= L[i * (i + 1) / 2 + l] * L[c * (c + 1) / 2 + l];
        }
    }
    __syncwarp();
    if (lane() < 8) UNROLL for (int i = 0; i < 8; ++i) at[within(i, j)] = x[i];
    __syncwarp();
}

// From the matrix in the tiles to the inverse of its Cholesky factor, in place.
FUNCTION void factorize() {
    const int g = lane() >> 2, t = lane() & 3;
    if (warp() == 0) invert_diagonal(0);
    meet();
    LOOP for (int k = 0; k + 1 < tiles; ++k) {
        // The panel below the diagonal, times the transposed inverse: two tiles a warp.
        const real *X = tile(k, k);
        LOOP for (int I = k + 1 + 2 * warp(); I < tiles; I += 2 * WARPS) {
            const bool two = I + 1 < tiles;
            real *up = tile(I, k), *low = tile(two ? I + 1 : I, k), c[4] = {0.0, 0.0, 0.0, 0.0};
            UNROLL for (int h = 0; h < 8; h += 4) {
                const int at = within(g, h + t);
                multiply_tile(c, up[at], low[at], X[at]);
            }
            __syncwarp();
            const int at = within(g, 2 * t);
            up[at] = c[0], up[at + 1] = c[1];
            if (two) low[at] = c[2], low[at + 1] = c[3];
        }
        meet();
        // Of the rest, subtract the product of the panel with itself; the units, two tiles high, go round the warps.
        // The first warp goes ahead with the next diagonal tile instead, which is the longest chain of all.
        auto subtract = [&](int I, int J, bool upper, bool lower) {
            real *C = tile(I, J) + within(g, 2 * t), *D = tile(I + (lower ? 1 : 0), J) + within(g, 2 * t);
            const real *left = tile(I, k), *under = tile(I + (lower ? 1 : 0), k), *right = tile(J, k);
            real c[4] = {0.0, 0.0, 0.0, 0.0};
            if (upper) c[0] = C[0], c[1] = C[1];
            if (lower) c[2] = D[0], c[3] = D[1];
            UNROLL for (int h = 0; h < 8; h += 4) {
                const int at = within(g, h + t);
                multiply_tile(c, -left[at], -under[at], right[at]);
            }
            if (upper) C[0] = c[0], C[1] = c[1];
            if (lower) D[0] = c[2], D[1] = c[3];
        };
        if (warp() == 0) {
            subtract(k + 1, k + 1, true, false);
            __syncwarp();
            invert_diagonal(k + 1);
        }
        const int others = WARPS > 1 ? WARPS - 1 : 1, self = WARPS > 1 ? warp() - 1 : 0;
        if (self >= 0) {
            int next = self;  // units until the next of this warp
            LOOP for (int I = k + 1; I < tiles; I += 2) {
                const bool two = I + 1 < tiles;
                int J = k + 1 + next;
                const int last = two ? I + 1 : I;
                LOOP for (; J <= last; J += others) subtract(I, J, J <= I && J + I > 2 * k + 2, two);
                next = J - last - 1;
            }
        }
        meet();
    }
    // The off-diagonal tiles become -X_II L_IJ, two at a time.
    LOOP for (int unit = warp(); unit < tiles * tiles / 4; unit += WARPS) {
        int I = 1, left = unit;
        LOOP while (left >= (I + 1) / 2) left -= (I + 1) / 2, ++I;
        const int J = 2 * left;
        const bool two = J + 1 < I;
        real *first = tile(I, J), *second = tile(I, two ? J + 1 : J), c[4] = {0.0, 0.0, 0.0, 0.0};
        const real *X = tile(I, I);
        UNROLL for (int h = 0; h < 8; h += 4) {
            const int at = within(h + t, g);
            multiply_tile(c, -first[at], -second[at], X[within(g, h + t)]);
        }
        __syncwarp();
        first[within(2 * t, g)] = c[0], first[within(2 * t + 1, g)] = c[1];
        if (two) second[within(2 * t, g)] = c[2], second[within(2 * t + 1, g)] = c[3];
    }
    meet();
    // Row by row: W_IJ = sum_K (-X_II L_IK) W_KJ over J <= K < I.
    LOOP for (int I = 1; I < tiles; ++I) {
        const int J = 2 * warp();
        constexpr int UNITS = (tiles / 2 + WARPS - 1) / WARPS > 0 ? (tiles / 2 + WARPS - 1) / WARPS : 1;
        real c[UNITS][4];
        UNROLL for (int u = 0; u < UNITS; ++u) {
            const int at_J = J + 2 * WARPS * u;
            UNROLL for (int e = 0; e < 4; ++e) c[u][e] = 0.0;
            LOOP for (int K = at_J; K < I; ++K) {
                const real *first = tile(K, at_J), *second = tile(K, at_J + 1), *row = tile(I, K);
                UNROLL for (int h = 0; h < 8; h += 4) {
                    const int at = within(h + t, g);
                    multiply_tile(c[u], first[at], K > at_J ? second[at] : 0.0, row[within(g, h + t)]);
                }
            }
        }
        meet();
        UNROLL for (int u = 0; u < UNITS; ++u) {
            const int at_J = J + 2 * WARPS * u;
            if (at_J < I) {
                real *out = tile(I, at_J);
                out[within(2 * t, g)] = c[u][0], out[within(2 * t + 1, g)] = c[u][1];
            }
            if (at_J + 1 < I) {
                real *out = tile(I, at_J + 1);
                out[within(2 * t, g)] = c[u][2], out[within(2 * t + 1, g)] = c[u][3];
            }
        }
        meet();
    }
}

// y_r becomes (L L')^-1 y_r = W'W y_r, for R vectors, `size` after one another, the entries after n zero. Two threads
// take a row. Call meet() before it; ends with one.
template <int R> FUNCTION void solve_factored(real *y) {
    static_assert(THREADS >= 2 * size, "two threads a row");
    const int row = thread() / 2, half = thread() % 2, I = row / 8, i = row % 8;
    real sums[R];
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
    if (row < size) {
        LOOP for (int J = half; J <= I; J += 2) {
            const real *w = tile(I, J), *v = y + 8 * J;
            UNROLL for (int c = 0; c < 8; ++c) {
                const real entry = w[within(i, c)];
                UNROLL for (int r = 0; r < R; ++r) sums[r] += entry * v[r * size + c];
            }
        }
    }
    UNROLL for (int r = 0; r < R; ++r) sums[r] = lanes_sum<2>(sums[r]);
    meet();
    if (row < size && half == 0) UNROLL for (int r = 0; r < R; ++r) y[r * size + row] = sums[r];
    meet();
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
    if (row < size) {
        LOOP for (int K = I + half; K < tiles; K += 2) {
            const real *w = tile(K, I), *v = y + 8 * K;
            UNROLL for (int c = 0; c < 8; ++c) {
                const real entry = w[within(c, i)];
                UNROLL for (int r = 0; r < R; ++r) sums[r] += entry * v[r * size + c];
            }
        }
    }
    UNROLL for (int r = 0; r < R; ++r) sums[r] = lanes_sum<2>(sums[r]);
    meet();
    if (row < size && half == 0) UNROLL for (int r = 0; r < R; ++r) y[r * size + row] = sums[r];
    meet();
}

#endif
