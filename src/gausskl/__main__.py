"""``python -m gausskl doctor``: the only command there is."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from ._command.devices import EVERY
from ._command.doctor import doctor

DESCRIPTION = """\
Look at every array library that is installed: its devices, the paths that serve diagonal and dense Gaussians, the
largest error against stored values, the speed against the textbook formula, and what is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gausskl", description="Kullback-Leibler divergence of Gaussians.")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="command", required=True)
    look = commands.add_parser(
        "doctor",
        help="say which libraries work on this machine, and what is wrong with the others",
        description=DESCRIPTION,
        epilog="Exit status 0: all that is installed works. 1: something does not. 2: this command was called wrongly.",
    )
    look.add_argument("library", nargs="*", help=f"look at these only, which must be installed: {', '.join(EVERY)}")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.library if name not in EVERY]
    if unknown:
        look.error(f"no library that is known here: {', '.join(unknown)} (known are {', '.join(EVERY)})")
    text, status = doctor(options.library)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an error may be said in letters that a terminal does not have
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
