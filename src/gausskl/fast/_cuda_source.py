"""The formulas of diagonal pairs in CUDA C."""

from __future__ import annotations

import math
from typing import Any

from . import _gpu

TYPE = {
    ("float", 64): "double",
    ("float", 32): "float",
    ("integer", 64): "long long",
    ("integer", 32): "int",
    ("boolean", 64): "bool",
    ("boolean", 32): "bool",
}


def _constant(value: Any, kind: str, bits: int) -> str:
    if kind == "integer":
        return f"({value}LL)" if bits == 64 else f"({value})"
    if kind == "boolean":
        return str(bool(value)).lower()
    if not math.isfinite(value):
        name = "inf" if value > 0 else "nan"  # no formula has the other infinity
        return {
            ("inf", 64): "__longlong_as_double(0x7ff0000000000000LL)",
            ("inf", 32): "__int_as_float(0x7f800000)",
            ("nan", 64): "__longlong_as_double(0x7ff8000000000000LL)",
            ("nan", 32): "__int_as_float(0x7fc00000)",
        }[name, bits]
    return f"({value!r})" if bits == 64 else f"({value!r}f)"


def _line(name: str, kind: str, bits: int, expression: str) -> str:
    return f"const {TYPE[kind, bits]} {name} = {expression};"


# Integers may wrap around, which C defines for unsigned ones only.
_WRAPPED = {
    f"{operation}_integer{bits}": f"({TYPE['integer', bits]})((unsigned {TYPE['integer', bits]}){{}} {sign} "
    f"(unsigned {TYPE['integer', bits]}){{}})"
    for bits in (32, 64)
    for operation, sign in (("add", "+"), ("sub", "-"), ("shl", "<<"))
}
_FUNCTIONS = {
    f"{name}{bits}": f"{called}{'' if bits == 64 else 'f'}({', '.join(['{}'] * count)})"
    for name, called, count in (
        ("abs", "fabs", 1),
        ("sqrt", "sqrt", 1),
        ("exp", "exp", 1),
        ("log", "log", 1),
        ("expm1", "expm1", 1),
        ("fma", "fma", 3),
    )
    for bits in (32, 64)
}
DIALECT = {
    "constant": _constant,
    "line": _line,
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "where": "{} ? {} : {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "lt_integer": "{} < {}",
    "le_integer": "{} <= {}",
    "and_boolean": "{} && {}",
    "or_boolean": "{} || {}",
    "not": "!{}",
    "and_integer": "{} & {}",
    "or_integer": "{} | {}",
    "shr_integer": "{} >> {}",
    "as_integers64": "__double_as_longlong({})",
    "as_integers32": "__float_as_int({})",
    "as_floats64": "__longlong_as_double({})",
    "as_floats32": "__int_as_float({})",
    **_WRAPPED,
    **_FUNCTIONS,
}


# CuPy compiles everything with -ftz=true, so that subnormal numbers of float32 count as 0, also where they become
# float64. A number is made wide by its bits, and float32 is computed in float64 where a spread is very small.
WIDE = """
__device__ inline double gausskl_wide(float x) {
  const int bits = __float_as_int(x);
  const double size = (bits & 0x7f800000) ? fabs((double)x) : (bits & 0x7fffff) * 0x1p-149;
  return bits < 0 ? -size : size;
}
__device__ inline double gausskl_wide(double x) { return x; }
"""
VERY_SMALL = {"std": "< 0x1p-64f", "var": "< 0x1p-64f", "log_std": "< -40.0f", "log_var": "< -40.0f"}


def function(spreads: Any, bits: int) -> str:
    """Source of ``gausskl_term``, which computes a dimension of a pair."""
    kind, names = TYPE["float", bits], _gpu.names(spreads)
    careful, usual = _gpu.careful(spreads, 64, DIALECT), _gpu.quick(spreads, bits, DIALECT)
    wide, narrow = (", ".join(f"{type} {name}" for name in names) for type in ("double", kind))
    if usual is None and bits == 64:
        return _function("inline", f"double gausskl_term({wide})", careful.lines, careful.results[0])
    lines, (value, *doubts) = usual or _gpu.careful(spreads, 32, DIALECT)
    if bits == 32:
        spread = zip(names[1::2], spreads, strict=True)
        doubts = [*doubts, *(f"{name} {VERY_SMALL[keyword]}" for name, (keyword, _) in spread)]
    given = ", ".join(f"gausskl_wide({name})" for name in names)
    chosen = f"{' || '.join(doubts)} ? ({kind})gausskl_careful({given}) : {value}"
    return (
        WIDE
        + _function("__noinline__", f"double gausskl_careful({wide})", careful.lines, careful.results[0])
        + _function("inline", f"{kind} gausskl_term({narrow})", lines, chosen)
    )


def _function(how: str, head: str, lines: list[str], result: str) -> str:
    body = "\n".join(f"  {line}" for line in [*lines, f"return {result};"])
    return f"__device__ {how} {head} {{\n{body}\n}}\n"
