"""What the benchmarks share: where a number was measured, and how a table gets into a page."""

import datetime as dt
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
