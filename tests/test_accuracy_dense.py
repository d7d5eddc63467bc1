"""Dense pairs lose no more than the condition of the covariances takes, at any distance of the two."""

import functools

import numpy as np
import pytest
import regimes
from cases import DTYPES, STRUCTURES, case, check, divergence, side, symmetric, within

import reference

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_size = pytest.mark.parametrize("d", [1, 2, 6, 20])


def by_cov(*covs):
    """The error that covariances may cost, in eps: 16 and the larger condition of their correlations."""
    return 16 + functools.reduce(np.maximum, map(reference.cond_correlation, covs))


def packed(g, packing):
    rows, columns = reference.packed_positions(g["mean"].shape[-1], packing)
    return {"mean": g["mean"], "packed_tril": g["scale_tril"][..., rows, columns], "packing": packing}


# ---- factors ----


@functools.cache
def scale_tril(dtype, d):
    return [
        case(name, p, q, 16 + reference.cond_row_scaled(q["scale_tril"]))
        for name, p, q in regimes.scale_tril(dtype, d, rows=1 if d == 20 else 2)
    ]


@every_size
@every_dtype
def test_scale_tril_within_16_and_the_condition_of_the_row_scaled_factor(xp, dtype, d):
    check(xp, scale_tril(dtype, d), reference.eps_error)


@pytest.mark.parametrize("packing", ["row", "tfp"])
@every_size
@every_dtype
def test_packed_tril_gives_the_bits_of_scale_tril(xp, dtype, d, packing):
    for c in scale_tril(dtype, d):
        got = divergence(xp, packed(c.p, packing), packed(c.q, packing))
        np.testing.assert_array_equal(got, divergence(xp, c.p, c.q), err_msg=c.name)


# ---- covariances ----


@functools.cache
def cov(dtype, d):
    regime = regimes.cov(dtype, d, rows=1 if d == 20 else 2)
    return [case(name, p, q, by_cov(p["cov"], q["cov"])) for name, p, q in regime]


@every_size
@every_dtype
def test_cov_within_16_and_the_condition_of_the_correlations(xp, dtype, d):
    check(xp, cov(dtype, d), reference.eps_error)


def factored(g):
    """The Gaussian of the Cholesky factor, which is a rounding away from that of the covariance."""
    return {"mean": g["mean"], "scale_tril": np.linalg.cholesky(g["cov"])}


@functools.cache
def cov_and_factor(dtype, d, order):
    cases = []
    for c in cov(dtype, d):
        if not c.name.startswith("near"):
            continue
        p, q = (factored(c.p), c.q) if order == "factor against cov" else (c.p, factored(c.q))
        cases.append(case(c.name, p, q, c.limit))
    return cases


@pytest.mark.parametrize("order", ["factor against cov", "cov against factor"])
@pytest.mark.parametrize("d", [2, 6])
@every_dtype
def test_cov_and_scale_tril_are_no_worse_than_two_covs(xp, dtype, d, order):
    check(xp, cov_and_factor(dtype, d, order), reference.eps_error)


# ---- precisions ----


@functools.cache
def precision(dtype, d):
    cases = []
    for name, p, q in regimes.cov(dtype, d, rows=1):
        p, q = ({"mean": g["mean"], "precision": g["cov"]} for g in (p, q))
        limit = by_cov(p["precision"], q["precision"])
        c = case(name, p, q, limit)
        if max(c.want) < float(np.finfo(dtype).max):
            cases.append(c)
    return cases


@pytest.mark.parametrize("d", [1, 2, 6])
@every_dtype
def test_precision_within_16_and_the_condition_of_the_partial_correlations(xp, dtype, d):
    check(xp, precision(dtype, d), reference.eps_error)


# ---- a covariance or a factor beside a diagonal ----

DISTANCES = 1.0, 1e-2, 1e-4, 1e-8, 1e-15


def near_diagonal(dtype, d, keyword, dense):
    """A diagonal side, and dense ones around it, the covariances relative distances apart."""
    rng = np.random.default_rng(d)
    for distance in DISTANCES:
        std = np.exp(rng.uniform(-3, 3, d)).astype(dtype)
        spread = {"std": std, "var": std * std, "log_std": np.log(std), "log_var": 2 * np.log(std)}[keyword]
        mean = rng.standard_normal(d).astype(dtype)
        step = np.eye(d) + distance * np.tril(rng.uniform(-0.4, 0.4, (d, d)))
        factor = std[:, None] * step
        other = {"scale_tril": factor.astype(dtype)}
        if dense == "cov":
            other = {"cov": symmetric(factor @ factor.T).astype(dtype)}
        moved = mean + distance * std * rng.standard_normal(d)
        yield f"near {distance}", {"mean": moved.astype(dtype), **other}, {"mean": mean, keyword: spread}


@functools.cache
def beside_diagonal(dtype, d, keyword, dense, order):
    cases = []
    for name, full, diagonal in near_diagonal(dtype, d, keyword, dense):
        p, q = (full, diagonal) if order == "dense first" else (diagonal, full)
        limit = by_cov(full["cov"]) if dense == "cov" else 16 + reference.cond_row_scaled(full["scale_tril"])
        cases.append(case(name, p, q, limit))
    return cases


beside = pytest.mark.parametrize("order", ["dense first", "diagonal first"])


@beside
@pytest.mark.parametrize("keyword", ["std", "var"])
@pytest.mark.parametrize("d", [1, 6])
@every_dtype
def test_cov_beside_a_diagonal(xp, dtype, d, keyword, order):
    check(xp, beside_diagonal(dtype, d, keyword, "cov", order), reference.eps_error)


@beside
@pytest.mark.parametrize("d", [1, 6])
@every_dtype
def test_scale_tril_beside_std(xp, dtype, d, order):
    check(xp, beside_diagonal(dtype, d, "std", "scale_tril", order), reference.eps_error)


@beside
@pytest.mark.parametrize(
    ("dense", "keyword"),
    [("cov", "log_std"), ("cov", "log_var"), *(("scale_tril", k) for k in ("var", "log_std", "log_var"))],
)
@every_dtype
def test_a_diagonal_that_is_converted_costs_a_rounding_of_its_spread(xp, dtype, dense, keyword, order):
    """Spreads wrong by a few eps move a divergence K by that times sqrt(d K) + K, as for diagonal pairs."""
    eps = float(np.finfo(dtype).eps)
    for c in beside_diagonal(dtype, 6, keyword, dense, order):
        got, want = divergence(xp, c.p, c.q), float(c.want)
        bound = eps * (24 * np.sqrt(6 * want) + c.limit * want) + 6 * (8 * eps) ** 2
        assert got >= 0
        assert within(abs(float(got) - want) / bound, 1), c.name


# ---- every structure beside every other ----


@functools.cache
def moderate(name_p, name_q, dtype):
    p, q = side(name_p, dtype), side(name_q, dtype, seed=1)
    return [case(f"{name_p} against {name_q}", p, q, 64.0)]


@pytest.mark.parametrize("name_q", STRUCTURES)
@pytest.mark.parametrize("name_p", STRUCTURES)
@every_dtype
def test_every_pair_of_structures_at_a_moderate_distance(xp, name_p, name_q, dtype):
    """Condition numbers here are below 20 and divergences above 0.1."""
    check(xp, moderate(name_p, name_q, dtype), reference.eps_error)


@pytest.mark.parametrize("name", STRUCTURES)
@every_dtype
def test_equal_arrays_are_at_distance_0(xp, name, dtype):
    for d in (1, 3, 20):
        g = side(name, dtype, d)
        assert divergence(xp, g, g) == 0
