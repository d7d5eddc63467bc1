"""A spread as the formulas want it: what a user gave, as one of few kinds."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._arrays.derivatives.rules import Formula
from .._arrays.linalg import sizes
from .._arrays.namespace import device_of
from .._arrays.triangular import Triangle, factor_of_definite
from .._checks import asymmetry
from .._spreads import EVENT_AXES
from . import dense, mixed, near_or_far

Array = Any
Given = tuple[str, list[Array]]  # a spread made ready: its kind, and its arrays


class Spread(NamedTuple):
    """How a Gaussian's spread is described."""

    keyword: str
    packing: str | None = None


def event_axes(*gaussians: Any) -> list[int]:
    """Number of event axes of each array, in the order that :func:`divergence` takes them; 0 for a number."""
    axes = []
    for gaussian in gaussians:
        own = EVENT_AXES[gaussian.keyword]
        axes += [1, *(min(n, len(array.shape)) for n, array in zip(own, gaussian.arrays, strict=True))]
    return axes


def without_empty_factor(spread: Spread, arrays: list[Array], *, xp: Any) -> tuple[Spread, list[Array]]:
    """A low rank without columns as the diagonal that it is."""
    if spread.keyword == "low_rank" and not arrays[0].shape[-1]:
        factor, diagonal = arrays
        return Spread("var"), [diagonal + xp.sum(factor, axis=-1)]  # of nothing, with the factor's batch
    return spread, arrays


# Diagonal spreads. To halve the logarithm of a variance is exact, and the only conversion there is.


def _same(x: Array, *, xp: Any) -> Array:
    return x


LOGARITHM: dict[str, Formula] = {"log_std": _same, "log_var": lambda x, *, xp: 0.5 * x}
KIND = {"std": "std", "var": "var", "log_std": "log_std", "log_var": "log_std"}


def as_kind(keyword: str, spread: Array, *, xp: Any) -> Array:
    """A diagonal spread as what its kind says."""
    convert: Formula = LOGARITHM.get(keyword, _same)
    return convert(spread, xp=xp)


def as_std(keyword: str, spread: Array, *, xp: Any) -> Array:
    """Standard deviations of a diagonal spread of any kind."""
    given = as_kind(keyword, spread, xp=xp)
    return xp.exp(given) if keyword in LOGARITHM else mixed.as_std(keyword, given, xp=xp)


# Dense spreads.


def ready(spread: Spread, arrays: list[Array], d: int, given: Any, *, xp: Any) -> tuple[str, list[Array]]:
    """The spread as one of the kinds the dense formulas know, its validity folded into its values.

    ``given`` is the dtype that it had when it was given.
    """
    keyword, packing = spread
    if keyword == "packed_tril":
        return "tril", [dense.lower_factor(_unpack(arrays[0], d, packing, xp=xp), xp=xp)]
    if keyword == "scale_tril":
        return "tril", [near_or_far.lower_factor(arrays[0], xp=xp)]
    if keyword in ("cov", "precision"):
        return keyword, [near_or_far.symmetric(arrays[0], asymmetry(given, xp=xp), xp=xp)]
    *factor, diagonal = arrays
    if keyword not in LOGARITHM:
        diagonal = dense.positive(diagonal, xp=xp)
    return keyword, [*factor, xp.broadcast_to(diagonal, (*sizes(diagonal, xp=xp)[:-1], d))]


def without_precision(kind: str, arrays: list[Array], *, xp: Any) -> Given:
    if kind == "precision":
        return "tril", [dense.factor_of_precision(arrays[0], xp=xp)]
    return kind, arrays


def side(kind: str, arrays: list[Array], *, xp: Any) -> dense.Side:
    given = kind, tuple(arrays)
    if kind == "tril":
        return dense.Side("tril", arrays[0], None, *given)
    if kind == "cov":
        return dense.Side("tril", None, arrays[0], *given)
    if kind == "low_rank":
        return dense.Side("tril", None, dense.covariance_of_low_rank(*arrays, xp=xp), *given)
    return dense.Side("std", as_std(kind, arrays[0], xp=xp), None, *given)


def ready_to_solve(side: dense.Side, *, xp: Any) -> dense.Side:
    if side.kind == "std":
        return side
    factor = factor_of_definite(side.cov, xp=xp) if side.scale is None else side.scale
    return side._replace(scale=Triangle(factor, xp=xp))


def packed_positions(row: Array, column: Array, d: int, packing: str | None, *, xp: Any) -> Array:
    """Place in the packed vector of each entry on or below the diagonal; anything above it."""
    if packing == "row":
        return row * (row + 1) // 2 + column
    length = d * (d + 1) // 2
    place = row * d + column
    return xp.where(place < length - d, place + d, 2 * length - d - 1 - place)


def _unpack(packed: Array, d: int, packing: str | None, *, xp: Any) -> Array:
    """Lower triangular matrices from packed vectors, by one gather."""
    index = xp.arange(d, device=device_of(packed, xp=xp))
    row, column = index[:, None], index[None, :]
    lower = row >= column
    positions = xp.where(lower, packed_positions(row, column, d, packing, xp=xp), 0)
    gathered = xp.take(packed, xp.reshape(positions, (-1,)), axis=-1)
    return xp.where(lower, xp.reshape(gathered, (*sizes(packed, xp=xp)[:-1], d, d)), 0.0)


# Low rank: a diagonal is a low rank of nothing.


def as_low_rank(kind: str, arrays: list[Array], *, xp: Any) -> list[Array]:
    """Factor and variances."""
    if kind == "low_rank":
        return arrays
    var = AS_VAR[KIND[kind]](as_kind(kind, arrays[0], xp=xp), xp=xp)
    return [xp.zeros_like(var)[..., None], var]


AS_VAR: dict[str, Formula] = {
    "std": lambda std, *, xp: std * std,
    "var": _same,
    "log_std": lambda log_std, *, xp: xp.exp(2 * log_std),
}


def columns(factor: Array, rank: int, *, xp: Any) -> Array:
    missing = rank - factor.shape[-1]
    if not missing:
        return factor
    empty = xp.zeros_like(xp.broadcast_to(factor[..., :1], (*sizes(factor, xp=xp)[:-1], missing)))
    return xp.concat([factor, empty], axis=-1)
