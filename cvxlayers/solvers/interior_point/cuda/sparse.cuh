// Sparse matrices of one problem, by the lists of sums that `Sparsity` (sparsity.py) has made of their patterns.
//
// The table that all problems share holds the sums, ready for the warps (schedule.py), and where everything is. Values are
// in the workspace: those of A and P, taken out of the dense matrices, and those of B = W^(1/2) A, whose rows the cones
// supply by `stage_column`. Factored is
//
//   K = [P + B_1'B_1  B_2'; B_2  -I] = U D^-1 U',   U_ij = K_ij - sum_k U_ik U_jk / U_kk,
//
// where B_2 are the long rows of B, whose unknowns come after the variables. In the place of L = U D^-1 come the inverses of
// its chains of columns (symbolic.py), and 1 / U_kk stands behind. A number that is always zero stands behind every list of
// values: short sums are padded with it.
#pragma once
#include "product.cuh"

enum Sum { ROW_SUMS, COLUMN_SUMS, COST_SUMS, SQUARE_SUMS, ELIMINATION_SUMS, INVERSE_SUMS, FORWARD_SUMS, BACKWARD_SUMS, ALL_SUMS };
enum List { A_AT, P_AT, P_PLACE, PLACE, KEPT_FROM, KEPT_PLACE, KEPT_ROWS, UNIT_LIST, UNIT_ENTRIES };

DEVICE const word *directory() { return reinterpret_cast<const word *>(SHARED + DIRECTORY_AT); }
DEVICE int listed(List list, int k) {
    return (int)GLOBAL(header().table + directory()[3 * ALL_SUMS + 2 * list] + k);
}

DEVICE real *A_values() { return header().values; }
DEVICE real *P_values() { return A_values() + even(A_ENTRIES + 1); }
DEVICE real *B_values() { return P_values() + even(P_ENTRIES + 1); }
DEVICE real *by_pivot() { return factor() + ENTRIES + 1; }
DEVICE real *solved() { return SHARED + SOLVED_AT; }  // two vectors, and two more

// A term of two numbers, or of three.
DEVICE unsigned low_of(word term) { return (unsigned)term; }
DEVICE unsigned high_of(word term) { return (unsigned)(term >> 32); }
DEVICE unsigned part_of(word term, int which) { return (unsigned)(term >> 21 * which) & 0x1fffffu; }

constexpr int AHEAD = 4;  // blocks of terms of the next step that are on their way while the warps meet

// R sums, or maxima, for each target of a list: `term(word, sums)` adds one term, `store(word, sums)` is for the thread
// that has the total; the target is the low part of its word. Call meet() before it; ends with one.
template <int R, bool MAXIMA, class Term, class Store> DEVICE void gather(Sum list, Term term, Store store) {
    const word *table = header().table, *at = directory() + 3 * list;
    const word *step = table + at[0] + warp(), *blocks = table + at[2] + lane();
    const int count = (int)at[1];
    word slice = GLOBAL(step);
    const word *block = blocks + 32 * (slice & 0xfffffffffull);
    long long target = (long long)GLOBAL(block);
    word ahead[AHEAD];
    UNROLL for (int k = 0; k < AHEAD; ++k) ahead[k] = GLOBAL(block + 32 * (k + 1));
    LOOP for (int k = 0; k < count; ++k) {
        step += WARPS;
        const word next = GLOBAL(step);
        const int rounds = (int)(slice >> 36) & 0x3fffff, width = 1 << ((int)(slice >> 58) & 7);
        real sums[R];
        UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
        UNROLL for (int k = 0; k < AHEAD; ++k)
            if (k < rounds) term(ahead[k], sums);
        UNROLL_4 for (int round = AHEAD + 1; round <= rounds; ++round) term(GLOBAL(block + 32 * round), sums);
        UNROLL for (int r = 0; r < R; ++r) sums[r] = MAXIMA ? lanes_max(sums[r], width) : lanes_sum(sums[r], width);
        if (target >= 0) store((word)target, sums);
        // What the next step begins with is on its way while the warps meet.
        block = blocks + 32 * (next & 0xfffffffffull), target = (long long)GLOBAL(block);
        UNROLL for (int k = 0; k < AHEAD; ++k) ahead[k] = GLOBAL(block + 32 * (k + 1));
        if (slice >> 63) meet();
        slice = next;
    }
}

template <int R, Product PRODUCT> FUNCTION void times(Sum list, const real *values, Vectors u, Vectors out) {
    gather<R, PRODUCT == LARGEST>(
        list,
        [=](word term, real *sums) {
            const real value = values[low_of(term)], *entry = u.at + high_of(term);
            UNROLL for (int r = 0; r < R; ++r) sums[r] = accumulate<PRODUCT>(sums[r], value, entry[r * u.stride]);
        },
        [=](word target, const real *sums) {
            UNROLL for (int r = 0; r < R; ++r) out.at[r * out.stride + low_of(target)] = sums[r];
        });
}

// out_r = A u_r, A'v_r and P u_r; see product.cuh.
template <int R, Product PRODUCT> DEVICE void times_A(Vectors u, Vectors out) { times<R, PRODUCT>(ROW_SUMS, A_values(), u, out); }
template <int R, Product PRODUCT> DEVICE void times_At(Vectors v, Vectors out) { times<R, PRODUCT>(COLUMN_SUMS, A_values(), v, out); }
template <int R, Product PRODUCT> DEVICE void times_P(Vectors u, Vectors out) { times<R, PRODUCT>(COST_SUMS, P_values(), u, out); }

// The values on the patterns. Call it once, after the header is there; ends with a meeting.
FUNCTION void open_matrices(const word *table, bool quadratic) {
    LOOP for (int k = thread(); k < DIRECTORY; k += THREADS)
        reinterpret_cast<word *>(SHARED + DIRECTORY_AT)[k] = GLOBAL(table + k);
    meet();
    UNROLL_4 for (int k = thread(); k < A_ENTRIES; k += THREADS) A_values()[k] = GLOBAL(header().A + listed(A_AT, k));
    UNROLL_4 for (int k = thread(); k < P_ENTRIES; k += THREADS)
        P_values()[k] = quadratic ? GLOBAL(header().P + listed(P_AT, k)) : 0.0;
    if (thread() == 0) {
        A_values()[A_ENTRIES] = P_values()[P_ENTRIES] = B_values()[STAGED] = 0.0;
        factor()[ENTRIES] = by_pivot()[PIVOTS] = 0.0;
    }
    meet();
}

// Zero, or NaN if P or A holds NaN or infinity; of one thread.
FUNCTION real check_matrices(bool quadratic) {
    real bad = 0.0;
    LOOP for (int k = thread(); k < A_ENTRIES; k += THREADS) bad += 0.0 * A_values()[k];
    LOOP for (int k = thread(); k < P_ENTRIES && quadratic; k += THREADS) bad += 0.0 * P_values()[k];
    return bad;
}

constexpr real LEAST_PIVOT = 1e-15;  // relative to the diagonal; a smaller one counts as infinite: its unknown is zero

// The inverses of the chains of L from the matrix in their place. Call meet() before it; ends with one.
FUNCTION void factorize() {
    real *U = factor(), *by = by_pivot();
    const auto term = [=](word term, real *sum) {
        *sum += U[part_of(term, 0)] * U[part_of(term, 1)] * by[part_of(term, 2)];
    };
    gather<1, false>(ELIMINATION_SUMS, term, [=](word target, const real *sum) {
        const int k = low_of(target);
        const real before = U[k], value = before - *sum;
        U[k] = value;
        if (k >= PIVOTS) return;
        const real sign = k < n ? 1.0 : -1.0;
        by[k] = sign * value > LEAST_PIVOT * fabs(before) ? 1.0 / value : 0.0;
    });
    gather<1, false>(INVERSE_SUMS, term, [=](word target, const real *sum) {
        const int at = low_of(target);
        U[at] = -(U[at] * by[high_of(target)] + *sum);
    });
}

// (y_r, zeta_r) becomes K^-1 (y_r, zeta_r), for R vectors y_r, `size` after one another, with the unknowns zeta_r of long
// rows in `solved`. Call meet() before it; ends with one.
template <int R> FUNCTION void solve_factored(real *y) {
    const real *Z = factor(), *by = by_pivot();
    real *v = solved(), *t = v + 2 * pivots;
    LOOP for (int j = thread(); j < n; j += THREADS) {
        const int place = listed(PLACE, j);
        UNROLL for (int r = 0; r < R; ++r) v[r * pivots + place] = y[r * size + j];
    }
    meet();
    const auto term = [=](word term, real *sums) {
        const real entry = Z[low_of(term)], *other = v + high_of(term);
        UNROLL for (int r = 0; r < R; ++r) sums[r] += entry * other[r * pivots];
    };
    gather<R, false>(FORWARD_SUMS, term, [=](word target, const real *sums) {
        const int k = low_of(target);
        const bool own = high_of(target);
        real *to = own ? t : v;
        const real scale = own ? by[k] : 1.0;
        UNROLL for (int r = 0; r < R; ++r) to[r * pivots + k] = scale * (v[r * pivots + k] + sums[r]);
    });
    gather<R, false>(BACKWARD_SUMS, term, [=](word target, const real *sums) {
        const int k = low_of(target);
        UNROLL for (int r = 0; r < R; ++r) v[r * pivots + k] = t[r * pivots + k] + sums[r];
    });
    LOOP for (int j = thread(); j < n; j += THREADS) {
        const int place = listed(PLACE, j);
        UNROLL for (int r = 0; r < R; ++r) y[r * size + j] = v[r * pivots + place];
    }
    meet();
}
