// One thread block works on one problem: its threads, where they meet, and sums over all of them.
//
// THREADS is the size of the block: a power of two, at least one warp. Under EMULATED the same text is compiled by a
// host compiler, with the warp's collective operations supplied by whoever includes it.
#pragma once

typedef double real;

#define DEVICE __device__ __forceinline__
#define FUNCTION __device__ __noinline__  // the larger pieces, called from several places: inlined, they take minutes
#define UNROLL _Pragma("unroll")
// Any other loop stands in the code once: a block runs through nearly all of it in every iteration, and fetching what
// does not fit in the instruction cache would cost more than the unrolling saves.
#define LOOP _Pragma("unroll 1")
#define UNROLL_4 _Pragma("unroll 4")

constexpr int WARPS = THREADS / 32;

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

#define SHARED_MEMORY(name) extern __shared__ double2 shared_memory[]; real *name = reinterpret_cast<real *>(shared_memory)
#ifndef NAN
#define NAN __longlong_as_double(0x7ff8000000000000LL)
#endif

// Sum over the WIDTH lanes that differ in the bits below WIDTH; every lane gets it.
template <int WIDTH> DEVICE real lanes_sum(real v) {
    UNROLL for (int step = WIDTH / 2; step; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

template <int WIDTH> DEVICE real lanes_max(real v) {
    UNROLL for (int step = WIDTH / 2; step; step /= 2) v = fmax(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

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

// Sums and maxima over the whole block, the same numbers for every thread. A reduction is a meeting; two buffers take
// turns, so that one meeting is enough.
constexpr int REDUCE_WIDTH = 16;
constexpr int REDUCE_SIZE = 2 * WARPS * REDUCE_WIDTH;

struct Reduce {
    real *buffer;
    int turn;

    template <int SUMS, int MAXIMA> DEVICE void operator()(real (&sums)[SUMS], real (&maxima)[MAXIMA]) {
        static_assert(SUMS + MAXIMA <= REDUCE_WIDTH, "widen the buffer");
        UNROLL for (int k = 0; k < SUMS; ++k) sums[k] = warp_sum(sums[k]);
        UNROLL for (int k = 0; k < MAXIMA; ++k) maxima[k] = warp_max(maxima[k]);
        if (WARPS == 1) {
            meet();
            return;
        }
        real *mine = buffer + turn * WARPS * REDUCE_WIDTH;
        turn ^= 1;
        if (lane() == 0) {
            UNROLL for (int k = 0; k < SUMS; ++k) mine[warp() * REDUCE_WIDTH + k] = sums[k];
            UNROLL for (int k = 0; k < MAXIMA; ++k) mine[warp() * REDUCE_WIDTH + SUMS + k] = maxima[k];
        }
        meet();
        UNROLL for (int k = 0; k < SUMS; ++k) sums[k] = mine[k];
        UNROLL for (int k = 0; k < MAXIMA; ++k) maxima[k] = mine[SUMS + k];
        LOOP for (int w = 1; w < WARPS; ++w) {
            UNROLL for (int k = 0; k < SUMS; ++k) sums[k] += mine[w * REDUCE_WIDTH + k];
            UNROLL for (int k = 0; k < MAXIMA; ++k) maxima[k] = fmax(maxima[k], mine[w * REDUCE_WIDTH + SUMS + k]);
        }
    }

    DEVICE real sum(real v) {
        real sums[1] = {v}, none[1] = {0.0};
        (*this)(sums, none);
        return sums[0];
    }

    DEVICE real max(real v) {
        real none[1] = {0.0}, maxima[1] = {v};
        (*this)(none, maxima);
        return maxima[0];
    }

    DEVICE real min(real v) { return -max(-v); }
};
