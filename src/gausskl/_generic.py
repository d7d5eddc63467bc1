"""The generic path: the array-API formulas on a pair of Gaussians of any kind, in any library."""

from __future__ import annotations

import functools
from typing import Any

from . import _blocks, _checks, _diagnosis, _namespace, _pairs
from ._linalg import total
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
        _namespace.one_library({f"the mean of {'p' if side is self.p else 'q'}": side.mean for side in typed})
        self.like = typed[0].mean
        self.xp = _namespace.namespace(self.like)
        _checks.has_linalg(self.xp, _namespace.library(self.xp), self.p, self.q)
        self.dtype = _namespace.floating_dtype(self.xp, [a for side in typed for a in (side.mean, *side.arrays)])
        self.working = _namespace.computing_dtype(self.xp, self.dtype)

    def run(self, validate: bool | None) -> Array:
        """The divergence of each element of the batch, in the dtype everything is computed in."""
        device = _namespace.device_of(self.like, xp=self.xp)
        arrays = [
            _namespace.moved(array, xp=self.xp, dtype=self.working, device=device)
            for side in (self.p, self.q)
            for array in (side.mean, *side.arrays)
        ]
        formula = functools.partial(
            _pairs.divergence,
            p=_pairs.Spread(self.p.keyword, self.p.packing),
            q=_pairs.Spread(self.q.keyword, self.q.packing),
            per_dim=self.per_dim,
            dtype=self.working,
        )
        axes = _pairs.event_axes(self.p, self.q)
        if _namespace.is_lazy(self.like):
            shape = (*self.batch_shape, *(self.p.event_size,) * self.per_dim)
            result = _blocks.lazily(formula, arrays, axes, shape, self.per_dim, self.working)
        else:
            result = _blocks.evaluate(formula, arrays, axes)
        if validate and _namespace.is_traced(result):
            raise ValueError(
                "validate=True needs values to look at, and these arrays have none yet (lazy, or inside jit, compile "
                "or vmap): leave validate out, and a bad element will be NaN"
            )
        if validate or (validate is None and _namespace.can_be_read(result)):
            _diagnosis.judge(result, self.p, self.q)
        return result

    def finish(self, result: Array) -> Array:
        """Round once to the dtype of the inputs."""
        return result if result.dtype == self.dtype else self.xp.astype(result, self.dtype)


def standard_normal(p: Gaussian) -> Gaussian:
    """N(0, I) in the parametrisation of a diagonal p, so that neither side is converted."""
    keyword = p.keyword if p.structure == "diagonal" else "std"
    spread: dict[str, Any] = {keyword: 0.0 if "log" in keyword else 1.0}
    xp = _namespace.namespace(p.mean)
    dtype = _namespace.floating_dtype(xp, (p.mean, *p.arrays))
    zero = xp.zeros(p.event_size, dtype=dtype, device=_namespace.device_of(p.mean, xp=xp))
    return Gaussian(zero, **spread)


def reduced(result: Array, reduction: str, *, xp: Any) -> Array:
    """Over the whole batch; by halves where the array is at hand, so that the order of addition is known."""
    if reduction == "none":
        return result
    if None in result.shape or _namespace.library(xp) == "jax":  # of unknown size, or perhaps on several devices
        return xp.sum(result) if reduction == "sum" else xp.mean(result)
    flat = xp.reshape(result, (-1,))
    summed = xp.sum(flat) if _namespace.is_lazy(result) else total(flat, xp=xp)
    return summed if reduction == "sum" else summed / flat.shape[0]
