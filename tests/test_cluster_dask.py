"""Dask on several processes: tasks, and Gaussians themselves, go to workers and come back with the bits of NumPy."""

import numpy as np
import pytest
from spreads import array_names, example

import gausskl as gk

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed", reason="needs distributed, the part of Dask that runs a cluster")

PAIRS = [
    ("std", "log_var"),
    ("cov", "cov"),
    ("scale_tril", "var"),
    ("row", "tfp"),
    ("precision", "cov"),
    ("low rank", "low rank"),
    ("log_std", "low rank"),
]
every_pair = pytest.mark.parametrize(("a", "b"), PAIRS)


@pytest.fixture(scope="module")
def client():
    """A client of two worker processes."""
    workers = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**workers) as cluster, distributed.Client(cluster) as client:
        yield client


def arrays_of(a, b):
    return example(a, (6,)), example(b, (6,), seed=1)


def of_numpy(p, q):
    """The divergence of NumPy arrays by the formulas, which the workers use as well."""
    return gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), path="generic")


def chunked(arrays):
    """A Gaussian of Dask arrays, in three blocks."""
    blocks = {name: da.from_array(arrays[name], chunks=(2, *arrays[name].shape[1:])) for name in array_names(arrays)}
    return gk.Gaussian(**arrays | blocks)


def answer(future):
    """What comes back, and in time: Dask asks for ever for what cannot be sent."""
    return future.result(timeout=60)


def identical(got, want):
    np.testing.assert_array_equal(got, want, strict=True)


@every_pair
def test_lazy_arrays_are_computed_by_the_workers(client, a, b):
    p, q = arrays_of(a, b)
    result = gk.kl_divergence(chunked(p), chunked(q))
    identical(answer(client.compute(result)), of_numpy(p, q))


@every_pair
def test_the_result_can_stay_with_the_workers(client, a, b):
    p, q = arrays_of(a, b)
    kept = client.persist(gk.kl_divergence(chunked(p), chunked(q)))
    identical(answer(client.compute(kept[1:5])), of_numpy(p, q)[1:5])


@every_pair
def test_a_worker_takes_gaussians(client, a, b):
    p, q = arrays_of(a, b)
    future = client.submit(gk.kl_divergence, gk.Gaussian(**p), gk.Gaussian(**q), path="generic")
    identical(answer(future), of_numpy(p, q))


@every_pair
def test_gaussians_are_made_and_kept_by_workers(client, a, b):
    """And come back whole."""
    p, q = arrays_of(a, b)
    made = [client.persist(dask.delayed(gk.Gaussian)(**g)) for g in (p, q)]
    identical(answer(client.compute(dask.delayed(gk.kl_divergence)(*made, path="generic"))), of_numpy(p, q))
    returned = [answer(client.compute(g)) for g in made]
    assert [repr(g) for g in returned] == [repr(gk.Gaussian(**g)) for g in (p, q)]
    identical(gk.kl_divergence(*returned, path="generic"), of_numpy(p, q))


def test_a_worker_takes_the_fastest_path_as_well(client):
    """Whatever that is there; it agrees with the formulas to a few units in the last place."""
    p, q = arrays_of("std", "std")
    future = client.submit(gk.kl_divergence, gk.Gaussian(**p), gk.Gaussian(**q))
    np.testing.assert_allclose(answer(future), of_numpy(p, q), rtol=1e-14)


def test_a_bad_value_is_named_by_the_worker(client):
    """In the error that comes back."""
    p = gk.Gaussian(np.zeros((2, 3)), std=np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"p: std\[1, 1\] = 0.0"):
        answer(client.submit(gk.kl_divergence, p))
