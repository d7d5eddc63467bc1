"""The CuPy leaf: one kernel for a call, on the stream and the device of the arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from . import CannotCompile, Job, _cuda_dense, _cuda_source, _gpu

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
        if reduction == "none":
            return values.astype(arrays[0].dtype, copy=False), values
        whole = values.sum(dtype=cupy.float64)
        return (whole / job.count if reduction == "mean" else whole).astype(arrays[0].dtype, copy=False), values


def warm_up(job: Job, arrays: tuple[Array, ...], gradients: bool) -> None:
    """Compile what the divergence needs; CuPy does so when a kernel first runs."""
    divergence(job, arrays, "none")


def _diagonal(job: Job, arrays: tuple[Array, ...]) -> Array:
    """A group of threads for each row, or for each part of a long one; a thread for each term of ``per_dim``."""
    given, d = str(arrays[0].dtype), job.event_size
    if job.per_dim:
        return _elementwise(job.spreads, job.bits, given)(*arrays)
    parts = max(1, -(-d // _cuda_source.CHUNK))
    shape, dtype = (job.shape, job.dtype) if parts == 1 else ((*job.shape, parts), np.dtype(np.float64))
    out = cupy.empty(shape, dtype)
    if out.size:
        inner, views = _views(job, arrays, [(d,)] * len(arrays))
        strides = [[step // view.itemsize for step in view.strides] for view in views]
        columns = tuple(steps[-1] if steps[-1] in (0, 1) else None for steps in strides)
        group = min(32, 1 << (d - 1).bit_length())
        kernel = _rows(job.spreads, job.bits, given, columns, _C_TYPES[dtype.name], group)
        numbers = [out.size // parts, inner, d, parts, *(step for steps in strides for step in steps)]
        _launch(kernel, out.size * group, _cuda_source.THREADS, views, out, numbers)
    return out if parts == 1 else out.sum(axis=-1).astype(job.dtype)


def _dense(job: Job, arrays: tuple[Array, ...]) -> Array:
    """A thread for each pair."""
    out = cupy.empty(job.shape, job.dtype)
    if out.size:
        events = _cuda_dense.events(job)
        inner, views = _views(job, [_apart(*both) for both in zip(arrays, events, strict=True)], events)
        numbers = [out.size, inner, *(step // out.itemsize for view in views for step in view.strides[:2])]
        kernel = _pairs(job.spreads, job.bits, job.event_size)
        _launch(kernel, out.size, _cuda_dense.THREADS, views, out, numbers)
    return out


def _views(job: Job, arrays: Sequence[Array], events: Sequence[tuple[int, ...]]) -> tuple[int, list[Array]]:
    """The arrays with two axes for the batch, and the length of the second."""
    shape = job.batch_shape
    wholes = [cupy.broadcast_to(array, (*shape, *event)) for array, event in zip(arrays, events, strict=True)]
    outer, inner = _gpu.two_axes(shape, [[whole.strides[k] for whole in wholes] for k in range(len(shape))])
    return inner, [whole.reshape(outer, inner, *event) for whole, event in zip(wholes, events, strict=True)]


def _launch(kernel: Any, count: int, threads: int, views: list[Array], out: Array, numbers: list[int]) -> None:
    """Let so many threads run, in blocks of ``threads``."""
    kernel((min(-(-count // threads), MOST_BLOCKS),), (threads,), (*views, out, *map(cupy.int64, numbers)))


# The kernels, which CuPy compiles when they first run.


@functools.cache
def _elementwise(spreads: Any, bits: int, given: str) -> Any:
    names, kind = _gpu.names(spreads), _cuda_source.TYPE["float", bits]
    term = f"gausskl_term({', '.join(f'({kind}){name}' for name in names)})"
    return cupy.ElementwiseKernel(
        ", ".join(f"{given} {name}" for name in names),
        f"float{bits} out",
        f"out = {term}",
        "_".join(["gausskl", *(keyword for keyword, _ in spreads), given]),
        preamble=_cuda_source.function(spreads, bits),
        options=OPTIONS,
    )


@functools.cache
def _rows(spreads: Any, bits: int, given: str, columns: tuple[int | None, ...], out: str, group: int) -> Any:
    source = _cuda_source.rows(spreads, bits, _C_TYPES[given], columns, out, group)
    head = "#include <cupy/float16.cuh>\n" if given == "float16" else ""
    return cupy.RawKernel(head + source, "gausskl_rows", options=("--std=c++17", *OPTIONS))


@functools.cache
def _pairs(spreads: Any, bits: int, d: int) -> Any:
    return cupy.RawKernel(_cuda_dense.source(spreads, bits, d), "gausskl_dense", options=("--std=c++17", *OPTIONS))


_C_TYPES = {"float16": "float16", "float32": "float", "float64": "double"}  # the first is CuPy's own


def _apart(array: Array, event: tuple[int, ...]) -> Array:
    """The array with the shape of an event, whose numbers lie one after the other."""
    own = array.shape[: max(array.ndim - len(event), 0)]
    array = cupy.broadcast_to(array, (*own, *event))
    return cupy.ascontiguousarray(array) if array.size and not array[(0,) * len(own)].flags.c_contiguous else array
