"""Spread part of the divergence when at least one side has a full covariance matrix.

The same law as in ``_formulas``: pure array-API formulas, no decision on values. A side of a pair is a kind and
its array: ``tril`` (lower triangular factor, positive diagonal), ``std`` (diagonal), ``cov`` or ``low_rank``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ._formulas import excess, half_square, std_spread
from ._linalg import (
    below_mask,
    cholesky,
    eye_mask,
    flat,
    half_square_total,
    matmul,
    nan_unless,
    total,
    total_of_matrix,
    transpose,
)
from ._triangular import Triangle, solve_tril

Array = Any


# From factors: E = L_q^-1 (L_p - L_q), the subtraction before the solve; z = L_q^-1 (mean_p - mean_q).


def tril_tril(factor_p: Array, triangle: Triangle, delta: Array = None, *, xp: Any) -> Array:
    """Sum of G(L_p,ii, L_q,ii) + E_ii^2/2 over the diagonal, of E_ij^2/2 below it, and of z_i^2/2."""
    factor_q = triangle.factor
    diagonal_p, diagonal_q = xp.linalg.diagonal(factor_p), xp.linalg.diagonal(factor_q)
    close = (diagonal_p <= 2 * diagonal_q) & (diagonal_q <= 2 * diagonal_p)
    difference = factor_p - xp.where(close[..., None, :], factor_q, 0.0)
    below = [flat(_below(columns, xp=xp), xp=xp) for columns in _solved_columns(triangle, difference)]
    off = half_square_total(xp.concat(below, axis=-1), xp=xp)
    return _diagonal_part(diagonal_p, diagonal_q, xp=xp) + off + _mean_part(triangle, delta, xp=xp)


def tril_std(factor_p: Array, std_q: Array, delta: Array = None, *, xp: Any) -> Array:
    """A factor against a diagonal: E_ij = L_p,ij / s_q,i, without a matrix for the diagonal."""
    off = half_square(_below(factor_p, xp=xp), std_q[..., :, None], xp=xp)
    return std_std(xp.linalg.diagonal(factor_p), std_q, delta, xp=xp) + total_of_matrix(off, xp=xp)


def std_tril(std_p: Array, triangle: Triangle, delta: Array = None, *, xp: Any) -> Array:
    """A diagonal against a factor: E_ij = (L_q^-1)_ij s_p,j, which needs q's inverse factor alone."""
    diagonal_q = xp.linalg.diagonal(triangle.factor)
    eye = eye_mask(diagonal_q.shape[-1], diagonal_q, xp=xp)
    solved = _solved_columns(triangle, xp.where(eye, diagonal_q[..., None], 0.0))
    columns = [total(transpose(_below(x * x, xp=xp), xp=xp), xp=xp) for x in solved]
    columns = xp.concat(columns, axis=-1)
    off = xp.where(columns > 0, half_square(std_p, diagonal_q, xp=xp) * columns, columns)
    return _diagonal_part(std_p, diagonal_q, xp=xp) + total(off, xp=xp) + _mean_part(triangle, delta, xp=xp)


def std_std(std_p: Array, std_q: Array, delta: Array = None, *, xp: Any) -> Array:
    """Both diagonal."""
    return _diagonal_part(std_p, std_q, xp=xp) + _scaled_mean_part(delta, std_q, xp=xp)


FROM_FACTORS: dict[tuple[str, str], Callable[..., Array]] = {
    ("tril", "tril"): tril_tril,
    ("tril", "std"): tril_std,
    ("std", "tril"): std_tril,
    ("std", "std"): std_std,
}


def _diagonal_part(std_p: Array, std_q: Array, *, xp: Any) -> Array:
    return total(std_spread(std_p, std_q, xp=xp), xp=xp)


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
    """cov_p - cov_q, where at least one side has its covariance: what is left when the other one is taken off."""
    if p.cov is None or (p.keyword == "low_rank" and q.keyword == "cov"):
        return -MINUS[p.keyword](q.cov, *p.arrays, xp=xp)
    return MINUS[q.keyword](p.cov, *q.arrays, xp=xp)


def whitened(difference: Array, q: Side, *, xp: Any) -> Array:
    """W, the difference of the covariances in coordinates in which q's covariance is the identity."""
    if q.kind == "std":
        return difference / q.scale[..., :, None] / q.scale[..., None, :]
    return q.scale.congruent(difference)


def is_near(w: Array, *, xp: Any) -> Array:
    """Whether the Frobenius norm of W is at most 1/2; if W has a block of which this is not so, it is not so of W."""
    return total_of_matrix(w * w, xp=xp) <= 0.25


def from_covariances(p: Side, q: Side, *, xp: Any) -> Array:
    """Spread part of the divergence: of near elements from the pivots of I + W, of others from both sides' factors.

    One factorisation serves both: of I + W where that is near, of cov_p elsewhere. What is not wanted is replaced by
    the identity, so that nothing bad can come of it.
    """
    w = whitened(difference(p, q, xp=xp), q, xp=xp)
    near = is_near(w, xp=xp)
    chosen = near[..., None, None]
    eye = xp.astype(eye_mask(w.shape[-1], w, xp=xp), w.dtype)

    w = xp.where(chosen, w, 0.0)
    factor = cholesky(xp.where(chosen, eye + w, eye if p.cov is None else p.cov), xp=xp)
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
    scale_p = cholesky(p.cov, xp=xp) if p.scale is None else p.scale
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


# What is left of a covariance when another one, given in another way, is taken off: products without rounding.


def _slices(x: Array, terms: int, *, xp: Any) -> list[Array]:
    """Split ``x`` row by row into parts so short that sums of ``terms`` products of two parts are exact.

    Together the parts hold twice the digits of the dtype, counted from the largest entry of a row.
    """
    digits = {64: 53, 32: 24}[xp.finfo(x.dtype).bits]
    width = (digits - math.ceil(math.log2(terms))) // 2 - 1
    parts = []
    for _ in range(math.ceil(2 * digits / width)):
        largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
        shift = largest * (1.5 * 2.0 ** (digits - width))
        part = (x + shift) - shift
        parts.append(part)
        x = x - part
    return parts


def minus_product(cov: Array, factor: Array, *, xp: Any) -> Array:
    """cov - factor @ factor^T, the large products first, to about twice the precision of the dtype."""
    parts = _slices(factor, factor.shape[-1], xp=xp)
    for level in range(len(parts)):
        for first in range(level // 2 + 1):
            product = matmul(parts[first], transpose(parts[level - first], xp=xp), xp=xp)
            cov = cov - product
            if level > 2 * first:
                cov = cov - transpose(product, xp=xp)
    return cov


def minus_std(cov: Array, std: Array, *, xp: Any) -> Array:
    """cov - diag(std^2), with exact squares: on the diagonal, products of matrices of one number."""
    diagonal = minus_product(xp.linalg.diagonal(cov)[..., None, None], std[..., None, None], xp=xp)
    return _with_diagonal(cov, diagonal[..., 0, 0], xp=xp)


def minus_var(cov: Array, var: Array, *, xp: Any) -> Array:
    """cov - diag(var)."""
    return _with_diagonal(cov, xp.linalg.diagonal(cov) - var, xp=xp)


def _with_diagonal(matrix: Array, diagonal: Array, *, xp: Any) -> Array:
    return xp.where(eye_mask(matrix.shape[-1], matrix, xp=xp), diagonal[..., None], matrix)


MINUS: dict[str, Callable[..., Array]] = {
    "cov": lambda cov, other, *, xp: cov - other,
    "tril": minus_product,
    "std": minus_std,
    "var": minus_var,
    "log_std": lambda cov, log_std, *, xp: minus_var(cov, xp.exp(2 * log_std), xp=xp),
    "log_var": lambda cov, log_var, *, xp: minus_var(cov, xp.exp(log_var), xp=xp),
    "low_rank": lambda cov, factor, diagonal, *, xp: minus_product(minus_var(cov, diagonal, xp=xp), factor, xp=xp),
}


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
    upper = xp.flip(cholesky(xp.flip(precision, axis=(-2, -1)), xp=xp), axis=(-2, -1))
    identity = xp.astype(eye_mask(upper.shape[-1], upper, xp=xp), upper.dtype)
    return solve_tril(transpose(upper, xp=xp), identity, xp=xp)


def covariance_of_low_rank(factor: Array, diagonal: Array, *, xp: Any) -> Array:
    """factor @ factor^T + diag(diagonal)."""
    return minus_var(matmul(factor, transpose(factor, xp=xp), xp=xp), -diagonal, xp=xp)
