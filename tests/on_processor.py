"""Kernels for a GPU, compiled for the processor by a C++ compiler: a thread runs after the other."""

import contextlib
import ctypes
import subprocess

# What CUDA knows and C++ does not. A test says which thread is the one that runs.
CUDA = """
#include <math.h>
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
static struct { unsigned x; } threadIdx, blockIdx, blockDim, gridDim;
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
    strict = ["-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
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


def launch(function, library, blocks, threads, arguments):
    """Let every thread of every block run a function of a library."""
    for block in range(blocks):
        for thread in range(threads):
            library.place(block, blocks, thread, threads)
            getattr(library, function)(*arguments)
