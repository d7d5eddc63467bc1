"""Diagonal pairs by compiled kernels: NumPy arrays in, one number per row out, and gradients on the way back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...._arrays import batches, namespace
from ...._formulas import pairs
from ...batch import as_rows
from ...by_formula import four, partials
from ...contract import Job
from .. import compiler
from .. import threads as cpu_threads

Array = Any

PIECE = 2**19  # numbers of each input in a piece of work: about a millisecond


def kernel(job: Job, kind: str) -> Any:
    """The compiled kernel for such pairs, "forward" or "backward"."""
    return compiler.kernel("diagonal.kernels", kind, job.keyword, job.standard, job.bits)


def warm_up(job: Job, arrays: Sequence[Array], gradients: bool) -> None:
    """Compile what the divergence needs, and its gradients."""
    for kind in ("forward", "backward")[: 1 + gradients]:
        kernel(job, kind)


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
        for part in _parts(job, special):
            found = rowwise[part]
            rowwise[part] = np.where(np.isfinite(found), found, _by_formula(job, _rows(job, arrays, part)))
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
    for part in _parts(job, special):
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


# Rows that the vector formulas do not serve: the formulas of the library do.


def _parts(job: Job, special: Array | None) -> list[Array]:
    """The special rows, a few at a time."""
    if special is None:
        return []
    step = max(1, batches.BLOCK // job.event_size)
    return [special[k : k + step] for k in range(0, len(special), step)]


def _rows(job: Job, arrays: tuple[Array, ...], special: Array) -> list[Array]:
    index = np.unravel_index(special, job.batch)
    return [np.broadcast_to(array, (*job.batch, job.event_size))[index].astype(np.float64) for array in arrays]


def _by_formula(job: Job, rows: list[Array]) -> Array:
    spread = pairs.Spread(job.keyword)
    formula = functools.partial(pairs.divergence, p=spread, q=spread, per_dim=job.per_dim, dtype=np.float64)
    with np.errstate(all="ignore"):
        values = batches.evaluate(formula, four(job.spreads, rows, xp=np), [1] * 4).astype(job.dtype)
    return values.reshape(len(rows[0]), -1)


def _correct(job: Job, arrays: tuple[Array, ...], weights: Array, targets: list[Array], special: Array) -> None:
    """Put the gradients of the special rows into their places."""
    index = np.unravel_index(special, job.batch)
    *rows, weight = _rows(job, (*arrays, weights), special)
    with np.errstate(all="ignore"):
        for target, partial in zip(targets, partials(job.spreads, rows, xp=namespace.namespace(weight)), strict=False):
            if len(target):
                target[0][index] = weight * partial
