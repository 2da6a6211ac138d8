// Scales that bring the data near size one: Ruiz, RAL-TR-2001-034, with one scale for each curved cone.
#pragma once
#include "product.cuh"
#include "semidefinite.cuh"

constexpr int SWEEPS = 4;

// The scales of the columns (n) and of the rows (m); what solving needs, two of each (n, n, m).
DEVICE real *d() { return wide_kept(0); }
DEVICE real *e() { return tall_kept(0); }
DEVICE real *y() { return wide_passing(4); }
DEVICE real *w() { return wide_passing(6); }
DEVICE real *t() { return tall_passing(4); }

DEVICE real clip(real v, real least, real most) { return smaller(larger(v, least), most); }

// d and e from where they are; a row with e = 0 stays out of it. Call meet() before it; ends with one.
FUNCTION void balance(bool quadratic) {
    LOOP for (int sweep = 0; sweep < SWEEPS; ++sweep) {
        real far = 0.0;
        times_A<1, LARGEST>({d(), 0}, {t(), 0});
        times_At<1, LARGEST>({e(), 0}, {y(), 0});
        meet();
        if (quadratic) times_P<1, LARGEST>({d(), 0}, {w(), 0});
        meet();
        LOOP for (int i = thread(); i < m; i += THREADS) t()[i] *= e()[i];
        LOOP for (int j = thread(); j < n; j += THREADS) {
            const real most = (quadratic ? larger(y()[j], w()[j]) : y()[j]) * d()[j];
            if (!(most > 0.0)) continue;
            far = larger(far, fabs(most - 1.0));
            d()[j] = clip(d()[j] * rsqrt(most), 1e-4, 1e4);
        }
#if CURVED
        meet();
        LOOP for (int k = warp(); k < SOCS; k += WARPS) {
            real most = 0.0;
            LOOP for (int i = start_of(k) + lane(); i < start_of(k + 1); i += 32) most = larger(most, t()[i]);
            most = warp_max(most);
            LOOP for (int i = start_of(k) + lane(); i < start_of(k + 1); i += 32) t()[i] = most;
        }
#if SEMIS
        LOOP for (int c = warp(); c < SEMIS; c += WARPS) {
            real most = 0.0, *rows = t() + first_of(c);
            const int k = order_of(c), count = k * (k + 1) / 2;
            LOOP for (int i = lane(); i < count; i += 32) most = larger(most, rows[i]);
            most = warp_max(most);
            LOOP for (int i = lane(); i < count; i += 32) rows[i] = most;
        }
#endif
        LOOP for (int k = thread(); k < THREES; k += THREADS) {
            real *three = t() + SEMI + 3 * k;
            three[0] = three[1] = three[2] = larger(three[0], larger(three[1], three[2]));
        }
        meet();
#endif
        LOOP for (int i = thread(); i < m; i += THREADS) {
            if (!(t()[i] > 0.0)) continue;
            far = larger(far, fabs(t()[i] - 1.0));
            e()[i] = clip(e()[i] * rsqrt(t()[i]), 1e-4, 1e4);
        }
        if (reduced_max(far) < 0.3) break;
    }
}
