"""Faster paths for some arrays: what they compute, the formulas compute as well, only slower.

This module is the table: which Gaussians a leaf serves. The leaves import their libraries when they are first used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._spreads import DIAGONAL, STRUCTURE

LARGEST = 128  # dimensions of a dense pair: beyond, LAPACK is as quick and needs less memory
LARGEST_PRECISE = 64
LARGEST_ON_GPU = 16  # numbers that one thread can hold
DENSE_ON_GPU = ("cov", "scale_tril", "packed_tril")
ENGINES = {"diagonal": "cpu.diagonal.call", "dense": "cpu.dense.call", "low rank": "cpu.low_rank.call"}
PATHS = {("numpy", False): "numba", ("torch", False): "numba", ("torch", True): "triton", ("cupy", True): "cupy"}
SERVES = {
    "numba": "arrays of NumPy, and tensors of PyTorch in the memory of the CPU",
    "triton": "diagonal Gaussians in tensors of PyTorch on a GPU",
    "cuda": "dense Gaussians in tensors of PyTorch on a GPU",
    "cupy": "arrays of CuPy",
}
LEAVES = {
    ("numba", "numpy"): "cpu.compiler",
    ("numba", "torch"): "cpu.torch",
    ("triton", "torch"): "gpu.leaf_triton",
    ("cuda", "torch"): "gpu.leaf_cuda",
    ("cupy", "cupy"): "gpu.leaf_cupy",
}
DISABLED = "NUMBA_DISABLE_JIT keeps Numba from compiling"
ANY = "the array-API formulas serve every library and every pair"


class _Once:
    """A property that is found out once.

    Unlike ``functools.cached_property`` of Python 3.11 it takes no lock, which another thread could hold when the
    process forks.
    """

    def __init__(self, find: Callable[[Any], Any]) -> None:
        self.find, self.__doc__ = find, find.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, job: Any, owner: type | None = None) -> Any:
        value = job.__dict__[self.name] = self.find(job)
        return value


@dataclass(frozen=True, eq=False)
class Job:
    """A pair of Gaussians as a leaf sees it: nothing but its values is missing."""

    path: str
    library: str
    spreads: tuple[tuple[str, str | None], ...]  # keyword and packing of p and of q, or of p alone
    bits: int
    batch_shape: tuple[int, ...]
    event_size: int
    per_dim: bool
    two_axes: bool  # every array has an axis of rows and one of dimensions, and no more
    precise: bool = False

    @_Once
    def standard(self) -> bool:
        """Whether q is the standard normal, and has no arrays."""
        return len(self.spreads) == 1

    @_Once
    def keyword(self) -> str:
        """How the spread of p is described."""
        return self.spreads[0][0]

    @_Once
    def shape(self) -> tuple[int, ...]:
        """Shape of the result without reduction."""
        return (*self.batch_shape, self.event_size) if self.per_dim else self.batch_shape

    @_Once
    def batch(self) -> tuple[int, ...]:
        """Batch shape with at least one axis."""
        return self.batch_shape or (1,)

    @_Once
    def rows(self) -> int:
        """Number of Gaussians in the batch."""
        return math.prod(self.batch)

    @_Once
    def count(self) -> int:
        """Number of results without reduction."""
        return math.prod(self.shape)

    @_Once
    def dtype(self) -> Any:
        """Dtype of everything."""
        return np.dtype(f"float{self.bits}")

    @_Once
    def computed_in(self) -> str:
        """Name of the dtype of what comes in between."""
        if self.diagonal:
            return str(self.dtype)
        return "pairs of float64" if self.precise else "float64"

    @_Once
    def forward(self) -> Any:
        """The compiled kernel of the divergence."""
        return self.engine.kernel(self, "forward")

    @_Once
    def backward(self) -> Any:
        """The compiled kernel of the gradients."""
        return self.engine.kernel(self, "backward")

    @_Once
    def diagonal(self) -> bool:
        """Whether both sides are diagonal."""
        return all(keyword in DIAGONAL for keyword, _ in self.spreads)

    @_Once
    def structure(self) -> str:
        """What the pair as a whole is: "diagonal", "low rank" or "dense"."""
        found = {STRUCTURE[keyword] for keyword, _ in self.spreads}
        return "low rank" if "low rank" in found else "dense" if "dense" in found else "diagonal"

    @_Once
    def engine(self) -> Any:
        """The module that knows the kernels for such pairs."""
        return _import(ENGINES[self.structure]) if self.path == "numba" else self.leaf

    @_Once
    def leaf(self) -> Any:
        """The module that knows the library."""
        return _import(LEAVES[self.path, self.library])

    @_Once
    def reason(self) -> str:
        """Why a kernel serves the pair."""
        where = "in the memory of the CPU" if self.path == "numba" else "on the GPU"
        return f"one compiled pass over {self.structure} Gaussians {where}"


class CannotCompile(Exception):
    """No kernel can be had, whatever the reason."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold one Ctrl-C back until a block is done; a second one is answered at once.

    A library that is imported by half, or a kernel that is made by half, could not be had again in this process.
    """
    usual = signal.getsignal(signal.SIGINT)
    held: list[tuple[int, Any]] = []

    def hold(number: int, frame: Any) -> None:
        held.append((number, frame))
        signal.signal(signal.SIGINT, usual)

    try:
        if callable(usual):
            signal.signal(signal.SIGINT, hold)
    except ValueError:  # only the main thread is told of Ctrl-C
        usual = None
    try:
        yield
    finally:
        if callable(usual):
            signal.signal(signal.SIGINT, usual)
            for number, frame in held:
                usual(number, frame)


def _import(name: str) -> Any:
    try:
        with uninterrupted():
            return importlib.import_module(f".{name}", __package__)
    except Exception as error:
        raise CannotCompile(f"{type(error).__name__}: {error}") from error


_broken: dict[str, str] = {}  # path to why no kernel can be had


def job(forms: tuple[Any, ...], batch_shape: tuple[int, ...], per_dim: bool, precise: bool, path: str) -> Job | str:
    """What a leaf is to do for Gaussians of these forms, or why none serves them."""
    p, q = forms[0], forms[-1]
    keywords = dict.fromkeys(form.keyword for form in forms)
    dtypes = dict.fromkeys(dtype for form in forms for dtype in form.dtypes)
    if not all(form.plain for form in forms) or p.library != q.library:
        return ANY
    diagonal = set(keywords) <= set(DIAGONAL)
    own = PATHS[p.library, p.on_gpu]
    if own == "triton" and p.on_gpu and not diagonal:
        own = "cuda"
    path = own if path == "auto" else path
    if path != own and not (path == "triton" and diagonal and p.library == "torch" and _interprets()):
        return f"{path} is for {SERVES[path]}"
    if path == "numba":
        obstacle = _on_cpu(keywords, dtypes, p.event_size, precise)
    elif diagonal:
        obstacle = _diagonal_on_gpu(dtypes)
    else:
        obstacle = _dense_on_gpu(path, keywords, dtypes, p.event_size, precise)
    if not obstacle and path != "cupy" and diagonal and len(keywords) > 1:
        obstacle = f"compiled kernels are for two spreads of one kind, not for {' and '.join(keywords)}"
    obstacle = obstacle or _missing(path) or _broken.get(path, "") or (_disabled() if path == "numba" else "")
    if obstacle:
        return obstacle
    two_axes = len(batch_shape) == 1 and {ndim for form in forms for ndim in form.ndims} == {2}
    spreads = tuple((form.keyword, form.packing) for form in forms)
    bits = max(32, int(p.dtypes[0].removeprefix("b").removeprefix("float")))
    return Job(path, p.library, spreads, bits, batch_shape, p.event_size, per_dim, two_axes, precise)


def _on_cpu(keywords: dict[str, None], dtypes: dict[str, None], size: int, precise: bool) -> str:
    """Why the kernels for a CPU do not serve such a pair, if they do not."""
    if list(dtypes) not in (["float32"], ["float64"]):
        return f"compiled kernels are for float32 or float64 throughout, not for {' and '.join(dtypes)}"
    largest = LARGEST_PRECISE if precise else LARGEST
    if "low_rank" in keywords:
        if precise:
            return "it is for dense Gaussians, and one of these is of low rank"
        if set(keywords) - {"low_rank", "var"}:
            other = " and ".join(keyword for keyword in keywords if keyword != "low_rank")
            return f"compiled kernels for Gaussians of low rank are for two of them, or one and a var, not for {other}"
    elif not set(keywords) <= set(DIAGONAL) and size > largest:
        return f"compiled kernels for dense Gaussians are for at most {largest} dimensions"
    return ""


def _diagonal_on_gpu(dtypes: dict[str, None]) -> str:
    """Why the kernels for a GPU do not serve a diagonal pair, if they do not."""
    if len(dtypes) > 1 or not set(dtypes) <= {"float16", "bfloat16", "float32", "float64"}:
        return f"compiled kernels are for one floating dtype throughout, not for {' and '.join(dtypes)}"
    return ""


def _dense_on_gpu(path: str, keywords: dict[str, None], dtypes: dict[str, None], size: int, precise: bool) -> str:
    """The same for other pairs."""
    if path == "triton":
        return f"{path} is for {SERVES[path]}"
    if precise:
        return "it is for arrays in the memory of the CPU"
    if list(dtypes) not in (["float32"], ["float64"]):
        return f"compiled kernels for dense Gaussians are for float32 or float64, not for {' and '.join(dtypes)}"
    others = [keyword for keyword in keywords if keyword not in (*DIAGONAL, *DENSE_ON_GPU)]
    if others:
        return f"compiled kernels for a GPU are not for {' and '.join(others)}"
    if size > LARGEST_ON_GPU:
        return f"compiled kernels for dense Gaussians on a GPU are for at most {LARGEST_ON_GPU} dimensions"
    return ""


@functools.cache
def _missing(path: str) -> str:
    """What has to be installed for a path; CuPy is there where its arrays are."""
    cures = {
        "numba": ("numba", "pip install gausskl[numba]"),
        "triton": ("triton", "pip install triton"),
        "cuda": ("cuda.core", "pip install gausskl[torch-cuda12] or gausskl[torch-cuda13]"),
    }
    module, cure = cures.get(path, ("", ""))
    return f"{module} is not installed: {cure}" if module and not is_installed(module) else ""


def is_installed(module: str) -> bool:
    """Whether there is something to import, found out without importing it; a folder of that name alone is not."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # what it would be part of is not there either
        return False
    return spec is not None and spec.origin is not None


def _disabled() -> str:
    """Whether Numba has been told to compile nothing, found out without importing it."""
    config = sys.modules.get("numba.core.config")
    said = os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")
    return DISABLED if (getattr(config, "DISABLE_JIT", said) if config else said) else ""


def _interprets() -> bool:
    """Whether Triton has been told to run its kernels without a GPU, step by step."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def obstacle_now(job: Job) -> str:
    """Why a leaf does not serve its job here and now; "" if it does."""
    if job.path in _broken:
        return _broken[job.path]
    if job.library != "torch":
        return ""
    try:
        return str(job.leaf.obstacle())
    except CannotCompile as error:
        return give_up(job.path, error)


def give_up(path: str, error: CannotCompile) -> str:
    """No kernel can be had: say so once, and leave everything to the formulas."""
    if path not in _broken:
        first = str(error).strip().partition("\n")[0]
        _broken[path] = f"{path} could not make a kernel ({first})"
        level = 1  # the first line that is not this package's
        while sys._getframe(level).f_globals["__name__"].partition(".")[0] == __name__.partition(".")[0]:
            level += 1
        message = f"gausskl runs without its compiled kernels: {_broken[path]}"
        warnings.warn(message, RuntimeWarning, stacklevel=level + 1)
    return _broken[path]
