"""Numbers of twice the digits: each is the sum of two floats, the second one less than half a unit of the first.

The classical algorithms of Dekker and Knuth on vectors; a product is split exactly by a fused multiply-add. What is
written for :class:`~.lanes.Lanes` works for these as well, with some 32 digits instead of 16.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from ...terms.diagonal import LN2_HIGH, LN2_LOW, power_of_two
from .lanes import Lanes, fma_exact, sqrt

# The first part has so few digits that a small integer times it is exact.
LN2 = LN2_HIGH, LN2_LOW, float.fromhex("0x1.f97b57a079a19p-103")


class Wide:
    """Numbers ``high + low`` with as many lanes as one vector."""

    def __init__(self, high: Lanes, low: Lanes) -> None:
        self.high, self.low = high, low

    def __add__(self, other: Wide) -> Wide:
        high, error = _two_sum(self.high, other.high)
        low, rest = _two_sum(self.low, other.low)
        high, error = _ordered_sum(high, error + low)
        return Wide(*_ordered_sum(high, error + rest))

    def __sub__(self, other: Wide) -> Wide:
        return self + -other

    def __neg__(self) -> Wide:
        return Wide(-self.high, -self.low)

    def __mul__(self, other: Wide) -> Wide:
        product = self.high * other.high
        error = fma_exact(self.high, other.high, -product)
        error = error + (self.high * other.low + self.low * other.high)
        return Wide(*_ordered_sum(product, error))

    def __truediv__(self, other: Wide) -> Wide:
        first = self.high / other.high
        rest = self - other * of_lanes(first)
        second = rest.high / other.high
        rest = rest - other * of_lanes(second)
        high, low = _ordered_sum(first, second)
        return Wide(high, low) + of_lanes(rest.high / other.high)

    def sqrt(self) -> Wide:
        """Square root, by one step of Newton's method from that of the float."""
        root = of_lanes(sqrt(self.high))
        rest = self - root * root
        return root + of_lanes(rest.high / (2.0 * root.high))


def of_lanes(x: Lanes) -> Wide:
    """The same numbers, with nothing behind them."""
    return Wide(x, x.filled(0.0))


HALVINGS, TERMS = 6, 12


def exp(t: Lanes) -> Wide:
    """e^t = 2^k (e^s)^64, where s = (t - k ln 2)/64 is so small that a few terms of the series are enough."""
    k, scale = power_of_two(t)
    high, middle, low = LN2
    rest = of_lanes(t - high * k) - _times(k, middle) - of_lanes(low * k)
    s = Wide(rest.high * 2.0**-HALVINGS, rest.low * 2.0**-HALVINGS)
    series = _constant(t, Fraction(1, math.factorial(TERMS)))
    for n in range(TERMS - 1, 0, -1):
        series = series * s + _constant(t, Fraction(1, math.factorial(n)))
    less_one = series * s
    for _ in range(HALVINGS):
        less_one = less_one + less_one + less_one * less_one
    result = less_one + _constant(t, Fraction(1))
    return Wide(result.high * scale, result.low * scale)


def _constant(like: Lanes, value: Fraction) -> Wide:
    return Wide(like.filled(float(value)), like.filled(float(value - Fraction(float(value)))))


def _times(a: Lanes, b: float) -> Wide:
    """A product without rounding."""
    product = a * b
    return Wide(product, fma_exact(a, a.filled(b), -product))


def difference(a: Lanes, b: Lanes) -> Wide:
    """a - b without rounding."""
    return Wide(*_two_sum(a, -b))


def square(x: Lanes) -> Wide:
    """x^2 without rounding."""
    product = x * x
    return Wide(product, fma_exact(x, x, -product))


def less_product(high: Lanes, low: Lanes, a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """high + low - a b, where ``low`` takes up all that is rounded off."""
    product = a * b
    high, error = _two_sum(high, -product)
    return high, low + (error - fma_exact(a, b, -product))


def _two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """a + b as a rounded sum and its rounding error (Knuth)."""
    whole = a + b
    back = whole - a
    return whole, (a - (whole - back)) + (b - back)


def _ordered_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """The same for a that is not smaller than b (Dekker)."""
    whole = a + b
    return whole, b - (whole - a)


Number = Any  # Lanes or Wide
