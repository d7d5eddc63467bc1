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


def function(spreads: Any, bits: int) -> str:
    """Source of ``gausskl_term``, which computes a dimension of a pair."""
    kind = TYPE["float", bits]
    names = _gpu.names(spreads)
    parameters = ", ".join(f"{kind} {name}" for name in names)
    careful, quick = _gpu.careful(spreads, bits, DIALECT), _gpu.quick(spreads, bits, DIALECT)
    if quick is None:
        return _function(
            "inline", f"{kind} gausskl_term({parameters})", [*careful.lines, f"return {careful.results[0]};"]
        )
    value, bad = quick.results
    rare = f"return {bad} ? gausskl_careful({', '.join(names)}) : {value};"
    return _function(
        "__noinline__", f"{kind} gausskl_careful({parameters})", [*careful.lines, f"return {careful.results[0]};"]
    ) + _function("inline", f"{kind} gausskl_term({parameters})", [*quick.lines, rare])


def _function(how: str, head: str, lines: list[str]) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"__device__ {how} {head} {{\n{body}\n}}\n"
