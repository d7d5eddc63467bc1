"""Units in the last place, relative errors and condition numbers, on values known by hand."""

import numpy as np
import pytest
from mpmath import mp

import reference


def test_ulp_error():
    step = mp.mpf(2) ** -52
    with mp.workdps(60):
        want = [1, 1, 1 + step / 4, 2 - step / 2, mp.mpf(2) ** -1074 / 2, 0, 0, mp.mpf(10) ** 400, 1, 1]
    got = [1, 1 + 2.0**-52, 1, 2, 0, 0, 5e-324, np.inf, np.nan, np.inf]
    expected = [0, 1, 0.25, 0.5, 0.5, 0, np.inf, 0, np.inf, np.inf]
    np.testing.assert_array_equal(reference.ulp_error(got, np.array(want, dtype=object), np.float64), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulp_error_counts_floats_of_every_size(dtype):
    info = np.finfo(dtype)
    for want in (
        1,
        1.5,
        info.max / 4,
        info.smallest_normal,
        info.smallest_normal / 4,
        info.smallest_subnormal,
    ):
        want = dtype(want)
        got = np.nextafter(want, dtype(np.inf))
        assert reference.ulp_error(got, mp.mpf(float(want)), dtype) == 1
        assert reference.eps_error(want, mp.mpf(float(want)), dtype) == 0


def test_errors_of_bfloat16():
    assert reference.ulp_error(1 + 2.0**-7, mp.one, "bfloat16") == 1
    assert reference.ulp_error(np.inf, mp.mpf(10) ** 39, "bfloat16") == 0


def test_eps_error():
    with mp.workdps(60):
        want = np.array([mp.mpf(3), mp.mpf(0), mp.mpf(10) ** 39], dtype=object)
    got = np.array([3 * (1 + 2.0**-22), 0, np.inf], dtype=np.float32)
    np.testing.assert_array_equal(reference.eps_error(got, want, np.float32), [2, 0, 0])


@pytest.mark.parametrize("gap", [0.5, 2.0**-20, 2.0**-50])
@pytest.mark.parametrize("scale", [1.0, 2.0**300])
def test_cond_of_two_correlated_variables(gap, scale):
    """The correlation matrix [[1, r], [r, 1]] has the condition number (1 + r)/(1 - r)."""
    cov = np.array([[scale**2, scale * (1 - gap)], [scale * (1 - gap), 1.0]])
    np.testing.assert_allclose(reference.cond_correlation(cov), (2 - gap) / gap, rtol=1e-13)


def test_cond_row_scaled():
    factor = np.array([[3.0, 0.0], [4.0, 3.0]])
    assert reference.cond_row_scaled(np.diag([1e-300, -1e300])) == 1
    scaled = factor / np.array([[3.0], [5.0]])
    np.testing.assert_allclose(reference.cond_row_scaled(factor), np.linalg.cond(scaled), rtol=1e-14)
    assert reference.cond_row_scaled(np.stack([factor, factor])).shape == (2,)
