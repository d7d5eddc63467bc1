"""The leaf for arrays of NumPy: one number per row by a compiled kernel, and what becomes of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._arrays import batches
from ..batch import as_rows
from ..contract import Job
from . import threads

Array = Any


def divergence(job: Job, arrays: tuple[Array, ...], reduction: str) -> tuple[Array, Array | None]:
    """The divergence, and that of each row if there are rows to look at again.

    ``arrays`` are mean and spread of p and then those of q, or those of p alone for the standard normal.
    """
    values, special = job.engine.by_row(job, arrays)
    result = values if reduction == "none" else reduced(job, values, reduction)
    return result, None if special is None else values


def by_row(
    job: Job, arrays: Sequence[Array], events: Sequence[int], step: int, piece: Callable[..., int]
) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row.

    ``piece(*views, out, first, last)`` does some rows, ``step`` of them at a time, and says whether they are finite
    by 0.
    """
    out = np.empty(job.batch, job.dtype)
    bad = 0
    for rows, (*views, place) in as_rows(job.batch, (*arrays, out), (*events, 0)):
        values = place if place.flags.c_contiguous else np.empty(rows, job.dtype)
        bad |= threads.run(functools.partial(piece, *views, values), rows, step, threads.count(job.library))
        if values is not place:
            place[...] = values
    if not bad:
        return out.reshape(job.shape), None
    flat = out.reshape(-1)
    special = np.flatnonzero(~np.isfinite(flat))
    some = max(1, batches.BLOCK // max(math.prod(a.shape[a.ndim - n :]) for a, n in zip(arrays, events, strict=True)))
    for k in range(0, len(special), some):
        part = special[k : k + some]
        found = _by_formula(job, arrays, events, part)
        # The formulas have fewer digits than were asked for: only an overflow is taken from them.
        flat[part] = np.where(found == np.inf, found, np.nan) if job.precise else found
    return out.reshape(job.shape), special


def _by_formula(job: Job, arrays: Sequence[Array], events: Sequence[int], part: Array) -> Array:
    """The divergence of some rows by the formulas of the library."""
    index = np.unravel_index(part, job.batch)
    rows = []
    for array, axes in zip(arrays, events, strict=True):
        array = array.reshape((1,) * (axes - array.ndim) + array.shape)
        whole = np.broadcast_to(array, (*job.batch, *array.shape[array.ndim - axes :]))
        rows.append(whole[index])
    with np.errstate(all="ignore"):
        return batches.evaluate(job.engine.formula(job, np.float64), rows, [*events]).astype(job.dtype)


def reduced(job: Job, values: Array, reduction: str) -> Array:
    """Sum or mean of the results, in float64. NumPy sums in pairs, by the number of them alone."""
    with np.errstate(all="ignore"):
        whole = np.add.reduce(values, axis=None, dtype=np.float64)
        return np.asarray(whole if reduction == "sum" else whole / np.float64(job.count), values.dtype)
