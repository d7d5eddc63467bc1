"""From arrays in memory to vectors, and back: eight rows of a batch at a time, one vector for each entry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from .emitter import LANES, VECTOR, Arithmetic, Value
from .lanes import BYTES, FLOAT, I32, I64, Lanes
from .loops import prefetch

MASK = ir.VectorType(ir.IntType(1), LANES)


class Source(NamedTuple):
    """An array: the address of its first number, the bytes from row to row and those from entry to entry."""

    base: Value
    by_row: Value
    strides: list[Value]
    bits: int


def lanes_of(a: Arithmetic, source: Source, first: Value, left: Value) -> list[Value]:
    """Where the arrays of eight rows begin; those after the last row are the last one again."""
    b = a.builder
    start = b.add(source.base, b.mul(first, source.by_row))

    def place(row: Value) -> Value:
        return b.add(start, b.mul(row, source.by_row))

    with b.if_else(b.icmp_signed(">=", left, I64(LANES)), likely=True) as (then, otherwise):
        with then:
            of_all, here = [place(I64(lane)) for lane in range(LANES)], b.basic_block
        with otherwise:
            last = b.sub(left, I64(1))
            rows = [b.select(b.icmp_signed("<", I64(lane), last), I64(lane), last) for lane in range(LANES)]
            of_some, there = [place(row) for row in rows], b.basic_block
    addresses = []
    for one, other in zip(of_all, of_some, strict=True):
        either = b.phi(I64)
        either.add_incoming(one, here)
        either.add_incoming(other, there)
        addresses.append(either)
    return addresses


def read(a: Arithmetic, source: Source, first: Value, left: Value, sizes: list[Value], target: Value) -> None:
    """Copy arrays of eight rows to vectors, one for each entry, with room for seven more behind them."""

    def emit(a: Arithmetic, base: Value, by_row: Value, first: Value, left: Value, target: Value, *rest: Value) -> None:
        half = len(sizes)
        _read(a, Source(base, by_row, [*rest[:half]], source.bits), first, left, [*rest[half:]], target)

    a = dataclasses.replace(a, wide=False)
    given = (source.base, source.by_row, first, left, target, *source.strides[: len(sizes)], *sizes)
    a.call(f"read_{len(sizes)}_{source.bits}", emit, *map(a.index, given))


def _read(a: Arithmetic, source: Source, first: Value, left: Value, sizes: list[Value], target: Value) -> None:
    b, size = a.builder, source.bits // 8
    rows = lanes_of(a, source, first, left)
    count = sizes[0] if len(sizes) == 1 else b.mul(sizes[0], sizes[1])
    outer = I64(0) if len(sizes) == 1 else source.strides[0]
    together = b.icmp_signed("==", source.strides[-1], I64(size))
    if len(sizes) == 2:
        together = b.and_(together, b.icmp_signed("==", outer, b.mul(sizes[1], I64(size))))
    with b.if_else(together) as (then, otherwise):
        with then:
            whole = b.and_(count, I64(-LANES))
            with a.each(0, whole, LANES) as m:
                for row in rows:
                    prefetch(b, b.add(row, b.add(b.mul(m, I64(size)), b.mul(source.by_row, I64(LANES)))))
                _read_chunk(a, source.bits, rows, m, None, target)
            if all(isinstance(each, ir.Constant) for each in sizes):
                done = math.prod(each.constant for each in sizes)
                for width in (1, 2, 4):
                    if done & width:
                        done -= width
                        _read_few(a, source.bits, rows, done, width, target)
            else:
                with b.if_then(b.icmp_signed("<", whole, count)):
                    _read_chunk(a, source.bits, rows, whole, mask(b, b.sub(count, whole)), target)
        with otherwise, a.each(0, sizes[0] if len(sizes) == 2 else 1) as i, a.each(0, sizes[-1]) as j:
            offset = b.add(b.mul(a.index(i), outer), b.mul(a.index(j), source.strides[-1]))
            value = ir.Constant(VECTOR, ir.Undefined)
            for lane, row in enumerate(rows):
                kind = FLOAT[source.bits]
                number = b.load(b.inttoptr(b.add(row, offset), kind.as_pointer()))
                number.align = size
                number = b.fpext(number, FLOAT[64]) if source.bits == 32 else number
                value = b.insert_element(value, number, I32(lane))
            m = b.add(b.mul(a.index(i), sizes[-1]), a.index(j))
            a.put_lanes(Lanes(b, 64, value), entry(b, target, m))


def entry(builder: Any, base: Value, m: Value) -> Value:
    return builder.gep(base, [builder.mul(m, I64(BYTES))])


def mask(builder: Any, count: Value) -> Value:
    """The first ``count`` lanes."""
    index = ir.VectorType(I64, LANES)
    splat = builder.insert_element(ir.Constant(index, ir.Undefined), count, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
    splat = builder.shuffle_vector(splat, ir.Constant(index, ir.Undefined), zeros)
    return builder.icmp_signed("<", ir.Constant(index, list(range(LANES))), splat)


def masked(builder: Any, name: str, bits: int, *arguments: Value) -> Value:
    kind = ir.VectorType(FLOAT[bits], LANES)
    pointer = kind.as_pointer()
    signature = {
        "load": ir.FunctionType(kind, [pointer, I32, MASK, kind]),
        "store": ir.FunctionType(ir.VoidType(), [kind, pointer, I32, MASK]),
    }[name]
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.{name}.v{LANES}f{bits}.p0")
    return builder.call(function, arguments)


def _read_chunk(a: Arithmetic, bits: int, rows: list[Value], m: Value, mask: Value | None, target: Value) -> None:
    b = a.builder
    kind = ir.VectorType(FLOAT[bits], LANES)
    chunk = []
    for row in rows:
        pointer = b.inttoptr(b.add(row, b.mul(m, I64(bits // 8))), kind.as_pointer())
        if mask is None:
            value = b.load(pointer)
            value.align = bits // 8
        else:
            value = masked(b, "load", bits, pointer, I32(bits // 8), mask, ir.Constant(kind, [0.0] * LANES))
        chunk.append(b.fpext(value, VECTOR) if bits == 32 else value)
    for k, value in enumerate(_turned(b, chunk)):
        a.put_lanes(Lanes(b, 64, value), entry(b, target, b.add(m, I64(k))))


def _read_few(a: Arithmetic, bits: int, rows: list[Value], m: int, width: int, target: Value) -> None:
    """One, two or four entries of each row."""
    b = a.builder
    parts = []
    for row in rows:
        part = b.load(b.inttoptr(b.add(row, I64(m * bits // 8)), ir.VectorType(FLOAT[bits], width).as_pointer()))
        part.align = bits // 8
        parts.append(b.fpext(part, ir.VectorType(FLOAT[64], width)) if bits == 32 else part)
    while len(parts) > width:  # the rows one after the other, in as many whole vectors as there are entries
        size = 2 * parts[0].type.count
        parts = [_picked(b, x, y, range(size)) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    half = LANES // 2
    if width == 4:  # two rows in each: four rows of two entries
        pairs = [
            _picked(b, x, y, [place + k for k in (k, k + 1) for place in (0, 4, 8, 12)])
            for k in (0, 2)
            for x, y in (parts[:2], parts[2:])
        ]
        spread = [(pairs[k // 2 * 2], pairs[k // 2 * 2 + 1], k % 2 * half, 1) for k in range(width)]
    else:
        spread = [(parts[0], parts[-1], k, width) for k in range(width)]
    for k, (x, y, start, step) in enumerate(spread):
        places = [start + step * lane for lane in range(half)]
        value = parts[0] if width == 1 else _picked(b, x, y, [*places, *(LANES + place for place in places)])
        a.put_lanes(Lanes(b, 64, value), entry(b, target, I64(m + k)))


def _picked(builder: Any, x: Value, y: Value, places: Sequence[int]) -> Value:
    """Entries of two vectors, by their places in both together."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(places)), [*places]))


def _turned(builder: Any, rows: list[Value]) -> list[Value]:
    """The transpose of eight vectors, in three steps of pairs, each of which swaps blocks twice as large."""
    for width in (1, 2, 4):
        result = list(rows)
        for k in range(LANES):
            if k & width:
                continue
            upper, lower = rows[k], rows[k | width]
            for half, place in ((0, k), (width, k | width)):
                places = [((lane & ~width) | half) + (LANES if lane & width else 0) for lane in range(LANES)]
                result[place] = _picked(builder, upper, lower, places)
        rows = result
    return rows


def write(
    a: Arithmetic, bits: int, base: Value, by_row: Value, first: Value, left: Value, count: Value, source: Value
) -> None:
    """The opposite of :func:`read`, to numbers that lie one after the other."""

    def emit(a: Arithmetic, *places: Value) -> None:
        _write(a, bits, *places)

    a = dataclasses.replace(a, wide=False)
    a.call(f"write_{bits}", emit, base, by_row, first, left, count, source)


def _write(
    a: Arithmetic, bits: int, base: Value, by_row: Value, first: Value, left: Value, count: Value, source: Value
) -> None:
    b = a.builder
    kind = ir.VectorType(FLOAT[bits], LANES)
    with a.each(0, count, LANES) as m:
        values = [a.lanes(entry(b, source, b.add(m, I64(k)))).value for k in range(LANES)]
        some = mask(b, b.sub(count, m))
        for lane, value in enumerate(_turned(b, values)):
            value = b.fptrunc(value, kind) if bits == 32 else value
            row = b.add(base, b.mul(b.add(first, I64(lane)), by_row))
            pointer = b.inttoptr(b.add(row, b.mul(m, I64(bits // 8))), kind.as_pointer())
            valid = b.select(b.icmp_signed("<", I64(lane), left), some, ir.Constant(MASK, [0] * LANES))
            masked(b, "store", bits, value, pointer, I32(bits // 8), valid)
