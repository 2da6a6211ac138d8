// The matrix P + A'W A that every direction is solved with, at the weights W that the cones have; to be included after them.
#pragma once
#if SPARSE
#include "sparse.cuh"
#else
#include "dense.cuh"
#endif
#include "scales.cuh"

constexpr real STATIC = 1e-10;  // added to the diagonal of P, for matrices with entries of size one

// Factor c d P d + STATIC + B'B, with the rows B = W^(1/2) e A d; a large matrix, when the kernel is resumed. Call meet()
// before it; ends with one.
#if SPARSE
FUNCTION void factor_normal() {
    const real c = header().c, *a = A_values(), *p = P_values();
    const bool quadratic = header().quadratic;
    real *B = B_values(), *U = factor();
    LOOP for (int k = thread(); k < STAGED_LINEAR; k += THREADS) {
        const int at = listed(A_AT, k), i = at / n, j = at - i * n;
        B[k] = a[k] * root()[i] * e()[i] * d()[j];
    }
#if CURVED
    LOOP for (int unit = thread(); unit < UNITS; unit += THREADS) {
        const int first = listed(UNIT_LIST, 4 * unit), j = listed(UNIT_LIST, 4 * unit + 1);
        const int at = listed(UNIT_LIST, 4 * unit + 2), stride = listed(UNIT_LIST, 4 * unit + 3);
        stage_column(
            first, e()[first] * d()[j], [=](int i) { return a[listed(UNIT_ENTRIES, at - STAGED_LINEAR + i * stride)]; },
            [=](int i, real value) { B[at + i * stride] = value; });
    }
#endif
    LOOP for (int k = thread(); k < ENTRIES; k += THREADS) U[k] = k < n ? STATIC : k < PIVOTS ? -1.0 : 0.0;
    meet();
    LOOP for (int k = thread(); k < P_ENTRIES && quadratic; k += THREADS) {
        const int at = listed(P_AT, k), i = at / n, j = at - i * n;
        U[listed(P_PLACE, k)] += c * d()[i] * d()[j] * p[k];
    }
    LOOP for (int k = thread(); k < KEPT_ENTRIES; k += THREADS) U[listed(KEPT_PLACE, k)] = B[listed(KEPT_FROM, k)];
    meet();
    gather<1, false>(
        SQUARE_SUMS, [=](word term, real *sum) { *sum += B[low_of(term)] * B[high_of(term)]; },
        [=](word target, const real *sum) { U[low_of(target)] += *sum; });
    factorize();
}

// The unknowns of long rows: of [P + B_1'B_1  B_2'; B_2  -I] (y, zeta) = (v, W^(1/2) low), z = W^(1/2) zeta. Where W is
// large, W low in the place of v would have to cancel out of y again. Of t = W low, the rows concerned go to `solved` and
// are zero after it; the others keep to P + B'B, zeta is not looked at, and the right-hand side zero. Row i belongs to
// thread i mod THREADS.
template <int R> DEVICE void keep_apart(real *t) {
    LOOP for (int k = n; k < PIVOTS; ++k) {
        const int i = listed(KEPT_ROWS, k - n);
        if (i % THREADS != thread()) continue;
        UNROLL for (int r = 0; r < R; ++r) {
            solved()[r * pivots + k] = root()[i] > 1.0 ? t[r * tall + i] / root()[i] : 0.0;
            if (root()[i] > 1.0) t[r * tall + i] = 0.0;
        }
    }
}

// Of z in t, the rows that were kept apart.
template <int R> DEVICE void put_back(real *t) {
    LOOP for (int k = n; k < PIVOTS; ++k) {
        const int i = listed(KEPT_ROWS, k - n);
        if (i % THREADS != thread() || !(root()[i] > 1.0)) continue;
        UNROLL for (int r = 0; r < R; ++r) t[r * tall + i] = root()[i] * solved()[r * pivots + k];
    }
}
#else
template <int R> DEVICE void keep_apart(real *) {}
template <int R> DEVICE void put_back(real *) {}

FUNCTION void factor_normal() {
    const real *P = header().P, *A = header().A, c = header().c;
    const bool quadratic = header().quadratic;
    prepare_rows(A, e(), d());
    meet();
    auto stage = [=](int i, real *row) { stage_row(i, A, e(), d(), row); };
#if LARGE
    leave_terms(d(), quadratic ? c : 0.0, STATIC, [](int i) { return square(root()[i] * e()[i]); }, stage);
#else
    gram([=](int i, int j) { return GLOBAL(A + i * n + j); },
         [](int i, int j, real entry) { return entry * root()[i] * e()[i] * d()[j]; }, [](int i) { return i >= LINEAR; },
         stage, [=](int i, int j) {
             const real entry = quadratic ? c * d()[i] * d()[j] * GLOBAL(P + i * n + j) : 0.0;
             return i == j ? entry + STATIC : entry;
         });
    factorize();
#endif
}
#endif
