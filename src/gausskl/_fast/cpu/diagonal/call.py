"""Diagonal pairs by compiled kernels: NumPy arrays in, one number per row out, and gradients on the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...._arrays import namespace
from ...batch import as_rows
from ...by_formula import completed, of_rows, partials, pieces
from ...contract import Job
from .. import compiler
from .. import threads as cpu_threads

Array = Any

PIECE = 2**19  # numbers of each input in a piece of work: about a millisecond


def kernel(job: Job, kind: str) -> Any:
    """The compiled kernel for such pairs, "forward" or "backward"."""
    return compiler.kernel("diagonal.kernels", kind, job.keyword, job.standard, job.bits)


def has_gradients(_: Job) -> bool:
    """Whether there is a kernel for them."""
    return True


def by_row(job: Job, arrays: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row."""
    out = np.empty((*job.batch, job.event_size if job.per_dim else 1), job.dtype)
    inputs = arrays + arrays if job.standard else arrays
    if job.two_axes:
        not_finite = _run(job.kernel("forward"), job, (*inputs, out, job.per_dim), job.rows)
    else:
        not_finite = 0
        for rows, views in as_rows(job.batch, (*inputs, out), [1] * 5):
            not_finite += _run(job.kernel("forward"), job, (*views, job.per_dim), rows)
    special = None
    if not_finite:
        rowwise = out.reshape(job.rows, -1)
        special = np.flatnonzero(~np.isfinite(rowwise).all(axis=-1))
        both = completed(job, arrays)
        for part in pieces(special, job.event_size):
            found = rowwise[part]
            again = of_rows(job, both, part).reshape(found.shape)
            rowwise[part] = np.where(np.isfinite(found), found, again)
    return out.reshape(job.shape), special


def gradients(
    job: Job,
    arrays: tuple[Array, ...],
    weights: Array,
    wanted: tuple[bool, ...],
    special: Array | None,
    empty: Callable[[tuple[int, ...], Any], Array] = np.empty,
) -> list[Array | None]:
    """Gradients of ``sum(weights * terms)`` by the arrays, of their shapes; None for those not wanted.

    ``weights`` broadcast with the inputs, ``special`` is what :func:`by_row` said of the rows, and ``empty`` makes an
    array.
    """
    targets = [_target(job, array, want, special, empty) for array, want in zip(arrays, wanted, strict=True)]
    # A sum over rows goes through them in order, so that it does not depend on the number of threads.
    in_order = any(len(target) == 2 for target in targets)
    inputs, outputs = (2 * arrays, 2 * targets) if job.standard else (arrays, targets)
    for rows, views in as_rows(job.batch, (*inputs, weights, *outputs), [1] * 9):
        _run(job.kernel("backward"), job, views, rows, in_order)
    for part in [] if special is None else pieces(special, job.event_size):
        _correct(job, arrays, weights, targets, part)
    return [
        _finished(target, array.shape) if want else None
        for target, array, want in zip(targets, arrays, wanted, strict=True)
    ]


def _run(function: Any, job: Job, arguments: Sequence[Any], rows: int, in_order: bool = False) -> int:
    """Let a kernel go through all rows, on several threads if there are many."""
    size = rows * job.event_size
    if size <= PIECE:
        return function(*arguments, 0, rows) or 0
    threads = 1 if in_order else cpu_threads.count(job.library)
    turns = -(-size // (threads * PIECE))  # every thread has as many pieces as the others
    step = -(-rows // (turns * threads))
    return cpu_threads.run(lambda first, last: function(*arguments, first, last) or 0, rows, step, threads)


# Gradients.


def _target(job: Job, array: Array, want: bool, special: Array | None, empty: Callable[..., Array]) -> Array:
    """Where a kernel puts a gradient: see its docstring."""
    whole = (*job.batch, job.event_size)
    if not want:
        return np.empty((0,) + (1,) * len(whole), job.dtype)
    own = (1,) * (len(whole) - array.ndim) + array.shape
    return empty((1, *whole), job.dtype) if own == whole or special is not None else np.zeros((2, *own), job.dtype)


def _finished(target: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an input of this shape."""
    if len(target) == 2:
        high, low = target
        return np.where(np.isfinite(high), high + low, high).reshape(shape)
    whole = target[0]
    if whole.size == math.prod(shape):
        return whole if whole.shape == shape else whole.reshape(shape)
    own = (1,) * (whole.ndim - len(shape)) + shape
    axes = [k for k, size in enumerate(own) if size < whole.shape[k]]
    last = np.moveaxis(whole, axes, range(-len(axes), 0))  # NumPy sums in pairs along the last axis only
    kept, summed = last.shape[: -len(axes)], last.shape[-len(axes) :]
    flat = np.ascontiguousarray(last, np.float64).reshape(*kept, math.prod(summed))
    with np.errstate(all="ignore"):
        return np.asarray(flat.sum(axis=-1), target.dtype).reshape(shape)


def _correct(job: Job, arrays: tuple[Array, ...], weights: Array, targets: list[Array], special: Array) -> None:
    """Put the gradients of the special rows into their places."""
    index, whole = np.unravel_index(special, job.batch), (*job.batch, job.event_size)
    *rows, weight = (np.broadcast_to(array, whole)[index].astype(np.float64) for array in (*arrays, weights))
    with np.errstate(all="ignore"):
        for target, partial in zip(targets, partials(job.spreads, rows, xp=namespace.namespace(weight)), strict=False):
            if len(target):
                target[0][index] = weight * partial
