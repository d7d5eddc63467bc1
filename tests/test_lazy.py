"""One function, eager, traced and lazy: it is compiled on JAX, and Dask may compute nothing in it."""

import itertools

import numpy as np
import pytest
from array_api_extra.testing import lazy_xp_function
from spreads import KEYWORDS, array_names, example

import gausskl as gk
from helpers import make, to_numpy


def divergence(p, q, reduction):
    """The divergence of Gaussians given as dicts of arrays."""
    return gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), reduction=reduction)


lazy_xp_function(divergence)


def arrays(xp, name, seed):
    g = example(name, (5,), seed=seed)
    return g | {key: make(xp, g[key]) for key in array_names(g)}


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(("a", "b"), [*itertools.pairwise([*KEYWORDS, "std"])])
def test_the_divergence_needs_no_values(xp, a, b, reduction):
    want = divergence(example(a, (5,)), example(b, (5,), seed=1), reduction)
    got = divergence(arrays(xp, a, 0), arrays(xp, b, 1), reduction)
    np.testing.assert_allclose(to_numpy(got), want, rtol=1e-13)
