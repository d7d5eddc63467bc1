"""The oracle: the divergence from its textbook definition, in as many digits as it takes.

It shares no code with the library. The textbook form cancels badly, so every value is computed again at a
higher precision until 30 digits stand still. Inputs are NumPy arrays, read as exact binary numbers. Results
are mpmath numbers that carry all their digits; arithmetic on them needs ``with mp.workdps(40)``.
"""

import numpy as np
from errors import cond_correlation, cond_row_scaled, eps_error, ulp_error
from mpmath import mp
from multiprecision import apply, cholesky, dot, exact, inverse, settle, solve_lower, symmetric

__all__ = [
    "cond_correlation",
    "cond_row_scaled",
    "eps_error",
    "gradient",
    "kl",
    "kl_per_dim",
    "packed_positions",
    "ulp_error",
]

LARGE = 20  # dimensions beyond which a covariance of low rank is not made

EVENT_NDIM = {
    **dict.fromkeys(("mean", "std", "var", "log_std", "log_var", "packed_tril", "cov_diag"), 1),
    **dict.fromkeys(("cov", "scale_tril", "precision", "cov_factor"), 2),
}
VARIANCE = {
    "std": lambda s: s * s,
    "var": lambda v: v,
    "log_std": lambda x: mp.exp(2 * x),
    "log_var": mp.exp,
}
VARIANCE_SLOPE = {
    "std": lambda s: 2 * s,
    "var": lambda v: mp.one,
    "log_std": lambda x: 2 * mp.exp(2 * x),
    "log_var": mp.exp,
}


# ---- the divergence ----


def kl(p, q=None):
    """Kullback-Leibler divergence of Gaussians in nats, right to 30 digits.

    Parameters
    ----------
    p, q : dict
        ``mean`` and one spread under the library's keyword, e.g. ``{"mean": m, "std": s}``. Leading axes are
        the batch and broadcast. ``q=None`` is the standard normal.

    Returns
    -------
    numpy.ndarray of mpf
        One number for each element of the broadcast batch, 0-d for a single pair.
    """
    batch, pairs = _pairs(p, q)
    out = np.empty(batch, dtype=object)
    for index, *pair in pairs:
        out[index] = _settle(_kl, *pair)["kl"][()]
    return out


def kl_per_dim(p, q=None):
    """Contribution of every dimension to the divergence of two diagonal Gaussians, shape ``(..., d)``."""
    batch, pairs = _pairs(p, q)
    out = np.empty((*batch, np.shape(p["mean"])[-1]), dtype=object)
    for index, *pair in pairs:
        out[index] = _settle(_per_dim, *pair, each=True)["kl"]
    return out


def _kl(p, q):
    if _is_diagonal(p) and _is_diagonal(q):
        return {"kl": _kl_diagonal(p, q)}
    delta = exact(p["mean"]) - exact(q["mean"])
    if _is_low_rank(p) and _is_low_rank(q) and len(delta) > LARGE:
        return {"kl": _kl_low_rank(_diag_and_factor(p), _diag_and_factor(q), delta)}
    return {"kl": _kl_dense(_covariance(p), _covariance(q), delta)}


def _kl_diagonal(p, q):
    """Sum over the distinct dimensions, each as often as it occurs."""
    names = "mean", _diagonal_name(p), "mean", _diagonal_name(q)
    columns = np.stack([g[name] for g, name in zip((p, p, q, q), names, strict=True)])
    columns, times = np.unique(columns, axis=1, return_counts=True)
    mean_p, var_p, mean_q, var_q = (
        apply(VARIANCE.get(name, mp.mpf), c) for name, c in zip(names, columns, strict=True)
    )
    ratio, times = var_p / var_q, times.astype(object)
    return (((ratio - 1 + (mean_p - mean_q) ** 2 / var_q) * times).sum() - mp.log((ratio**times).prod())) / 2


def _per_dim(p, q):
    delta = exact(p["mean"]) - exact(q["mean"])
    ratio = _variance(p) / _variance(q)
    return {"kl": (ratio - 1 - apply(mp.log, ratio) + delta**2 / _variance(q)) / 2}


def _kl_dense(cov_p, cov_q, delta):
    factor_q = cholesky(cov_q)
    maha = (solve_lower(factor_q, delta) ** 2).sum()
    if (cov_p == cov_q).all():
        return maha / 2
    factor_p = cholesky(cov_p)
    trace = (solve_lower(factor_q, factor_p) ** 2).sum()
    log_det = 2 * mp.log((factor_p.diagonal() / factor_q.diagonal()).prod())
    return (trace - len(delta) - log_det + maha) / 2


def _kl_low_rank(p, q, delta):
    """Woodbury and the determinant lemma; what they lose is made up by the precision."""
    (diag_p, factor_p), (diag_q, factor_q) = p, q
    inner_q = _inner_cholesky(diag_q, factor_q)
    half = solve_lower(inner_q, factor_q.T / diag_q)
    maha = (delta * delta / diag_q).sum() - (dot(half, delta) ** 2).sum()
    if factor_p.shape == factor_q.shape and (diag_p == diag_q).all() and (factor_p == factor_q).all():
        return maha / 2
    ratio = diag_p / diag_q
    trace = ratio.sum() + ((factor_p**2).sum(axis=1) / diag_q).sum()
    trace -= ((half**2).sum(axis=0) * diag_p).sum() + (dot(half, factor_p) ** 2).sum()
    inner = _inner_cholesky(diag_p, factor_p).diagonal().prod() / inner_q.diagonal().prod()
    return (trace - len(delta) - mp.log(ratio.prod() * inner**2) + maha) / 2


def _inner_cholesky(diag, factor):
    return cholesky(dot(factor.T / diag, factor) + np.eye(factor.shape[1], dtype=int))


# ---- the gradient ----


def gradient(p, q=None):
    """Derivatives of the divergence of an unbatched pair by every array given, right to 30 digits.

    Returns
    -------
    grads_p, grads_q : dict
        Keyword to array of mpf of the argument's shape. By ``cov`` and ``precision`` it is the symmetric
        matrix of derivatives by independent entries, by ``scale_tril`` the lower triangle. ``grads_q`` is
        empty for ``q=None``.
    """
    _, ((_, *pair),) = _pairs(p, q)
    given = {(side, name): a for side, g in (("p", p), ("q", q or {})) for name, a in g.items()}

    def compute(p, q):
        grads = {key: grad for key, grad in _gradient(p, q).items() if key in given}
        return {key: grad if np.ndim(given[key]) else grad.sum() for key, grad in grads.items()}

    found = _settle(compute, *pair, each=all(map(_is_diagonal, pair)))
    return tuple({name: grad for (where, name), grad in found.items() if where == side} for side in "pq")


def _gradient(p, q):
    delta = exact(p["mean"]) - exact(q["mean"])
    if _is_diagonal(p) and _is_diagonal(q):
        var_p, var_q = _variance(p), _variance(q)
        by_mean = delta / var_q
        by_p = (var_p - var_q) / (2 * var_p * var_q)
        by_q = (var_q - var_p - delta * delta) / (2 * var_q * var_q)
    else:
        cov_p, cov_q = _covariance(p), _covariance(q)
        inverse_p, inverse_q = inverse(cov_p), inverse(cov_q)
        by_mean = dot(inverse_q, delta)
        by_p = symmetric(dot(dot(inverse_q, cov_p - cov_q), inverse_p)) / 2
        by_q = symmetric(dot(dot(inverse_q, cov_q - cov_p - np.outer(delta, delta)), inverse_q)) / 2
    sides = {"p": {"mean": by_mean} | _chain(p, by_p), "q": {"mean": -by_mean} | _chain(q, by_q)}
    return {(side, name): grad for side, grads in sides.items() for name, grad in grads.items()}


def _chain(g, by_cov):
    """From the derivative by the covariance (for a diagonal pair: by the variances) to that by the spread."""
    if _is_diagonal(g):
        name = _diagonal_name(g)
        return {name: (by_cov if by_cov.ndim == 1 else by_cov.diagonal()) * apply(VARIANCE_SLOPE[name], g[name])}
    if "cov" in g:
        return {"cov": by_cov}
    if "precision" in g:
        cov = _covariance(g)
        return {"precision": -symmetric(dot(dot(cov, by_cov), cov))}
    if "cov_factor" in g:
        return {"cov_factor": 2 * dot(by_cov, exact(g["cov_factor"])), "cov_diag": by_cov.diagonal()}
    by_factor = np.tril(2 * dot(by_cov, _scale_tril(g)))
    if "scale_tril" in g:
        return {"scale_tril": by_factor}
    return {"packed_tril": by_factor[packed_positions(len(by_factor), g.get("packing", "row"))]}


# ---- what a keyword means ----


def _diagonal_name(g):
    return next((name for name in VARIANCE if name in g), None)


def _is_diagonal(g):
    return _diagonal_name(g) is not None


def _is_low_rank(g):
    return "cov_diag" in g or _is_diagonal(g)


def _variance(g):
    return apply(VARIANCE[_diagonal_name(g)], g[_diagonal_name(g)])


def _diag_and_factor(g):
    if "cov_diag" in g:
        return exact(g["cov_diag"]), exact(g["cov_factor"])
    return _variance(g), np.empty((len(g["mean"]), 0), dtype=object)


def _covariance(g):
    if "cov" in g:
        return exact(g["cov"])
    if "precision" in g:
        return inverse(exact(g["precision"]))
    if _is_low_rank(g):
        diag, factor = _diag_and_factor(g)
        return dot(factor, factor.T) + np.diag(diag)
    factor = _scale_tril(g)
    return dot(factor, factor.T)


def _scale_tril(g):
    if "scale_tril" in g:
        return exact(np.tril(g["scale_tril"]))
    factor = np.full((len(g["mean"]),) * 2, mp.zero)
    factor[packed_positions(len(factor), g.get("packing", "row"))] = exact(g["packed_tril"])
    return factor


def packed_positions(d, packing):
    """Row and column of every entry of a packed lower triangle, in the order of ``packing``.

    ``"row"`` reads row by row. ``"tfp"`` is the order of ``tfp.math.fill_triangular``, rows inwards: the last
    from right to left, the first from left to right, the last but one from right to left, and so on.
    """
    if packing == "row":
        return np.tril_indices(d)
    rows = [row for pair in zip(reversed(range(d)), range(d), strict=True) for row in pair][:d]
    columns = [range(row + 1)[:: 1 if turn % 2 else -1] for turn, row in enumerate(rows)]
    return np.repeat(rows, [len(c) for c in columns]), np.concatenate(columns)


# ---- one pair at a time, and enough digits ----


def _pairs(p, q):
    """Broadcast the batch axes; return the batch shape and an iterator over (index, p, q) without batch."""
    d = np.shape(p["mean"])[-1]
    sides = [_arrays(g, d) for g in (p, {"mean": np.zeros(d), "var": np.ones(d)} if q is None else q)]
    shapes = [a.shape[: -EVENT_NDIM[name]] for g in sides for name, a in g.items() if name != "packing"]
    batch = np.broadcast_shapes(*shapes)

    def pick(name, a, index):
        return a if name == "packing" else np.broadcast_to(a, batch + a.shape[-EVENT_NDIM[name] :])[index]

    indices = np.ndindex(*batch)
    return batch, ((i, *({name: pick(name, a, i) for name, a in g.items()} for g in sides)) for i in indices)


def _arrays(g, d):
    arrays = {name: a if name == "packing" else np.asarray(a, dtype=np.float64) for name, a in g.items()}
    for name in VARIANCE.keys() & arrays.keys():
        arrays[name] = np.broadcast_to(arrays[name], np.broadcast_shapes(arrays[name].shape, (d,)))
    return arrays


def _settle(compute, p, q, each=False):
    """Start with digits enough for every square of an input, so that 0 is 0."""
    return settle(lambda: compute(p, q), dps=80 + 2 * max(_span(p), _span(q)), each=each)


def _span(g):
    """Decimal orders that the entries of a matrix or the logarithms span."""
    spans = [0.0]
    for name in g.keys() - {"mean", "std", "var", "cov_diag", "packing"}:
        size = np.abs(g[name][g[name] != 0])
        largest = 1.0 if name.startswith("log") else size.max(initial=0.0)
        spans += [np.log10(largest) - np.log10(size.min())] if size.size else []
    if "cov_factor" in g:
        spans.append(np.log10(np.abs(g["cov_factor"]).max(initial=1.0)) - np.log10(g["cov_diag"].min()) / 2)
    return int(max(spans))
