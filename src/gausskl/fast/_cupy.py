"""The CuPy leaf: diagonal pairs by one kernel of CuPy for each call, on the stream and the device of the arrays."""

from __future__ import annotations

import functools
from typing import Any

import cupy

from . import CannotCompile, Job, _gpu
from ._cuda_source import TYPE, function

Array = Any

OPTIONS = ("--fmad=false",)  # the formulas say where a product and a sum are rounded once


def divergence(job: Job, arrays: tuple[Array, ...], reduction: str) -> tuple[Array, Array]:
    """The divergence, and that of each row in the dtype it was computed in."""
    kernel = _kernel(job.spreads, job.bits, str(arrays[0].dtype), job.per_dim)
    with arrays[0].device:
        try:
            values = kernel(*arrays) if job.per_dim else kernel(*arrays, axis=-1)
        except cupy.cuda.compiler.CompileException as error:
            raise CannotCompile(f"{type(error).__name__}: {error}") from error
        if reduction == "none":
            return values.astype(arrays[0].dtype, copy=False), values
        whole = values.sum(dtype=cupy.float64)
        return (whole / job.count if reduction == "mean" else whole).astype(arrays[0].dtype, copy=False), values


def warm_up(job: Job, arrays: tuple[Array, ...], gradients: bool) -> None:
    """Compile what the divergence needs; CuPy does so when a kernel first runs."""
    divergence(job, arrays, "none")


@functools.cache
def _kernel(spreads: Any, bits: int, dtype: str, per_dim: bool) -> Any:
    """A kernel for arrays of one dtype. It sums the terms of a row in float64, which is free beside the memory."""
    names = _gpu.names(spreads)
    given = ", ".join(f"{dtype} {name}" for name in names)
    kind = TYPE["float", bits]
    term = f"gausskl_term({', '.join(f'({kind}){name}' for name in names)})"
    out, source = f"float{bits} out", function(spreads, bits)
    name = "_".join(["gausskl", *(keyword for keyword, _ in spreads), dtype])
    if per_dim:
        return cupy.ElementwiseKernel(given, out, f"out = {term}", f"{name}_per_dim", preamble=source, options=OPTIONS)
    return cupy.ReductionKernel(
        given, out, term, "a + b", "out = a", "0", name, reduce_type="double", preamble=source, options=OPTIONS
    )
