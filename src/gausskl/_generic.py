"""The generic path: the array-API formulas on a pair of Gaussians of any kind, in any library."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import _checks, _diagnosis
from ._arrays import adopt, batches, namespace
from ._arrays.libraries import facts, name_of
from ._arrays.linalg import total
from ._formulas import pairs
from .gaussian import Gaussian

Array = Any


class Pair:
    """Two Gaussians that fit together: one namespace, one dtype, one batch."""

    def __init__(self, p: Gaussian, q: Gaussian | None, per_dim: bool) -> None:
        self.p, self.q = p, standard_normal(p) if q is None else q
        self.batch_shape = _checks.common_batch(self.p, self.q)
        if per_dim:
            _checks.both_diagonal(self.p, self.q)
        self.per_dim = per_dim
        typed = [side for side in (self.p, self.q) if not side.form.untyped] or [self.p]
        adopt.one_library({f"the mean of {'p' if side is self.p else 'q'}": side.mean for side in typed})
        self.like = typed[0].mean
        self.xp = namespace.namespace(self.like)
        _checks.has_linalg(self.xp, name_of(self.xp), self.p, self.q)
        self.dtype = namespace.floating_dtype(self.xp, [a for side in typed for a in (side.mean, *side.arrays)])
        self.working = namespace.computing_dtype(self.xp, self.dtype)

    def run(self, validate: bool | None) -> Array:
        """The divergence of each element of the batch, in the dtype everything is computed in."""
        device = namespace.device_of(self.like, xp=self.xp)
        arrays = [
            adopt.moved(array, xp=self.xp, dtype=self.working, device=device)
            for side in (self.p, self.q)
            for array in (side.mean, *side.arrays)
        ]
        with namespace.quiet(self.xp):
            self._subtract_integers(arrays)
        formula = functools.partial(
            pairs.divergence,
            p=pairs.Spread(self.p.keyword, self.p.packing),
            q=pairs.Spread(self.q.keyword, self.q.packing),
            per_dim=self.per_dim,
            dtype=self.working,
        )
        axes = pairs.event_axes(self.p, self.q)
        if namespace.is_lazy(self.like):
            shape = (*self.batch_shape, *(self.p.event_size,) * self.per_dim)
            result = batches.lazily(formula, arrays, axes, shape, self.per_dim, self.working)
        else:
            result = batches.evaluate(formula, arrays, axes)
        if validate and namespace.is_traced(result):
            raise ValueError(
                "validate=True needs values to look at, and these arrays have none yet (lazy, or inside jit, compile "
                "or vmap): leave validate out, and a bad element will be NaN"
            )
        if validate or (validate is None and namespace.can_be_read(result)):
            _diagnosis.judge(result, self.p, self.q, namespace.name_of_dtype(self.working))
        return result

    def _subtract_integers(self, arrays: list[Array]) -> None:
        """Where means are integers, put their difference and 0 in their place: as floats the two could be the same."""
        xp, at_q = self.xp, 1 + len(self.p.arrays)
        means = arrays[0], arrays[at_q]
        whole = [xp.isdtype(mean.dtype, "integral") for mean in means]
        if any(whole) and means[0] is not means[1]:
            arrays[0] = difference(*means, *whole, dtype=self.working, xp=xp)
            device = namespace.device_of(self.like, xp=xp)
            arrays[at_q] = xp.zeros(self.p.event_size, dtype=self.working, device=device)

    def finish(self, result: Array) -> Array:
        """Round once to the dtype of the inputs."""
        if result.dtype == self.dtype:
            return result
        if namespace.is_lazy(result):  # it happens when nobody is quiet any more
            return result.map_blocks(_quietly_rounded, self.dtype, dtype=self.dtype)
        return self.xp.astype(result, self.dtype)


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
