"""What kernels leave to the formulas: a pair as the formulas take it, and the rows and partial derivatives of one."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import batches
from .._arrays.derivatives.rules import RULES
from .._formulas import kl
from .._formulas.given import Spread
from .._spreads import EVENT_AXES
from .contract import Job, Spreads

Array = Any


def four(spreads: Spreads, arrays: Sequence[Array], *, xp: Any, zero: Array | None = None) -> list[Array]:
    """The arrays of p and of q; for the standard normal too, of which ``zero`` is the mean."""
    if len(spreads) == 2:
        return [*arrays]
    zero = xp.zeros_like(arrays[0]) if zero is None else zero
    return [*arrays, zero, zero if "log" in spreads[0][0] else xp.ones_like(zero)]


def described(job: Job) -> Spreads:
    """How the arrays that :func:`completed` gives describe p and q."""
    if job.structure == "low rank":
        return ("low_rank", None), ("low_rank", None)
    if not job.standard:
        return job.spreads
    return job.spreads[0], job.spreads[0] if job.diagonal else ("std", None)


def completed(job: Job, arrays: Sequence[Array], *, xp: Any = np) -> list[Array]:
    """The arrays of p and of q, also of a standard normal; in a low-rank pair a diagonal is a low rank of nothing."""
    first, d = arrays[0], job.event_size
    zero = xp.zeros((1, d), dtype=first.dtype, device=first.device) if job.standard else None
    arrays = four(job.spreads, arrays, xp=xp, zero=zero)
    if job.structure != "low rank":
        return arrays
    nothing = xp.zeros((1, d, 0), dtype=first.dtype, device=first.device)
    sides = [arrays[:3], arrays[3:]] if job.keyword == "low_rank" else [arrays[:2], arrays[2:]]
    return [array for side in sides for array in (side if len(side) == 3 else (side[0], nothing, side[1]))]


def events(job: Job) -> list[int]:
    """Event axes of the arrays that :func:`completed` gives."""
    return [axes for keyword, _ in described(job) for axes in (1, *EVENT_AXES[keyword])]


def formula(job: Job, dtype: Any) -> functools.partial[Any]:
    """The formula of the arrays that :func:`completed` gives."""
    p, q = (Spread(*spread) for spread in described(job))
    return functools.partial(kl.divergence, p=p, q=q, per_dim=job.per_dim, dtype=dtype)


def of_rows(job: Job, arrays: Sequence[Array], rows: Array) -> Array:
    """The divergence of some rows of a batch of NumPy arrays, as :func:`completed` gives them, computed in float64."""
    own = events(job)
    index = np.unravel_index(rows, job.batch)
    some = []
    for array, axes in zip(arrays, own, strict=True):
        array = array.reshape((1,) * (axes - array.ndim) + array.shape)
        some.append(np.broadcast_to(array, (*job.batch, *array.shape[array.ndim - axes :]))[index])
    with np.errstate(all="ignore"):
        return batches.evaluate(formula(job, np.float64), some, own).astype(job.dtype)


def pieces(rows: Array, numbers: int) -> list[Array]:
    """Rows of so many numbers each, as many at a time as the formulas go through the cache with."""
    step = max(1, batches.BLOCK // numbers)
    return [rows[k : k + step] for k in range(0, len(rows), step)]


def numbers(arrays: Sequence[Array], axes: Sequence[int]) -> int:
    """How many numbers the largest event of some arrays has."""
    sizes: list[int] = [math.prod(array.shape[array.ndim - n :]) for array, n in zip(arrays, axes, strict=True)]
    return max(sizes)


def partials(spreads: Spreads, arrays: Sequence[Array], *, xp: Any) -> list[Array]:
    """Partial derivatives of the terms of two diagonal spreads of one kind."""
    keyword = spreads[0][0]
    mean_p, spread_p, mean_q, spread_q = four(spreads, arrays, xp=xp)
    if keyword != "log_std":
        return list(RULES[f"_{keyword}_terms"].gradient(mean_p, spread_p, mean_q, spread_q, xp=xp))
    by_log_var = RULES["_log_var_terms"].gradient(mean_p, 2 * spread_p, mean_q, 2 * spread_q, xp=xp)
    return [2 * partial if k % 2 else partial for k, partial in enumerate(by_log_var)]
