"""What all compiled kernels have in common: how they are made, and what becomes of their results."""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from ..._arrays import batches
from ..batch import as_rows
from ..leaves import DISABLED, CannotCompile, Job, uninterrupted
from . import disk_cache, threads

Array = Any

if hasattr(os, "register_at_fork"):
    # A child must not start with the compiler's lock held by a thread that it does not have.
    os.register_at_fork(
        before=global_compiler_lock._lock.acquire,
        after_in_parent=global_compiler_lock._lock.release,
        after_in_child=global_compiler_lock._lock.release,
    )


@functools.cache
def kernel(module: str, kind: str, *key: Any) -> Any:
    """A compiled kernel; from disk if it was compiled before.

    It is what the function ``kind`` of a module of kernels makes for a key.
    """
    if numba.config.DISABLE_JIT:  # by an environment variable, or by Numba's own file
        raise CannotCompile(DISABLED)
    try:
        with uninterrupted():
            return _made(module, kind, key)
    except Exception as error:
        raise CannotCompile(f"{type(error).__name__}: {error}") from error


def _made(module: str, kind: str, key: tuple[Any, ...]) -> Any:
    dispatcher, signature = getattr(importlib.import_module(f".{module}", __package__), kind)(*key)
    with global_compiler_lock:
        if not dispatcher.signatures:  # another thread may have been here
            dispatcher._cache = disk_cache.Cache("-".join([kind, *map(_spelt, key)]))
            dispatcher.compile(signature)
            dispatcher.disable_compile()
    return dispatcher


def _spelt(key: Any) -> str:
    """A part of a key, fit for the name of a file."""
    return "-".join(_spelt(part) for part in key if part is not None) if isinstance(key, tuple) else str(key)


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
