"""The whole forward pass of a batch in one compiled call: every thread walks one list of operations, a barrier after each."""

from __future__ import annotations

from senryu.kernels.layout import COUNTER, FUNCTION, WIDTH
from senryu.kernels.simd import call_kernel, get, put_i64
from senryu.kernels.team import barrier, release, stop, stopped, wait_for

BYTES = 8 * WIDTH


def step(operations, count, record, sync, threads, thread):
    """Thread 0 runs one step and returns; the others run every step that is released until the team is stopped."""
    seen = 0
    while True:
        if thread == 0:
            for i in range(count):
                put_i64(operations + i * BYTES + 8 * COUNTER, 0)
            release(sync, threads)
        else:
            seen = wait_for(sync, seen)
            if stopped(sync):
                return
        for i in range(count):
            op = operations + i * BYTES
            call_kernel(get(op, FUNCTION), op, record, thread)
            barrier(sync, threads)
        if thread == 0:
            return


def close(operations, count, record, sync, threads, thread):
    """Let the workers leave."""
    stop(sync, threads)


KERNELS: dict[str, object] = {}
ENTRIES = {"step": step, "close": close}
