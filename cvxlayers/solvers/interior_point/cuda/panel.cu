// Products of blocks of a batch of matrices (n, n), by tiles, one thread block for each: what a Cholesky factor by columns
// of blocks needs between its diagonal blocks.
//
// With `update`, C becomes C - A B', of which only the lower triangle is wanted: C begins on the diagonal of its matrix.
// Without, C becomes A B', with a lower triangular B. Rows are n numbers apart, matrices n n; `depth`, the columns of A and
// of B, is a multiple of DEEP, and where n is even, rows begin at multiples of 16 bytes. Copies into shared memory run
// ahead of the products, as in gram.cu.
#include "block.cuh"

constexpr int n = VARIABLES;
constexpr int SPAN = n % 2 ? 1 : 2;  // numbers of one copy: rows begin at multiples of them
constexpr int ACROSS = DEEP / SPAN, APART = THREADS / ACROSS;
constexpr int STAGE = 2 * TILE * DEEP;  // of shared memory: rows of A and rows of B
static_assert(WARPS == 4, "a warp takes a quarter of a tile");
static_assert(DEEP == 16 && APART % 4 == 0, "rows that a thread copies have their fours in the same order");

struct Arguments {
    const real *A, *B;
    real *C;
    const int *going;  // of each matrix, whether there is anything to do; may be null: there is
    int rows, columns, depth, update;  // of C, of A and B
};

// In shared memory fours of a row change places with its number, so that a warp's fragments meet no bank twice.
DEVICE int swapped(int row, int k) { return k ^ (row & 3) << 2; }

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) panel(const Arguments a) {
    const int across = (a.columns + TILE - 1) / TILE, tiles = (a.rows + TILE - 1) / TILE * across;
    const int slot = blockIdx.x / tiles, I = blockIdx.x % tiles / across, J = blockIdx.x % tiles % across;
    if ((a.going && !a.going[slot]) || (a.update && I < J)) return;
    const int triangle = TILE * (J + 1), depth = a.update || a.depth < triangle ? a.depth : triangle;
    const int g = lane() >> 2, t = lane() & 3;
    const int low = 32 * (warp() / 2), right = 32 * (warp() % 2);  // the quarter of this warp
    const int row = thread() / ACROSS, column = thread() % ACROSS * SPAN;  // this thread copies every APART-th row
    const long long matrix = (long long)slot * n * n;
    const real *A = a.A + matrix + (TILE * I + row) * n + column, *B = a.B + matrix + (TILE * J + row) * n + column;
    auto stage = [](int k) { return SHARED + k % STAGES * STAGE; };
    auto copy = [=](int k) {
        const int first = k * DEEP;
        if (first < depth) {
            real *to = stage(k) + row * DEEP + swapped(row, column);
            UNROLL for (int i = 0; i < TILE; i += APART) {
                copy_ahead<SPAN>(to + i * DEEP, A + first + i * n, TILE * I + row + i < a.rows);
                copy_ahead<SPAN>(to + (TILE + i) * DEEP, B + first + i * n, TILE * J + row + i < a.columns);
            }
        }
        copies_sent();
    };
    UNROLL for (int k = 0; k < STAGES - 1; ++k) copy(k);
    // Where the e-th number of a tile of 16 x 8 is in C.
    const int first_row = TILE * I + low + g, first_column = TILE * J + right + 2 * t;
    auto row_of = [=](int u, int e) { return first_row + 16 * u + 8 * (e >> 1); };
    auto column_of = [=](int v, int e) { return first_column + 8 * v + (e & 1); };
    real *C = a.C + matrix, sums[2][4][4];  // A B', or A B' - C
    UNROLL for (int u = 0; u < 2; ++u)
        UNROLL for (int v = 0; v < 4; ++v)
            UNROLL for (int e = 0; e < 4; ++e) sums[u][v][e] = 0.0;
    if (a.update) {
        // Instead of what is outside, any entry: loads without conditions are on their way all at once.
        UNROLL for (int u = 0; u < 2; ++u) {
            UNROLL for (int v = 0; v < 4; ++v) {
                UNROLL for (int e = 0; e < 4; ++e) {
                    const int i = row_of(u, e), j = column_of(v, e);
                    sums[u][v][e] = C[(i < a.rows ? i : 0) * n + (j < a.columns ? j : 0)];
                }
            }
        }
        UNROLL for (int u = 0; u < 2; ++u)
            UNROLL for (int v = 0; v < 4; ++v)
                UNROLL for (int e = 0; e < 4; ++e) sums[u][v][e] = -sums[u][v][e];
    }
    LOOP for (int k = 0; k * DEEP < depth; ++k) {
        copies_came<STAGES - 2>();
        meet();
        copy(k + STAGES - 1);  // over what all have read
        const real *rows = stage(k) + (low + g) * DEEP, *columns = stage(k) + (TILE + right + g) * DEEP;
        UNROLL for (int d = 0; d < DEEP; d += 4) {
            const int at = swapped(g, d) + t;
            real own[4];
            UNROLL for (int u = 0; u < 4; ++u) own[u] = rows[8 * u * DEEP + at];
            UNROLL for (int v = 0; v < 4; ++v) {
                const real other = columns[8 * v * DEEP + at];
                UNROLL for (int u = 0; u < 2; ++u) multiply_tile(sums[u][v], own[2 * u], own[2 * u + 1], other);
            }
        }
    }
    UNROLL for (int u = 0; u < 2; ++u) {
        UNROLL for (int v = 0; v < 4; ++v) {
            UNROLL for (int e = 0; e < 4; ++e) {
                const int i = row_of(u, e), j = column_of(v, e);
                if (i >= a.rows || j >= a.columns || (a.update && j > i)) continue;
                C[i * n + j] = a.update ? -sums[u][v][e] : sums[u][v][e];
            }
        }
    }
}
