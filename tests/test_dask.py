"""Dask arrays: nothing is computed before it is asked for, whatever the chunks, and the bits are NumPy's."""

import numpy as np
import pytest
from spreads import KEYWORDS, example

import gausskl as gk

da = pytest.importorskip("dask.array")

PAIRS = [("std", "std"), ("log_var", "var"), ("std", "cov"), ("cov", "std"), ("cov", "cov"), ("row", "tfp"),
         ("scale_tril", "log_std"), ("precision", "cov"), ("low rank", "low rank"), ("low rank", "var"),
         ("cov", "low rank")]  # fmt: skip


def chunked(arrays, chunks):
    """Return a Gaussian of Dask arrays; ``chunks`` are those of the batch axes and of the event axes."""
    *batch, event = chunks

    def cut(array):
        return da.from_array(array, chunks=(*batch, *(event,) * (array.ndim - len(batch))))

    return gk.Gaussian(**{k: v if k == "packing" else cut(v) for k, v in arrays.items()})


def identical(got, want):
    np.testing.assert_array_equal(np.asarray(got.compute(scheduler="synchronous")), want, strict=True)


def explodes(*_):
    raise AssertionError("a block was computed")


def exploding(arrays):
    """Return a Gaussian whose blocks raise when they are computed."""

    def bomb(array):
        return da.map_blocks(explodes, da.from_array(array, chunks=2), dtype=array.dtype, meta=array[:0])

    return gk.Gaussian(**{k: v if k == "packing" else bomb(v) for k, v in arrays.items()})


@pytest.mark.parametrize("name", KEYWORDS)
def test_nothing_is_computed_early(name):
    p, q = exploding(example(name, (4,))), exploding(example("std", (4,)))
    repr(p)
    str(gk.plan(p, q))
    results = [
        gk.kl_divergence(p, q),
        gk.kl_divergence(q, p),
        gk.kl_divergence(p, reduction="mean"),
        gk.kl_divergence(p),
    ]
    results.append(gk.kl_divergence(q, per_dim=True, validate=False))
    for result in results:
        assert isinstance(result, da.Array)
        with pytest.raises(AssertionError, match="a block was computed"):
            result.compute(scheduler="synchronous")


@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_value_raises_nothing_when_it_is_computed(name, bad):
    arrays = example(name, (4,))
    arrays["mean"][2, 0] = bad
    result = gk.kl_divergence(chunked(arrays, (1, 3))).compute(scheduler="synchronous")
    assert np.isfinite(result).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("chunks", [((6, 3), (6, 3)), ((4, 3), (3, 1)), ((1, 2), (5, 2)), (((1, 5), 1), (2, 1))])
def test_every_chunking_gives_the_bits_of_numpy(a, b, chunks):
    p, q = example(a, (6,)), example(b, (6,), seed=1)
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), path="generic")
    identical(gk.kl_divergence(chunked(p, chunks[0]), chunked(q, chunks[1])), want)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_batches_broadcast(a, b):
    p, q = example(a, (8, 1)), example(b, (6,), seed=1)
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), path="generic")
    result = gk.kl_divergence(chunked(p, (3, 1, 3)), chunked(q, (4, 3)))
    assert result.shape == (8, 6)
    assert result.chunks == ((3, 3, 2), (4, 2))
    identical(result, want)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_shape_dtype_chunks_and_meta(a, b):
    for dtype in (np.float32, np.float64, np.float16):
        sides = [
            {k: v if k == "packing" else v.astype(dtype) for k, v in example(name, (6,)).items()} for name in (a, b)
        ]
        result = gk.kl_divergence(chunked(sides[0], (4, 3)), chunked(sides[1], (2, 3)))
        assert (result.shape, result.dtype) == ((6,), dtype)
        assert sum(result.chunks[0]) == 6
        assert isinstance(result._meta, np.ndarray)
        assert (result._meta.ndim, result._meta.dtype) == (1, dtype)
        computed = result.compute(scheduler="synchronous")
        assert (computed.shape, computed.dtype) == ((6,), dtype)


@pytest.mark.parametrize("chunks", [(6, 3), (4, 2), (1, 1)])
def test_per_dim(chunks):
    p, q = example("std", (6,)), example("log_var", (6,), seed=1)
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), per_dim=True, path="generic")
    result = gk.kl_divergence(chunked(p, chunks), chunked(q, (2, 3)), per_dim=True)
    assert result.shape == (6, 3)
    identical(result, want)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_reductions(a, b, reduction):
    p, q = example(a, (6,)), example(b, (6,), seed=1)
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), reduction=reduction, path="generic")
    result = gk.kl_divergence(chunked(p, (4, 3)), chunked(q, (3, 1)), reduction=reduction)
    assert isinstance(result, da.Array)
    assert (result.shape, result.dtype) == ((), np.float64)
    np.testing.assert_allclose(result.compute(scheduler="synchronous"), want, rtol=1e-14)


@pytest.mark.parametrize(("a", "b"), [("std", "std"), ("cov", "tfp"), ("low rank", "low rank")])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler(a, b, scheduler):
    p, q = example(a, (6,)), example(b, (6,), seed=1)
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), path="generic")
    result = gk.kl_divergence(chunked(p, (3, 3)), chunked(q, (2, 3)))
    options = {"num_workers": 1} if scheduler == "processes" else {}
    np.testing.assert_array_equal(result.compute(scheduler=scheduler, **options), want, strict=True)


def test_a_spread_that_is_a_number():
    p = gk.Gaussian(da.zeros((6, 3), chunks=(2, 3)), std=2.0)
    identical(gk.kl_divergence(p), gk.kl_divergence(gk.Gaussian(np.zeros((6, 3)), std=2.0), path="generic"))


def test_a_single_pair():
    p = gk.Gaussian(da.ones(3, chunks=2), cov=da.eye(3, chunks=2))
    identical(gk.kl_divergence(p), gk.kl_divergence(gk.Gaussian(np.ones(3), cov=np.eye(3))))


@pytest.mark.parametrize("name", KEYWORDS)
def test_an_empty_batch(name):
    p = chunked(example(name, (0,)), (1, 3))
    assert gk.kl_divergence(p).compute(scheduler="synchronous").shape == (0,)
