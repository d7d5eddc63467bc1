"""Dense pairs by compiled kernels: NumPy arrays in, one number per row out, and gradients on the way back."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...batch import as_rows
from ...by_formula import completed, described, events
from ...contract import Job
from .. import compiler, leaf, threads
from ..simd.emitter import LANES
from ..simd.lanes import BYTES
from . import kernels
from .workspace import work_bytes

Array = Any

PIECE = 1e6  # nanoseconds of work, roughly, after which Ctrl-C is seen


def kernel(job: Job, kind: str) -> Any:
    """The compiled kernel for such pairs, "forward" or "backward"."""
    return compiler.kernel("dense.kernels", kind, described(job), job.bits, _block(job), job.precise)


def by_row(job: Job, arrays: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row."""
    size = _work_size(job, False)

    def piece(*arguments: Any) -> int:
        *views, first, last = arguments
        return int(job.kernel("forward")(*views, threads.workspace(size), first, last))

    return leaf.by_row(job, completed(job, arrays), _step(job, 1), piece)


def has_gradients(job: Job) -> bool:
    """Whether there is a kernel for them: those of a precision are found by the formulas."""
    return all(keyword != "precision" for keyword, _ in job.spreads)


def _block(job: Job) -> int:
    return kernels.block_for(job.event_size, job.precise)


def _step(job: Job, effort: float) -> int:
    """Rows in a piece of work, for what takes so many times as long as the divergence."""
    d = job.event_size
    each = (10 + 1.2 * d**2 + 0.035 * d**3) * effort * (20 if job.precise else 1)
    return max(LANES, int(PIECE / each) // LANES * LANES)


def _work_size(job: Job, gradients: bool) -> int:
    block = _block(job)
    return work_bytes(-(-job.event_size // block) * block, job.precise, gradients) + BYTES


# Gradients.


def gradients(
    job: Job,
    arrays: tuple[Array, ...],
    weights: Array,
    wanted: tuple[bool, ...],
    special: Array | None,
    empty: Callable[[tuple[int, ...], Any], Array] = np.empty,
) -> list[Array | None] | None:
    """Gradients of ``sum(weights * divergence)`` by the arrays, of their shapes; None for those not wanted.

    As for diagonal pairs, but special rows count nothing. None at all for precisions: the formulas find them.
    """
    if not has_gradients(job):
        return None
    inputs, axes_of = completed(job, arrays), events(job)
    targets = [
        _target(job, array, axes, empty) if want else None
        for array, axes, want in zip(inputs, axes_of, (*wanted, False, False), strict=False)
    ]
    weights = np.broadcast_to(weights.reshape(weights.shape[:-1]), job.batch)
    if special is not None:
        weights = weights.copy()
        weights[np.unravel_index(special, job.batch)] = 0
    some = [target for target in targets if target is not None]
    whole = [_is_whole(job, array, axes) for array, axes in zip(inputs, axes_of, strict=True)]
    for rows, views in as_rows(job.batch, (*inputs, weights, *some), (*axes_of, 0, *[1] * len(some))):
        found = iter(views[5:])
        _go_back(job, views[:5], [None if target is None else next(found) for target in targets], whole, rows)
    return [
        None if target is None else _finished(target, array) for target, array in zip(targets, arrays, strict=False)
    ]


def _target(job: Job, array: Array, axes: int, empty: Callable[..., Array]) -> Array:
    """Where a gradient goes, its event as one axis; numbers to be added to if rows share the input."""
    event = max(array.ndim - axes, 0)
    batch, size = array.shape[:event], math.prod(array.shape[event:])
    size = job.event_size if size == 1 else size  # a number for all dimensions
    return empty((*batch, size), job.dtype) if _is_whole(job, array, axes) else np.zeros((*batch, size), np.float64)


def _is_whole(job: Job, array: Array, axes: int) -> bool:
    """Whether no two rows share a part of an input."""
    batch: tuple[int, ...] = array.shape[: max(array.ndim - axes, 0)]
    return bool((1,) * (len(job.batch) - len(batch)) + batch == job.batch)


def _finished(target: Array, array: Array) -> Array:
    """The gradient of an input, from what a target holds."""
    if target.size != array.size:
        with np.errstate(all="ignore"):
            target = np.sum(target, axis=-1, dtype=np.float64)
    return np.asarray(target, array.dtype).reshape(array.shape)


def _go_back(
    job: Job, sources: Sequence[Array], targets: Sequence[Array | None], whole: Sequence[bool], rows: int
) -> None:
    """Let the kernel go through rows. A target that is not whole is added to, by a sum over them if it stands still."""
    nothing = np.empty((0, 1), job.dtype)
    outputs, still = [], []
    for target, own in zip(targets, whole, strict=True):
        moves = target is not None and len(target) == rows and bool(target.strides[0])
        still.append(None if moves else target)
        if target is None or not moves:
            outputs.append(nothing)
        else:
            outputs.append(target if own else np.empty(target.shape, job.dtype))
    step, size = _step(job, 3), _work_size(job, True)
    in_order = _InOrder(still, step)

    def piece(first: int, last: int) -> int:
        sums = [_sums(0 if target is None else target.shape[-1]) for target in still]
        job.kernel("backward")(*sources, *outputs, *sums, threads.workspace(size), first, last)
        in_order.add(first, [part.sum(axis=-1) for part in sums])
        return 0

    threads.run(piece, rows, step, threads.count(job.library))
    for target, output in zip(targets, outputs, strict=True):
        if target is not None and output is not target and output is not nothing:
            target += output


def _sums(size: int) -> Array:
    """Zeros for the sum of a kernel, aligned as it wants them."""
    memory = np.zeros((size + 1) * LANES)
    start = -memory.ctypes.data % BYTES // memory.itemsize
    return memory[start : start + size * LANES].reshape(size, LANES)


class _InOrder:
    """Sums of pieces, added up in the order of the pieces, whatever the order in which they are done."""

    def __init__(self, targets: Sequence[Array | None], step: int) -> None:
        self.targets, self.step, self.next = targets, step, 0
        self.waiting: dict[int, list[Array]] = {}
        self.lock = threading.Lock()

    def add(self, first: int, parts: list[Array]) -> None:
        """Take the sums of the piece that starts with this row."""
        with self.lock:
            self.waiting[first] = parts
            while self.next in self.waiting:
                for target, part in zip(self.targets, self.waiting.pop(self.next), strict=True):
                    if target is not None:
                        target[0] += part
                self.next += self.step
