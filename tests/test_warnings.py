"""Whatever the user has said about warnings and floating-point errors, results and sentences are the same."""

import re
import warnings

import numpy as np
import pytest
from spreads import KEYWORDS, array_names, example, gaussian, restated

import gausskl as gk
from helpers import make, to_numpy

STRICT = {
    "warnings are errors": lambda: None,
    "NumPy raises": lambda: np.seterr(all="raise"),
}
BAD = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-320, -1e300, 1e300]
PATHS = ("auto", "generic")


@pytest.fixture(params=STRICT)
def strict(request):
    before = np.geterr()
    with warnings.catch_warnings():
        yield lambda: (warnings.simplefilter("error"), STRICT[request.param]())
    np.seterr(**before)


def outcome(call):
    """The bits of a result, or the sentence in its place."""
    try:
        return to_numpy(call()).tobytes()
    except ValueError as error:
        return str(error)


def quietly(call):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return outcome(call)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", KEYWORDS)
def test_bad_values(name, path, strict):
    calls = []
    for key in array_names(example(name)):
        for value in BAD:
            arrays = {k: a if k == "packing" else a.copy() for k, a in example(name, (3,)).items()}
            arrays[key][(1,) * arrays[key].ndim] = value
            for other in ("std", "cov", "low rank", None):
                for dtype in ("float64", "float32"):
                    calls.append((arrays, other, dtype, "none" if dtype == "float64" else "mean"))

    def call(arrays, other, dtype, reduction):
        with np.errstate(all="ignore"):
            p = gaussian(np, arrays, dtype)
            q = None if other is None else gaussian(np, example(other, (3,), seed=1), dtype)
        return lambda: gk.kl_divergence(p, q, path=path, reduction=reduction)

    ready = [call(*arguments) for arguments in calls]
    want = [quietly(each) for each in ready]
    strict()
    assert [outcome(each) for each in ready] == want
    assert sum(isinstance(each, str) for each in want) > 20


@pytest.mark.parametrize("name", KEYWORDS)
def test_the_ends_of_the_range(name, strict):
    """Underflow, overflow and their reductions raise nothing either."""
    ready = []
    for scale in (1e-300, 1e-160, 1e-40, 1e40, 1e150):
        for reduction in ("none", "sum", "mean"):
            p = gaussian(np, restated(np.ones((2, 3)), scale * np.eye(3) * np.ones((2, 1, 1)), name))
            q = gaussian(np, restated(np.zeros((2, 3)), np.eye(3) / scale * np.ones((2, 1, 1)), name))
            ready += [
                lambda p=p, q=q, r=reduction, path=path: gk.kl_divergence(p, q, reduction=r, path=path)
                for path in PATHS
            ]
    want = [quietly(each) for each in ready]
    strict()
    assert [outcome(each) for each in ready] == want


@pytest.mark.parametrize("value", [1e-50, 1e-40, 1e-320, 0.1])
def test_numbers_that_are_rounded(value, strict):
    strict()
    mean = np.zeros(3, np.float32)
    for given in (value, [value] * 3):
        assert gk.Gaussian(mean, std=given).arrays[0].dtype == np.float32
    with pytest.raises(ValueError, match=re.escape("std holds 1e+300, which is beyond the range of float32")):
        gk.Gaussian(mean, std=1e300)


@pytest.mark.parametrize("name", ["std", "log_var", "cov", "scale_tril", "low rank"])
def test_gradients_in_torch(name, strict):
    torch = pytest.importorskip("torch")

    def gradients(value, reduction):
        arrays = {k: torch.from_numpy(a.astype(np.float32)) for k, a in example(name, (5,)).items()}
        key = list(arrays)[1]
        arrays[key][(1,) * arrays[key].ndim] = value
        arrays = {k: a.requires_grad_() for k, a in arrays.items()}
        gk.kl_divergence(gk.Gaussian(**arrays), reduction=reduction, validate=False).sum().backward()
        return np.concatenate([a.grad.numpy().ravel() for a in arrays.values()])

    ready = [
        lambda v=v, r=r: gradients(v, r) for v in (np.nan, np.inf, 0.0, -1.0, 1e-30, 1e30) for r in ("none", "sum")
    ]
    want = [quietly(each) for each in ready]
    strict()
    assert [outcome(each) for each in ready] == want


def test_integers(xp, strict):
    strict()
    p = gk.Gaussian(make(xp, np.ones((2, 3), np.int32)), std=1.0)
    np.testing.assert_array_equal(to_numpy(gk.kl_divergence(p)), [1.5, 1.5])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_dask_arrays_that_are_computed_later(reduction, strict):
    da = pytest.importorskip("dask.array")
    mean, std = np.ones((4, 3), np.float32), np.full((4, 3), 1e-30, np.float32)
    strict()
    p, q = (gk.Gaussian(da.from_array(sign * mean, chunks=2), std=da.from_array(std)) for sign in (1, -1))
    assert np.all(gk.kl_divergence(p, q, reduction=reduction).compute() == np.inf)
