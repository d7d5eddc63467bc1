"""Kernels for a GPU, compiled for the processor by a C++ compiler.

A thread runs after the other, or all of a block run at once where they have to meet.
"""

import contextlib
import ctypes
import subprocess
from concurrent import futures

# What CUDA knows and C++ does not. A test says which thread is the one that runs.
CUDA = """
#include <math.h>
#include <pthread.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
extern "C" void flush(int on) { _mm_setcsr(on ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040); }
#else
extern "C" void flush(int) {}
#endif
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(threads)
static thread_local struct { unsigned x; } threadIdx, blockIdx, blockDim, gridDim;
static pthread_barrier_t meeting;
extern "C" void gather(unsigned threads) { pthread_barrier_init(&meeting, 0, threads); }
static inline double __shfl_xor_sync(unsigned, double x, int other) {
  static double shown[1024];
  shown[threadIdx.x] = x;
  pthread_barrier_wait(&meeting);
  x = shown[threadIdx.x ^ other];
  pthread_barrier_wait(&meeting);
  return x;
}
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline long long __double_as_longlong(double x) { long long n; memcpy(&n, &x, sizeof n); return n; }
static inline double __longlong_as_double(long long n) { double x; memcpy(&x, &n, sizeof x); return x; }
extern "C" void place(unsigned block, unsigned blocks, unsigned thread, unsigned threads) {
  blockIdx.x = block, gridDim.x = blocks, threadIdx.x = thread, blockDim.x = threads;
}
static inline int __float_as_int(float x) { int n; memcpy(&n, &x, sizeof n); return n; }
static inline float __int_as_float(int n) { float x; memcpy(&x, &n, sizeof x); return x; }
"""


def compiled(folder, source, effort="-O1"):
    """The library that a C++ compiler makes of a source."""
    place = folder / f"{len(list(folder.iterdir()))}"
    place.mkdir()
    (place / "kernel.cpp").write_text(CUDA + source)
    strict = ["-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-pthread"]
    command = ["g++", effort, *strict, "-shared", "-fPIC", "-o", "kernel.so", "kernel.cpp"]
    subprocess.run(command, cwd=place, check=True)
    return ctypes.CDLL(str(place / "kernel.so"))


@contextlib.contextmanager
def flushing(library, on=True):
    """Let subnormal numbers count as 0, as CuPy has its kernels compiled; it holds for this thread."""
    library.flush(on)
    try:
        yield
    finally:
        library.flush(False)


def address(array):
    """Where the numbers of a NumPy array are."""
    return ctypes.c_void_p(array.ctypes.data)


def launch(function, library, blocks, threads, arguments, meet=False):
    """Let every thread of every block run a function of a library."""

    def run(block, thread):
        library.place(block, blocks, thread, threads)
        getattr(library, function)(*arguments)

    assert blocks > 0  # CUDA refuses to launch none
    for block in range(blocks):
        if meet:
            library.gather(threads)
            with futures.ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, [block] * threads, range(threads)))
        else:
            for thread in range(threads):
                run(block, thread)
