r"""Divergence of N(mean_p, F_p F_p^T + diag(c_p)) from N(mean_q, F_q F_q^T + diag(c_q)) in O(d r^2).

The same law as in ``diagonal``. The determinant lemma and the Woodbury identity as they stand subtract large
numbers; here everything happens in a basis in which q is the identity, and only small differences remain:

* Divide by the root of c_q and let A = Q R be q's factor. S = I + Q (N - I) Q^T with N N^T = I + R R^T is a square
  factor of q. With x = (c_p - c_q)/c_q, which is given beside c because that may have been rounded, and
  D = S^-1 (F_p - F_q)/root, p becomes diag(1 + x) + V Theta V^T, where V is an orthonormal basis of [Q, x Q, D].
* Near q: with y the coordinates along V, and all others together called "rest", the divergence is that of the
  marginals of y, plus that of diag(1 + x) and I on the rest, plus what the two parts know of each other.
* Elsewhere: the determinant lemma, whose rounding no longer matters, with the projections still taken first.

Both cases are 0 for equal arguments. The gradient is in closed form, from differences as well.
"""

from __future__ import annotations

from typing import Any

from .._arrays.derivatives.differentiable import with_gradient
from .._arrays.linalg import (
    beside,
    cholesky,
    eye_mask,
    identities,
    matmul,
    nan_unless,
    qr,
    total,
    total_of_matrix,
    transpose,
)
from .._arrays.namespace import device_of
from .._arrays.triangular import factor_of_definite, solve_tril
from .dense import from_whitened
from .diagonal import excess, var_spread

Array = Any


def _divergence(
    mean_p: Array, f_p: Array, c_p: Array, mean_q: Array, f_q: Array, c_q: Array, x: Array, *, xp: Any
) -> Array:
    root = xp.sqrt(c_q)
    basis, r = qr(f_q / root[..., None], xp=xp)
    n = _factor_plus_identity(r, xp=xp)
    change = (f_p - f_q) / root[..., None]
    inside, outside = _split(basis, change, xp=xp)
    of_q = _empty(f_p, xp=xp)  # columns that change by one of q's, nothing of which is across q's basis
    outside = xp.where(of_q, 0.0, outside)
    shrunk = solve_tril(n, inside, xp=xp)

    delta = ((mean_p - mean_q) / root)[..., None]
    along, across = _split(basis, delta, xp=xp)
    mean_part = 0.5 * (_square(across, xp=xp) + _square(solve_tril(n, along, xp=xp), xp=xp))
    mean_part = xp.where(xp.any(xp.abs(delta) == xp.inf, axis=(-2, -1)), xp.inf, mean_part)

    little = xp.abs(x) <= 0.5
    diagonal = xp.where(little, 0.5 * excess(xp.where(little, x, 0.0), xp=xp), var_spread(c_p, c_q, xp=xp))
    near, close = _near(x, basis, r, n, outside + matmul(basis, shrunk, xp=xp), diagonal, xp=xp)
    far = _far(c_p / c_q, basis, r, n, outside, inside, f_p / root[..., None], diagonal, xp=xp)
    value = mean_part + xp.where(near, close, far)
    eps = float(xp.finfo(value.dtype).eps)
    noise = _square(4 * eps * xp.where(of_q, 0.0, change), xp=xp)  # what rounding alone leaves across the basis
    return nan_unless(~(noise > eps**0.5 * value), value, xp=xp)


def _empty(factor: Array, *, xp: Any) -> Array:
    """Which columns are 0."""
    return xp.all(factor == 0, axis=-2, keepdims=True)


def _near(
    x: Array, basis: Array, r: Array, n: Array, change: Array, diagonal: Array, *, xp: Any
) -> tuple[Array, Array]:
    """Whether p is near q, and the divergence if it is."""
    v, _ = qr(beside(basis, x[..., None] * basis, change, xp=xp), xp=xp)
    identity = xp.astype(eye_mask(v.shape[-1], v, xp=xp), v.dtype)

    inside, outside = _split(basis, v, xp=xp)
    pulled = outside + matmul(basis, solve_tril_transposed(n, inside, xp=xp), xp=xp)
    a = matmul(transpose(inside, xp=xp), solve_tril(n, r, xp=xp), xp=xp)
    b = matmul(transpose(v, xp=xp), change, xp=xp)
    cross = matmul(a, transpose(b, xp=xp), xp=xp)
    w_y = _gram(pulled, x, xp=xp) + cross + transpose(cross, xp=xp) + matmul(b, transpose(b, xp=xp), xp=xp)
    near = total_of_matrix(w_y * w_y, xp=xp) <= 0.25
    w_y = xp.where(near[..., None, None], w_y, 0.0)
    marginal = from_whitened(w_y, xp=xp)
    if v.shape[-1] == v.shape[-2]:
        return near, marginal

    ratio = x / (1 + x)
    w_rest = -_gram(v, ratio, xp=xp)
    rest = total(diagonal - 0.5 * total(v * v, xp=xp) * x * ratio, xp=xp) + from_whitened(w_rest, xp=xp)
    factor = cholesky(identity + w_rest, xp=xp)
    shift = solve_tril_transposed(factor, solve_tril(factor, w_rest, xp=xp), xp=xp)
    lost = (x[..., None] * v + matmul(v, shift, xp=xp)) / xp.sqrt(1 + x)[..., None]
    psi = solve_tril(cholesky(identity + w_y, xp=xp), transpose(lost, xp=xp), xp=xp)
    near = near & (_square(psi, xp=xp) <= 0.5)
    psi = xp.where(near[..., None, None], psi, 0.0)
    return near, marginal + xp.maximum(rest, xp.zeros_like(rest)) + _minus_half_log_det(psi, xp=xp)


def _minus_half_log_det(psi: Array, *, xp: Any) -> Array:
    """-log det(I - psi psi^T)/2 from the pivots."""
    gram = matmul(psi, transpose(psi, xp=xp), xp=xp)
    eye = eye_mask(gram.shape[-1], gram, xp=xp)
    factor = cholesky(xp.where(eye, 1 - gram, -gram), xp=xp)
    below = total(xp.where(eye, 0.0, factor * factor), xp=xp)
    return -0.5 * total(xp.log1p(-(xp.linalg.diagonal(gram) + below)), xp=xp)


def _far(
    variance: Array,
    basis: Array,
    r: Array,
    n: Array,
    outside: Array,
    inside: Array,
    f_p: Array,
    diagonal: Array,
    *,
    xp: Any,
) -> Array:
    """Determinant lemma, with p's factor split into its parts along and across q's."""
    weighted = transpose(xp.sqrt(variance)[..., None] * basis, xp=xp)
    trace = (
        _square(solve_tril(n, weighted, xp=xp), xp=xp)
        + _square(outside, xp=xp)
        + _square(solve_tril(n, inside + r, xp=xp), xp=xp)
    )
    scaled = f_p / xp.sqrt(variance)[..., None]
    _, small = qr(scaled, xp=xp)
    log_det = _log_det(n, xp=xp) - _log_det(_factor_plus_identity(small, xp=xp), xp=xp)
    whole = total(diagonal, xp=xp)
    across = total(_across(variance, basis, diagonal, xp=xp), xp=xp)
    return xp.where(whole == xp.inf, whole, across + 0.5 * trace + log_det)


def _across(variance: Array, basis: Array, diagonal: Array, *, xp: Any) -> Array:
    """What each dimension contributes across the basis: ``diagonal`` less variance/2 times its share in the basis.

    Of r dimensions that share may be all but nothing less than 1. For the 2 r of the largest shares, what is left of 1
    is the square of what is left of the dimension's unit vector, and is multiplied as it is.
    """
    inside = total(basis * basis, xp=xp)
    d, rank = basis.shape[-2], basis.shape[-1]
    most = xp.argsort(inside, axis=-1)
    if 2 * rank < d:
        most = most[..., d - 2 * rank :]
    index = xp.arange(d, device=device_of(basis, xp=xp))
    units = index[:, None] == most[..., None, :]
    unit = xp.astype(units, basis.dtype)
    _, outside = _split(basis, unit, xp=xp)
    left = matmul(unit, total(transpose(outside * outside, xp=xp), xp=xp)[..., None], xp=xp)[..., 0]
    one_by_one = 0.5 * (variance * left - 1 - xp.log(variance))
    return xp.where(xp.any(units, axis=-1), one_by_one, diagonal - 0.5 * variance * inside)


def _factor_plus_identity(r: Array, *, xp: Any) -> Array:
    """Lower N with N N^T = I + R R^T, from an orthogonal factorisation, so that nothing is squared."""
    identity = identities(r.shape[-2], r, xp=xp)
    _, upper = qr(xp.concat([transpose(r, xp=xp), identity], axis=-2), xp=xp)
    return transpose(upper, xp=xp)


def _log_det(factor: Array, *, xp: Any) -> Array:
    return total(xp.log(xp.abs(xp.linalg.diagonal(factor))), xp=xp)


def _split(basis: Array, x: Array, *, xp: Any) -> tuple[Array, Array]:
    """Coordinates of ``x`` along an orthonormal basis, and what is left of it across the basis.

    Taken off twice: the first time leaves the rounding of the largest coordinates in every other one.
    """
    inside = matmul(transpose(basis, xp=xp), x, xp=xp)
    outside = x - matmul(basis, inside, xp=xp)
    again = matmul(transpose(basis, xp=xp), outside, xp=xp)
    return inside + again, outside - matmul(basis, again, xp=xp)


def _gram(v: Array, weight: Array, *, xp: Any) -> Array:
    """V^T diag(weight) V, symmetric to the last bit."""
    product = matmul(transpose(v, xp=xp), weight[..., None] * v, xp=xp)
    return product + 0.5 * (transpose(product, xp=xp) - product)


def _square(x: Array, *, xp: Any) -> Array:
    return total_of_matrix(x * x, xp=xp)


def solve_tril_transposed(factor: Array, b: Array, *, xp: Any) -> Array:
    """Solve factor^T @ x = b for a lower triangular factor, by turning both upside down."""
    lower = xp.flip(transpose(factor, xp=xp), axis=(-2, -1))
    return xp.flip(solve_tril(lower, xp.flip(b, axis=-2), xp=xp), axis=-2)


def mass(f_p: Array, f_q: Array, c_q: Array, x: Array, *, xp: Any) -> Array:
    """What the diagonals and the factors would contribute each without the other: rounding is eps of that.

    A change D of the factor changes the covariance by A D^T + D A^T + D D^T, with A at most 1.
    """
    root = xp.sqrt(c_q)[..., None]
    basis, r = qr(f_q / root, xp=xp)
    inside, outside = _split(basis, (f_p - f_q) / root, xp=xp)
    n = _factor_plus_identity(r, xp=xp)
    square = _square(outside, xp=xp) + _square(solve_tril(n, inside, xp=xp), xp=xp)
    size = _square(solve_tril(n, r, xp=xp), xp=xp) / f_q.shape[-1]
    of_both = square * (xp.where(size < 1, size, 1.0) + 0.25 * square)
    return total(0.5 * excess(x, xp=xp), xp=xp) + xp.where(square < 2, of_both, square)


# The gradient: with H = cov^-1 F, from cov_p - cov_q = diag(c_p - c_q) + (F_p - F_q) F_p^T + F_q (F_p - F_q)^T.


def _gradient(
    mean_p: Array, f_p: Array, c_p: Array, mean_q: Array, f_q: Array, c_q: Array, x: Array, *, xp: Any
) -> tuple[Array, ...]:
    change, gap = f_p - f_q, x * c_q
    u_p, h_p, _ = _inverse(f_p, c_p, xp=xp)
    u_q, h_q, left_q = _inverse(f_q, c_q, xp=xp)
    same = xp.sort(x, axis=-1)[..., x.shape[-1] // 2, None]

    def solve(u: Array, c: Array, v: Array) -> Array:
        return v / c[..., None] - matmul(u, matmul(transpose(u, xp=xp), v, xp=xp), xp=xp)

    def times(a: Array, b: Array, v: Array) -> Array:
        return matmul(a, matmul(transpose(b, xp=xp), v, xp=xp), xp=xp)

    def of_factor(h: Array) -> Array:
        return solve(u_q, c_q, gap[..., None] * h + times(change, f_p, h)) + times(h_q, change, h)

    def of_own_factor() -> Array:
        """``of_factor(h_q)``, where what is the same in all of x cancels from 1/c down to 1."""
        other = (x - same)[..., None] * c_q[..., None] * h_q + times(change, f_p, h_q)
        return same[..., None] * matmul(h_q, left_q, xp=xp) + solve(u_q, c_q, other) + times(h_q, change, h_q)

    def of_diagonal(u: Array, c: Array, of_f_p: Array) -> Array:
        middle = matmul(transpose(u_q, xp=xp), gap[..., None] * u, xp=xp)
        own = (1 / c_q - total(u_q * u_q, xp=xp)) * gap / c - gap / c_q * total(u * u, xp=xp)
        both = total(matmul(u_q, middle, xp=xp) * u, xp=xp)
        first = total(across * of_f_p, xp=xp)
        return own + both + first + total(h_q * solve(u, c, change), xp=xp)

    delta = (mean_p - mean_q)[..., None]
    across = xp.where(_empty(f_p, xp=xp), -h_q, solve(u_q, c_q, change))
    pull = solve(u_q, c_q, delta)
    along = times(pull, delta, h_q)
    pull = pull[..., 0]
    return (
        pull,
        of_factor(h_p),
        0.5 * of_diagonal(u_p, c_p, h_p),
        -pull,
        -(of_own_factor() + along),
        -0.5 * (of_diagonal(u_q, c_q, h_q + across) + pull * pull),
        xp.zeros_like(gap),
    )


def _inverse(factor: Array, diagonal: Array, *, xp: Any) -> tuple[Array, Array, Array]:
    """U, H and L with cov^-1 = diag(1/c) - U U^T, H = cov^-1 F and L = I - F^T H."""
    root = xp.sqrt(diagonal)[..., None]
    scaled = factor / root
    identity = identities(scaled.shape[-1], scaled, xp=xp)
    orthonormal, _ = qr(xp.concat([scaled, identity], axis=-2), xp=xp)
    size = diagonal.shape[-1]
    u = orthonormal[..., :size, :] / root
    below = orthonormal[..., size:, :]
    return u, matmul(u, transpose(below, xp=xp), xp=xp), matmul(below, transpose(below, xp=xp), xp=xp)


low_rank = with_gradient(_gradient, event_axes=(1, 2, 1, 1, 2, 1, 1))(_divergence)


# Where a dimension has little variance of its own, c_i << cov_ii, to divide by the root of c loses root(cov_ii/c_i)
# ulps, and more beside an equal covariance whose c_i is another. The covariance itself loses nothing there, but as many
# ulps as one over the variance that the dimensions before leave of one.


def least_shares(factor: Array, diagonal: Array, *, xp: Any) -> tuple[Array, Array]:
    """The least c_i/cov_ii, and whether the covariance may keep digits that this loses.

    It cannot where more than r dimensions have little variance of their own: of r + 1 of them, r columns leave one
    direction without variance.
    """
    shares = xp.sort(diagonal / (diagonal + total(factor * factor, xp=xp)), axis=-1)
    least, next_one = shares[..., 0], shares[..., factor.shape[-1]]
    return least, (least < 2.0**-8) & (next_one > xp.sqrt(least))


def least_variance_left(factor: Array, diagonal: Array, *, xp: Any) -> Array:
    """The least share of its variance that the dimensions before it leave of a dimension."""
    root = xp.sqrt(diagonal + total(factor * factor, xp=xp))
    scaled, shares = factor / root[..., None], diagonal / (root * root)
    matrix = matmul(scaled, transpose(scaled, xp=xp), xp=xp)
    eye = eye_mask(matrix.shape[-1], matrix, xp=xp)
    pivots = xp.linalg.diagonal(factor_of_definite(xp.where(eye, matrix + shares[..., None], matrix), xp=xp))
    return xp.min(pivots * pivots, axis=-1)
