"""How one library does on this machine: ``python -m gausskl._command.one_library torch`` says it as JSON.

The doctor runs this in a process of its own: a library may crash, hang, print, or keep the memory of a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from .._arrays import namespace
from ..divergence import kl_divergence, plan
from ..gaussian import Gaussian
from .devices import DEVICES, HELPERS, OLDEST, Device, cure, upgrade
from .references import KNOWN, Known

ALLOWED = {"diagonal": 16, "dense": 64}  # errors in units in the last place


@dataclasses.dataclass
class Row:
    """A line of the table: how a library does on one device, by structure. It works if each has its error."""

    device: str
    paths: dict[str, str] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether all could be computed."""
        return self.errors.keys() == ALLOWED.keys()


@dataclasses.dataclass
class Report:
    """What there is to say of a library.

    ``state`` stands in the table where there are no rows. A problem is a sentence and the library to blame.
    """

    version: str = ""
    state: str = ""
    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def examine(library: str) -> Report:
    """Everything about a library that is installed."""
    report = Report()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        _examine(library, report)
    for said in [str(warning.message) for warning in heard]:
        if said.startswith("gausskl"):
            helper = next((helper for helper in HELPERS if f"{_path(helper)} could not" in said), "")
            hint = f"This may help: {upgrade(helper)}" if helper else cure(library, RuntimeError(said))
            report.problems.append((f"{library}: {said}. {hint}".rstrip(), helper or library))
    return report


def _examine(library: str, report: Report) -> None:
    attempt = "cannot be imported"
    try:
        report.version = str(getattr(importlib.import_module(library), "__version__", ""))
        if _is_too_old(library, report.version):
            sentence = f"{library} {report.version} is too old, {OLDEST[library]} is needed: {upgrade(library)}"
            report.problems.append((sentence, library))
        elif library in HELPERS:
            attempt = "cannot be used"
            report.state = _put_to_use(library)
        else:
            attempt = "cannot allocate an array"
            for device in DEVICES[library]():
                _examine_on(device, library, report)
    except Exception as error:
        _blame(library, attempt, error, report)


def _examine_on(device: Device, library: str, report: Report) -> None:
    report.notes += [device.about] if device.about else []
    report.rows.append(Row(device.name))
    try:
        _check(report.rows[-1], library, device, report)
    except Exception as error:
        _blame(library, f"does not work on {device.name}", error, report)


def _blame(library: str, attempt: str, error: Exception, report: Report) -> None:
    report.problems.append((f"{library} {attempt}: {_said(error)} {cure(library, error)}".rstrip(), library))


def _is_too_old(library: str, version: str) -> bool:
    found, oldest = (tuple(map(int, re.findall(r"\d+", v)[:3])) for v in (version, OLDEST.get(library, "")))
    return bool(version) and found < oldest


def _said(error: BaseException) -> str:
    """What is at the bottom of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.')}." if lines else f"{type(error).__name__}."


def _put_to_use(helper: str) -> str:
    """Let a library that compiles kernels serve the last device of the library that it helps."""
    paths, unused = [], "is not used on this machine"
    if importlib.util.find_spec(HELPERS[helper]) is None:
        return unused
    *_, device = DEVICES[HELPERS[helper]]()
    for known in KNOWN.values():
        p, q = gaussians(known[:1], "float32", device)
        kl_divergence(p, q)
        paths.append(plan(p, q).path)
    return f"serves {HELPERS[helper]} on {device.name}" if _path(helper) in paths else unused


def _path(helper: str) -> str:
    """Name of the path that needs it."""
    return helper.partition(".")[0]


# ---- paths and accuracy ----


def _check(row: Row, library: str, device: Device, report: Report) -> None:
    for structure, known in KNOWN.items():
        paths, worst = [], 0.0
        for pairs, dtype in batches(known):
            p, q = gaussians(pairs, dtype, device)
            values = namespace.to_numpy(kl_divergence(p, q))
            if device.name != "cpu":  # the formulas want other parts of a library than a kernel does
                kl_divergence(p, q, path="generic")
            error = max(ulps(float(value), pair.exact, dtype) for value, pair in zip(values, pairs, strict=True))
            if error > ALLOWED[structure]:
                sentence = (
                    f"{library} on {device.name}: the divergence of {structure} Gaussians ({pairs[0].keyword}, {dtype})"
                    f" is off by {shown(error)} units in the last place, where {ALLOWED[structure]} are allowed. "
                    "Please report this, with the table."
                )
                report.problems.append((sentence, library))
            paths.append(plan(p, q).path)  # after the call, which may have found out that a kernel cannot be had
            worst = max(worst, error)
        row.paths[structure], row.errors[structure] = ", ".join(dict.fromkeys(paths)), worst


def batches(known: list[Known]) -> Iterator[tuple[list[Known], str]]:
    """The pairs of each keyword whose inputs are exact in a dtype, with the dtype."""
    for keyword in dict.fromkeys(pair.keyword for pair in known):
        for dtype in ("float64", "float32"):
            yield [pair for pair in known if pair.keyword == keyword and _is_exact(pair, dtype)], dtype


def _is_exact(pair: Known, dtype: str) -> bool:
    return all(bool(np.all(np.asarray(part) == np.asarray(part, dtype))) for part in (*pair.p, *pair.q))


def gaussians(pairs: list[Known], dtype: str, device: Device) -> tuple[Gaussian, Gaussian]:
    """The two sides of pairs of one keyword, as batches on a device."""
    sides = []
    for side in ([pair.p for pair in pairs], [pair.q for pair in pairs]):
        mean, spread = (device.array(np.asarray(part, dtype)) for part in zip(*side, strict=True))
        sides.append(Gaussian(mean, **{pairs[0].keyword: spread}))
    return sides[0], sides[1]


def ulps(value: float, exact: str, dtype: str) -> float:
    """Error in units in the last place of the exact value; where that is 0, so must be the result."""
    if not math.isfinite(value) or not Decimal(exact):
        return 0.0 if value == float(exact) else math.inf
    unit = float(np.spacing(np.dtype(dtype).type(exact)))
    return float(abs(Decimal(value) - Decimal(exact)) / Decimal(unit))


def shown(number: float) -> str:
    """A number in two digits, or as many as it has before the point."""
    return f"{number:.2g}" if number < 99.5 else f"{number:.0f}"


def main() -> None:
    """Print the report on the library named on the command line, and let nothing else print there."""
    channel = os.dup(1)
    os.dup2(2, 1)
    report = examine(sys.argv[1])
    with open(channel, "w", encoding="utf-8") as output:
        json.dump(dataclasses.asdict(report), output)


if __name__ == "__main__":
    main()
