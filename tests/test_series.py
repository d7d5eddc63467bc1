"""The fitted coefficients belong to the functions that they stand for."""

import numpy as np
import pytest
from mpmath import mp

from gausskl._series import ATANH_TAIL, EXPM1_TAIL


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
