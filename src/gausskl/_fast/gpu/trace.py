"""Formulas as programs for a GPU: each operation on a symbol becomes a line of a program.

A :class:`Symbol` answers to the names that the formulas of kernels use for vectors, and a :class:`Program` has the
functions of an array namespace. So the lines come from ``terms/diagonal.py`` and ``_formulas/diagonal.py`` themselves,
and no mathematics is written down a second time. A dialect says how an operation is spelt in a language.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

FLOAT, INTEGER, BOOLEAN = "float", "integer", "boolean"

# What needs no line where all operands are known.
OF_NUMBERS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "lt": operator.lt,
    "le": operator.le,
}


class Program:
    """Lines that compute numbers from arguments, in float32 or float64; and a namespace for formulas."""

    __name__ = "gausskl._fast.gpu.trace"
    inf, nan = math.inf, math.nan
    finfo = staticmethod(np.finfo)

    def __init__(self, bits: int, dialect: Mapping[str, Any], prefix: str = "v") -> None:
        self.bits, self.dialect, self.prefix = bits, dialect, prefix
        self._lines: list[tuple[str, list[str], str]] = []  # name, names of the operands, how it is spelt
        self.number = np.dtype(f"float{bits}").type
        self._known: dict[tuple[str, ...], Symbol] = {}

    def symbol(self, name: str, kind: str = FLOAT) -> Symbol:
        """A variable that is there already."""
        return Symbol(self, kind, name)

    def constant(self, value: Any, kind: str) -> Symbol:
        """A number as the program writes it."""
        number = float(self.number(value)) if kind == FLOAT else int(value)
        return Symbol(self, kind, self.dialect["constant"](number, kind, self.bits), number)

    def emit(self, operation: str, kind: str, *operands: Symbol) -> Symbol:
        """The result of an operation; that of an earlier line if it is the same."""
        values = [operand.value for operand in operands]
        if operation in OF_NUMBERS and None not in values:
            return self.constant(OF_NUMBERS[operation](*map(self.number, values)), kind)
        names = [operand.name for operand in operands]
        key = operation, *names
        if key not in self._known:
            spelling = self.dialect.get(f"{operation}{self.bits}") or self.dialect[operation]
            name = f"{self.prefix}{len(self._lines)}"
            self._lines.append((name, names, self.dialect["line"](name, kind, self.bits, spelling.format(*names))))
            self._known[key] = Symbol(self, kind, name)
        return self._known[key]

    def like(self, value: Any, kind: str) -> Symbol:
        """A symbol for a symbol or a number."""
        return value if isinstance(value, Symbol) else self.constant(value, kind)

    def lines(self, *results: Symbol) -> list[str]:
        """The lines that these results need, in order."""
        needed, found = {result.name for result in results}, []
        for name, operands, line in reversed(self._lines):
            if name in needed:
                needed.update(operands)
                found.append(line)
        return found[::-1]

    # The functions of a namespace.

    def where(self, condition: Symbol, a: Symbol | float, b: Symbol | float) -> Symbol:
        """``a`` where the condition holds, else ``b``."""
        return condition.choose(a, b)

    def log(self, x: Symbol) -> Symbol:
        """Natural logarithm."""
        return self.emit("log", FLOAT, x)

    def log1p(self, x: Symbol) -> Symbol:
        """Logarithm of 1 + x."""
        return self.emit("log1p", FLOAT, x)

    def exp(self, x: Symbol) -> Symbol:
        """Exponential."""
        return self.emit("exp", FLOAT, x)

    def expm1(self, x: Symbol) -> Symbol:
        """Exponential less 1."""
        return self.emit("expm1", FLOAT, x)

    def sqrt(self, x: Symbol) -> Symbol:
        """Square root."""
        return self.emit("sqrt", FLOAT, x)

    def floor(self, x: Symbol) -> Symbol:
        """The largest whole number that is not above it."""
        return self.emit("floor", FLOAT, x)

    def abs(self, x: Symbol) -> Symbol:
        """Absolute value."""
        return self.emit("abs", FLOAT, x)

    def zeros_like(self, x: Symbol) -> Symbol:
        """The number 0."""
        return self.constant(0.0, FLOAT)

    def ones_like(self, x: Symbol) -> Symbol:
        """The number 1."""
        return self.constant(1.0, FLOAT)

    def astype(self, x: Symbol, dtype: Any) -> Symbol:
        """A truth value as the number 1 or 0."""
        return x.choose(1.0, 0.0) if x.kind == BOOLEAN else x


class Symbol:
    """A number that a program knows by name; if it is the same whatever the arguments, with its value."""

    def __init__(self, program: Program, kind: str, name: str, value: float | None = None) -> None:
        self.program, self.kind, self.name, self.value = program, kind, name, value

    @property
    def bits(self) -> int:
        """Size of the floats of the program."""
        return self.program.bits

    @property
    def dtype(self) -> Any:
        """Their dtype."""
        return np.dtype(f"float{self.bits}")

    def _two(self, operation: str, a: Any, b: Any, kind: str | None = None) -> Symbol:
        a, b = (self.program.like(x, self.kind) for x in (a, b))
        suffix = "" if self.kind == FLOAT else f"_{self.kind}"
        return self.program.emit(operation + suffix, kind or self.kind, a, b)

    def __add__(self, other: Any) -> Symbol:
        return self._two("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self._two("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self._two("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._two("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self._two("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._two("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self._two("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._two("div", other, self)

    def __neg__(self) -> Symbol:
        return self.program.emit("neg", FLOAT, self)

    def __and__(self, other: Any) -> Symbol:
        return self._two("and", self, other)

    def __or__(self, other: Any) -> Symbol:
        return self._two("or", self, other)

    def __invert__(self) -> Symbol:
        return self.program.emit("not", BOOLEAN, self)

    def __rshift__(self, count: int) -> Symbol:
        return self._two("shr", self, count)

    def __lshift__(self, count: int) -> Symbol:
        return self._two("shl", self, count)

    def __lt__(self, other: Any) -> Symbol:
        return self._two("lt", self, other, BOOLEAN)

    def __le__(self, other: Any) -> Symbol:
        return self._two("le", self, other, BOOLEAN)

    def __gt__(self, other: Any) -> Symbol:
        return self._two("lt", other, self, BOOLEAN)

    def __ge__(self, other: Any) -> Symbol:
        return self._two("le", other, self, BOOLEAN)

    # The names that vectors answer to.

    def as_integers(self) -> Symbol:
        """The same bits read as an integer."""
        return self.program.emit("as_integers", INTEGER, self)

    def as_floats(self) -> Symbol:
        """The same bits read as a float."""
        return self.program.emit("as_floats", FLOAT, self)

    def at_least(self, limit: int) -> Symbol:
        """Whether an integer is at least ``limit``."""
        return self >= limit

    def at_most(self, limit: float) -> Symbol:
        """Whether the size of a float is at most ``limit``."""
        return self.program.abs(self) <= limit

    def choose(self, a: Any, b: Any) -> Symbol:
        """``a`` where this condition holds, else ``b``."""
        kind = next((x.kind for x in (a, b) if isinstance(x, Symbol)), FLOAT)
        return self.program.emit("where", kind, self, *(self.program.like(x, kind) for x in (a, b)))

    def fused(self, a: Any, b: Any, c: Any) -> Symbol:
        """``a * b + c``, rounded once."""
        return self.program.emit("fma", FLOAT, *(self.program.like(x, FLOAT) for x in (a, b, c)))
