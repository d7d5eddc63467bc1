"""Which formula serves which pair of spreads."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import _choice, _dense, _formulas
from ._checks import asymmetry
from ._gradients import Formula
from ._linalg import cholesky, same_shape, sizes, total
from ._low_rank import low_rank
from ._namespace import device_of
from ._triangular import Triangle

Array = Any

EVENT_AXES = {"cov": (2,), "scale_tril": (2,), "precision": (2,), "low_rank": (2, 1)}


class Spread(NamedTuple):
    """How a Gaussian's spread is described."""

    keyword: str
    packing: str | None = None


def divergence(arrays: list[Array], *, p: Spread, q: Spread, per_dim: bool, dtype: Any, xp: Any) -> Array:
    """Divergence for the arrays of p (its mean first) followed by those of q, computed in ``dtype``."""
    size = 1 + len(EVENT_AXES.get(p.keyword, (1,)))
    given_p, given_q = arrays[1].dtype, arrays[size + 1].dtype
    arrays = [array if array.dtype == dtype else xp.astype(array, dtype) for array in arrays]
    mean_p, *spread_p = arrays[:size]
    mean_q, *spread_q = arrays[size:]
    if (p.keyword, q.keyword) in DIAGONAL:
        terms = DIAGONAL[p.keyword, q.keyword](*same_shape(mean_p, *spread_p, mean_q, *spread_q, xp=xp), xp=xp)
        return terms if per_dim else total(terms, xp=xp)
    d = mean_p.shape[-1]
    side_p = ready(p, spread_p, d, given_p, xp=xp)
    side_q = ready(q, spread_q, d, given_q, xp=xp)
    if {side_p[0], side_q[0]} <= {"low_rank", *AS_VAR}:
        f_p, c_p, f_q, c_q = _padded(*_as_low_rank(*side_p, xp=xp), *_as_low_rank(*side_q, xp=xp), xp=xp)
        return low_rank(mean_p, f_p, c_p, mean_q, f_q, c_q, xp=xp)
    return _dense_pair(mean_p - mean_q, side_p, side_q, xp=xp)


def event_axes(*gaussians: Any) -> list[int]:
    """Number of event axes of each array, in the order that :func:`divergence` takes them; 0 for a number."""
    axes = []
    for gaussian in gaussians:
        own = EVENT_AXES.get(gaussian.keyword, (1,))
        axes += [1, *(min(n, len(array.shape)) for n, array in zip(own, gaussian.arrays, strict=True))]
    return axes


# Diagonal pairs. Equal parametrisations are never converted; others go by standard deviations, or logarithms.


def _same(x: Array, *, xp: Any) -> Array:
    return x


AS_STD: dict[str, Formula] = {"std": _same, "var": lambda x, *, xp: xp.sqrt(x)}
AS_LOG_STD: dict[str, Formula] = {"log_std": _same, "log_var": lambda x, *, xp: 0.5 * x}
AS_VAR: dict[str, Formula] = {
    "std": lambda x, *, xp: x * x,
    "var": _same,
    "log_std": lambda x, *, xp: xp.exp(2 * x),
    "log_var": lambda x, *, xp: xp.exp(x),
}


def _converted(terms: Any, convert_p: Any, convert_q: Any) -> Any:
    def formula(mean_p: Array, spread_p: Array, mean_q: Array, spread_q: Array, *, xp: Any) -> Array:
        return terms(mean_p, convert_p(spread_p, xp=xp), mean_q, convert_q(spread_q, xp=xp), xp=xp)

    return formula


DIAGONAL: dict[tuple[str, str], Formula] = {
    **{(p, q): _converted(_formulas.std_terms, AS_STD[p], AS_STD[q]) for p in AS_STD for q in AS_STD},
    **{
        (p, q): _converted(_formulas.log_std_terms, AS_LOG_STD[p], AS_LOG_STD[q])
        for p in AS_LOG_STD
        for q in AS_LOG_STD
    },
    **{(p, q): _converted(_formulas.std_log_std_terms, AS_STD[p], AS_LOG_STD[q]) for p in AS_STD for q in AS_LOG_STD},
    **{(p, q): _converted(_formulas.log_std_std_terms, AS_LOG_STD[p], AS_STD[q]) for p in AS_LOG_STD for q in AS_STD},
    ("var", "var"): _formulas.var_terms,
    ("log_var", "log_var"): _formulas.log_var_terms,
}


# Pairs with a dense side.


def ready(spread: Spread, arrays: list[Array], d: int, given: Any, *, xp: Any) -> tuple[str, list[Array]]:
    """The spread as one of the kinds the dense formulas know, its validity folded into its values.

    ``given`` is the dtype that it had when it was given.
    """
    keyword, packing = spread
    if keyword == "packed_tril":
        return "tril", [_dense.lower_factor(_unpack(arrays[0], d, packing, xp=xp), xp=xp)]
    if keyword == "scale_tril":
        return "tril", [_choice.lower_factor(arrays[0], xp=xp)]
    if keyword in ("cov", "precision"):
        return keyword, [_choice.symmetric(arrays[0], asymmetry(given, xp=xp), xp=xp)]
    *factor, diagonal = arrays
    factor = [_columns(matrix, max(matrix.shape[-1], 1), xp=xp) for matrix in factor]
    if keyword not in AS_LOG_STD:
        diagonal = _dense.positive(diagonal, xp=xp)
    return keyword, [*factor, xp.broadcast_to(diagonal, (*sizes(diagonal, xp=xp)[:-1], d))]


def _dense_pair(delta: Array, p: tuple[str, list[Array]], q: tuple[str, list[Array]], *, xp: Any) -> Array:
    """Divergence of a pair with a dense side, from the difference of the means and the two spreads."""
    if p[0] == q[0] == "precision":
        side_p, side_q = _side("cov", q[1], xp=xp), _ready_to_solve(_side("cov", p[1], xp=xp), xp=xp)
        root = cholesky(q[1][0], xp=xp)
        return _choice.from_covariances(side_p, side_q, xp=xp) + _dense.mean_part_of_precision(delta, root, xp=xp)
    side_p = _side(*_without_precision(*p, xp=xp), xp=xp)
    side_q = _ready_to_solve(_side(*_without_precision(*q, xp=xp), xp=xp), xp=xp)
    if side_p.cov is None and side_q.cov is None:
        return _dense.FROM_FACTORS[side_p.kind, side_q.kind](side_p.scale, side_q.scale, delta, xp=xp)
    return _choice.from_covariances(side_p, side_q, xp=xp) + _dense.mean_part(delta, side_q, xp=xp)


def _without_precision(kind: str, arrays: list[Array], *, xp: Any) -> tuple[str, list[Array]]:
    if kind == "precision":
        return "tril", [_dense.factor_of_precision(arrays[0], xp=xp)]
    return kind, arrays


def _side(kind: str, arrays: list[Array], *, xp: Any) -> _dense.Side:
    given = kind, tuple(arrays)
    if kind == "tril":
        return _dense.Side("tril", arrays[0], None, *given)
    if kind == "cov":
        return _dense.Side("tril", None, arrays[0], *given)
    if kind == "low_rank":
        return _dense.Side("tril", None, _dense.covariance_of_low_rank(*arrays, xp=xp), *given)
    return _dense.Side("std", as_std(kind, arrays[0], xp=xp), None, *given)


def _ready_to_solve(side: _dense.Side, *, xp: Any) -> _dense.Side:
    if side.kind == "std":
        return side
    factor = cholesky(side.cov, xp=xp) if side.scale is None else side.scale
    return side._replace(scale=Triangle(factor, xp=xp))


def as_std(kind: str, spread: Array, *, xp: Any) -> Array:
    """Standard deviations of a diagonal spread of any kind."""
    return AS_STD[kind](spread, xp=xp) if kind in AS_STD else xp.exp(AS_LOG_STD[kind](spread, xp=xp))


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


def _as_low_rank(kind: str, arrays: list[Array], *, xp: Any) -> tuple[Array, Array]:
    if kind == "low_rank":
        return arrays[0], arrays[1]
    var = AS_VAR[kind](arrays[0], xp=xp)
    return xp.zeros_like(var)[..., None], var


def _padded(f_p: Array, c_p: Array, f_q: Array, c_q: Array, *, xp: Any) -> tuple[Array, Array, Array, Array]:
    """Both factors with the same number of columns."""
    rank = max(f_p.shape[-1], f_q.shape[-1])
    return _columns(f_p, rank, xp=xp), c_p, _columns(f_q, rank, xp=xp), c_q


def _columns(factor: Array, rank: int, *, xp: Any) -> Array:
    missing = rank - factor.shape[-1]
    if not missing:
        return factor
    column = xp.sum(factor, axis=-1, keepdims=True)  # there is one even if the factor has none
    empty = xp.zeros_like(xp.broadcast_to(column, (*sizes(factor, xp=xp)[:-1], missing)))
    return xp.concat([factor, empty], axis=-1)
