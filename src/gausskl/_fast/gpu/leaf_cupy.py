"""The CuPy leaf: one kernel for a call, on the stream and the device of the arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from ..contract import CannotCompile, Job, reduced
from . import cuda_dense, cuda_diagonal, programs

Array = Any

MOST_BLOCKS = 2**31 - 1
OPTIONS = ("--fmad=false",)  # the formulas say where a product and a sum are rounded once


def divergence(job: Job, arrays: tuple[Array, ...], reduction: str) -> tuple[Array, Array]:
    """The divergence, and that of each row in the dtype it was computed in."""
    with arrays[0].device:
        try:
            values = (_diagonal if job.diagonal else _dense)(job, arrays)
        except cupy.cuda.compiler.CompileException as error:
            raise CannotCompile(f"{type(error).__name__}: {error}") from error
        result = values if reduction == "none" else reduced(job, values, reduction, cupy.float64)
        return result.astype(arrays[0].dtype, copy=False), values


def warm_up(job: Job, arrays: tuple[Array, ...], gradients: bool) -> None:
    """Compile what the divergence needs; CuPy does so when a kernel first runs."""
    divergence(job, arrays, "none")


def _diagonal(job: Job, arrays: tuple[Array, ...]) -> Array:
    """A group of threads for each row, or for each part of a long one; a thread for each term of ``per_dim``."""
    char, d = arrays[0].dtype.char, job.event_size
    if job.per_dim:
        return _elementwise(job.spreads, job.bits, char)(*arrays)
    parts = max(1, -(-d // cuda_diagonal.CHUNK))
    out = cupy.empty(job.shape, job.dtype) if parts == 1 else cupy.empty((*job.shape, parts), np.float64)
    if out.size:
        inner, steps, given = _layout(job, arrays, [(d,)] * len(arrays))
        columns = tuple(own if own in (0, 1) else None for _, _, own in steps)
        group = min(32, 1 << (d - 1).bit_length())
        kernel = _rows(job.spreads, job.bits, char, columns, out.dtype.char, group)
        numbers = [out.size // parts, inner, d, parts, *(step for each in steps for step in each)]
        _launch(kernel, out.size * group, cuda_diagonal.THREADS, given, out, numbers)
    return out if parts == 1 else out.sum(axis=-1).astype(job.dtype)


def _dense(job: Job, arrays: tuple[Array, ...]) -> Array:
    """A thread for each pair."""
    out = cupy.empty(job.shape, job.dtype)
    if out.size:
        events = cuda_dense.events(job)
        inner, steps, given = _layout(job, [_apart(*both) for both in zip(arrays, events, strict=True)], events)
        numbers = [out.size, inner, *(step for each in steps for step in each[:2])]
        kernel = _pairs(job.spreads, job.bits, job.event_size)
        _launch(kernel, out.size, cuda_dense.THREADS, given, out, numbers)
    return out


def _layout(
    job: Job, arrays: Sequence[Array], events: Sequence[tuple[int, ...]]
) -> tuple[int, list[tuple[int, ...]], Sequence[Array]]:
    """Where the numbers are, as :func:`.programs.layout` says it; and the arrays, copied if nothing else helps."""
    size = arrays[0].itemsize
    both = [*zip(arrays, events, strict=True)]
    given = [(array.shape, [step // size for step in array.strides], len(event)) for array, event in both]
    found = programs.layout(job.batch_shape, given)
    if found:
        return *found, arrays
    wholes = [cupy.broadcast_to(array, (*job.batch_shape, *event)) for array, event in both]
    return _layout(job, [cupy.ascontiguousarray(whole) for whole in wholes], events)


def _launch(kernel: Any, count: int, threads: int, arrays: Sequence[Array], out: Array, numbers: list[int]) -> None:
    """Let so many threads run, in blocks of ``threads``."""
    kernel((min(-(-count // threads), MOST_BLOCKS),), (threads,), (*arrays, out, *map(cupy.int64, numbers)))


# The kernels, which CuPy compiles when they first run.


@functools.cache
def _elementwise(spreads: Any, bits: int, given: str) -> Any:
    names, kind = programs.names(spreads), cuda_diagonal.TYPE["float", bits]
    term = f"gausskl_term({', '.join(f'({kind}){name}' for name in names)})"
    return cupy.ElementwiseKernel(
        ", ".join(f"{np.dtype(given)} {name}" for name in names),
        f"float{bits} out",
        f"out = {term}",
        "_".join(["gausskl", *(keyword for keyword, _ in spreads), given]),
        preamble=cuda_diagonal.function(spreads, bits),
        options=OPTIONS,
    )


@functools.cache
def _rows(spreads: Any, bits: int, given: str, columns: tuple[int | None, ...], out: str, group: int) -> Any:
    source = cuda_diagonal.rows(spreads, bits, _C_TYPES[given], columns, _C_TYPES[out], group)
    head = "#include <cupy/float16.cuh>\n" if given == "e" else ""
    return cupy.RawKernel(head + source, "gausskl_rows", options=("--std=c++17", *OPTIONS))


@functools.cache
def _pairs(spreads: Any, bits: int, d: int) -> Any:
    return cupy.RawKernel(cuda_dense.source(spreads, bits, d), "gausskl_dense", options=("--std=c++17", *OPTIONS))


_C_TYPES = {"e": "float16", "f": "float", "d": "double"}  # the first is CuPy's own


def _apart(array: Array, event: tuple[int, ...]) -> Array:
    """The array with the shape of an event, whose numbers lie one after the other."""
    own = array.shape[: max(array.ndim - len(event), 0)]
    array = cupy.broadcast_to(array, (*own, *event))
    return cupy.ascontiguousarray(array) if array.size and not array[(0,) * len(own)].flags.c_contiguous else array
