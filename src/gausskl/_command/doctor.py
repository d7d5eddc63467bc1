"""``python -m gausskl doctor``: one table of what this machine has, and a sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence

from .. import __version__
from .._fast.cpu import threads as cpu_threads
from .._fast.leaves import is_installed
from .devices import EVERY, INSTALL
from .one_library import ALLOWED, Report, Row, shown

PATIENCE = 240.0  # seconds, after which a library is taken to hang

HEADER = ("library", "version", "device", "diagonal path", "dense path", "error (ulp)")
COLUMNS = 92

# A look at a GPU must not take all of its memory.
MODEST = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
LEGEND = (
    "error: the largest against stored values, diagonal / dense, in units in the last place; up to "
    f"{ALLOWED['diagonal']} / {ALLOWED['dense']} is right."
)


def doctor(asked: Sequence[str] = ()) -> tuple[str, int]:
    """The table and the sentences, and the exit status.

    Parameters
    ----------
    asked : sequence of str, optional
        Names of libraries to look at; by default all. One that is asked for by name has to be installed.

    Returns
    -------
    text : str
        What to print.
    status : int
        0 if all that is installed works, else 1.
    """
    names = [name for name in EVERY if not asked or name in asked]
    installed = [name for name in names if is_installed(name)]
    reports = {name: _shown_to_be_busy(name) for name in installed}
    problems = {f"{name} is not installed: {INSTALL[name]}": name for name in names if asked and name not in installed}
    at_fault = {blamed for name, report in reports.items() for _, blamed in report.problems if blamed == name}
    for name, report in reports.items():
        # Who suffers from the fault of another has nothing to add to what that one says itself.
        problems |= {sentence: name for sentence, by in report.problems if by == name or by not in at_fault}
    wrong = list(dict.fromkeys(problems.values()))
    checked = {*installed, *wrong}
    verdict = f"{len(wrong)} of {len(checked)} {'does' if len(wrong) == 1 else 'do'} not work: {', '.join(wrong)}"
    parts = [
        [_machine()],
        _table(names, reports),
        _wrapped([LEGEND]),
        _wrapped([note for report in reports.values() for note in report.notes]),
        _wrapped(problems),
        [verdict if wrong else "all that is installed works"],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part), 1 if wrong else 0


def ask(library: str, seconds: float = PATIENCE) -> Report:
    """The report on a library, by a process of its own."""
    command = [sys.executable, "-m", f"{__package__}.one_library", library]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=seconds,
            check=False,
            env=MODEST | os.environ,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        sentence = f"{library} hangs: after {seconds:.0f} seconds there was no answer, and it was stopped."
        return Report(problems=[(sentence, library)])
    try:
        found = json.loads(done.stdout)
    except ValueError:
        sentence = f"{library} {_end(done.returncode)} while it was tried out{_last_words(done.stderr)}."
        return Report(problems=[(sentence, library)])
    rows = [Row(**row) for row in found.pop("rows")]
    return Report(**found, rows=rows)


def _end(status: int) -> str:
    try:
        return f"crashed ({signal.Signals(-status).name})"
    except ValueError:
        return f"ended Python with exit status {status}"


def _last_words(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"; its last words: {last[:300].rstrip('.')}" if last else ""


def _shown_to_be_busy(library: str) -> Report:
    """The same as ``ask``, and on a terminal somebody who waits sees for what."""
    waiting = f"looking at {library} ..."
    shows = sys.stderr.isatty()
    if shows:
        print(waiting, end="", file=sys.stderr, flush=True)
    report = ask(library)
    if shows:
        print("\r" + " " * len(waiting), end="\r", file=sys.stderr, flush=True)
    return report


# ---- the text ----


def _machine() -> str:
    return (
        f"gausskl {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"CPU threads: {cpu_threads.count('numpy')}"
    )


def _table(names: Sequence[str], reports: dict[str, Report]) -> list[str]:
    table: list[tuple[str, ...]] = [HEADER]
    for name in names:
        if name not in reports:
            table.append((name, f"not installed: {INSTALL[name]}"))
            continue
        report = reports[name]
        fails = any(blamed == name for _, blamed in report.problems)
        for cells in map(_cells, report.rows) if report.rows else [("does not work" if fails else report.state,)]:
            table.append((name, report.version or "?", *cells))
    # A sentence at the end of a line may be as long as it likes.
    widths = [max(len(line[i]) for line in table if len(line) > i + 1) for i in range(len(HEADER) - 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=False)) for line in table]


def _cells(row: Row) -> tuple[str, ...]:
    if not row.works:
        return row.device, "does not work"
    errors = " / ".join(shown(row.errors[structure]) for structure in ALLOWED)
    return row.device, row.paths["diagonal"], row.paths["dense"], errors


def _wrapped(sentences: Iterable[str]) -> list[str]:
    return [
        textwrap.fill(sentence, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for sentence in sentences
    ]
