"""The leaf for arrays of NumPy: one number per row by a compiled kernel, and what becomes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..batch import as_rows
from ..by_formula import events, numbers, of_rows, pieces
from ..contract import Job, reduced
from . import threads

Array = Any


def divergence(job: Job, arrays: tuple[Array, ...], reduction: str) -> tuple[Array, Array | None]:
    """The divergence, and that of each row if there are rows to look at again.

    ``arrays`` are mean and spread of p and then those of q, or those of p alone for the standard normal.
    """
    result, suspect, _ = forward(job, arrays, reduction)
    return result, suspect


def forward(job: Job, arrays: tuple[Array, ...], reduction: str) -> tuple[Array, Array | None, Array | None]:
    """The same, and which rows the formulas had to compute; None if there was no such row."""
    values, special = job.engine.by_row(job, arrays)
    result = values
    if reduction != "none":  # NumPy sums in pairs, by the number of results alone
        with np.errstate(all="ignore"):
            result = np.asarray(reduced(job, values, reduction, np.float64), values.dtype)
    return result, None if special is None else values, special


def warm_up(job: Job, arrays: Sequence[Array], gradients: bool) -> None:
    """Compile what the divergence needs, and its gradients where there is a kernel for them."""
    job.kernel("forward")
    if gradients and job.engine.has_gradients(job):
        job.kernel("backward")


def by_row(job: Job, arrays: Sequence[Array], step: int, piece: Callable[..., int]) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row.

    The arrays are those of both sides. ``piece(*views, out, first, last)`` does some rows, ``step`` of them at a time,
    and says whether they are finite by 0.
    """
    own = events(job)
    out = np.empty(job.batch, job.dtype)
    bad = 0
    for rows, (*views, place) in as_rows(job.batch, (*arrays, out), (*own, 0)):
        values = place if place.flags.c_contiguous else np.empty(rows, job.dtype)
        bad |= threads.run(functools.partial(piece, *views, values), rows, step, threads.count(job.library))
        if values is not place:
            place[...] = values
    if not bad:
        return out.reshape(job.shape), None
    flat = out.reshape(-1)
    special = np.flatnonzero(~np.isfinite(flat))
    for part in pieces(special, numbers(arrays, own)):
        found = of_rows(job, arrays, part)
        # The formulas have fewer digits than were asked for: only an overflow is taken from them.
        flat[part] = np.where(found == np.inf, found, np.nan) if job.precise else found
    return out.reshape(job.shape), special
