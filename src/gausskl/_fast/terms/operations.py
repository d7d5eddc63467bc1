"""What the formulas of kernels are made of beside operators.

The numbers of a formula stand for what a kernel will compute: the vectors of a processor, or the variables of a
program for a GPU. They know how; a formula does not care.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..cpu.simd.lanes import Lanes as Number  # or a symbol, which answers to the same names


def where(condition: Number, a: Number, b: Number | float) -> Number:
    """``a`` where the condition holds, else ``b``."""
    return condition.choose(a, b)


def fma(a: Number | float, b: Number | float, c: Number | float) -> Number:
    """``a * b + c``, rounded once where the processor can."""
    some = next(x for x in (a, b, c) if not isinstance(x, (int, float)))
    return some.fused(a, b, c)


def polynomial(coefficients: dict[int, tuple[float, ...]], x: Number) -> Number | float:
    """Horner's rule with the coefficients for the precision of ``x``."""
    *rest, last = coefficients[x.bits]
    value: Number | float = last
    for coefficient in reversed(rest):
        value = fma(value, x, coefficient)
    return value
