"""Near or far: which formula an element of the batch needs, found out before both are computed.

Where values can be read, each element is computed by one formula alone, and far ones are recognised from the marginals
of their first dimensions: W of those is a block of W. The choice depends on the element and on nothing beside it.
Elsewhere both formulas are computed, and one selected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._arrays import namespace
from .._arrays.libraries import facts
from .._arrays.linalg import below_mask, transpose
from .._arrays.triangular import BASE, Triangle
from .._spreads import EVENT_AXES
from . import dense
from .dense import Side, difference, from_factors, from_whitened, is_near, near_or_far, whitened

Array = Any

SHARE = 4  # of many dimensions, one in so many is looked at first


def from_covariances(p: Side, q: Side, *, xp: Any) -> Array:
    """Spread part of the divergence, where at least one side has its covariance."""
    some = q.cov if p.cov is None else p.cov
    if not reads(some, xp=xp):
        w = whitened(difference(p, q, xp=xp), q, xp=xp)
        return near_or_far(w, is_near(w, xp=xp), p, q, xp=xp)
    size = some.shape[-1]
    if size < 2 * BASE:
        return _whiten_first([p, q], xp=xp)
    first = [_marginal(side, max(BASE, size // SHARE // BASE * BASE)) for side in (p, q)]
    near = is_near(whitened(difference(*first, xp=xp), first[1], xp=xp), xp=xp)
    return where(near, _whiten_first, _far, [p, q], xp=xp)


def _whiten_first(sides: list[Any], *, xp: Any) -> Array:
    w = whitened(difference(*sides, xp=xp), sides[1], xp=xp)
    return select(w, is_near(w, xp=xp), *sides, xp=xp)


def select(w: Array, near: Array, p: Side, q: Side, *, xp: Any) -> Array:
    """Spread part of the divergence of two sides for W, where it is known to be near, and from their factors."""
    if not reads(w, xp=xp):
        return near_or_far(w, near, p, q, xp=xp)
    return where(near, _near, _far, [p, q, w], xp=xp)


def _near(arguments: list[Any], *, xp: Any) -> Array:
    return from_whitened(arguments[2], xp=xp)


def _far(arguments: list[Any], *, xp: Any) -> Array:
    return from_factors(*arguments[:2], xp=xp)


def where(
    chosen: Array, yes: Callable[..., Array], no: Callable[..., Array], arguments: list[Any], *, xp: Any
) -> Array:
    """``yes`` of the elements that are chosen, ``no`` of the others, in the order of the batch."""
    if bool(xp.all(chosen)):
        return yes(arguments, xp=xp)
    if not bool(xp.any(chosen)):
        return no(arguments, xp=xp)
    flags = xp.reshape(chosen, (-1,))
    parts = [xp.nonzero(flags)[0], xp.nonzero(~flags)[0]]
    values = [
        formula([_elements(x, index, chosen.shape, xp=xp) for x in arguments], xp=xp)
        for formula, index in zip((yes, no), parts, strict=True)
    ]
    order = xp.argsort(xp.concat(parts))
    return xp.reshape(xp.take(xp.concat(values), order, axis=0), chosen.shape)


# What a user gave is kept as it is where making it ready would change no number. A gradient needs it made ready.


def symmetric(matrix: Array, tolerance: float, *, xp: Any) -> Array:
    """As :func:`.dense.symmetric`; the matrices themselves if all of them are symmetric to the last bit."""
    keep = _reads_only(matrix, xp=xp) and all(
        bool(xp.all(matrix[..., rows, : rows.stop] == transpose(matrix[..., : rows.stop, rows], xp=xp)))
        for rows in _strips(matrix)
    )
    return matrix if keep else dense.symmetric(matrix, tolerance, xp=xp)


def lower_factor(factor: Array, *, xp: Any) -> Array:
    """As :func:`.dense.lower_factor`; the factors themselves if nothing is above a diagonal, or negative on it."""
    keep = (
        not facts(xp).bits_by_layout  # there, a factor kept and one made ready differ in the last bits
        and _reads_only(factor, xp=xp)
        and not bool(xp.any(xp.linalg.diagonal(factor) < 0))
        and not any(bool(xp.any(_above(factor[..., rows, rows.start :], xp=xp))) for rows in _strips(factor))
    )
    return factor if keep else dense.lower_factor(factor, xp=xp)


def _above(rows: Array, *, xp: Any) -> Array:
    """Where there is something above the diagonal."""
    mask = transpose(below_mask(transpose(rows, xp=xp), xp=xp), xp=xp)
    return mask & (rows != 0)


def _strips(matrix: Array) -> list[slice]:
    """Rows of a matrix, so few at a time that they stay in the cache while its columns are gone through."""
    return [slice(start, min(start + 64, matrix.shape[-1])) for start in range(0, matrix.shape[-1], 64)]


def _reads_only(array: Array, *, xp: Any) -> bool:
    """Whether an array may be used as it was given: for its numbers alone, and lying in memory as a new one would."""
    if not reads(array, xp=xp) or namespace.is_differentiated(array):
        return False
    return not facts(xp).bits_by_layout or array.is_contiguous()


def reads(array: Array, *, xp: Any) -> bool:
    return facts(xp).reads_freely and namespace.can_be_read(array)


# Parts of a side: marginals of its first dimensions, and elements of the batch.

AXES = {**EVENT_AXES, "tril": (2,)}


def _marginal(side: Side, size: int) -> Side:
    """The distribution of the first dimensions. A low-rank factor keeps its columns; a triangle can solve as it is."""

    def part(array: Array, axes: int) -> Array:
        square = axes == 2 and array.shape[-1] == array.shape[-2]
        return array[..., :size, :size] if square else array[..., :size, :] if axes == 2 else array[..., :size]

    return _each(side, part)


def _elements(x: Any, index: Array, batch: tuple[int, ...], *, xp: Any) -> Any:
    """Elements of the batch, by their places in it; an array that all of them share stays as it is."""

    def part(array: Array, axes: int) -> Array:
        leading = array.ndim - axes
        if not leading:
            return array
        event = array.shape[leading:]
        whole = xp.broadcast_to(array, (*batch, *event))
        return xp.take(xp.reshape(whole, (-1, *event)), index, axis=0)

    if not isinstance(x, Side):
        return part(x, 2)
    side = _each(x, part)
    shared = not isinstance(x.scale, Triangle) or x.scale.factor.ndim == 2
    return side if shared else side._replace(scale=Triangle(part(x.scale.factor, 2), xp=xp))


def _each(side: Side, part: Callable[[Array, int], Array]) -> Side:
    """The side with a part of each of its arrays, taken by a function of the array and its number of event axes."""
    scale, axes = side.scale, AXES[side.keyword]
    if scale is not None and not isinstance(scale, Triangle):
        scale = part(scale, 1 if side.kind == "std" else 2)
    return side._replace(
        scale=scale,
        cov=None if side.cov is None else part(side.cov, 2),
        arrays=tuple(part(array, n) for array, n in zip(side.arrays, axes, strict=True)),
    )
