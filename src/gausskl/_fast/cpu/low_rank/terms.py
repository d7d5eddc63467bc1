"""What a low-rank pair needs of each dimension, and of each entry of its factors, as formulas for vectors.

The names are those of ``_formulas/low_rank.py``: x = (c_p - c_q)/c_q, y = x/(1 + x), s = sqrt(1 + x), t = s - 1; A and
B are the factors of q and p divided by the roots of c_q, and C = B - A is divided after it is subtracted.
"""

from __future__ import annotations

from typing import Any

from ...terms.diagonal import gap, outside
from ...terms.operations import fma
from ..simd.lanes import Lanes, sqrt


def per_dimension(mean_p: Lanes, var_p: Lanes, mean_q: Lanes, var_q: Lanes) -> tuple[Lanes, ...]:
    """1/sqrt(c_q), delta/sqrt(c_q) and its square, 1 + x, 1/(1 + x), y, s, t, and G(c_p, c_q)."""
    inverse = 1.0 / var_q
    x, ratio, error = (var_p - var_q) * inverse, var_p * inverse, fma(-inverse, var_q, 1.0)
    x, ratio = fma(x, error, x), fma(ratio, error, ratio)
    weight, s, reciprocal = sqrt(inverse), sqrt(ratio), 1.0 / ratio
    apart = (mean_p - mean_q) * weight
    marks = outside(ratio) | outside(var_q)
    return weight, apart, apart * apart, ratio, reciprocal, x * reciprocal, s, x / (1.0 + s), gap(x, ratio), marks


def sizes(f_q: Lanes, f_p: Lanes, weight: Lanes, size: Lanes, change: Lanes) -> tuple[Any, ...]:
    """Sums of the squares of A and of C, to tell near pairs from others."""
    a, c = f_q * weight, (f_p - f_q) * weight
    return fma(a, a, size), fma(c, c, change), None


def near_panels(f_q: Lanes, f_p: Lanes, weight: Lanes, y: Lanes, s: Lanes, t: Lanes) -> tuple[Any, ...]:
    """A, B, C, y B, and the two factors of J."""
    a, b, c = f_q * weight, f_p * weight, (f_p - f_q) * weight
    return a, b, c, y * b, fma(-t, a, c), y * fma(s, a, b), None


def far_panels(
    f_q: Lanes, f_p: Lanes, weight: Lanes, ratio: Lanes, reciprocal: Lanes, square: Lanes
) -> tuple[Any, ...]:
    """A, B, (1 + x) A, (1 + x)^-1 B, and the sum of the squares of B."""
    a, b = f_q * weight, f_p * weight
    return a, b, a * ratio, b * reciprocal, fma(b, b, square), None


def excess(u: Lanes) -> tuple[Lanes, Lanes]:
    """u - log1p(u)."""
    return gap(u, 1.0 + u), outside(1.0 + u)
