"""The thread team: Python threads that live inside compiled code, without the GIL, and meet at barriers of our own.

Between steps a worker spins briefly, then sleeps on a futex, so an idle server burns no CPU and a busy one pays no wake-up.
"""

from __future__ import annotations

from numba import njit

from senryu.kernels.simd import fetch_add, futex_wait, futex_wake, i64, load_acquire, pause, put_i64, yield_core

SPINS = 100  # pauses before a waiting thread offers its core: when others want it, every barrier of a step costs this long
YIELDS = 400  # offers before a worker that waits for the next step goes to sleep: some 100 us on a free core

RUNS = 2  # a run is this part of a thread's share of what is left

GENERATION, SLEEPERS, ARRIVED, STOP = 0, 64, 128, 192  # byte offsets among SYNC_WORDS, a cache line each


@njit(boundscheck=False)
def run_of(left, threads):
    """How many of `left` work items that lie side by side in memory a thread takes at once, 0 of none.

    Memory is read faster in long runs. They become shorter to the end, so that a slow core takes fewer.
    """
    return max(left // (RUNS * threads), 1) if left > 0 else 0


@njit(boundscheck=False)
def wait_until(address, least):
    """Spin, then offer the core, until the int64 there is `least` or more."""
    spins = 0
    while load_acquire(address) < least:
        spins += 1
        if spins < SPINS:
            pause()
        else:
            yield_core()


@njit(boundscheck=False)
def barrier(sync, threads):
    """Wait until all threads have arrived. ARRIVED only grows: every `threads` arrivals open the barrier once."""
    if threads == 1:
        return
    target = (fetch_add(sync + ARRIVED, 1) // threads + 1) * threads
    wait_until(sync + ARRIVED, target)


@njit(boundscheck=False)
def release(sync, threads):
    """Start the next step: everything written before is seen by the workers."""
    if threads == 1:
        return
    fetch_add(sync + GENERATION, 1)
    if load_acquire(sync + SLEEPERS) > 0:
        futex_wake(sync + GENERATION, threads)


@njit(boundscheck=False)
def wait_for(sync, seen):
    """Wait until the generation differs from `seen`, and return it. A futex compares the low 32 bits: enough here."""
    spins = 0
    while True:
        generation = load_acquire(sync + GENERATION)
        if generation != seen:
            return generation
        spins += 1
        if spins < SPINS:
            pause()
        elif spins < SPINS + YIELDS:
            yield_core()
        else:
            fetch_add(sync + SLEEPERS, 1)
            futex_wait(sync + GENERATION, seen)
            fetch_add(sync + SLEEPERS, -1)


@njit(boundscheck=False)
def stop(sync, threads):
    """Let every worker leave."""
    put_i64(sync + STOP, 1)
    release(sync, threads)


@njit(boundscheck=False)
def stopped(sync):
    return i64(sync + STOP) != 0
