// The matrix P + A'H^-1 A of a batch of large programs, of which solve.cu and linear_solve.cu leave the terms: the lower
// triangle of M = c d P d + STATIC + d (A'W A + R'R) d, and its diagonal once more, by tiles, one thread block for each.
//
// A block needs two strips of columns of A and R, of which copies into shared memory run ahead of the products. `launch.py`
// says the rows and columns of a tile, TILE, the rows of a strip that are one stage of copies, DEEP, and how many STAGES
// there are.
#include "block.cuh"

constexpr int n = VARIABLES, m = ROWS;
constexpr int STRIDE = TILE + 4;                 // between rows: keeps a warp off its own banks
constexpr int SPAN = n % 2 ? 1 : 2;              // numbers of one copy: rows begin at multiples of them
constexpr int ACROSS = TILE / SPAN, APART = THREADS / ACROSS;
constexpr int STAGE = DEEP * (2 * STRIDE + 1);   // of shared memory: two strips and their weights
constexpr int SIDE = (n + TILE - 1) / TILE, TILES = SIDE * (SIDE + 1) / 2;
static_assert(WARPS == 4, "a warp takes a quarter of a tile");

struct Arguments {
    const real *P, *A;
    long long P_stride, A_stride;  // from one problem to the next; 0 where all share one
    const int *going;              // as in large.cuh, from the first of these problems on; may be null: all do
    const real *rows, *weights, *scales;
    real *M, *diagonal;            // (n, n) and (n,) of a problem
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) gram(const Arguments a) {
    const int slot = blockIdx.x / TILES, index = blockIdx.x % TILES;
    if (a.going && !a.going[slot]) return;
    int I = 0;
    LOOP while ((I + 1) * (I + 2) / 2 <= index) ++I;
    const int J = index - I * (I + 1) / 2, g = lane() >> 2, t = lane() & 3;
    const int low = 32 * (warp() / 2), right = 32 * (warp() % 2);  // the quarter of this warp
    // Of each strip, this thread copies the entries of one column, or two, in every APART-th row.
    const int row = thread() / ACROSS, column = thread() % ACROSS * SPAN, at = row * STRIDE + column;
    const real *A = a.A + slot * a.A_stride + row * n + column, *weights = a.weights + (long long)slot * m;
    const real *R = a.rows + (long long)slot * (m - LINEAR) * n + (row - LINEAR) * n + column;  // where row LINEAR is the first
    const bool inside[2] = {TILE * I + column < n, TILE * J + column < n};
    real sums[2][4][4];  // tiles of 16 x 8
    UNROLL for (int u = 0; u < 2; ++u)
        UNROLL for (int v = 0; v < 4; ++v)
            UNROLL for (int e = 0; e < 4; ++e) sums[u][v][e] = 0.0;
    auto stage = [](int k) { return SHARED + k % STAGES * STAGE; };
    auto copy = [=](int k) {
        const int first = k * DEEP;
        if (first < m) {
            real *to = stage(k) + at;
            UNROLL for (int i = 0; i < DEEP; i += APART) {
                const real *from = (first + row + i < LINEAR ? A : R) + (first + i) * n;
                const bool there = first + row + i < m;
                copy_ahead<SPAN>(to + i * STRIDE, from + TILE * I, there && inside[0]);
                if (I != J) copy_ahead<SPAN>(to + (DEEP + i) * STRIDE, from + TILE * J, there && inside[1]);
            }
            if (thread() < DEEP)
                copy_ahead<1>(stage(k) + 2 * DEEP * STRIDE + thread(), weights + first + thread(), first + thread() < m);
        }
        copies_sent();
    };
    UNROLL for (int k = 0; k < STAGES - 1; ++k) copy(k);
    LOOP for (int k = 0; k * DEEP < m; ++k) {
        copies_came<STAGES - 2>();
        meet();
        copy(k + STAGES - 1);  // over what all have read
        if (I == J && low < right) continue;  // above the diagonal
        const real *rows = stage(k) + low + g, *columns = stage(k) + (I != J ? DEEP * STRIDE : 0) + right + g;
        UNROLL for (int d = 0; d < DEEP; d += 4) {
            const real weight = stage(k)[2 * DEEP * STRIDE + d + t];
            real entry[4];
            UNROLL for (int u = 0; u < 4; ++u) entry[u] = rows[(d + t) * STRIDE + 8 * u] * weight;
            UNROLL for (int v = 0; v < 4; ++v) {
                const real other = columns[(d + t) * STRIDE + 8 * v];
                UNROLL for (int u = 0; u < 2; ++u) multiply_tile(sums[u][v], entry[2 * u], entry[2 * u + 1], other);
            }
        }
    }
    const real *P = a.P + slot * a.P_stride, *d = a.scales + (long long)slot * (n + 2), c = GLOBAL(d + n), more = GLOBAL(d + n + 1);
    real *M = a.M + (long long)slot * n * n, *diagonal = a.diagonal + slot * n;
    UNROLL for (int u = 0; u < 2; ++u) {
        UNROLL for (int v = 0; v < 4; ++v) {
            UNROLL for (int e = 0; e < 4; ++e) {
                const int i = TILE * I + low + 16 * u + g + 8 * (e >> 1), j = TILE * J + right + 8 * v + 2 * t + (e & 1);
                if (i >= n || j > i) continue;
                const real sum = sums[u][v][e] + (c > 0.0 ? c * GLOBAL(P + i * n + j) : 0.0);
                const real value = GLOBAL(d + i) * GLOBAL(d + j) * sum + (i == j ? more : 0.0);
                M[i * n + j] = value;
                if (i == j) diagonal[i] = value;
            }
        }
    }
}
