"""Low-rank pairs: as right as a basis of few columns allows, never negative, in O(d r) memory."""

import functools
import tracemalloc

import numpy as np
import pytest
import regimes
from cases import DTYPES, STRUCTURES, case, check, divergence, side, within

import gausskl as gk
import reference

LIMIT = {np.float64: 1e-9, np.float32: 1e-3}  # relative

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_size = pytest.mark.parametrize("d", [1, 2, 6, 20])


def limit(dtype):
    return LIMIT[dtype] / float(np.finfo(dtype).eps)


@functools.cache
def low_rank(dtype, d, r):
    return [case(name, p, q, limit(dtype)) for name, p, q in regimes.low_rank(dtype, d, r)]


@pytest.mark.parametrize("r", [1, 2, 4])
@every_size
@every_dtype
def test_every_regime(xp, dtype, d, r):
    check(xp, low_rank(dtype, d, r), reference.eps_error)


@functools.cache
def two_ranks(dtype, d, order):
    """The regimes with two columns, q given a third."""
    cases = []
    for c in low_rank(dtype, d, 2):
        rng = np.random.default_rng(d)
        more = rng.standard_normal((1, d, 1)).astype(dtype) / 8
        wide = c.q | {"cov_factor": np.concatenate([c.q["cov_factor"], more], axis=-1)}
        pair = (c.p, wide) if order == "narrow first" else (wide, c.p)
        cases.append(case(c.name, *pair, limit(dtype)))
    return cases


@pytest.mark.parametrize("order", ["narrow first", "wide first"])
@pytest.mark.parametrize("d", [2, 6])
@every_dtype
def test_two_ranks(xp, dtype, d, order):
    check(xp, two_ranks(dtype, d, order), reference.eps_error)


def padded(g):
    return g | {"cov_factor": np.concatenate([g["cov_factor"], 0 * g["cov_factor"]], axis=-1)}


@pytest.mark.parametrize("d", [2, 6, 20])
@every_dtype
def test_columns_of_zeros_change_nothing(xp, dtype, d):
    for c in low_rank(dtype, d, 2):
        errors = reference.eps_error(divergence(xp, padded(c.p), c.q), c.want, dtype)
        assert within(errors, c.limit), c.name


@functools.cache
def digits(name):
    """The size of a model of images: 784 pixels, 32 factors, variances down to 1e-6, float32."""
    pairs = {case_name: (p, q) for case_name, p, q in regimes.low_rank(np.float32, d=784, r=32)}
    return case(name, *pairs[name], limit(np.float32))


@pytest.mark.parametrize(
    "name", ["unrelated, cov_diag from 1e-6", "near 1e-3, cov_diag from 1e-6", "equal, cov_diag from 1e-6"]
)
def test_784_dimensions_and_32_factors_in_float32(xp, name):
    check(xp, [digits(name)], reference.eps_error)


@functools.cache
def beside(name, dtype, order):
    pairs = []
    for d in (2, 6):
        p, q = side("low_rank", dtype, d), side(name, dtype, d, seed=1)
        pairs.append((f"d = {d}", *((p, q) if order == "low rank first" else (q, p))))
    return [case(*pair, 64.0) for pair in pairs]


@pytest.mark.parametrize("order", ["low rank first", "low rank second"])
@pytest.mark.parametrize("name", STRUCTURES)
@every_dtype
def test_beside_every_other_structure(xp, name, dtype, order):
    check(xp, beside(name, dtype, order), reference.eps_error)


@pytest.mark.parametrize("other", ["std", "cov", "scale_tril", "precision", "low_rank"])
def test_a_factor_without_columns_is_none(xp, other):
    mean, var, p = np.zeros(3), np.array([1.0, 2.0, 3.0]), side(other, seed=1)
    none, diagonal = {"mean": mean, "cov_factor": np.zeros((3, 0)), "cov_diag": var}, {"mean": mean, "var": var}
    np.testing.assert_allclose(divergence(xp, p, none), divergence(xp, p, diagonal), rtol=1e-13)
    np.testing.assert_allclose(divergence(xp, none, p), divergence(xp, diagonal, p), rtol=1e-13)
    assert divergence(xp, none, none) == 0


def test_200_000_dimensions_need_far_less_than_a_gigabyte():
    rng = np.random.default_rng(0)
    d, r = 200_000, 8
    p, q = (
        gk.Gaussian(rng.standard_normal(d), cov_factor=rng.standard_normal((d, r)), cov_diag=rng.uniform(0.5, 2, d))
        for _ in range(2)
    )
    tracemalloc.start()
    try:
        value = gk.kl_divergence(p, q)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.isfinite(value)
    assert peak < 500e6


@every_dtype
def test_variance_moved_from_the_factor_to_the_diagonal(xp, dtype):
    """Two descriptions of nearly one covariance: large differences that cancel, and still nothing negative."""
    rng = np.random.default_rng(0)
    rows, d, r = 40, 8, 3
    factor, diagonal = rng.normal(size=(rows, d, r)), rng.uniform(0.1, 2, (rows, d))
    factor[:, :, 0] = factor[:, 0, :] = 0
    factor[:, 0, 0] = rng.uniform(0.5, 3, rows)
    whole = factor[:, 0, 0] ** 2 + diagonal[:, 0]
    moved, left = factor.copy(), diagonal.copy()
    left[:, 0] = whole * rng.uniform(0.1, 0.9, rows)
    moved[:, 0, 0] = np.sqrt(whole - left[:, 0])
    p = {"mean": np.zeros((rows, d)), "cov_factor": factor, "cov_diag": diagonal}
    q = {"mean": np.zeros((rows, d)), "cov_factor": moved, "cov_diag": left}
    p, q = ({name: a.astype(dtype) for name, a in g.items()} for g in (p, q))
    got, want = divergence(xp, p, q), reference.kl(p, q).astype(float)
    assert (got >= 0).all()
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=64 * np.finfo(dtype).eps)
