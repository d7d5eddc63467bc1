"""How a formula goes over the batch.

Block by block as tasks for Dask, and so that temporaries stay in the cache for NumPy, and for matrices of torch; in JAX
where the arrays are. A block gives the bits that the same rows give in any other.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from . import namespace
from .libraries import name_of

Array = Any


def lazily(
    formula: functools.partial[Any],
    arrays: list[Array],
    event_axes: list[int],
    shape: tuple[int, ...],
    per_dim: bool,
    dtype: Any,
) -> Array:
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
        functools.partial(_on_block, formula, event_axes),
        out,
        *arguments,
        dtype=dtype,
        concatenate=True,
        align_arrays=True,
    )


# Numbers in the largest array of a block; a few times the cache of one core. Matrices are gone through less often for
# the work they make, and have four times as many.
BLOCK = 2**16


def evaluate(formula: functools.partial[Any], arrays: list[Array], event_axes: list[int]) -> Array:
    """Evaluate a formula at once, or block after block along the longest axis of the batch."""
    xp = namespace.namespace(arrays[0])
    if name_of(xp) == "jax":
        return _in_jax(functools.partial(formula, xp=xp), arrays, event_axes)
    if not _goes_block_by_block(arrays, event_axes, xp=xp):
        with namespace.quiet(xp):
            return formula(arrays, xp=xp)
    with namespace.quiet(xp):
        pairs = list(zip(arrays, event_axes, strict=True))
        shape = np.broadcast_shapes(*(array.shape[: array.ndim - axes] for array, axes in pairs))
        size = math.prod(shape) * max(math.prod(array.shape[array.ndim - axes :]) for array, axes in pairs)
        block = BLOCK * (4 if max(event_axes) == 2 else 1)
        if size <= block or not shape:
            return formula(arrays, xp=xp)
        axis = shape.index(max(shape))
        step = max(1, block * shape[axis] // size)
        starts = range(0, shape[axis], step)
        blocks = [
            formula([_cut(array, axes, axis - len(shape), slice(k, k + step)) for array, axes in pairs], xp=xp)
            for k in starts
        ]
        return xp.concat(blocks, axis=axis)


def _goes_block_by_block(arrays: list[Array], event_axes: list[int], *, xp: Any) -> bool:
    """NumPy does; torch where matrices are at hand, whose products and factors take turns with many small passes."""
    name = name_of(xp)
    return name == "numpy" or (name == "torch" and max(event_axes) == 2 and all(map(namespace.can_be_read, arrays)))


def _cut(array: Array, event_axes: int, axis: int, rows: slice) -> Array:
    """Take rows along a batch axis, counted from the end of the batch; an axis that broadcasts stays."""
    axis += array.ndim - event_axes
    if axis < 0 or array.shape[axis] == 1:
        return array
    return array[(slice(None),) * axis + (rows,)]


def _whole(array: Array, axes: int) -> Array:
    """The array with each event axis in one chunk; the batch is cut finer if that makes its blocks too large."""
    leading = array.ndim - axes
    if all(len(array.chunks[k]) == 1 for k in range(leading, array.ndim)):
        return array
    return array.rechunk({**dict.fromkeys(range(leading), "auto"), **dict.fromkeys(range(leading, array.ndim), -1)})


def _on_block(formula: Any, event_axes: list[int], *blocks: Array) -> Array:
    return evaluate(formula, list(blocks), event_axes)


def _in_jax(formula: functools.partial[Any], arrays: list[Array], event_axes: list[int]) -> Array:
    """Evaluate a formula where the sharding of an array may be a part of its type.

    The batch of the result lies as that of the arguments does; what is in between is left to the compiler.
    """
    import jax

    shardings = [jax.typeof(array).sharding for array in arrays] if hasattr(jax, "typeof") else []
    meshes = [sharding.mesh for sharding in shardings if jax.sharding.AxisType.Explicit in sharding.mesh.axis_types]
    if not meshes:
        return formula(arrays)
    batches = [sharding.spec[: len(sharding.spec) - axes] for sharding, axes in zip(shardings, event_axes, strict=True)]
    columns = itertools.zip_longest(*(reversed(batch) for batch in batches))
    batch = [next(filter(None, column), None) for column in columns][::-1]
    spec = jax.sharding.PartitionSpec(*batch, *[None] * formula.keywords["per_dim"])
    return jax.sharding.auto_axes(formula, out_sharding=jax.sharding.NamedSharding(meshes[0], spec))(arrays)
