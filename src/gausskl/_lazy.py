"""Dask: the formulas block by block, so that a chunk gives the bits that the same rows give by themselves."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from . import _namespace

Array = Any


def by_block(formula: Any, arrays: list[Array], event_axes: list[int], shape: tuple[int, ...], per_dim: bool) -> Array:
    """Lazy divergence: one task per block of the batch; the event axes of a block are whole."""
    import dask.array as da

    batch = len(shape) - per_dim
    fresh = itertools.count(batch + 1)
    arguments: list[Any] = []
    for array, axes in zip(arrays, event_axes, strict=True):
        leading = range(batch - (array.ndim - axes), batch)
        events = [batch] * axes if per_dim else [next(fresh) for _ in range(axes)]
        arguments += [_whole(array, axes), [*leading, *events]]
    out = tuple(range(batch + per_dim))
    return da.blockwise(
        functools.partial(_on_block, formula),
        out,
        *arguments,
        dtype=arrays[0].dtype,
        concatenate=True,
        align_arrays=True,
    )


def _whole(array: Array, axes: int) -> Array:
    """The array with each event axis in one chunk; the batch is cut finer if that makes its blocks too large."""
    leading = array.ndim - axes
    if all(len(array.chunks[k]) == 1 for k in range(leading, array.ndim)):
        return array
    return array.rechunk({**dict.fromkeys(range(leading), "auto"), **dict.fromkeys(range(leading, array.ndim), -1)})


def _on_block(formula: Any, *blocks: Array) -> Array:
    xp = _namespace.namespace(blocks[0])
    with _namespace.quiet(xp):
        return formula(list(blocks), xp=xp)
