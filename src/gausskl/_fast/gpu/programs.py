"""What the kernels for a GPU have in common: the lines that compute a diagonal pair, dimension by dimension.

The formulas of ``terms/diagonal.py`` have one division and no logarithm for a dimension, and say where they do not
hold: there, and where a number is not finite, the ones of ``_formulas/diagonal.py`` are computed in the kernel as well.
So nothing has to be read back to find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..._formulas.given import LOGARITHM
from ..._formulas.kl import DIAGONAL
from ..batch import merged
from ..by_formula import four, partials
from ..contract import Spreads
from ..terms.diagonal import FORMULAS
from .trace import Program, Symbol

Dialect = Mapping[str, Any]


class Lines(NamedTuple):
    """Lines of a program, and the names of what they compute."""

    lines: list[str]
    results: list[str]


def names(spreads: Spreads) -> tuple[str, ...]:
    """Names of the arrays, and of the variables that hold their numbers."""
    return ("mean_p", "spread_p", "mean_q", "spread_q")[: 2 * len(spreads)]


def quick(spreads: Spreads, bits: int, dialect: Dialect, gradients: bool = False) -> Lines | None:
    """The terms, or the partial derivatives, and whether they do not hold; None where there are no such formulas."""
    keywords = [keyword for keyword, _ in spreads]
    known = keywords[0]
    program = Program(bits, dialect, "v")
    given: list[Any] = [program.symbol(name) for name in names(spreads)]
    if len(set(keywords)) > 1:
        if not set(keywords) <= set(LOGARITHM):
            return None
        known = "log_std"
        for k, keyword in enumerate(keywords):
            given[2 * k + 1] = LOGARITHM[keyword](given[2 * k + 1], xp=program)
    formula = FORMULAS[known, len(spreads) == 1]
    terms, mark = formula.terms(*given)
    outside = (mark < 0) | mark.at_least(2 ** (bits - 2))
    results = formula.gradient(*given) if gradients else (terms,)
    for result in results:
        outside = outside | ~(program.abs(result) < program.inf)
    return _finished(program, *results, outside)


def careful(spreads: Spreads, bits: int, dialect: Dialect, gradients: bool = False) -> Lines:
    """The terms, or the partial derivatives, whatever the numbers."""
    program = Program(bits, dialect, "w")
    given = [program.symbol(name) for name in names(spreads)]
    if gradients:
        return _finished(program, *partials(spreads, given, xp=program)[: len(given)])
    p, q = spreads[0][0], spreads[-1][0]
    return _finished(program, DIAGONAL[p, q](*four(spreads, given, xp=program), xp=program))


def layout(
    batch: tuple[int, ...], arrays: Sequence[tuple[Sequence[int], Sequence[int], int]]
) -> tuple[int, list[tuple[int, ...]]] | None:
    """Where a kernel finds the numbers of arrays that broadcast over a batch, if the batch comes down to two axes.

    Each array is its shape, its strides in numbers, and how many of its axes are not of the batch. Given back are the
    length of the second axis, and the steps of each array along both and along its own axes; 0 where it is broadcast.
    """
    steps = []
    for shape, strides, own in arrays:
        found = [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]
        steps.append([0] * (len(batch) + own - len(found)) + found)
    axes = merged(batch, steps)
    if len(axes) > 2:
        return None
    (_, outer), (inner, within) = [(1, [0] * len(steps))] * (2 - len(axes)) + axes
    return inner, [(o, i, *step[len(batch) :]) for o, i, step in zip(outer, within, steps, strict=True)]


def _finished(program: Program, *results: Symbol) -> Lines:
    return Lines(program.lines(*results), [result.name for result in results])
