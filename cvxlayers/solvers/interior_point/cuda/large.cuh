// A matrix that shared memory does not hold: a kernel leaves the terms of P + A'H^-1 A in global memory and stops; when
// the factor has been made of them (large.py), it is started again and goes on where it was.
//
// The factor L L' lies in blocks of BLOCK rows and columns, by rows; the diagonal blocks are inverted.
#pragma once

// What a kernel that is started several times gets beside its other arguments: a block, or cluster, works on the problem of
// its slot, which is `first` plus its number.
struct Resumed {
    int *going;           // whether a problem needs another part, (batch,)
    real *rows;           // of a slot: the rows of H^(-1/2) A that are curved cones', divided by d, (m - LINEAR, n)
    real *weights;        // what the rows of A, or these, are multiplied with in A'H^-1 A, (m,)
    real *scales;         // d, c where the objective is quadratic, and what is added to the diagonal, (n + 2,)
    const real *factor;   // of a slot: (n, n)
    int first, part;
};

// Where the terms and the factor of this block are. Call it where the header is written, and meet after it.
DEVICE void place(const Resumed &a) {
    const long long slot = blockIdx.x / CLUSTER;
    if (thread() != 0) return;
    header().rows = a.rows + slot * (m - LINEAR) * n;
    header().weights = a.weights + slot * m;
    header().scales = a.scales + slot * (n + 2);
    header().factor = a.factor + slot * n * n;
}

// Between two parts, the state of the problem is at the end of its workspace: the value `p`, and the kept vectors.
constexpr int HEAD = 64;

template <class State> DEVICE real *saved_state() {
    static_assert(sizeof(State) + 4 * sizeof(real) <= HEAD * sizeof(real), "make room for the state");
    return header().workspace + STATE_AT;
}

template <class State> DEVICE void save(const State &p) {
    real *at = saved_state<State>();
    if (thread() == 0) {
        at[0] = header().c, at[1] = header().quadratic, at[2] = header().refinements, at[3] = header().most;
        *reinterpret_cast<State *>(at + 4) = p;
    }
    at += HEAD;
    LOOP for (int k = thread(); k < WIDE_KEPT * size; k += THREADS) at[k] = SHARED[WIDE_AT + k];
    at += WIDE_KEPT * size;
    LOOP for (int k = thread(); k < KEPT; k += THREADS) at[k] = SHARED[KEPT_AT + k];
}

template <class State> DEVICE void restore(State &p) {
    meet();
    const real *at = saved_state<State>();
    p = *reinterpret_cast<const State *>(at + 4);
    if (thread() == 0) {
        header().c = at[0], header().quadratic = int(at[1]), header().refinements = int(at[2]);
        header().most = at[3];
    }
    at += HEAD;
    UNROLL_4 for (int k = thread(); k < WIDE_KEPT * size; k += THREADS) SHARED[WIDE_AT + k] = at[k];
    at += WIDE_KEPT * size;
    UNROLL_4 for (int k = thread(); k < KEPT; k += THREADS) SHARED[KEPT_AT + k] = at[k];
    meet();
}

// The terms of c d P d + more + B'B with rows B = H^(-1/2) e A d, for gram.cu: `weight(i)` is that of row i of A squared, and
// stage(i, row) writes a row of a curved cone, by one warp. Call meet() before it.
template <class Weight, class Stage> DEVICE void leave_terms(const real *d, real c, real more, Weight weight, Stage stage) {
    LOOP for (int i = thread(); i < m; i += THREADS)
        if (member() == 0) header().weights[i] = i < LINEAR ? weight(i) : 1.0;
    LOOP for (int j = thread(); j < n + 2; j += THREADS)
        if (member() == 0) header().scales[j] = j < n ? d[j] : j == n ? c : more;
#if CURVED
    real *staged = SHARED + STAGED_AT + warp() * stage_stride;
    LOOP for (int i = LINEAR + warp() + WARPS * member(); i < m; i += WARPS * CLUSTER) {
        stage(i, staged);
        __syncwarp();
        UNROLL for (int j = lane(); j < n; j += 32) header().rows[(i - LINEAR) * n + j] = staged[j] / d[j];
        __syncwarp();
    }
#endif
}

// What the members have updated of y becomes known to all: chunks of 32 entries go round them. Ends with a meeting.
constexpr int CHUNKED = 32;
static_assert(BLOCK % (CHUNKED * CLUSTER) == 0, "each member has a part of a block");

template <int R> DEVICE void share(real *y, int start, int stop) {
    if (CLUSTER == 1) return;
    real *own = left();
    LOOP for (int i = start + thread(); i < stop; i += THREADS)
        if (i / CHUNKED % CLUSTER == member()) UNROLL for (int r = 0; r < R; ++r) own[r * BLOCK + i - start] = y[r * size + i];
    meet_all();
    LOOP for (int i = start + thread(); i < stop; i += THREADS)
        UNROLL for (int r = 0; r < R; ++r) y[r * size + i] = taken(own + r * BLOCK + i - start, i / CHUNKED % CLUSTER);
    turn();
}

// The k-th row or column of this member from `first` on, which begins a block.
DEVICE int of_member(int first, int k) { return first + (k / CHUNKED * CLUSTER + member()) * CHUNKED + k % CHUNKED; }

// With M the rows start : stop and, from column `from` on, `count` columns of the factor, y becomes M'y at these columns if
// they are its diagonal block's (OWN), which every member does; else y less M'y, at those of this member. SHARES threads
// share a column. Begins after a meeting; ends with one.
template <int R, int SHARES, bool OWN>
DEVICE void add_columns(const real *L, real *y, int start, int stop, int from, int count, real *parts) {
    constexpr int DEEP = 16;
    const int part = thread() / count, k = thread() - part * count, j = OWN ? from + k : of_member(from, k);
    const bool takes = part < SHARES && j < n;
    real sums[R];
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0.0;
    if (takes) {
        LOOP for (int first = start + part; first < stop; first += DEEP * SHARES) {
            real entry[DEEP];
            UNROLL for (int u = 0; u < DEEP; ++u) {
                const int i = first + u * SHARES;
                entry[u] = i < stop && (!OWN || i >= j) ? GLOBAL(L + i * n + j) : 0.0;
            }
            UNROLL for (int u = 0; u < DEEP; ++u) {
                const int i = first + u * SHARES;
                if (i >= stop) break;
                UNROLL for (int r = 0; r < R; ++r) sums[r] += entry[u] * y[r * size + i];
            }
        }
        if (SHARES > 1) UNROLL for (int r = 0; r < R; ++r) parts[(r * SHARES + part) * count + k] = sums[r];
    }
    meet();
    if (takes && part == 0) {
        UNROLL for (int other = 1; other < SHARES; ++other)
            UNROLL for (int r = 0; r < R; ++r) sums[r] += parts[(r * SHARES + other) * count + k];
        UNROLL for (int r = 0; r < R; ++r) y[r * size + j] = OWN ? sums[r] : y[r * size + j] - sums[r];
    }
    meet();
}

// Sums over the lanes of a warp of COUNT numbers, a power of two, in fewer exchanges than one after the other: lanes halve
// what they hold. The k-th sum is left in v[0] of the lane that gets k back; lanes without one get -1.
template <int COUNT> DEVICE int warp_sums(real *v) {
    static_assert(COUNT > 0 && COUNT <= 32 && (COUNT & (COUNT - 1)) == 0, "a power of two");
    int which = 0;
    UNROLL for (int half = COUNT / 2, step = 16; step; half /= 2, step /= 2) {
        if (half) {
            const bool upper = lane() & step;
            UNROLL for (int k = 0; k < half; ++k) {
                const real given = upper ? v[k] : v[half + k], kept = upper ? v[half + k] : v[k];
                v[k] = kept + exchanged(given, step);
            }
            which += upper ? half : 0;
        } else {
            v[0] += exchanged(v[0], step);
        }
    }
    return lane() % (32 / COUNT) == 0 ? which : -1;
}

// y_r becomes (L L')^-1 y_r, for R vectors, `size` after one another, by substitution. Call meet() before it; ends with
// one.
template <int R> FUNCTION void solve_factored(real *y) {
    constexpr int EACH = (BLOCK / CLUSTER + WARPS - 1) / WARPS, PARTS = BLOCK / 32, SHARES = THREADS / BLOCK, AHEAD = 4;
    static_assert(R <= 2 && SHARES >= 1 && THREADS % BLOCK == 0, "parts of R vectors");
    const real *L = header().factor;
    real *parts = SHARED + PARTS_AT;
    // L y: a warp takes a row, and the rows go round the members. Of each block, its own entries of y first, then what they
    // take from those after it.
    LOOP for (int start = 0; start < n; start += BLOCK) {
        const int stop = start + BLOCK < n ? start + BLOCK : n;
        if (start > 0) share<R>(y, start, stop);
        real own[EACH * R], entry[EACH][PARTS];
        UNROLL for (int u = 0; u < EACH; ++u) {
            const int i = of_member(start, warp() + u * WARPS);
            UNROLL for (int k = 0; k < PARTS; ++k) {
                const int j = start + lane() + 32 * k;
                entry[u][k] = i < stop && j <= i ? GLOBAL(L + i * n + j) : 0.0;
            }
        }
        UNROLL for (int r = 0; r < R; ++r) {
            UNROLL for (int u = 0; u < EACH; ++u) own[u * R + r] = 0.0;
            UNROLL for (int k = 0; k < PARTS; ++k) {
                const int j = start + lane() + 32 * k;
                const real v = j < stop ? y[r * size + j] : 0.0;
                UNROLL for (int u = 0; u < EACH; ++u) own[u * R + r] += entry[u][k] * v;
            }
        }
        const int which = warp_sums<EACH * R>(own), i = of_member(start, warp() + which / R * WARPS);
        meet();
        if (which >= 0 && i < stop) y[which % R * size + i] = own[0];
        meet();
        share<R>(y, start, stop);
        if (stop == n) break;
        real above[R][PARTS];
        UNROLL for (int r = 0; r < R; ++r)
            UNROLL for (int k = 0; k < PARTS; ++k) above[r][k] = y[r * size + start + lane() + 32 * k];
        LOOP for (int first = warp(); of_member(stop, first) < n; first += AHEAD * WARPS) {
            real entry[AHEAD][PARTS];
            UNROLL for (int u = 0; u < AHEAD; ++u) {
                const int i = of_member(stop, first + u * WARPS);
                UNROLL for (int k = 0; k < PARTS; ++k) entry[u][k] = i < n ? GLOBAL(L + i * n + start + lane() + 32 * k) : 0.0;
            }
            real taken_off[AHEAD * R];
            UNROLL for (int u = 0; u < AHEAD; ++u) {
                UNROLL for (int r = 0; r < R; ++r) {
                    taken_off[u * R + r] = 0.0;
                    UNROLL for (int k = 0; k < PARTS; ++k) taken_off[u * R + r] += entry[u][k] * above[r][k];
                }
            }
            const int which = warp_sums<AHEAD * R>(taken_off), i = of_member(stop, first + which / R * WARPS);
            if (which >= 0 && i < n) y[which % R * size + i] -= taken_off[0];
        }
        meet();
    }
    // L'x: a thread takes a column, or several share it.
    LOOP for (int start = (n - 1) / BLOCK * BLOCK; start >= 0; start -= BLOCK) {
        const int stop = start + BLOCK < n ? start + BLOCK : n;
        if (stop < n) share<R>(y, start, stop);
        add_columns<R, SHARES, true>(L, y, start, stop, start, BLOCK, parts);
        if (start == 0) break;
        const int columns = start / CLUSTER, shares = THREADS / columns;
        if (shares >= 4)
            add_columns<R, 4, false>(L, y, start, stop, 0, columns, parts);
        else if (shares >= 2)
            add_columns<R, 2, false>(L, y, start, stop, 0, columns, parts);
        else
            add_columns<R, 1, false>(L, y, start, stop, 0, columns, parts);
    }
}
