"""The Kullback-Leibler divergence: which formula serves which pair of spreads."""

from __future__ import annotations

from typing import Any

from .._arrays.derivatives.rules import Formula
from .._arrays.linalg import nan_unless, total
from .._arrays.triangular import factor_of_definite
from . import dense, mixed, near_or_far
from . import diagonal as diagonal_formulas
from .given import (
    KIND,
    LOGARITHM,
    Given,
    Spread,
    as_kind,
    as_low_rank,
    columns,
    ready_to_solve,
    side,
    without_precision,
)
from .low_rank import least_shares, least_variance_left, low_rank, mass
from .pairs import Divergence, by_structure

Array = Any


def divergence(arrays: list[Array], *, p: Spread, q: Spread, per_dim: bool, dtype: Any, xp: Any) -> Array:
    """Divergence for the arrays of p (its mean first) followed by those of q, computed in ``dtype``."""
    return by_structure(
        arrays,
        p=p,
        q=q,
        per_dim=per_dim,
        dtype=dtype,
        diagonal=lambda p, q: DIAGONAL[p, q],
        dense=_dense_pair,
        low_rank=_low_rank_pair,
        xp=xp,
    )


KL = Divergence("kl_divergence", divergence, kernels=True)


# Diagonal pairs.


SAME = {
    "std": diagonal_formulas.std_terms,
    "var": diagonal_formulas.var_terms,
    "log_std": diagonal_formulas.log_std_terms,
    "log_var": diagonal_formulas.log_var_terms,
}


def _of_two(p: str, q: str) -> Formula:
    """The terms of two spreads. The same kind on both sides is never converted, no other before it is compared."""
    if p == q and p in SAME:
        return SAME[p]
    kinds = KIND[p], KIND[q]
    terms = SAME[kinds[0]] if kinds[0] == kinds[1] else mixed.TERMS[kinds]

    def formula(mean_p: Array, spread_p: Array, mean_q: Array, spread_q: Array, *, xp: Any) -> Array:
        return terms(mean_p, as_kind(p, spread_p, xp=xp), mean_q, as_kind(q, spread_q, xp=xp), xp=xp)

    return formula


DIAGONAL: dict[tuple[str, str], Formula] = {(p, q): _of_two(p, q) for p in KIND for q in KIND}


# Pairs with a dense side.


def _dense_pair(mean_p: Array, p: Given, mean_q: Array, q: Given, *, xp: Any) -> Array:
    return _dense(mean_p - mean_q, p, q, xp=xp)


def _dense(delta: Array, p: Given, q: Given, *, xp: Any) -> Array:
    """Divergence of a pair with a dense side, from the difference of the means and the two spreads."""
    (kind_p, given_p), (kind_q, given_q) = p, q
    if kind_p == kind_q == "precision":
        side_p, side_q = side("cov", given_q, xp=xp), ready_to_solve(side("cov", given_p, xp=xp), xp=xp)
        root = factor_of_definite(given_q[0], xp=xp)
        return near_or_far.from_covariances(side_p, side_q, xp=xp) + dense.mean_part_of_precision(delta, root, xp=xp)
    side_p = side(*without_precision(*p, xp=xp), xp=xp)
    side_q = ready_to_solve(side(*without_precision(*q, xp=xp), xp=xp), xp=xp)
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


# Low rank.

BOTH = 64  # dimensions up to which both formulas are computed where no value can be read
CANCELS = 3  # times the divergence: more than what diagonals and factors contribute one by one, unless they cancel
DENSE = 2048  # dimensions up to which a covariance is made where values can be


def _low_rank_pair(mean_p: Array, p: Given, mean_q: Array, q: Given, *, xp: Any) -> Array:
    """By a basis of few columns; by the covariances where those keep more digits."""
    (f_p, c_p), (f_q, c_q) = as_low_rank(*p, xp=xp), as_low_rank(*q, xp=xp)
    d, rank = mean_p.shape[-1], max(f_p.shape[-1], f_q.shape[-1])
    if rank >= d:
        return _dense(mean_p - mean_q, p, q, xp=xp)
    f_p, f_q = columns(f_p, rank, xp=xp), columns(f_q, rank, xp=xp)
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
        return _dense(mean_p - mean_q, p, q, xp=xp)
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
    value = xp.where(chosen, _dense(delta, *others, xp=xp), low_rank(*fewer, xp=xp))
    return nan_unless(~lost, value, xp=xp)


def _nan_where_digits_are_lost(value: Array, growth: Array, maybe: Array, least: Array, *, xp: Any) -> Array:
    """Divergences by a basis of few columns, without those that may lack half of their digits."""
    eps = float(xp.finfo(value.dtype).eps)
    alone = total(0.5 * diagonal_formulas.excess(growth, xp=xp), xp=xp)  # what the diagonals would contribute
    small = value < eps**0.5 * xp.minimum(alone, xp.ones_like(alone))
    return xp.where(maybe & ((least < eps) | small), xp.nan, value)
