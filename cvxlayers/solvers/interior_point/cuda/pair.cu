// Moreau's decomposition u = z - s for a batch, z the projection of u onto K* and s that of -u onto K, one thread block for
// each problem: what `Product.pair` of cvxlayers/sets computes, by the same formulas.
#define WIDE_KEPT 1
#define WIDE_PASSING 8
#define TALL_PASSING 8
#define CONES_KEPT 1
#include "projections.cuh"

struct Arguments {
    const real *u;                      // (batch, m)
    real *z, *s;                        // the same
    const int *starts, *block, *semis;  // as in Header
    const real *alphas;
    real *workspace;
    long long workspace_stride;
};

constexpr real TINY = 2.2250738585072014e-308;

// x > 0 and y = x - c > 0 with x y = A, each to full relative accuracy, and x + y; c of any sign, A >= 0.
DEVICE real positive_root(real c, real A, real &x, real &y) {
    const real total = sqrt(c * c + 4.0 * A), large = 0.5 * (fabs(c) + total), small = large > 0.0 ? A / large : A;
    x = c > 0.0 ? large : small, y = c > 0.0 ? small : large;
    return total;
}

// t in [-bound, bound] with g(t) = 0 for the increasing g, where f(t, slope) = g(t): see sets/root.py.
template <class F> DEVICE real increasing_root(F f, real bound, int count) {
    real t = 0.0, low = -bound, high = bound, last = 2.0 * bound, best = 0.0, least = 1e308;
    LOOP for (int i = 0; i < count; ++i) {
        real slope;
        const real g = f(t, slope), size = fabs(g);
        if (size < least) best = t, least = size;
        if (g <= 0.0) low = t;
        if (g >= 0.0) high = t;
        const real newton = (g < 0.0 ? 1.0 : -1.0) * log1p(size) * (1.0 + size) / slope;
        const bool good = t + newton >= low && t + newton <= high && fabs(newton) <= 0.5 * last;
        const real next = good ? t + newton : 0.5 * (low + high);
        if (fabs(newton) <= 4.5e-16 * fabs(t) || g == 0.0) break;
        last = fabs(next - t), t = next;
    }
    return best;
}

// A point of the exponential cone's boundary, by one parameter: see `Exponential` and `_exact_ray` in sets/exponential.py.
struct Ray {
    real vx, vy, vz, bound;
    real y, theta, rho, z, gap;

    DEVICE real at(real t, real &slope) {
        const real x = fabs(vx), e = exp(t), low = 1.0 / (1.0 + e), high = e / (1.0 + e);
        const bool right = vx >= 0.0, down = vy < 0.0;
        const real start = down ? 1.0 + bound : 1.0;
        const real k = right ? (down ? bound : 0.0) + start * e : bound * high;
        const real dk = right ? start * e : bound * high * low;
        const real m_ = right ? (down ? x * start * e : vy + vx * e) : fabs(vy) * low;
        rho = (vx * (1.0 + k) - k * vy) / m_;
        const real quadratic = 1.0 + k + k * k, by = 1.0 / quadratic;
        y = larger(m_ * by, 0.0), theta = k * y;
        const real total = positive_root(vz, theta * y, z, gap);
        z = larger(z, TINY);
        const real dy = (y * dk * vx - y * y * (1.0 + 2.0 * k) * dk) / (fabs(m_ * by) * quadratic);
        const real dtheta = k * dy + y * dk, drho = -(dtheta + rho * dy) / y;
        slope = (dtheta * y + theta * dy) / (total * z) - drho - dy / y;
        return log(z) - rho - log(y);
    }
};

FUNCTION void exponential_pair(const real *v, real *z, real *s) {
    constexpr real flush = 6.0e-47;  // TINY^0.15
    if (v[0] <= flush && v[1] <= flush) {
        s[0] = smaller(v[0], 0.0), s[1] = 0.0, s[2] = larger(v[2], 0.0);
        UNROLL for (int i = 0; i < 3; ++i) z[i] = s[i] - v[i];
        return;
    }
    Ray ray;
    ray.vx = fabs(v[0]) > flush ? v[0] : 0.0, ray.vy = v[1], ray.vz = v[2];
    ray.bound = fabs(ray.vx) > 0.0 ? fabs(v[1]) / fabs(ray.vx) : 0.0;
    real slope;
    const real t = increasing_root([&](real at, real &by) { return ray.at(at, by); }, 60.0, 40);
    ray.at(t, slope);
    s[0] = ray.rho * ray.y, s[1] = ray.y, s[2] = ray.z;
    z[0] = -ray.theta, z[1] = v[1] < 0.0 ? ray.y - v[1] : ray.theta * (ray.rho - 1.0), z[2] = ray.gap;
}

// See `Power` in sets/power.py.
FUNCTION void power_pair(const real *v, real alpha, real *z, real *s) {
    const real beta = 1.0 - alpha, size = fabs(v[2]);
    if (size <= 3.9e-139) {  // TINY^0.45
        s[0] = larger(v[0], 0.0), s[1] = larger(v[1], 0.0), s[2] = 0.0;
        UNROLL for (int i = 0; i < 3; ++i) z[i] = s[i] - v[i];
        return;
    }
    real x, p, y, q, low, high;
    auto level = [&](real t, real &slope) {
        const real e = exp(t);
        low = 1.0 / (1.0 + e), high = e / (1.0 + e);
        const real product = size * low * size * high, change = product * (low - high);
        const real x_total = positive_root(v[0], alpha * product, x, p);
        const real y_total = positive_root(v[1], beta * product, y, q);
        const real x_safe = larger(x, TINY), y_safe = larger(y, TINY);
        slope = change * (alpha * alpha / (x_total * x_safe) + beta * beta / (y_total * y_safe)) + high;
        return alpha * log(x_safe) + beta * log(y_safe) - (log(size) - log1p(e));
    };
    real slope;
    const real t = increasing_root(level, 318.0, 40);
    level(t, slope);
    z[0] = p, z[1] = q, z[2] = -v[2] * high;
    s[0] = x, s[1] = y, s[2] = v[2] * low;
}

FUNCTION void three_pair(const real *u, real alpha, real *z, real *s) {
    const real largest = larger(fabs(u[0]), larger(fabs(u[1]), fabs(u[2]))), scale = largest > 0.0 ? largest : 1.0;
    const real v[3] = {-u[0] / scale, -u[1] / scale, -u[2] / scale}, w[3] = {-v[0], -v[1], -v[2]};
    const bool inside = contained(w, alpha, true), outside = contained(v, alpha, false);
    if (!inside && !outside) {
        if (alpha < 0.0)
            exponential_pair(v, z, s);
        else
            power_pair(v, alpha, z, s);
    }
    UNROLL for (int i = 0; i < 3; ++i) {
        z[i] = inside ? u[i] : outside ? 0.0 : z[i] * scale;
        s[i] = outside ? -u[i] : inside ? 0.0 : s[i] * scale;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) pair(const Arguments a) {
    const long long B = blockIdx.x;
    if (thread() == 0) {
        Header &here = header();
        here.starts = a.starts, here.block = a.block, here.semis = a.semis, here.alphas = a.alphas;
        here.workspace = a.workspace + B * a.workspace_stride;
    }
    meet();
    const real *u = a.u + B * m;
    real *z = a.z + B * m, *s = a.s + B * m;
    LOOP for (int i = thread(); i < LINEAR; i += THREADS) {
        const real v = GLOBAL(u + i);
        z[i] = i < ZEROS || v > 0.0 ? v : 0.0, s[i] = i < ZEROS || v > 0.0 ? 0.0 : -v;
        if (!(v == v)) z[i] = s[i] = v;
    }
#if CURVED
    LOOP for (int k = warp(); k < SOCS; k += WARPS) {
        const int first = start_of(k), last = start_of(k + 1);
        const real u0 = GLOBAL(u + first);
        real norm = 0.0;
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) norm += square(GLOBAL(u + i));
        norm = sqrt(warp_sum(norm));
        const real up = u0 + norm, down = u0 - norm, by = norm > 0.0 ? 0.5 / norm : 0.0;
        const real z_up = larger(up, 0.0), z_down = larger(down, 0.0), s_up = larger(-up, 0.0), s_down = larger(-down, 0.0);
        if (lane() == 0) z[first] = 0.5 * (z_up + z_down), s[first] = 0.5 * (s_up + s_down);
        LOOP for (int i = first + 1 + lane(); i < last; i += 32) {
            const real v = GLOBAL(u + i) * by;
            z[i] = v * (z_up - z_down), s[i] = v * (s_up - s_down);
        }
    }
#if SEMIS
    real *T = passing(0);
    each_entry([=](int c, int k, int i, int j) {
        const int first = first_of(c);
        Qt()[square_of(c) + i * k + j] = u[first + packed(i, j)] * (i == j ? 1.0 : BY_ROOT2);
    });
    meet();
    eigenvectors();
    each_entry([=](int c, int k, int i, int j) {
        const int own = square_of(c);
        T[own + i * k + j] = inner_entry(Qt() + own + i * k, u + first_of(c), j, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        if (i == j) spectrum_z()[vector_of(c) + i] = inner(Qt() + square_of(c) + i * k, 1, T + square_of(c) + i * k, 1, k);
    });
    meet();
    each_entry([=](int c, int k, int i, int j) {
        if (i > j) return;
        const real *Q = Qt() + square_of(c), *values = spectrum_z() + vector_of(c);
        real up = 0.0, low = 0.0;
        LOOP for (int l = 0; l < k; ++l) {
            const real product = Q[l * k + i] * Q[l * k + j];
            up += larger(values[l], 0.0) * product, low += larger(-values[l], 0.0) * product;
        }
        const int at = first_of(c) + packed(i, j);
        z[at] = up * (i == j ? 1.0 : ROOT2), s[at] = low * (i == j ? 1.0 : ROOT2);
    });
#endif
    LOOP for (int k = thread(); k < THREES; k += THREADS) {
        const int at = SEMI + 3 * k;
        real v[3], zk[3], sk[3];
        UNROLL for (int i = 0; i < 3; ++i) v[i] = GLOBAL(u + at + i);
        three_pair(v, alpha(k), zk, sk);
        UNROLL for (int i = 0; i < 3; ++i) z[at + i] = zk[i], s[at + i] = sk[i];
    }
#endif
}
