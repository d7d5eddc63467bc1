"""How a kernel sees a batch: views with one axis of rows, as often as it takes, and nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

Array = Any


def as_rows(
    batch: tuple[int, ...], arrays: Sequence[Array], events: Sequence[int]
) -> Iterable[tuple[int, list[Array]]]:
    """Number of rows and views of arrays, as often as it takes to cover the batch.

    ``events`` says how many axes of each array are not of the batch. Axes before those of the batch stay.
    """
    if len(batch) == 1:
        views = [
            array if array.ndim > axes else array.reshape((1,) * (1 + axes - array.ndim) + array.shape)
            for array, axes in zip(arrays, events, strict=True)
        ]
        return [(batch[0], views)]
    return _slices(batch, arrays, events) if math.prod(batch) else []


def _slices(
    batch: tuple[int, ...], arrays: Sequence[Array], events: Sequence[int]
) -> Iterator[tuple[int, list[Array]]]:
    arrays = [array.reshape(1) if array.ndim == 0 else array for array in arrays]
    own = [_batch_strides(array, len(batch), axes) for array, axes in zip(arrays, events, strict=True)]
    remain = merged(batch, own) or [(1, [0] * len(own))]
    sizes = [size for size, _ in remain]
    whole = []
    for k, (array, axes) in enumerate(zip(arrays, events, strict=True)):
        steps = [step[k] for _, step in remain]
        leading, event = max(array.ndim - axes - len(batch), 0), array.ndim - axes
        shape = (*array.shape[:leading], *sizes, *array.shape[event:])
        whole.append(as_strided(array, shape, (*array.strides[:leading], *steps, *array.strides[event:])))
    longest = sizes.index(max(sizes))
    for index in np.ndindex(*(1 if k == longest else size for k, size in enumerate(sizes))):
        at = [slice(None) if k == longest else i for k, i in enumerate(index)]
        yield (
            sizes[longest],
            [array[(..., *at, *[slice(None)] * axes)] for array, axes in zip(whole, events, strict=True)],
        )


def _batch_strides(array: Array, axes: int, event: int) -> list[int]:
    """Strides of an array's batch axes; 0 along those that it lacks, or in which it has length 1."""
    own = range(array.ndim - event - axes, array.ndim - event)
    return [array.strides[k] if k >= 0 and array.shape[k] > 1 else 0 for k in own]


def merged(batch: tuple[int, ...], steps: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """The axes of a batch that remain when neighbours are made one where they are one to all arrays.

    ``steps`` are those of each array along each axis, 0 where it is broadcast.
    """
    axes: list[tuple[int, list[int]]] = []
    for k, size in enumerate(batch):
        here = [step[k] for step in steps]
        if size == 1:
            continue
        if axes and axes[-1][1] == [size * step for step in here]:
            axes[-1] = axes[-1][0] * size, here
        else:
            axes.append((size, here))
    return axes
