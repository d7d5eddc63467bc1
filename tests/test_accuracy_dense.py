"""Dense pairs lose no more than the condition of the covariances takes, at any distance of the two."""

import functools

import numpy as np
import pytest
import regimes
import spreads
from cases import DTYPES, STRUCTURES, case, check, divergence, side, symmetric

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
@pytest.mark.parametrize("dense", ["cov", "scale_tril"])
@pytest.mark.parametrize("keyword", ["std", "var", "log_std", "log_var"])
@pytest.mark.parametrize("d", [1, 6])
@every_dtype
def test_a_diagonal_is_compared_before_it_is_converted(xp, dtype, d, keyword, dense, order):
    check(xp, beside_diagonal(dtype, d, keyword, dense, order), reference.eps_error)


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


DISTANCES_OF_TWO = 1e-1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15


def condition(g):
    """That of the correlations, or of the partial ones."""
    return reference.cond_correlation(g["precision"] if "precision" in g else spreads.covariance(g).astype(float))


@functools.cache
def near_each_other(name_p, name_q, dtype):
    """A pair under any two keywords at every distance, down to the rounding of what is given."""
    cases = []
    for distance in DISTANCES_OF_TWO if dtype == np.float64 else DISTANCES_OF_TWO[:3]:
        p, q = spreads.drawn(name_p, name_q, d=4, distance=distance, dtype=dtype)
        cases.append(case(f"{distance} apart", p, q, 16 + max(condition(p), condition(q))))
    return cases


# Where each pair has to be compiled: one of each way that a pair can go, and then some.
SOME = [
    ("std", "cov"),
    ("var", "scale_tril"),
    ("log_var", "cov"),
    ("row", "log_std"),
    ("cov", "precision"),
    ("precision", "scale_tril"),
    ("precision", "log_var"),
    ("std", "precision"),
    ("low rank", "cov"),
    ("low rank", "log_std"),
    ("tfp", "low rank"),
    ("low rank", "precision"),
]


@pytest.mark.parametrize(("name_p", "name_q"), SOME)
@every_dtype
def test_some_two_keywords_near_each_other(xp, name_p, name_q, dtype):
    check(xp, near_each_other(name_p, name_q, dtype), reference.eps_error)


@pytest.mark.skip_xp_backend("jax", reason="compiles each of 100 pairs: the test above has some of them")
@pytest.mark.skip_xp_backend("tensorflow", reason="compiles each of 100 pairs: the test above has some of them")
@pytest.mark.parametrize("name_q", spreads.KEYWORDS)
@pytest.mark.parametrize("name_p", spreads.KEYWORDS)
@every_dtype
def test_any_two_keywords_near_each_other(xp, name_p, name_q, dtype):
    """Within 16 and the condition of the correlations, in eps; diagonal pairs are measured by themselves."""
    if {name_p, name_q} <= {*spreads.DIAGONAL}:
        name_p = "cov"
    check(xp, near_each_other(name_p, name_q, dtype), reference.eps_error)


@pytest.mark.parametrize("name_q", ["precision", "cov", "scale_tril", "std", "low rank"])
def test_coordinates_of_very_different_size_beside_a_precision(xp, name_q):
    """To measure a coordinate in another unit costs no digits."""
    p, q = spreads.drawn("precision", name_q, d=4, distance=1e-7)
    unit = 2.0 ** np.array([-60, 40, 0, 25])
    scale = {
        "mean": unit,
        "std": unit,
        "cov": np.outer(unit, unit),
        "scale_tril": unit[:, None],
        "precision": 1 / np.outer(unit, unit),
        "cov_factor": unit[:, None],
        "cov_diag": unit**2,
    }
    limit = 16 + max(condition(p), condition(q))
    p, q = ({key: a * scale[key] for key, a in g.items()} for g in (p, q))
    check(xp, [case("p first", p, q, limit), case("q first", q, p, limit)], reference.eps_error)
