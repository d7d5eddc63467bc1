"""NumPy batches are worked off block by block, and nobody can tell from the result."""

import itertools

import numpy as np
import pytest
from spreads import DIAGONAL, KEYWORDS, example, gaussian

import gausskl as gk
from gausskl._arrays import batches

BATCHES = [((9,), (9,)), ((7, 1), (5,)), ((1, 6), (3, 1)), ((8,), ())]


every_block = pytest.mark.parametrize("block", [1, 20, 100])


@every_block
@pytest.mark.parametrize(("batch_p", "batch_q"), BATCHES)
@pytest.mark.parametrize(("a", "b"), [*itertools.pairwise([*KEYWORDS, "std"])])
def test_blocks_keep_every_bit(a, b, batch_p, batch_q, block, monkeypatch):
    p, q = gaussian(np, example(a, batch_p)), gaussian(np, example(b, batch_q, seed=1))
    whole = gk.kl_divergence(p, q)
    monkeypatch.setattr(batches, "BLOCK", block)
    np.testing.assert_array_equal(gk.kl_divergence(p, q), whole, strict=True)


@every_block
@pytest.mark.parametrize(("a", "b"), [*itertools.pairwise(DIAGONAL)])
def test_blocks_keep_the_axis_of_dimensions(a, b, block, monkeypatch):
    p, q = gaussian(np, example(a, (7, 1))), gaussian(np, example(b, (5,), seed=1))
    whole = gk.kl_divergence(p, q, per_dim=True)
    monkeypatch.setattr(batches, "BLOCK", block)
    np.testing.assert_array_equal(gk.kl_divergence(p, q, per_dim=True), whole, strict=True)


@every_block
def test_blocks_leave_a_bad_row_alone(block, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", block)
    std = np.ones((50, 3))
    std[17, 1] = -1.0
    result = gk.kl_divergence(gk.Gaussian(np.zeros((50, 3)), std=std), validate=False)
    assert np.flatnonzero(np.isnan(result)).tolist() == [17]
