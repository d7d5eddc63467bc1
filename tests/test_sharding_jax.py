"""JAX arrays spread over several devices: the divergence is computed where they are, and stays there.

How many devices a CPU is taken for must be said before JAX is imported. So this file is a program as well, which runs
once, with four devices, and prints what it found.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback

import numpy as np
import pytest
from conftest import NAMESPACES
from spreads import array_names, example

import gausskl as gk
from helpers import Backend

if __name__ != "__main__" and Backend.JAX not in NAMESPACES:
    pytest.skip("JAX is not under test", allow_module_level=True)

PAIRS = [
    ("std", "log_var"),
    ("var", "var"),
    ("cov", "cov"),
    ("scale_tril", "row"),
    ("precision", "precision"),
    ("precision", "cov"),
    ("low rank", "low rank"),
    ("low rank", "std"),
]
BATCH = 2, 4
# The sharding is left to the compiler, or a part of the type of an array, as `jax.make_mesh` has it by itself; and each
# p has a q of its own, or all have the same.
CASES = {
    "/".join((*pair, kind)): (*pair, kind, batch_of_q)
    for pair in PAIRS
    for kind, batch_of_q in {"Auto": BATCH, "Explicit": ()}.items()
}
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def found():
    """What the program found in each case."""
    given = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    run = [sys.executable, __file__]
    done = subprocess.run(run, env=os.environ | given, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@every_case
def test_the_result_is_that_of_one_device(found, case):
    """One operation after the other, and compiled; then with the mean and its gradients as well."""
    assert "error" not in found[case], found[case]["error"]
    assert found[case]["eager"] <= 4
    assert found[case]["compiled"] <= 8


@every_case
def test_the_result_stays_on_all_devices(found, case):
    assert "error" not in found[case], found[case]["error"]
    assert found[case]["devices"] == [4, 4]
    assert found[case]["sharded"] == [True, True]


def test_nothing_turns_x64_on(found):
    assert found["x64"] is False


def look_at(p, q, kind):
    """Compare the divergences of p, spread over four devices, with those on one device."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    def divergence(p, q, **options):
        return gk.kl_divergence(gk.Gaussian(**p, **packing[0]), gk.Gaussian(**q, **packing[1]), **options)

    @jax.jit
    def everything(p, q):
        mean = jax.value_and_grad(lambda p, q: divergence(p, q, reduction="mean"), argnums=(0, 1))
        return divergence(p, q), mean(p, q)

    packing = [{"packing": g["packing"]} if "packing" in g else {} for g in (p, q)]
    p, q = ({name: jnp.asarray(g[name], dtype=np.float32) for name in array_names(g)} for g in (p, q))
    devices = jax.make_mesh((4,), ("batch",), axis_types=(getattr(AxisType, kind),))
    spread = NamedSharding(devices, PartitionSpec(None, "batch"))
    everywhere = NamedSharding(devices, PartitionSpec())
    there = jax.device_put(p, spread), jax.device_put(q, spread if q["mean"].ndim > 1 else everywhere)
    with jax.set_mesh(devices) if kind == "Explicit" else contextlib.nullcontext():
        eager, compiled = divergence(*there), everything(*there)
    return {
        "eager": ulps(eager, divergence(p, q)),
        "compiled": max(map(ulps, jax.tree.leaves(compiled), jax.tree.leaves(everything(p, q)))),
        "devices": [len(result.sharding.device_set) for result in (eager, compiled[0])],
        "sharded": [result.sharding.is_equivalent_to(spread, 2) for result in (eager, compiled[0])],
    }


def ulps(got, want):
    """The largest error in units of 2**-23 of the largest number."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    return float(np.abs(got - want).max() / np.abs(want).max() * 2.0**23)


def main():
    import jax

    found = {}
    for case, (a, b, kind, batch_of_q) in CASES.items():
        try:
            found[case] = look_at(example(a, BATCH), example(b, batch_of_q, seed=1), kind)
        except Exception:
            found[case] = {"error": traceback.format_exc()}
    found["x64"] = jax.config.jax_enable_x64
    print(json.dumps(found))


if __name__ == "__main__":
    main()
