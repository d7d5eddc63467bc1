"""The formulas for dense pairs, of arrays of any library: for what compiled kernels leave to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._formulas import pairs
from .contract import Job

Array = Any

STANDARD = ("std", None)  # how the standard normal is described


def spreads(job: Job) -> tuple[tuple[str, str | None], ...]:
    """Keyword and packing of p and of q; for the standard normal too."""
    return (job.spreads[0], STANDARD) if job.standard else job.spreads


def four(job: Job, arrays: Sequence[Array], *, xp: Any = np) -> list[Array]:
    """Mean and spread of p and of q; for the standard normal too."""
    if not job.standard:
        return [*arrays]
    zero = xp.zeros((1, job.event_size), dtype=arrays[0].dtype, device=arrays[0].device)
    return [*arrays, zero, zero + 1]


def formula(job: Job, dtype: Any) -> Callable[..., Array]:
    """The formula for such pairs, of the arrays that ``four`` gives."""
    p, q = (pairs.Spread(*spread) for spread in spreads(job))
    return functools.partial(pairs.divergence, p=p, q=q, per_dim=False, dtype=dtype)
