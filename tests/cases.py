"""Pairs of Gaussians with their exact divergences, and the check that a library comes close enough to them."""

import functools
import importlib
from dataclasses import dataclass

import numpy as np
from mpmath import mp

import gausskl as gk
import reference
from helpers import make, to_numpy

DTYPES = {"float64": np.float64, "float32": np.float32}
STRUCTURES = "std", "var", "log_std", "log_var", "cov", "scale_tril", "row", "tfp", "precision", "low_rank"


@dataclass(frozen=True)
class Case:
    """A pair as the oracle and the regimes write it, its exact divergences, and the error that is allowed."""

    name: str
    p: dict
    q: dict | None
    want: np.ndarray
    limit: float | np.ndarray


def case(name, p, q, limit):
    """A `Case` whose exact divergences come from the oracle."""
    return Case(name, p, q, reference.kl(p, q), limit)


def gaussian(xp, g):
    """The library's Gaussian for a dict of NumPy arrays; Python numbers stay what they are."""
    return gk.Gaussian(**{name: make(xp, a) if isinstance(a, np.ndarray) else a for name, a in g.items()})


def divergence(xp, p, q=None, **options):
    """The library's answer in the namespace `xp`, as a NumPy array; on JAX, that of the compiled function."""
    if xp.__name__ != "jax.numpy":
        return to_numpy(gk.kl_divergence(gaussian(xp, p), q and gaussian(xp, q), **options))
    sides = p, q or {}
    names = tuple((k, name) for k, g in enumerate(sides) for name, a in g.items() if isinstance(a, np.ndarray))
    fixed = tuple((k, name, a) for k, g in enumerate(sides) for name, a in g.items() if not isinstance(a, np.ndarray))
    function = _compiled(names, fixed, q is None, tuple(options.items()))
    return to_numpy(function([make(xp, sides[k][name]) for k, name in names]))


@functools.cache
def _compiled(names, fixed, alone, options):
    """The divergence under jax.jit, which compiles a whole formula faster than each of its operations."""

    def function(arrays):
        sides = {}, {}
        for (k, name), a in zip(names, arrays, strict=True):
            sides[k][name] = a
        for k, name, a in fixed:
            sides[k][name] = a
        p, q = sides[0], None if alone else sides[1]
        return gk.kl_divergence(gk.Gaussian(**p), q and gk.Gaussian(**q), **dict(options))

    return importlib.import_module("jax").jit(function)


def check(xp, cases, error):
    """No divergence is negative, and each is within its limit of the exact one; where that is 0, it is 0."""
    failed = []
    for c in cases:
        got = divergence(xp, c.p, c.q)
        assert got.dtype == c.p["mean"].dtype
        errors = error(got, c.want, got.dtype)
        if not within(errors, c.limit) or (got < 0).any():
            failed.append(f"{c.name}: got {got}, error {errors}, limit {c.limit}")
    assert not failed, "\n".join(failed)


def ulp_error_of_two_keywords(got, want, dtype):
    """Errors of diagonal divergences in units in the last place, without what twice the digits of the dtype leave.

    A float can lie nearer to e^x than any number of digits tells. What they leave of that is an error of the spread,
    and moves a divergence K by that times the root of 2 K.
    """
    info = np.finfo(dtype)
    with mp.workdps(40):
        errors = np.abs(got.astype(float) - want)
        lost = [mp.ldexp(mp.sqrt(w), -2 * info.nmant) for w in want.flat]
        beyond = [float(max(e - left, 0)) for e, left in zip(errors.flat, lost, strict=True)]
    k = want.astype(float)
    told = (k >= float(info.smallest_normal)) & (k < float(info.max))
    unit = np.spacing(np.where(told, k, 1).astype(dtype)).astype(float)
    return np.where(told, np.reshape(beyond, k.shape) / unit, 0)


def within(errors, limit):
    """Whether every error is at most its limit; NaN is not."""
    return bool(np.all(np.asarray(errors) <= limit))


def side(name, dtype=np.float64, d=3, seed=0):
    """One unbatched Gaussian of ordinary size under the keyword `name`; "row" and "tfp" are packings."""
    rng = np.random.default_rng((STRUCTURES.index(name), d, seed))
    log_std = rng.uniform(-0.5, 0.5, d)
    factor = np.tril(rng.uniform(-0.4, 0.4, (d, d)), -1) + np.diag(np.exp(log_std))
    length = d * (d + 1) // 2
    packed = factor[np.tril_indices(d)]
    if name == "tfp":
        order = np.concatenate([np.arange(d, length), np.arange(length)[::-1]]).reshape(d, d)
        packed[order[np.tril_indices(d)]] = factor[np.tril_indices(d)]
    spreads = {
        "std": {"std": np.exp(log_std)},
        "var": {"var": np.exp(2 * log_std)},
        "log_std": {"log_std": log_std},
        "log_var": {"log_var": 2 * log_std},
        "cov": {"cov": factor @ factor.T},
        "scale_tril": {"scale_tril": factor},
        "row": {"packed_tril": packed},
        "tfp": {"packed_tril": packed},
        "precision": {"precision": factor @ factor.T},
        "low_rank": {"cov_factor": rng.standard_normal((d, 2)), "cov_diag": np.exp(2 * log_std)},
    }
    arrays = {"mean": rng.standard_normal(d)} | spreads[name]
    packing = {"packing": name} if name in ("row", "tfp") else {}
    return {
        key: symmetric(a).astype(dtype) if a.ndim == 2 and key in ("cov", "precision") else a.astype(dtype)
        for key, a in arrays.items()
    } | packing


def symmetric(a):
    """The lower triangle of `a` and its mirror image."""
    return np.tril(a) + np.tril(a, -1).mT


def copy(g):
    """The same Gaussian in other arrays."""
    return {name: a.copy() if isinstance(a, np.ndarray) else a for name, a in g.items()}
