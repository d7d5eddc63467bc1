r"""Numbers with twice the digits of their dtype: each is an unevaluated sum of two floats, ``(high, low)``.

The same law as in ``diagonal``. Two Gaussians that are described in different ways have to be compared before either
description is rounded to the other: a square, a product, or e^x is kept whole until the difference has been taken.

The algorithms are those of Dekker ("A floating-point technique for extending the available precision", 1971) and
Knuth. No fused multiply-add is needed, and one that a compiler puts in does no harm: numbers are split by adding and
taking off a large one, which rounds them at a fixed place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from .._arrays.linalg import eye_mask, matmul, transpose
from .series import factorial_tail, inverse_factorials, ln2, polynomial

Array = Any
Pair = tuple[Array, Array]

DIGITS = {64: 53, 32: 24}


def two_sum(a: Array, b: Array) -> Pair:
    """a + b as a rounded sum and its rounding error."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def ordered_sum(a: Array, b: Array) -> Pair:
    """The same for an a that is not smaller than b."""
    total = a + b
    return total, b - (total - a)


def constant(value: float, like: Array, *, xp: Any) -> Array:
    """A number as an array, one that a compiler cannot know: XLA takes (x + 1) - 1 for x where it sees the 1."""
    return xp.where(like <= like, value, like)


def plus(a: Pair, b: Array) -> Pair:
    """A pair and a number, to be added up further: what is lost is collected in the second part."""
    high, error = two_sum(a[0], b)
    return high, a[1] + error


def _halves(x: Array, *, xp: Any) -> Pair:
    """x as a sum of two numbers with half of its digits each."""
    shift = xp.abs(x) * (1.5 * 2.0 ** ((DIGITS[xp.finfo(x.dtype).bits] + 1) // 2))
    high = (x + shift) - shift
    return high, x - high


def product(a: Array, b: Array, *, xp: Any) -> Pair:
    """a * b without rounding, as long as nothing over- or underflows."""
    high = a * b
    (a1, a2), (b1, b2) = _halves(a, xp=xp), _halves(b, xp=xp)
    return high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2


def square(x: Array, *, xp: Any) -> Pair:
    """x * x without rounding."""
    high = x * x
    x1, x2 = _halves(x, xp=xp)
    return high, ((x1 * x1 - high) + 2 * (x1 * x2)) + x2 * x2


def _times(a: Pair, b: Pair, *, xp: Any) -> Pair:
    high, low = product(a[0], b[0], xp=xp)
    return ordered_sum(high, low + (a[0] * b[1] + a[1] * b[0]))


POWERS = {64: 10, 32: 7}  # digits of half an exponent


def scaled(x: Array, exponent: Array, *, xp: Any) -> Array:
    """x 2^k for whole numbers k, in two steps: the power alone may be out of range."""
    half = xp.floor(0.5 * exponent)
    size, power = xp.abs(half), xp.ones_like(half)
    count = POWERS[xp.finfo(x.dtype).bits]
    for k in range(count):
        bit = 2.0 ** (count - 1 - k)
        has = size >= bit
        power = xp.where(has, power * 2.0**bit, power)
        size = xp.where(has, size - bit, size)
    power = xp.where(half < 0, 1 / power, power)
    return (x * power) * xp.where(exponent > 2 * half, 2 * power, power)


HALVINGS = 6  # of the argument of the series, which is then at most 0.0055


def _expm1(x: Array, *, xp: Any) -> tuple[Array, Pair]:
    """x/ln(2) to the nearest whole number k, and expm1(x - k ln 2) as a pair.

    As y = expm1(w) for a small w, from which expm1(2 w) = 2 y + y^2.
    """
    bits = xp.finfo(x.dtype).bits
    first, middle, last = ln2(bits)
    k = xp.floor(x * (1 / math.log(2)) + 0.5)
    high, low = two_sum(x - k * first, -(k * middle))
    w = high * 2.0**-HALVINGS, (low - k * last) * 2.0**-HALVINGS
    *coefficients, (last_high, last_low) = inverse_factorials(bits)
    tail = w[0] * polynomial(factorial_tail, w[0], xp=xp)
    series = ordered_sum(constant(last_high, tail, xp=xp), tail + last_low)
    for n in range(len(coefficients)):
        high, low = coefficients[-1 - n]
        product = _times(w, series, xp=xp)
        series = _plus_pair((constant(high, product[0], xp=xp), low), product)
    y = _plus_pair(w, _times(_times(w, w, xp=xp), series, xp=xp))
    for _ in range(HALVINGS):
        y = _plus_pair((2 * y[0], 2 * y[1]), _times(y, y, xp=xp))
    return k, y


def _plus_pair(a: Pair, b: Pair) -> Pair:
    """a + b for an a that is not smaller than b."""
    high, low = two_sum(a[0], b[0])
    return ordered_sum(high, low + (a[1] + b[1]))


def exp(x: Array, *, xp: Any) -> Pair:
    """e^x."""
    k, (high, low) = _expm1(x, xp=xp)
    high, error = two_sum(constant(1.0, high, xp=xp), high)
    return scaled(high, k, xp=xp), scaled(error + low, k, xp=xp)


def exp_ratio(a: Array, x: Array, *, xp: Any) -> Pair:
    """a/e^x - 1 and e^x/a - 1 for an a near e^x: two numbers, each right to a few units in the last place."""
    k, (high, low) = _expm1(x, xp=xp)
    a = scaled(a, -k, xp=xp)
    difference = ((a - 1) - high) - low
    return difference / (1 + high), -difference / a


# A covariance as a sum of matrices without rounding, whatever it is given as.


def slices(x: Array, terms: int, *, xp: Any) -> list[Array]:
    """Split ``x`` row by row into parts so short that sums of ``terms`` products of two parts are exact.

    Together the parts hold twice the digits of the dtype, counted from the largest entry of a row.
    """
    digits = DIGITS[xp.finfo(x.dtype).bits]
    width = (digits - math.ceil(math.log2(terms))) // 2 - 1
    parts = []
    for _ in range(math.ceil(2 * digits / width)):
        largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
        shift = largest * (1.5 * 2.0 ** (digits - width))
        part = (x + shift) - shift
        parts.append(part)
        x = x - part
    return parts


def _of_product(factor: Array, *, xp: Any) -> Iterator[Array]:
    """Matrices whose sum is factor @ factor^T, the large ones first."""
    parts = slices(factor, max(factor.shape[-1], 1), xp=xp)
    for level in range(len(parts)):
        for first in range(level // 2 + 1):
            product = matmul(parts[first], transpose(parts[level - first], xp=xp), xp=xp)
            yield product
            if level > 2 * first:
                yield transpose(product, xp=xp)


def on_diagonal(*spreads: Array, xp: Any) -> list[Array]:
    """Diagonal matrices."""
    eye = eye_mask(spreads[0].shape[-1], spreads[0], xp=xp)
    return [xp.where(eye, spread[..., None], 0.0) for spread in spreads]


# Matrices whose sum is the covariance.
TERMS: dict[str, Callable[..., Iterable[Array]]] = {
    "cov": lambda cov, *, xp: [cov],
    "tril": _of_product,
    "std": lambda std, *, xp: on_diagonal(*square(std, xp=xp), xp=xp),
    "var": lambda var, *, xp: on_diagonal(var, xp=xp),
    "log_std": lambda log_std, *, xp: on_diagonal(*exp(2 * log_std, xp=xp), xp=xp),
    "log_var": lambda log_var, *, xp: on_diagonal(*exp(log_var, xp=xp), xp=xp),
    "low_rank": lambda factor, diagonal, *, xp: chain(_of_product(factor, xp=xp), on_diagonal(diagonal, xp=xp)),
}
