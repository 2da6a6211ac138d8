// A batch of cone programs by an interior-point method, one thread block for each.
//
// minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K: the homogeneous embedding of Goulart and Chen, arXiv
// 2405.12762, with the names used there; every step is a solve with P + A'H^-1 A, factored once per iteration.
#define WIDE_KEPT 5
#define WIDE_PASSING 8
#define TALL_PASSING 8
#define CONES_KEPT 7  // of the vectors of m, the first that belongs to cones.cuh
#include "cones.cuh"
#include "normal.cuh"

struct Arguments {
    const real *P, *q, *A, *b;
    long long P_stride, q_stride, A_stride, b_stride;  // from one problem to the next; 0 where all share one
    real *x, *z, *s, *residuals;                       // (batch, n), (batch, m), (batch, m), (batch, 3)
    int *status, *iterations;                          // (batch,)
    const int *starts, *block, *semis;                 // as in Header
    const real *alphas;
    real *workspace;                                   // what does not fit in shared memory
    long long workspace_stride;
    real tol;
    int max_iter, quadratic;                           // quadratic: whether P may hold anything but zeros
    const word *table;                                 // of sparse.cuh
#if LARGE
    Resumed resumed;
#endif
};

enum Status { SOLVED, INACCURATE, INFEASIBLE, UNBOUNDED, MAX_ITERATIONS, NUMERICAL_ERROR, INVALID_INPUT };

constexpr real ABSENT = 0.999e20, INFINITE = 1e20;
constexpr real INACCURACY = 1e-4, CERTIFICATE = 1e-6;
constexpr int REFINEMENTS = 3;
constexpr real SHORT = 0.1, LONG = 0.5;  // steps: that calls for centering, and that is worth another one
constexpr int CYCLE = 10;                // iterations that brought nothing, after which the centering
constexpr real AIM = 0.1;                // is no longer the predictor's, which alternates between too much and too little
constexpr real UNDECIDED = 1e-12;        // complementarity up to which tau < kappa may still turn
constexpr real SNAP = 1e4;  // as in projections.cuh
constexpr real GOAL = 0.01, EXACT = 1e-4;  // of the tolerance: what is aimed at, and where no Newton step helps any more
// Newton's method on the active rows is tried where the largest residual is at most NEAR, and `Measure::open` OPEN, or
// RETRY of what it was when it failed; and LATE iterations after the tolerance, for rows with z = s = 0 at the solution never
// become clear. A row that leaves its side by no more than WEAK is one of these: it is left a LITTLE on that side.
constexpr real NEAR = 1e-2, OPEN = 0.1, RETRY = 0.01, WEAK = 1e-8, LITTLE = 1e-20;
constexpr int LATE = 3;
constexpr int NEWTON_STEPS = 3;  // the factor is regularized: one is not exact

// Vectors of n beside those of scales.cuh: the scaled q, the iterate, P x, and a residual of the embedding;
DEVICE real *qh() { return wide_kept(1); }
DEVICE real *x() { return wide_kept(2); }
DEVICE real *Px() { return wide_kept(3); }
DEVICE real *rx() { return wide_kept(4); }
// and, two of each: right-hand sides and solutions.
DEVICE real *f() { return wide_passing(0); }
DEVICE real *X() { return wide_passing(2); }
// Vectors of m, two of each: right-hand sides, solutions, and what refinement needs;
DEVICE real *g() { return tall_passing(0); }
DEVICE real *Z() { return tall_passing(2); }
DEVICE real *u() { return tall_passing(6); }
// the scaled b, the iterate, a residual, d_s and the step of s.
DEVICE real *bh() { return tall_kept(1); }
DEVICE real *s() { return tall_kept(2); }
DEVICE real *z() { return tall_kept(3); }
DEVICE real *rz() { return tall_kept(4); }
DEVICE real *ds() { return tall_kept(5); }
DEVICE real *dS() { return tall_kept(6); }

// Scales d, e and c that bring the data near size one: Ruiz, RAL-TR-2001-034, with one e for each curved cone.
// Absent constraints have e = 0, and b = 1. False if the data hold NaN or infinity.
FUNCTION bool equilibrate() {
    const real *q = header().q, *b = header().b;
    bool quadratic = header().quadratic;
    real bad = check_matrices(quadratic);
    LOOP for (int i = thread(); i < m; i += THREADS) {
        const real entry = GLOBAL(b + i);
        const bool absent = i >= ZEROS && i < LINEAR && entry >= ABSENT;
        e()[i] = absent ? 0.0 : 1.0;
        if (!absent) bad += 0.0 * entry;
    }
    LOOP for (int j = thread(); j < size; j += THREADS) {
        d()[j] = 1.0, x()[j] = 0.0;
        if (j < n) bad += 0.0 * GLOBAL(q + j);
    }
    if (!(sum_of_members(reduced_sum(bad)) == 0.0)) return false;

    balance(quadratic);
    times_A<1, LARGEST>({d(), 0}, {t(), 0});
    meet();
    real most = 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) most = larger(most, e()[i] * t()[i]);
    most = reduced_max(most);
    if (thread() == 0) header().most = most;
    real sums[1] = {0.0}, maxima[1] = {0.0};
    LOOP for (int j = thread(); j < n; j += THREADS) maxima[0] = larger(maxima[0], fabs(GLOBAL(q + j) * d()[j]));
    if (quadratic) {
        times_P<1, LARGEST>({d(), 0}, {w(), 0});
        LOOP for (int j = thread(); j < n; j += THREADS) sums[0] += w()[j] * d()[j];
    }
    reduce(sums, maxima);
    const real cost = larger(maxima[0], sums[0] / n), c = 1.0 / clip(cost > 0.0 ? cost : 1.0, 1e-4, 1e4);
    if (thread() == 0) header().quadratic = sums[0] > 0.0, header().c = c;
    LOOP for (int j = thread(); j < size; j += THREADS) qh()[j] = j < n ? c * d()[j] * GLOBAL(q + j) : 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) bh()[i] = e()[i] > 0.0 ? e()[i] * GLOBAL(b + i) : 1.0;
    meet();
    return true;
}

// (y, out) becomes the solution of the factored [P A'; A -H] (y, out) = (top, low), R of each; t and w are overwritten.
// Semidefinite rows go the way of the factor, by the rows of H^(-1/2) A themselves: A and H^-1 one after the other would
// differ from them by rounding errors of the size of cond(H). With `zero`, low is zero there.
template <int R> FUNCTION void solve_reduced(const real *top, const real *low, real *out, bool zero) {
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t()[r * tall + i] = low[r * tall + i];
#if CURVED
    meet();
#endif
    LOOP for (int r = 0; r < R; ++r) divide_by_H(t() + r * tall);
#if SEMIS
    LOOP for (int r = 0; r < R && !zero; ++r) congruent(Ri(), t() + r * tall, false);
    if (zero) meet();
    times_columns<R, PLAIN, SEMI - ROUND, true>(turned(), {t() + ROUND, tall}, {w(), size});
    meet();
    LOOP for (int j = thread(); j < n; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r) y()[r * size + j] = top[r * size + j] + w()[r * size + j];
    top = y();
    LOOP for (int i = ROUND + thread(); i < SEMI; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t()[r * tall + i] = 0.0;
#endif
#if CURVED
    meet();
#endif
    keep_apart<R>(t());
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t()[r * tall + i] *= e()[i];
    meet();
    times_At<R, PLAIN>({t(), tall}, {w(), size});
    LOOP for (int j = thread(); j < size; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r)
            y()[r * size + j] = j < n ? top[r * size + j] + d()[j] * w()[r * size + j] : 0.0;
    meet();
    solve_factored<R>(y());
    LOOP for (int j = thread(); j < size; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r) w()[r * size + j] = y()[r * size + j] * d()[j];
    meet();
    times_A<R, PLAIN>({w(), size}, {t(), tall});
    meet();
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t()[r * tall + i] = e()[i] * t()[r * tall + i] - low[r * tall + i];
#if CURVED
    meet();
#endif
    LOOP for (int r = 0; r < R; ++r) divide_by_H(t() + r * tall);
#if SEMIS
    LOOP for (int i = ROUND + thread(); i < SEMI; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t()[r * tall + i] = low[r * tall + i];
    LOOP for (int r = 0; r < R && !zero; ++r) congruent(Ri(), t() + r * tall, false);
    if (zero) meet();
    times_rows<R, PLAIN, SEMI - ROUND, true>(turned(), {y(), size}, {u() + ROUND, tall});
    meet();
    LOOP for (int i = ROUND + thread(); i < SEMI; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t()[r * tall + i] = u()[r * tall + i] - t()[r * tall + i];
    LOOP for (int r = 0; r < R; ++r) congruent(Ri(), t() + r * tall, true);
#endif
#if CURVED
    meet();
#endif
    put_back<R>(t());
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) out[r * tall + i] = t()[r * tall + i];
}

// (X, Z) becomes the solution of [P A'; A -H] (X, Z) = (f, g), refined against the system without regularization.
// Call meet() after writing f and g; ends with one.
template <int R> FUNCTION void solve_kkt() {
    solve_reduced<R>(f(), g(), Z(), false);
    LOOP for (int j = thread(); j < size; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r) X()[r * size + j] = y()[r * size + j];
    meet();
    LOOP for (int refinement = 0; refinement < header().refinements; ++refinement) {
        LOOP for (int i = thread(); i < m; i += THREADS)
            UNROLL for (int r = 0; r < R; ++r) u()[r * tall + i] = Z()[r * tall + i];
        LOOP for (int j = thread(); j < size; j += THREADS)
            UNROLL for (int r = 0; r < R; ++r) w()[r * size + j] = X()[r * size + j] * d()[j];
        meet();
        times_A<R, PLAIN>({w(), size}, {t(), tall});
        LOOP for (int r = 0; r < R; ++r) multiply_by_H(u() + r * tall);
        if (header().quadratic) times_P<R, PLAIN>({w(), size}, {y(), size});
        meet();
        LOOP for (int i = thread(); i < m; i += THREADS) {
            UNROLL for (int r = 0; r < R; ++r) {
                const bool exact = i >= ROUND && i < SEMI;
                u()[r * tall + i] = exact ? 0.0 : u()[r * tall + i] + g()[r * tall + i] - e()[i] * t()[r * tall + i];
                t()[r * tall + i] = e()[i] * Z()[r * tall + i];
            }
        }
        meet();
        times_At<R, PLAIN>({t(), tall}, {w(), size});
        LOOP for (int j = thread(); j < n; j += THREADS) {
            UNROLL for (int r = 0; r < R; ++r) {
                const real product = header().quadratic ? header().c * y()[r * size + j] : 0.0;
                y()[r * size + j] = f()[r * size + j] - d()[j] * (product + w()[r * size + j]);
            }
        }
        meet();
        solve_reduced<R>(y(), u(), u(), true);
        meet();
        LOOP for (int j = thread(); j < n; j += THREADS)
            UNROLL for (int r = 0; r < R; ++r) X()[r * size + j] += y()[r * size + j];
        LOOP for (int i = thread(); i < m; i += THREADS)
            UNROLL for (int r = 0; r < R; ++r) Z()[r * tall + i] += u()[r * tall + i];
        meet();
    }
}

// v becomes v + shift e, the smallest shift that takes it clearly inside; ends with a meeting.
FUNCTION void shift_inside(real *v) {
    real sums[1] = {0.0}, maxima[1] = {-1e300};
    LOOP for (int i = thread(); i < LINEAR; i += THREADS)
        if (i >= ZEROS) sums[0] += larger(v[i], 0.0), maxima[0] = larger(maxima[0], -v[i]);
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        real norm = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) norm += v[i] * v[i];
        const real margin = v[first] - sqrt(warp_sum(norm));
        if (lane() == 0) sums[0] += larger(margin, 0.0);
        maxima[0] = larger(maxima[0], -margin);
    }
#endif
#if SEMIS
    least_eigenvalues(v, [&](int, real least) {
        if (lane() == 0) sums[0] += larger(least, 0.0);
        maxima[0] = larger(maxima[0], -least);
    });
#endif
    reduce(sums, maxima);
    const real shift = larger(larger(1.0, degree ? 0.1 * sums[0] / degree : 0.0) + maxima[0], 0.0);
    LOOP for (int i = thread(); i < LINEAR; i += THREADS)
        if (i >= ZEROS) v[i] += shift;
#if CURVED
    LOOP for (int k = thread(); k < SOCS; k += THREADS) v[start_of(k)] += shift;
#endif
#if SEMIS
    each_entry([=](int c, int, int i, int j) {
        if (i == j) v[first_of(c) + packed(i, i)] += shift;
    });
#endif
    meet();
}

// The point to start from: the least-squares solution at H = I, which is factored, shifted into the cones, with x = 0 where
// all of them are linear (x of that solution fits s and z no longer once these are shifted); or e, where a cone is not
// symmetric.
FUNCTION void start() {
#if THREES
    LOOP for (int i = thread(); i < m; i += THREADS) {
        real v = i < ZEROS ? 0.0 : 1.0;
        if (i >= LINEAR && i < ROUND) v = i == start_of(block_of(i)) ? 1.0 : 0.0;
        if (i >= SEMI) {  // s = z = -grad f*(z)
            const int k = (i - SEMI) / 3, part = i - SEMI - 3 * k;
            const real a = alpha(k);
            if (a < 0.0)
                v = part == 0 ? -1.051383945322714 : part == 1 ? 0.556409619469370 : 1.258967884768947;
            else
                v = part == 0 ? sqrt(1.0 + a) : part == 1 ? sqrt(2.0 - a) : 0.0;
        }
        s()[i] = z()[i] = v;
    }
#if SEMIS
    meet();
    each_entry([](int c, int, int i, int j) {
        const int at = first_of(c) + packed(i, j);
        s()[at] = z()[at] = i == j ? 1.0 : 0.0;
    });
#endif
    LOOP for (int j = thread(); j < size; j += THREADS) x()[j] = 0.0;
    meet();
#else
    LOOP for (int j = thread(); j < size; j += THREADS) f()[j] = 0.0, f()[size + j] = -qh()[j];
    LOOP for (int i = thread(); i < m; i += THREADS) g()[i] = bh()[i], g()[tall + i] = 0.0;
    meet();
    solve_kkt<2>();
    // One right-hand side would do for a quadratic objective; for a linear one, x and z come from different ones.
    const real both = header().quadratic ? 1.0 : 0.0;
    LOOP for (int j = thread(); j < size; j += THREADS) x()[j] = CURVED ? X()[j] + both * X()[size + j] : 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) {
        s()[i] = i < ZEROS ? 0.0 : -Z()[i] - both * Z()[tall + i];
        z()[i] = Z()[tall + i] + both * Z()[i];
    }
    meet();
    shift_inside(s());
    shift_inside(z());
#endif
}

// What an iterate is worth: residuals of the unscaled problem (conic/residuals.py defines them), and terms of the gap.
struct Measure {
    real primal, dual, gap, worst;
    real xPx, qx, bz, sz;   // of the scaled embedding
    real rp, rd;            // norms of the unscaled residuals, and of products, of the homogeneous iterate
    real ATz, Ax_s, Px;
    real open;              // the largest ratio of z to s in a linear row, or of s to z: small where it is clear which are active
};

// Px, rx, rz and the measures of the iterate; ends with a meeting.
FUNCTION Measure measure(real tau, real norm_q, real norm_b) {
    const real c = header().c, by_c = 1.0 / c, by_tau = 1.0 / tau;
    const bool quadratic = header().quadratic;
    real sums[11], maxima[1] = {0.0};
    UNROLL for (int k = 0; k < 11; ++k) sums[k] = 0.0;
    LOOP for (int j = thread(); j < n; j += THREADS) w()[j] = d()[j] * x()[j];
    LOOP for (int i = thread(); i < m; i += THREADS) t()[i] = e()[i] * z()[i];
    meet();
    if (quadratic) {
        times_P<1, PLAIN>({w(), 0}, {Px(), 0});
        meet();
    }
    times_At<1, PLAIN>({t(), 0}, {y(), 0});
    times_A<1, PLAIN>({w(), 0}, {rz(), 0});
    meet();
    LOOP for (int j = thread(); j < n; j += THREADS) {
        const real product = y()[j], scale = d()[j], Pxj = quadratic ? c * scale * Px()[j] : 0.0, by = by_c / scale;
        const real r = Pxj + scale * product + qh()[j] * tau;
        Px()[j] = Pxj, rx()[j] = r;
        sums[0] += square(Pxj * by);
        sums[1] += square(product * by_c);
        sums[2] += square(r * by);
        sums[3] += x()[j] * Pxj;
        sums[4] += x()[j] * qh()[j];
    }
    LOOP for (int i = thread(); i < m; i += THREADS) {
        const real scale = e()[i], by = scale > 0.0 ? 1.0 / scale : 0.0, product = rz()[i], si = s()[i], bi = bh()[i];
        const real r = scale * product + si - bi * tau;
        rz()[i] = r;
        sums[5] += square(product);
        sums[6] += square(si * by);
        sums[7] += square(r * by);
        sums[8] += square(scale > 0.0 ? product + si * by : 0.0);
        sums[9] += bi * z()[i];
        sums[10] += si * z()[i];
        const real z_own = scale * scale * by_c * z()[i];
        if (i >= ZEROS && i < LINEAR && scale > 0.0) maxima[0] = larger(maxima[0], smaller(z_own, si) / larger(z_own, si));
    }
    reduce(sums, maxima);
    Measure is;
    is.open = maxima[0];
    is.Px = sqrt(sums[0]), is.ATz = sqrt(sums[1]), is.Ax_s = sqrt(sums[8]);
    is.xPx = sums[3], is.qx = sums[4], is.bz = sums[9], is.sz = sums[10];
    is.rp = sqrt(sums[7]), is.rd = sqrt(sums[2]);
    is.dual = is.rd * by_tau / larger(larger(is.Px, is.ATz) * by_tau, larger(norm_q, 1.0));
    is.primal = is.rp * by_tau / larger(sqrt(larger(sums[5], sums[6])) * by_tau, larger(norm_b, 1.0));
    const real xPx = is.xPx * by_c * by_tau * by_tau, qx = is.qx * by_c * by_tau, bz = is.bz * by_c * by_tau;
    is.gap = fabs(xPx + qx + bz) / larger(larger(fabs(xPx), fabs(qx)), larger(fabs(bz), 1.0));
    is.worst = larger(is.primal, larger(is.dual, is.gap));
    if (!(is.primal + is.dual + is.gap < 1e300)) is.worst = 1e300;
    return is;
}

// Whether z, or x and s, prove that there is no solution: the residual of the proof, as conic/residuals.py defines it.
FUNCTION real certificate_of_infeasibility(const Measure &is) {
    if (!(is.bz < 0.0)) return 1e300;
    if (!(is.ATz > 0.0)) return 0.0;
    real sums[3] = {0.0, 0.0, 0.0};
    LOOP for (int i = thread(); i < m; i += THREADS) {
        t()[i] = fabs(e()[i] * z()[i]);
        sums[1] += fabs(bh()[i] * z()[i]);
        sums[2] += fabs(z()[i]);
    }
    LOOP for (int j = thread(); j < n; j += THREADS) sums[0] += square(1.0 / d()[j]);
    reduce(sums);
    // Without the product, a bound from below: entries of the scaled |A| are at most header().most.
    const real share = is.ATz * sums[1] / -is.bz;
    const real bound = share * header().c / (header().most * sums[2] * sqrt(sums[0]));
    if (bound > CERTIFICATE) return bound;
    times_At<1, ABSOLUTE>({t(), 0}, {y(), 0});
    real squares = 0.0;
    LOOP for (int j = thread(); j < n; j += THREADS) squares += square(y()[j] / header().c);
    return share / sqrt(reduced_sum(squares));
}

FUNCTION real certificate_of_unboundedness(const Measure &is, real &dual) {
    if (!(is.qx < 0.0)) return 1e300;
    real sums[4] = {0.0, 0.0, 0.0, 0.0};
    LOOP for (int j = thread(); j < n; j += THREADS) {
        w()[j] = fabs(d()[j] * x()[j]);
        sums[2] += fabs(qh()[j] * x()[j]);
        sums[3] += fabs(x()[j]);
    }
    LOOP for (int i = thread(); i < m; i += THREADS)
        if (e()[i] > 0.0) sums[0] += square(1.0 / e()[i]), sums[1] += square(s()[i] / e()[i]);
    reduce(sums);
    // A bound as above, of the part of A x + s.
    const real by_share = sums[2] / -is.qx;
    const real bound = is.Ax_s * by_share / (header().most * sums[3] * sqrt(sums[0]) + sqrt(sums[1]));
    if (bound > CERTIFICATE) return bound;
    sums[0] = sums[1] = 0.0;
    times_A<1, ABSOLUTE>({w(), 0}, {t(), 0});
    if (header().quadratic) {
        times_P<1, ABSOLUTE>({w(), 0}, {y(), 0});
        LOOP for (int j = thread(); j < n; j += THREADS) sums[1] += square(y()[j]);
    }
    meet();
    LOOP for (int i = thread(); i < m; i += THREADS)
        if (e()[i] > 0.0) sums[0] += square(t()[i] + fabs(s()[i]) / e()[i]);
    const real of_primal = reduced_sum(sums[0]), of_dual = reduced_sum(sums[1]);
    dual = is.Px > 0.0 ? is.Px * by_share / sqrt(of_dual) : 0.0;
    return larger(is.Ax_s > 0.0 ? is.Ax_s * by_share / sqrt(of_primal) : 0.0, dual);
}

// Sums over x and z that Delta tau needs: (2 P xi + q)'X + b'Z for R solutions.
template <int R> FUNCTION void inner_products(real tau, real *out) {
    const real twice = 2.0 / tau;
    real sums[R];
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
    LOOP for (int j = thread(); j < n; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r) sums[r] += (twice * Px()[j] + qh()[j]) * X()[r * size + j];
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) sums[r] += bh()[i] * Z()[r * tall + i];
    reduce(sums);
    UNROLL for (int r = 0; r < R; ++r) out[r] = sums[r];
}

// (X_2 - x/tau)'P (X_2 - x/tau) + Z_2'H Z_2: the denominator of Delta tau but for kappa/tau. As a difference of inner
// products it loses its digits where it is small; regularization bends the squares instead. Ends with a meeting.
FUNCTION real curvature(real by_tau) {
    const bool quadratic = header().quadratic;
    real sum = 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) t()[i] = Z()[tall + i];
    LOOP for (int j = thread(); j < n; j += THREADS) w()[j] = (X()[size + j] - x()[j] * by_tau) * d()[j];
    meet();
    if (quadratic) times_P<1, PLAIN>({w(), 0}, {y(), 0});
    multiply_by_H(t());
#if CURVED
    meet();
#endif
    LOOP for (int i = thread(); i < m; i += THREADS) sum += t()[i] * Z()[tall + i];
    if (quadratic) {
        const real c = header().c;
        LOOP for (int j = thread(); j < n; j += THREADS) sum += c * y()[j] * w()[j];
    }
    return reduced_sum(sum);
}

// The steps of z and s: dz = Z_1 + dtau Z_2, dS = -d_s - H dz. Where H is no diagonal matrix, that would put rounding
// errors of the size of cond(H) into the primal residual, and dS = b dtau - A dx - share r_z puts them into the
// complementarity. Ends with a meeting there.
FUNCTION void steps(real dtau, real *dz, const real *d_s, real share) {
    LOOP for (int i = thread(); i < m; i += THREADS) {
        const real v = Z()[i] + dtau * Z()[tall + i];
        dz[i] = v, dS()[i] = v;
    }
#if CURVED
    LOOP for (int j = thread(); j < n; j += THREADS) w()[j] = (X()[j] + dtau * X()[size + j]) * d()[j];
    meet();
    times_A<1, PLAIN>({w(), 0}, {dS(), 0});
    meet();
    LOOP for (int i = thread(); i < m; i += THREADS)
        dS()[i] = i < ZEROS ? 0.0 : bh()[i] * dtau - e()[i] * dS()[i] - share * rz()[i];
    meet();
#else
    multiply_by_H(dS());
    LOOP for (int i = thread(); i < m; i += THREADS) dS()[i] = -d_s[i] - dS()[i];
#endif
}

// The longest step that keeps tau, kappa, and what step_inside looks at in the cone, up to `most`.
DEVICE real longest(const real *dz, real tau, real dtau, real kappa, real dkappa, real most) {
    if (dtau < 0.0) most = smaller(most, -tau / dtau);
    if (dkappa < 0.0) most = smaller(most, -kappa / dkappa);
    most = step_inside(s(), dS(), false, most);
    most = step_inside(z(), dz, true, most);
    return -reduced_max(-most);
}

// The problem of this block.
#if LARGE
DEVICE int element(const Arguments &a) { return a.resumed.first + blockIdx.x / CLUSTER; }
#else
DEVICE int element(const Arguments &) { return blockIdx.x; }
#endif

// The point as it goes out, `by` times the iterate and unscaled; NaN for what is not asked for.
FUNCTION void store(const Arguments &a, real by, bool primal, bool dual) {
    const long long B = element(a);
    if (member() != 0) return;
    LOOP for (int j = thread(); j < n; j += THREADS) a.x[B * n + j] = primal ? d()[j] * x()[j] * by : NAN;
    LOOP for (int i = thread(); i < m; i += THREADS) {
        const real scale = e()[i];
        a.s[B * m + i] = primal ? scale > 0.0 ? s()[i] / scale * by : INFINITE : NAN;
        a.z[B * m + i] = dual ? scale * z()[i] / header().c * by : NAN;
    }
}

// Where a solve stands between two iterations.
struct Progress {
    real tau, kappa, norm_q, norm_b;
    real best, primal, dual, gap;          // the best iterate's residuals
    real least, expected_rp, expected_rd;
    Measure is;
    int status, iteration, good;
    int idle, stalled;                     // iterations since a clearly better one, and those that count against the problem
    bool stuck;                            // whether the next step is for centering
    bool finishing, finished;              // whether the active rows are tried, and are those of the solution
    real open;                             // what `Measure::open` has to be to try them
};

// Scales, and what the iterations start from; false if the data are invalid.
DEVICE bool begin(Progress &p) {
    p = {1.0, 1.0, 0.0, 0.0, 1e300, NAN, NAN, NAN, 1e300, 1e300, 1e300, {}, INVALID_INPUT, 0, 0, 0, 0, false, false, false, OPEN};
    if (!equilibrate()) return false;
    real norms[2] = {0.0, 0.0};
    LOOP for (int j = thread(); j < n; j += THREADS) norms[0] += square(GLOBAL(header().q + j));
    LOOP for (int i = thread(); i < m; i += THREADS) norms[1] += square(e()[i] > 0.0 ? GLOBAL(header().b + i) : 1.0);
    reduce(norms);
    p.norm_q = sqrt(norms[0]), p.norm_b = sqrt(norms[1]);
    p.status = MAX_ITERATIONS;
    return true;
}

// Measure the iterate and scale the cones at it; false where the iterations end.
DEVICE bool approach(const Arguments &a, Progress &p) {
    if (!p.finishing) p.is = measure(p.tau, p.norm_q, p.norm_b);
    const Measure is = p.is;
    const bool again = p.finishing && !p.finished;  // whether this is the iterate of the time before
    if (!again) {
        const bool better = is.worst < 0.8 * p.least;
        p.idle = better ? 0 : p.idle + 1, p.stalled = better ? 0 : p.stalled + 1;
        p.least = smaller(p.least, is.worst);
        if (is.worst < p.best && is.worst <= larger(INACCURACY, 100.0 * a.tol)) {
            store(a, 1.0 / p.tau, true, true);
            p.best = is.worst, p.primal = is.primal, p.dual = is.dual, p.gap = is.gap;
        }
        p.good += p.best <= a.tol;
    }
    // Curved cones get a Newton step afterwards; linear ones have theirs here, or go on until the active rows are clear.
    const bool unclear = !CURVED && SNAP * is.open > 1.0;
    const bool ends = (p.best <= GOAL * a.tol && !unclear) || p.good > (unclear ? 5 : 2) || (p.good && p.stalled);
    if (ends && (CURVED || again || p.finished)) return false;
    if (p.kappa > p.tau) {
        const real infeasible = certificate_of_infeasibility(is);
        if (infeasible <= 0.5 * CERTIFICATE) {
            store(a, -header().c / is.bz, false, true);
            p.status = INFEASIBLE, p.primal = NAN, p.dual = infeasible, p.gap = NAN;
            return false;
        }
        real dual = 0.0;
        meet();
        const real unbounded = certificate_of_unboundedness(is, dual);
        if (unbounded <= 0.5 * CERTIFICATE) {
            store(a, -header().c / is.qx, true, false);
            p.status = UNBOUNDED, p.primal = unbounded, p.dual = dual, p.gap = NAN;
            return false;
        }
    }
    if (p.iteration >= a.max_iter) return false;
    if (is.worst >= 1e300 || p.stalled > 15) {
        p.status = NUMERICAL_ERROR;
        return false;
    }
    // The residuals of an exact step are known beforehand; the last digits depend on refinement, all the more where the
    // scaling is no diagonal matrix.
    const real matters = larger(a.tol, is.worst) * 0.1;
    const bool off = (is.rp > 2.0 * p.expected_rp && is.primal > matters) ||
                     (is.rd > 2.0 * p.expected_rd && is.dual > matters);
    int refinements = header().refinements;
    if (off && refinements < REFINEMENTS) ++refinements;
    if (CURVED && is.worst < 1e-3 && refinements < 1) refinements = 1;
    if ((CURVED && is.worst < 10.0 * a.tol) || (p.stalled && is.worst < 1e-4)) refinements = REFINEMENTS;
    meet();
    if (thread() == 0) header().refinements = refinements;
#if !CURVED
    p.finishing = ends || (p.tau > p.kappa && is.worst <= NEAR && (is.open <= p.open || (p.good == LATE && !again)));
    if (p.finishing) fix_active_rows(z(), s());
#endif
    if (!p.finishing) scale_cones(z(), s());
    meet();
    return true;
}

#if !CURVED
DEVICE void copy(const real *from, real *to, int count) {
    LOOP for (int i = thread(); i < count; i += THREADS) to[i] = from[i];
}

// One Newton step on the optimality conditions with s = 0 at the rows that `fix_active_rows` took for active, and z = 0 at the
// others; whether it ends in the cones. Ends with a meeting.
FUNCTION bool step_on_active_rows(real tau) {
    LOOP for (int j = thread(); j < size; j += THREADS) f()[j] = j < n ? -rx()[j] : 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) g()[i] = h()[i] > 0.0 ? h()[i] * z()[i] : s()[i] - rz()[i];
    meet();
    solve_kkt<1>();
    LOOP for (int j = thread(); j < size; j += THREADS) {
        x()[j] += X()[j];
        w()[j] = j < n ? d()[j] * x()[j] : 0.0;
    }
    meet();
    times_A<1, PLAIN>({w(), 0}, {t(), 0});
    meet();
    real outside = 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) {
        const bool active = h()[i] == 0.0;
        real side = active ? z()[i] + Z()[i] : bh()[i] * tau - e()[i] * t()[i];
        if (i >= ZEROS && !(side >= LITTLE * tau)) {
            if (!(side >= -WEAK * tau)) outside = 1.0;
            side = LITTLE * tau;
        }
        z()[i] = active ? side : 0.0, s()[i] = active ? 0.0 : side;
    }
    return !(reduced_max(outside) > 0.0);
}

// Newton's method on the active rows: true with the solution, if they are the right ones; else the iterate stays. What is
// found is measured. No right-hand side but the first is in use, nor d_s, so that the iterate is kept there.
FUNCTION bool finish(Progress &p, real tol) {
    const int refinements = header().refinements;
    meet();
    if (thread() == 0) header().refinements = 0;
    real *const kept_x = f() + size, *const kept_z = g() + tall, *const kept_s = ds();
    copy(x(), kept_x, size), copy(z(), kept_z, m), copy(s(), kept_s, m);
    real worst = 1e300;
    LOOP for (int step = 0; step < NEWTON_STEPS && worst > EXACT * tol; ++step) {
        if (!step_on_active_rows(p.tau)) {
            worst = 1e300;
            break;
        }
        p.is = measure(p.tau, p.norm_q, p.norm_b);
        worst = p.is.worst;
    }
    const bool found = worst <= GOAL * tol;
    if (!found) {
        copy(kept_x, x(), size), copy(kept_z, z(), m), copy(kept_s, s(), m);
        meet();
        p.is = measure(p.tau, p.norm_q, p.norm_b);
        p.open = p.is.open <= p.open ? RETRY * p.is.open : p.open;
    }
    if (thread() == 0) header().refinements = refinements;
    meet();
    return found;
}
#endif

// Predictor, corrector and step with the factor of the iterate's matrix; false where no step is left.
DEVICE bool advance(const Arguments &a, Progress &p) {
#if !CURVED
    if (p.finishing) {
        p.finished = finish(p, a.tol), ++p.iteration;
        return true;
    }
#endif
    const Measure &is = p.is;
    const real tau = p.tau, kappa = p.kappa, mu = (is.sz + tau * kappa) / (degree + 1);
    // The affine right-hand side (-rx, s - rz), and the constant one (-q, b).
    LOOP for (int j = thread(); j < size; j += THREADS) f()[j] = j < n ? -rx()[j] : 0.0, f()[size + j] = -qh()[j];
    LOOP for (int i = thread(); i < m; i += THREADS) g()[i] = s()[i] - rz()[i], g()[tall + i] = bh()[i];
    meet();
    solve_kkt<2>();
    real dots[2];
    inner_products<2>(tau, dots);
    const real by_tau = 1.0 / tau, rtau = is.xPx * by_tau + is.qx + is.bz + kappa;
    const real bent = is.xPx * by_tau * by_tau;
    real bottom = bent - dots[1];
    if (!(bottom > 1e-3 * (bent + fabs(dots[1])))) bottom = larger(bottom, curvature(by_tau));
    const real by_bottom = 1.0 / (kappa * by_tau + bottom);
    real dtau = (rtau - kappa + dots[0]) * by_bottom, dkappa = -kappa - kappa * by_tau * dtau;
    steps(dtau, t(), s(), 1.0);
    real step = longest(t(), tau, dtau, kappa, dkappa, 1.0);
#if THREES
    step = -reduced_max(-step_back(z(), t(), s(), dS(), step));
#endif
    const real sigma = p.stuck ? 1.0 : p.idle >= CYCLE ? AIM : square(1.0 - step) * (1.0 - step);

    const real share = 1.0 - sigma;  // of the second-order terms: a step that was not to be had corrects nothing
    correct(z(), s(), t(), dS(), sigma * mu, share, ds());
#if CURVED
    meet();
#endif
    LOOP for (int j = thread(); j < n; j += THREADS) f()[j] = -(1.0 - sigma) * rx()[j];
    LOOP for (int i = thread(); i < m; i += THREADS) g()[i] = ds()[i] - (1.0 - sigma) * rz()[i];
    const real d_kappa = kappa * tau + share * dkappa * dtau - sigma * mu;
    meet();
    solve_kkt<1>();
    inner_products<1>(tau, dots);
    dtau = ((1.0 - sigma) * rtau - d_kappa * by_tau + dots[0]) * by_bottom;
    dkappa = -(d_kappa + kappa * dtau) * by_tau;
    steps(dtau, Z(), ds(), 1.0 - sigma);
    step = smaller(1.0, 0.99 * longest(Z(), tau, dtau, kappa, dkappa, 1e10));
#if THREES
    // Into the other cones, then near to the central path.
    step = -reduced_max(-step_back(z(), Z(), s(), dS(), step));
    LOOP for (int tries = 0; tries < 50; ++tries) {
        real parts[2] = {0.0, barriers(z(), Z(), s(), dS(), step)};
        LOOP for (int i = thread(); i < m; i += THREADS)
            parts[0] += (z()[i] + step * Z()[i]) * (s()[i] + step * dS()[i]);
        reduce(parts);
        const real next_tau = tau + step * dtau, next_kappa = kappa + step * dkappa;
        const real next_mu = (parts[0] + next_tau * next_kappa) / (degree + 1);
        if ((degree + 1) * log(next_mu) - log(next_tau * next_kappa) + parts[1] < 1.0 + 3.0 * THREES) break;
        step *= 0.8;
    }
#endif
    if (!(step > 1e-12)) {
        p.status = NUMERICAL_ERROR;
        return false;
    }
    p.stuck = step < SHORT;
    if (tau < kappa && mu > UNDECIDED && step > LONG) p.stalled = 0;  // before tau grows no iterate is better
    LOOP for (int j = thread(); j < n; j += THREADS) x()[j] += step * (X()[j] + dtau * X()[size + j]);
    LOOP for (int i = thread(); i < m; i += THREADS) z()[i] += step * Z()[i], s()[i] += step * dS()[i];
    const real left = 1.0 - step * (1.0 - sigma);
    p.expected_rp = left * is.rp, p.expected_rd = left * is.rd;
    p.tau += step * dtau, p.kappa += step * dkappa, ++p.iteration;
    meet();
    return true;
}

// How it ended, for the caller.
DEVICE void conclude(const Arguments &a, Progress &p) {
    const long long B = element(a);
    if (p.status != INFEASIBLE && p.status != UNBOUNDED && p.best < 1e300)
        p.status = p.best <= 10.0 * a.tol ? SOLVED : INACCURATE;
    if (p.status >= MAX_ITERATIONS) store(a, 1.0, false, false);
    if (thread() == 0 && member() == 0) {
        a.status[B] = p.status, a.iterations[B] = p.iteration;
        a.residuals[3 * B] = p.primal, a.residuals[3 * B + 1] = p.dual, a.residuals[3 * B + 2] = p.gap;
    }
}

constexpr bool SYMMETRIC = THREES == 0;

extern "C" __global__ void CLUSTERED __launch_bounds__(THREADS, RESIDENT) solve(const Arguments a) {
    const long long B = element(a);
    if (thread() == 0) {
        Header &here = header();
        here.P = a.P + B * a.P_stride, here.q = a.q + B * a.q_stride;
        here.A = a.A + B * a.A_stride, here.b = a.b + B * a.b_stride;
        here.starts = a.starts, here.block = a.block, here.semis = a.semis, here.alphas = a.alphas;
        here.workspace = a.workspace + (B * CLUSTER + member()) * a.workspace_stride + WORKING;
#if SPARSE
        here.values = here.workspace - WORKING, here.table = a.table;
#endif
        here.c = 1.0, here.quadratic = a.quadratic, here.refinements = 0, here.turn = 0;
    }
    Progress p;
#if LARGE
    // One part of the iterations, from the factor that the part before asked for to the next one that is needed.
    if (a.resumed.part > 0 && !a.resumed.going[B]) return;
    place(a.resumed);
    bool going;
    if (a.resumed.part == 0) {
        meet();
        going = begin(p);
        if (going && SYMMETRIC) unit_cones(), meet();
        if (going && !SYMMETRIC) start(), going = approach(a, p);
    } else {
        restore(p);
        going = true;
        if (a.resumed.part == 1)
            start();
        else
            going = advance(a, p);
        if (going) going = approach(a, p);
    }
    if (going)
        factor_normal(), save(p);
    else
        conclude(a, p);
    meet_all();  // until the others have taken what this one left
    if (thread() == 0 && member() == 0) a.resumed.going[B] = going;
#else
    meet();
    open_matrices(a.table, a.quadratic);
    if (begin(p)) {
        if (SYMMETRIC) unit_cones(), meet(), factor_normal();
        start();
        LOOP while (approach(a, p)) {
            factor_normal();
            if (!advance(a, p)) break;
        }
    }
    conclude(a, p);
#endif
}
