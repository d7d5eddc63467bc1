"""What a leaf is asked for, and what it may answer."""

from __future__ import annotations

import contextlib
import importlib
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._spreads import DIAGONAL, STRUCTURE

ENGINES = {"diagonal": "cpu.diagonal.call", "dense": "cpu.dense.call", "low rank": "cpu.low_rank.call"}


LEAVES = {
    ("numba", "numpy"): "cpu.leaf",
    ("numba", "torch"): "cpu.torch",
    ("triton", "torch"): "gpu.leaf_triton",
    ("cuda", "torch"): "gpu.leaf_cuda",
    ("cupy", "cupy"): "gpu.leaf_cupy",
}


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


class CannotCompile(Exception):
    """No kernel can be had, whatever the reason."""


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
