// What is where in shared memory, for one shape of program.
//
// The shape is compiled in, so that addresses are constants: VARIABLES and ROWS, the rows of the cones (ZEROS, LINEAR,
// ROUND, SEMI: the first row after the zero, the nonnegative, the second-order and the semidefinite cones), the numbers
// of cones SOCS, SEMIS, THREES and EXPONENTIALS, and the sizes of semidefinite ones (see semidefinite.cuh).
// `launch.py` knows the same sizes; TALL says whether the vectors of ROWS are in shared memory, too, LARGE whether the factor
// is not (see large.cuh), and CLUSTER how many blocks work on a problem. SPARSE says that the program has a pattern, which
// sparse.cuh knows; there, WIDE and FACTOR say whether the vectors of VARIABLES and the factor are in shared memory.
#pragma once
#include "block.cuh"

constexpr int n = VARIABLES, m = ROWS;
DEVICE constexpr int even(int count) { return (count + 1) & ~1; }
constexpr int tall = even(m);
#if SPARSE
constexpr int size = even(n), pivots = even(PIVOTS);
#else
constexpr int tiles = (n + 7) / 8, size = 8 * tiles;  // vectors of n are padded to whole tiles
constexpr int wide = (n + 15) / 16;                       // tiles of 16 of a Gram matrix
constexpr int stage_stride = 16 * wide + 4;               // between staged rows: keeps a warp off its own banks
#endif
#define CURVED (SOCS + SEMIS + THREES > 0)  // any cone beside the zero and the nonnegative one

struct Header {
    const real *P, *q, *A, *b;
    const int *starts, *block;  // second-order cones: first rows (SOCS + 1), and the cone of a row (ROUND - LINEAR)
    const int *semis;           // semidefinite cones: first row, order, and offsets of their matrices and vectors (4 each)
    const real *alphas;         // of the power cones
    real *workspace;
    real c, most;               // scale of the cost; the largest entry of the scaled A
    int quadratic, refinements;
    real *rows, *weights, *scales;  // see large.cuh
    const real *factor;
    long long turn;             // see cluster.cuh
#if SPARSE
    real *values;               // the part of the workspace that is sparse.cuh's
    const word *table;
#endif
};

#if SPARSE
constexpr int HEADER = 20;  // doubles that the header takes
#else
constexpr int HEADER = 18;
#endif
static_assert(sizeof(Header) <= 8 * HEADER, "make room for the header");
DEVICE Header &header() { return *reinterpret_cast<Header *>(SHARED); }

#if SPARSE
constexpr int DIRECTORY = 42, FACTORED = even(ENTRIES + PIVOTS + 2);
constexpr int VALUES = even(A_ENTRIES + 1) + even(P_ENTRIES + 1) + even(STAGED + 1);
constexpr int DIRECTORY_AT = HEADER;
constexpr int REDUCE_AT = DIRECTORY_AT + even(DIRECTORY);
constexpr int EXCHANGE_AT = REDUCE_AT;  // there are no clusters
constexpr int SOLVED_AT = REDUCE_AT + REDUCE_SIZE;
constexpr int FACTOR_AT = SOLVED_AT + 4 * pivots;
constexpr int WIDE_AT = FACTOR_AT + (FACTOR ? FACTORED : 0);
constexpr int TALL_AT = WIDE_AT + (WIDE ? (WIDE_KEPT + WIDE_PASSING) * size : 0);
constexpr int KEPT_AT = TALL_AT + TALL_PASSING * tall;
constexpr int WORKING = VALUES + (FACTOR ? 0 : FACTORED) + (WIDE ? 0 : (WIDE_KEPT + WIDE_PASSING) * size);

DEVICE real *factor() { return FACTOR ? SHARED + FACTOR_AT : header().values + VALUES; }
DEVICE real *wide_kept(int k) {
    return (WIDE ? SHARED + WIDE_AT : header().values + VALUES + (FACTOR ? 0 : FACTORED)) + k * size;
}
DEVICE real *wide_passing(int k) { return wide_kept(WIDE_KEPT + k); }
#else
constexpr int FACTOR_AT = HEADER;
constexpr int PIVOTS_AT = FACTOR_AT + (LARGE ? 0 : tiles * (tiles + 1) / 2 * 64);
constexpr int REDUCE_AT = PIVOTS_AT + size;
constexpr int PARTS_AT = REDUCE_AT + REDUCE_SIZE;
constexpr int EXCHANGE_AT = PARTS_AT + 2 * THREADS;
constexpr int WIDE_AT = EXCHANGE_AT + EXCHANGE;
constexpr int STAGED_AT = WIDE_AT + WIDE_KEPT * size;  // staged rows lie over what is dead while the matrix is formed
constexpr int STAGED = CHUNK * stage_stride;
constexpr int PASSING = WIDE_PASSING * size + (TALL ? TALL_PASSING * tall : 0);
constexpr int KEPT_AT = STAGED_AT + (STAGED > PASSING ? STAGED : PASSING);
constexpr int TALL_AT = STAGED_AT + WIDE_PASSING * size;  // of the passing ones; the others begin at KEPT_AT
constexpr int WORKING = 0;  // numbers of the workspace that come before all others

// The k-th of the vectors of n that are kept, and of those that are dead while the matrix is formed.
DEVICE real *wide_kept(int k) { return SHARED + WIDE_AT + k * size; }
DEVICE real *wide_passing(int k) { return SHARED + STAGED_AT + k * size; }
#endif

// The first row of a second-order cone, the cone of a row, and the exponent of a cone (see three.cuh).
DEVICE int start_of(int k) { return GLOBAL(header().starts + k); }
DEVICE int block_of(int i) { return GLOBAL(header().block + i - LINEAR); }
DEVICE real alpha(int k) { return k < EXPONENTIALS ? -1.0 : GLOBAL(header().alphas + k - EXPONENTIALS); }

// The same for vectors of m.
DEVICE real *tall_passing(int k) {
    if (TALL) return SHARED + TALL_AT + k * tall;
    return header().workspace + k * tall;
}
DEVICE real *tall_kept(int k) {
    if (TALL) return SHARED + KEPT_AT + k * tall;
    return header().workspace + (TALL_PASSING + k) * tall;
}

#include "cluster.cuh"

template <int SUMS, int MAXIMA> DEVICE void reduce(real (&sums)[SUMS], real (&maxima)[MAXIMA]) {
    reduce<SUMS, MAXIMA>(SHARED + REDUCE_AT, sums, maxima);
}

template <int SUMS> DEVICE void reduce(real (&sums)[SUMS]) { reduce<SUMS, 0>(SHARED + REDUCE_AT, sums, nullptr); }

FUNCTION real reduced_sum(real v) {
    reduce<1, 0>(SHARED + REDUCE_AT, &v, nullptr);
    return v;
}

FUNCTION real reduced_max(real v) {
    reduce<0, 1>(SHARED + REDUCE_AT, nullptr, &v);
    return v;
}
