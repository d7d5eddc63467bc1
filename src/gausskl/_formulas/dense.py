"""Spread part of the divergence when at least one side has a full covariance matrix.

The same law as in ``diagonal``: pure array-API formulas, no decision on values. A side of a pair is a kind and
its array: ``tril`` (lower triangular factor, positive diagonal), ``std`` (diagonal), ``cov`` or ``low_rank``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, NamedTuple

from .._arrays.linalg import (
    below_mask,
    cholesky,
    eye_mask,
    flat,
    half_square_total,
    identities,
    matmul,
    nan_unless,
    total,
    total_of_matrix,
    transpose,
)
from .._arrays.triangular import Triangle, factor_of_definite, solve_tril
from . import exact
from .diagonal import excess, half_square, std_spread

Array = Any


# From factors: E = L_q^-1 (L_p - L_q), the subtraction before the solve; z = L_q^-1 (mean_p - mean_q).


# What the diagonals contribute may be given as ``diagonal``: standard deviations that were made of something else say
# it well enough only far from equality.


def tril_tril(factor_p: Array, triangle: Triangle, delta: Array = None, *, diagonal: Array = None, xp: Any) -> Array:
    """Sum of G(L_p,ii, L_q,ii) + E_ii^2/2 over the diagonal, of E_ij^2/2 below it, and of z_i^2/2."""
    factor_q = triangle.factor
    diagonal_p, diagonal_q = xp.linalg.diagonal(factor_p), xp.linalg.diagonal(factor_q)
    close = (diagonal_p <= 2 * diagonal_q) & (diagonal_q <= 2 * diagonal_p)
    difference = factor_p - xp.where(close[..., None, :], factor_q, 0.0)
    below = [flat(_below(columns, xp=xp), xp=xp) for columns in _solved_columns(triangle, difference)]
    off = half_square_total(xp.concat(below, axis=-1), xp=xp)
    if diagonal is None:
        diagonal = std_spread(diagonal_p, diagonal_q, xp=xp)
    return total(diagonal, xp=xp) + off + _mean_part(triangle, delta, xp=xp)


def tril_std(factor_p: Array, std_q: Array, delta: Array = None, *, diagonal: Array = None, xp: Any) -> Array:
    """A factor against a diagonal: E_ij = L_p,ij / s_q,i, without a matrix for the diagonal."""
    off = half_square(_below(factor_p, xp=xp), std_q[..., :, None], xp=xp)
    if diagonal is None:
        diagonal = std_spread(xp.linalg.diagonal(factor_p), std_q, xp=xp)
    return total(diagonal, xp=xp) + _scaled_mean_part(delta, std_q, xp=xp) + total_of_matrix(off, xp=xp)


def std_tril(std_p: Array, triangle: Triangle, delta: Array = None, *, diagonal: Array = None, xp: Any) -> Array:
    """A diagonal against a factor: E_ij = (L_q^-1)_ij s_p,j, which needs q's inverse factor alone."""
    diagonal_q = xp.linalg.diagonal(triangle.factor)
    eye = eye_mask(diagonal_q.shape[-1], diagonal_q, xp=xp)
    solved = _solved_columns(triangle, xp.where(eye, diagonal_q[..., None], 0.0))
    columns = [total(transpose(_below(x * x, xp=xp), xp=xp), xp=xp) for x in solved]
    columns = xp.concat(columns, axis=-1)
    off = xp.where(columns > 0, half_square(std_p, diagonal_q, xp=xp) * columns, columns)
    if diagonal is None:
        diagonal = std_spread(std_p, diagonal_q, xp=xp)
    return total(diagonal, xp=xp) + total(off, xp=xp) + _mean_part(triangle, delta, xp=xp)


FROM_FACTORS: dict[tuple[str, str], Callable[..., Array]] = {
    ("tril", "tril"): tril_tril,
    ("tril", "std"): tril_std,
    ("std", "tril"): std_tril,
}


def _scaled_mean_part(delta: Array, std_q: Array, *, xp: Any) -> Any:
    return 0.0 if delta is None else total(half_square(delta, std_q, xp=xp), xp=xp)


def _solved_columns(triangle: Triangle, lower: Array) -> list[Array]:
    return triangle.solve_lower(lower)


def _mean_part(triangle: Triangle, delta: Array, *, xp: Any) -> Any:
    return 0.0 if delta is None else half_square_total(triangle.solve(delta[..., None])[..., 0], xp=xp)


def _below(x: Array, *, xp: Any) -> Array:
    return xp.where(below_mask(x, xp=xp), x, 0.0)


# From covariances: the exact difference, whitened by q.


class Side(NamedTuple):
    """One side of a pair: its factor (``kind`` "tril") or its standard deviations (``kind`` "std").

    The factor of q is a :class:`Triangle`, ready to solve with.
    A side that has its covariance carries that too, and may leave its factor for later. ``keyword`` and ``arrays``
    say what it was made from.
    """

    kind: str
    scale: Array
    cov: Array = None
    keyword: str = ""
    arrays: tuple[Array, ...] = ()


def difference(p: Side, q: Side, *, xp: Any) -> Array:
    """cov_p - cov_q, taken before either is rounded."""
    if p.keyword == q.keyword == "cov":
        return p.cov - q.cov
    of_p, of_q = (exact.TERMS[side.keyword](*side.arrays, xp=xp) for side in (p, q))
    zero = _zero(p, xp=xp) + _zero(q, xp=xp)
    high, low = functools.reduce(_with_two, zip_longest(of_p, of_q, fillvalue=zero), (zero, zero))
    return high + low


def _with_two(total: exact.Pair, terms: tuple[Array, Array]) -> exact.Pair:
    """A sum, and a term of p less one of q: those of equal sides take each other off at once."""
    of_p, of_q = terms
    return exact.plus(exact.plus(total, of_p), -of_q)


def whitened(difference: Array, q: Side, *, xp: Any) -> Array:
    """W, the difference of the covariances in coordinates in which q's covariance is the identity."""
    if q.kind == "std":
        return difference / q.scale[..., :, None] / q.scale[..., None, :]
    return q.scale.congruent(difference)


def is_near(w: Array, *, xp: Any) -> Array:
    """Whether the Frobenius norm of W is at most 1/2; if W has a block of which this is not so, it is not so of W."""
    return total_of_matrix(w * w, xp=xp) <= 0.25


def near_or_far(w: Array, near: Array, p: Side, q: Side, *, xp: Any) -> Array:
    """Spread part of the divergence: of near elements from the pivots of I + W, of others from both sides' factors.

    One factorisation serves both: of I + W where that is near, of cov_p elsewhere. What is not wanted is replaced by
    the identity, so that nothing bad can come of it.
    """
    chosen = near[..., None, None]
    eye = xp.astype(eye_mask(w.shape[-1], w, xp=xp), w.dtype)

    w = xp.where(chosen, w, 0.0)
    factor = factor_of_definite(xp.where(chosen, eye + w, eye if p.cov is None else p.cov), xp=xp)
    close = _from_pivots(w, xp.where(chosen, factor, eye), xp=xp)
    scale_p = factor if p.scale is None else p.scale
    far = FROM_FACTORS[p.kind, q.kind](
        xp.where(near[..., None], 1.0, scale_p) if p.kind == "std" else xp.where(chosen, eye, scale_p),
        xp.where(near[..., None], 1.0, q.scale)
        if q.kind == "std"
        else Triangle(xp.where(chosen, eye, q.scale.factor), xp=xp),
        xp=xp,
    )
    return xp.where(near, close, far)


def from_factors(p: Side, q: Side, *, xp: Any) -> Array:
    """Spread part of the divergence from the factors of both sides."""
    scale_p = factor_of_definite(p.cov, xp=xp) if p.scale is None else p.scale
    return FROM_FACTORS[p.kind, q.kind](scale_p, q.scale, xp=xp)


def from_whitened(w: Array, *, xp: Any) -> Array:
    """Divergence of N(0, I + W) from N(0, I)."""
    eye = xp.astype(eye_mask(w.shape[-1], w, xp=xp), w.dtype)
    return _from_pivots(w, cholesky(eye + w, xp=xp), xp=xp)


def _from_pivots(w: Array, factor: Array, *, xp: Any) -> Array:
    """Half the sum of u_j - log1p(u_j) and of M_ij^2 below the diagonal, for I + W = M M^T.

    The pivots are 1 + u_j = M_jj^2, and u_j is taken from W itself.
    """
    below = _below(factor * factor, xp=xp)
    rows = total(below, xp=xp)
    pivots = xp.linalg.diagonal(w) - rows
    return 0.5 * (total(excess(pivots, xp=xp), xp=xp) + total(rows, xp=xp))


def mean_part(delta: Array, q: Side, *, xp: Any) -> Array:
    """Half the squared length of the difference of the means, whitened by q."""
    if q.kind == "std":
        return _scaled_mean_part(delta, q.scale, xp=xp)
    return _mean_part(q.scale, delta, xp=xp)


def covariance(side: Side, *, xp: Any) -> exact.Pair:
    """The covariance of a side to about twice the precision of the dtype, whatever it was made from."""
    zero = _zero(side, xp=xp)
    return functools.reduce(exact.plus, exact.TERMS[side.keyword](*side.arrays, xp=xp), (zero, zero))


def _zero(side: Side, *, xp: Any) -> Array:
    """Matrices of zeros for the batch of a side."""
    if side.kind == "std":
        return xp.zeros_like(side.scale[..., :, None] * side.scale[..., None, :])
    return xp.zeros_like(side.arrays[0] if side.cov is None else side.cov)


# A precision beside anything else. With one that is R R^T, the covariance S of the other side is compared without
# inverting either: S R R^T - I is small where they are near, and R^T (S R R^T - I) R^-T is what S is in coordinates in
# which the precision is the identity, less the identity.


def whitened_by_precision(side: Side, precision: Array, root: Array, *, xp: Any) -> Array:
    """R^T cov R - I for the covariance of a side, the identity taken off before anything is rounded."""
    high, low = covariance(side, xp=xp)
    half = -xp.floor(0.5 * xp.log(xp.linalg.diagonal(high)) * (1 / math.log(2)))
    unit = exact.scaled(xp.ones_like(half), half, xp=xp)  # powers of two that make the variances about 1
    rows, columns = unit[..., :, None], unit[..., None, :]
    high, low, precision, root = (
        (high * rows) * columns,
        (low * rows) * columns,
        (precision / rows) / columns,
        root / rows,
    )
    size = precision.shape[-1]
    left, right = exact.slices(high, size, xp=xp), exact.slices(precision, size, xp=xp)
    eye = xp.astype(eye_mask(size, high, xp=xp), high.dtype)
    product = -eye, matmul(low, precision, xp=xp)
    for level in range(len(left)):
        for first in range(level + 1):
            product = exact.plus(product, matmul(left[first], transpose(right[level - first], xp=xp), xp=xp))
    high, low = product
    solved = transpose(solve_tril(root, transpose(high + low, xp=xp), xp=xp), xp=xp)
    w = matmul(transpose(root, xp=xp), solved, xp=xp)
    return w + 0.5 * (transpose(w, xp=xp) - w)


def exchanged(v: Array, *, xp: Any) -> tuple[Array, Array]:
    """W of N(0, I) in coordinates in which I + V is the identity, and whether it is near; V itself may be anything."""
    near = total_of_matrix(v * v, xp=xp) <= 1 / 9
    v = xp.where(near[..., None, None], v, 0.0)
    factor = cholesky(v + identities(v.shape[-1], v, xp=xp), xp=xp)
    return -Triangle(factor, xp=xp).congruent(v), near


def mean_part_of_precision(delta: Array, factor: Array, *, xp: Any) -> Array:
    """Half the squared length of z = R^T delta, for the Cholesky factor R of q's precision matrix."""
    z = matmul(transpose(factor, xp=xp), delta[..., None], xp=xp)[..., 0]
    return half_square_total(z, xp=xp)


# What a user may give, made ready. What is not valid becomes NaN in its own element of the batch.


def symmetric(matrix: Array, tolerance: float, *, xp: Any) -> Array:
    """The matrix itself, its rounding-level asymmetry averaged; NaN if it is not symmetric."""
    other = transpose(matrix, xp=xp)
    size = xp.sqrt(xp.abs(xp.linalg.diagonal(matrix)))
    allowed = tolerance * size[..., :, None] * size[..., None, :]
    valid = xp.all(xp.abs(matrix - other) <= allowed, axis=(-2, -1))
    return nan_unless(valid[..., None, None], matrix + 0.5 * (other - matrix), xp=xp)


def lower_factor(factor: Array, *, xp: Any) -> Array:
    """The factor with a positive diagonal (columns flipped); NaN if something stands above its diagonal."""
    above = transpose(below_mask(factor, xp=xp), xp=xp)
    valid = ~xp.any(above & (factor != 0), axis=(-2, -1))
    sign = 1 - 2 * xp.astype(xp.linalg.diagonal(factor) < 0, factor.dtype)
    return nan_unless(valid[..., None, None], xp.where(above, 0.0, factor) * sign[..., None, :], xp=xp)


def positive(spread: Array, *, xp: Any) -> Array:
    """The spread itself; NaN where it is zero or negative."""
    return nan_unless(spread > 0, spread, xp=xp)


def factor_of_precision(precision: Array, *, xp: Any) -> Array:
    """Lower factor L of the covariance: precision = U U^T with U upper triangular, L = U^-T."""
    upper = xp.flip(factor_of_definite(xp.flip(precision, axis=(-2, -1)), xp=xp), axis=(-2, -1))
    identity = xp.astype(eye_mask(upper.shape[-1], upper, xp=xp), upper.dtype)
    return solve_tril(transpose(upper, xp=xp), identity, xp=xp)


def covariance_of_low_rank(factor: Array, diagonal: Array, *, xp: Any) -> Array:
    """factor @ factor^T + diag(diagonal), rounded once."""
    zero = xp.zeros_like(factor[..., :, :1] * diagonal[..., None, :])
    high, low = functools.reduce(exact.plus, exact.TERMS["low_rank"](factor, diagonal, xp=xp), (zero, zero))
    return high + low
