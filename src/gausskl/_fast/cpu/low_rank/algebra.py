"""Products of small matrices: the one loop in which a low-rank pair spends its time, and what follows it.

A matrix lies by rows, each of them a whole number of vectors long and filled up with zeros. What is computed is always
X Y^T, a table of dot products of rows: vectors run along the rows, sixteen sums (eight without AVX-512) stay in
registers, and each vector that is loaded serves four of them. The order of the additions depends on the sizes alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..compiler import OPTIONS, compiled
from ..simd import loops
from ..simd.lanes import BYTES, FLOAT, I64, Lanes, vector
from ..simd.loops import _load, _store, vector32

WIDE = 8  # numbers by which rows grow
COLUMNS = 4


def _has_wide_vectors(context: Any) -> bool:
    return "+avx512f" in context.codegen().magic_tuple()[2]


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = a.type
    name = f"llvm.fmuladd.v{kind.count}f64"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


def _sums(builder: Any, four: list[Any]) -> Any:
    """The sums over the lanes of four vectors, as a vector of four."""

    def both(a: Any, b: Any, step: int) -> Any:
        """Neighbouring groups of ``step`` lanes of each vector added, those of a and b in turn."""
        lanes = a.type.count
        first = [k for k in range(lanes) if not k & step]
        order = [k + lanes * other for g in range(0, len(first), step) for other in (0, 1) for k in first[g : g + step]]
        low, high = (ir.Constant(vector32(lanes), [k + extra for k in order]) for extra in (0, step))
        return builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))

    total = both(both(four[0], four[1], 1), both(four[2], four[3], 1), 2)
    if total.type.count == 8:
        low, high = (ir.Constant(vector32(4), list(range(k, k + 4))) for k in (0, 4))
        total = builder.fadd(builder.shuffle_vector(total, total, low), builder.shuffle_vector(total, total, high))
    return total


@functools.cache
def _block(rows: int | None) -> Any:
    """Function ``(x, y, stride, count, out, out_stride) -> rows``: add to ``out`` a block of X Y^T.

    The block has four columns and so many rows; as many as there are registers for if ``rows`` is None.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y, stride, count, out, out_stride = args
        lanes = 8 if _has_wide_vectors(context) else 4
        height = rows or (4 if lanes == 8 else 2)
        kind = ir.VectorType(FLOAT[64], lanes)
        zero = ir.Constant(kind, [0.0] * lanes)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(COLUMNS)] for _ in range(height)]
        for place in (place for row in sums for place in row):
            builder.store(zero, place)
        starts = [
            [builder.add(base, builder.mul(stride, I64(k))) for k in range(size)]
            for base, size in ((x, height), (y, COLUMNS))
        ]
        with cgutils.for_range_slice(builder, I64(0), count, I64(lanes)) as (index, _):
            at = builder.mul(index, I64(8))
            left, right = ([_load(builder, builder.add(start, at), kind, 64) for start in side] for side in starts)
            for a, row in zip(left, sums, strict=True):
                for b, place in zip(right, row, strict=True):
                    builder.store(_fma(builder, a, b, builder.load(place)), place)
        for k, row in enumerate(sums):
            four = _sums(builder, [builder.load(place) for place in row])
            place = builder.add(out, builder.mul(out_stride, I64(k)))
            _store(builder, builder.fadd(_load(builder, place, four.type, 64), four), place, 64)
        return I64(height)

    @intrinsic
    def block(context, x, y, stride, count, out, out_stride):  # type: ignore[no-untyped-def]
        return types.int64(x, y, stride, count, out, out_stride), generate

    return block


@intrinsic
def not_inlined(context):  # type: ignore[no-untyped-def]
    """Keep the function that calls this from being copied into its callers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


_tall, _flat = _block(None), _block(1)


@functools.cache
def along(formula: Callable[..., Any]) -> Any:
    """As ``loops.elementwise`` for whole vectors of float64 that are in a cache already."""
    kind, integers, lanes = vector(FLOAT[64]), vector(I64), BYTES // 8

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        inputs, outputs, count = args
        sources, targets = cgutils.unpack_tuple(builder, inputs), cgutils.unpack_tuple(builder, outputs)
        marks = cgutils.alloca_once_value(builder, ir.Constant(integers, [0] * lanes))
        with cgutils.for_range_slice(builder, I64(0), count, I64(lanes)) as (index, _):
            at = builder.mul(index, I64(8))
            values = [Lanes(builder, 64, _load(builder, builder.add(source, at), kind, 64)) for source in sources]
            *results, mark = formula(*values)
            for result, target in zip(results, targets, strict=True):
                _store(builder, result.value, builder.add(target, at), 64)
            if mark is not None:
                builder.store(builder.or_(builder.load(marks), mark.value), marks)
        name = f"llvm.vector.reduce.or.v{lanes}i64"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I64, [integers]), name)
        return builder.call(function, [builder.load(marks)])

    @intrinsic
    def function(context, inputs, outputs, count):  # type: ignore[no-untyped-def]
        return types.int64(inputs, outputs, count), generate

    return function


@functools.cache
def _turn(bits: int) -> Any:
    """Function ``(source, source_stride, target, target_stride)``: four rows of four numbers become float64 columns."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_stride, target, target_stride = args
        narrow, kind = (ir.VectorType(FLOAT[size], 4) for size in (bits, 64))
        rows = []
        for k in range(4):
            row = _load(builder, builder.add(source, builder.mul(source_stride, I64(k))), narrow, bits)
            rows.append(row if bits == 64 else builder.fpext(row, kind))

        def pick(a: Any, b: Any, order: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(vector32(4), order))

        pairs = [pick(a, b, order) for a, b in (rows[:2], rows[2:]) for order in ([0, 4, 2, 6], [1, 5, 3, 7])]
        columns = [pick(pairs[k], pairs[k + 2], order) for order in ([0, 1, 4, 5], [2, 3, 6, 7]) for k in (0, 1)]
        for k, column in enumerate(columns):
            _store(builder, column, builder.add(target, builder.mul(target_stride, I64(k))), 64)
        return context.get_dummy_value()

    @intrinsic
    def turn(context, source, source_stride, target, target_stride):  # type: ignore[no-untyped-def]
        return types.void(source, source_stride, target, target_stride), generate

    return turn


@functools.cache
def turned(bits: int) -> Any:
    """Function ``(base, strides, rows, columns, target, stride)``: the transpose of a matrix, in float64."""
    turn, get, put = _turn(bits), loops.get(bits), loops.put(64)
    size = bits // 8

    @compiled(bits)
    def transpose(base, by_row, by_column, rows, columns, target, stride):  # type: ignore[no-untyped-def]
        not_inlined()
        fast = columns // 4 * 4 if by_column == size else 0
        for i in range(0, rows // 4 * 4, 4):
            for k in range(0, fast, 4):
                turn(base + i * by_row + k * by_column, by_row, target + k * stride + 8 * i, stride)
        for i in range(rows):
            for k in range(fast if i < rows // 4 * 4 else 0, columns):
                put(float(get(base + i * by_row + k * by_column)), target + k * stride + 8 * i)

    return transpose


@njit(**OPTIONS)
def products(x, x_rows, y, y_rows, stride, count, out, out_stride, lower):  # type: ignore[no-untyped-def]
    """Add X Y^T to ``out``; with ``lower``, at least what is on and below its diagonal.

    Addresses and strides are in bytes; numbers of rows are multiples of four, or ``x_rows`` is 1.
    """
    not_inlined()
    if x_rows == 1:
        for j in range(0, y_rows, 4):
            _flat(x, y + j * stride, stride, count, out + 8 * j, out_stride)
        return
    i = 0
    while i < x_rows and y_rows > 0:
        height = 0
        for j in range(0, min(i + 4, y_rows) if lower else y_rows, 4):
            height = _tall(x + i * stride, y + j * stride, stride, count, out + i * out_stride + 8 * j, out_stride)
        i += height


_get, _put, _total = loops.get(64), loops.put(64), loops.total(64)


@njit(**OPTIONS)
def clear(place, count):  # type: ignore[no-untyped-def]
    """Write zeros."""
    not_inlined()
    for k in range(count):
        _put(0.0, place + 8 * k)


@njit(**OPTIONS)
def summed(place, count):  # type: ignore[no-untyped-def]
    """Sum of numbers."""
    not_inlined()
    return _total(place, count)


@njit(**OPTIONS)
def mirror(matrix, n, row):  # type: ignore[no-untyped-def]
    """Copy what is below the diagonal above it."""
    not_inlined()
    for i in range(n):
        for j in range(i):
            _put(_get(matrix + i * row + 8 * j), matrix + j * row + 8 * i)


@njit(**OPTIONS)
def inner(a, b, n, row):  # type: ignore[no-untyped-def]
    """Sum of a_ij b_ij, and of their sizes."""
    not_inlined()
    total, mass = 0.0, 0.0
    for i in range(n):
        for j in range(n):
            term = _get(a + i * row + 8 * j) * _get(b + i * row + 8 * j)
            total += term
            mass += abs(term)
    return total, mass


@njit(**OPTIONS)
def cholesky(matrix, factor, pivots, n, row):  # type: ignore[no-untyped-def]
    """Lower factor of I + matrix. Its pivots are 1 + ``pivots``; returned is the least share of its entry in one.

    0 if the matrix is not positive definite.
    """
    not_inlined()
    least = 1.0
    for i in range(n):
        here = factor + i * row
        for j in range(i + 1):
            there = factor + j * row
            entry = _get(matrix + i * row + 8 * j)
            value = entry
            for k in range(j):
                value -= _get(here + 8 * k) * _get(there + 8 * k)
            if j < i:
                _put(value / _get(there + 8 * j), here + 8 * j)
            else:
                if not 1.0 + value > 0.0:
                    return 0.0
                _put(value, pivots + 8 * i)
                _put(math.sqrt(1.0 + value), here + 8 * i)
                least = min(least, (1.0 + value) / (1.0 + entry))
    return least


@njit(**OPTIONS)
def inverse(factor, result, transposed, n, row):  # type: ignore[no-untyped-def]
    """Inverse of a lower factor, and its transpose, both into zeros."""
    not_inlined()
    for i in range(n):
        here = result + i * row
        scale = 1.0 / _get(factor + i * row + 8 * i)
        for k in range(i):
            value = -_get(factor + i * row + 8 * k) * scale
            for j in range(k + 1):
                _put(_get(here + 8 * j) + value * _get(result + k * row + 8 * j), here + 8 * j)
        _put(scale, here + 8 * i)
        for j in range(i + 1):
            _put(_get(here + 8 * j), transposed + j * row + 8 * i)
