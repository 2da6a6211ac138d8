// One thread block works on one problem: its threads, where they meet, and sums over all of them.
//
// THREADS is the size of the block: a power of two, at least one warp. Under EMULATED the same text is compiled by a
// host compiler, with the warp's collective operations supplied by whoever includes it.
#pragma once

typedef double real;
typedef unsigned long long word;

#define DEVICE __device__ __forceinline__
#define FUNCTION __device__ __noinline__  // the larger pieces, called from several places: inlined, they take minutes
#define UNROLL _Pragma("unroll")
// Any other loop stands in the code once: a block runs through nearly all of it in every iteration, and fetching what
// does not fit in the instruction cache would cost more than the unrolling saves.
#define LOOP _Pragma("unroll 1")
#define UNROLL_4 _Pragma("unroll 4")

constexpr int WARPS = THREADS / 32;

// fmax and fmin in three instructions; of a NaN and a number, either.
DEVICE real larger(real a, real b) { return a > b ? a : b; }
DEVICE real smaller(real a, real b) { return a < b ? a : b; }

DEVICE int thread() { return threadIdx.x; }
DEVICE int lane() { return threadIdx.x & 31; }
DEVICE int warp() { return threadIdx.x >> 5; }

// Every thread arrives, and sees what the others have written.
DEVICE void meet() {
    if (WARPS == 1)
        __syncwarp();
    else
        __syncthreads();
}

#ifndef EMULATED

extern __shared__ double2 shared_memory[];
#define SHARED (reinterpret_cast<real *>(shared_memory))
#define GLOBAL(pointer) __ldg(pointer)  // what no thread writes
#ifndef NAN
#define NAN __longlong_as_double(0x7ff8000000000000LL)
#endif

// v of the lane whose number differs in the bit `step`.
DEVICE real exchanged(real v, int step) { return __shfl_xor_sync(0xffffffffu, v, step); }

// Sum over the WIDTH lanes that differ in the bits below WIDTH; every lane gets it.
template <int WIDTH> DEVICE real lanes_sum(real v) {
    UNROLL for (int step = WIDTH / 2; step; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

// The same where the WIDTH is known only to the program.
DEVICE real lanes_sum(real v, int width) {
    LOOP for (int step = width / 2; step; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

DEVICE real lanes_max(real v, int width) {
    LOOP for (int step = width / 2; step; step /= 2) v = larger(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

template <int WIDTH> DEVICE real lanes_max(real v) {
    UNROLL for (int step = WIDTH / 2; step; step /= 2) v = larger(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// COUNT numbers, one or two, from global to shared memory, while the thread goes on; zeros if they are not `there`.
template <int COUNT> DEVICE void copy_ahead(real *to, const real *from, bool there) {
    const unsigned at = (unsigned)__cvta_generic_to_shared(to), bytes = there ? 8 * COUNT : 0;
    if (COUNT == 2)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// The copies of this thread since the last call are one group.
DEVICE void copies_sent() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until all groups but the last GROUPS have come; then meet, to see those of other threads.
template <int GROUPS> DEVICE void copies_came() { asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory"); }

// C (16, 8) += A (16, 4) B (4, 8). Lane 4 g + t holds A[g][t] and A[g + 8][t], B[t][g], and of C the entries
// [g][2 t], [g][2 t + 1], [g + 8][2 t], [g + 8][2 t + 1].
DEVICE void multiply_tile(real *c, real a0, real a1, real b) {
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a0), "d"(a1), "d"(b));
#else
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[0]), "+d"(c[1])
        : "d"(a0), "d"(b));
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c[2]), "+d"(c[3])
        : "d"(a1), "d"(b));
#endif
}

#endif

DEVICE real square(real v) { return v * v; }
DEVICE real warp_sum(real v) { return lanes_sum<32>(v); }
DEVICE real warp_max(real v) { return lanes_max<32>(v); }

// Sums and maxima over the whole block, the same numbers for every thread; a meeting. The parts of the warps and the totals
// are in `buffer`.
constexpr int REDUCE_WIDTH = 16, REDUCE_SIZE = (WARPS + 1) * REDUCE_WIDTH;

template <int SUMS, int MAXIMA> DEVICE void reduce(real *buffer, real *sums, real *maxima) {
    static_assert(SUMS + MAXIMA <= REDUCE_WIDTH, "widen the buffer");
    UNROLL for (int k = 0; k < SUMS; ++k) sums[k] = warp_sum(sums[k]);
    UNROLL for (int k = 0; k < MAXIMA; ++k) maxima[k] = warp_max(maxima[k]);
    if (WARPS > 1) {
        real *total = buffer + WARPS * REDUCE_WIDTH, *mine = buffer + warp() * REDUCE_WIDTH;
        if (lane() == 0) {
            UNROLL for (int k = 0; k < SUMS; ++k) mine[k] = sums[k];
            UNROLL for (int k = 0; k < MAXIMA; ++k) mine[SUMS + k] = maxima[k];
        }
        meet();
        if (thread() < SUMS + MAXIMA) {
            real v = buffer[thread()];
            UNROLL for (int w = 1; w < WARPS; ++w) {
                const real other = buffer[w * REDUCE_WIDTH + thread()];
                v = thread() < SUMS ? v + other : larger(v, other);
            }
            total[thread()] = v;
        }
        meet();
        UNROLL for (int k = 0; k < SUMS; ++k) sums[k] = total[k];
        UNROLL for (int k = 0; k < MAXIMA; ++k) maxima[k] = total[SUMS + k];
    } else {
        meet();
    }
}
