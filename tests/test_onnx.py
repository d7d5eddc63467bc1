"""Exported with ndonnx, the divergence of diagonal Gaussians is an ONNX graph that serves batches of any size."""

import functools
import itertools

import numpy as np
import pytest
import regimes
from cases import DTYPES, within
from spreads import DIAGONAL, example

import gausskl as gk
import reference

ort = pytest.importorskip("onnxruntime")  # first: ndonnx warns where it is missing
ndx = pytest.importorskip("ndonnx")

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_keyword = pytest.mark.parametrize("keyword", DIAGONAL)


def lazy(*shape, dtype="float64"):
    return ndx.argument(shape=shape, dtype=getattr(ndx, dtype))


def session(inputs, result):
    return ort.InferenceSession(ndx.build(inputs, {"kl": result}).SerializeToString())


@functools.cache
def model(p, q, d, dtype, options):
    """A session for Gaussians under two keywords, or one and the standard normal, in batches of any size."""
    inputs = {}

    def side(letter, keyword):
        arrays = {name: lazy("N", d, dtype=dtype) for name in ("mean", keyword)}
        inputs.update({f"{name}_{letter}": array for name, array in arrays.items()})
        return gk.Gaussian(**arrays)

    return session(inputs, gk.kl_divergence(side("p", p), q and side("q", q), **dict(options)))


def exported(p, q=None, **options):
    """The divergence of Gaussians given as dicts of NumPy arrays, by an exported model."""
    feed = {f"{name}_{letter}": a for letter, g in (("p", p), ("q", q or {})) for name, a in g.items()}
    keywords = keyword_of(p), q and keyword_of(q)
    (result,) = model(*keywords, p["mean"].shape[-1], p["mean"].dtype.name, tuple(options.items())).run(None, feed)
    return result


def keyword_of(g):
    (keyword,) = g.keys() - {"mean"}
    return keyword


def by_numpy(p, q=None, **options):
    return gk.kl_divergence(gk.Gaussian(**p), q and gk.Gaussian(**q), path="generic", **options)


def rounded(keyword, rows, seed, dtype):
    return {name: array.astype(dtype) for name, array in example(keyword, (rows,), seed=seed).items()}


def agree(p, q, rows, dtype, **options):
    """An exported model gives what NumPy gives, in dtype, shape and numbers."""
    pair = rounded(p, rows, 0, dtype), q and rounded(q, rows, 1, dtype)
    got, want = exported(*pair, **options), by_numpy(*pair, **options)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=1e3 * np.finfo(dtype).eps)


@every_dtype
@pytest.mark.parametrize("q", [*DIAGONAL, None])
@pytest.mark.parametrize("p", DIAGONAL)
def test_one_model_serves_every_size_of_batch(p, q, dtype):
    for rows in (1, 7):
        agree(p, q, rows, dtype)


@pytest.mark.parametrize("options", [{"per_dim": True}, {"reduction": "sum"}, {"reduction": "mean"}], ids=str)
@pytest.mark.parametrize(("p", "q"), [*itertools.pairwise([*DIAGONAL, None])])
def test_options_are_exported(p, q, options):
    for rows in (1, 7):
        agree(p, q, rows, "float64", **options)


@every_dtype
@every_keyword
def test_within_6_ulp_in_every_regime(keyword, dtype):
    for name, p, q in regimes.diagonal(keyword, DTYPES[dtype]):
        got = exported(p, q)
        errors = reference.ulp_error(got, reference.kl(p, q), DTYPES[dtype])
        assert within(errors, 6), (name, errors)
        assert (got >= 0).all(), name


@every_dtype
@every_keyword
def test_exactly_0_for_equal_gaussians(keyword, dtype):
    p = rounded(keyword, 1000, 0, dtype)
    assert (exported(p, p) == 0).all()


@every_dtype
@pytest.mark.parametrize(("a", "b"), [*itertools.permutations(DIAGONAL, 2)])
def test_never_negative_however_close(a, b, dtype):
    ours, theirs = (regimes.diagonal(keyword, DTYPES[dtype]) for keyword in (a, b))
    for (name, p, _), (_, _, q) in zip(ours, theirs, strict=True):
        if name.startswith(("near", "equal")):
            assert (exported(p, q) >= 0).all(), name


@every_dtype
@pytest.mark.parametrize("keyword", ["std", "var"])
def test_a_bad_element_is_nan_and_no_other(keyword, dtype):
    p = rounded(keyword, 4, 0, dtype)
    p[keyword][1, 0], p[keyword][2, 0] = 0, -1
    np.testing.assert_array_equal(np.isnan(exported(p)), [False, True, True, False])


def test_unknown_batches_broadcast():
    inputs = {"mean": lazy("N", 1, 3), "other": lazy("M", 3)}
    p, q = gk.Gaussian(inputs["mean"], std=2.0), gk.Gaussian(inputs["other"], log_var=0.5)
    assert gk.plan(p, q).batch_shape == (None, None)
    rng = np.random.default_rng(0)
    mean, other = rng.normal(size=(5, 1, 3)), rng.normal(size=(4, 3))
    (got,) = session(inputs, gk.kl_divergence(p, q)).run(None, {"mean": mean, "other": other})
    np.testing.assert_allclose(got, by_numpy({"mean": mean, "std": 2.0}, {"mean": other, "log_var": 0.5}), rtol=1e-13)


def test_the_number_of_dimensions_must_be_known():
    with pytest.raises(ValueError, match=r"shape \(None, None\): the number of dimensions must be known"):
        gk.Gaussian(lazy("N", "d"), std=1.0)


def test_values_that_are_not_there_cannot_be_validated():
    with pytest.raises(ValueError, match="validate=True needs values"):
        gk.kl_divergence(gk.Gaussian(lazy("N", 3), std=1.0), validate=True)


def test_values_that_are_there_are_judged():
    p = gk.Gaussian(ndx.asarray(np.zeros(2)), std=ndx.asarray(np.array([1.0, -1.0])))
    assert np.isnan(gk.kl_divergence(p, validate=False).unwrap_numpy())
    with pytest.raises(ValueError, match=r"std\[1\] = -1.0"):
        gk.kl_divergence(p)


@every_keyword
def test_eager_arrays(keyword):
    p, q = (example(keyword, (5,), seed=seed) for seed in range(2))
    ours = [gk.Gaussian(**{name: ndx.asarray(array) for name, array in g.items()}) for g in (p, q)]
    got = gk.kl_divergence(*ours, reduction="mean").unwrap_numpy()
    np.testing.assert_allclose(got, by_numpy(p, q, reduction="mean"), rtol=1e-13)


@pytest.mark.parametrize("name", ["cov", "scale_tril", "row", "precision", "low rank"])
def test_matrices_are_refused(name):
    arrays = {key: value if key == "packing" else ndx.asarray(value) for key, value in example(name).items()}
    p = gk.Gaussian(**arrays)
    for call in (gk.kl_divergence, gk.plan):
        with pytest.raises(TypeError, match=r"p is (dense|low rank) \(\w+\), and ndonnx has no linear algebra"):
            call(p)
