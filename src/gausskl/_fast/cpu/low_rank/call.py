"""Low-rank pairs by a compiled kernel: NumPy arrays in, one number per row out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...by_formula import completed
from ...contract import Job
from .. import compiler, leaf, threads
from . import kernel as low_rank_kernel

Array = Any

PIECE = 1e6  # nanoseconds of work, roughly, after which Ctrl-C is seen


def kernel(job: Job, kind: str) -> Any:
    """The compiled kernel for such pairs, "forward"."""
    return compiler.kernel("low_rank.kernel", kind, job.bits)


def has_gradients(_: Job) -> bool:
    """Whether there is a kernel for them."""
    return False


def by_row(job: Job, arrays: tuple[Array, ...]) -> tuple[Array, Array | None]:
    """The divergence of each row, and which rows the formulas had to compute; None if there was no such row."""
    six = completed(job, arrays)
    d, ranks = job.event_size, [factor.shape[-1] for factor in six[1::3]]
    size = 8 * low_rank_kernel.work_size(d, *ranks)
    step = max(1, int(PIECE / (100 + d * (5 + sum(ranks) + 0.2 * max(ranks) ** 2))))

    def piece(*arguments: Any) -> int:
        *views, first, last = arguments
        return int(job.kernel("forward")(*views, threads.workspace(size)[:size].view(np.float64), first, last))

    return leaf.by_row(job, six, step, piece)


def gradients(*_: Any) -> None:
    """None: the formulas find them."""
