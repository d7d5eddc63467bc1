"""Low-rank pairs: as right as a basis of few columns allows, never negative, in O(d r) memory."""

import functools
import tracemalloc

import numpy as np
import pytest
import regimes
import spreads
from cases import DTYPES, STRUCTURES, case, check, divergence, side, within
from fuzzing import condition

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
    many = none | {"cov_factor": np.zeros((4, 3, 0))}
    np.testing.assert_array_equal(divergence(xp, many, none), np.zeros(4))
    np.testing.assert_allclose(divergence(xp, many, diagonal, path="generic"), np.zeros(4), atol=0)


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


# ---- any number of columns, any diagonal ----


def diagonals(rng, d, info):
    """Variances beside a factor of entries of about 1: ordinary ones, down to the smallest normal number, and mixed."""
    lowest = 2 * float(info.smallest_normal)
    yield from (np.full(d, size) for size in (1.0, 1e-3, float(info.eps), float(info.eps) ** 2, lowest))
    yield np.exp(rng.uniform(np.log(lowest), 0, d))
    yield np.where(np.arange(d) < 2, lowest, 1.0)


@functools.cache
def any_columns(dtype, d, r):
    """Against N(0, I) and against another one of low rank; those that are singular to working precision left away."""
    rng, info = np.random.default_rng((d, r)), np.finfo(dtype)
    cases = []
    for k, diagonal in enumerate(diagonals(rng, d, info)):
        factor = rng.normal(size=(d, r))
        if k % 2 and r > 1:
            factor[:, -1] = factor[:, 0] * (1 + 1e-3 * rng.normal(size=d))  # columns that are nearly dependent
        low = {"mean": rng.normal(size=d), "cov_factor": factor, "cov_diag": diagonal}
        moved = low | {"cov_factor": factor * (1 + 1e-4 * rng.normal(size=factor.shape)), "cov_diag": diagonal * 1.5}
        low, moved = spreads.rounded(low, dtype), spreads.rounded(moved, dtype)
        normal = {"mean": np.zeros(d, dtype), "var": np.ones(d, dtype)}
        kappa = max(map(condition, (low, moved)))
        if kappa * (d + 1) * float(info.eps) < 1 / 16:
            pairs = ((low, normal), (normal, low), (low, moved))
            cases += [case(f"diagonal {k}, pair {j}", *pair, 16 + kappa) for j, pair in enumerate(pairs)]
    return [c for c in cases if c.want < float(info.max)]


@pytest.mark.parametrize("r", [0, 1, 2, 3, 4, 8])
@every_dtype
def test_any_number_of_columns_and_any_diagonal(xp, dtype, r):
    """Within 16 and the condition of the correlations, in eps."""
    cases = any_columns(dtype, 4, r)
    assert len(cases) >= 6
    check(xp, cases, reference.eps_error)


@pytest.mark.parametrize("exponent", [-48, -52, -60, -1000])
def test_more_columns_than_dimensions_and_hardly_a_diagonal(xp, exponent):
    mean, factor = np.zeros(2), np.array([[1.0, 2.0, 3.0, 1.0], [0.0, 1.0, 4.0, 2.0]])
    q = {"mean": mean, "cov_factor": factor, "cov_diag": np.full(2, 2.0**exponent)}
    np.testing.assert_allclose(divergence(xp, {"mean": mean, "std": np.ones(2)}, q), 1.343853467715572, rtol=1e-14)


def one_little_variance(xp, d, dtype, little):
    """Against N(0, I), one dimension having next to no variance of its own."""
    rng = np.random.default_rng(d)
    factor, diagonal = rng.normal(size=(d, 2)), np.ones(d)
    factor[7], diagonal[7] = 1.0, little
    q = spreads.rounded({"mean": np.zeros(d), "cov_factor": factor, "cov_diag": diagonal}, dtype)
    return {"mean": np.zeros(d, dtype), "std": np.ones(d, dtype)}, q


@pytest.mark.parametrize("d", [65, 90])
@pytest.mark.parametrize("little", [1e-3, 1e-5, "eps"])
@every_dtype
def test_one_dimension_of_little_variance_among_many(xp, dtype, little, d):
    """Down to eps of the variance, no library loses more than half of the digits."""
    eps = float(np.finfo(dtype).eps)
    p, q = one_little_variance(xp, d, dtype, 4 * eps if little == "eps" else little)
    want, lost = reference.kl(p, q), eps**-0.5
    for pair, exact in (((p, q), want), ((q, p), reference.kl(q, p))):
        errors = reference.eps_error(divergence(xp, *pair), exact, dtype)
        assert within(errors, 16 + lost), (little, errors)


@pytest.mark.parametrize("order", ["low rank first", "low rank second"])
def test_less_variance_among_more_dimensions_than_a_covariance_is_made_for(order):
    """What a basis of few columns would spoil is a sentence, and not a number."""
    pair = one_little_variance(np, 3000, np.float64, 1e-20)
    p, q = (gk.Gaussian(**g) for g in (pair if order == "low rank second" else pair[::-1]))
    assert np.isnan(gk.kl_divergence(p, q, path="generic", validate=False))


@pytest.mark.parametrize("r", [1, 4, 6])
def test_gradients_of_any_number_of_columns(r):
    """Within twice the bound of the values; by a factor relative to the gradient by the covariance times the factor."""
    torch = pytest.importorskip("torch")
    for c in any_columns(np.float64, 4, r):
        if not c.want > 1e-6:
            continue
        tensors = [{k: torch.tensor(a, requires_grad=True) for k, a in g.items()} for g in (c.p, c.q)]
        gk.kl_divergence(*(gk.Gaussian(**g) for g in tensors)).backward()
        as_covs = [{"mean": g["mean"], "cov": spreads.covariance(g)} for g in (c.p, c.q)]
        wanted, by_covs = reference.gradient(c.p, c.q), reference.gradient(*as_covs)
        for g, given, of_side, by_cov in zip((c.p, c.q), tensors, wanted, by_covs, strict=True):
            for name, want in of_side.items():
                size = np.abs(want.astype(float)).max(initial=0.0)
                if name == "cov_factor":
                    size = 2 * np.linalg.norm(by_cov["cov"].astype(float)) * np.linalg.norm(g[name])
                if size < 1e290:
                    error = np.abs(given[name].grad.numpy() - want.astype(float)).max(initial=0.0)
                    assert error <= 2 * c.limit * np.finfo(float).eps * size, (c.name, name, error, size)


def of_many_sizes(seed, d, r):
    """A low rank whose diagonal has numbers from the smallest normal one up, and another one near it."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, r))
    factor[:, -1] = factor[:, 0] if seed % 2 else factor[:, -1]
    diagonal = np.exp(rng.uniform(np.log(2.0**-1000), 0, d))
    near = factor * (1 + 1e-6 * rng.normal(size=factor.shape)), diagonal * (1 + 1e-6 * rng.normal(size=d))
    pair = (factor, diagonal), near if seed % 4 < 2 else (factor, np.ones(d))
    return [{"mean": np.zeros(d), "cov_factor": f, "cov_diag": c} for f, c in pair]


@pytest.mark.parametrize("d", [2, 3, 6])
def test_diagonals_of_many_sizes_give_the_divergence_or_are_singular(xp, d):
    """Within the bound, or NaN where the covariance is singular to working precision; never below 0."""
    eps, answers = 2.0**-52, []
    for seed in range(24):
        p, q = of_many_sizes(seed, d, 1 + seed % (d - 1))
        kappa = max(condition(p), condition(q))
        for pair in ((p, q), (q, p)):
            got, want = divergence(xp, *pair, validate=False), reference.kl(*pair)
            answers.append(bool(np.isnan(got)))
            if answers[-1]:
                assert kappa * eps * (d + 1) >= 1 / 16, seed
            else:
                assert got >= 0, seed
                assert within(reference.eps_error(got, want, np.float64), 16 + kappa), (seed, got, want)
    assert {*answers} == {True, False}


IN_TWO_WAYS = {
    "moved to the diagonal": ([[1.0], [1e-4], [1e-4], [1e-4]], [1.0] * 4, "var"),
    "moved to a small diagonal": ([[4.6e-2], [1e-8], [1e-8], [1e-8], [1e-8]], [1.2e-5, 1.0, 1.0, 1.0, 1.0], "var"),
    "moved to a logarithm": ([[1e-3], [1e-8], [1e-8], [1e-9]], [1e-7, 1.0, 1e-4, 1e-2], "log_var"),
    "the other sign": ([[0.5], [-0.3], [0.1], [0.7]], [0.58, 1.84, 5.21, 0.91], "cov_factor"),
}


@pytest.mark.parametrize("name", IN_TWO_WAYS)
def test_one_covariance_in_two_ways(xp, name):
    factor, diagonal, keyword = IN_TWO_WAYS[name]
    factor, diagonal = np.array(factor), np.array(diagonal)
    p = {"mean": np.zeros(len(diagonal)), "cov_factor": factor, "cov_diag": diagonal}
    total = (factor * factor).sum(axis=-1) + diagonal
    moved = {"var": {"var": total}, "log_var": {"log_var": np.log(total)}}
    moved["cov_factor"] = {"cov_factor": -factor, "cov_diag": diagonal * (1 + 1e-10 * np.arange(len(diagonal)))}
    q = {"mean": p["mean"], **moved[keyword]}
    for pair in ((p, q), (q, p)):
        kappa = max(map(condition, pair))
        assert within(reference.eps_error(divergence(xp, *pair), reference.kl(*pair), np.float64), 16 + kappa)


@pytest.mark.parametrize("turn", ["sign", "order"])
def test_a_factor_that_is_turned_is_the_same_covariance(xp, turn):
    rng = np.random.default_rng(7)
    g = {"mean": np.zeros(6), "cov_factor": rng.normal(size=(6, 2)), "cov_diag": rng.uniform(0.5, 1.5, 6)}
    turned = g | {"cov_factor": -g["cov_factor"] if turn == "sign" else g["cov_factor"][:, ::-1].copy()}
    assert divergence(xp, g, turned) == 0


@every_dtype
@pytest.mark.parametrize("name", ["some of its columns", "a multiple"])
def test_factors_that_span_the_same_directions(xp, name, dtype):
    """What rounding leaves across them counts for nothing, or the answer is NaN: a small variance divides it."""
    rng = np.random.default_rng(3)
    factor, given = rng.standard_normal((6, 2)).astype(dtype), 0
    for power in range(1, 12, 2):
        diag = np.full(6, float(np.finfo(dtype).eps) ** (power / 4), dtype)
        q = {"mean": np.zeros(6, dtype), "cov_factor": factor, "cov_diag": diag}
        p = q | ({"cov_factor": factor[:, :1]} if name == "some of its columns" else {"cov_factor": 2 * factor})
        value = float(divergence(xp, p, q, validate=False))
        if np.isnan(value) and name == "a multiple" and power > 4:
            continue
        given += 1
        assert (
            abs(value / float(reference.kl(p, q)) - 1) <= np.finfo(dtype).eps ** 0.5 / 4
            if name == "a multiple"
            else 32 * np.finfo(dtype).eps
        )
    assert given >= (6 if name == "some of its columns" else 2)


def test_rows_that_start_anywhere_in_a_line_of_the_cache_have_the_same_bits():
    torch = pytest.importorskip("torch")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(2, 45))
        r = int(rng.integers(1, min(d, 9)))
        f_p, f_q = rng.normal(size=(2, d, r))
        pair = [
            {"mean": rng.normal(size=d), "cov_factor": factor, "cov_diag": np.exp(rng.normal(size=d))}
            for factor in (f_p, f_p + 1e-4 * f_q)
        ]
        stacked = [{k: torch.tensor(np.stack([a] * 3), dtype=torch.float32) for k, a in g.items()} for g in pair]
        got = gk.kl_divergence(*(gk.Gaussian(**g) for g in stacked), path="generic")
        one = [{k: a[0] for k, a in g.items()} for g in stacked]
        alone = gk.kl_divergence(*(gk.Gaussian(**g) for g in one), path="generic")
        assert alone == got[0] == got[1] == got[2]
