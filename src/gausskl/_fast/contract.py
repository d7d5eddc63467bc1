"""What a leaf is asked for, and what it may answer.

A leaf is a module with

* ``divergence(job, arrays, reduction)``: the result, and the divergence of each row if there are rows to look at again,
  else None. ``arrays`` are mean and spread of p and then those of q, or those of p alone for the standard normal;
* ``warm_up(job, arrays, gradients)``: compile what the divergence needs, and its gradients;
* and, for tensors, whose ``divergence`` is that of ``autograd.py``: ``obstacle()``, why it does not serve here and now,
  ``forward(job, tensors, reduction)``, which adds which rows the formulas had to compute, and
  ``backward(job, tensors, cotangent, reduction, wanted, special)``, the gradients; None if the formulas have to find
  them.

Whatever it cannot do, it leaves to the formulas: see ``by_formula.py``. :class:`CannotCompile` says that it can do
nothing.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._spreads import STRUCTURE

Spreads = tuple[tuple[str, str | None], ...]  # keyword and packing of p and of q, or of p alone


class CannotCompile(Exception):
    """No kernel can be had, whatever the reason."""


@dataclass(eq=False)
class Job:
    """A pair of Gaussians as a leaf sees it: nothing but its values is missing."""

    path: str
    library: str
    spreads: Spreads
    bits: int
    batch_shape: tuple[int, ...]
    event_size: int
    per_dim: bool
    two_axes: bool  # every array has an axis of rows and one of dimensions, and no more
    precise: bool = False
    # What follows from these.
    standard: bool = field(init=False)  # q is the standard normal, and has no arrays
    keyword: str = field(init=False)  # of p
    diagonal: bool = field(init=False)  # both sides are
    structure: str = field(init=False)  # of the pair as a whole: "diagonal", "low rank" or "dense"
    shape: tuple[int, ...] = field(init=False)  # of the result without reduction
    count: int = field(init=False)  # of results without reduction
    batch: tuple[int, ...] = field(init=False)  # its shape, with at least one axis
    rows: int = field(init=False)  # number of Gaussians in it
    dtype: Any = field(init=False)  # of everything
    computed_in: str = field(init=False)  # the dtype of what comes in between
    # The modules that do it and their kernels, once they have been needed.
    leaf: Any = field(init=False, default=None)  # knows the library
    engine: Any = field(init=False, default=None)  # knows the kernels for such pairs
    kernels: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        found = {STRUCTURE[keyword] for keyword, _ in self.spreads}
        self.standard = len(self.spreads) == 1
        self.keyword = self.spreads[0][0]
        self.diagonal = found == {"diagonal"}
        self.structure = "low rank" if "low rank" in found else "diagonal" if self.diagonal else "dense"
        self.shape = (*self.batch_shape, self.event_size) if self.per_dim else self.batch_shape
        self.count = math.prod(self.shape)
        self.batch = self.batch_shape or (1,)
        self.rows = math.prod(self.batch)
        self.dtype = np.dtype(f"float{self.bits}")
        between = "pairs of float64" if self.precise else "float64"
        self.computed_in = str(self.dtype) if self.diagonal else between

    def kernel(self, kind: str) -> Any:
        """A compiled kernel, "forward" or "backward"; made when it is first asked for."""
        found = self.kernels.get(kind)
        if found is None:
            found = self.kernels[kind] = self.engine.kernel(self, kind)
        return found


def reduced(job: Job, values: Any, reduction: str, float64: Any) -> Any:
    """Sum or mean of the results, added up in float64."""
    whole = values.sum(dtype=float64)
    return whole / job.count if reduction == "mean" else whole


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
