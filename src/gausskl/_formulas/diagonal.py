r"""The divergence itself: pure array-API formulas.

Every function here takes arrays and a namespace ``xp`` and returns an array. Nothing looks at a value to decide
what to do, names a library, or walks over elements; ``xp.where`` selects element by element, and whatever a
selection drops was computed from harmless inputs. All results are in nats.

Each divergence is a sum of terms that cannot be negative, and each difference is taken before anything divides
or multiplies it. Two functions carry the accuracy, G(a, b) = a/b - 1 - log(a/b) and psi(t) = expm1(t) - t: both
vanish to second order, so they are summed as series where the expression as written would cancel.
"""

from __future__ import annotations

import math
from typing import Any

from .._arrays.derivatives.differentiable import with_gradient
from .series import atanh_tail, expm1_tail, polynomial

Array = Any


# The scalar functions.


def _from_ratio(x: Array, r: Array, *, xp: Any) -> Array:
    """x - log1p(x) from x and r = x / (2 + x), |r| <= 1/2, by log1p(x) = 2 atanh(r)."""
    y = r * r
    return r * (x - 2 * y * polynomial(atanh_tail, y, xp=xp))


def _excess(x: Array, *, xp: Any) -> Array:
    """x - log1p(x) for x > -1."""
    near = (x >= -2 / 3) & (x <= 2)
    small, large = xp.where(near, x, 0.0), xp.where(near, 0.0, x)
    return xp.where(near, _from_ratio(small, small / (2 + small), xp=xp), large - xp.log1p(large))


def _excess_gradient(x: Array, *, xp: Any) -> tuple[Array]:
    return (x / (1 + x),)


excess = with_gradient(_excess_gradient)(_excess)


# Half of a power of two that brings every quotient of two positive numbers into the normal range.
SHIFT = {64: 540, 32: 80}


def gap(a: Array, b: Array, *, xp: Any) -> Array:
    """G(a, b) = a/b - 1 - log(a/b) for positive a and b; exactly 0 for a = b, infinite only on overflow."""
    return _gap((a - b) / b, a, b, xp=xp)


def _gap(x: Array, a: Array, b: Array, *, xp: Any) -> Array:
    """G(a, b) with x = (a - b)/b at hand."""
    info = xp.finfo(a.dtype)
    near = (x >= -2 / 3) & (x <= 2)
    both = a + b
    fits = both < xp.inf
    r = xp.where(fits, a - b, 0.5 * a - 0.5 * b) / xp.where(fits, both, 0.5 * a + 0.5 * b)
    close = _from_ratio(xp.where(near, x, 0.0), xp.where(near, r, 0.0), xp=xp)

    quotient = a / b
    tiny = quotient < info.smallest_normal
    scale = 2.0 ** SHIFT[info.bits]
    shifted = xp.where(tiny, (a * scale) / (b / scale), quotient)
    usable = (shifted > 0) & (shifted < xp.inf) & ~near
    log = xp.log(xp.where(usable, shifted, 1.0)) - 2 * SHIFT[info.bits] * math.log(2) * xp.astype(tiny, a.dtype)
    return xp.where(near, close, xp.where(tiny, x, quotient - 1) - log)


def expm1_gap(t: Array, *, xp: Any) -> Array:
    """psi(t) = expm1(t) - t."""
    near = xp.abs(t) <= 1
    s = xp.where(near, t, 0.0)
    return xp.where(near, s * s * polynomial(expm1_tail, s, xp=xp), xp.expm1(t) - t)


def _half_square(x: Array, scale: Array, *, xp: Any) -> Array:
    """(x / scale)^2 / 2, without overflow before the result overflows."""
    z = x / scale
    return (0.5 * z) * z


def again(quotient: Array, divisor: Array) -> Array:
    """quotient / divisor, for a quotient just formed: XLA would merge the divisors into a product that overflows."""
    return 2 * ((0.5 * quotient) / divisor)


def _half_square_gradient(x: Array, scale: Array, *, xp: Any) -> tuple[Array, Array]:
    z = x / scale
    pull = again(z, scale)
    return pull, -z * pull


half_square = with_gradient(_half_square_gradient)(_half_square)


# Diagonal against diagonal: one term per dimension.


def _where_positive(a: Array, b: Array, value: Array, *, xp: Any) -> Array:
    """NaN where a spread is zero, negative or NaN, so that a bad spread is never a plausible number."""
    return xp.where((a > 0) & (b > 0), value, xp.nan)


def _std_spread(std_p: Array, std_q: Array, *, xp: Any) -> Array:
    """Spread part of a dimension, G(s_p, s_q) + t^2/2 with t = (s_p - s_q)/s_q; s^2 is never formed."""
    t = (std_p - std_q) / std_q
    return _where_positive(std_p, std_q, _gap(t, std_p, std_q, xp=xp) + (0.5 * t) * t, xp=xp)


def _std_spread_gradient(std_p: Array, std_q: Array, *, xp: Any) -> tuple[Array, Array]:
    t = _where_positive(std_p, std_q, (std_p - std_q) / std_q, xp=xp)
    return t * ((2 + t) / std_p), -t * ((2 + t) / std_q)


std_spread = with_gradient(_std_spread_gradient)(_std_spread)


def _std_terms(mean_p: Array, std_p: Array, mean_q: Array, std_q: Array, *, xp: Any) -> Array:
    return _std_spread(std_p, std_q, xp=xp) + _half_square(mean_p - mean_q, std_q, xp=xp)


def _std_gradient(mean_p: Array, std_p: Array, mean_q: Array, std_q: Array, *, xp: Any) -> tuple[Array, ...]:
    by_p, by_q = _std_spread_gradient(std_p, std_q, xp=xp)
    z = (mean_p - mean_q) / std_q
    pull = again(z, std_q)
    return pull, by_p, -pull, by_q - z * pull


std_terms = with_gradient(_std_gradient)(_std_terms)


def var_spread(var_p: Array, var_q: Array, *, xp: Any) -> Array:
    """Spread part of a dimension, G(v_p, v_q)/2."""
    return 0.5 * _where_positive(var_p, var_q, gap(var_p, var_q, xp=xp), xp=xp)


def _var_terms(mean_p: Array, var_p: Array, mean_q: Array, var_q: Array, *, xp: Any) -> Array:
    return var_spread(var_p, var_q, xp=xp) + _half_square(mean_p - mean_q, xp.sqrt(var_q), xp=xp)


def _var_gradient(mean_p: Array, var_p: Array, mean_q: Array, var_q: Array, *, xp: Any) -> tuple[Array, ...]:
    x = _where_positive(var_p, var_q, (var_p - var_q) / var_q, xp=xp)
    std_q = xp.sqrt(var_q)
    z = (mean_p - mean_q) / std_q
    pull = again(z, std_q)
    return pull, again(0.5 * x, var_p), -pull, -(again(0.5 * x, var_q) + 0.5 * pull * pull)


var_terms = with_gradient(_var_gradient)(_var_terms)


def reach(dtype: Any, *, xp: Any) -> float:
    """Size of a logarithm whose exponential, of either sign, is a normal number of ``dtype``."""
    return -0.98 * math.log(float(xp.finfo(dtype).smallest_normal))


def within(log: Array, *, xp: Any) -> Array:
    """``log`` limited to plus or minus the reach of its dtype."""
    most = reach(log.dtype, xp=xp)
    return xp.where(log > most, most, xp.where(log < -most, -most, log))


def over_exp(delta: Array, log: Array, *, xp: Any) -> Array:
    """delta * exp(-log), in two steps where one exponential would leave the range of the dtype.

    Further out than two steps go, any delta but 0 over- or underflows when it is squared.
    """
    first = within(log, xp=xp)
    return (delta * xp.exp(-first)) * xp.exp(-within(log - first, xp=xp))


def log_ratio(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    """log_p - log_q as a rounded difference and its rounding error (Knuth's two-difference)."""
    t = log_p - log_q
    back = log_p - t
    return t, (log_p - (t + back)) + (back - log_q)


def expm1_corrected(t: Array, error: Array, *, xp: Any) -> Array:
    """expm1(t + error) to first order in the error, infinite where expm1(t) overflows."""
    growth = xp.expm1(t)
    finite = growth < xp.inf
    return growth + xp.where(finite, (1 + xp.where(finite, growth, 0.0)) * error, 0.0)


def log_spread(t: Array, error: Array, *, xp: Any) -> Array:
    """Spread part of a dimension, psi(t)/2, from the logarithm t of the ratio of variances and its rounding error."""
    growth = xp.expm1(t)
    correction = xp.where(growth < xp.inf, growth * error, 0.0)
    return 0.5 * (expm1_gap(t, xp=xp) + correction)


def _log_var_terms(mean_p: Array, log_var_p: Array, mean_q: Array, log_var_q: Array, *, xp: Any) -> Array:
    t, error = log_ratio(log_var_p, log_var_q)
    growth = xp.expm1(t)
    correction = xp.where(growth < xp.inf, growth * error, 0.0)
    z = over_exp(mean_p - mean_q, 0.5 * log_var_q, xp=xp)
    return 0.5 * (expm1_gap(t, xp=xp) + correction) + (0.5 * z) * z


def _log_var_gradient(
    mean_p: Array, log_var_p: Array, mean_q: Array, log_var_q: Array, *, xp: Any
) -> tuple[Array, ...]:
    growth = expm1_corrected(*log_ratio(log_var_p, log_var_q), xp=xp)
    z = over_exp(mean_p - mean_q, 0.5 * log_var_q, xp=xp)
    pull = over_exp(z, 0.5 * log_var_q, xp=xp)
    return pull, 0.5 * growth, -pull, -0.5 * (growth + z * z)


log_var_terms = with_gradient(_log_var_gradient)(_log_var_terms)


def log_std_terms(mean_p: Array, log_std_p: Array, mean_q: Array, log_std_q: Array, *, xp: Any) -> Array:
    """Log-variances are doubled log-standard-deviations; doubling is exact."""
    return log_var_terms(mean_p, 2 * log_std_p, mean_q, 2 * log_std_q, xp=xp)
