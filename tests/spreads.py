"""A valid Gaussian under every keyword, as NumPy arrays, and as a `Gaussian` of any backend."""

import numpy as np

import gausskl as gk
from helpers import make
from reference import packed_positions

DIAGONAL = ("std", "var", "log_std", "log_var")
DENSE = ("cov", "scale_tril", "row", "tfp", "precision")
KEYWORDS = (*DIAGONAL, *DENSE, "low rank")


def example(name, batch=(), d=3, seed=0):
    """Return mean and spread, each with the batch axes; "row" and "tfp" are the packings of packed_tril."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(*batch, d))
    if name in DIAGONAL:
        spread = rng.uniform(0.5, 1.5, mean.shape)
        return {"mean": mean, name: np.log(spread) if name.startswith("log") else spread}
    if name == "low rank":
        diagonal = rng.uniform(0.5, 1.5, mean.shape)
        return {"mean": mean, "cov_factor": rng.normal(size=(*mean.shape, 2)), "cov_diag": diagonal}
    factor = np.tril(rng.normal(size=(*mean.shape, d)), -1) / 3
    factor += np.eye(d) * rng.uniform(0.5, 1.5, (*mean.shape, 1))
    if name == "scale_tril":
        return {"mean": mean, "scale_tril": factor}
    if name in ("row", "tfp"):
        return {"mean": mean, "packed_tril": factor[(..., *packed_positions(d, name))], "packing": name}
    return {"mean": mean, name: symmetric(factor @ factor.mT)}


def symmetric(matrix):
    return (matrix + matrix.mT) / 2


def gaussian(xp, arrays, dtype=None):
    """Return a `Gaussian` of arrays of the namespace ``xp``."""
    return gk.Gaussian(**{k: v if k == "packing" else make(xp, v, dtype) for k, v in arrays.items()})


def rows(arrays, index):
    """Return the same Gaussians at an index of the batch."""
    return {key: value if key == "packing" else value[index] for key, value in arrays.items()}


def array_names(arrays):
    return [key for key in arrays if key != "packing"]


def covariance(arrays):
    """Return the covariance matrices."""
    (name,) = arrays.keys() - {"mean", "packing", "cov_diag"}
    value = arrays[name]
    if name in DIAGONAL:
        value = np.exp(value) if name.startswith("log") else value
        return (value if name.endswith("var") else value**2)[..., None] * np.eye(value.shape[-1])
    if name == "cov":
        return value
    if name == "precision":
        return symmetric(np.linalg.inv(value))
    if name == "cov_factor":
        return value @ value.mT + arrays["cov_diag"][..., None] * np.eye(value.shape[-2])
    if name == "packed_tril":
        d = arrays["mean"].shape[-1]
        factor = np.zeros((*value.shape[:-1], d, d))
        factor[(..., *packed_positions(d, arrays["packing"]))] = value
        value = factor
    return value @ value.mT


def restated(mean, cov, name):
    """Return N(mean, cov) under a keyword; a diagonal keyword takes the diagonal of ``cov``."""
    d = cov.shape[-1]
    if name in DIAGONAL:
        var = np.diagonal(cov, axis1=-2, axis2=-1)
        of = {"std": np.sqrt(var), "var": var, "log_std": np.log(var) / 2, "log_var": np.log(var)}
        return {"mean": mean, name: of[name]}
    if name == "cov":
        return {"mean": mean, "cov": symmetric(cov)}
    if name == "precision":
        return {"mean": mean, "precision": symmetric(np.linalg.inv(cov))}
    if name == "low rank":
        diagonal = 0.5 * np.linalg.eigvalsh(cov)[..., :1] * np.ones(d)
        factor = np.linalg.cholesky(cov - diagonal[..., None] * np.eye(d))
        return {"mean": mean, "cov_factor": factor, "cov_diag": diagonal}
    factor = np.linalg.cholesky(cov)
    if name == "scale_tril":
        return {"mean": mean, "scale_tril": factor}
    return {"mean": mean, "packed_tril": factor[(..., *packed_positions(d, name))], "packing": name}


def factor(rng, batch, d, diagonal=False):
    """Lower factors with a condition that does not grow with their size."""
    scale = np.exp(rng.uniform(-0.7, 0.7, (*batch, d)))
    below = rng.uniform(-0.8, 0.8, (*batch, d, d)) / np.sqrt(d)
    return scale[..., None] * (np.eye(d) + (0 if diagonal else np.tril(below, -1)))


def drawn(name_p, name_q, batch=(), d=5, distance=None, seed=0, dtype=np.float64):
    """A pair, unrelated or so far apart; close to a diagonal if one of the two is diagonal."""
    rng = np.random.default_rng((seed, d))
    sides, common = [], factor(rng, batch, d, diagonal={name_p, name_q} & {*DIAGONAL})
    for name in (name_p, name_q):
        lower = factor(rng, batch, d) if distance is None else common
        step = np.eye(d) + (distance or 0) * np.tril(rng.uniform(-0.4, 0.4, (*batch, d, d)))
        lower = lower @ step
        mean = (distance or 1) * rng.normal(size=(*batch, d))
        sides.append(rounded(restated(mean, symmetric(lower @ lower.mT), name), dtype))
    return sides


def rounded(g, dtype):
    """Return the same Gaussian in a dtype."""
    return {k: a if k == "packing" else np.ascontiguousarray(a, dtype) for k, a in g.items()}


def same_bits(got, want):
    """Whether shape, dtype and every bit agree, those of NaN too."""
    return got.shape == want.shape and got.dtype == want.dtype and got.tobytes() == want.tobytes()
