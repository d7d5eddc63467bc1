"""The compiled kernels for dense pairs: what Numba calls, and the arrays it is called with."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...._spreads import EVENT_AXES
from ...terms.operations import where
from ..compiler import compiled
from ..simd import interleave, loops
from ..simd.emitter import LANES, POINTER, VECTOR, Arithmetic
from ..simd.interleave import Source
from ..simd.lanes import BYTES, FLOAT, I32, I64, Lanes
from ..simd.loops import address_of, strides_of
from . import divergence
from .divergence import Pair
from .gradients import Gradients
from .spreads import any_of
from .workspace import work_bytes

LARGEST = {64: 1.7976931348623157e308, 32: 3.4028234663852886e38}


@functools.cache
def _body(keywords: tuple[Any, Any], bits: int, block: int, wide: bool) -> Any:
    """Function ``(sources, out, work, d, first, start, left) -> int`` for up to eight rows; 0 if all are finite.

    A source is an address and strides, rows first. What does not move with the rows is read where ``first`` is the
    ``start`` of the work.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sources, out, work, d, first, start, left = args
        pair = _read(builder, sources, work, d, first, start, left, (keywords, bits, block, wide))
        place = builder.add(out, builder.mul(first, I64(bits // 8)))
        return _deliver(builder, divergence.result(pair), bits, place, left)

    @intrinsic
    def function(context, sources, out, work, d, first, start, left):  # type: ignore[no-untyped-def]
        return types.int64(sources, out, work, d, first, start, left), generate

    return function


@functools.cache
def _back(keywords: tuple[Any, Any], bits: int, block: int, wide: bool) -> Any:
    """Function ``(sources, weights, outputs, sums, work, d, first, start, left)``; sources as for the divergence.

    The gradients times the weights go to those outputs, and are added to those sums, whose addresses are not 0.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sources, weights, outputs, sums, work, d, first, start, left = args
        pair = _read(builder, sources, work, d, first, start, left, (keywords, bits, block, wide))
        a = pair.a
        weight = pair.space.raw(False)
        interleave.read(a, _source(builder, weights, bits), first, left, [I64(1)], weight)
        valid = Lanes(builder, 64, interleave.mask(builder, left))
        gradients = Gradients(pair, where(valid, a.lanes(weight), 0.0))
        gradients.prepare()
        steps = [lambda: gradients.of_means(1.0), gradients.of_p, lambda: gradients.of_means(-1.0), gradients.of_q]
        counts = [d, _numbers(builder, keywords[0], d), d, _numbers(builder, keywords[1], d)]
        places = cgutils.unpack_tuple(builder, outputs), cgutils.unpack_tuple(builder, sums)
        for k, (compute, count, output, total) in enumerate(zip(steps, counts, *places, strict=True)):
            out, by_row = cgutils.unpack_tuple(builder, output)
            wanted = builder.icmp_signed("!=", builder.or_(out, total), I64(0))
            with builder.if_then(wanted) if k else contextlib.nullcontext():
                compute()
            with builder.if_then(builder.icmp_signed("!=", out, I64(0))):
                interleave.write(a, bits, out, by_row, first, left, count, gradients.place)
            with builder.if_then(builder.icmp_signed("!=", total, I64(0))), a.each(0, count) as m:
                at = a.beyond(builder.inttoptr(total, POINTER), a.times(m, BYTES))
                found = a.lanes(a.beyond(gradients.place, a.times(m, BYTES)))
                a.put_lanes(a.lanes(at) + found, at)
        return context.get_dummy_value()

    @intrinsic
    def function(context, sources, weights, outputs, sums, work, d, first, start, left):  # type: ignore[no-untyped-def]
        return types.void(sources, weights, outputs, sums, work, d, first, start, left), generate

    return function


def _numbers(builder: Any, spread: tuple[str, Any], d: Any) -> Any:
    """Length of a spread."""
    keyword, packing = spread
    if packing:
        return builder.ashr(builder.mul(d, builder.add(d, I64(1))), I64(1))
    return d if EVENT_AXES[keyword] == (1,) else builder.mul(d, d)


def _read(builder: Any, sources: Any, work: Any, d: Any, first: Any, start: Any, left: Any, key: Any) -> Any:
    """The pair that the sources hold."""
    keywords, bits, block, wide = key
    small = block < 4 and not wide  # then there are as many dimensions
    a = Arithmetic(builder, wide, small)
    d, n = (I64(block), block) if small else (d, _filled_up(builder, d, block))
    if small:  # stays in registers; of single bytes in place of vectors LLVM takes minutes to find that out
        memory = cgutils.alloca_once(builder, ir.ArrayType(VECTOR, work_bytes(n, wide, True) // BYTES))
        memory.align = BYTES
        place = builder.bitcast(memory, POINTER)
    else:
        place = builder.inttoptr(work, POINTER)
    pair = Pair(a, place, n, block, d, keywords)
    mean_p, spread_p, mean_q, spread_q = (
        _source(builder, each, bits) for each in cgutils.unpack_tuple(builder, sources)
    )
    fresh = builder.icmp_signed("==", first, start)
    for side, mean, spread in ((pair.given_p, mean_p, spread_p), (pair.given_q, mean_q, spread_q)):
        with builder.if_then(_moves(builder, mean, fresh)):
            interleave.read(a, mean, first, left, [d], side.mean)
        with builder.if_then(_moves(builder, spread, fresh)):
            pair.read(side, spread, first, left)
    return pair


def _filled_up(builder: Any, d: Any, block: int) -> Any:
    return builder.mul(builder.sdiv(builder.add(d, I64(block - 1)), I64(block)), I64(block))


def _source(builder: Any, given: Any, bits: int) -> Source:
    base, strides = cgutils.unpack_tuple(builder, given)
    by_row, *others = cgutils.unpack_tuple(builder, strides)
    return Source(base, by_row, others, bits)


def _moves(builder: Any, source: Source, fresh: Any) -> Any:
    return builder.or_(fresh, builder.icmp_signed("!=", source.by_row, I64(0)))


def _deliver(builder: Any, values: Lanes, bits: int, place: Any, left: Any) -> Any:
    """Store the results of the first lanes; 1 if one of them is not finite."""
    valid = interleave.mask(builder, left)
    kind = vector_of(bits)
    stored = values.value if bits == 64 else builder.fptrunc(values.value, kind)
    pointer = builder.inttoptr(place, kind.as_pointer())
    interleave.masked(builder, "store", bits, stored, pointer, I32(bits // 8), valid)
    bad = Lanes(builder, 64, builder.and_(values.size().not_above(LARGEST[bits]).negated().value, valid))
    return builder.zext(any_of(builder, bad), I64)


def vector_of(bits: int) -> Any:
    """Eight numbers."""
    return ir.VectorType(FLOAT[bits], LANES)


def block_for(d: int, wide: bool) -> int:
    """Rows and columns of the blocks that stay in registers."""
    return min(d, 2 if wide else 4)


@functools.cache
def forward(keywords: tuple[Any, Any], bits: int, block: int, wide: bool) -> Any:
    """``kernel(mean_p, spread_p, mean_q, spread_q, out, work, first, last)``: 0 if all results are finite.

    Inputs have an axis of n or 1 rows, then those of the event; ``out`` has shape (n,) and is contiguous; ``work`` is
    aligned memory. What is not valid or out of range is NaN.
    """
    body = _body(keywords, bits, block, wide)

    @compiled("dense", *keywords[0], *keywords[1], bits, block, wide)
    def kernel(mean_p, spread_p, mean_q, spread_q, out, work, first, last):  # type: ignore[no-untyped-def]
        d = mean_p.shape[1]
        place, space = address_of(out), (address_of(work) + 63) // 64 * 64
        a, b = (address_of(mean_p), strides_of(mean_p)), (address_of(spread_p), strides_of(spread_p))
        c, e = (address_of(mean_q), strides_of(mean_q)), (address_of(spread_q), strides_of(spread_q))
        found = 0
        for i in range(first, last, LANES):
            found |= body((a, b, c, e), place, space, d, i, first, min(LANES, last - i))
        return found

    out = types.Array(loops.NUMBER[bits], 1, "C")
    return kernel, types.int64(*_inputs(keywords, bits), out, WORK, types.int64, types.int64)


@functools.cache
def backward(keywords: tuple[Any, Any], bits: int, block: int, wide: bool) -> Any:
    """``kernel(mean_p, spread_p, mean_q, spread_q, weights, *outputs, *sums, work, first, last)``.

    Weights have shape (n or 1,). For each input there is an output of shape (n, size) with contiguous rows, or without
    rows, and a sum over rows of shape (size, 8) or (0, 8), contiguous and aligned, which is added to and whose last
    axis has to be summed in the end.
    """
    body = _back(keywords, bits, block, wide)

    @compiled(bits)
    def at(output):  # type: ignore[no-untyped-def]
        return address_of(output) if len(output) else 0

    @compiled("dense_backward", *keywords[0], *keywords[1], bits, block, wide)
    def kernel(mean_p, spread_p, mean_q, spread_q, weights, o0, o1, o2, o3, s0, s1, s2, s3, work, first, last):  # type: ignore[no-untyped-def]
        d = mean_p.shape[1]
        space = (address_of(work) + 63) // 64 * 64
        a, b = (address_of(mean_p), strides_of(mean_p)), (address_of(spread_p), strides_of(spread_p))
        c, e = (address_of(mean_q), strides_of(mean_q)), (address_of(spread_q), strides_of(spread_q))
        w = (address_of(weights), (strides_of(weights)[0], 0))
        outputs = (at(o0), o0.strides[0]), (at(o1), o1.strides[0]), (at(o2), o2.strides[0]), (at(o3), o3.strides[0])
        sums = (at(s0), at(s1), at(s2), at(s3))
        for i in range(first, last, LANES):
            body((a, b, c, e), w, outputs, sums, space, d, i, first, min(LANES, last - i))

    number = loops.NUMBER[bits]
    weights = types.Array(number, 1, "A", readonly=True)
    outputs = [types.Array(number, 2, "A")] * 4 + [types.Array(types.float64, 2, "C")] * 4
    return kernel, types.void(*_inputs(keywords, bits), weights, *outputs, WORK, types.int64, types.int64)


WORK = types.Array(types.uint8, 1, "C")


def _inputs(keywords: tuple[Any, Any], bits: int) -> list[Any]:
    """Types of mean and spread of p and of q."""
    number = loops.NUMBER[bits]
    axes = [axes for keyword, _ in keywords for axes in (1, *EVENT_AXES[keyword])]
    return [types.Array(number, 1 + each, "A", readonly=True) for each in axes]
