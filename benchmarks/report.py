"""What the benchmarks share: where a number was measured, and how a table gets into a page."""

import datetime as dt
import os
import platform
import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
LIBRARIES = {
    "gausskl": "gausskl",
    "numpy": "NumPy",
    "torch": "PyTorch",
    "jax": "JAX",
    "numpyro": "NumPyro",
    "numba": "Numba",
    "scipy": "SciPy",
    "tensorflow-cpu": "TensorFlow",
    "tensorflow-probability": "TensorFlow Probability",
    "dask": "Dask",
    "array-api-strict": "array-api-strict",
}


def today():
    """Date of the measurement in UTC."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def versions(*names):
    """Versions of those of the named distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[LIBRARIES[name]] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            if name == "gausskl":  # run from the source tree
                import gausskl

                found[name] = gausskl.__version__
    return {"Python": platform.python_version(), **found}


def measured(*names):
    """One sentence: when, on which kind of machine, and with which versions."""
    named = ", ".join(f"{name} {version}" for name, version in versions(*names).items())
    return f"Measured on {today()}, {platform.system()} {platform.machine()}, {named}."


def processor():
    """Name of the processor where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def power(number):
    """One digit and a power of ten: 3e-16."""
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].replace("+", ""), f"{number:.0e}")


def table(header, rows):
    """Markdown table, the first column to the left and the others to the right."""
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def times(results, libraries):
    """One table for each library: milliseconds, and how many times as long as gausskl."""
    tables = []
    for library in libraries:
        of_library = {r["workload"]: _milliseconds(r["seconds"], library) for r in results}
        of_library = {name: times for name, times in of_library.items() if "gausskl" in times}
        names = list(dict.fromkeys(who for times in of_library.values() for who in times))
        rows = [
            [workload, *(_cell(times.get(who), times["gausskl"], who) for who in names)]
            for workload, times in of_library.items()
        ]
        if rows:
            tables.append(table([f"{library}: ms", *names], rows))
    return "\n\n".join(tables)


def _milliseconds(seconds, library):
    pairs = ((who.partition(", "), s) for who, s in seconds.items())
    return {who: 1e3 * s for (who, _, on), s in pairs if on == library}


def _cell(milliseconds, ours, who):
    if milliseconds is None:
        return ""
    shown = _digits(milliseconds)
    return shown if who == "gausskl" else f"{shown} ({_digits(milliseconds / ours)}×)"


def _digits(number):
    return f"{number:.2g}" if number < 99.5 else f"{number:.0f}"


def record(libraries, threads, turns, **measured):
    """What goes into a file of results: where and when, and what was measured."""
    return {
        "date": today(),
        "machine": {
            "processor": processor(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": threads,
        },
        "versions": versions(*libraries),
        "turns": turns,
        **measured,
    }


def write(page, name, text):
    """Put ``text`` between the markers ``name`` of a page."""
    path = ROOT / page
    begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    old = path.read_text(encoding="utf-8")
    new, count = pattern.subn(lambda _: f"{begin}\n{text}\n{end}", old)
    if count != 1:
        raise SystemExit(f"{page} needs the markers {begin} and {end} once each")
    path.write_text(new, encoding="utf-8")
    print(f"wrote {name} into {page}")
