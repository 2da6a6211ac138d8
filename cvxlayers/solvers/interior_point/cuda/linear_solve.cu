// The linear system of the derivative (conic/kkt.py) for a batch, one thread block for each problem.
//
// With D the derivative of the projection onto K* at z - s, [P A'; D A -(I - D)] [w_x; w_z] = [g_x; D g_z]. Replacing
// I - D by I - D + RHO and P by P + STATIC leaves P + A'W A, W = D (I - D + RHO)^-1, which is factored once; refinement
// against the system itself takes the two out again.
#define WIDE_KEPT 1
#define WIDE_PASSING 8
#define TALL_PASSING 8
#define CONES_KEPT 1  // of the vectors of m, the first that belongs to projections.cuh
#include "projections.cuh"
#include "normal.cuh"

struct Arguments {
    const real *P, *A, *z, *s;
    long long P_stride, A_stride;     // from one problem to the next; 0 where all share one
    const real *gx, *gz;              // (several, batch, n), (several, batch, m)
    real *wx, *wz, *residual;         // the same, and (several, batch)
    const int *starts, *block, *semis;  // as in Header
    const real *alphas;
    real *workspace;                  // what does not fit in shared memory
    long long workspace_stride;
    int batch, several, quadratic;
    const word *table;                // of sparse.cuh
#if LARGE
    Resumed resumed;
#endif
};

constexpr real ENOUGH = 1e-13;  // a relative residual that needs no refinement
constexpr int REFINEMENTS = 12;

// Vectors of n: the right-hand side and the solution before the last refinement, the solution; of m: the same, and the
// residual of the rows.
DEVICE real *f() { return wide_passing(0); }
DEVICE real *X() { return wide_passing(2); }
DEVICE real *g() { return tall_passing(0); }
DEVICE real *Z() { return tall_passing(2); }
DEVICE real *u() { return tall_passing(6); }

// The residual, of the columns in y and of the rows in u, and its largest entry; ends with a meeting.
FUNCTION real residual_of() {
    const bool quadratic = header().quadratic;
    LOOP for (int j = thread(); j < n; j += THREADS) w()[j] = d()[j] * X()[j];
    LOOP for (int i = thread(); i < m; i += THREADS) t()[i] = Z()[i], t()[tall + i] = e()[i] * Z()[i];
    meet();
    if (quadratic) times_P<1, PLAIN>({w(), 0}, {w() + size, 0});
    times_A<1, PLAIN>({w(), 0}, {u(), 0});
    apply_D<INACTIVE>(t());
    meet();
    times_At<1, PLAIN>({t() + tall, 0}, {y(), 0});
    LOOP for (int i = thread(); i < m; i += THREADS) u()[i] = g()[i] - e()[i] * u()[i];
#if CURVED
    meet();
#endif
    apply_D<ACTIVE>(u());
#if CURVED
    meet();
#endif
    real worst = 0.0, bad = 0.0;
    LOOP for (int i = thread(); i < m; i += THREADS) {
        u()[i] += t()[i];
        worst = larger(fabs(u()[i]), worst), bad += u()[i];
    }
    LOOP for (int j = thread(); j < n; j += THREADS) {
        const real product = quadratic ? header().c * w()[size + j] : 0.0;
        y()[j] = f()[j] - d()[j] * (product + y()[j]);
        worst = larger(fabs(y()[j]), worst), bad += y()[j];
    }
    real sums[1] = {bad}, maxima[1] = {worst};
    reduce(sums, maxima);
    return sums[0] - sums[0] == 0.0 ? maxima[0] : 1e300;
}

// (X, Z) moves by the solution of the factored system for the residual in (y, u); ends with a meeting.
FUNCTION void refine() {
    LOOP for (int i = thread(); i < m; i += THREADS) t()[i] = u()[i];
#if CURVED
    meet();
#endif
    apply_D<INVERSE>(t());
#if CURVED
    meet();
#endif
    keep_apart<1>(t());
    LOOP for (int i = thread(); i < m; i += THREADS) u()[i] = t()[i], t()[i] *= e()[i];
    meet();
    times_At<1, PLAIN>({t(), 0}, {w(), 0});
    LOOP for (int j = thread(); j < size; j += THREADS) y()[j] = j < n ? y()[j] + d()[j] * w()[j] : 0.0;
    meet();
    solve_factored<1>(y());
    LOOP for (int j = thread(); j < n; j += THREADS) {
        X()[j] += y()[j];
        w()[j] = d()[j] * y()[j];
    }
    meet();
    times_A<1, PLAIN>({w(), 0}, {t(), 0});
    meet();
    LOOP for (int i = thread(); i < m; i += THREADS) t()[i] *= e()[i];
#if CURVED
    meet();
#endif
    apply_D<ACTIVE>(t());
#if CURVED
    meet();
#endif
    apply_D<INVERSE>(t());
#if CURVED
    meet();
#endif
    put_back<1>(t());
    LOOP for (int i = thread(); i < m; i += THREADS) Z()[i] += t()[i] - u()[i];
    meet();
}

// The problem of this block.
#if LARGE
DEVICE int element(const Arguments &a) { return a.resumed.first + blockIdx.x / CLUSTER; }
#else
DEVICE int element(const Arguments &) { return blockIdx.x; }
#endif

// Scale the problem, and factor P + A'W A.
DEVICE void prepare(const Arguments &a) {
    const long long B = element(a);
    LOOP for (int j = thread(); j < size; j += THREADS) d()[j] = 1.0;
    meet();
    LOOP for (int i = thread(); i < m; i += THREADS) e()[i] = 1.0;
    meet();
    balance(a.quadratic);
    real cost = 0.0;
    if (a.quadratic) {
        times_P<1, LARGEST>({d(), 0}, {w(), 0});
        LOOP for (int j = thread(); j < n; j += THREADS) cost += w()[j] * d()[j];
    }
    cost = reduced_sum(cost) / n;
    const real c = 1.0 / clip(cost > 0.0 ? cost : 1.0, 1e-4, 1e4);
    const bool quadratic = cost > 0.0;
    if (thread() == 0) header().c = c, header().quadratic = quadratic;
    meet();
    decompose(a.z + B * m, a.s + B * m, e(), c);

    factor_normal();
}

// The solutions for all right-hand sides.
DEVICE void solve_all(const Arguments &a) {
    const real c = header().c;
    LOOP for (int r = 0; r < a.several; ++r) {
        const long long at = (long long)r * a.batch + element(a);
        real largest = 0.0;
        LOOP for (int j = thread(); j < size; j += THREADS) {
            f()[j] = j < n ? c * d()[j] * GLOBAL(a.gx + at * n + j) : 0.0;
            X()[j] = 0.0;
            largest = larger(fabs(f()[j]), largest);
        }
        LOOP for (int i = thread(); i < m; i += THREADS) g()[i] = e()[i] * GLOBAL(a.gz + at * m + i), Z()[i] = 0.0;
        meet();
        // The best that refinement finds, and no more once it stops to help.
        real worst = residual_of();
        largest = larger(reduced_max(largest), worst);
        LOOP for (int step = 0; step < REFINEMENTS && worst > ENOUGH * largest; ++step) {
            LOOP for (int j = thread(); j < n; j += THREADS) f()[size + j] = X()[j];
            LOOP for (int i = thread(); i < m; i += THREADS) g()[tall + i] = Z()[i];
            refine();
            const real next = residual_of();
            if (!(next < worst)) {
                LOOP for (int j = thread(); j < n; j += THREADS) X()[j] = f()[size + j];
                LOOP for (int i = thread(); i < m; i += THREADS) Z()[i] = g()[tall + i];
                break;
            }
            const bool slow = next > 0.5 * worst;
            worst = next;
            if (slow) break;
        }
        if (member() == 0) {
            LOOP for (int j = thread(); j < n; j += THREADS) a.wx[at * n + j] = d()[j] * X()[j];
            LOOP for (int i = thread(); i < m; i += THREADS) a.wz[at * m + i] = e()[i] * Z()[i] / c;
            if (thread() == 0) a.residual[at] = largest > 0.0 ? worst / largest : 0.0;
        }
        meet();
    }
}

extern "C" __global__ void CLUSTERED __launch_bounds__(THREADS, RESIDENT) linear_solve(const Arguments a) {
    const long long B = element(a);
    if (thread() == 0) {
        Header &here = header();
        here.P = a.P + B * a.P_stride, here.A = a.A + B * a.A_stride;
        here.starts = a.starts, here.block = a.block, here.semis = a.semis, here.alphas = a.alphas;
        here.workspace = a.workspace + (B * CLUSTER + member()) * a.workspace_stride + WORKING;
#if SPARSE
        here.values = here.workspace - WORKING, here.table = a.table;
#endif
        here.quadratic = a.quadratic, here.turn = 0;
    }
#if LARGE
    place(a.resumed);
    real none;
    if (a.resumed.part == 0)
        prepare(a), save(none = 0.0);
    else
        restore(none), solve_all(a);
    meet_all();  // until the others have taken what this one left
#else
    meet();
    open_matrices(a.table, a.quadratic);
    prepare(a);
    solve_all(a);
#endif
}
