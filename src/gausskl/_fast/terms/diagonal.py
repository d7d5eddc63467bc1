"""The diagonal formulas and their gradients for a vector of dimensions at a time, without a branch.

The same mathematics as ``_formulas/diagonal.py``, with G and psi in a form that needs no logarithm: a power of two is
taken out of the argument, and what remains is summed as a series. It is exact to a few units in the last place while
every ratio, scale and logarithm stays in a wide range. Each formula returns, beside its values, integers that are
negative or huge as soon as a number leaves that range, is not positive, or is NaN; the rows in question are computed by
``_formulas/diagonal.py`` instead.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._formulas.series import ATANH_TAIL_NARROW, EXPM1_TAIL, EXPM1_TAIL_NARROW
from .operations import fma, polynomial, where

if TYPE_CHECKING:
    from ..cpu.simd.lanes import Lanes

LN2_HIGH = float.fromhex("0x1.62e42fefa3800p-1")  # its last bits are 0: times a small integer it is exact
LN2_LOW = float.fromhex("0x1.ef35793c76730p-45")
LN2_HIGH_32 = float.fromhex("0x1.62e400p-1")
LN2_LOW_32 = float.fromhex("0x1.7f7d1cp-20")


class Precision(NamedTuple):
    """The numbers that depend on the float format."""

    mantissa: int  # bits of the mantissa that are stored
    magic: float  # added to a small integer, it leaves that integer in the last bits
    ln2: tuple[float, float]
    lowest: float  # spreads and their ratios lie between this and its reciprocal
    largest: float  # size of a logarithm


PRECISION = {
    64: Precision(52, 1.5 * 2.0**52, (LN2_HIGH, LN2_LOW), 2.0**-512, 690.0),
    32: Precision(23, 1.5 * 2.0**23, (LN2_HIGH_32, LN2_LOW_32), 2.0**-64, 80.0),
}


def _integer(number: float, bits: int) -> int:
    """The bits of a float, as an integer."""
    floats, integers = {64: ("<d", "<q"), 32: ("<f", "<i")}[bits]
    return int(struct.unpack(integers, struct.pack(floats, number))[0])


# What is out of range: integers whose two top bits are not both 0.


def outside(x: Lanes) -> Lanes:
    """Marks anything but a positive number between the lowest one and its reciprocal."""
    return x.as_integers() - _integer(PRECISION[x.bits].lowest, x.bits)


def _too_large(x: Lanes) -> Lanes:
    """Marks logarithms that are too large, of either sign, and NaN."""
    size = x.as_integers() & (2 ** (x.bits - 1) - 1)
    left: Lanes = _integer(PRECISION[x.bits].largest, x.bits) - size
    return left >> (x.bits - 1)


# The two functions.


TWICE_ATANH_TAIL = {bits: tuple(2 * c for c in tail) for bits, tail in ATANH_TAIL_NARROW.items()}


def gap(x: Lanes, ratio: Lanes) -> Lanes:
    """G(a, b) from x = (a - b)/b and ratio = a/b = 2^e m, sqrt(1/2) <= m < sqrt(2).

    With y = m - 1 it is (x - y - e ln(2)) + (y - log1p(y)). Unless e < -1, where 1 + x has lost its digits, the first
    part is (1 - 2^-e) x + (1 - 2^-e - e ln(2)), in which nothing is rounded that cancels. Below 1/2, ratio - 1 is the
    better x, because its error is the one that y has too.
    """
    bits = x.bits
    mantissa, magic, (ln2_high, ln2_low), *_ = PRECISION[bits]
    e = (ratio.as_integers() - _integer(math.sqrt(0.5), bits)) >> mantissa
    power = (e + _integer(magic, bits)).as_floats() - magic
    scale = ((_integer(1.0, bits) >> mantissa) - e << mantissa).as_floats()
    x = where(ratio.as_integers().at_least(_integer(0.5, bits)), x, ratio - 1.0)
    precise = e.at_least(-1)
    less = where(precise, scale - 1.0, -1.0)
    y = fma(scale, where(precise, x, ratio), less)
    s = y / (2.0 + y)
    z = s * s
    constant = fma(-power, ln2_high, -where(precise, less, y))
    first = fma(-power, ln2_low, fma(-less, x, constant))
    return fma(s, fma(-z, polynomial(TWICE_ATANH_TAIL, z), y), first)


def power_of_two(t: Lanes) -> tuple[Lanes, Lanes]:
    """t/ln(2) to the nearest integer k, and 2^k."""
    bits = t.bits
    mantissa, magic, *_ = PRECISION[bits]
    shifted = fma(t, 1 / math.log(2), magic)
    exponent = shifted.as_integers() - (_integer(magic, bits) - _integer(1.0, bits) // 2**mantissa)
    return shifted - magic, (exponent << mantissa).as_floats()


def _less_ln2(t: Lanes, k: Lanes) -> Lanes:
    """t - k ln(2)."""
    high, low = PRECISION[t.bits].ln2
    return fma(-k, low, fma(-k, high, t))


def _expm1(t: Lanes) -> tuple[Lanes, Lanes]:
    """expm1(t), and psi(t) = expm1(t) - t."""
    near = t.at_most(1.0)
    k, scale = power_of_two(t)
    r = where(near, t, _less_ln2(t, k))
    tail = r * r * polynomial(EXPM1_TAIL, r)
    far = fma(scale, r + tail, scale - 1.0)
    return where(near, t + tail, far), where(near, tail, far - t)


def exp(t: Lanes) -> Lanes:
    k, scale = power_of_two(t)
    r = _less_ln2(t, k)
    return fma(scale, fma(r * r, polynomial(EXPM1_TAIL_NARROW, r), r), scale)


def _difference(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """a - b as a rounded difference and its rounding error (Knuth's two-difference)."""
    t = a - b
    back = a - t
    return t, (a - (t + back)) + (back - b)


# One term per dimension, and what is out of range.


def std(mean_p: Lanes, std_p: Lanes, mean_q: Lanes, std_q: Lanes) -> tuple[Lanes, Lanes]:
    """G(s_p, s_q) + (t^2 + z^2)/2, t = (s_p - s_q)/s_q, z = (m_p - m_q)/s_q."""
    inverse = 1.0 / std_q
    t, z, ratio = (std_p - std_q) * inverse, (mean_p - mean_q) * inverse, std_p * inverse
    return fma(0.5, fma(z, z, t * t), gap(t, ratio)), outside(ratio) | outside(std_q)


def std_gradient(mean_p: Lanes, std_p: Lanes, mean_q: Lanes, std_q: Lanes) -> tuple[Lanes, ...]:
    """Partial derivatives of :func:`std`."""
    inverse = 1.0 / std_q
    t, z = (std_p - std_q) * inverse, (mean_p - mean_q) * inverse
    pull = z * inverse
    return pull, t * ((2.0 + t) / std_p), -pull, -fma(t, (2.0 + t) * inverse, z * pull)


def std_standard(mean: Lanes, std: Lanes) -> tuple[Lanes, Lanes]:
    """:func:`std` against N(0, 1)."""
    t = std - 1.0
    return fma(0.5, fma(mean, mean, t * t), gap(t, std)), outside(std)


def std_standard_gradient(mean: Lanes, std: Lanes) -> tuple[Lanes, ...]:
    """Partial derivatives of :func:`std_standard`."""
    t = std - 1.0
    return mean, t * ((2.0 + t) / std)


def var(mean_p: Lanes, var_p: Lanes, mean_q: Lanes, var_q: Lanes) -> tuple[Lanes, Lanes]:
    """(G(v_p, v_q) + (m_p - m_q)^2/v_q)/2."""
    inverse = 1.0 / var_q
    delta, ratio = mean_p - mean_q, var_p * inverse
    x, error = (var_p - var_q) * inverse, fma(-inverse, var_q, 1.0)  # without a square beside it, G has to be better
    excess = gap(fma(x, error, x), fma(ratio, error, ratio))
    return 0.5 * fma(delta, delta * inverse, excess), outside(ratio) | outside(var_q)


def var_gradient(mean_p: Lanes, var_p: Lanes, mean_q: Lanes, var_q: Lanes) -> tuple[Lanes, ...]:
    """Partial derivatives of :func:`var`."""
    inverse = 1.0 / var_q
    x, pull = (var_p - var_q) * inverse, (mean_p - mean_q) * inverse
    return pull, 0.5 * x / var_p, -pull, -0.5 * fma(pull, pull, x * inverse)


def var_standard(mean: Lanes, var: Lanes) -> tuple[Lanes, Lanes]:
    """:func:`var` against N(0, 1)."""
    return 0.5 * fma(mean, mean, gap(var - 1.0, var)), outside(var)


def var_standard_gradient(mean: Lanes, var: Lanes) -> tuple[Lanes, ...]:
    """Partial derivatives of :func:`var_standard`."""
    return mean, 0.5 * (var - 1.0) / var


def log_var(mean_p: Lanes, log_var_p: Lanes, mean_q: Lanes, log_var_q: Lanes) -> tuple[Lanes, Lanes]:
    """(psi(l_p - l_q) + (m_p - m_q)^2 exp(-l_q))/2."""
    t, error = _difference(log_var_p, log_var_q)
    growth, psi = _expm1(t)
    delta = mean_p - mean_q
    terms = 0.5 * fma(delta, delta * exp(-log_var_q), fma(growth, error, psi))
    return terms, _too_large(t) | _too_large(log_var_q)


def log_var_gradient(mean_p: Lanes, log_var_p: Lanes, mean_q: Lanes, log_var_q: Lanes) -> tuple[Lanes, ...]:
    """Partial derivatives of :func:`log_var`."""
    t, error = _difference(log_var_p, log_var_q)
    growth, _ = _expm1(t)
    growth = growth + fma(growth, error, error)
    delta = mean_p - mean_q
    pull = delta * exp(-log_var_q)
    return pull, 0.5 * growth, -pull, -0.5 * fma(delta, pull, growth)


def log_var_standard(mean: Lanes, log_var: Lanes) -> tuple[Lanes, Lanes]:
    """:func:`log_var` against N(0, 1)."""
    _, psi = _expm1(log_var)
    return 0.5 * fma(mean, mean, psi), _too_large(log_var)


def log_var_standard_gradient(mean: Lanes, log_var: Lanes) -> tuple[Lanes, ...]:
    """Partial derivatives of :func:`log_var_standard`."""
    growth, _ = _expm1(log_var)
    return mean, 0.5 * growth


def _of_log_std(formula: Callable[..., tuple[Lanes, ...]]) -> Callable[..., tuple[Lanes, ...]]:
    """A formula of log-variances for log-standard-deviations; doubling them is exact."""

    def doubled(*arrays: Lanes) -> tuple[Lanes, ...]:
        return formula(*[2.0 * array if k % 2 else array for k, array in enumerate(arrays)])

    return doubled


def _gradient_of_log_std(gradient: Callable[..., tuple[Lanes, ...]]) -> Callable[..., tuple[Lanes, ...]]:
    doubled = _of_log_std(gradient)

    def twice(*arrays: Lanes) -> tuple[Lanes, ...]:
        return tuple(2.0 * partial if k % 2 else partial for k, partial in enumerate(doubled(*arrays)))

    return twice


class Formula(NamedTuple):
    """The terms of a pair of spreads, and their partial derivatives."""

    terms: Callable[..., Any]
    gradient: Callable[..., Any]


# By keyword, and whether the other side is the standard normal.
FORMULAS = {
    ("std", False): Formula(std, std_gradient),
    ("std", True): Formula(std_standard, std_standard_gradient),
    ("var", False): Formula(var, var_gradient),
    ("var", True): Formula(var_standard, var_standard_gradient),
    ("log_var", False): Formula(log_var, log_var_gradient),
    ("log_var", True): Formula(log_var_standard, log_var_standard_gradient),
    ("log_std", False): Formula(_of_log_std(log_var), _gradient_of_log_std(log_var_gradient)),
    ("log_std", True): Formula(_of_log_std(log_var_standard), _gradient_of_log_std(log_var_standard_gradient)),
}
