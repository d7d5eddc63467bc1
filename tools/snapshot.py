"""Every bit that the library gives, before and after a change that is meant to leave them alone.

    python tools/snapshot.py before.json        # then the change
    python tools/snapshot.py after.json --beside before.json

Each pair of keywords, alone and near each other, in both dtypes, by each library that is installed and each path, with
gradients by torch; the bits are those of this machine, so the files are not kept.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from spreads import KEYWORDS, drawn, example

import gausskl as gk
from helpers import Backend, make, to_numpy

PATHS = {"numpy": ("generic", "numba"), "torch": ("generic", "numba")}
SHAPES = {"numpy": ((3,), 5, None), "torch": ((2, 2), 3, 1e-3)}  # batch, dimensions, distance
OTHERS = "array_api_strict", "jax", "dask"
FEW = "std", "log_var", "cov", "row", "precision", "low rank"  # for the libraries that have the formulas only


def digest(values):
    """The bits, and the numbers for whoever wants to see what changed."""
    values = np.asarray(values)
    return [
        hashlib.sha256(repr((values.shape, values.dtype.str)).encode() + values.tobytes()).hexdigest()[:16],
        values.ravel()[:4].tolist(),
    ]


def sides(xp, pair, grad=False):
    """The two Gaussians, and every array of them."""
    arrays = []

    def array(value):
        made = make(xp, value)
        arrays.append(made.requires_grad_() if grad else made)
        return arrays[-1]

    both = [gk.Gaussian(**{k: v if k == "packing" else array(v) for k, v in side.items()}) for side in pair]
    return both, arrays


def answers(library, names, dtype, path):
    """Name and bits of everything that one pair gives by one path."""
    xp = Backend[library.upper()].load()
    for label, (batch, d, distance) in SHAPES.items():
        pair = drawn(*names, batch, d, distance, dtype=dtype)
        both, _ = sides(xp, pair)
        for options in ({}, {"reduction": "sum"}, {"reduction": "mean"}, {"per_dim": True}):
            try:
                value = digest(to_numpy(gk.kl_divergence(*both, path=path, **options)))
            except ValueError as error:
                value = str(error)
            yield f"{label} {options}", value
        yield f"{label} plan", str(gk.plan(*both, path=path)) if library != "dask" else ""
        if library == "torch":
            both, arrays = sides(xp, pair, grad=True)
            try:
                gk.kl_divergence(*both, path=path, reduction="sum").backward()
                yield f"{label} gradients", [digest(to_numpy(a.grad)) for a in arrays]
            except ValueError as error:
                yield f"{label} gradients", str(error)


def alone(library, name, dtype, path):
    """The same from the standard normal, and with twice the digits."""
    xp = Backend[library.upper()].load()
    g = {k: v if k == "packing" else np.asarray(v, dtype) for k, v in example(name, (3,), 4).items()}
    (p,), _ = sides(xp, [g])
    yield "alone", digest(to_numpy(gk.kl_divergence(p, path=path)))
    if path == "numba":
        try:
            yield "precise", digest(to_numpy(gk.kl_divergence(p, precise=True)))
        except ValueError as error:
            yield "precise", str(error)


def everything():
    libraries = {"numpy": KEYWORDS, "torch": KEYWORDS} | dict.fromkeys(OTHERS, FEW)
    for library, keywords in libraries.items():
        if importlib.util.find_spec(library) is None:
            continue
        for path, dtype in itertools.product(PATHS.get(library, ("generic",)), (np.float64, np.float32)):
            head = f"{library} {path} {np.dtype(dtype).name}"
            for name in keywords:
                for what, value in only_served(alone(library, name, dtype, path)):
                    yield f"{head} {name}: {what}", value
            for names in itertools.product(keywords, keywords):
                for what, value in only_served(answers(library, names, dtype, path)):
                    yield f"{head} {' | '.join(names)}: {what}", value


def only_served(items):
    """What comes until a path turns out not to serve the pair, and that it does not."""
    try:
        yield from items
    except ValueError as error:
        yield "refused", str(error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--beside", type=Path, help="compare with this file, and fail if anything differs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = dict(everything())
    options.file.write_text(json.dumps(found, indent=0))
    print(f"{len(found)} answers")
    if options.beside:
        before = json.loads(options.beside.read_text())
        changed = [name for name in before.keys() | found.keys() if before.get(name) != found.get(name)]
        for name in sorted(changed):
            print(f"{name}\n  before: {before.get(name)}\n  after:  {found.get(name)}")
        sys.exit(bool(changed))
