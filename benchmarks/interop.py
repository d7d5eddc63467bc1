"""Distribution objects: gausskl's divergence beside that of the library that the objects come from, in one process.

``python benchmarks/interop.py`` measures what is installed of PyTorch, NumPyro and TensorFlow Probability; ``--write``
puts the tables into docs/distributions.md or, where TensorFlow is installed, docs/tensorflow.md. The objects are made
beforehand. As with run.py, contestants take turns, and the times are medians.
"""

import argparse
import importlib.util
import json
import platform
import warnings
from pathlib import Path

import timing


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--write", action="store_true", help="put the tables into a page, and a JSON file beside others"
    )
    parser.add_argument("--turns", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--threads", type=int, default=1, help="threads, and CPUs, of each library")
    return parser.parse_args()


OPTIONS = arguments()
timing.limit_threads(OPTIONS.threads)

import numpy as np  # noqa: E402
import report  # noqa: E402

import gausskl as gk  # noqa: E402

# Kind, shape of the mean, dtype.
WORK = [
    ("diagonal", (4096, 256), "float32"),
    ("diagonal", (4096, 256), "float64"),
    ("diagonal", (32, 16), "float32"),
    ("dense", (2000, 8), "float64"),
    ("dense", (200, 64), "float64"),
]


def arrays(kind, shape, dtype):
    """Means and spreads of p and q."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        yield rng.standard_normal(shape).astype(dtype)
        if kind == "diagonal":
            yield rng.uniform(0.5, 2.0, shape).astype(dtype)
        else:
            d = shape[-1]
            factor = np.tril(rng.standard_normal((*shape, d)), -1) / d**0.5
            yield (factor + np.eye(d) * rng.uniform(0.5, 2.0, (*shape, 1))).astype(dtype)


def in_torch(kind, values):
    import torch
    from torch import distributions as td

    torch.set_num_threads(OPTIONS.threads)
    mean_p, spread_p, mean_q, spread_q = map(torch.from_numpy, values)

    def make(mean, spread):
        if kind == "diagonal":
            return td.Independent(td.Normal(mean, spread), 1)
        return td.MultivariateNormal(mean, scale_tril=spread)

    p, q = make(mean_p, spread_p), make(mean_q, spread_q)
    return {
        "gausskl, torch": lambda: gk.kl_divergence(p, q),
        "torch.distributions, torch": lambda: td.kl_divergence(p, q),
    }


def in_numpyro(kind, values):
    import jax
    from numpyro import distributions as nd

    jax.config.update("jax_enable_x64", True)

    def make(mean, spread):
        if kind == "diagonal":
            return nd.Normal(mean, spread).to_event(1)
        return nd.MultivariateNormal(mean, scale_tril=spread)

    def timed(divergence):
        compiled = jax.jit(lambda a, b, c, d: divergence(make(a, b), make(c, d)))
        given = [jax.numpy.asarray(value) for value in values]
        return lambda: np.asarray(jax.block_until_ready(compiled(*given)))

    return {"gausskl, jax.jit": timed(gk.kl_divergence), "NumPyro, jax.jit": timed(nd.kl_divergence)}


def in_tensorflow(kind, values):
    import tensorflow as tf
    import tensorflow_probability as tfp

    tf.config.threading.set_intra_op_parallelism_threads(OPTIONS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(OPTIONS.threads)
    given = [tf.constant(value) for value in values]

    def make(mean, spread):
        if kind == "diagonal":
            return tfp.distributions.MultivariateNormalDiag(mean, spread)
        return tfp.distributions.MultivariateNormalTriL(mean, spread)

    def theirs(mean_p, spread_p, mean_q, spread_q):
        return tfp.distributions.kl_divergence(make(mean_p, spread_p), make(mean_q, spread_q))

    def ours(mean_p, spread_p, mean_q, spread_q):
        keyword = "std" if kind == "diagonal" else "scale_tril"
        p, q = gk.Gaussian(mean_p, **{keyword: spread_p}), gk.Gaussian(mean_q, **{keyword: spread_q})
        return gk.kl_divergence(p, q)

    def step(divergence):
        def gradients(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                loss = tf.reduce_sum(divergence(*tensors))
            return tape.gradient(loss, tensors)

        return tf.function(gradients, jit_compile=True)

    modes = {
        "eager": lambda divergence: divergence,
        "tf.function": tf.function,
        "XLA": lambda divergence: tf.function(divergence, jit_compile=True),
        "gradients, XLA": step,
    }
    calls = {}
    for mode, of in modes.items():
        for name, divergence in (("gausskl", ours), ("TensorFlow Probability", theirs)):
            calls[f"{name} | {mode}"] = _with_values(of(divergence), given)
    return calls


def _with_values(function, given):
    """A call that waits for the numbers."""

    def call():
        result = function(*given)
        return tuple(r.numpy() for r in result) if isinstance(result, (tuple, list)) else result.numpy()

    return call


FAMILIES = {"torch": in_torch, "numpyro": in_numpyro, "tensorflow_probability": in_tensorflow}
MODES = ("torch", "jax.jit", "eager", "tf.function", "XLA", "gradients, XLA")
VERSIONS = ("gausskl", "numpy", "numba", "torch", "jax", "numpyro", "tensorflow-cpu", "tensorflow-probability")


def measure(kind, shape, dtype):
    """Times of every contestant, by "who, where"."""
    name = f"{kind}, {shape[0]} × d={shape[1]}, {dtype}"
    seconds = {}
    for module, family in FAMILIES.items():
        if importlib.util.find_spec(module):
            calls = family(kind, list(arrays(kind, shape, dtype)))
            for mode in dict.fromkeys(split(who)[1] for who in calls):
                of_mode = {who: call for who, call in calls.items() if split(who)[1] == mode}
                timing.check(name, {who: call() for who, call in of_mode.items()}, 1e-3 if dtype == "float32" else 1e-9)
            seconds |= timing.interleaved(calls, OPTIONS.turns)
    print(name, {who: f"{1e3 * s:.3g} ms" for who, s in seconds.items()}, flush=True)
    return {"workload": name, "seconds": {", ".join(split(who)): s for who, s in seconds.items()}}


def split(who):
    """Contestant and mode."""
    who, _, mode = who.partition(" | ") if " | " in who else who.partition(", ")
    return who, mode


def main():
    warnings.simplefilter("ignore")
    results = [measure(*work) for work in WORK]
    modes = [mode for mode in MODES if any(who.endswith(f", {mode}") for who in results[0]["seconds"])]
    record = report.record(VERSIONS, OPTIONS.threads, OPTIONS.turns, results=results)
    where = f"Processor: {record['machine']['processor']}, threads for each library: {OPTIONS.threads}."
    text = f"{report.times(results, modes)}\n\n{report.measured(*VERSIONS)} {where} Medians of {OPTIONS.turns} turns."
    print(text)
    if OPTIONS.write:
        page = "tensorflow" if importlib.util.find_spec("tensorflow") else "distributions"
        report.write(f"docs/{page}.md", page, text)
        file = Path(__file__).parent / "results" / f"{report.today()}-{platform.machine()}-{page}.json"
        file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
