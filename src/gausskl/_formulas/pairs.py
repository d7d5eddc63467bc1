"""Which formula serves which pair of spreads."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._arrays.derivatives.rules import Formula
from .._arrays.linalg import nan_unless, same_shape, sizes, total
from .._arrays.namespace import device_of
from .._arrays.triangular import Triangle, factor_of_definite
from .._checks import asymmetry
from .._spreads import EVENT_AXES
from . import dense, mixed, near_or_far
from . import diagonal as diagonal_formulas
from .low_rank import least_shares, least_variance_left, low_rank, mass

Array = Any
Given = tuple[str, list[Array]]  # a spread made ready: its kind, and its arrays


class Spread(NamedTuple):
    """How a Gaussian's spread is described."""

    keyword: str
    packing: str | None = None


def divergence(arrays: list[Array], *, p: Spread, q: Spread, per_dim: bool, dtype: Any, xp: Any) -> Array:
    """Divergence for the arrays of p (its mean first) followed by those of q, computed in ``dtype``."""
    size = 1 + len(EVENT_AXES[p.keyword])
    given_p, given_q = arrays[1].dtype, arrays[size + 1].dtype
    arrays = [array if array.dtype == dtype else xp.astype(array, dtype) for array in arrays]
    mean_p, *spread_p = arrays[:size]
    mean_q, *spread_q = arrays[size:]
    p, spread_p = without_empty_factor(p, spread_p, xp=xp)
    q, spread_q = without_empty_factor(q, spread_q, xp=xp)
    if (p.keyword, q.keyword) in DIAGONAL:
        terms = DIAGONAL[p.keyword, q.keyword](*same_shape(mean_p, *spread_p, mean_q, *spread_q, xp=xp), xp=xp)
        return terms if per_dim else total(terms, xp=xp)
    d = mean_p.shape[-1]
    side_p = ready(p, spread_p, d, given_p, xp=xp)
    side_q = ready(q, spread_q, d, given_q, xp=xp)
    if {side_p[0], side_q[0]} <= {"low_rank", *KIND}:
        return _low_rank_pair(mean_p, side_p, mean_q, side_q, xp=xp)
    return _dense_pair(mean_p - mean_q, side_p, side_q, xp=xp)


def without_empty_factor(spread: Spread, arrays: list[Array], *, xp: Any) -> tuple[Spread, list[Array]]:
    """A low rank without columns as the diagonal that it is."""
    if spread.keyword == "low_rank" and not arrays[0].shape[-1]:
        factor, diagonal = arrays
        return Spread("var"), [diagonal + xp.sum(factor, axis=-1)]  # of nothing, with the factor's batch
    return spread, arrays


def event_axes(*gaussians: Any) -> list[int]:
    """Number of event axes of each array, in the order that :func:`divergence` takes them; 0 for a number."""
    axes = []
    for gaussian in gaussians:
        own = EVENT_AXES[gaussian.keyword]
        axes += [1, *(min(n, len(array.shape)) for n, array in zip(own, gaussian.arrays, strict=True))]
    return axes


# Diagonal pairs. To halve the logarithm of a variance is exact, and the only conversion there is.


def _same(x: Array, *, xp: Any) -> Array:
    return x


LOGARITHM: dict[str, Formula] = {"log_std": _same, "log_var": lambda x, *, xp: 0.5 * x}
KIND = {"std": "std", "var": "var", "log_std": "log_std", "log_var": "log_std"}
SAME = {
    "std": diagonal_formulas.std_terms,
    "var": diagonal_formulas.var_terms,
    "log_std": diagonal_formulas.log_std_terms,
    "log_var": diagonal_formulas.log_var_terms,
}


def _of_two(p: str, q: str) -> Formula:
    """The terms of two spreads. The same kind on both sides is never converted, no other before it is compared."""
    if p == q:
        return SAME[p]
    kinds = KIND[p], KIND[q]
    terms = SAME[kinds[0]] if kinds[0] == kinds[1] else mixed.TERMS[kinds]

    def formula(mean_p: Array, spread_p: Array, mean_q: Array, spread_q: Array, *, xp: Any) -> Array:
        return terms(mean_p, as_kind(p, spread_p, xp=xp), mean_q, as_kind(q, spread_q, xp=xp), xp=xp)

    return formula


def as_kind(keyword: str, spread: Array, *, xp: Any) -> Array:
    """A diagonal spread as what its kind says."""
    convert: Formula = LOGARITHM.get(keyword, _same)
    return convert(spread, xp=xp)


DIAGONAL: dict[tuple[str, str], Formula] = {(p, q): _of_two(p, q) for p in KIND for q in KIND}


# Pairs with a dense side.


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


def _dense_pair(delta: Array, p: Given, q: Given, *, xp: Any) -> Array:
    """Divergence of a pair with a dense side, from the difference of the means and the two spreads."""
    (kind_p, given_p), (kind_q, given_q) = p, q
    if kind_p == kind_q == "precision":
        side_p, side_q = _side("cov", given_q, xp=xp), _ready_to_solve(_side("cov", given_p, xp=xp), xp=xp)
        root = factor_of_definite(given_q[0], xp=xp)
        return near_or_far.from_covariances(side_p, side_q, xp=xp) + dense.mean_part_of_precision(delta, root, xp=xp)
    side_p = _side(*_without_precision(*p, xp=xp), xp=xp)
    side_q = _ready_to_solve(_side(*_without_precision(*q, xp=xp), xp=xp), xp=xp)
    mean_part = dense.mean_part(delta, side_q, xp=xp)
    if kind_q == "precision":
        root = factor_of_definite(given_q[0], xp=xp)
        w = dense.whitened_by_precision(side_p, given_q[0], root, xp=xp)
        return near_or_far.select(w, dense.is_near(w, xp=xp), side_p, side_q, xp=xp) + mean_part
    if kind_p == "precision":
        root = factor_of_definite(given_p[0], xp=xp)
        w, near = dense.exchanged(dense.whitened_by_precision(side_q, given_p[0], root, xp=xp), xp=xp)
        return near_or_far.select(w, near, side_p, side_q, xp=xp) + mean_part
    if side_p.cov is None and side_q.cov is None:
        diagonal = None if kind_p == kind_q == "tril" else _diagonals(p, q, xp=xp)
        return dense.FROM_FACTORS[side_p.kind, side_q.kind](side_p.scale, side_q.scale, delta, diagonal=diagonal, xp=xp)
    return near_or_far.from_covariances(side_p, side_q, xp=xp) + mean_part


def _diagonals(p: Given, q: Given, *, xp: Any) -> Array:
    """What the diagonals of a factor and of a diagonal spread contribute: those of a factor are standard deviations."""
    (kind_p, spread_p), (kind_q, spread_q) = (
        ("std", xp.linalg.diagonal(arrays[0])) if kind == "tril" else (KIND[kind], as_kind(kind, arrays[0], xp=xp))
        for kind, arrays in (p, q)
    )
    spread = diagonal_formulas.std_spread if kind_p == kind_q else mixed.SPREAD[kind_p, kind_q]
    return spread(spread_p, spread_q, xp=xp)


def _without_precision(kind: str, arrays: list[Array], *, xp: Any) -> Given:
    if kind == "precision":
        return "tril", [dense.factor_of_precision(arrays[0], xp=xp)]
    return kind, arrays


def _side(kind: str, arrays: list[Array], *, xp: Any) -> dense.Side:
    given = kind, tuple(arrays)
    if kind == "tril":
        return dense.Side("tril", arrays[0], None, *given)
    if kind == "cov":
        return dense.Side("tril", None, arrays[0], *given)
    if kind == "low_rank":
        return dense.Side("tril", None, dense.covariance_of_low_rank(*arrays, xp=xp), *given)
    return dense.Side("std", as_std(kind, arrays[0], xp=xp), None, *given)


def _ready_to_solve(side: dense.Side, *, xp: Any) -> dense.Side:
    if side.kind == "std":
        return side
    factor = factor_of_definite(side.cov, xp=xp) if side.scale is None else side.scale
    return side._replace(scale=Triangle(factor, xp=xp))


def as_std(keyword: str, spread: Array, *, xp: Any) -> Array:
    """Standard deviations of a diagonal spread of any kind."""
    given = as_kind(keyword, spread, xp=xp)
    return xp.exp(given) if keyword in LOGARITHM else mixed.as_std(keyword, given, xp=xp)


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

BOTH = 64  # dimensions up to which both formulas are computed where no value can be read
CANCELS = 3  # times the divergence: more than what diagonals and factors contribute one by one, unless they cancel
DENSE = 2048  # dimensions up to which a covariance is made where values can be


def _low_rank_pair(mean_p: Array, p: Given, mean_q: Array, q: Given, *, xp: Any) -> Array:
    """By a basis of few columns; by the covariances where those keep more digits."""
    (f_p, c_p), (f_q, c_q) = _as_low_rank(*p, xp=xp), _as_low_rank(*q, xp=xp)
    d, rank = mean_p.shape[-1], max(f_p.shape[-1], f_q.shape[-1])
    if rank >= d:
        return _dense_pair(mean_p - mean_q, p, q, xp=xp)
    f_p, f_q = _columns(f_p, rank, xp=xp), _columns(f_q, rank, xp=xp)
    kinds = KIND.get(p[0], "var"), KIND.get(q[0], "var")  # what a low rank adds to is a variance
    if kinds[0] == kinds[1]:
        growth = (c_p - c_q) / c_q
    else:
        growth = mixed.GROWTH[kinds](*(as_kind(kind, given[-1], xp=xp) for kind, given in (p, q)), xp=xp)
    arrays = mean_p, f_p, c_p, mean_q, f_q, c_q, growth
    sides = (f_p, c_p), (f_q, c_q)
    (least_p, little_p), (least_q, little_q) = (least_shares(*side, xp=xp) for side in sides)
    maybe, least = little_p | little_q, xp.minimum(least_p, least_q)
    read, few = near_or_far.reads(maybe, xp=xp), d <= min(BOTH, 3 * rank)  # few: the basis would have as many columns
    value = low_rank(*arrays, xp=xp)
    if d > (DENSE if read else BOTH):
        return _nan_where_digits_are_lost(value, growth, maybe, least, xp=xp)
    parts = mass(f_p, f_q, c_q, growth, xp=xp)
    cancel = value < parts / CANCELS
    if read and not few and not bool(xp.any(maybe | cancel)):
        return value
    left_p, left_q = (least_variance_left(*side, xp=xp) for side in sides)
    left = xp.minimum(left_p, left_q)
    chosen = maybe & (left > 4 * xp.sqrt(least))
    if few:
        chosen = chosen | (left > 2.0**-10)
    chosen = chosen | (cancel & (left * parts > value))
    lost = maybe & ~(left > 0) & (least < float(xp.finfo(least.dtype).eps))  # neither way keeps a digit
    if read and not bool(xp.any(chosen)):
        return nan_unless(~lost, value, xp=xp)
    if read and bool(xp.all(chosen)):
        return _dense_pair(mean_p - mean_q, p, q, xp=xp)
    matrix, vector = chosen[..., None, None], chosen[..., None]
    fewer = [
        xp.where(matrix, 0.0, array) if k in (1, 4) else xp.where(vector, float(k in (2, 5)), array)
        for k, array in enumerate(arrays)
    ]
    others = [
        (kind, [xp.where(matrix, arrays[0], 0.0), xp.where(vector, arrays[1], 1.0)])
        if kind == "low_rank"
        else (kind, [xp.where(vector, arrays[0], 0.0 if kind in LOGARITHM else 1.0)])
        for kind, arrays in (p, q)
    ]
    delta = xp.where(vector, mean_p - mean_q, 0.0)
    value = xp.where(chosen, _dense_pair(delta, *others, xp=xp), low_rank(*fewer, xp=xp))
    return nan_unless(~lost, value, xp=xp)


def _nan_where_digits_are_lost(value: Array, growth: Array, maybe: Array, least: Array, *, xp: Any) -> Array:
    """Divergences by a basis of few columns, without those that may lack half of their digits."""
    eps = float(xp.finfo(value.dtype).eps)
    alone = total(0.5 * diagonal_formulas.excess(growth, xp=xp), xp=xp)  # what the diagonals would contribute
    small = value < eps**0.5 * xp.minimum(alone, xp.ones_like(alone))
    return xp.where(maybe & ((least < eps) | small), xp.nan, value)


def _as_low_rank(kind: str, arrays: list[Array], *, xp: Any) -> list[Array]:
    """Factor and variances."""
    if kind == "low_rank":
        return arrays
    var = AS_VAR[kind](arrays[0], xp=xp)
    return [xp.zeros_like(var)[..., None], var]


AS_VAR: dict[str, Formula] = {
    "std": lambda std, *, xp: std * std,
    "var": _same,
    "log_std": lambda log_std, *, xp: xp.exp(2 * log_std),
    "log_var": lambda log_var, *, xp: xp.exp(log_var),
}


def _columns(factor: Array, rank: int, *, xp: Any) -> Array:
    missing = rank - factor.shape[-1]
    if not missing:
        return factor
    empty = xp.zeros_like(xp.broadcast_to(factor[..., :1], (*sizes(factor, xp=xp)[:-1], missing)))
    return xp.concat([factor, empty], axis=-1)
