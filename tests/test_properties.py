"""What holds for the divergence of any two Gaussians, whatever the numbers."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spreads import DIAGONAL, KEYWORDS, covariance, example, gaussian, restated, rows, symmetric

import gausskl as gk
from helpers import to_numpy

BATCH, D = (4,), 3
MIXED = [("std", "std"), ("log_std", "var"), ("cov", "cov"), ("scale_tril", "precision"), ("tfp", "log_var"),
         ("low rank", "low rank"), ("low rank", "std"), ("cov", "low rank")]  # fmt: skip
EPS = 2.0**-52
few = settings(max_examples=10)

means = hnp.arrays(float, (*BATCH, D), elements=st.floats(-10, 10))
lengths = hnp.arrays(float, (*BATCH, D), elements=st.floats(0.125, 8))
factors = hnp.arrays(float, (*BATCH, D, D), elements=st.floats(-1, 1))


@st.composite
def gaussians(draw, name):
    """Draw a batch of Gaussians under a keyword, as NumPy arrays; condition numbers stay below about 1e6."""
    mean, scale = draw(means), draw(lengths)
    if name in DIAGONAL:
        of = {"std": scale, "var": scale, "log_std": np.log(scale), "log_var": np.log(scale)}
        return {"mean": mean, name: of[name]}
    lower = np.tril(draw(factors), -1) + np.eye(D)
    if name == "low rank":
        return {"mean": mean, "cov_factor": draw(factors)[..., :2], "cov_diag": scale}
    return restated(mean, symmetric((lower * scale[..., None, :]) @ (lower * scale[..., None, :]).mT), name)


def kl(xp, p, q, **options):
    return to_numpy(gk.kl_divergence(gaussian(xp, p), gaussian(xp, q), **options))


def condition(*gs):
    """Return the largest condition number of the covariances."""
    return max(np.linalg.cond(covariance(g)).max() for g in gs)


def agree(got, want, *gs):
    np.testing.assert_allclose(got, want, rtol=64 * EPS * condition(*gs), atol=64 * EPS * condition(*gs))


@pytest.mark.parametrize(("a", "b"), MIXED)
@given(st.data())
@few
def test_never_negative(xp, a, b, data):
    p, q = data.draw(gaussians(a)), data.draw(gaussians(b))
    assert (kl(xp, p, q) >= 0).all()


@pytest.mark.parametrize("step", [1, 3, 1000, 2**20])
@pytest.mark.parametrize("name", KEYWORDS)
@given(st.data())
@few
def test_never_negative_next_to_zero(name, step, data):
    """The two differ in the last bits of their spreads."""
    p = data.draw(gaussians(name))
    key = list(p)[1]
    q = p | {key: p[key] * (1 + step * EPS)}
    result = kl(np, p, q)
    assert ((result >= 0) & (result < 100 * (step * EPS * condition(p)) ** 2 + EPS**2)).all()


@pytest.mark.parametrize("name", KEYWORDS)
@given(st.data())
@few
def test_zero_for_equal(xp, name, data):
    p = data.draw(gaussians(name))
    assert not kl(xp, p, p).any()


@pytest.mark.parametrize("name", KEYWORDS)
@given(st.data())
@few
def test_positive_for_different(name, data):
    p = data.draw(gaussians(name))
    assert (kl(np, p, p | {"mean": p["mean"] + 1e-6}) > 0).all()


@pytest.mark.parametrize(("a", "b"), [("std", "var"), ("log_var", "log_var"), ("cov", "cov"), ("scale_tril", "cov")])
@given(st.data())
@few
def test_independent_blocks_add(xp, a, b, data):
    one, two = ([data.draw(gaussians(name)) for name in (a, b)] for _ in range(2))
    blocks = [side_by_side(g, h) for g, h in zip(one, two, strict=True)]
    agree(kl(xp, *blocks), kl(xp, *one) + kl(xp, *two), *blocks)


def side_by_side(g, h):
    """Return N(g) x N(h)."""
    joined = {}
    for key, value in g.items():
        if key in ("cov", "scale_tril"):
            zero = np.zeros_like(value)
            joined[key] = np.block([[value, zero], [zero, h[key]]])
        else:
            joined[key] = np.concatenate([value, h[key]], axis=-1)
    return joined


@pytest.mark.parametrize(("a", "b"), [("std", "std"), ("var", "std"), ("log_std", "log_std")])
@given(st.data(), hnp.arrays(float, D, elements=st.floats(0.1, 10)), hnp.arrays(float, D, elements=st.floats(-5, 5)))
@few
def test_stretching_and_shifting_changes_nothing(xp, a, b, data, stretch, shift):
    def moved(g, name):
        spread = {"std": g[name] * stretch, "var": g[name] * stretch**2, "log_std": g[name] + np.log(stretch)}
        return {"mean": g["mean"] * stretch + shift, name: spread[name]} if name in spread else g

    p, q = data.draw(gaussians(a)), data.draw(gaussians(b))
    np.testing.assert_allclose(kl(xp, moved(p, a), moved(q, b)), kl(xp, p, q), rtol=1e-10, atol=1e-12)


@given(st.data(), factors, factors)
@few
def test_an_invertible_map_changes_nothing(xp, data, a, b):
    """N(mean, cov) to N(A mean, A cov A^T), A the product of two triangular matrices of determinant 1."""
    p, q = data.draw(gaussians("cov")), data.draw(gaussians("cov"))
    a = (np.tril(a, -1) + np.eye(D)) @ (np.triu(b, 1) + np.eye(D))

    def moved(g):
        return {"mean": (a @ g["mean"][..., None])[..., 0], "cov": symmetric(a @ g["cov"] @ a.mT)}

    agree(kl(xp, moved(p), moved(q)), kl(xp, p, q), p, q, moved(p), moved(q))


@pytest.mark.parametrize(("a", "b"), [(a, b) for a in KEYWORDS for b in KEYWORDS if a not in DIAGONAL])
@given(st.data())
@few
def test_every_description_says_the_same(a, b, data):
    """One pair of covariances under any two keywords; a diagonal is then a dense or a low rank one as well."""
    p, q = data.draw(gaussians("cov")), data.draw(gaussians("std" if b in DIAGONAL else "cov"))
    want = kl(np, p, restated(q["mean"], covariance(q), "cov"))
    agree(kl(np, restated(p["mean"], covariance(p), a), restated(q["mean"], covariance(q), b)), want, p, q)


@pytest.mark.parametrize("b", KEYWORDS)
@pytest.mark.parametrize("a", DIAGONAL)
@given(st.data())
@few
def test_a_diagonal_may_be_given_under_any_keyword(a, b, data):
    p, q = data.draw(gaussians("std")), data.draw(gaussians("std"))
    got = kl(np, restated(p["mean"], covariance(p), a), restated(q["mean"], covariance(q), b))
    agree(got, kl(np, p, q), p, q)


@pytest.mark.parametrize("name", ["var", "low rank", "precision", "tfp"])
@given(st.data())
@few
def test_every_description_says_the_same_on_every_library(xp, name, data):
    p, q = data.draw(gaussians(name)), data.draw(gaussians(name))
    dense = [restated(g["mean"], covariance(g), "cov") for g in (p, q)]
    agree(kl(xp, p, q), kl(xp, *dense), p, q)


@pytest.mark.parametrize(("a", "b"), MIXED)
def test_broadcasting_is_a_loop(xp, a, b):
    p, q = example(a, (4, 1)), example(b, (3,), seed=1)
    got = kl(xp, p, q)
    assert got.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            np.testing.assert_allclose(got[i, j], kl(np, rows(p, (i, 0)), rows(q, j)), rtol=1e-12)


@pytest.mark.parametrize(("a", "b"), MIXED)
@given(st.data())
@few
def test_a_row_is_the_same_alone(a, b, data):
    p, q = data.draw(gaussians(a)), data.draw(gaussians(b))
    whole = kl(np, p, q)
    assert [kl(np, rows(p, i), rows(q, i)).item() for i in range(*BATCH)] == whole.tolist()


@pytest.mark.parametrize("power", [-300, -1, 10, 300])
@pytest.mark.parametrize("name", ["std", "scale_tril"])
@given(st.data())
@few
def test_a_power_of_two_changes_no_bit(xp, name, power, data):
    p, q = data.draw(gaussians(name)), data.draw(gaussians(name))

    def moved(g):
        return {key: np.ldexp(value, power) for key, value in g.items()}

    assert kl(xp, moved(p), moved(q)).tolist() == kl(xp, p, q).tolist()


@given(st.data())
@few
def test_contributions_add_up(xp, data):
    p, q = data.draw(gaussians("std")), data.draw(gaussians("log_var"))
    parts = kl(xp, p, q, per_dim=True)
    assert (parts >= 0).all()
    np.testing.assert_allclose(parts.sum(-1), kl(xp, p, q), rtol=8 * EPS)


@given(st.data())
@few
def test_the_order_of_dimensions_does_not_matter(xp, data):
    p, q = data.draw(gaussians("std")), data.draw(gaussians("cov"))
    turned = [
        {"mean": p["mean"][:, ::-1], "std": p["std"][:, ::-1]},
        {"mean": q["mean"][:, ::-1], "cov": q["cov"][:, ::-1, ::-1]},
    ]
    agree(kl(xp, *turned), kl(xp, p, q), p, q)


def test_the_smallest_difference_shows(xp):
    p = {"mean": np.zeros(3), "std": np.ones(3)}
    q = {"mean": np.array([0.0, 0.0, 2.0**-500]), "std": np.ones(3)}
    assert kl(xp, p, q) == 2.0**-1001
