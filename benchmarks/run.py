"""Speed of gausskl beside its peers, in one process.

``nox -s bench`` runs it; ``nox -s bench -- --write`` also puts the table into docs/speed.md. The contestants of a
workload take turns, and each shows the median of its turns. Arrays are made, functions compiled and checked against
each other beforehand. Everybody has one thread and, on Linux, the same CPU. The numbers go to
benchmarks/results/ as JSON, or where ``--out`` says.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
if hasattr(os, "sched_setaffinity"):  # JAX takes as many threads as there are CPUs to run on
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
from peers import WORKLOADS  # noqa: E402

import gausskl as gk  # noqa: E402

RESULTS = Path(__file__).parent / "results"
BATCH_SECONDS = 0.02  # a turn repeats a quick call until it takes about this long


def turn(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls, turns):
    """Median seconds of each call; the calls take turns, so that a busy machine slows all of them."""
    repeats = {name: max(1, round(BATCH_SECONDS / max(turn(call, 1), 1e-7))) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name].append(turn(call, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def check(name, values, tolerance):
    """All contestants of a workload compute the same thing."""
    first, *others = values.items()
    for other, value in others:
        if not np.allclose(value, first[1], rtol=tolerance, atol=tolerance):
            raise SystemExit(f"{name}: {other} and {first[0]} disagree")


def processor():
    """Name of the processor where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def measure(options):
    results = []
    for workload in WORKLOADS:
        if options.only and options.only not in workload.name:
            continue
        calls = workload.calls(with_compile=options.compile)
        check(workload.name, {name: call() for name, call in calls.items()}, workload.tolerance)
        seconds = interleaved(calls, options.turns)
        results.append({"workload": workload.name, "seconds": seconds})
        print(line(results[-1]), flush=True)
    return results


def line(result):
    shown = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in result["seconds"].items())
    return f"{result['workload']}: {shown}"


def markdown(results):
    """One table for each library: milliseconds, and how many times as long gausskl takes."""
    tables = []
    for library in ("NumPy", "torch", "jax.jit"):
        of_library = {r["workload"]: _milliseconds(r["seconds"], library) for r in results}
        of_library = {name: times for name, times in of_library.items() if times}
        names = list(dict.fromkeys(who for times in of_library.values() for who in times))
        rows = [
            [workload, *(_cell(times.get(who), times["gausskl"], who) for who in names)]
            for workload, times in of_library.items()
        ]
        tables.append(report.table([f"{library}: ms", *names], rows))
    return "\n\n".join(tables)


def _milliseconds(seconds, library):
    pairs = ((who.partition(", "), s) for who, s in seconds.items())
    return {who: 1e3 * s for (who, _, on), s in pairs if on == library}


def _cell(milliseconds, ours, who):
    if milliseconds is None:
        return ""
    shown = f"{milliseconds:.2g}" if milliseconds < 100 else f"{milliseconds:.0f}"
    return shown if who == "gausskl" else f"{shown} ({ours / milliseconds:.2g}×)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well; needs a C++ compiler, slow")
    parser.add_argument("--turns", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--only", help="only workloads with this in their name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    jax.config.update("jax_enable_x64", True)
    results = measure(options)
    machine = {
        "processor": processor(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": 1,
    }
    used = report.versions("gausskl", "numpy", "torch", "jax", "numpyro")
    record = {
        "date": report.today(),
        "machine": machine,
        "versions": used,
        "path": gk.plan(gk.Gaussian([0.0], std=1.0)).path,
        "turns": options.turns,
        "results": results,
    }
    out = options.out or RESULTS / f"{report.today()}-{platform.machine()}.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    where = report.measured("gausskl", "numpy", "torch", "jax", "numpyro")
    text = (
        f"{markdown(results)}\n\n{where} Processor: {machine['processor']}, one thread for each "
        f"library. Path of gausskl: {record['path']}. Medians of {options.turns} turns."
    )
    print(text)
    if options.write:
        report.write("docs/speed.md", "speed", text)


if __name__ == "__main__":
    main()
