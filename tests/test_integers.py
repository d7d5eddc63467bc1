"""Integers are subtracted as integers: as floats, two that differ could be the same."""

from fractions import Fraction

import numpy as np
import pytest
from spreads import KEYWORDS, array_names, example, restated

import gausskl as gk
from helpers import make, to_numpy

SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
NEAR = [(0, 1), (7, 5), (2**24 + 1, 2**24), (2**30 + 3, 2**30), (-(2**31), -(2**31) + 1), (2**31 - 1, 2**31 - 3)]
WIDE = [(2**53 + 1, 2**53), (2**62 + 5, 2**62 + 1), (-(2**63), -(2**63) + 1), (2**63 - 1, 2**63 - 2)]
FAR = [(-128, 127), (255, 0), (-(2**31), 2**31 - 1), (2**32 - 1, 0), (-(2**63), 2**63 - 1), (2**64 - 1, 3)]


def integers(xp, values, dtype):
    """An array of that dtype; None if it is not known, or does not hold the values."""
    info = np.iinfo(dtype)
    known = hasattr(xp, dtype) or xp.__name__.endswith("tensorflow")  # whose namespace here is as small as can be
    if not known or not all(info.min <= value <= info.max for value in values):
        return None
    try:
        array = xp.asarray(np.array(values, dtype))
    except (TypeError, OverflowError):
        return None
    return array if to_numpy(array).dtype == dtype else None  # JAX has 64 bits only where it is told so


def check(xp, a, b, p, q, spread="std"):
    """Against the exact value, to some roundings of the result's dtype."""
    result = gk.kl_divergence(gk.Gaussian(p, **{spread: 1.0}), gk.Gaussian(q, **{spread: 1.0}))
    got = to_numpy(result)
    want = sum(Fraction(int(x) - int(y)) ** 2 for x, y in zip(a, b, strict=True)) / 2
    assert abs(Fraction(float(got)) - want) <= 4 * Fraction(float(np.finfo(got.dtype).eps)) * want
    assert result.dtype == xp.asarray(1.0).dtype or "float32" in str(result.dtype)


@pytest.mark.parametrize("dtypes", [(a, b) for a in (*SIGNED, *UNSIGNED) for b in (a, "int32", "int64", "uint64")])
def test_differences_of_means_are_exact(xp, dtypes):
    done = 0
    for a, b in [*NEAR, *WIDE, *FAR]:
        for left, right in ((a, b), (b, a)):
            p, q = integers(xp, [left], dtypes[0]), integers(xp, [right], dtypes[1])
            if p is not None and q is not None:
                check(xp, [left], [right], p, q)
                done += 1
    assert done or not all(hasattr(xp, dtype) for dtype in dtypes) or integers(xp, [1], "int64") is None


@pytest.mark.parametrize("x64", [False, True])
def test_in_jax_with_and_without_64_bits(x64):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(x64) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(x64):
        for a, b in [*NEAR, *(WIDE if x64 else [])]:
            p, q = (jax.numpy.asarray(np.array([x], np.int64 if x64 else np.int32)) for x in (a, b))
            check(jax.numpy, [a], [b], p, q)
            check(jax.numpy, [a], [b], p, q, spread="var")
        under_jit = jax.jit(lambda m, n: gk.kl_divergence(gk.Gaussian(m, std=1.0), gk.Gaussian(n, std=1.0)))
        assert under_jit(*(jax.numpy.asarray([2**24 + x], dtype="int32") for x in (1, 0))) == 0.5


@pytest.mark.parametrize("side", ["p", "q"])
def test_an_integer_mean_against_a_float_one(xp, side):
    """The float says what it says; the integer is not rounded before it is subtracted."""
    for whole, number in [(2**24 + 1, 2.0**24), (2**24 + 1, 0.0), (3, 2.5), (2**30 + 1, 2.0**30), (-7, 2.0**60)]:
        arrays = integers(xp, [whole], "int32"), make(xp, [number], "float32")
        p, q = arrays if side == "p" else reversed(arrays)
        got = to_numpy(gk.kl_divergence(gk.Gaussian(p, std=1.0), gk.Gaussian(q, std=1.0)))
        want = float((Fraction(whole) - Fraction(number)) ** 2 / 2)
        np.testing.assert_allclose(got, want, rtol=4 * np.finfo(got.dtype).eps)


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("name", KEYWORDS)
def test_every_structure(xp, name, path):
    if name not in ("std", "var", "log_std", "log_var") and not hasattr(xp, "linalg"):
        pytest.skip("no linear algebra")
    spread = {k: a if k == "packing" else make(xp, a, "float32") for k, a in example(name, (4,)).items() if k != "mean"}
    offset = np.array([2**24, 2**30, -(2**30)])
    steps = np.random.default_rng(0).integers(-9, 9, (2, 4, 3))

    def kl(p, q):
        return to_numpy(gk.kl_divergence(gk.Gaussian(p, **spread), gk.Gaussian(q, **spread), path=path))

    p, q = (make(xp, (offset + step).astype(np.int32)) for step in steps)
    want = kl(make(xp, (steps[0] - steps[1]).astype(np.float32)), make(xp, np.zeros(3, np.float32)))
    np.testing.assert_allclose(kl(p, q), want, rtol=1e-6)
    np.testing.assert_array_equal(kl(p, p), 0.0)
    np.testing.assert_allclose(
        kl(p, q[0, :]), kl(p, make(xp, (offset + steps[1, [0] * 4]).astype(np.int32))), rtol=1e-6
    )


def test_integer_spreads_are_the_default_float(xp):
    for name in ("std", "cov"):
        whole = restated(np.zeros(3), 4 * np.eye(3), name)
        given = {k: make(xp, a.astype(np.int32)) for k, a in whole.items()}
        assert set(array_names(given)) == {"mean", name}
        if name == "cov" and not hasattr(xp, "linalg"):
            continue
        got = gk.kl_divergence(gk.Gaussian(**given))
        want = gk.kl_divergence(gk.Gaussian(**{k: make(xp, a) for k, a in whole.items()}))
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=1e-6)
