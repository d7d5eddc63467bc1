"""The generic path: the array-API formulas on a pair of Gaussians of any kind, in any library."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ._arrays import adopt, batches, namespace
from ._arrays.libraries import facts
from ._arrays.linalg import total
from ._formulas.given import Spread, event_axes
from .gaussian import Gaussian

Array = Any


def divergence(plan: Any, p: Gaussian, q: Gaussian, reduction: str) -> tuple[Array, Array]:
    """The divergence, and that of each element of the batch in the dtype everything is computed in."""
    xp, sides = plan.xp, (p, q)
    like = next((side.mean for side in sides if not side.form.untyped), p.mean)
    device = namespace.device_of(like, xp=xp)
    arrays = [
        adopt.moved(array, xp=xp, dtype=plan.working, device=device)
        for side in sides
        for array in (side.mean, *side.arrays)
    ]
    with namespace.quiet(xp):
        _subtract_integers(arrays, 1 + len(p.arrays), dtype=plan.working, device=device, xp=xp)
    formula = functools.partial(
        plan.of.formula,
        p=Spread(p.keyword, p.packing),
        q=Spread(q.keyword, q.packing),
        per_dim=plan.per_dim,
        dtype=plan.working,
    )
    axes = event_axes(p, q)
    if namespace.is_lazy(like):
        shape = (*plan.batch_shape, *(plan.event_size,) * plan.per_dim)
        result = batches.lazily(formula, arrays, axes, shape, plan.per_dim, plan.working)
    else:
        result = batches.evaluate(formula, arrays, axes)
    with namespace.quiet(xp):
        return _rounded(reduced(result, reduction, xp=xp), plan.returned, xp=xp), result


def _subtract_integers(arrays: list[Array], at_q: int, *, dtype: Any, device: Any, xp: Any) -> None:
    """Where means are integers, put their difference and 0 in their place: as floats the two could be the same."""
    means = arrays[0], arrays[at_q]
    whole = [xp.isdtype(mean.dtype, "integral") for mean in means]
    if any(whole) and means[0] is not means[1]:
        arrays[0] = difference(*means, *whole, dtype=dtype, xp=xp)
        arrays[at_q] = xp.zeros(means[0].shape[-1], dtype=dtype, device=device)


def _rounded(result: Array, dtype: Any, *, xp: Any) -> Array:
    """Rounded once, to the dtype of the inputs."""
    if result.dtype == dtype:
        return result
    if namespace.is_lazy(result):  # it happens when nobody is quiet any more
        return result.map_blocks(_quietly_rounded, dtype, dtype=dtype)
    return xp.astype(result, dtype)


def _quietly_rounded(block: Array, dtype: Any) -> Array:
    with np.errstate(all="ignore"):
        return block.astype(dtype)


def difference(a: Array, b: Array, whole_a: bool, whole_b: bool, *, dtype: Any, xp: Any) -> Array:
    """``a - b`` in a floating dtype to its last bits, where at least one of the two holds integers."""
    integer = namespace.widest_integer(xp)
    end = 2.0 ** (63 if integer == xp.int64 else 31)

    def rounded(x: Array) -> Array:
        return xp.astype(x, dtype)

    if whole_a and whole_b:
        near = xp.astype(a, integer) - xp.astype(b, integer)  # right wherever it does not wrap
        far = rounded(a) - rounded(b)
        return xp.where(xp.abs(far) < end / 2, rounded(near), far)
    whole, other, sign = (a, b, 1) if whole_a else (b, a, -1)
    high = rounded(whole)
    rest = rounded(xp.astype(whole, integer) - xp.astype(high, integer))
    rest = xp.where(xp.abs(high) < end, rest, xp.zeros_like(rest))
    return sign * ((high - rounded(other)) + rest)


def standard_normal(p: Gaussian) -> Gaussian:
    """N(0, I) in the parametrisation of a diagonal p, so that neither side is converted."""
    keyword = p.keyword if p.structure == "diagonal" else "std"
    spread: dict[str, Any] = {keyword: 0.0 if "log" in keyword else 1.0}
    xp = namespace.namespace(p.mean)
    dtype = namespace.floating_dtype(xp, (p.mean, *p.arrays))
    zero = xp.zeros(p.event_size, dtype=dtype, device=namespace.device_of(p.mean, xp=xp))
    return Gaussian(zero, **spread)


def reduced(result: Array, reduction: str, *, xp: Any) -> Array:
    """Over the whole batch; by halves where the array is at hand, so that the order of addition is known."""
    if reduction == "none":
        return result
    if None in result.shape or facts(xp).sums_in_a_tree:  # of unknown size, or perhaps on several devices
        return xp.sum(result) if reduction == "sum" else xp.mean(result)
    flat = xp.reshape(result, (-1,))
    summed = xp.sum(flat) if namespace.is_lazy(result) else total(flat, xp=xp)
    return summed if reduction == "sum" else summed / flat.shape[0]
