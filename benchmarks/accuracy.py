"""How far gausskl and its peers are from the exact divergence, where formulas fail.

``python benchmarks/accuracy.py`` prints the tables; ``--write`` puts them into docs/accuracy.md and a short one into
README.md. Each row holds a few pairs of Gaussians, and shows the worst of them. The exact value is that of the oracle
in tests/reference.py, computed from the same binary inputs. A peer that is not installed is left out by name.
"""

import argparse
import importlib.util
import sys
import warnings

import numpy as np
import report

sys.path.insert(0, str(report.TESTS))

import gausskl as gk
import reference

ROWS = 8


# ---- the pairs ----


def std_pair(dtype, std_p, std_q, apart, offset=0.0):
    mean = offset + np.zeros(np.shape(std_q))
    p = {"mean": (mean + apart).astype(dtype), "std": std_p.astype(dtype)}
    return p, {"mean": mean.astype(dtype), "std": std_q.astype(dtype)}


def diagonal_cases():
    """Pairs of 8 rows in 16 dimensions: name, p, q."""
    rng = np.random.default_rng(0)
    shape = (ROWS, 16)

    def spread():
        return 10 ** rng.uniform(-0.5, 0.5, shape)

    def noise():
        return rng.uniform(-0.5, 0.5, shape)

    for dtype in (np.float64, np.float32):
        near = (1e-4, 1e-8, 1e-12) if dtype is np.float64 else (1e-2, 1e-4, 1e-6)
        far = 1e-170 if dtype is np.float64 else 1e-25
        bits = f"{np.dtype(dtype)}"
        yield f"unrelated, {bits}", *std_pair(dtype, spread(), spread(), noise())
        for size in near:
            q = spread()
            p = q * (1 + size * noise())
            yield f"{report.power(size)} apart, {bits}", *std_pair(dtype, p, q, size * noise())
        q = spread()
        size = near[1]
        yield (
            f"{report.power(size)} apart, equal means of 1e6, {bits}",
            *std_pair(dtype, q * (1 + size * noise()), q, 0.0, 1e6),
        )
        yield f"means 1 apart around 1e6, {bits}", *std_pair(dtype, spread(), spread(), 1.0, 1e6)
        q = spread()
        yield f"std of p {report.power(far)}, {bits}", *std_pair(dtype, far * spread(), q, noise())
        yield f"both std {report.power(far)}, {bits}", *std_pair(dtype, far * spread(), far * q, far * noise())
        q = spread()
        yield f"equal, {bits}", *std_pair(dtype, q, q, 0.0, 1.0)


def cov_pair(dtype, cov_p, cov_q, delta):
    mean = np.zeros(cov_q.shape[:-1])
    p = {"mean": (mean + delta).astype(dtype), "cov": mirrored(cov_p.astype(dtype))}
    return p, {"mean": mean.astype(dtype), "cov": mirrored(cov_q.astype(dtype))}


def mirrored(matrix):
    return np.tril(matrix) + np.swapaxes(np.tril(matrix, -1), -1, -2)


def dense_cases():
    """Pairs of 8 covariances: name, p, q."""
    rng = np.random.default_rng(1)

    def cov(d=8):
        factor = rng.standard_normal((ROWS, d, 2 * d))
        return factor @ factor.mT / d

    def moved(matrix, size):
        """The matrix after a change of the coordinates by about ``size``: still positive definite."""
        d = matrix.shape[-1]
        step = np.eye(d) + size * rng.uniform(-0.5, 0.5, (ROWS, d, d))
        return step @ matrix @ step.mT

    yield "unrelated, float64", *cov_pair(np.float64, cov(), cov(), 0.5)
    for dtype, sizes in ((np.float64, (1e-4, 1e-8, 1e-12)), (np.float32, (1e-2, 1e-3, 1e-4))):
        for size in sizes:
            q = cov()
            yield f"{report.power(size)} apart, {np.dtype(dtype)}", *cov_pair(dtype, moved(q, size), q, 0.0)
    hilbert = 1 / (1.0 + np.arange(8)[:, None] + np.arange(8)) + np.zeros((ROWS, 1, 1))
    yield "condition 1e10, unrelated, float64", *cov_pair(np.float64, moved(hilbert, 1e-3), hilbert, 0.0)
    factor = np.linalg.cholesky(hilbert)
    near = factor @ moved(np.eye(8), 1e-4) @ factor.mT
    yield "condition 1e10, 1e-4 apart, float64", *cov_pair(np.float64, near, hilbert, 0.0)
    for d, condition in ((11, 5e14), (12, 2e16)):
        hilbert = 1 / (1.0 + np.arange(d)[:, None] + np.arange(d)) + np.zeros((1, 1, 1))
        name = f"Hilbert matrix of {d} dimensions, condition {report.power(condition)}, float64"
        yield f"half of a {name}", *cov_pair(np.float64, hilbert / 2, hilbert, 0.0)
    scale = np.logspace(-8, 8, 8)
    q = cov()
    graded_p, graded_q = (scale[:, None] * m * scale for m in (moved(q, 1e-3), q))
    yield "graded by 1e-8 ... 1e8, 1e-3 apart, float64", *cov_pair(np.float64, graded_p, graded_q, 0.0)
    wide = 1e-6 * np.eye(60) + np.zeros((1, 1, 1))
    wide_q = 1e-6 * (np.eye(60) + 0.01) + np.zeros((1, 1, 1))
    yield "60 dimensions, std 1e-3, float64", *cov_pair(np.float64, wide, wide_q, 0.0)
    q = cov()
    yield "equal, float32", *cov_pair(np.float32, q, q, 0.0)


def low_rank_cases():
    """Pairs of Gaussians of rank 32 in 784 dimensions, cov_diag 1e-6: name, p, q."""
    rng = np.random.default_rng(2)
    d, r = 784, 32

    def side():
        factor = rng.standard_normal((1, d, r))
        return {"mean": np.zeros((1, d)), "cov_factor": factor, "cov_diag": np.full((1, d), 1e-6)}

    def moved(q, size):
        return {name: a * (1 + size * rng.uniform(-0.5, 0.5, a.shape)) for name, a in q.items()}

    def cast(g):
        return {name: a.astype(np.float32) for name, a in g.items()}

    yield "unrelated, float32", cast(side()), cast(side())
    for size in (1e-2, 1e-4):
        q = side()
        yield f"{report.power(size)} apart, float32", cast(moved(q, size)), cast(q)
    q = cast(side())
    yield "equal, float32", q, q


# ---- gausskl and its peers: name -> function of (p, q), on NumPy arrays ----


def ours(p, q):
    return gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), validate=False)


def ours_precise(p, q):
    return gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), validate=False, precise=True)


def textbook_diagonal(p, q):
    ratio = (p["std"] / q["std"]) ** 2
    z = (p["mean"] - q["mean"]) / q["std"]
    return 0.5 * (ratio + z**2 - 1 - np.log(ratio)).sum(-1)


def textbook_log_diagonal(p, q):
    """log(s_q/s_p) + (s_p^2 + Delta^2)/(2 s_q^2) - 1/2, the form of most textbooks."""
    delta = p["mean"] - q["mean"]
    terms = np.log(q["std"] / p["std"]) + (p["std"] ** 2 + delta**2) / (2 * q["std"] ** 2) - p["std"].dtype.type(0.5)
    return terms.sum(-1)


def _quadratic(delta, inverse):
    return (delta[..., None, :] @ inverse @ delta[..., :, None])[..., 0, 0]


def textbook_det(p, q):
    inverse = np.linalg.inv(q["cov"])
    trace = np.trace(inverse @ p["cov"], axis1=-2, axis2=-1)
    ratio = np.linalg.det(q["cov"]) / np.linalg.det(p["cov"])
    d = p["mean"].shape[-1]
    return 0.5 * (trace - d + _quadratic(p["mean"] - q["mean"], inverse) + np.log(ratio))


def textbook_slogdet(p, q):
    inverse = np.linalg.inv(q["cov"])
    trace = np.trace(inverse @ p["cov"], axis1=-2, axis2=-1)
    log_det = np.linalg.slogdet(q["cov"])[1] - np.linalg.slogdet(p["cov"])[1]
    d = p["mean"].shape[-1]
    return 0.5 * (trace - d + _quadratic(p["mean"] - q["mean"], inverse) + log_det)


def scipy_cholesky(p, q):
    """Both factors, cho_solve for the trace: the careful textbook."""
    from scipy.linalg import cho_factor, cho_solve

    values = []
    for mean_p, cov_p, mean_q, cov_q in zip(p["mean"], p["cov"], q["mean"], q["cov"], strict=True):
        factor_p, factor_q = (cho_factor(c, lower=True) for c in (cov_p, cov_q))
        delta = mean_p - mean_q
        log_det = 2 * np.sum(np.log(np.diag(factor_q[0])) - np.log(np.diag(factor_p[0])))
        trace = np.trace(cho_solve(factor_q, cov_p))
        values.append(0.5 * (trace - len(delta) + delta @ cho_solve(factor_q, delta) + log_det))
    return np.array(values)


def as_dense(g):
    cov = g["cov_factor"] @ g["cov_factor"].mT
    cov += g["cov_diag"][..., None] * np.eye(cov.shape[-1], dtype=cov.dtype)
    return {"mean": g["mean"], "cov": cov}


def textbook_low_rank(p, q):
    return textbook_slogdet(as_dense(p), as_dense(q))


def torch_peer(p, q):
    import torch
    from torch import distributions as td

    def make(g):
        mean, *spread = (torch.from_numpy(a) for a in g.values())
        if "std" in g:
            return td.Independent(td.Normal(mean, *spread), 1)
        if "cov" in g:
            return td.MultivariateNormal(mean, *spread)
        return td.LowRankMultivariateNormal(mean, *spread)

    return td.kl_divergence(make(p), make(q)).numpy()


def numpyro_peer(p, q):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    import numpyro.distributions as nd

    def make(g):
        mean, spread = (jnp.asarray(a) for a in g.values())
        return nd.Normal(mean, spread).to_event(1) if "std" in g else nd.MultivariateNormal(mean, spread)

    return np.asarray(nd.kl_divergence(make(p), make(q)))


STRUCTURES = {
    "diagonal": (
        diagonal_cases,
        {
            "gausskl": ours,
            "torch.distributions": torch_peer,
            "NumPyro": numpyro_peer,
            "textbook (ratio)": textbook_diagonal,
            "textbook (log)": textbook_log_diagonal,
        },
    ),
    "dense": (
        dense_cases,
        {
            "gausskl": ours,
            "gausskl, precise=True": ours_precise,
            "torch.distributions": torch_peer,
            "NumPyro": numpyro_peer,
            "textbook (det, inv)": textbook_det,
            "textbook (slogdet, inv)": textbook_slogdet,
            "SciPy (cho_solve)": scipy_cholesky,
        },
    ),
    "low rank": (
        low_rank_cases,
        {"gausskl": ours, "torch.distributions": torch_peer, "textbook, made dense": textbook_low_rank},
    ),
}
NEEDS = {
    "gausskl, precise=True": "numba",
    "torch.distributions": "torch",
    "NumPyro": "numpyro",
    "SciPy (cho_solve)": "scipy",
}

# The rows of the README: structure, case, and the column that stands for the textbook.
SHORT = {
    "diagonal": (
        "textbook (log)",
        ["unrelated, float64", "1e-8 apart, float64", "1e-4 apart, float32", "std of p 1e-170, float64"],
    ),
    "dense": ("textbook (slogdet, inv)", ["1e-8 apart, float64", "1e-4 apart, float32"]),
    "low rank": ("textbook, made dense", ["equal, float32"]),
}


# ---- the verdict ----


def verdict(function, p, q, exact):
    """Worst relative error of the rows in words."""
    try:
        with np.errstate(all="ignore"):
            got = np.asarray(function(p, q), dtype=np.float64)
    except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        return f"refused: {type(error).__name__}"
    if np.isnan(got).any():
        return "NaN"
    if (got < 0).any():
        return f"negative: {report.power(got.min())}"
    if np.isinf(got).any():
        return "inf"
    if not any(exact):
        return "0" if not got.any() else f"{report.power(got.max())} instead of 0"
    error = max(abs(float((g - e) / e)) for g, e in zip(got, exact, strict=True))
    if error < 0.095:
        return report.power(error)
    return f"{100 * error:.0f} % wrong" if error < 100 else f"{report.power(error)} times too large"


def installed(structure):
    names = STRUCTURES[structure][1]
    missing = [n for n in names if n in NEEDS and importlib.util.find_spec(NEEDS[n]) is None]
    return [name for name in names if name not in missing], missing


def compare(structure):
    """{case: {library: verdict}} for the libraries that are installed."""
    cases, libraries = STRUCTURES[structure]
    names, missing = installed(structure)
    for name in missing:
        print(f"{name}: left out, {NEEDS[name]} is not installed")
    result = {}
    for case, p, q in cases():
        exact = reference.kl(p, q)
        result[case] = {name: verdict(libraries[name], p, q, exact) for name in names}
    return result


def full_table(structure, result):
    names, _ = installed(structure)
    return report.table([structure, *names], [[case, *row.values()] for case, row in result.items()])


def short_table(results):
    rows = []
    for structure, (textbook, cases) in SHORT.items():
        for case in cases:
            row = results[structure][case]
            shown = [row.get(name, "none") for name in ("gausskl", "torch.distributions", "NumPyro", textbook)]
            rows.append([f"{structure}, {case}", *shown])
    return report.table(["relative error", "gausskl", "torch.distributions", "NumPyro", "textbook"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/accuracy.md and README.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = {structure: compare(structure) for structure in STRUCTURES}
    tables = [full_table(structure, result) for structure, result in results.items()]
    where = report.measured("gausskl", "numpy", "torch", "numpyro", "scipy")
    full, short = ("\n\n".join([*some, where]) for some in (tables, [short_table(results)]))
    print(full)
    if options.write:
        report.write("docs/accuracy.md", "comparison", full)
        report.write("README.md", "comparison", short)


if __name__ == "__main__":
    main()
