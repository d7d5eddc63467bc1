"""The compiled kernel for low-rank pairs: it is right wherever it answers, and says so where it does not."""

import functools
import importlib

import numpy as np
import pytest
import regimes
from cases import DTYPES

import reference

low_rank = pytest.importorskip("gausskl._fast.cpu.low_rank.kernel")

LIMIT = {np.float64: 1e3, np.float32: 1.0}  # units of eps

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())


@functools.cache
def compiled(bits):
    return importlib.import_module("gausskl._fast.cpu.compiler").kernel("low_rank.kernel", "forward", bits)


def kernel(p, q):
    """Divergence of each row, NaN where the formulas are asked, and how many are not finite."""
    sides = [[g["mean"], g["cov_factor"], g["cov_diag"]] for g in (p, q)]
    rows = max(array.shape[0] for side in sides for array in side)
    d, r_p, r_q = sides[0][1].shape[1], sides[0][1].shape[2], sides[1][1].shape[2]
    out = np.empty(rows, p["mean"].dtype)
    work = np.full(low_rank.work_size(d, r_p, r_q) + 64, 7.0)
    not_finite = compiled(out.dtype.itemsize * 8)(*sides[0], *sides[1], out, work[:-64], 0, rows)
    assert (work[-64:] == 7.0).all()
    assert not_finite == np.count_nonzero(~np.isfinite(out))
    return out


def random(dtype, d, r, rows=3, seed=0):
    rng = np.random.default_rng((d, r, seed))
    arrays = rng.normal(size=(rows, d)), rng.normal(size=(rows, d, r)), rng.uniform(0.2, 2, (rows, d))
    return dict(zip(("mean", "cov_factor", "cov_diag"), (a.astype(dtype) for a in arrays), strict=True))


@pytest.mark.parametrize(("d", "r"), [(1, 1), (2, 4), (6, 2), (20, 4), (300, 9)])
@every_dtype
def test_every_regime(dtype, d, r):
    for name, p, q in regimes.low_rank(dtype, d, r):
        got = kernel(p, q)
        answered = np.isfinite(got)
        assert answered.all() or r >= d or "1e-6" in name, name
        errors = reference.eps_error(got[answered], reference.kl(p, q)[answered], dtype)
        assert (np.asarray(errors) <= LIMIT[dtype]).all(), f"{name}: {errors}"
        assert not (got < 0).any()
        assert "equal" not in name or (got == 0).all()


@pytest.mark.parametrize(("d", "r_p", "r_q"), [(7, 0, 3), (9, 4, 0), (8, 0, 0), (33, 2, 5), (5, 3, 9), (30, 6, 1)])
@every_dtype
def test_two_ranks(dtype, d, r_p, r_q):
    p, q = random(dtype, d, r_p, rows=2), random(dtype, d, r_q, rows=2, seed=1)
    got = kernel(p, q)
    trusted = np.isfinite(got)
    assert trusted.all() or max(r_p, r_q) >= d  # then the covariance is the better way, which is not the kernel's
    errors = reference.eps_error(got[trusted], reference.kl(p, q)[trusted], dtype)
    assert (np.asarray(errors) <= LIMIT[dtype]).all()


@every_dtype
def test_a_factor_next_to_nothing(dtype):
    """The leading terms cancel to fourth order in the factor."""
    p, q = random(dtype, 6, 2), random(dtype, 6, 0)
    p["mean"], p["cov_diag"] = q["mean"], q["cov_diag"]
    for scale in (1.0, 1e-3, 1e-6, 1e-9):
        small = p | {"cov_factor": (p["cov_factor"] * scale).astype(dtype)}
        got = kernel(small, q)
        answered = np.isfinite(got)
        errors = reference.eps_error(got[answered], reference.kl(small, q)[answered], dtype)
        assert (np.asarray(errors) <= LIMIT[dtype]).all()


@every_dtype
def test_the_same_row_has_the_same_bits_in_any_batch_and_layout(dtype):
    for d, r in ((5, 2), (300, 7), (784, 16)):
        p, q = random(dtype, d, r), random(dtype, d, r, seed=1)
        whole = kernel(p, q)
        one = {name: a[1:2] for name, a in p.items()}, {name: a[1:2] for name, a in q.items()}
        assert kernel(*one)[0] == whole[1]
        strided = {name: np.asfortranarray(a) for name, a in p.items()}
        backwards = {name: a[:, ::-1].copy()[:, ::-1] for name, a in q.items()}
        np.testing.assert_array_equal(kernel(strided, backwards), whole)
        shared = {name: a[:1] for name, a in q.items()}
        repeated = {name: np.repeat(a[:1], 3, axis=0) for name, a in q.items()}
        np.testing.assert_array_equal(kernel(p, shared), kernel(p, repeated))


@every_dtype
def test_means_and_diagonals_of_one_number_serve_all_dimensions(dtype):
    p, q = random(dtype, 20, 3), random(dtype, 20, 3, seed=1)
    q["mean"], q["cov_diag"] = q["mean"][:, :1], q["cov_diag"][:, :1]
    wide = q | {name: np.repeat(q[name], 20, axis=1) for name in ("mean", "cov_diag")}
    np.testing.assert_array_equal(kernel(p, q), kernel(p, wide))


@pytest.mark.parametrize(
    ("name", "value"),
    [("cov_diag", 0.0), ("cov_diag", -1.0), ("cov_diag", np.nan), ("mean", np.inf), ("cov_factor", np.nan)],
)
@pytest.mark.parametrize("side", [0, 1])
@every_dtype
def test_what_is_not_valid_is_nan_in_its_own_row(dtype, side, name, value):
    sides = random(dtype, 20, 3), random(dtype, 20, 3, seed=1)
    good = kernel(*sides)
    sides[side][name][1, 7] = value
    got = kernel(*sides)
    assert not np.isfinite(got[1])
    np.testing.assert_array_equal(got[[0, 2]], good[[0, 2]])


def test_a_rotated_factor_is_left_to_the_formulas():
    """The same covariance in another description: nothing is left of large terms, and no guess is made."""
    q = random(np.float64, 20, 3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert np.isnan(kernel(q | {"cov_factor": q["cov_factor"] @ turn}, q)).all()
