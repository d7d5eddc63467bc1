"""Numbers that others have printed for their own inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
from cases import divergence

SEEDS = json.loads((Path(__file__).parent / "data" / "seeds.json").read_text())


def side(seed, which, **spread):
    mean = np.array(seed[f"mean_{which}"])
    return {"mean": mean, **{name: np.array(seed[f"{key}_{which}"]) for name, key in spread.items()}}


@pytest.mark.parametrize("keyword", ["std", "var"])
def test_forum_batch(xp, keyword):
    seed = SEEDS["forum_batch"]
    got = divergence(xp, *(side(seed, which, **{keyword: "spread"}) for which in "pq"))
    np.testing.assert_allclose(got, seed[f"kl_as_{keyword}"], rtol=1e-14, atol=0)


def test_notebook_packed_tril(xp):
    seed = SEEDS["notebook_packed_tril"]
    sides = (
        {"mean": np.zeros(2), "packed_tril": np.array(seed[f"packed_{which}"]), "packing": seed["packing"]}
        for which in "pq"
    )
    np.testing.assert_allclose(divergence(xp, *sides), seed["printed"], rtol=1e-14, atol=0)


def test_notebook_cov(xp):
    seed = SEEDS["notebook_packed_tril"]
    sides = ({"mean": np.zeros(2), "cov": np.array(seed[f"cov_{which}"])} for which in "pq")
    np.testing.assert_allclose(divergence(xp, *sides), seed["printed"], rtol=1e-14, atol=0)
