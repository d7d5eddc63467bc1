"""What a divergence is made of: a formula for each structure of a pair.

A divergence of its own is a module beside ``kl.py``, with these formulas and a :class:`Divergence` of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .._arrays.derivatives.rules import Formula
from .._arrays.linalg import same_shape, total
from .._spreads import EVENT_AXES
from .given import KIND, Spread, ready, without_empty_factor

Array = Any


class Divergence(NamedTuple):
    """A function of two Gaussians.

    ``formula(arrays, *, p, q, per_dim, dtype, xp)`` is a function of a module, so that a task of Dask can name it; it
    has :func:`by_structure` find what it needs, and gives NaN for an element that is not valid. ``kernels`` says
    whether compiled kernels compute it as well.
    """

    name: str
    formula: Callable[..., Array]
    kernels: bool = False


def by_structure(
    arrays: list[Array],
    *,
    p: Spread,
    q: Spread,
    per_dim: bool,
    dtype: Any,
    diagonal: Callable[[str, str], Formula],
    dense: Callable[..., Array],
    low_rank: Callable[..., Array],
    xp: Any,
) -> Array:
    """Let the formula for the structure of a pair compute in ``dtype``.

    ``arrays`` are those of p, its mean first, followed by those of q. ``diagonal(keyword_p, keyword_q)`` is the formula
    ``(mean_p, spread_p, mean_q, spread_q, *, xp)`` of the contributions of each dimension; ``dense`` and ``low_rank``
    are given the means and the spreads made ready: ``(mean_p, given_p, mean_q, given_q, *, xp)``.
    """
    size = 1 + len(EVENT_AXES[p.keyword])
    was_p, was_q = arrays[1].dtype, arrays[size + 1].dtype
    arrays = [array if array.dtype == dtype else xp.astype(array, dtype) for array in arrays]
    mean_p, *spread_p = arrays[:size]
    mean_q, *spread_q = arrays[size:]
    p, spread_p = without_empty_factor(p, spread_p, xp=xp)
    q, spread_q = without_empty_factor(q, spread_q, xp=xp)
    if {p.keyword, q.keyword} <= {*KIND}:
        arrays = same_shape(mean_p, *spread_p, mean_q, *spread_q, xp=xp)
        terms = diagonal(p.keyword, q.keyword)(*arrays, xp=xp)
        return terms if per_dim else total(terms, xp=xp)
    d = mean_p.shape[-1]
    given_p = ready(p, spread_p, d, was_p, xp=xp)
    given_q = ready(q, spread_q, d, was_q, xp=xp)
    pair = low_rank if {given_p[0], given_q[0]} <= {"low_rank", *KIND} else dense
    return pair(mean_p, given_p, mean_q, given_q, xp=xp)
