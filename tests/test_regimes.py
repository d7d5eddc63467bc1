"""Every regime keeps its dtype, is the same at every call, and has a finite divergence."""

import numpy as np
import pytest
import regimes

import reference

DTYPES = [np.float64, np.float32, np.float16]
FAMILIES = {
    **{keyword: lambda dtype, k=keyword: regimes.diagonal(k, dtype, rows=2) for keyword in regimes.SPREAD},
    "scale_tril": lambda dtype: regimes.scale_tril(dtype, d=3),
    "cov": lambda dtype: regimes.cov(dtype, d=3),
    "low_rank": lambda dtype: regimes.low_rank(dtype, d=6, r=2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_regimes_keep_their_promises(family, dtype):
    cases, again = list(FAMILIES[family](dtype)), list(FAMILIES[family](dtype))
    names = [name for name, _, _ in cases]
    assert len(set(names)) == len(names)
    for (name, p, q), (_, *same) in zip(cases, again, strict=True):
        for g, h in zip((p, q), same, strict=True):
            assert all(a.dtype == dtype and np.array_equal(a, h[key]) for key, a in g.items()), name
            assert np.array_equal(g["cov"], g["cov"].mT) if "cov" in g else True
        values = reference.kl(p, q)
        assert all(0 <= v <= float(np.finfo(dtype).max) for v in values.flat), name
        assert not name.startswith("equal") or not values.any(), name
