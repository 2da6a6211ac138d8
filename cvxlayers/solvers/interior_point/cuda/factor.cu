// The inverse of the Cholesky factor of a batch of matrices, one thread block for each: diagonal blocks of larger ones.
//
// Matrices of up to VARIABLES rows lie in larger ones, `row` numbers from one row to the next; only the lower triangle is
// read, and zeros are written above it. A matrix that is not positive definite leaves NaN; or, with the `diagonal` of what
// is factored, zeros in the columns of pivots that are nothing beside it.
#define WIDE_KEPT 1
#define WIDE_PASSING 8
#define TALL_PASSING 8
#define CONES_KEPT 1
#include "dense.cuh"

struct Arguments {
    const real *M;
    real *W;
    long long M_stride, W_stride;  // from one matrix to the next
    int M_row, W_row, order;
    const real *diagonal;          // or null
    long long diagonal_stride;
    const int *going;              // of each matrix, whether there is anything to do; or null: there is
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) factor(const Arguments a) {
    const long long B = blockIdx.x;
    if (a.going && !a.going[B]) return;
    const real *M = a.M + B * a.M_stride;
    real *W = a.W + B * a.W_stride;
    const int order = a.order;
    // Many loads at a time: one after the other, they would take longer than the factor.
    constexpr int AHEAD = 16;
    LOOP for (int first = thread(); first < size * size; first += AHEAD * THREADS) {
        real entry[AHEAD];
        UNROLL for (int u = 0; u < AHEAD; ++u) {
            const int i = (first + u * THREADS) / size, j = (first + u * THREADS) % size;
            entry[u] = i < order && j <= i ? GLOBAL(M + (long long)i * a.M_row + j) : i == j ? 1.0 : 0.0;
        }
        UNROLL for (int u = 0; u < AHEAD; ++u) {
            const int i = (first + u * THREADS) / size, j = (first + u * THREADS) % size;
            if (i < size && j / 8 <= i / 8) tile(i / 8, j / 8)[within(i % 8, j % 8)] = entry[u];
        }
    }
    LOOP for (int i = thread(); i < size; i += THREADS) {
        const real *own = a.diagonal ? a.diagonal + B * a.diagonal_stride + i : M + (long long)i * (a.M_row + 1);
        SHARED[PIVOTS_AT + i] = i < order ? GLOBAL(own) : 1.0;
    }
    meet();
    factorize();
    real good = 1.0;
    LOOP for (int i = thread(); i < order; i += THREADS) {
        const real pivot = tile(i / 8, i / 8)[within(i % 8, i % 8)];
        if (!(pivot > 0.0 && pivot < 1e300)) good = -1.0;
    }
    good = -reduced_max(-good);
    UNROLL_4 for (int at = thread(); at < size * size; at += THREADS) {
        const int i = at / size, j = at % size;
        if (i >= order || j >= order) continue;
        const real entry = j <= i ? tile(i / 8, j / 8)[within(i % 8, j % 8)] : 0.0;
        W[(long long)i * a.W_row + j] = good > 0.0 || a.diagonal ? entry : NAN;
    }
}
