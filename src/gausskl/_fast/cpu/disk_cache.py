"""Compiled kernels kept on disk, so that a second process need not compile them.

Numba's own cache has one index per function, which two processes that write it at once can leave pointing at each
other's code. Here there is no index: the name of a file is a digest of everything that decides what the code is, a
file is written under another name and then moved into place, and it starts with a digest of what it holds. Whatever
goes wrong with the disk, the kernel is compiled as if there were no cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from numba.core import compiler, serialize
from numba.core.runtime import rtsys
from numba.misc import appdirs

DIGEST = 32
MOST_LINKS = 40  # as many as Linux follows


class Cache:
    """What a Numba dispatcher asks before it compiles, and tells afterwards."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The compiled kernel, or None."""
        rtsys.initialize(target)
        with contextlib.suppress(Exception):  # whatever is wrong with it, it can be compiled
            path = self._path(signature, target)
            content = path.read_bytes()
            digest, data = content[:DIGEST], content[DIGEST:]
            if _is_ours(path.parent) and hashlib.sha256(data).digest() == digest:
                needed, parts = pickle.loads(data)
                # To run code that looks for something in vain would end the process.
                if all(llvmlite.binding.address_of_symbol(symbol) is not None for symbol in needed):
                    return compiler.CompileResult._rebuild(target, *parts)
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled kernel."""
        with contextlib.suppress(Exception):  # then it is not kept
            data = serialize.dumps((_needed(compiled), compiled._reduce()))
            path = self._path(signature, compiled.target_context)
            _make(path.parent)
            if not _is_ours(path.parent):
                return
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
                try:
                    file.write(hashlib.sha256(data).digest() + data)
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    file.close()
                    os.unlink(file.name)
                    raise

    def _path(self, signature: Any, target: Any) -> Path:
        identity = (self.name, signature, target.codegen().magic_tuple(), _versions())
        return folder() / f"{self.name}-{hashlib.sha256(repr(identity).encode()).hexdigest()}.kernel"


def folder() -> Path:
    """Where the kernels are kept: below NUMBA_CACHE_DIR if it is set, else the user's cache folder."""
    base = Path(numba.config.CACHE_DIR or appdirs.user_cache_dir("gausskl", appauthor=False))
    if not base.is_absolute() and not numba.config.CACHE_DIR:
        raise RuntimeError("nobody knows where home is")
    return base / "gausskl-kernels"


def _needed(compiled: Any) -> list[str]:
    """Names that the code expects to find in the process."""
    module = compiled.library._final_module
    declared = [item.name for item in (*module.functions, *module.global_variables) if item.is_declaration]
    return [name for name in declared if not name.startswith("llvm.")]


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can write to a folder, or put another one in its place: what lies in it is executed.

    Each folder on the way there, from the root on and through symbolic links, has to be ours or the system's, and
    closed to others or, as ``/tmp`` is, sticky: there nobody can replace what others own.
    """
    if not hasattr(os, "getuid"):
        return True
    known = os.getuid(), 0
    todo = [*reversed(folder.absolute().parts)]
    at, links = Path(todo.pop()), 0
    while todo:
        status = at.stat()
        if status.st_uid not in known or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            return False
        name = todo.pop()
        entry = at.parent if name == ".." else at / name
        status = entry.lstat()
        if stat.S_ISLNK(status.st_mode):
            target, links = Path(os.readlink(entry)), links + 1
            if status.st_uid not in known or links > MOST_LINKS:
                return False
            todo += reversed(target.parts)
            at = Path(todo.pop()) if target.is_absolute() else at
        else:
            at = entry
    status = at.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _make(folder: Path) -> None:
    """Make a folder, and those above it, for nobody but us."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


@functools.cache
def _versions() -> tuple[str, ...]:
    package = Path(__file__).parents[2]
    files = [*sorted((package / "_fast").rglob("*.py")), package / "_formulas" / "series.py", package / "_spreads.py"]
    source = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    return sys.version, numba.__version__, llvmlite.__version__, source
