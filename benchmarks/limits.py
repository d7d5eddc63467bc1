"""What no implementation can beat or should need: the time to read the inputs once, and memory beside them.

Run as a script, ``python limits.py numpy dense``, it prints the memory of one call, and ``python limits.py first`` the
time of the first one. :func:`peak_memory` and :func:`first_call` start it so, because only a fresh process has no freed
memory that a temporary array could hide in, and no kernels.
"""

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

SHAPES = {"diagonal": (4096, 1024), "dense": (100_000, 16)}  # of the calls whose memory is measured
LONG_ROW = 4096


@numba.njit(fastmath=True, error_model="numpy", nogil=True)
def _read(mean_p, std_p, mean_q, std_q):
    """Sum of all elements: the least that can be done with a number once it is loaded."""
    total = 0.0
    for i in range(mean_p.shape[0]):
        row = mean_p.dtype.type(0)  # one accumulator for a row: this loop becomes vector instructions
        for j in range(mean_p.shape[1]):
            row += (mean_p[i, j] + std_p[i, j]) + (mean_q[i, j] + std_q[i, j])
        total += row
    return total


def read_limit(arrays, threads):
    """Function that reads the arrays, by their own rows or by long ones: whichever is faster."""
    size = arrays[0].size
    long = next(n for n in range(LONG_ROW, 0, -1) if size % n == 0)
    forms = [_reader([a.reshape(-1, n) for a in arrays], threads) for n in (arrays[0].shape[-1], long)]
    for form in forms:
        form()
    return min(forms, key=lambda form: min(timeit.repeat(form, number=3, repeat=5)))


def _reader(arrays, threads):
    if threads == 1:
        return lambda: _read(*arrays)
    pool = ThreadPoolExecutor(threads)
    parts = [np.array_split(a, threads) for a in arrays]
    return lambda: sum(pool.map(_read, *parts))


def peak_memory(library, structure):
    """Bytes that one call on arrays of the library needs beside its inputs and result; None if the system hides it."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    # Blocks of 64 kB and more go back to the system when freed, so that each one shows when it is taken again.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, library, structure]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(run.stdout)


def first_call(processes=3):
    """Seconds of a process's first call beside the import of Numba: compiling its kernel, and with it on the disk.

    Medians over several processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = [_first_call(Path(folder, str(k))) for k in range(processes)]
        kept = [_first_call(Path(folder, str(k))) for k in range(processes)]
    return statistics.median(fresh), statistics.median(kept)


def _first_call(cache):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    run = subprocess.run(
        [sys.executable, __file__, "first"], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(run.stdout)


def _growth(call):
    """Bytes by which the process grew at most during a call, without those of the result."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    result = call()
    return _resident("VmHWM") - before - result.nbytes


def _resident(field):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def main():
    import gausskl as gk

    if sys.argv[1] == "first":
        p, q = (gk.Gaussian(np.ones((2, 3)), std=np.ones((2, 3))) for _ in range(2))
        start = time.perf_counter()  # numba was imported above
        gk.kl_divergence(p, q)
        print(time.perf_counter() - start)
        return
    library, structure = sys.argv[1:]
    asarray, shape = importlib.import_module(library).asarray, SHAPES[structure]
    rng = np.random.default_rng(0)
    mean_p, std_p, mean_q, std_q = (rng.uniform(0.5, 2.0, shape) for _ in range(4))

    def held(mean, std):
        if structure == "diagonal":
            return {"mean": asarray(mean), "std": asarray(std)}
        correlation = 0.5 + 0.5 * np.eye(shape[-1])
        return {"mean": asarray(mean), "cov": asarray(std[:, :, None] * correlation * std[:, None, :])}

    p, q = held(mean_p, std_p), held(mean_q, std_q)

    def call():
        return gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q))

    call()  # compiles
    print(max(0, min(_growth(call) for _ in range(3))))  # whatever else the process does can only add


if __name__ == "__main__":
    main()
