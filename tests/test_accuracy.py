"""Diagonal pairs are right to a few units in the last place, wherever in the range of the dtype they are."""

import functools
import itertools

import numpy as np
import pytest
import regimes
from cases import DTYPES, Case, case, check, divergence, ulp_error_of_two_keywords, within

import reference

KEYWORDS = list(regimes.SPREAD)
SUBNORMAL = "subnormal scale", "last subnormal scale"
# At d = 100 000: one regime of each kind.
LARGE = "moderate", "near 1e-4", "near 1 ulp", "equal", "same spread, means 1e+0 std apart", "huge scale"

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_keyword = pytest.mark.parametrize("keyword", KEYWORDS)
FLUSHED = "subnormal numbers are set to zero there"


@functools.cache
def same_keyword(keyword, dtype, d):
    """Every regime, of which d = 100 000 keeps a few; d = 1000 has each of 100 dimensions ten times."""
    if d == 100_000:
        return [case(*pair, 16.0) for pair in regimes.diagonal(keyword, dtype, d, rows=1) if pair[0] in LARGE]
    if d == 1000:
        hundred = regimes.diagonal(keyword, dtype, d=100, rows=1)
        return [case(name, tenfold(p), tenfold(q), 6.0) for name, p, q in hundred]
    return [case(*pair, 6.0) for pair in regimes.diagonal(keyword, dtype, d, rows=4)]


def tenfold(g):
    return {name: np.tile(a, 10) for name, a in g.items()}


# ---- one keyword on both sides ----


@pytest.mark.parametrize("d", [1, 8, 1000])
@every_dtype
@every_keyword
def test_within_6_ulp_in_every_regime(xp, keyword, dtype, d):
    check(xp, [c for c in same_keyword(keyword, dtype, d) if c.name not in SUBNORMAL], reference.ulp_error)


@pytest.mark.skip_xp_backend("jax", reason=FLUSHED)
@pytest.mark.skip_xp_backend("tensorflow", reason=FLUSHED)
@pytest.mark.parametrize("d", [1, 8, 1000])
@every_dtype
@every_keyword
def test_within_6_ulp_at_subnormal_scales(xp, keyword, dtype, d):
    check(xp, [c for c in same_keyword(keyword, dtype, d) if c.name in SUBNORMAL], reference.ulp_error)


@every_dtype
@every_keyword
def test_within_16_ulp_for_100_000_dimensions(xp, keyword, dtype):
    cases = same_keyword(keyword, dtype, 100_000)
    assert len(cases) == len(LARGE)
    check(xp, cases, reference.ulp_error)


@functools.cache
def against_standard_normal(keyword, dtype):
    pairs = [(name, p) for name, p, _ in regimes.diagonal(keyword, dtype) if name not in SUBNORMAL]
    cases = [case(name, p, None, 6.0) for name, p in pairs]
    return [c for c in cases if max(c.want) < float(np.finfo(dtype).max)]


@every_dtype
@every_keyword
def test_within_6_ulp_against_the_standard_normal(xp, keyword, dtype):
    check(xp, against_standard_normal(keyword, dtype), reference.ulp_error)


@functools.cache
def isotropic(keyword, dtype):
    regime = regimes.diagonal(keyword, dtype, rows=1)
    scalars = (
        (name, *(g | {keyword: g[keyword][0, 0]} for g in pair)) for name, *pair in regime if name not in SUBNORMAL
    )
    cases = [case(name, p, q, 6.0) for name, p, q in scalars]
    info = np.finfo(dtype)
    # Where a dimension's contribution is subnormal, a library that flushes it is excused.
    normal = [c for c in cases if not 0 < np.min(reference.kl_per_dim(c.p, c.q)) < float(info.smallest_normal)]
    return [c for c in normal if max(c.want) < float(info.max)]


@every_dtype
@every_keyword
def test_a_number_is_the_spread_of_every_dimension(xp, keyword, dtype):
    cases = [
        Case(c.name, *(g | {keyword: float(g[keyword])} for g in (c.p, c.q)), c.want, c.limit)
        for c in isotropic(keyword, dtype)
    ]
    check(xp, cases, reference.ulp_error)


@functools.cache
def per_dim(keyword, dtype):
    return [
        (name, p, q, reference.kl_per_dim(p, q))
        for name, p, q in regimes.diagonal(keyword, dtype, rows=1)
        if name not in SUBNORMAL
    ]


@every_dtype
@every_keyword
def test_each_dimension_within_6_ulp(xp, keyword, dtype):
    # Contributions below the normal range hold fewer digits.
    smallest = float(np.finfo(dtype).smallest_normal)
    for name, p, q, want in per_dim(keyword, dtype):
        got = divergence(xp, p, q, per_dim=True)
        errors = reference.ulp_error(got, want, dtype)
        assert within(np.where(want.astype(float) >= smallest, errors, 0), 6), (name, errors)
        assert (got >= 0).all(), name


# ---- two keywords ----

MIXED = [pair for pair in itertools.product(KEYWORDS, repeat=2) if pair[0] != pair[1]]
every_mixed_pair = pytest.mark.parametrize(("keyword_p", "keyword_q"), MIXED)


@functools.cache
def mixed(keyword_p, keyword_q, dtype):
    """The regimes, and the exact contribution of every dimension."""
    left, right = (list(regimes.diagonal(keyword, dtype)) for keyword in (keyword_p, keyword_q))
    pairs = [(name, p, q) for (name, p, _), (_, _, q) in zip(left, right, strict=True) if name not in SUBNORMAL]
    return [(name, p, q, reference.kl_per_dim(p, q)) for name, p, q in pairs]


@every_dtype
@every_mixed_pair
def test_two_keywords_within_8_ulp_in_every_regime(xp, keyword_p, keyword_q, dtype):
    """Nothing is rounded before it is compared."""
    for name, p, q, want in mixed(keyword_p, keyword_q, dtype):
        got = divergence(xp, p, q, per_dim=True)
        assert (got >= 0).all(), name
        errors = ulp_error_of_two_keywords(got, want, dtype)
        assert within(errors, 8), (name, errors)


@pytest.mark.parametrize("keyword", ["std", "var"])
@pytest.mark.parametrize("other", KEYWORDS)
def test_two_keywords_of_which_one_is_bad_give_nan(xp, keyword, other):
    mean, bad = np.zeros(4), np.array([1.0, 0.0, -1.0, np.nan])
    p, q = {"mean": mean, keyword: bad}, {"mean": mean, other: np.full(4, 0.5)}
    options = {"per_dim": True} if xp.__name__ == "jax.numpy" else {"per_dim": True, "validate": False}
    for pair in ((p, q), (q, p)):
        assert np.isnan(divergence(xp, *pair, **options)).tolist() == [False, True, True, True]


@every_dtype
def test_std_against_its_square_is_exactly_0(xp, dtype):
    """Numbers of 12 bits, whose squares are exact in either dtype."""
    std = np.ldexp(np.arange(2049, 2449, dtype=dtype), np.random.default_rng(0).integers(-30, 20, 400)).reshape(50, 8)
    assert (std.astype(np.float64) ** 2 == std * std).all()
    p, q = {"mean": 0 * std, "std": std}, {"mean": 0 * std, "var": std * std}
    assert (divergence(xp, p, q) == 0).all()
    assert (divergence(xp, q, p) == 0).all()


@every_dtype
def test_halved_logarithms_are_exact(xp, dtype):
    log_var = np.random.default_rng(0).normal(0, 20, (50, 8)).astype(dtype)
    p, q = {"mean": 0 * log_var, "log_var": log_var}, {"mean": 0 * log_var, "log_std": log_var / 2}
    assert (divergence(xp, p, q) == 0).all()
    assert (divergence(xp, q, p) == 0).all()


@every_dtype
@pytest.mark.parametrize("other", ["std", "var"])
@pytest.mark.parametrize(("logarithm", "value"), [("log_var", -2000.0), ("log_std", -1000.0)])
def test_logarithms_beyond_the_range_of_exp(xp, logarithm, value, other, dtype):
    """The standard deviation exp(-1000) is 0 in any dtype; its divergence from N(0, 1) is 999.5."""
    mean = np.zeros(1, dtype)
    p, q = {"mean": mean, logarithm: np.full(1, value, dtype)}, {"mean": mean, other: np.ones(1, dtype)}
    np.testing.assert_array_equal(divergence(xp, p, q), dtype(999.5))
    np.testing.assert_array_equal(divergence(xp, q, p), dtype(np.inf))


@every_dtype
@pytest.mark.parametrize("keyword", ["log_std", "log_var"])
@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_logarithms_beyond_the_range_of_exp_on_both_sides(xp, keyword, value, dtype):
    p = {"mean": np.ones(1, dtype), keyword: np.full(1, value, dtype)}
    q = p | {keyword: p[keyword] + dtype(2.0)}
    t = 4.0 if keyword == "log_std" else 2.0
    assert divergence(xp, p, p) == 0
    np.testing.assert_allclose(divergence(xp, p, q), (np.expm1(-t) + t) / 2, rtol=4 * np.finfo(dtype).eps)
