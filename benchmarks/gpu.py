"""Speed on a GPU, beside peers in one process: `python benchmarks/gpu.py`, on a machine with a CUDA device.

Prints ratios, and writes what was measured to benchmarks/results/ with date, device and versions; without a device
nothing is written. Times are medians of turns between CUDA events. The speed of the memory is that of a copy from
device to device of arrays of the same size, bytes read and written; a divergence of diagonal Gaussians has to read four
arrays, and a training step reads them twice and writes four.
"""

import argparse
import datetime as dt
import functools
import importlib
import json
import platform
import statistics
from pathlib import Path

import numpy as np

import gausskl as gk

RESULTS = Path(__file__).parent / "results"
LARGE, SMALL, DENSE = (16384, 1024), (32, 16), (100_000, 8)
FORWARD, STEP = 4, 12  # arrays that have to go through the memory


def textbook(xp, mean_p, std_p, mean_q, std_q):
    ratio = (std_p / std_q) ** 2
    z = (mean_p - mean_q) / std_q
    return 0.5 * (ratio + z * z - 1 - xp.log(ratio)).sum(-1)


def drawn(shape, dtype):
    rng = np.random.default_rng(0)
    draws = [rng.normal(0, 0.7, shape) for _ in range(4)]
    return [np.asarray(np.exp(x) if k % 2 else x, dtype) for k, x in enumerate(draws)]


def drawn_dense(shape, dtype):
    """Mean and covariance of p and of q."""
    rng, (n, d) = np.random.default_rng(0), shape
    sides = []
    for _ in "pq":
        factor = rng.normal(0, 0.3, (n, d, d)) + np.eye(d)
        sides += [rng.normal(0, 1, (n, d)), factor @ factor.swapaxes(-1, -2)]
    return [np.asarray(a, dtype) for a in sides]


def ours(keyword, *arrays, **options):
    p, q = (gk.Gaussian(arrays[k], **{keyword: arrays[k + 1]}) for k in (0, 2))
    return gk.kl_divergence(p, q, **options)


class Torch:
    """PyTorch on a CUDA device."""

    name = "torch"

    def __init__(self):
        self.torch = importlib.import_module("torch")
        self.distributions = self.torch.distributions
        self.device = self.torch.cuda.get_device_name()

    def array(self, values):
        return self.torch.from_numpy(values).cuda()

    def numpy(self, value):
        return value.detach().cpu().numpy()

    def seconds(self, call, repeats):
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats

    def copy(self, arrays):
        targets = [self.torch.empty_like(a) for a in arrays]
        return lambda: [target.copy_(a) for target, a in zip(targets, arrays, strict=True)]

    def normal(self, mean, std):
        return self.distributions.Independent(self.distributions.Normal(mean, std), 1)

    def peers(self):
        compiled = self.torch.compile(functools.partial(textbook, self.torch))

        def distributions(*arrays):
            return self.distributions.kl_divergence(self.normal(*arrays[:2]), self.normal(*arrays[2:]))

        return {"torch.distributions": distributions, "textbook under torch.compile": compiled}

    def dense_peers(self):
        normal = self.distributions.MultivariateNormal

        def distributions(*arrays):
            return self.distributions.kl_divergence(normal(*arrays[:2]), normal(*arrays[2:]))

        return {"torch.distributions": distributions}

    def step(self, function, arrays):
        leaves = [a.clone().requires_grad_() for a in arrays]
        return lambda: self.torch.autograd.grad(function(*leaves).mean(), leaves)


class CuPy:
    """CuPy."""

    name = "cupy"

    def __init__(self):
        self.cupy = importlib.import_module("cupy")
        self.device = self.cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()

    def array(self, values):
        return self.cupy.asarray(values)

    def numpy(self, value):
        return value.get()

    def seconds(self, call, repeats):
        start, end = (self.cupy.cuda.Event() for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3 / repeats

    def copy(self, arrays):
        targets = [self.cupy.empty_like(a) for a in arrays]
        return lambda: [self.cupy.copyto(target, a) for target, a in zip(targets, arrays, strict=True)]

    def peers(self):
        return {"textbook": functools.partial(textbook, self.cupy)}

    def dense_peers(self):
        return {}


def medians(library, calls, turns):
    """Median seconds of each call; they take turns."""
    for call in calls.values():
        for _ in range(3):
            call()
    repeats = {name: max(1, round(0.02 / library.seconds(call, 3))) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name].append(library.seconds(call, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def agree(library, calls, tolerance):
    (_, first), *others = calls.items()
    expected = library.numpy(first())
    for name, call in others:
        if not np.allclose(library.numpy(call()), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()):
            raise SystemExit(f"{name} disagrees")


def diagonal(library, shape, dtype, turns):
    """Seconds of a divergence for everybody, and of a copy."""
    arrays = [library.array(a) for a in drawn(shape, dtype)]
    calls = {"gausskl": functools.partial(ours, "std", *arrays)}
    calls |= {name: functools.partial(peer, *arrays) for name, peer in library.peers().items()}
    agree(library, calls, 1e-3 if dtype == "float32" else 1e-9)
    return medians(library, calls | {"copy": library.copy(arrays)}, turns)


def training_step(library, shape, dtype, turns):
    arrays = [library.array(a) for a in drawn(shape, dtype)]
    functions = {"gausskl": functools.partial(ours, "std")} | library.peers()
    calls = {name: library.step(function, arrays) for name, function in functions.items()}
    return medians(library, calls | {"copy": library.copy(arrays)}, turns)


def dense(library, shape, dtype, turns):
    arrays = [library.array(a) for a in drawn_dense(shape, dtype)]
    calls = {"gausskl": functools.partial(ours, "cov", *arrays)}
    calls["formulas"] = functools.partial(ours, "cov", *arrays, path="generic")
    calls |= {name: functools.partial(peer, *arrays) for name, peer in library.dense_peers().items()}
    agree(library, calls, 1e-6)
    return medians(library, calls, turns)


# What is asked for: workload, peer, ratio. Against the copy it is the share of its bandwidth.
GOALS = {
    ("forward", "copy"): 0.85,
    ("step", "copy"): 0.75,
    ("forward", "torch.distributions"): 8,
    ("forward", "textbook under torch.compile"): 1,
    ("forward", "textbook"): 8,
    ("dense", "torch.distributions"): 5,
}


def report(library, kind, name, seconds, path):
    """The ratios of a workload, printed; as a dict for the file of results."""
    arrays = {"forward": FORWARD, "step": STEP}.get(kind)
    ratios = {peer: s / seconds["gausskl"] for peer, s in seconds.items() if peer != "gausskl"}
    if "copy" in ratios and arrays:  # a copy moves eight arrays
        ratios["copy"] *= arrays / 8
    print(f"{library.name}, {name}: gausskl {1e6 * seconds['gausskl']:.1f} us by path {path}")
    for peer, ratio in ratios.items():
        asked = GOALS.get((kind, peer))
        verdict = "" if asked is None else f", asked {asked}: {'yes' if ratio >= asked else 'no'}"
        what = "of the bandwidth of a copy" if peer == "copy" else f"times as quick as {peer}"
        print(f"    {ratio:.3g} {what}{verdict}")
    return {"library": library.name, "workload": name, "path": path, "seconds": seconds, "ratios": ratios}


def measure(library, turns):
    for dtype in ("float32", "float64"):
        arrays = [library.array(a) for a in drawn(SMALL, dtype)]
        path = gk.plan(gk.Gaussian(arrays[0], std=arrays[1])).path
        size = f"{LARGE[0]} x {LARGE[1]}, {dtype}"
        yield report(library, "forward", f"diagonal, {size}", diagonal(library, LARGE, dtype, turns), path)
        if library.name == "torch":
            yield report(library, "step", f"training step, {size}", training_step(library, LARGE, dtype, turns), path)
        small = f"latency, {SMALL[0]} x {SMALL[1]}, {dtype}"
        yield report(library, "latency", small, diagonal(library, SMALL, dtype, turns), path)
    arrays = [library.array(a) for a in drawn_dense((2, DENSE[1]), "float64")]
    path = gk.plan(gk.Gaussian(arrays[0], cov=arrays[1]), gk.Gaussian(arrays[2], cov=arrays[3])).path
    seconds = dense(library, DENSE, "float64", turns)
    yield report(library, "dense", f"dense, {DENSE[0]} x d={DENSE[1]}, float64", seconds, path)


def libraries():
    for kind in (Torch, CuPy):
        try:
            library = kind()
            library.numpy(library.array(np.ones(1)))
        except Exception as error:
            print(f"{kind.name}: left out ({type(error).__name__}: {error})")
        else:
            yield library


def version(name):
    try:
        return importlib.import_module(name).__version__
    except ImportError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--out", type=Path, help="JSON file to write; by default one in benchmarks/results/")
    options = parser.parse_args()
    found = list(libraries())
    if not found:
        raise SystemExit("no CUDA device: nothing was measured, and nothing is written")
    today = dt.datetime.now(dt.UTC).date().isoformat()
    results = {
        "date": today,
        "device": found[0].device,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("gausskl", "numpy", "torch", "triton", "cuda.core", "cupy")},
        "turns": options.turns,
        "workloads": [result for library in found for result in measure(library, options.turns)],
    }
    out = options.out or RESULTS / f"{today}-{found[0].device.lower().replace(' ', '-')}.json"
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
