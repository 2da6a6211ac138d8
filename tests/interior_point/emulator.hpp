// CUDA thread blocks on the host: every thread is a fiber, which runs until it meets the others.
//
// A read that is not separated by a meeting from the write it depends on goes wrong, whichever order the fibers run in
// (`backwards` turns it round), and a meeting that some thread never comes to is reported. One block runs at a time, or
// the members of one cluster.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define EMULATED 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__ inline
#define __launch_bounds__(...)
#define SHARED (emulator::shared + emulator::current / emulator::threads * emulator::between)
#define GLOBAL(pointer) (*(pointer))

struct Index { int x; };
inline Index threadIdx, blockIdx;

namespace emulator {

struct Meeting { int arrived = 0; long generation = 0; };
struct Fiber { ucontext_t context; jmp_buf state; std::vector<char> stack; bool started, done; long calls; };

inline double *shared;
inline int threads, current, first_block;  // of a block; of a cluster
inline long between;                       // from the shared memory of a block to that of the next
inline bool backwards;
inline long idle;
inline std::vector<Fiber> fibers;
inline std::vector<Meeting> warps;
inline std::vector<Meeting> blocks;
inline Meeting cluster;
inline jmp_buf home;
inline void (*body)();
inline double mailbox[64][2][3][32];

inline void entry() {
    body();
    fibers[current].done = true;
    longjmp(home, 1);
}

inline void switch_to(int next) {
    current = next, threadIdx.x = next % threads, blockIdx.x = first_block + next / threads;
    Fiber &fiber = fibers[next];
    if (fiber.started) longjmp(fiber.state, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

inline void yield() {
    if (++idle > 1000000L) std::fprintf(stderr, "a thread waits for others that never come\n"), std::abort();
    const int all = int(fibers.size()), step = backwards ? all - 1 : 1;
    int next = (current + step) % all;
    while (fibers[next].done) next = (next + step) % all;
    if (next == current) return;
    if (_setjmp(fibers[current].state) == 0) switch_to(next);
}

inline void meet(Meeting &meeting, int count) {
    const long generation = meeting.generation;
    if (++meeting.arrived == count) {
        meeting.arrived = 0, ++meeting.generation, idle = 0;
        return;
    }
    while (meeting.generation == generation) yield();
}

// Three numbers of every lane of this warp.
inline double (*exchange(double a, double b, double c))[32] {
    const int w = current / 32, l = current % 32;
    double(*box)[32] = mailbox[w][fibers[current].calls++ & 1];
    box[0][l] = a, box[1][l] = b, box[2][l] = c;
    meet(warps[w], 32);
    return box;
}

template <class Kernel> void launch(Kernel kernel, int count_blocks, int count, long bytes, int members) {
    static Kernel *now;
    now = &kernel, threads = count, body = [] { (*now)(); };
    between = bytes / sizeof(double) + 1;
    for (volatile int b = 0; b < count_blocks; b = b + members) {
        std::vector<double> memory(between * members, NAN);
        shared = memory.data(), first_block = b, idle = 0;
        for (int k = 0; k < members; ++k) memory[(k + 1) * between - 1] = 12345.0;
        fibers.resize(count * members), warps.assign(count * members / 32, Meeting());
        blocks.assign(members, Meeting()), cluster = Meeting();
        for (Fiber &fiber : fibers) {
            fiber.stack.resize(256 * 1024), fiber.started = fiber.done = false, fiber.calls = 0;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data(), fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, entry, 0);
        }
        _setjmp(home);  // a thread that ends comes back to here
        for (int t = 0; t < count * members; ++t)
            if (!fibers[t].done) switch_to(t);
        for (int k = 0; k < members; ++k)
            if (memory[(k + 1) * between - 1] != 12345.0)
                std::fprintf(stderr, "written beyond shared memory\n"), std::abort();
    }
}

}  // namespace emulator

inline void __syncthreads() { emulator::meet(emulator::blocks[emulator::current / emulator::threads], emulator::threads); }
inline void __syncwarp() { emulator::meet(emulator::warps[emulator::current / 32], 32); }
inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
using std::isfinite;

inline double exchanged(double v, int step) {
    double(*box)[32] = emulator::exchange(v, 0.0, 0.0);
    return box[0][emulator::current % 32 ^ step];
}

template <int WIDTH> double lanes_sum(double v) {
    double(*box)[32] = emulator::exchange(v, 0.0, 0.0), sum = 0.0;
    const int first = emulator::current % 32 / WIDTH * WIDTH;
    for (int l = first; l < first + WIDTH; ++l) sum += box[0][l];
    return sum;
}

template <int WIDTH> double lanes_max(double v) {
    double(*box)[32] = emulator::exchange(v, 0.0, 0.0);
    const int first = emulator::current % 32 / WIDTH * WIDTH;
    double most = box[0][first];
    for (int l = first; l < first + WIDTH; ++l) most = std::fmax(most, box[0][l]);
    return most;
}

inline double lanes_sum(double v, int width) {
    double(*box)[32] = emulator::exchange(v, 0.0, 0.0), sum = 0.0;
    const int first = emulator::current % 32 / width * width;
    for (int l = first; l < first + width; ++l) sum += box[0][l];
    return sum;
}

inline double lanes_max(double v, int width) {
    double(*box)[32] = emulator::exchange(v, 0.0, 0.0);
    const int first = emulator::current % 32 / width * width;
    double most = box[0][first];
    for (int l = first; l < first + width; ++l) most = std::fmax(most, box[0][l]);
    return most;
}

template <int COUNT> void copy_ahead(double *to, const double *from, bool there) {
    for (int k = 0; k < COUNT; ++k) to[k] = there ? from[k] : 0.0;
}

inline void copies_sent() {}
template <int GROUPS> void copies_came() {}

inline void multiply_tile(double *c, double a0, double a1, double b) {
    double(*box)[32] = emulator::exchange(a0, a1, b);
    const int g = emulator::current % 32 / 4, t = emulator::current % 4;
    for (int k = 0; k < 4; ++k)
        for (int e = 0; e < 2; ++e) {
            const double right = box[2][4 * (2 * t + e) + k];
            c[e] += box[0][4 * g + k] * right, c[2 + e] += box[1][4 * g + k] * right;
        }
}

extern "C" void run_backwards(int yes) { emulator::backwards = yes; }

#if CLUSTER > 1
inline void meet_all() { emulator::meet(emulator::cluster, int(emulator::fibers.size())); }

// What another block of the cluster has where this one has `at` in its shared memory.
inline double taken(const double *at, int other) {
    return at[(other - emulator::current / emulator::threads) * emulator::between];
}
#endif
