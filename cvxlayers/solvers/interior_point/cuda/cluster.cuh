// Several thread blocks, the members of a cluster, work on one problem when there are fewer problems than multiprocessors.
//
// All members hold all vectors, and do the same with them. What a product reads of a matrix is shared out among them, and
// its results meet: each member leaves its part in its own shared memory, from where the others take it.
#pragma once

#if CLUSTER > 1
DEVICE int member() { return blockIdx.x % CLUSTER; }
#ifndef EMULATED
#define CLUSTERED __cluster_dims__(CLUSTER, 1, 1)

// Every thread of every member arrives, and sees what the others have written.
DEVICE void meet_all() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// What another member has where this one has `at` in its shared memory.
DEVICE real taken(const real *at, int other) {
    unsigned own = (unsigned)__cvta_generic_to_shared(at), there;
    real v;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(own), "r"(other));
    asm volatile("ld.shared::cluster.f64 %0, [%1];" : "=d"(v) : "r"(there) : "memory");
    return v;
}
#endif
#else
DEVICE constexpr int member() { return 0; }
DEVICE void meet_all() {}
DEVICE real taken(const real *at, int) { return *at; }
#endif
#ifndef CLUSTERED
#define CLUSTERED
#endif

// Where this member leaves its part: two places in turn. Who writes to the one again has met the others after they took
// from it. Call `turn` after taking.
DEVICE real *left() { return SHARED + EXCHANGE_AT + header().turn * (EXCHANGE / 2); }

DEVICE void turn() {
    if (CLUSTER == 1) return;
    meet();
    if (thread() == 0) header().turn ^= 1;
    meet();
}

// The sum of a number of each member; ends with a meeting.
DEVICE real sum_of_members(real v) {
    if (CLUSTER == 1) return v;
    real *own = left(), sum = 0.0;
    if (thread() == 0) own[0] = v;
    meet_all();
    UNROLL for (int k = 0; k < CLUSTER; ++k) sum += taken(own, k);
    turn();
    return sum;
}
