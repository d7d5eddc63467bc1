"""Dense pairs by compiled kernels: NumPy arrays in, one number per row out, and gradients on the way back."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _blocks, _pairs
from . import Job, _dense_kernels, _numba, _threads
from ._arithmetic import LANES
from ._lanes import BYTES
from ._rows import as_rows
from ._sides import work_bytes

Array = Any

STANDARD = ("std", None)  # how the standard normal is described to a kernel
PIECE = 1e6  # nanoseconds of work, roughly, after which Ctrl-C is seen

_own = threading.local()


def kernel(job: Job, kind: str) -> Any:
    """The compiled kernel for such pairs, "forward" or "backward"."""
    return _numba.kernel("_dense_kernels", kind, _spreads(job), job.bits, _block(job), job.precise)


def by_row(job: Job, arrays: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row."""
    out = np.empty(job.batch, job.dtype)
    step, size = _step(job, 1), _work_size(job, False)
    bad = 0
    for rows, (*views, place) in as_rows(job.batch, (*four(job, arrays), out), (*_events(job), 0)):
        values = place if place.flags.c_contiguous else np.empty(rows, job.dtype)

        def piece(first: int, last: int, views: Sequence[Array] = views, values: Array = values) -> int:
            return int(job.forward(*views, values, _workspace(size), first, last))

        bad |= _threads.run(piece, rows, step, _threads.count(job.library))
        if values is not place:
            place[...] = values
    if not bad:
        return out.reshape(job.shape), None
    flat = out.reshape(-1)
    special = np.flatnonzero(~np.isfinite(flat))
    step = max(1, _blocks.BLOCK // job.event_size**2)
    for k in range(0, len(special), step):
        part = special[k : k + step]
        found = _by_formula(job, arrays, part)
        # The formulas have fewer digits than were asked for: only an overflow is taken from them.
        flat[part] = np.where(found == np.inf, found, np.nan) if job.precise else found
    return out.reshape(job.shape), special


def _spreads(job: Job) -> tuple[Any, ...]:
    return (job.spreads[0], STANDARD) if job.standard else job.spreads


def _block(job: Job) -> int:
    return _dense_kernels.block_for(job.event_size, job.precise)


def _events(job: Job) -> list[int]:
    """Event axes of mean and spread of p and of q."""
    return [axes for keyword, _ in _spreads(job) for axes in (1, _dense_kernels.AXES[keyword])]


def four(job: Job, arrays: Sequence[Array], *, xp: Any = np) -> list[Array]:
    """Mean and spread of p and of q; for the standard normal too."""
    if not job.standard:
        return [*arrays]
    zero = xp.zeros((1, job.event_size), dtype=arrays[0].dtype)
    return [*arrays, zero, zero + 1]


def _step(job: Job, effort: float) -> int:
    """Rows in a piece of work, for what takes so many times as long as the divergence."""
    d = job.event_size
    each = (10 + 1.2 * d**2 + 0.035 * d**3) * effort * (20 if job.precise else 1)
    return max(LANES, int(PIECE / each) // LANES * LANES)


def _work_size(job: Job, gradients: bool) -> int:
    block = _block(job)
    return work_bytes(-(-job.event_size // block) * block, job.precise, gradients) + BYTES


def _workspace(size: int) -> Array:
    """Memory for one thread to work in."""
    work = getattr(_own, "work", None)
    if work is None or len(work) < size:
        work = _own.work = np.empty(size, np.uint8)
    return work


# What the kernels do not serve: the formulas of the library do.


def formula(job: Job, dtype: Any) -> Any:
    """The formula for such pairs, of arrays of any library."""
    p, q = (_pairs.Spread(*spread) for spread in _spreads(job))
    return functools.partial(_pairs.divergence, p=p, q=q, per_dim=False, dtype=dtype)


def _by_formula(job: Job, arrays: tuple[Array, ...], part: Array) -> Array:
    """The divergence of some rows by the formulas of the library."""
    index = np.unravel_index(part, job.batch)
    rows, events = [], _events(job)
    for array, axes in zip(four(job, arrays), events, strict=True):
        array = array.reshape((1,) * (axes - array.ndim) + array.shape)
        whole = np.broadcast_to(array, (*job.batch, *array.shape[array.ndim - axes :]))
        rows.append(whole[index])
    with np.errstate(all="ignore"):
        return _blocks.evaluate(formula(job, np.float64), rows, events).astype(job.dtype)


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

    As in :mod:`._diagonal`. None at all if the formulas have to find them: for precisions, and where rows are special.
    """
    if special is not None or any(keyword == "precision" for keyword, _ in job.spreads):
        return None
    inputs, events = four(job, arrays), _events(job)
    targets = [
        _target(job, array, axes, empty) if want else None
        for array, axes, want in zip(inputs, events, (*wanted, False, False), strict=False)
    ]
    weights = np.broadcast_to(weights.reshape(weights.shape[:-1]), job.batch)
    some = [target for target in targets if target is not None]
    for rows, views in as_rows(job.batch, (*inputs, weights, *some), (*events, 0, *[1] * len(some))):
        found = iter(views[5:])
        _go_back(job, views[:5], [None if target is None else next(found) for target in targets], rows)
    return [
        None if target is None else _finished(target, array) for target, array in zip(targets, arrays, strict=False)
    ]


def _target(job: Job, array: Array, axes: int, empty: Callable[..., Array]) -> Array:
    """Where a gradient goes, its event as one axis; numbers to be added to if rows share the input."""
    event = max(array.ndim - axes, 0)
    batch, size = array.shape[:event], math.prod(array.shape[event:])
    size = job.event_size if size == 1 else size  # a number for all dimensions
    if (1,) * (len(job.batch) - len(batch)) + batch == job.batch:
        return empty((*batch, size), job.dtype)
    return np.zeros((*batch, size), np.float64)


def _finished(target: Array, array: Array) -> Array:
    """The gradient of an input, from what a target holds."""
    if target.size != array.size:
        with np.errstate(all="ignore"):
            target = np.sum(target, axis=-1, dtype=np.float64)
    return np.asarray(target, array.dtype).reshape(array.shape)


def _go_back(job: Job, sources: Sequence[Array], targets: Sequence[Array | None], rows: int) -> None:
    """Let the kernel go through rows. A target that stands still gets a sum over them."""
    nothing = np.empty((0, 1), job.dtype)
    outputs, still = [], []
    for target in targets:
        moves = target is not None and len(target) == rows and bool(target.strides[0])
        still.append(None if moves else target)
        if target is None or not moves:
            outputs.append(nothing)
        else:
            outputs.append(target if target.dtype == job.dtype else np.empty(target.shape, job.dtype))
    step, size = _step(job, 3), _work_size(job, True)
    in_order = _InOrder(still, step)

    def piece(first: int, last: int) -> int:
        sums = [_sums(0 if target is None else target.shape[-1]) for target in still]
        job.backward(*sources, *outputs, *sums, _workspace(size), first, last)
        in_order.add(first, [part.sum(axis=-1) for part in sums])
        return 0

    _threads.run(piece, rows, step, _threads.count(job.library))
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
