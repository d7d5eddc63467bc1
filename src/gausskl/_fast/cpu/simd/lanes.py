"""Arithmetic on many numbers at once, written as formulas and compiled as vector instructions.

A :class:`Lanes` stands for one 64-byte vector while a kernel is being compiled: adding two of them emits one vector
addition. What comes out is therefore a vector loop by construction, compiles in a fraction of the time that a loop
over numbers takes, and gives each number the same bits in whatever lane it stands.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

BYTES = 64

I32, I64 = ir.IntType(32), ir.IntType(64)
FLOAT = {64: ir.DoubleType(), 32: ir.FloatType()}


class Lanes:
    """The numbers of one vector: floats of ``bits`` bits, or integers of that size."""

    def __init__(self, builder: Any, bits: int, value: Any) -> None:
        self.builder, self.bits, self.value = builder, bits, value

    def _new(self, value: Any) -> Lanes:
        return Lanes(self.builder, self.bits, value)

    def _like(self, other: Lanes | float) -> Any:
        """``other`` as a vector of the type of this one."""
        if isinstance(other, Lanes):
            return other.value
        kind = self.value.type
        return ir.Constant(kind, [int(other) if self._holds_integers else float(other)] * kind.count)

    @property
    def _holds_integers(self) -> bool:
        return isinstance(self.value.type.element, ir.IntType)

    def _emit(self, floats: str, integers: str, a: Any, b: Any) -> Lanes:
        return self._new(getattr(self.builder, integers if self._holds_integers else floats)(a, b))

    def __add__(self, other: Lanes | float) -> Lanes:
        return self._emit("fadd", "add", self.value, self._like(other))

    def __sub__(self, other: Lanes | float) -> Lanes:
        return self._emit("fsub", "sub", self.value, self._like(other))

    def __rsub__(self, other: float) -> Lanes:
        return self._emit("fsub", "sub", self._like(other), self.value)

    def __mul__(self, other: Lanes | float) -> Lanes:
        return self._emit("fmul", "mul", self.value, self._like(other))

    def __truediv__(self, other: Lanes | float) -> Lanes:
        return self._new(self.builder.fdiv(self.value, self._like(other)))

    def __rtruediv__(self, other: float) -> Lanes:
        return self._new(self.builder.fdiv(self._like(other), self.value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Lanes:
        return self._new(self.builder.fneg(self.value))

    def __or__(self, other: Lanes) -> Lanes:
        return self._new(self.builder.or_(self.value, self._like(other)))

    def __xor__(self, other: Lanes) -> Lanes:
        return self._new(self.builder.xor(self.value, self._like(other)))

    def __and__(self, other: int) -> Lanes:
        return self._new(self.builder.and_(self.value, self._like(other)))

    def __rshift__(self, count: int) -> Lanes:
        return self._new(self.builder.ashr(self.value, self._like(count)))

    def __lshift__(self, count: int) -> Lanes:
        return self._new(self.builder.shl(self.value, self._like(count)))

    def filled(self, value: float) -> Lanes:
        """One number in every lane."""
        return self._new(self._like(value))

    def as_integers(self) -> Lanes:
        """The same bits read as integers."""
        return self._new(self.builder.bitcast(self.value, vector(ir.IntType(self.bits))))

    def as_floats(self) -> Lanes:
        """The same bits read as floats."""
        return self._new(self.builder.bitcast(self.value, vector(FLOAT[self.bits])))

    def above(self, other: Lanes | float) -> Lanes:
        """Whether a float is greater; not where one of the two is NaN."""
        return self._new(self.builder.fcmp_ordered(">", self.value, self._like(other)))

    def not_above(self, other: Lanes | float) -> Lanes:
        """Whether a float is less or equal; not where one of the two is NaN."""
        return self._new(self.builder.fcmp_ordered("<=", self.value, self._like(other)))

    def also(self, other: Lanes) -> Lanes:
        """Whether two comparisons hold."""
        return self._new(self.builder.and_(self.value, other.value))

    def negated(self) -> Lanes:
        """The opposite of a comparison."""
        return self._new(self.builder.not_(self.value))

    def is_zero(self) -> Lanes:
        """Whether an integer is 0."""
        return self._new(self.builder.icmp_signed("==", self.value, self._like(0)))

    def nonzero(self) -> Lanes:
        """Whether a float is not 0, or NaN."""
        return self._new(self.builder.fcmp_unordered("!=", self.value, self._like(0.0)))

    def size(self) -> Lanes:
        """Absolute value."""
        size: Lanes = (self.as_integers() & (2 ** (self.bits - 1) - 1)).as_floats()
        return size

    def at_least(self, limit: int) -> Lanes:
        """Whether an integer is at least ``limit``."""
        return self._new(self.builder.icmp_signed(">=", self.value, self._like(limit)))

    def at_most(self, limit: float) -> Lanes:
        """Whether the size of a float is at most ``limit``."""
        return self.size().not_above(limit)

    def choose(self, a: Lanes, b: Lanes | float) -> Lanes:
        """``a`` where this condition holds, else ``b``."""
        return a._new(self.builder.select(self.value, a.value, a._like(b)))

    def fused(self, a: Lanes | float, b: Lanes | float, c: Lanes | float) -> Lanes:
        """``a * b + c``, rounded once where the processor can, for numbers like this one."""
        return _call("fmuladd", *[self._new(self._like(x)) for x in (a, b, c)])


def fma_exact(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """``a * b + c``, rounded once on any processor."""
    return _call("fma", a, b, c)


def sqrt(x: Lanes) -> Lanes:
    """Square root."""
    return _call("sqrt", x)


def _call(name: str, *arguments: Lanes) -> Lanes:
    some = arguments[0]
    kind = some.value.type
    full = f"llvm.{name}.v{kind.count}f{some.bits}"
    function = cgutils.get_or_insert_function(some.builder.module, ir.FunctionType(kind, [kind] * len(arguments)), full)
    return some._new(some.builder.call(function, [argument.value for argument in arguments]))


def vector(element: Any) -> Any:
    """Type of the vector whose elements have this type."""
    bits = element.width if isinstance(element, ir.IntType) else {v: k for k, v in FLOAT.items()}[element]
    return ir.VectorType(element, 8 * BYTES // bits)
