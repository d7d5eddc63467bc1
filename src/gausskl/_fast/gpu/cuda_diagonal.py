"""The formulas of diagonal pairs in CUDA C."""

from __future__ import annotations

import math
from typing import Any

from . import programs

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
        ("log1p", "log1p", 1),
        ("floor", "floor", 1),
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
    kind, names = TYPE["float", bits], programs.names(spreads)
    careful, usual = programs.careful(spreads, 64, DIALECT), programs.quick(spreads, bits, DIALECT)
    parameters = ", ".join(f"{kind} {name}" for name in names)
    if usual is None and bits == 64:
        return _function("inline", f"double gausskl_term({parameters})", careful.lines, careful.results[0])
    lines, (value, *doubts) = usual or programs.careful(spreads, 32, DIALECT)
    if bits == 32:
        spread = zip(names[1::2], spreads, strict=True)
        doubts = [*doubts, *(f"{name} {VERY_SMALL[keyword]}" for name, (keyword, _) in spread)]
    rare = f"{kind} gausskl_careful({', '.join(f'{kind} given_{name}' for name in names)})"
    widened = [f"const double {name} = gausskl_wide(given_{name});" for name in names]
    chosen = f"{' || '.join(doubts)} ? gausskl_careful({', '.join(names)}) : {value}"
    return (
        WIDE
        + _function("__noinline__", rare, [*widened, *careful.lines], f"({kind})({careful.results[0]})")
        + _function("inline", f"{kind} gausskl_term({parameters})", lines, chosen)
    )


# A row, or a part of a long one, is summed by a group of threads side by side in a warp. All threads of a block go
# through the outer loop equally often, since they meet where their sums are exchanged. The numbers of four terms are on
# their way before the first one is computed.
_ROWS = """
extern "C" __global__ void __launch_bounds__({threads})
gausskl_rows({pointers}, {out}* out, long long rows, long long inner, long long d, long long parts, {strides}) {{
  const long long count = rows * parts, step = (long long)gridDim.x * ({threads} / {group});
  for (long long base = (long long)blockIdx.x * ({threads} / {group}); base < count; base += step) {{
    const long long task = base + threadIdx.x / {group}, row = parts == 1 ? task : task / parts;
    const long long o = row < inner ? 0 : row / inner, n = row - o * inner, first = (task - row * parts) * {chunk};
    const long long last = task < count ? (first + {chunk} < d ? first + {chunk} : d) : 0;
    {places}
    double sum = 0.0;
    long long i = first + threadIdx.x % {group};
    for (; i + 3 * {group} < last; i += 4 * {group}) {{
      {kind} {four};
      _Pragma("unroll") for (int k = 0; k < 4; ++k) {{ {loads} }}
      _Pragma("unroll") for (int k = 0; k < 4; ++k) sum += gausskl_term({loaded});
    }}
    for (; i < last; i += {group}) sum += gausskl_term({numbers});
    for (int other = {group} / 2; other; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    if (threadIdx.x % {group} == 0 && task < count) out[task] = sum;
  }}
}}
"""
THREADS = 128  # in a block
CHUNK = 4096  # dimensions that a group of threads sums


def rows(spreads: Any, bits: int, dtype: str, columns: tuple[int | None, ...], out: str, group: int) -> str:
    """Source of the kernel ``gausskl_rows``, which sums the terms of rows.

    ``columns`` has how many numbers apart the dimensions of each array lie, or None for what only a call knows.
    """
    kind, names = TYPE["float", bits], programs.names(spreads)
    both = [(n, f"{n}_column" if step is None else str(step)) for n, step in zip(names, columns, strict=True)]
    return function(spreads, bits) + _ROWS.format(
        pointers=", ".join(f"const {dtype}* {name}_at" for name in names),
        strides=", ".join(f"long long {name}_{axis}" for name in names for axis in ("outer", "inner", "column")),
        places="\n    ".join(
            f"const {dtype}* const {name} = {name}_at + (o * {name}_outer + n * {name}_inner);" for name in names
        ),
        kind=kind,
        four=", ".join(f"x_{name}[4]" for name in names),
        loads=" ".join(f"x_{name}[k] = {name}[(i + k * {group}) * {step}];" for name, step in both),
        loaded=", ".join(f"x_{name}[k]" for name in names),
        numbers=", ".join(f"({kind}){name}[i * {step}]" for name, step in both),
        out=out,
        threads=THREADS,
        group=group,
        chunk=CHUNK,
    )


def _function(how: str, head: str, lines: list[str], result: str) -> str:
    body = "\n".join(f"  {line}" for line in [*lines, f"return {result};"])
    return f"__device__ {how} {head} {{\n{body}\n}}\n"
