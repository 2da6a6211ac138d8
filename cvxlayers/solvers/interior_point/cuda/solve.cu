// A batch of cone programs by an interior-point method, one thread block for each.
//
// minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K: the homogeneous embedding of Goulart and Chen, arXiv
// 2405.12762, with the names used there; every step is a solve with P + A'H^-1 A, factored once per iteration.
#include "dense.cuh"
#include "cones.cuh"

struct Arguments {
    Shape shape;
    const real *P, *q, *A, *b;
    long long P_stride, q_stride, A_stride, b_stride;  // from one problem to the next; 0 where all share one
    real *x, *z, *s, *residuals;                       // (batch, n), (batch, m), (batch, m), (batch, 3)
    int *status, *iterations;                          // (batch,)
    real *workspace;                                   // what does not fit in shared memory
    long long workspace_stride;
    real tol;
    int max_iter, quadratic;                           // quadratic: whether P may hold anything but zeros
};

enum Status { SOLVED, INACCURATE, INFEASIBLE, UNBOUNDED, MAX_ITERATIONS, NUMERICAL_ERROR, INVALID_INPUT };

constexpr real ABSENT = 0.999e20, INFINITE = 1e20;
constexpr real INACCURACY = 1e-4, CERTIFICATE = 1e-6;
constexpr real STATIC = 1e-10;  // added to the diagonal of P, for matrices with entries of size one
constexpr int SWEEPS = 10, REFINEMENTS = 3;

struct Problem {
    const real *P, *q, *A, *b;
    int n, m, size;      // size: n rounded up to whole tiles, the distance from one vector to the next
    real c;              // scale of the cost
    real *d, *e;         // scales of the columns and of the rows; e = 0 marks an absent constraint
    real *qh, *bh;       // the scaled q and b
    real *x, *s, *z;     // the scaled iterate
    real *Px, *rx, *rz;  // P x, and the residuals of the embedding
    real *f, *g;         // right-hand sides, two of each (n and m)
    real *X, *Z;         // their solutions
    real *y, *w, *t, *u; // what solving needs, two of each (n, n, m, m)
    real *ds, *dS;       // d_s, and the step of s
    real *parts, *rows;
    Factor factor;
    Cones cones;
    Reduce reduce;
    bool quadratic;
    int refinements;
};

// Where things are: shared memory from `shared` on, or for the vectors of m the workspace of this problem.
// `launch.py` knows the sizes.
FUNCTION void lay_out(Problem &p, const Arguments &a, real *shared) {
    const Shape &shape = a.shape;
    const int n = shape.n, m = (shape.m + 1) & ~1, tiles = (n + 7) / 8, size = 8 * tiles;
    real *workspace = a.workspace + blockIdx.x * a.workspace_stride;
    auto take = [](real *&from, int count) {
        real *at = from;
        from += (count + 1) & ~1;
        return at;
    };
    p.n = n, p.m = shape.m, p.size = size;
    p.factor.n = n, p.factor.tiles = tiles;
    p.factor.L = take(shared, tiles * (tiles + 1) / 2 * 64);
    p.factor.pivots = take(shared, size);
    p.reduce.buffer = take(shared, REDUCE_SIZE), p.reduce.turn = 0;
    p.parts = take(shared, 2 * THREADS);
    p.d = take(shared, size), p.qh = take(shared, size), p.x = take(shared, size);
    p.Px = take(shared, size), p.rx = take(shared, size);
    p.rows = shared;  // the rows being staged lie over what is dead while the matrix is formed
    p.f = take(shared, 2 * size), p.X = take(shared, 2 * size), p.y = take(shared, 2 * size);
    p.w = take(shared, 2 * size);
#if VECTORS_SHARED
    real *&tall = shared;
#else
    real *&tall = workspace;
#endif
    p.g = take(tall, 2 * m), p.Z = take(tall, 2 * m), p.t = take(tall, 2 * m), p.u = take(tall, 2 * m);
    if (p.rows + CHUNK * stage_stride(n) > shared) shared = p.rows + CHUNK * stage_stride(n);
    p.e = take(tall, m), p.bh = take(tall, m), p.s = take(tall, m), p.z = take(tall, m), p.rz = take(tall, m);
    p.ds = take(tall, m), p.dS = take(tall, m);
    p.cones.h = take(tall, m), p.cones.root = take(tall, m);
    p.cones.eta = take(tall, shape.socs), p.cones.H = take(tall, 6 * shape.threes);
    p.cones.R = take(tall, 6 * shape.threes);
    p.cones.vectors = take(workspace, 2 * n * shape.socs);
    p.cones.shape = &a.shape;
}

DEVICE real clip(real v, real least, real most) { return fmin(fmax(v, least), most); }

// Scales d, e and c that bring the data near size one: Ruiz, RAL-TR-2001-034, with one e for each curved cone.
// Absent constraints have e = 0, and b = 1. False if the data hold NaN or infinity.
FUNCTION bool equilibrate(Problem &p) {
    const Shape &shape = *p.cones.shape;
    const int n = p.n, m = p.m;
    real bad = 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) {
        const bool absent = i >= shape.zeros && i < shape.linear && p.b[i] >= ABSENT;
        p.e[i] = absent ? 0.0 : 1.0;
        if (!absent && !isfinite(p.b[i])) bad = 1.0;
    }
    LOOP for (int j = thread(); j < p.size; j += THREADS) {
        p.d[j] = 1.0, p.x[j] = 0.0;
        if (j < n && !isfinite(p.q[j])) bad = 1.0;
    }
    LOOP for (int k = thread(); k < m * n; k += THREADS) bad += 0.0 * p.A[k];
    if (p.quadratic)
        LOOP for (int k = thread(); k < n * n; k += THREADS) bad += 0.0 * p.P[k];
    if (!(p.reduce.sum(bad) == 0.0)) return false;

    LOOP for (int sweep = 0; sweep < SWEEPS; ++sweep) {
        real far = 0.0;
        times_rows<1, LARGEST>(p.A, m, n, {p.d, 0}, {p.t, 0});
        times_columns<1, LARGEST>(p.A, m, n, {p.e, 0}, {p.y, 0}, p.parts);
        meet();
        if (p.quadratic) {
            times_columns<1, LARGEST>(p.P, n, n, {p.d, 0}, {p.w, 0}, p.parts);
            meet();
        }
        LOOP for (int i = thread(); i < m; i += THREADS) p.t[i] *= p.e[i];
        LOOP for (int j = thread(); j < n; j += THREADS)
            p.y[j] = (p.quadratic ? fmax(p.y[j], p.w[j]) : p.y[j]) * p.d[j];
        meet();
#if CURVED
        LOOP for (int k = warp(); k < shape.socs; k += WARPS) {
            real most = 0.0;
            LOOP for (int i = shape.starts[k] + lane(); i < shape.starts[k + 1]; i += 32) most = fmax(most, p.t[i]);
            most = warp_max(most);
            LOOP for (int i = shape.starts[k] + lane(); i < shape.starts[k + 1]; i += 32) p.t[i] = most;
        }
        LOOP for (int k = thread(); k < shape.threes; k += THREADS) {
            real *t = p.t + shape.round + 3 * k;
            t[0] = t[1] = t[2] = fmax(t[0], fmax(t[1], t[2]));
        }
        meet();
#endif
        LOOP for (int i = thread(); i < m; i += THREADS) {
            if (!(p.t[i] > 0.0)) continue;
            far = fmax(far, fabs(p.t[i] - 1.0));
            p.e[i] = clip(p.e[i] * rsqrt(p.t[i]), 1e-4, 1e4);
        }
        LOOP for (int j = thread(); j < n; j += THREADS) {
            if (!(p.y[j] > 0.0)) continue;
            far = fmax(far, fabs(p.y[j] - 1.0));
            p.d[j] = clip(p.d[j] * rsqrt(p.y[j]), 1e-4, 1e4);
        }
        if (p.reduce.max(far) < 0.2) break;
    }

    real sums[1] = {0.0}, maxima[1] = {0.0};
    LOOP for (int j = thread(); j < n; j += THREADS) maxima[0] = fmax(maxima[0], fabs(p.q[j] * p.d[j]));
    if (p.quadratic) {
        meet();
        times_columns<1, LARGEST>(p.P, n, n, {p.d, 0}, {p.w, 0}, p.parts);
        LOOP for (int j = thread(); j < n; j += THREADS) sums[0] += p.w[j] * p.d[j];
    }
    p.reduce(sums, maxima);
    p.quadratic = sums[0] > 0.0;
    const real cost = fmax(maxima[0], sums[0] / n);
    p.c = 1.0 / clip(cost > 0.0 ? cost : 1.0, 1e-4, 1e4);
    LOOP for (int j = thread(); j < p.size; j += THREADS) p.qh[j] = j < n ? p.c * p.d[j] * p.q[j] : 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) p.bh[i] = p.e[i] > 0.0 ? p.e[i] * p.b[i] : 1.0;
    meet();
    return true;
}

// Factor P + A'H^-1 A at the present H.
FUNCTION void factor_kkt(Problem &p) {
    p.cones.prepare(p.A, p.e, p.d);
    meet();
    const real *P = p.P, *A = p.A, *d = p.d, *e = p.e, c = p.c;
    const Factor factor = p.factor;
    const Cones cones = p.cones;
    const bool quadratic = p.quadratic;
    gram(
        factor, p.m, p.rows, [=](int i, real *row, int padded) { cones.stage(i, A, e, d, row, padded); },
        [=](int i, int j) {
            const real entry = quadratic ? c * d[i] * d[j] * P[i * factor.n + j] : 0.0;
            return i == j ? entry + STATIC : entry;
        });
    factorize(factor);
}

// (y, u) becomes the solution of the factored [P A'; A -H] (y, u) = (f, g), R of each; t is overwritten.
template <int R> FUNCTION void solve_reduced(Problem &p, const real *f, const real *g, real *u) {
    const int m = p.m, size = p.size;
    const real *A = p.A, *d = p.d, *e = p.e;
    real *t = p.t, *y = p.y, *w = p.w;
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t[r * m + i] = g[r * m + i];
#if CURVED
    meet();
#endif
    LOOP for (int r = 0; r < R; ++r) p.cones.divide(t + r * m);
#if CURVED
    meet();
#endif
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t[r * m + i] *= e[i];
    meet();
    times_columns<R, PLAIN>(A, m, p.n, {t, m}, {w, size}, p.parts);
    LOOP for (int j = thread(); j < size; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r) y[r * size + j] = j < p.n ? f[r * size + j] + d[j] * w[r * size + j] : 0.0;
    meet();
    solve_factored<R>(p.factor, y);
    LOOP for (int j = thread(); j < size; j += THREADS)
        UNROLL for (int r = 0; r < R; ++r) w[r * size + j] = y[r * size + j] * d[j];
    meet();
    times_rows<R, PLAIN>(A, m, p.n, {w, size}, {t, m});
    meet();
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) t[r * m + i] = e[i] * t[r * m + i] - g[r * m + i];
#if CURVED
    meet();
#endif
    LOOP for (int r = 0; r < R; ++r) p.cones.divide(t + r * m);
#if CURVED
    meet();
#endif
    LOOP for (int i = thread(); i < m; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) u[r * m + i] = t[r * m + i];
}

// (X, Z) becomes the solution of [P A'; A -H] (X, Z) = (f, g), refined against the system without regularization.
// Call meet() after writing f and g; ends with one.
template <int R> FUNCTION void solve_kkt(Problem &p) {
    const int m = p.m, size = p.size;
    solve_reduced<R>(p, p.f, p.g, p.Z);
    LOOP for (int r = 0; r < R; ++r)
        LOOP for (int j = thread(); j < size; j += THREADS) p.X[r * size + j] = p.y[r * size + j];
    meet();
    LOOP for (int refinement = 0; refinement < p.refinements; ++refinement) {
        LOOP for (int i = thread(); i < m; i += THREADS)
            UNROLL for (int r = 0; r < R; ++r) p.u[r * m + i] = p.Z[r * m + i];
        LOOP for (int j = thread(); j < size; j += THREADS)
            UNROLL for (int r = 0; r < R; ++r) p.w[r * size + j] = p.X[r * size + j] * p.d[j];
        meet();
        times_rows<R, PLAIN>(p.A, m, p.n, {p.w, size}, {p.t, m});
        LOOP for (int r = 0; r < R; ++r) p.cones.multiply(p.u + r * m);
        meet();
        LOOP for (int i = thread(); i < m; i += THREADS) {
            UNROLL for (int r = 0; r < R; ++r) {
                p.u[r * m + i] += p.g[r * m + i] - p.e[i] * p.t[r * m + i];
                p.t[r * m + i] = p.e[i] * p.Z[r * m + i];
            }
        }
        meet();
        times_columns<R, PLAIN>(p.A, m, p.n, {p.t, m}, {p.y, size}, p.parts);
        LOOP for (int j = thread(); j < p.n; j += THREADS)
            UNROLL for (int r = 0; r < R; ++r) p.y[r * size + j] = p.f[r * size + j] - p.d[j] * p.y[r * size + j];
        meet();
        if (p.quadratic) {
            times_columns<R, PLAIN>(p.P, p.n, p.n, {p.w, size}, {p.t, p.n}, p.parts);
            LOOP for (int j = thread(); j < p.n; j += THREADS)
                UNROLL for (int r = 0; r < R; ++r) p.y[r * size + j] -= p.c * p.d[j] * p.t[r * p.n + j];
            meet();
        }
        solve_reduced<R>(p, p.y, p.u, p.u);
        meet();
        LOOP for (int r = 0; r < R; ++r) {
            LOOP for (int j = thread(); j < p.n; j += THREADS) p.X[r * size + j] += p.y[r * size + j];
            LOOP for (int i = thread(); i < m; i += THREADS) p.Z[r * m + i] += p.u[r * m + i];
        }
        meet();
    }
}

// s or z becomes the nearest multiple of e away that is clearly inside; ends with a meeting.
FUNCTION void shift_inside(Problem &p, real *v) {
    const Shape &shape = *p.cones.shape;
    real sums[1] = {0.0}, maxima[1] = {-1e300};
    LOOP for (int i = shape.zeros + thread(); i < shape.linear; i += THREADS)
        sums[0] += fmax(v[i], 0.0), maxima[0] = fmax(maxima[0], -v[i]);
#if CURVED
    LOOP for (int k = warp(); k < shape.socs; k += WARPS) {
        const int first = shape.starts[k], last = shape.starts[k + 1];
        real norm = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) norm += v[i] * v[i];
        const real margin = v[first] - sqrt(warp_sum(norm));
        if (lane() == 0) sums[0] += fmax(margin, 0.0);
        maxima[0] = fmax(maxima[0], -margin);
    }
#endif
    p.reduce(sums, maxima);
    const int degree = p.cones.degree();
    const real target = fmax(1.0, degree ? 0.1 * sums[0] / degree : 0.0), least = -maxima[0];
    const real shift = fmax(target - least, 0.0);
    LOOP for (int i = shape.zeros + thread(); i < shape.linear; i += THREADS) v[i] += shift;
#if CURVED
    LOOP for (int k = thread(); k < shape.socs; k += THREADS) v[shape.starts[k]] += shift;
#endif
    meet();
}

// The point to start from: the least-squares solution, shifted into the cones; or e, where a cone is not symmetric.
FUNCTION void start(Problem &p) {
    const Shape &shape = *p.cones.shape;
    const int m = p.m, size = p.size;
#if THREES
    if (shape.threes) {
        LOOP for (int i = thread(); i < m; i += THREADS) {
            real v = i < shape.zeros ? 0.0 : 1.0, w = v;
            if (i >= shape.linear && i < shape.round)
                v = w = i == shape.starts[shape.block[i - shape.linear]] ? 1.0 : 0.0;
            if (i >= shape.round) {
                const int k = (i - shape.round) / 3, part = i - shape.round - 3 * k;
                const real a = p.cones.alpha(k);
                if (a < 0.0)  // s = z = -grad f*(z)
                    v = part == 0 ? -1.051383945322714 : part == 1 ? 0.556409619469370 : 1.258967884768947;
                else
                    v = part == 0 ? sqrt(1.0 + a) : part == 1 ? sqrt(2.0 - a) : 0.0;
                w = v;
            }
            p.s[i] = v, p.z[i] = w;
        }
        LOOP for (int j = thread(); j < size; j += THREADS) p.x[j] = 0.0;
        meet();
        return;
    }
#endif
    p.cones.identity();
    meet();
    factor_kkt(p);
    LOOP for (int j = thread(); j < size; j += THREADS) p.f[j] = 0.0, p.f[size + j] = -p.qh[j];
    LOOP for (int i = thread(); i < m; i += THREADS) p.g[i] = p.bh[i], p.g[m + i] = 0.0;
    meet();
    solve_kkt<2>(p);
    // One right-hand side would do for a quadratic objective; for a linear one, x and z come from different ones.
    const real both = p.quadratic ? 1.0 : 0.0;
    LOOP for (int j = thread(); j < size; j += THREADS) p.x[j] = p.X[j] + both * p.X[size + j];
    LOOP for (int i = thread(); i < m; i += THREADS) {
        p.s[i] = i < shape.zeros ? 0.0 : -p.Z[i] - both * p.Z[m + i];
        p.z[i] = p.Z[m + i] + both * p.Z[i];
    }
    meet();
    shift_inside(p, p.s);
    shift_inside(p, p.z);
}

// What an iterate is worth: residuals of the unscaled problem (conic/residuals.py defines them), and terms of the gap.
struct Measure {
    real primal, dual, gap, worst;
    real xPx, qx, bz, sz;   // of the scaled embedding
    real rx, rz;            // norms of the scaled residuals
    real ATz, Ax_s, Px;     // norms, unscaled, of the homogeneous iterate
};

// Px, rx, rz and the measures of the iterate; ends with a meeting.
FUNCTION Measure measure(Problem &p, real tau, real norm_q, real norm_b) {
    const real by_c = 1.0 / p.c, c = p.c;
    const real *d = p.d, *e = p.e, *x = p.x, *z = p.z, *s = p.s, *qh = p.qh, *bh = p.bh;
    real *Px = p.Px, *rx = p.rx, *rz = p.rz;
    real sums[13], none[1] = {0.0};
    UNROLL for (int k = 0; k < 13; ++k) sums[k] = 0.0;
    LOOP for (int j = thread(); j < p.n; j += THREADS) p.w[j] = d[j] * x[j];
    LOOP for (int i = thread(); i < p.m; i += THREADS) p.t[i] = e[i] * z[i];
    meet();
    if (p.quadratic) {
        times_columns<1, PLAIN>(p.P, p.n, p.n, {p.w, 0}, {Px, 0}, p.parts);
        meet();
    }
    times_columns<1, PLAIN>(p.A, p.m, p.n, {p.t, 0}, {p.y, 0}, p.parts);
    times_rows<1, PLAIN>(p.A, p.m, p.n, {p.w, 0}, {rz, 0});
    meet();
    LOOP for (int j = thread(); j < p.n; j += THREADS) {
        const real product = p.y[j], by = by_c / d[j];
        Px[j] = p.quadratic ? c * d[j] * Px[j] : 0.0;
        const real r = Px[j] + d[j] * product + qh[j] * tau;
        rx[j] = r;
        sums[0] += square(Px[j] * by);
        sums[1] += square(product * by_c);
        sums[2] += square(r);
        sums[3] += square(r * by);
        sums[4] += x[j] * Px[j];
        sums[5] += x[j] * qh[j];
    }
    LOOP for (int i = thread(); i < p.m; i += THREADS) {
        const real by_e = e[i] > 0.0 ? 1.0 / e[i] : 0.0, product = rz[i];
        const real r = e[i] * product + s[i] - bh[i] * tau;
        rz[i] = r;
        sums[6] += square(product);
        sums[7] += square(s[i] * by_e);
        sums[8] += square(r);
        sums[9] += square(r * by_e);
        sums[10] += square(e[i] > 0.0 ? product + s[i] * by_e : 0.0);
        sums[11] += bh[i] * z[i];
        sums[12] += s[i] * z[i];
    }
    p.reduce(sums, none);
    Measure is;
    const real by_tau = 1.0 / tau;
    is.Px = sqrt(sums[0]), is.ATz = sqrt(sums[1]), is.rx = sqrt(sums[2]), is.rz = sqrt(sums[8]);
    is.xPx = sums[4], is.qx = sums[5], is.bz = sums[11], is.sz = sums[12], is.Ax_s = sqrt(sums[10]);
    is.dual = sqrt(sums[3]) * by_tau / fmax(fmax(is.Px * by_tau, is.ATz * by_tau), fmax(norm_q, 1.0));
    is.primal = sqrt(sums[9]) * by_tau / fmax(fmax(sqrt(sums[6]), sqrt(sums[7])) * by_tau, fmax(norm_b, 1.0));
    const real xPx = is.xPx * by_c * by_tau * by_tau, qx = is.qx * by_c * by_tau, bz = is.bz * by_c * by_tau;
    is.gap = fabs(xPx + qx + bz) / fmax(fmax(fabs(xPx), fabs(qx)), fmax(fabs(bz), 1.0));
    is.worst = fmax(is.primal, fmax(is.dual, is.gap));
    if (!(is.primal + is.dual + is.gap < 1e300)) is.worst = 1e300;
    return is;
}

// Whether z, or x and s, prove that there is no solution (conic/residuals.py says how it is judged), and how well.
FUNCTION real certificate_of_infeasibility(Problem &p, const Measure &is) {
    if (!(is.bz < 0.0)) return 1e300;
    const real by_c = 1.0 / p.c;
    real sums[2] = {0.0, 0.0}, none[1] = {0.0};
    LOOP for (int i = thread(); i < p.m; i += THREADS) {
        p.t[i] = fabs(p.e[i] * p.z[i]);
        sums[1] += fabs(p.bh[i] * p.z[i]);
    }
    meet();
    times_columns<1, ABSOLUTE>(p.A, p.m, p.n, {p.t, 0}, {p.y, 0}, p.parts);
    LOOP for (int j = thread(); j < p.n; j += THREADS) sums[0] += square(p.y[j] * by_c);
    p.reduce(sums, none);
    const real share = -is.bz / sums[1];
    return is.ATz > 0.0 ? is.ATz / (share * sqrt(sums[0])) : 0.0;
}

FUNCTION real certificate_of_unboundedness(Problem &p, const Measure &is, real &dual) {
    if (!(is.qx < 0.0)) return 1e300;
    real sums[3] = {0.0, 0.0, 0.0}, none[1] = {0.0};
    LOOP for (int j = thread(); j < p.n; j += THREADS) {
        p.w[j] = fabs(p.d[j] * p.x[j]);
        sums[2] += fabs(p.qh[j] * p.x[j]);
    }
    meet();
    times_rows<1, ABSOLUTE>(p.A, p.m, p.n, {p.w, 0}, {p.t, 0});
    if (p.quadratic) {
        times_columns<1, ABSOLUTE>(p.P, p.n, p.n, {p.w, 0}, {p.y, 0}, p.parts);
        LOOP for (int j = thread(); j < p.n; j += THREADS) sums[1] += square(p.y[j]);
    }
    meet();
    LOOP for (int i = thread(); i < p.m; i += THREADS)
        sums[0] += p.e[i] > 0.0 ? square(p.t[i] + fabs(p.s[i]) / p.e[i]) : 0.0;
    p.reduce(sums, none);
    const real share = -is.qx / sums[2];
    dual = is.Px > 0.0 ? is.Px / (share * sqrt(sums[1])) : 0.0;
    return fmax(is.Ax_s > 0.0 ? is.Ax_s / (share * sqrt(sums[0])) : 0.0, dual);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) solve(const Arguments a) {
    SHARED_MEMORY(shared);
    const int B = blockIdx.x, n = a.shape.n, m = a.shape.m;
    Problem p;
    p.P = a.P + B * a.P_stride, p.q = a.q + B * a.q_stride;
    p.A = a.A + B * a.A_stride, p.b = a.b + B * a.b_stride;
    p.quadratic = a.quadratic;
    lay_out(p, a, shared);
    const Shape &shape = a.shape;
    const int size = p.size, degree = p.cones.degree();
    real *x_out = a.x + (long long)B * n, *z_out = a.z + (long long)B * m, *s_out = a.s + (long long)B * m;
    real best = 1e300, best_primal = NAN, best_dual = NAN, best_gap = NAN;
    int status = NUMERICAL_ERROR, iteration = 0;

    // The point as it goes out: the iterate times `by`, unscaled.
    auto store = [&](real by, bool primal, bool dual) {
        if (primal) {
            LOOP for (int j = thread(); j < n; j += THREADS) x_out[j] = p.d[j] * p.x[j] * by;
            LOOP for (int i = thread(); i < m; i += THREADS)
                s_out[i] = p.e[i] > 0.0 ? p.s[i] / p.e[i] * by : INFINITE;
        }
        if (dual)
            LOOP for (int i = thread(); i < m; i += THREADS) z_out[i] = p.e[i] * p.z[i] / p.c * by;
    };
    auto store_nan = [&](bool primal, bool dual) {
        if (primal) {
            LOOP for (int j = thread(); j < n; j += THREADS) x_out[j] = NAN;
            LOOP for (int i = thread(); i < m; i += THREADS) s_out[i] = NAN;
        }
        if (dual)
            LOOP for (int i = thread(); i < m; i += THREADS) z_out[i] = NAN;
    };

    if (!equilibrate(p)) {
        status = INVALID_INPUT;
    } else {
        p.refinements = 0;
        real tau = 1.0, kappa = 1.0, norms[2] = {0.0, 0.0}, none[1] = {0.0};
        LOOP for (int j = thread(); j < n; j += THREADS) norms[0] += square(p.q[j]);
        LOOP for (int i = thread(); i < m; i += THREADS) norms[1] += square(p.e[i] > 0.0 ? p.b[i] : 1.0);
        p.reduce(norms, none);
        const real norm_q = sqrt(norms[0]), norm_b = sqrt(norms[1]);
        start(p);
        status = MAX_ITERATIONS;
        int good = 0, stalled = 0;
        real expected_primal = 1e300, expected_dual = 1e300;
        LOOP for (;; ++iteration) {
            const Measure is = measure(p, tau, norm_q, norm_b);
            if (is.worst < best && is.worst <= fmax(INACCURACY, 100.0 * a.tol)) {
                store(1.0 / tau, true, true);
                stalled = is.worst < 0.5 * best ? 0 : stalled + 1;
                best = is.worst, best_primal = is.primal, best_dual = is.dual, best_gap = is.gap;
            } else {
                ++stalled;
            }
            good += best <= a.tol;
            if (best <= 0.01 * a.tol || good > 2 || (good && stalled)) break;
            if (kappa > tau) {
                const real infeasible = certificate_of_infeasibility(p, is);
                if (infeasible <= 0.5 * CERTIFICATE) {
                    store(-p.c / is.bz, false, true);
                    store_nan(true, false);
                    status = INFEASIBLE, best_primal = NAN, best_dual = infeasible, best_gap = NAN;
                    break;
                }
                meet();
                real dual = 0.0;
                const real unbounded = certificate_of_unboundedness(p, is, dual);
                if (unbounded <= 0.5 * CERTIFICATE) {
                    store(-p.c / is.qx, true, false);
                    store_nan(false, true);
                    status = UNBOUNDED, best_primal = unbounded, best_dual = dual, best_gap = NAN;
                    break;
                }
            }
            if (iteration >= a.max_iter) break;
            if (is.worst >= 1e300 || stalled > 15) {
                status = NUMERICAL_ERROR;
                break;
            }
            if (is.primal > 3.0 * expected_primal + 0.1 * a.tol || is.dual > 3.0 * expected_dual + 0.1 * a.tol)
                p.refinements = p.refinements < REFINEMENTS ? p.refinements + 1 : REFINEMENTS;

            const real mu = (is.sz + tau * kappa) / (degree + 1);
            p.cones.scale(p.z, p.s);
            meet();
            factor_kkt(p);

            // The constant right-hand side (-q, b) and the affine one (-rx, s - rz).
            LOOP for (int j = thread(); j < size; j += THREADS)
                p.f[j] = j < n ? -p.rx[j] : 0.0, p.f[size + j] = -p.qh[j];
            LOOP for (int i = thread(); i < m; i += THREADS) p.g[i] = p.s[i] - p.rz[i], p.g[m + i] = p.bh[i];
            meet();
            solve_kkt<2>(p);
            meet();
            real dots[6] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
            LOOP for (int j = thread(); j < n; j += THREADS) {
                UNROLL for (int r = 0; r < 2; ++r)
                    dots[r] += (2.0 * p.Px[j] / tau + p.qh[j]) * p.X[r * size + j];
            }
            LOOP for (int i = thread(); i < m; i += THREADS) {
                UNROLL for (int r = 0; r < 2; ++r) dots[r] += p.bh[i] * p.Z[r * m + i];
            }
            p.reduce(dots, none);
            const real rtau = is.xPx / tau + is.qx + is.bz + kappa;
            const real bottom = kappa / tau + is.xPx / (tau * tau) - dots[1];
            real dtau = (rtau - kappa + dots[0]) / bottom, dkappa = -kappa - kappa / tau * dtau;

            real *dz = p.t;
            LOOP for (int i = thread(); i < m; i += THREADS) {
                dz[i] = p.Z[i] + dtau * p.Z[m + i];
                p.dS[i] = dz[i];
            }
#if CURVED
            meet();
#endif
            p.cones.multiply(p.dS);
#if CURVED
            meet();
#endif
            LOOP for (int i = thread(); i < m; i += THREADS) p.dS[i] = -p.s[i] - p.dS[i];
#if CURVED
            meet();
#endif
            real most = 1.0;
            if (dtau < 0.0) most = fmin(most, -tau / dtau);
            if (dkappa < 0.0) most = fmin(most, -kappa / dkappa);
            most = fmin(p.cones.step(p.s, p.dS, most), p.cones.step(p.z, dz, most));
#if THREES
            if (shape.threes) {
                most = p.reduce.min(most);
                most = p.cones.step3(p.z, dz, p.s, p.dS, most);
            }
#endif
            real step = p.reduce.min(most);
            const real sigma = square(1.0 - step) * (1.0 - step);

            p.cones.correct(p.z, p.s, dz, p.dS, sigma * mu, p.ds);
#if CURVED
            meet();
#endif
            LOOP for (int j = thread(); j < n; j += THREADS) p.f[j] = -(1.0 - sigma) * p.rx[j];
            LOOP for (int i = thread(); i < m; i += THREADS) p.g[i] = p.ds[i] - (1.0 - sigma) * p.rz[i];
            const real d_kappa = kappa * tau + dkappa * dtau - sigma * mu;
            meet();
            solve_kkt<1>(p);
            meet();
            dots[0] = 0.0;
            LOOP for (int j = thread(); j < n; j += THREADS) dots[0] += (2.0 * p.Px[j] / tau + p.qh[j]) * p.X[j];
            LOOP for (int i = thread(); i < m; i += THREADS) dots[0] += p.bh[i] * p.Z[i];
            dtau = ((1.0 - sigma) * rtau - d_kappa / tau + p.reduce.sum(dots[0])) / bottom;
            dkappa = -(d_kappa + kappa * dtau) / tau;
            LOOP for (int j = thread(); j < n; j += THREADS) p.X[j] += dtau * p.X[size + j];
            dz = p.Z;
            LOOP for (int i = thread(); i < m; i += THREADS) {
                dz[i] += dtau * p.Z[m + i];
                p.dS[i] = dz[i];
            }
#if CURVED
            meet();
#endif
            p.cones.multiply(p.dS);
#if CURVED
            meet();
#endif
            LOOP for (int i = thread(); i < m; i += THREADS) p.dS[i] = -p.ds[i] - p.dS[i];
#if CURVED
            meet();
#endif
            most = 1e10;
            if (dtau < 0.0) most = fmin(most, -tau / dtau);
            if (dkappa < 0.0) most = fmin(most, -kappa / dkappa);
            most = fmin(p.cones.step(p.s, p.dS, most), p.cones.step(p.z, dz, most));
#if THREES
            if (shape.threes) {
                // Back from the edge of the other cones, then into these, then near to the central path.
                most = fmin(1.0, 0.99 * p.reduce.min(most));
                step = p.reduce.min(p.cones.step3(p.z, dz, p.s, p.dS, most));
                LOOP for (int tries = 0; tries < 50; ++tries) {
                    real parts[2] = {0.0, p.cones.barrier(p.z, dz, p.s, p.dS, step)};
                    LOOP for (int i = thread(); i < m; i += THREADS)
                        parts[0] += (p.z[i] + step * dz[i]) * (p.s[i] + step * p.dS[i]);
                    p.reduce(parts, none);
                    const real t = tau + step * dtau, k = kappa + step * dkappa;
                    const real total = (degree + 1) * log((parts[0] + t * k) / (degree + 1)) - log(t * k) + parts[1];
                    if (total < 1.0 + 3.0 * shape.threes) break;
                    step *= 0.8;
                }
            } else
#endif
                step = fmin(1.0, 0.99 * p.reduce.min(most));
            if (!(step > 1e-12)) {
                status = NUMERICAL_ERROR;
                break;
            }
            const real left = 1.0 - step * (1.0 - sigma), next = tau + step * dtau;
            expected_primal = left * is.primal * tau / next, expected_dual = left * is.dual * tau / next;
            LOOP for (int j = thread(); j < n; j += THREADS) p.x[j] += step * p.X[j];
            LOOP for (int i = thread(); i < m; i += THREADS) p.z[i] += step * dz[i], p.s[i] += step * p.dS[i];
            tau = next, kappa += step * dkappa;
            meet();
        }
        if (status != INFEASIBLE && status != UNBOUNDED && best < 1e300)
            status = best <= 10.0 * a.tol ? SOLVED : INACCURATE;
    }

    if (status >= MAX_ITERATIONS) store_nan(true, true);
    if (thread() == 0) {
        a.status[B] = status, a.iterations[B] = iteration;
        a.residuals[3 * B] = best_primal, a.residuals[3 * B + 1] = best_dual, a.residuals[3 * B + 2] = best_gap;
    }
}
