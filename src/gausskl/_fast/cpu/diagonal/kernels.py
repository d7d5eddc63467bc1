"""The compiled loops: from arrays of any strides to one number per row, and back to gradients.

A kernel walks over blocks of rows. Inputs that lie in memory as the block wants them are read in place; any other
part, such as a row that all rows share, is copied into a tile of a few kilobytes first. No kernel divides its work
by itself: it is told its first and its last row, and a row gives the same bits in any block.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from ...terms.diagonal import FORMULAS
from ..compiler import compiled
from ..simd import loops
from ..simd.lanes import BYTES
from ..simd.loops import address_of, strides_of

FORWARD_BLOCK = 1024  # numbers of each input in a block
BACKWARD_BLOCK = 512
STREAM = 2**21  # bytes of a gradient that nobody should expect to find in a cache


@functools.cache
def _fetch(bits: int) -> Any:
    """How a block of an input becomes contiguous: it is already, it was copied before, or it is copied now."""
    size = bits // 8
    get, put = loops.get(bits), loops.put(bits)

    @compiled(bits)
    def fetch(base, strides, i, j, rows, columns, tile, refill):  # type: ignore[no-untyped-def]
        row_stride, stride = strides
        source = base + i * row_stride + j * stride
        if (stride == size or columns == 1) and (rows == 1 or row_stride == columns * size):
            return source
        if refill or row_stride != 0:
            for k in range(rows):
                for l in range(columns):
                    put(get(source + k * row_stride + l * stride), tile + (k * columns + l) * size)
        return tile

    return fetch


@functools.cache
def forward(keyword: str, standard: bool, bits: int) -> Any:
    """``kernel(mean_p, spread_p, mean_q, spread_q, out, per_dim, first, last)``: how many rows are not finite.

    Inputs have shape (n or 1, d or 1), ``out`` (n, 1), or (n, d) and contiguous rows with ``per_dim``. A row with a
    number that the vector formulas do not serve becomes NaN.
    """
    size = bits // 8
    block = FORWARD_BLOCK
    terms = loops.elementwise(FORMULAS[keyword, standard].terms, bits)
    total, scratch = loops.total(bits), loops.scratch(5 * block * size)
    fetch = _fetch(bits)
    number = loops.NUMBER[bits]
    top = bits - 2
    unsigned = types.uint64

    @compiled("forward", keyword, standard, bits)
    def kernel(mean_p, spread_p, mean_q, spread_q, out, per_dim, first, last):  # type: ignore[no-untyped-def]
        d = mean_p.shape[1]
        columns = min(d, block)
        most = block // columns
        tiles = scratch()
        tile = block * size
        place = address_of(out)
        at_a, at_b, at_c, at_e = address_of(mean_p), address_of(spread_p), address_of(mean_q), address_of(spread_q)
        by_a, by_b, by_c, by_e = strides_of(mean_p), strides_of(spread_p), strides_of(mean_q), strides_of(spread_q)
        if per_dim and out.strides[0] != d * size:
            most = 1
        not_finite = 0
        alone = first  # rows before this one are computed one by one, to find which of them is marked,
        step = columns  # and the dimensions of a marked row too if each of them is a result
        i = first
        while i < last:
            rows = 1 if i < alone else min(most, last - i)
            refill = i == first or step < d
            high, low = 0.0, 0.0
            marked = False
            for j in range(0, d, step):
                wide = min(step, d - j)
                a = fetch(at_a, by_a, i, j, rows, wide, tiles, refill)
                b = fetch(at_b, by_b, i, j, rows, wide, tiles + tile, refill)
                target = place + i * out.strides[0] + j * size if per_dim else tiles + 4 * tile
                if standard:
                    marks = terms((a, b), (target,), rows * wide)
                else:
                    c = fetch(at_c, by_c, i, j, rows, wide, tiles + 2 * tile, refill)
                    e = fetch(at_e, by_e, i, j, rows, wide, tiles + 3 * tile, refill)
                    marks = terms((a, b, c, e), (target,), rows * wide)
                if unsigned(marks) >> unsigned(top):
                    if rows * wide > 1 or not per_dim:
                        marked = True
                        break
                    out[i, j] = np.nan
                for k in range(rows):
                    part = float(total(target + k * wide * size, wide))
                    if step < d:  # Neumaier's sum
                        whole = high + part
                        back = whole - high
                        low += (high - (whole - back)) + (part - back)
                        high = whole
                    else:
                        if not abs(part) < np.inf:
                            not_finite += 1
                        if not per_dim:
                            out[i + k, 0] = part
            if marked and rows > 1:
                alone = i + rows
                continue
            if marked and per_dim:
                step = 1
                continue
            if marked:
                out[i, 0] = np.nan
                not_finite += 1
            elif step < d:
                high += low
                if not abs(high) < np.inf:
                    not_finite += 1
                if not per_dim:
                    out[i, 0] = high
            step = columns
            i += rows
        return not_finite

    read = types.Array(number, 2, "A", readonly=True)
    written = types.Array(number, 2, "A")
    return kernel, types.int64(read, read, read, read, written, types.boolean, types.int64, types.int64)


@functools.cache
def backward(keyword: str, standard: bool, bits: int) -> Any:
    """``kernel(mean_p, spread_p, mean_q, spread_q, cotangent, *gradients, first, last)``.

    The cotangent has shape (n or 1, d or 1). Each gradient has three axes. The first one has length 0 if the gradient
    is not wanted; 1 if it has the shape (n, d) of a block; 2 if it is summed over the axes that have length 1, where
    the second half takes up the rounding errors of the first and both have to be 0 to begin with.
    """
    size = bits // 8
    block = BACKWARD_BLOCK
    gradient = _pulled(FORMULAS[keyword, standard].gradient)
    partials, streamed = loops.elementwise(gradient, bits), loops.elementwise(gradient, bits, streaming=True)
    total, scratch, put, get = loops.total(bits), loops.scratch(9 * block * size), loops.put(bits), loops.get(bits)
    add = loops.elementwise(_two_sum, bits)
    fetch = _fetch(bits)
    number = loops.NUMBER[bits]

    @compiled(bits)
    def streams(gradient, d):  # type: ignore[no-untyped-def]
        aligned = address_of(gradient) % BYTES == 0 and d * size % BYTES == 0
        return len(gradient) == 1 and aligned and gradient.strides[1] == d * size and gradient.size * size >= STREAM

    @compiled(bits)
    def target(gradient, i, j, rows, columns, tile):  # type: ignore[no-untyped-def]
        in_place = gradient.shape[0] == 1 and (rows == 1 or gradient.strides[1] == columns * size)
        return address_of(gradient) + i * gradient.strides[1] + j * size if in_place else tile

    @compiled(bits)
    def deliver(gradient, i, j, rows, columns, tile):  # type: ignore[no-untyped-def]
        if gradient.shape[0] == 1 and not (rows == 1 or gradient.strides[1] == columns * size):
            for k in range(rows):
                at = address_of(gradient) + (i + k) * gradient.strides[1] + j * size
                for l in range(columns):
                    put(get(tile + (k * columns + l) * size), at + l * size)
        if gradient.shape[0] == 2:
            base = address_of(gradient)
            low = gradient.strides[0]
            for k in range(rows):
                part = tile + k * columns * size
                row = base + (i + k if gradient.shape[1] > 1 else 0) * gradient.strides[1]
                if gradient.shape[2] == 1:
                    put(total(part, columns), part)
                    add((row, row + low, part), (row, row + low), 1)
                else:
                    at = row + j * size
                    add((at, at + low, part), (at, at + low), columns)

    @compiled("backward", keyword, standard, bits)
    def kernel(mean_p, spread_p, mean_q, spread_q, cotangent, g0, g1, g2, g3, first, last):  # type: ignore[no-untyped-def]
        d = mean_p.shape[1]
        columns = min(d, block)
        most = block // columns
        tiles = scratch()
        tile = block * size
        at_a, at_b, at_c, at_e = address_of(mean_p), address_of(spread_p), address_of(mean_q), address_of(spread_q)
        by_a, by_b, by_c, by_e = strides_of(mean_p), strides_of(spread_p), strides_of(mean_q), strides_of(spread_q)
        at_w, by_w = address_of(cotangent), strides_of(cotangent)
        stream = streams(g0, d) and streams(g1, d) and streams(g2, d) and streams(g3, d)
        for i in range(first, last, most):
            rows = min(most, last - i)
            refill = i == first or columns < d
            for j in range(0, d, columns):
                wide = min(columns, d - j)
                w = fetch(at_w, by_w, i, j, rows, wide, tiles, refill)
                a = fetch(at_a, by_a, i, j, rows, wide, tiles + tile, refill)
                b = fetch(at_b, by_b, i, j, rows, wide, tiles + 2 * tile, refill)
                t0 = target(g0, i, j, rows, wide, tiles + 5 * tile)
                t1 = target(g1, i, j, rows, wide, tiles + 6 * tile)
                if standard:
                    if stream:
                        streamed((w, a, b), (t0, t1), rows * wide)
                    else:
                        partials((w, a, b), (t0, t1), rows * wide)
                else:
                    c = fetch(at_c, by_c, i, j, rows, wide, tiles + 3 * tile, refill)
                    e = fetch(at_e, by_e, i, j, rows, wide, tiles + 4 * tile, refill)
                    t2 = target(g2, i, j, rows, wide, tiles + 7 * tile)
                    t3 = target(g3, i, j, rows, wide, tiles + 8 * tile)
                    if stream:
                        streamed((w, a, b, c, e), (t0, t1, t2, t3), rows * wide)
                    else:
                        partials((w, a, b, c, e), (t0, t1, t2, t3), rows * wide)
                    deliver(g2, i, j, rows, wide, t2)
                    deliver(g3, i, j, rows, wide, t3)
                deliver(g0, i, j, rows, wide, t0)
                deliver(g1, i, j, rows, wide, t1)

    read = types.Array(number, 2, "A", readonly=True)
    written = types.Array(number, 3, "A")
    return kernel, types.void(*[read] * 5, *[written] * 4, types.int64, types.int64)


def _pulled(gradient: Any) -> Any:
    """The gradient times the cotangent, which comes first; nothing is marked."""

    def pulled(cotangent: Any, *arrays: Any) -> Any:
        return *[cotangent * partial for partial in gradient(*arrays)], cotangent.as_integers() & 0

    return pulled


def _two_sum(high: Any, low: Any, part: Any) -> Any:
    """Add to a number that is kept in two pieces (Knuth's two-sum)."""
    whole = high + part
    back = whole - high
    return whole, low + ((high - (whole - back)) + (part - back)), high.as_integers() & 0
