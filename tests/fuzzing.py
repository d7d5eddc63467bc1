"""Pairs of Gaussians from a table of choices, and what is wrong with an answer for one of them.

The tests let hypothesis choose. ``python tests/fuzzing.py --minutes 30`` chooses at random until the time is over, and
prints each failure as the choices that make it again.
"""

import argparse
import collections
import itertools
import random
import sys
import time

import numpy as np
from errors import _cond, eps_error
from mpmath import mp
from multiprecision import cholesky
from spreads import DIAGONAL, KEYWORDS, restated, rounded, symmetric

import gausskl as gk
import reference
from helpers import Backend, make, to_numpy

PAIRS = list(itertools.product(KEYWORDS, repeat=2))
CHOICES = {
    "d": (1, 2, 3, 4, 6),
    "dtype": ("float64", "float32"),
    "distance": (None, 1.0, 1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14, 2.0**-52, 0.0),
    "means": ("far", "near", "equal"),
    "scale": (0.0, 0.0, 3.0, 20.0),  # coordinates differ by up to e to this
    "condition": (1.0, 1.0, 1e2, 1e4, 1e8),
    "columns": ("none", "few", "d - 1", "d", "many"),
    "diagonal": ("ordinary", "small", "each its own"),
    "dependent": (False, True),  # columns of a factor that are nearly the same
    "layout": ("contiguous", "transposed", "strided", "backwards", "read-only", "broadcast"),
    "swapped": (False, True),
    "seed": range(2**16),
}


def pair(name_p, name_q, d, dtype, distance, means, scale, condition, columns, diagonal, dependent, swapped, seed, **_):
    """The two Gaussians, as dicts of arrays of the dtype; None if these choices make none."""
    rng = np.random.default_rng(seed)
    std = np.exp(scale * rng.uniform(-1, 1, d))
    near = distance is not None
    names = [name_p, name_q]
    if swapped:
        names.reverse()
    if "low rank" in names:
        names.sort(key=lambda name: name != "low rank")
        first = _low_rank(rng, d, std, columns, diagonal, dependent, np.finfo(dtype))
        if near and names[1] in DIAGONAL:
            first["cov_factor"] *= np.sqrt(distance)
        cov = first["cov_factor"] @ first["cov_factor"].T + np.diag(first["cov_diag"])
        sides = [first]
    else:
        rest = np.diag(np.ones(d)) if near and {*names} & {*DIAGONAL} else _correlation(rng, d, condition)
        cov = symmetric(std[:, None] * rest * std)
        sides = [restated(np.zeros(d), cov, names[0])]
    try:
        if names[1] == "low rank":
            step = (distance if near else 1.0) * rng.uniform(-0.4, 0.4, (d, first["cov_factor"].shape[1] + 1))
            sides.append({k: a * (1 + (step[:, :-1] if a.ndim == 2 else step[:, -1])) for k, a in first.items()})
        else:
            other = cov if near else symmetric(std[:, None] * _correlation(rng, d, condition) * std)
            factor = np.linalg.cholesky(other)
            step = (distance or 0.0) * np.tril(rng.uniform(-0.4, 0.4, (d, d)))
            if names[1] in DIAGONAL:
                step = np.diag(np.diag(step))
            moved = factor @ (np.eye(d) + step)
            sides.append(restated(np.zeros(d), symmetric(moved @ moved.T), names[1]))
    except np.linalg.LinAlgError:
        return None
    apart = {"far": 3.0, "near": distance if near else 1.0, "equal": 0.0}[means]
    size = np.sqrt(np.diag(cov))
    mean = rng.normal(size=d) * size
    for side, shift in zip(sides, (0.0, apart), strict=True):
        side["mean"] = mean + shift * size * rng.normal(size=d)
    with np.errstate(over="ignore", under="ignore"):
        sides = [rounded(side, dtype) for side in sides]
    in_range = all(_in_range(side, np.finfo(dtype)) for side in sides)
    return (sides if names == [name_p, name_q] else sides[::-1]) if in_range else None


def _low_rank(rng, d, std, columns, diagonal, dependent, info):
    rank = {"none": 0, "few": d // 2, "d - 1": d - 1, "d": d, "many": 2 * d}[columns]
    factor = std[:, None] * rng.normal(size=(d, rank))
    if dependent and rank > 1:
        factor[:, -1] = factor[:, 0] * (1 + 1e-8 * rng.normal(size=d))
    lowest = np.log(float(info.smallest_normal)) - 2 * np.log(float(info.eps))  # twice the digits are in range
    logs = {
        "ordinary": 2 * np.log(std) + rng.uniform(-1, 1, d),
        "small": np.full(d, rng.uniform(lowest, 0)),
        "each its own": rng.uniform(lowest, 0, d),
    }[diagonal]
    return {"mean": np.zeros(d), "cov_factor": factor, "cov_diag": np.exp(logs)}


def _correlation(rng, d, condition):
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    cov = (basis * np.geomspace(1, 1 / condition, d)) @ basis.T
    size = np.sqrt(np.diag(cov))
    return cov / size[:, None] / size


def _in_range(side, info):
    """Whether no number has left the normal range, in which libraries that flush the rest agree."""
    return all(
        np.isfinite(a).all() and ((a == 0) | (np.abs(a) >= info.smallest_normal)).all()
        for key, a in side.items()
        if key != "packing"
    )


def laid_out(array, layout):
    """The same numbers somewhere else in memory, a batch of two or with ``broadcast`` one that stands for both."""
    both = np.stack([array, array])
    if layout == "broadcast":
        return np.broadcast_to(array, both.shape)
    if layout == "transposed":
        return np.asfortranarray(both)
    if layout == "strided":
        return np.repeat(both, 2, axis=-1)[..., ::2]
    if layout == "backwards":
        return both[..., ::-1].copy()[..., ::-1]
    both.flags.writeable = layout != "read-only"
    return both


def condition(g):
    """The condition number of the correlations, and of the partial ones if that is what was given."""
    found = [1.0]
    with mp.workdps(1400 if "cov_factor" in g else 60), np.errstate(over="ignore"):
        try:
            found.append(float(_cond(cholesky(reference._covariance(g))) ** 2))
            if "precision" in g:
                found.append(float(_cond(cholesky(reference.exact(g["precision"]))) ** 2))
        except (ZeroDivisionError, TypeError, ValueError):
            return np.inf
    return max(found)


def wrong(backend, xp, p, q, want, kappa, path, layout):
    """What is wrong with the answer of a library, as a sentence; None if it is right, "refused" if that is."""
    dtype = p["mean"].dtype
    eps, d = float(np.finfo(dtype).eps), len(p["mean"])
    in_float64 = path == "auto" and backend != Backend.JAX
    arithmetic = 2.0**-52 if in_float64 or backend in (Backend.NUMPY, Backend.ARRAY_API_STRICT, Backend.DASK) else eps
    try:
        sides = [
            gk.Gaussian(**{k: a if k == "packing" else _array(backend, xp, a, layout) for k, a in g.items()})
            for g in (p, q)
        ]
        got = to_numpy(gk.kl_divergence(*sides, path=path))
    except ValueError as error:
        return "refused" if kappa * max(arithmetic, eps) * (d + 1) >= 1 / 16 else f"refused: {error}"
    if got.shape != (2,) or got.dtype != dtype or got.tobytes()[: got.nbytes // 2] != got.tobytes()[got.nbytes // 2 :]:
        return f"not the same for the same: {got!r}"
    if got[0] < 0:
        return f"negative: {got[0]!r}"
    error = float(eps_error(got[0], want, dtype))
    limit = 8 if {*p} | {*q} <= {"mean", *DIAGONAL} else 16 + kappa
    if {*p} != {*q}:  # twice the digits are as many as there are: see docs/accuracy.md
        with mp.workdps(60):
            limit += limit * float(eps * mp.sqrt(1 / want)) if want else 0
    return None if error <= limit else f"error {error:.3g} eps, allowed {limit:.3g}: got {got[0]!r}, exact {want}"


def _array(backend, xp, array, layout):
    array = laid_out(array, layout)
    if backend == Backend.NUMPY:
        return array
    if backend == Backend.TORCH and layout in ("transposed", "strided"):
        return xp.from_numpy(array.copy(order="K") if layout == "transposed" else array)
    return make(xp, array)


def check(choices, names, backends, paths):
    """What is wrong with the answers of libraries for a pair of keywords; None if the choices make no pair."""
    made = pair(*names, **choices)
    if made is None:
        return None
    p, q = made
    kappa, info = max(condition(p), condition(q)), np.finfo(choices["dtype"])
    try:
        want = reference.kl(p, q)[()] if kappa < np.inf else mp.nan  # a matrix that rounding has made indefinite
    except ZeroDivisionError:  # or singular, as only more digits than the condition was found with can tell
        want, kappa = mp.nan, np.inf
    if want > info.max / 4 or 0 < want < info.smallest_normal:
        return None
    asked = itertools.product(backends.items(), paths)
    return {
        (str(backend), path): wrong(backend, xp, p, q, want, kappa, path, choices["layout"])
        for (backend, xp), path in asked
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--library", action="append", choices=("numpy", "torch", "jax", "array_api_strict"))
    options = parser.parse_args()
    wanted = options.library or ["numpy", "torch"]
    backends = {backend: backend.load() for backend in Backend if str(backend) in wanted}
    draw = random.Random(options.seed)
    end, counts, failures = time.monotonic() + 60 * options.minutes, collections.Counter(), 0
    while time.monotonic() < end:
        names = draw.choice(PAIRS)
        choices = {name: draw.choice(values) for name, values in CHOICES.items()}
        answers = check(choices, names, backends, ("auto", "generic"))
        for (library, path), answer in (answers or {}).items():
            counts["refused" if answer == "refused" else "answers"] += 1
            if answer not in (None, "refused"):
                failures += 1
                print(f"{names} {choices} {library} {path}\n    {answer}", flush=True)
        counts["pairs"] += answers is not None
    print(
        f"seed {options.seed}: {counts['pairs']} pairs, {counts['answers']} answers, {counts['refused']} matrices "
        f"refused as singular to working precision, {failures} failures"
    )
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
