"""Large matrices are worked off in blocks, and each element by the formula that it needs; the result is as right."""

import numpy as np
import pytest
import regimes
from cases import check, divergence, symmetric
from test_accuracy_dense import by_cov, case

import reference
from gausskl._arrays import triangular
from gausskl._formulas import near_or_far


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that matrices of 20 rows are large ones."""
    monkeypatch.setattr(triangular, "BASE", 4)
    monkeypatch.setattr(near_or_far, "BASE", 4)


@pytest.mark.usefixtures("small_blocks")
def test_cov_within_16_and_the_condition_of_the_correlations(xp):
    cases = [case(name, p, q, by_cov(p["cov"], q["cov"])) for name, p, q in regimes.cov(np.float64, 19, rows=1)]
    check(xp, cases, reference.eps_error)


@pytest.mark.usefixtures("small_blocks")
def test_scale_tril_within_16_and_the_condition_of_the_row_scaled_factor(xp):
    cases = [
        case(name, p, q, 16 + reference.cond_row_scaled(q["scale_tril"]))
        for name, p, q in regimes.scale_tril(np.float64, 19, rows=1)
    ]
    check(xp, cases, reference.eps_error)


# ---- near and far elements in one batch ----


def batch(d):
    """Pairs far apart, near, equal, and far apart in their last dimension alone."""
    rng = np.random.default_rng(d)

    def covs():
        factor = rng.standard_normal((4, d, d + 4)) / np.sqrt(d)
        return symmetric_stack(factor @ factor.mT + 0.5 * np.eye(d))

    p, q = ({"mean": rng.standard_normal((4, d)), "cov": covs()} for _ in range(2))
    p["cov"][1:] = q["cov"][1:]
    p["cov"][1] *= 1 + 1e-6
    p["cov"][3, -1, -1] += 9
    p["mean"][2] = q["mean"][2]
    return p, q


def symmetric_stack(stack):
    return np.stack([symmetric(a) for a in stack])


@pytest.mark.parametrize("d", [5, 70])
@pytest.mark.parametrize("keyword_q", ["cov", "scale_tril"])
@pytest.mark.parametrize("keyword_p", ["cov", "scale_tril"])
def test_near_and_far_in_one_batch(xp, keyword_p, keyword_q, d):
    p, q = (
        g if keyword == "cov" else {"mean": g["mean"], "scale_tril": np.linalg.cholesky(g["cov"])}
        for g, keyword in zip(batch(d), (keyword_p, keyword_q), strict=True)
    )
    got = divergence(xp, p, q)
    alone = [divergence(xp, *({k: a[i] for k, a in g.items()} for g in (p, q))) for i in range(4)]
    np.testing.assert_allclose(got, alone, rtol=1e-14, atol=0 if keyword_p == keyword_q else 1e-25)
    assert keyword_p != keyword_q or got[2] == 0
    shared = divergence(xp, p, {k: a[0] for k, a in q.items()})
    each = divergence(xp, p, {k: np.stack([a[0]] * 4) for k, a in q.items()})
    np.testing.assert_allclose(shared, each, rtol=1e-14)


def test_a_bad_matrix_stays_alone(xp):
    p, q = batch(70)
    want = divergence(xp, p, q)
    p["cov"][0, 60, 60] = -1.0
    q["cov"][1, 3, 4] += 1.0
    got = divergence(xp, p, q, validate=False)
    assert np.isnan(got[:2]).all()
    np.testing.assert_allclose(got[2:], want[2:], rtol=1e-14)
