"""The largest errors of gausskl itself, per keyword, regime, dtype and array library: a ratchet.

``python benchmarks/ulp.py`` prints the table; ``--write`` puts it into docs/accuracy.md. The pairs come from
tests/regimes.py and the exact values from tests/reference.py. Diagonal pairs count units in the last place, factors
multiples of (16 + κ) eps and covariances multiples of (16 + κ_s) eps: 1 is the promised bound. Low rank counts eps.
A second table has every pair of keywords, near each other.
"""

import argparse
import sys
import warnings

import numpy as np
import report

sys.path.insert(0, str(report.TESTS))

import regimes
from fuzzing import condition
from spreads import DIAGONAL, KEYWORDS, drawn

import gausskl as gk
import reference
from helpers import Backend, make, to_numpy

DTYPES = (np.float64, np.float32)
UNITS = {
    **dict.fromkeys(regimes.SPREAD, "ulp"),
    "scale_tril": "(16 + κ) eps",
    "cov": "(16 + κ_s) eps",
    "cov_factor": "eps",
}
# Regime groups by the first word of a regime's name.
GROUPS = {
    "near": "near or equal",
    "equal": "near or equal",
    "same": "means apart",
    "variance": "variance ratios",
    "unrelated": "unrelated",
    "moderate": "unrelated",
    "common": "unrelated",
    "identity": "unrelated",
    "narrow": "narrow, wide",
    "wide": "narrow, wide",
}


def cases(keyword, dtype):
    if keyword in regimes.SPREAD:
        return regimes.diagonal(keyword, dtype)
    if keyword == "cov_factor":
        return regimes.low_rank(dtype)
    return getattr(regimes, keyword)(dtype)


def group(name, keyword):
    if name.endswith("scale"):
        return "subnormal scales" if "subnormal" in name else "tiny and huge scales"
    if "near" in name and keyword in ("scale_tril", "cov"):
        return f"near, {name.split(', ')[1]}" if ", " in name else "near or equal"
    return GROUPS[name.split()[0].rstrip(",")]


def prepared(keyword, dtype):
    """Every case with its exact value and the size of the unit of its error, in eps; None for ulp."""
    for name, p, q in cases(keyword, dtype):
        exact, condition = reference.kl(p, q), 0.0
        if keyword == "scale_tril":
            condition = 16 + reference.cond_row_scaled(q["scale_tril"])
        if keyword == "cov":
            condition = 16 + np.maximum(*(reference.cond_correlation(g["cov"]) for g in (p, q)))
        yield group(name, keyword), p, q, exact, condition


def error(got, exact, keyword, unit, dtype):
    if UNITS[keyword] == "ulp":
        return reference.ulp_error(got, exact, dtype).max()
    return (reference.eps_error(got, exact, dtype) / (unit if keyword != "cov_factor" else 1)).max()


def worst(xp, keyword, dtype, pairs):
    """{regime group: largest error} on one library."""
    found = {}
    for name, p, q, exact, unit in pairs:
        sides = (gk.Gaussian(**{k: make(xp, a) for k, a in g.items()}) for g in (p, q))
        got = to_numpy(gk.kl_divergence(*sides, validate=False))
        found[name] = max(found.get(name, 0.0), error(got, exact, keyword, unit, dtype))
    return found


def installed():
    """{name: namespace} of the libraries that can make an array; the others are named."""
    found = {}
    for backend in Backend:
        if backend is Backend.NUMPY_READONLY:
            continue
        try:
            found[str(backend)] = backend.load()
        except Exception as problem:
            print(f"not measured: {backend} ({problem})")
    return found


def rows(backends):
    for keyword in UNITS:
        for dtype in DTYPES:
            pairs = list(prepared(keyword, dtype))
            by_library = {name: worst(xp, keyword, dtype, pairs) for name, xp in backends.items()}
            for regime in dict.fromkeys(pair[0] for pair in pairs):
                flushed = regime == "subnormal scales"
                shown = [
                    "flushed" if flushed and name in ("jax", "tensorflow") else f"{found[regime]:.2g}"
                    for name, found in by_library.items()
                ]
                yield [f"`{keyword}`", np.dtype(dtype).name, regime, UNITS[keyword], *shown]


DISTANCES = {
    np.float64: (None, 1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14),
    np.float32: (None, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
}


def of_two(name_p, name_q, dtype, backends):
    """The largest error of two keywords at all distances, in ulp, or where a side is dense in (16 + κ_s) eps."""
    largest = 0.0
    for distance in DISTANCES[dtype]:
        p, q = drawn(name_p, name_q, batch=(4,), d=4, distance=distance, dtype=dtype)
        exact = reference.kl(p, q)
        for xp in backends.values():
            sides = (gk.Gaussian(**{k: a if k == "packing" else make(xp, a) for k, a in g.items()}) for g in (p, q))
            got = to_numpy(gk.kl_divergence(*sides, validate=False))
            if {name_p, name_q} <= {*DIAGONAL}:
                errors = reference.ulp_error(got, exact, dtype)
            else:
                rows = [[{k: a if k == "packing" else a[i] for k, a in g.items()} for i in range(4)] for g in (p, q)]
                bounds = [16 + max(map(condition, pair)) for pair in zip(*rows, strict=True)]
                errors = reference.eps_error(got, exact, dtype) / bounds
            largest = max(largest, errors.max())
    return f"{largest:.1g}"


def pairs(backends):
    spelt = {"row": "packed_tril", "low rank": "cov_factor"}
    names = [name for name in KEYWORDS if name != "tfp"]
    table = [["", *(f"`{spelt.get(name, name)}`" for name in names)]]
    for p in names:
        cells = [" / ".join(of_two(p, q, dtype, backends) for dtype in DTYPES) for q in names]
        table.append([f"`{spelt.get(p, p)}`", *cells])
    return table


COMPILING = "jax", "tensorflow"  # each pair and each distance would be another program: the tests have some


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/accuracy.md")
    parser.add_argument("--pairs", action="store_true", help="the table of pairs alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    backends = installed()
    tables = {"pairs of keywords": pairs({name: xp for name, xp in backends.items() if name not in COMPILING})}
    versions = ["gausskl", "numpy", "torch", "dask", "array-api-strict"]
    if not options.pairs:
        tables["largest errors"] = [["keyword", "dtype", "regime", "unit", *backends], *rows(backends)]
        versions += ["jax", "tensorflow-cpu"]
    for place, (head, *body) in tables.items():
        text = f"{report.table(head, body)}\n\n{report.measured(*versions)}"
        print(text)
        if options.write:
            report.write("docs/accuracy.md", place, text)


if __name__ == "__main__":
    main()
