"""Diagonal pairs by Triton kernels: one pass over tensors of any strides, and one back for the gradients."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import linecache
import math
import textwrap
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.language.extra import libdevice

from . import programs

INTERPRETED = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False

TILE = 1024  # numbers of each input that a program holds at a time
CHUNK = 8 * TILE  # dimensions of a row that it goes through at the most

_TYPES = {
    ("float", 64): "tl.float64",
    ("float", 32): "tl.float32",
    ("integer", 64): "tl.int64",
    ("integer", 32): "tl.int32",
    ("boolean", 64): "tl.int1",
    ("boolean", 32): "tl.int1",
}


def _constant(value: Any, kind: str, bits: int) -> str:
    spelt = repr(value) if math.isfinite(value) else f'float("{value}")'
    return f"tl.full([], {spelt}, {_TYPES[kind, bits]})"


DIALECT = {
    "constant": _constant,
    "line": lambda name, kind, bits, expression: f"{name} = {expression}",
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div32": "tl.div_rn({}, {})",  # the operator is one or two units off
    "div64": "{} / {}",
    "neg": "-{}",
    "fma": "tl.fma({}, {}, {})",
    "abs": "tl.abs({})",
    "sqrt32": "tl.sqrt_rn({})",
    "sqrt64": "tl.sqrt({})",
    # Triton's own for float32 lose digits, and its interpreter knows no others.
    "exp": "tl.exp({})" if INTERPRETED else "libdevice.exp({})",
    "log": "tl.log({})" if INTERPRETED else "libdevice.log({})",
    "expm1": "expm1({})" if INTERPRETED else "libdevice.expm1({})",
    "where": "tl.where({}, {}, {})",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "lt_integer": "{} < {}",
    "le_integer": "{} <= {}",
    "and_boolean": "{} & {}",
    "or_boolean": "{} | {}",
    "not": "~{}",
    "add_integer": "{} + {}",
    "sub_integer": "{} - {}",
    "and_integer": "{} & {}",
    "or_integer": "{} | {}",
    "shr_integer": "{} >> {}",
    "shl_integer": "{} << {}",
    "as_integers64": "{}.to(tl.int64, bitcast=True)",
    "as_integers32": "{}.to(tl.int32, bitcast=True)",
    "as_floats64": "{}.to(tl.float64, bitcast=True)",
    "as_floats32": "{}.to(tl.float32, bitcast=True)",
}


# A program goes through some rows, or a part of a long one, a tile at a time.

_KERNEL = """
def kernel(
    {parameters}, rows, inner, d,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LEVELS: tl.constexpr, CHUNK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    outer = row // inner
    inside = row % inner
{first}
    first = tl.program_id(1) * CHUNK
    for start in range(first, min(first + CHUNK, d), COLUMNS):
        column = (start + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
        valid = (row < rows) & (column < d)
{body}
{last}
"""

_LOAD = (
    "{0} = tl.load({0}_at + (outer * {0}_by_outer + inside * {0}_by_row + column * {0}_by_column), "
    "mask=valid, other={1}).to({2})"
)
_STORE = "tl.store({0}_at + (row * d + column), {1}, mask=valid)"

# Neighbours are added to each other, and then their sums: an order that does not depend on how a tile is divided among
# threads, which Triton decides by what it knows of the memory.
_STORE_TOTAL = """
for level in tl.static_range(LEVELS):
    total = tl.sum(tl.reshape(total, [ROWS, COLUMNS >> (level + 1), 2]), axis=2)
total = tl.reshape(total, [ROWS])
place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
tl.store(out_at + (place * tl.num_programs(1) + tl.program_id(1)), total, mask=place < rows)
"""

_EXPM1 = """
def expm1(x):
    power = tl.exp(x)
    less = power - 1.0
    ordinary = (power != 1.0) & (less != -1.0) & (power < float("inf"))
    corrected = less * (x / tl.log(tl.where(ordinary, power, 2.0)))
    return tl.where(ordinary, corrected, tl.where(power == 1.0, x, less))
"""


@functools.cache
def forward(spreads: Any, bits: int, per_dim: bool) -> Any:
    """``kernel(*arrays, out, *strides, rows, inner, d)``; ``out`` is (rows, d) with ``per_dim``, or (rows, parts)."""
    names = programs.names(spreads)
    lines = [*_loads(names, spreads, bits), *_values(spreads, bits, False)]
    if per_dim:
        return _made(names, ["out"], "", [*lines, _STORE.format("out", "result_0")], "")
    return _made(
        names,
        ["out"],
        "total = tl.zeros([ROWS, COLUMNS], tl.float64)",
        [*lines, "total += result_0.to(tl.float64)"],
        _STORE_TOTAL,
    )


@functools.cache
def backward(spreads: Any, bits: int, wanted: tuple[bool, ...]) -> Any:
    """``kernel(*arrays, weights, *outputs, *strides, rows, inner, d)``; outputs of shape (rows, d), if wanted."""
    names = programs.names(spreads)
    outputs = [f"by_{name}" for name, want in zip(names, wanted, strict=True) if want]
    results = [f"weights * result_{k}" for k, want in enumerate(wanted) if want]
    lines = [
        *_loads((*names, "weights"), spreads, bits),
        *_values(spreads, bits, True),
        *(_STORE.format(output, result) for output, result in zip(outputs, results, strict=True)),
    ]
    return _made((*names, "weights"), outputs, "", lines, "")


def _loads(names: tuple[str, ...], spreads: Any, bits: int) -> list[str]:
    """Outside of the arrays there are dimensions in which p and q are equal."""
    equal = {"spread_p": spreads[0][0], "spread_q": spreads[-1][0]}
    return [
        _LOAD.format(name, 0.0 if "log" in equal.get(name, "log") else 1.0, _TYPES["float", bits]) for name in names
    ]


def _values(spreads: Any, bits: int, gradients: bool) -> list[str]:
    """The terms of a tile, or the partial derivatives, as ``result_0``, ``result_1``, ..."""
    careful = programs.careful(spreads, bits, DIALECT, gradients)
    quick = programs.quick(spreads, bits, DIALECT, gradients)
    if quick is None:
        return [*careful.lines, *(f"result_{k} = {name}" for k, name in enumerate(careful.results))]
    *results, bad = quick.results
    chosen = [f"result_{k} = tl.where({bad}, {name}, result_{k})" for k, name in enumerate(careful.results)]
    return [
        *quick.lines,
        *(f"result_{k} = {name}" for k, name in enumerate(results)),
        f"if tl.max(tl.max({bad}.to(tl.int32), axis=1), axis=0) != 0:",
        *(f"    {line}" for line in [*careful.lines, *chosen]),
    ]


def _made(read: tuple[str, ...], written: list[str], first: str, body: list[str], last: str) -> Any:
    """Compile the source of a kernel as if it stood in a file, which is where Triton looks for it."""
    pointers = [f"{name}_at" for name in (*read, *written)]
    strides = [f"{name}_by_{axis}" for name in read for axis in ("outer", "row", "column")]
    source = _KERNEL.format(
        parameters=", ".join([*pointers, *strides]),
        first=textwrap.indent(first, " " * 4),
        body=textwrap.indent("\n".join(body), " " * 8),
        last=textwrap.indent(last, " " * 4),
    )
    return _jit("kernel", source)


def _jit(name: str, source: str) -> Any:
    file = f"<gausskl {hashlib.sha256(source.encode()).hexdigest()}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    scope: dict[str, Any] = {"__name__": __name__, "tl": tl, "libdevice": libdevice}
    if INTERPRETED and name != "expm1":
        scope["expm1"] = _jit("expm1", _EXPM1)
    exec(compile(source, file, "exec"), scope)
    return triton.jit(scope[name])


# What the kernels are given.


def parts(d: int) -> int:
    """Number of programs that share a row."""
    return max(1, -(-d // CHUNK))


def run(kernel: Any, read: list[Any], written: list[Any], shape: tuple[int, ...], d: int) -> None:
    """Let a kernel go through all rows: tensors that broadcast to ``(*shape, d)`` are read, contiguous ones written."""
    rows = math.prod(shape)
    if not rows:
        return
    found = programs.layout(shape, [(tensor.shape, tensor.stride(), 1) for tensor in read])
    if found is None:
        return run(kernel, [tensor.expand(*shape, d).contiguous() for tensor in read], written, shape, d)
    inner, steps = found
    columns = min(triton.next_power_of_2(d), TILE)
    at_once = TILE // columns
    with np.errstate(all="ignore") if INTERPRETED else contextlib.nullcontext():
        kernel[triton.cdiv(rows, at_once), parts(d)](
            *read,
            *written,
            *(step for each in steps for step in each),
            rows,
            inner,
            d,
            ROWS=at_once,
            COLUMNS=columns,
            LEVELS=columns.bit_length() - 1,
            CHUNK=CHUNK,
            enable_fp_fusion=False,
        )
