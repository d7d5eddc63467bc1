"""What all compiled kernels have in common: how they are made, and what becomes of their results."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from . import CannotCompile, Job, _disk

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
    try:
        dispatcher, signature = getattr(importlib.import_module(f".{module}", __package__), kind)(*key)
        with global_compiler_lock:
            if not dispatcher.signatures:  # another thread may have been here
                dispatcher._cache = _disk.Cache("-".join([kind, *map(_spelt, key)]))
                dispatcher.compile(signature)
                dispatcher.disable_compile()
    except Exception as error:
        raise CannotCompile(f"{type(error).__name__}: {error}") from error
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


def reduced(job: Job, values: Array, reduction: str) -> Array:
    """Sum or mean of the results, in float64. NumPy sums in pairs, by the number of them alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.add.reduce(values, axis=None, dtype=np.float64)
        return np.asarray(whole if reduction == "sum" else whole / np.float64(job.count), values.dtype)
