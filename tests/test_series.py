"""The fitted coefficients belong to the functions that they stand for."""

import numpy as np
import pytest
from mpmath import mp

from gausskl._formulas.series import ATANH_TAIL, ATANH_TAIL_NARROW, EXPM1_TAIL, EXPM1_TAIL_NARROW


def atanh_tail(y):
    return (mp.atanh(mp.sqrt(y)) / mp.sqrt(y) - 1) / y


def expm1_tail(t):
    return (mp.expm1(t) - t) / t**2


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize(
    ("table", "function", "grid"),
    [(ATANH_TAIL, atanh_tail, np.linspace(1e-6, 0.25, 500)), (EXPM1_TAIL, expm1_tail, np.linspace(-1, 1, 500))],
    ids=["atanh", "expm1"],
)
def test_series_is_exact_to_half_an_ulp(table, function, grid, bits):
    unit = {64: 2.0**-53, 32: 2.0**-24}[bits]
    with mp.workdps(60):
        points = [mp.mpf(float(x)) for x in grid]
        error = max(abs(mp.polyval(table[bits][::-1], x) / function(x) - 1) for x in points)
    assert error < unit


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize(
    ("table", "function", "grid", "weight"),
    [
        (ATANH_TAIL_NARROW, atanh_tail, np.linspace(1e-6, 3 - 2 * 2**0.5, 500) ** 2, lambda y: (y**0.5 + y) / 3),
        (EXPM1_TAIL_NARROW, expm1_tail, np.linspace(-0.34657, 0.34657, 500), lambda t: t**2),
    ],
    ids=["atanh", "expm1"],
)
def test_narrow_series_matter_by_less_than_half_an_ulp(table, function, grid, weight, bits):
    """The weight is that of the series in G or in the exponential."""
    unit = {64: 2.0**-53, 32: 2.0**-24}[bits]
    with mp.workdps(60):
        points = [mp.mpf(float(x)) for x in grid]
        error = max(abs(mp.polyval(table[bits][::-1], x) / function(x) - 1) * weight(x) for x in points)
    assert error < unit
