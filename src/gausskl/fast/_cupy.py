"""The CuPy leaf: one kernel for a call, on the stream and the device of the arrays."""

from __future__ import annotations

import functools
from typing import Any

import cupy

from . import CannotCompile, Job, _cuda_dense, _gpu
from ._cuda_source import TYPE, function

Array = Any

CHUNK = 8192  # dimensions that are summed at once
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
    kernel = functools.partial(_kernel, job.spreads, job.bits, str(arrays[0].dtype), job.per_dim)
    if job.per_dim:
        return kernel(job.bits)(*arrays)
    if job.event_size <= CHUNK:
        return kernel(job.bits)(*arrays, axis=-1)
    # CuPy reduces to a number by one block of threads: of a long row, parts are summed first.
    wholes = [cupy.broadcast_to(array, (*array.shape[:-1], job.event_size)) for array in arrays]
    even = job.event_size // CHUNK * CHUNK
    parts = [whole[..., :even].reshape(*whole.shape[:-1], even // CHUNK, CHUNK) for whole in wholes]
    total = kernel(64)(*parts, axis=-1).sum(axis=-1)
    if even < job.event_size:
        total += kernel(64)(*[whole[..., even:] for whole in wholes], axis=-1)
    return total.astype(job.dtype)


@functools.cache
def _kernel(spreads: Any, bits: int, dtype: str, per_dim: bool, out_bits: int) -> Any:
    """A kernel for arrays of one dtype. It sums the terms of a row in float64, which is free beside the memory."""
    names = _gpu.names(spreads)
    given = ", ".join(f"{dtype} {name}" for name in names)
    kind = TYPE["float", bits]
    term = f"gausskl_term({', '.join(f'({kind}){name}' for name in names)})"
    out, source = f"float{out_bits} out", function(spreads, bits)
    name = "_".join(["gausskl", *(keyword for keyword, _ in spreads), dtype])
    if per_dim:
        return cupy.ElementwiseKernel(given, out, f"out = {term}", f"{name}_per_dim", preamble=source, options=OPTIONS)
    return cupy.ReductionKernel(
        given, out, term, "a + b", "out = a", "0", name, reduce_type="double", preamble=source, options=OPTIONS
    )


def _dense(job: Job, arrays: tuple[Array, ...]) -> Array:
    """One thread for each pair."""
    out = cupy.empty(job.shape, job.dtype)
    if not out.size:
        return out
    events = _cuda_dense.events(job)
    wholes = [_whole(array, job.batch_shape, event) for array, event in zip(arrays, events, strict=True)]
    batch = range(len(job.batch_shape))
    outer, inner = _gpu.two_axes(job.batch_shape, [[whole.strides[k] for whole in wholes] for k in batch])
    views = [whole.reshape(outer, inner, *event) for whole, event in zip(wholes, events, strict=True)]
    strides = [step // out.itemsize for view in views for step in view.strides[:2]]
    threads = _cuda_dense.THREADS
    kernel = _dense_kernel(job.spreads, job.bits, job.event_size)
    kernel((-(-out.size // threads),), (threads,), (*views, out, *map(cupy.int64, (out.size, inner, *strides))))
    return out


@functools.cache
def _dense_kernel(spreads: Any, bits: int, d: int) -> Any:
    return cupy.RawKernel(_cuda_dense.source(spreads, bits, d), "gausskl_dense", options=("--std=c++17", *OPTIONS))


def _whole(array: Array, batch: tuple[int, ...], event: tuple[int, ...]) -> Array:
    """The array with the shape of the batch and of an event, whose numbers lie one after the other."""
    own = array.shape[: max(array.ndim - len(event), 0)]
    array = cupy.broadcast_to(array, (*own, *event))
    apart = array[(0,) * len(own)].flags.c_contiguous if array.size else True
    return cupy.broadcast_to(array if apart else cupy.ascontiguousarray(array), (*batch, *event))
