"""Low-rank pairs by a compiled kernel: NumPy arrays in, one number per row out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...._formulas import pairs
from ...._spreads import EVENT_AXES
from ...contract import Job
from .. import compiler, leaf, threads
from . import kernel as low_rank_kernel

Array = Any

EVENTS = [1, *EVENT_AXES["low_rank"]]  # axes of mean, factor and diagonal
PIECE = 1e6  # nanoseconds of work, roughly, after which Ctrl-C is seen


def kernel(job: Job, kind: str) -> Any:
    """The compiled kernel for such pairs, "forward"."""
    return compiler.kernel("low_rank.kernel", kind, job.bits)


def warm_up(job: Job, arrays: Sequence[Array], gradients: bool) -> None:
    """Compile what the divergence needs; its gradients are found by the formulas."""
    kernel(job, "forward")


def by_row(job: Job, arrays: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row."""
    six = four(job, arrays)
    d, ranks = job.event_size, [factor.shape[-1] for factor in six[1::3]]
    size = 8 * low_rank_kernel.work_size(d, *ranks)
    step = max(1, int(PIECE / (100 + d * (5 + sum(ranks) + 0.2 * max(ranks) ** 2))))

    def piece(*arguments: Any) -> int:
        *views, first, last = arguments
        return int(job.kernel("forward")(*views, threads.workspace(size)[:size].view(np.float64), first, last))

    return leaf.by_row(job, six, 2 * EVENTS, step, piece)


def four(job: Job, arrays: Sequence[Array], *, xp: Any = np) -> list[Array]:
    """Mean, factor and diagonal of p and of q. A diagonal is a low rank of nothing, and so is the standard normal."""
    dtype, d = arrays[0].dtype, job.event_size
    sides = [arrays[:3], arrays[3:]] if job.keyword == "low_rank" else [arrays[:2], arrays[2:]]
    if job.standard:
        zero = xp.zeros((1, d), dtype=dtype)
        sides[1] = zero, zero + 1
    nothing = xp.zeros((1, d, 0), dtype=dtype)
    return [array for side in sides for array in (side if len(side) == 3 else (side[0], nothing, side[1]))]


def gradients(*_: Any) -> None:
    """None: the formulas find them."""


def formula(job: Job, dtype: Any) -> Any:
    """The formula for such pairs, of arrays of any library."""
    spread = pairs.Spread("low_rank")
    return functools.partial(pairs.divergence, p=spread, q=spread, per_dim=False, dtype=dtype)
