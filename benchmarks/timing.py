"""Taking turns: the time of several contestants in one process, with the same number of threads.

Call :func:`limit_threads` before an array library is imported, which is when those read it.
"""

import os
import statistics
import time

BATCH_SECONDS = 0.02  # a turn repeats a quick call until it takes about this long
WORKLOAD_SECONDS, FEWEST_TURNS = 15, 3  # slow workloads get fewer turns


def limit_threads(threads):
    """Before the libraries are imported, which is when they read this."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if hasattr(os, "sched_setaffinity"):  # JAX takes as many threads as there are CPUs to run on
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < threads:
            raise SystemExit(f"{threads} threads need as many CPUs, and there are {len(cpus)}")
        os.sched_setaffinity(0, cpus[:threads])


def turn(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls, turns):
    """Median seconds of each call; the calls take turns, so that a busy machine slows all of them."""
    once = {name: turn(call, 1) for name, call in calls.items()}
    repeats = {name: max(1, round(BATCH_SECONDS / max(seconds, 1e-7))) for name, seconds in once.items()}
    most = int(WORKLOAD_SECONDS / sum(seconds * (1 + repeats[name]) for name, seconds in once.items()))
    times = {name: [] for name in calls}
    for _ in range(min(turns, max(FEWEST_TURNS, most))):
        for name, call in calls.items():
            call()  # not timed: the cache and the freed memory are as this contestant leaves them, not the one before
            times[name].append(turn(call, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def check(name, values, tolerance):
    """All contestants of a workload compute the same thing, gradients included."""
    import numpy as np

    (first, expected), *others = values.items()
    for other, value in others:
        for a, b in zip(_arrays(value), _arrays(expected), strict=True):
            if not np.allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max()):
                raise SystemExit(f"{name}: {other} and {first} disagree")


def _arrays(value):
    import numpy as np

    return [np.asarray(a) for a in (value if isinstance(value, tuple) else (value,))]
