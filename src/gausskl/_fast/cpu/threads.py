"""Work cut into short pieces, done by the calling thread and, if there is much of it, by a few others.

Short, because Python sees Ctrl-C only between pieces. The calling thread takes part, so that work goes on whatever
has become of the others: in a child process they are gone, and at the end of the interpreter no new ones start.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from ..._arrays.namespace import threads_of

_own = threading.local()


def workspace(size: int) -> Any:
    """Memory of so many bytes for the thread that asks, the same each time."""
    work = getattr(_own, "work", None)
    if work is None or len(work) < size:
        work = _own.work = np.empty(size, np.uint8)
    return work


MOST = 64  # threads beyond this bring nothing to work that waits for the memory

_pool: ThreadPoolExecutor | None = None


def _forget() -> None:
    """In a forked child: the threads stayed behind in the parent."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def count(library: str) -> int:
    """How many threads to use: what the array library uses, else OMP_NUM_THREADS, else one per processor."""
    own = threads_of(library)
    if own is not None:
        return min(own, MOST)
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdigit() and int(wanted):
        return min(int(wanted), MOST)
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST)


def run(piece: Callable[[int, int], int], size: int, step: int, threads: int) -> int:
    """Sum of ``piece(first, last)`` over pieces of ``step`` that cover ``range(size)``."""
    if size <= step:
        return piece(0, size)
    todo = deque((first, min(first + step, size)) for first in range(0, size, step))

    def work() -> int:
        found = 0
        with contextlib.suppress(IndexError):
            while True:
                found += piece(*todo.popleft())
        return found

    helpers = _start(work, min(threads, len(todo)) - 1)
    try:
        found = work()
    except BaseException:
        todo.clear()
        raise
    finally:
        running = [helper for helper in helpers if not helper.cancel()]
        wait(running)
    return found + sum(helper.result() for helper in running)


def _start(work: Callable[[], int], helpers: int) -> list[Future[int]]:
    """Have others work too; fewer, or none, if there can be no more threads."""
    global _pool
    started: list[Future[int]] = []
    for _ in range(helpers):
        pool = _pool = _pool or ThreadPoolExecutor(MOST, "gausskl")
        # A pool that fails to start a thread has queued the work nevertheless: it must not begin then.
        counted: Future[bool] = Future()
        before = len(started)
        try:
            started.append(pool.submit(_work_if, counted, work))
        except RuntimeError:  # the interpreter is shutting down, or the system has no more threads
            break
        finally:
            counted.set_result(len(started) > before)
    return started


def _work_if(counted: Future[bool], work: Callable[[], int]) -> int:
    with np.errstate(all="ignore"):  # what the caller has said about warnings holds in its own thread
        return work() if counted.result() else 0
