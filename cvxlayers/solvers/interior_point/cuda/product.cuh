// What products with P and A are asked for; dense.cuh and sparse.cuh supply them, each with
//
//   times_A<R, PRODUCT>(u, out), times_At<R, PRODUCT>(v, out), times_P<R, PRODUCT>(u, out)   for R vectors at once,
//   open_matrices(table, quadratic), check_matrices(quadratic), solve_factored<R>(y), and what normal.cuh factors with.
//
// Call meet() before a product, if others wrote its vector. After times_At and times_P, thread j may read entry j, after
// times_A only call meet() and all may read all.
#pragma once
#include "layout.cuh"

// A v, |A| v, or the maxima instead of the sums of |A| v.
enum Product { PLAIN, ABSOLUTE, LARGEST };

template <Product PRODUCT> DEVICE real accumulate(real sum, real a, real v) {
    if (PRODUCT == PLAIN) return sum + a * v;
    return PRODUCT == LARGEST ? larger(sum, fabs(a) * v) : sum + fabs(a) * v;
}

// R vectors, one `stride` after the other.
struct Vectors {
    real *at;
    int stride;
};
