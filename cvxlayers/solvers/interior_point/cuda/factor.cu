// The inverse of the Cholesky factor of a batch of matrices, one thread block for each: diagonal blocks of larger ones.
//
// Matrices of up to VARIABLES rows lie in larger ones, `row` numbers from one row to the next; only the lower triangle is
// read, and zeros are written above it. A matrix that is not positive definite leaves NaN.
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
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) factor(const Arguments a) {
    const long long B = blockIdx.x;
    const real *M = a.M + B * a.M_stride;
    real *W = a.W + B * a.W_stride;
    const int order = a.order;
    LOOP for (int at = thread(); at < size * size; at += THREADS) {
        const int i = at / size, j = at % size;
        if (j / 8 > i / 8) continue;
        const real entry = i < order && j <= i ? GLOBAL(M + (long long)i * a.M_row + j) : i == j ? 1.0 : 0.0;
        tile(i / 8, j / 8)[within(i % 8, j % 8)] = entry;
        if (i == j) SHARED[PIVOTS_AT + i] = entry;
    }
    meet();
    factorize();
    real good = 1.0;
    LOOP for (int i = thread(); i < order; i += THREADS) {
        const real pivot = tile(i / 8, i / 8)[within(i % 8, i % 8)];
        if (!(pivot > 0.0 && pivot < 1e300)) good = -1.0;
    }
    good = -reduced_max(-good);
    LOOP for (int at = thread(); at < order * order; at += THREADS) {
        const int i = at / order, j = at % order;
        const real entry = j <= i ? tile(i / 8, j / 8)[within(i % 8, j % 8)] : 0.0;
        W[(long long)i * a.W_row + j] = good > 0.0 ? entry : NAN;
    }
}
