"""How kernels are compiled, and that it is done once."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

from ..contract import CannotCompile, uninterrupted
from ..leaves import DISABLED
from . import disk_cache

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


OPTIONS = {"error_model": "numpy", "nogil": True}


def compiled(*key: Any) -> Any:
    """Numba's decorator for a function that differs with ``key``.

    Kernels from several processes meet in one when they come from the disk, and of two functions of one name the
    linker keeps the first. So a name must say all of what the function is.
    """

    def decorate(function: Any) -> Any:
        function.__qualname__ = "_".join([function.__name__, *map(str, key)])
        return numba.njit(**OPTIONS)(function)

    return decorate
