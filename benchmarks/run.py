"""Speed of gausskl beside its peers, in one process.

``nox -s bench`` runs it; ``nox -s bench -- --write`` also puts the tables into docs/speed.md. The contestants of a
workload take turns, and each shows the median of its turns. Arrays are made, functions compiled and checked against
each other beforehand. Everybody has the same number of threads and, on Linux, the same CPUs. The numbers of a whole
run go to benchmarks/results/ as JSON, those of any run to where ``--out`` says.
"""

import argparse
import json
import os
import platform
import shutil
import warnings
from pathlib import Path

import timing


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/speed.md")
    parser.add_argument("--group", choices=("diagonal", "dense", "all"), default="all", help="which workloads")
    parser.add_argument("--only", default="", help="only workloads with this in their name")
    parser.add_argument("--turns", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--threads", type=int, default=1, help="threads, and CPUs, of each library")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=shutil.which(os.environ.get("CXX", "g++")) is not None,
        help="torch.compile as well; where there is a C++ compiler, that is the default",
    )
    options = parser.parse_args()
    options.whole = options.group == "all" and not options.only
    if options.write and not options.whole:
        parser.error("--write needs all workloads: leave out --only and --group")
    return options


OPTIONS = arguments()
timing.limit_threads(OPTIONS.threads)

import jax  # noqa: E402
import report  # noqa: E402
import torch  # noqa: E402
from limits import SHAPES, first_call, peak_memory  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("gausskl", "numpy", "torch", "jax", "numpyro", "scipy", "numba")
MEMORY_ASKED = {"diagonal": 1e6, "dense": 16e6}  # bytes beside inputs and result, of one thread
FIRST_CALL_ASKED = 1.0, 0.15  # seconds


def measure(workload, options):
    torch.compiler.reset()  # after some recompilations of one function torch.compile would run it eagerly
    calls = workload.calls(options.compile, options.threads)
    limits = {name for name in calls if name.startswith("read limit")}
    timing.check(
        workload.name, {name: call() for name, call in calls.items() if name not in limits}, workload.tolerance
    )
    seconds = timing.interleaved(calls, options.turns)
    result = {"workload": workload.name, "group": workload.group, "path": workload.path(), "seconds": seconds}
    shown = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in seconds.items())
    print(f"{workload.name}: {shown}", flush=True)
    return result


def judge(workload, seconds):
    """The goals of a workload, and what was measured of each."""
    for goal in workload.goals:
        measured = goal.measured(seconds)
        yield {
            "workload": workload.name,
            "against": goal.against,
            "asked": goal.asked,
            "measured": measured,
            "reached": min(measured.values()) >= goal.asked if measured else None,
        }


def judge_memory(structure):
    measured = {library: peak_memory(library.lower(), structure) for library in ("NumPy", "torch")}
    measured = {library: size / OPTIONS.threads for library, size in measured.items() if size is not None}
    (rows, d), asked = SHAPES[structure], MEMORY_ASKED[structure]
    return {
        "workload": f"memory beside inputs and result, {structure}, {rows} × d={d}, float64, per thread",
        "unit": "bytes",
        "asked": asked,
        "measured": measured,
        "reached": max(measured.values()) <= asked if measured else None,
    }


def judge_first_call():
    names = "first call beside the import of Numba", "the same, with the kernel on the disk"
    return [
        {"workload": name, "unit": "seconds", "asked": asked, "measured": {"NumPy": taken}, "reached": taken <= asked}
        for name, asked, taken in zip(names, FIRST_CALL_ASKED, first_call(), strict=True)
    ]


def goals_markdown(goals):
    """What was asked and what was measured, on NumPy arrays and on torch tensors."""
    rows = []
    for goal in goals:
        against = goal.get("against", "")
        shown = _ratio if against else UNITS[goal["unit"]]
        measured = [shown(goal["measured"][on]) if on in goal["measured"] else "" for on in ("NumPy", "torch")]
        reached = {True: "yes", False: "no", None: "not measured"}[goal["reached"]]
        rows.append(
            [goal["workload"], against, f"{'≥' if against else '≤'} {shown(goal['asked'])}", *measured, reached]
        )
    return report.table(["work", "against", "asked", "NumPy", "torch", "reached"], rows)


def _ratio(number):
    return f"{number:.3g}×"


UNITS = {"bytes": lambda number: f"{number / 1e6:.3g} MB", "seconds": lambda number: f"{number:.2g} s"}


def conditions(record):
    """The sentences under the tables."""
    threads = f"{record['machine']['threads']} thread{'s' * (record['machine']['threads'] > 1)}"
    paths = ", ".join(dict.fromkeys(result["path"] for result in record["results"]))
    return (
        f"{report.measured(*LIBRARIES)} Processor: {record['machine']['processor']}, {threads} for each library. "
        f"Paths of gausskl: {paths}. Medians of {record['turns']} turns, or of fewer, {timing.FEWEST_TURNS} at least, "
        f"where a workload would take more than {timing.WORKLOAD_SECONDS} s."
    )


def file_name(threads):
    name = f"{report.today()}-{platform.machine()}"
    return f"{name}.json" if threads == 1 else f"{name}-{threads}-threads.json"


def main():
    warnings.simplefilter("ignore")
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(OPTIONS.threads)
    if not OPTIONS.compile:
        print("torch.compile: left out")
    results, goals = [], []
    for workload in WORKLOADS:
        if OPTIONS.group in (workload.group, "all") and OPTIONS.only in workload.name:
            results.append(measure(workload, OPTIONS))
            goals += judge(workload, results[-1]["seconds"])
    if not OPTIONS.only:
        goals += [judge_memory(structure) for structure in MEMORY_ASKED if OPTIONS.group in (structure, "all")]
        goals += judge_first_call() if OPTIONS.group != "dense" else []
    record = report.record(LIBRARIES, OPTIONS.threads, OPTIONS.turns, results=results, goals=goals)
    if out := OPTIONS.out or (OPTIONS.whole and RESULTS / file_name(OPTIONS.threads)):
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    times = report.times(results, ("NumPy", "torch", "jax.jit"))
    text = f"{times}\n\n{goals_markdown(goals)}\n\n{conditions(record)}"
    print(text)
    if OPTIONS.write:
        report.write("docs/speed.md", "speed", text)


if __name__ == "__main__":
    main()
