"""Gradients are as right as the divergence itself, exactly 0 for equal arguments, and finite where they can be."""

import functools
import itertools

import numpy as np
import pytest
import regimes
from cases import DTYPES, STRUCTURES, side, symmetric, within
from differentiation import DIFFERENTIABLE, gradients
from mpmath import mp

import reference

if not DIFFERENTIABLE:
    pytest.skip("no library under test differentiates", allow_module_level=True)

KEYWORDS = list(regimes.SPREAD)
NARROW = "std", "log_std", "log_var", "scale_tril"  # a variance of 1e-60 is no float32

every_backend = pytest.mark.parametrize("backend", DIFFERENTIABLE, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())


def exact(p, q):
    """The exact gradients, and the sizes of the terms that they are the sums of: spread's part and mean's part."""
    whole = reference.gradient(p, q)
    spread = reference.gradient(p | {"mean": q["mean"]}, q)
    with mp.workdps(40):
        sizes = [
            {name: abs(s[name]) + abs(w[name] - s[name]) for name in w} for w, s in zip(whole, spread, strict=True)
        ]
    return whole, sizes


def entrywise(got, want, size):
    """Error of every entry in eps of the size of its terms; a term below the normal range may count as 0."""
    info = np.finfo(got.dtype)
    largest, smallest, eps = float(info.max), float(info.smallest_normal), float(info.eps)

    def error(g, w, s):
        if not np.isfinite(g):
            return 0.0 if np.isinf(g) and abs(w) > largest else np.inf
        return float(max(abs(mp.mpf(float(g)) - w) - smallest, 0) / (s + smallest) / eps)

    with mp.workdps(40):
        return np.vectorize(error, otypes=[float])(got, want, size)


def normwise(got, want, size):
    """Error of the whole array, relative to the size of its terms."""
    with mp.workdps(40):
        error = mp.sqrt((np.abs(want - got.astype(float)) ** 2).sum())
        length = mp.sqrt((size**2).sum())
        return float(error / length) / np.finfo(got.dtype).eps


def worst(backend, p, q, wanted, measure):
    """Keyword of each array of p and q to the error of its gradient in eps; a factor has a lower triangle."""
    found = [
        {name: np.tril(grad) if name == "scale_tril" else grad for name, grad in grads.items()}
        for grads in gradients(backend, p, q)
    ]
    return {
        f"{'pq'[i]}.{name}": np.max(measure(found[i][name], wanted[0][i][name], wanted[1][i][name]))
        for i in (0, 1)
        for name in found[i]
    }


# ---- diagonal ----


def single(g):
    return {name: a[0] for name, a in g.items()}


@functools.cache
def diagonal(keyword, dtype):
    """Every regime in which the squares of the numbers stay in the range of the dtype."""
    cases = []
    for name, p, q in regimes.diagonal(keyword, dtype, rows=1):
        if "scale" not in name and "ratio" not in name:
            cases.append((name, single(p), single(q), exact(single(p), single(q))))
    return cases


@pytest.mark.parametrize("keyword", KEYWORDS)
@every_dtype
@every_backend
def test_diagonal_within_8_eps_of_the_size_of_the_terms(backend, keyword, dtype):
    """By a spread of q, the gradient is -(r² - 1) - z² up to a factor: each of the two is right, not their sum."""
    for name, p, q, wanted in diagonal(keyword, dtype):
        errors = worst(backend, p, q, wanted, entrywise)
        assert within(list(errors.values()), 8), (name, errors)


@functools.cache
def extreme(keyword, dtype):
    """Variance ratios and scales over the range of the dtype."""
    return [
        (name, single(p), single(q), exact(single(p), single(q)))
        for name, p, q in regimes.diagonal(keyword, dtype, rows=1)
        if ("scale" in name or "ratio" in name) and "subnormal" not in name
    ]


@pytest.mark.parametrize("keyword", KEYWORDS)
@every_dtype
@every_backend
def test_diagonal_gradients_are_right_at_extreme_scales(backend, keyword, dtype):
    """What overflows is infinite; everything else is as right as at ordinary scales."""
    for name, p, q, wanted in extreme(keyword, dtype):
        errors = worst(backend, p, q, wanted, entrywise)
        assert within(list(errors.values()), 8), (name, errors)


@functools.cache
def mixed(keyword_p, keyword_q, dtype):
    p, q = side(keyword_p, dtype, 8), side(keyword_q, dtype, 8, seed=1)
    return p, q, exact(p, q)


@pytest.mark.parametrize(
    ("keyword_p", "keyword_q"), [pair for pair in itertools.product(KEYWORDS, repeat=2) if pair[0] != pair[1]]
)
@every_dtype
@every_backend
def test_mixed_diagonal_pairs(backend, keyword_p, keyword_q, dtype):
    """A converted spread is wrong by a rounding, and the small entries of a gradient by as much as the large."""
    p, q, wanted = mixed(keyword_p, keyword_q, dtype)
    errors = worst(backend, p, q, wanted, normwise)
    assert within(list(errors.values()), 16), errors


@pytest.mark.parametrize("delta", [0.0, 1.0])
@pytest.mark.parametrize("name_q", NARROW)
@pytest.mark.parametrize("name_p", NARROW)
@every_backend
def test_std_1e_30_against_1_in_float32(backend, name_p, name_q, delta):
    """The divergence is finite and so are its gradients: the largest is -1/std, -1e30."""

    def spread(name, std):
        value = {"std": std, "log_std": np.log(std), "log_var": 2 * np.log(std), "scale_tril": std * np.eye(2)}[name]
        return {name: np.broadcast_to(value, (2, 2) if name == "scale_tril" else 2).astype(np.float32)}

    p = {"mean": np.zeros(2, np.float32), **spread(name_p, 1e-30)}
    q = {"mean": np.full(2, delta, np.float32), **spread(name_q, 1.0)}
    errors = worst(backend, p, q, exact(p, q), entrywise)
    # A logarithm of 69 is rounded by 4e-6, so its exponential is wrong by 32 eps where one is taken.
    assert within(list(errors.values()), 8 if name_p == name_q else 64), errors


# ---- dense ----

DISTANCES = {np.float64: (1.0, 1e-4, 1e-8), np.float32: (1.0, 1e-2, 1e-4)}


def dense_pair(keyword, dtype, distance, cond, d=5):
    rng = np.random.default_rng(7)
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    upper = np.linalg.qr(right * np.geomspace(1, 1 / cond, d) @ left.T)[1]
    factor = upper.T * np.sign(np.diag(upper))
    step = factor @ (np.eye(d) + distance * np.tril(rng.uniform(-0.4, 0.4, (d, d))))
    mean = rng.standard_normal(d)
    moved = mean + distance * factor @ rng.standard_normal(d)
    spreads = (step, factor) if keyword == "scale_tril" else (step @ step.T, factor @ factor.T)
    if keyword != "scale_tril":
        spreads = map(symmetric, spreads)
    return [
        {"mean": m.astype(dtype), keyword: np.tril(s).astype(dtype) if keyword == "scale_tril" else s.astype(dtype)}
        for m, s in zip((moved, mean), spreads, strict=True)
    ]


@functools.cache
def dense(keyword, dtype, cond):
    cases = []
    for distance in DISTANCES[dtype]:
        p, q = dense_pair(keyword, dtype, distance, cond)
        kappa = (
            reference.cond_row_scaled(q[keyword])
            if keyword == "scale_tril"
            else max(reference.cond_correlation(g[keyword]) for g in (p, q))
        )
        cases.append((distance, p, q, exact(p, q), 16 + kappa))
    return cases


@pytest.mark.parametrize("cond", [2.0, 30.0])
@pytest.mark.parametrize("keyword", ["scale_tril", "cov", "precision"])
@every_dtype
@every_backend
def test_dense_within_16_and_the_condition(backend, keyword, dtype, cond):
    for distance, p, q, wanted, limit in dense(keyword, dtype, cond):
        errors = worst(backend, p, q, wanted, normwise)
        assert within(list(errors.values()), limit), (distance, limit, errors)


@functools.cache
def structures(name_p, name_q, dtype):
    p, q = side(name_p, dtype), side(name_q, dtype, seed=1)
    return p, q, exact(p, q)


@pytest.mark.parametrize("name_q", STRUCTURES)
@pytest.mark.parametrize("name_p", STRUCTURES)
@every_dtype
@every_backend
def test_every_pair_of_structures(backend, name_p, name_q, dtype):
    """Condition numbers here are below 20."""
    p, q, wanted = structures(name_p, name_q, dtype)
    errors = worst(backend, p, q, wanted, normwise)
    assert within(list(errors.values()), 64), errors


@pytest.mark.parametrize("other", STRUCTURES)
@every_dtype
@every_backend
def test_a_step_along_the_gradient_leaves_a_factor_lower_triangular(backend, other, dtype):
    factor, second = side("scale_tril", dtype), side(other, dtype, seed=1)
    by_p = gradients(backend, factor, second)[0]["scale_tril"]
    by_q = gradients(backend, second, factor)[1]["scale_tril"]
    for grad in (by_p, by_q):
        np.testing.assert_array_equal(grad, np.tril(grad))


# ---- equal arguments, shared arguments ----


@pytest.mark.parametrize("name", STRUCTURES)
@every_dtype
@every_backend
def test_exactly_0_for_equal_arguments(backend, name, dtype):
    for d in (1, 3, 6):
        g = side(name, dtype, d)
        for grads in gradients(backend, g, g):
            assert all((grad == 0).all() for grad in grads.values()), (d, grads)


@pytest.mark.parametrize("name", STRUCTURES)
@every_backend
def test_a_shared_q_collects_the_sum_over_the_batch(backend, name):
    rows = [side(name, seed=seed) for seed in (1, 2, 3)]
    q = side(name, seed=4)
    batch = {key: a if key == "packing" else np.stack([row[key] for row in rows]) for key, a in q.items()}
    _, together = gradients(backend, batch, q)
    alone = [gradients(backend, row, q)[1] for row in rows]
    for key, grad in together.items():
        assert grad.shape == q[key].shape
        want = np.sum([grads[key] for grads in alone], axis=0)
        np.testing.assert_allclose(grad, want, rtol=1e-13, atol=1e-13 * np.abs(want).max())


@pytest.mark.parametrize("keyword", KEYWORDS)
@every_backend
def test_a_scalar_spread_collects_the_sum_over_the_dimensions(backend, keyword):
    p, q = side(keyword), side(keyword, seed=1)
    scalar = q | {keyword: q[keyword][:1].reshape(())}
    _, whole = gradients(backend, p, scalar)
    _, each = gradients(backend, p, scalar | {keyword: np.full(3, scalar[keyword])})
    assert whole[keyword].shape == ()
    np.testing.assert_allclose(whole[keyword], each[keyword].sum(), rtol=1e-14)


@every_backend
@pytest.mark.parametrize("name", ["std", "var", "cov", "scale_tril", "precision", "low_rank"])
def test_a_bad_element_has_no_gradient_that_looks_like_one(backend, name):
    """With validate=False its gradient is NaN, and those of its neighbours are what they are without it."""
    p, q = side(name), side("std", seed=1)
    spread = "cov_diag" if name == "low_rank" else name
    batch = {k: np.stack([a] * 3) for k, a in p.items()}
    good, _ = gradients(backend, batch, q)
    batch[spread][1] *= 0 if name == "scale_tril" else -1
    bad, _ = gradients(backend, batch, q, validate=False)
    assert np.isnan(bad[spread][1]).any()
    for key, grad in good.items():
        np.testing.assert_array_equal(np.delete(bad[key], 1, axis=0), np.delete(grad, 1, axis=0))


# ---- low rank ----


@functools.cache
def thin(name_p, dtype, power):
    """q has two columns of about 1, and in every dimension a small variance beside them."""
    d, diag = 6, float(np.finfo(dtype).eps) ** power
    q = side("low_rank", dtype, d, seed=1) | {"cov_diag": np.full(d, diag, dtype)}
    p = {
        "std": side("std", dtype, d),
        "other": side("low_rank", dtype, d),
        "column": q | {"mean": side("std", dtype, d)["mean"], "cov_factor": q["cov_factor"][:, :1]},
    }[name_p]
    return p, q, exact(p, q)


@pytest.mark.parametrize("power", [0.5, 1, 2])
@pytest.mark.parametrize("name_p", ["std", "other", "column"])
@every_dtype
@every_backend
def test_low_rank_beside_a_small_variance(backend, name_p, dtype, power):
    """What is the same in every dimension cancels from one over that variance down to 1; no digit goes with it."""
    p, q, wanted = thin(name_p, dtype, power)
    errors = worst(backend, p, q, wanted, normwise)
    assert within(list(errors.values()), 64), errors
