"""What a user gives as a spread, as tiles.

What is not a valid spread is noted in a vector of flaws, which is 0 in the lanes where all is well and NaN in others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from ...terms.operations import where
from ..simd.double_double import Number, Wide, difference, of_lanes, square
from ..simd.double_double import exp as wide_exp
from ..simd.emitter import LANES, Arithmetic, Index, Value, parts, rounded
from ..simd.interleave import entry as place_of
from ..simd.lanes import BYTES, I64, Lanes, sqrt
from .matrices import Factor, Tile

SYMMETRY = {64: 2.0**-26, 32: 2.0**-12}


EPS = {False: 2.0**-52, True: 2.0**-104}  # of an entry, as a float or with twice its digits
SMALL = {False: 2.0**-36, True: 2.0**-94}  # of a variance: what a pivot has to be above, for each dimension


# What was read, as tiles.


class Flaws(NamedTuple):
    """A vector in memory, NaN in the lanes where something is not valid."""

    a: Arithmetic
    place: Value

    def add(self, valid: Lanes, nothing: Lanes) -> None:
        """Note the lanes that are not valid; ``valid`` is a comparison."""
        found = where(valid, nothing, float("nan"))
        self.a.put_lanes(self.a.lanes(self.place) + found, self.place)

    def clear(self) -> None:
        """Nothing is wrong."""
        self.a.put_lanes(rounded(self.a.constant(0.0)), self.place)


def _fill(tile: Tile, d: Value) -> None:
    """The identity outside of the given matrix."""
    a = tile.arithmetic
    zero, one = a.constant(0.0), a.constant(1.0)
    with a.each(d, tile.n) as i:
        with a.each(0, tile.n) as j:
            tile.put(zero, i, j)
            tile.put(zero, j, i)
        tile.put(one, i, i)


def symmetric(raw: Value, tile: Tile, d: Value, bits: int, flaws: Flaws, flipped: bool = False) -> None:
    """The lower triangle, rounding-level asymmetry averaged; ``flipped`` turns all upside down and left to right.

    If the tile is where the matrix was read to, there is nothing to do unless something has to be averaged.
    """
    a = tile.arithmetic
    b = a.builder
    zero = rounded(a.constant(0.0))
    entry = _entries(a, raw, d, flipped)
    unequal = cgutils.alloca_once_value(b, zero.as_integers().value)

    def compare(i: Index, j: Index) -> None:
        i, j = a.index(i), a.index(j)
        bits = entry(i, j).as_integers() ^ entry(j, i).as_integers()
        b.store(b.or_(b.load(unequal), bits.value), unequal)

    size = tile.block
    full = d if tile.n == size else b.mul(b.sdiv(d, I64(size)), I64(size))
    with tile.blocks(0, full) as i:
        with a.each(0, i, size) as j:
            for r in range(size):
                for c in range(size):
                    compare(a.plus(i, r), a.plus(j, c))
        for r in range(size):
            for c in range(r):
                compare(a.plus(i, r), a.plus(i, c))
    if tile.n != size:
        with a.each(full, d) as i, a.each(0, i) as j:
            compare(i, j)
    some = any_of(b, Lanes(b, 64, b.load(unequal)).is_zero().negated())
    with b.if_then(some, likely=False), a.each(0, d) as i, a.each(0, i) as j:
        here, there = entry(i, j), entry(j, i)
        allowed = SYMMETRY[bits] * (sqrt(entry(i, i).size()) * sqrt(entry(j, j).size()))
        flaws.add((there - here).size().not_above(allowed), zero)
    with b.if_then(b.or_(some, b.icmp_signed("!=", tile.base, raw))):
        with a.each(0, d) as i:
            with a.each(0, i) as j:
                here, there = entry(i, j), entry(j, i)
                half = 0.5 * (there - here)
                tile.put(difference(here, -half) if a.wide else here + half, i, j)
            tile.put(a.of(entry(i, i)), i, i)
        _fill(tile, d)


def _entries(a: Arithmetic, raw: Value, d: Value, flipped: bool = False) -> Any:
    b = a.builder

    def entry(i: Value, j: Value) -> Lanes:
        if flipped:
            last = b.sub(d, I64(1))
            i, j = b.sub(last, i), b.sub(last, j)
        return a.lanes(place_of(b, raw, b.add(b.mul(i, d), j)))

    return entry


def factor(raw: Value, into: Factor, d: Value, flaws: Flaws, packing: str | None) -> None:
    """A lower triangular factor with a positive diagonal: its columns are flipped where they have to be."""
    tile = into.tile
    a = tile.arithmetic
    zero = rounded(a.constant(0.0))
    entry = _entries(a, raw, d) if packing is None else _packed(a, raw, d, packing)
    with a.each(0, d) as j:
        sign = entry(j, j).as_integers() & -(2**63)
        with a.each(0, j) as i:
            tile.put(a.constant(0.0), i, j)
            if packing is None:
                flaws.add(entry(i, j).size().not_above(zero), zero)
        with a.each(j, d) as i:
            tile.put(a.of((entry(i, j).as_integers() ^ sign).as_floats()), i, j)
    _fill(tile, d)
    _reciprocals(into)


def _reciprocals(factor: Factor) -> None:
    a = factor.tile.arithmetic
    with a.each(0, factor.tile.n) as i:
        factor.put_reciprocal(a.constant(1.0) / factor.tile(i, i), i)


def _packed(a: Arithmetic, raw: Value, d: Value, packing: str) -> Any:
    return lambda i, j: a.lanes(place_of(a.builder, raw, packed_place(a, d, packing, i, j)))


def packed_place(a: Arithmetic, d: Value, packing: str, i: Value, j: Value) -> Value:
    """Place of an entry in a packed vector: see ``_formulas.given.packed_positions``."""
    b = a.builder
    length = b.ashr(b.mul(d, b.add(d, I64(1))), I64(1))
    if packing == "row":
        return b.add(b.ashr(b.mul(i, b.add(i, I64(1))), I64(1)), j)
    place = b.add(b.mul(i, d), j)
    back = b.sub(b.sub(b.mul(I64(2), length), b.add(d, I64(1))), place)
    return b.select(b.icmp_signed("<", place, b.sub(length, d)), b.add(place, d), back)


def sign_of_column(a: Arithmetic, raw: Value, d: Value, packing: str | None, j: Value) -> Lanes:
    """Where the diagonal entry of a given factor is negative."""
    entry = _entries(a, raw, d) if packing is None else _packed(a, raw, d, packing)
    return rounded(a.constant(0.0)).above(entry(j, j))


def definite(matrix: Tile, factor: Factor, d: Value, flaws: Flaws) -> None:
    """Note the matrices with a pivot that may be no more than rounding.

    It is left to the formulas to look closer: see ``_arrays.triangular.factor_of_definite``. With twice the digits
    nobody does, and a pivot that is a thousand times what one rounding leaves is taken.
    """
    a = matrix.arithmetic
    least = SMALL[a.wide] * (a.whole(d) + 1.0)
    with a.each(0, d) as i:
        root = rounded(factor.tile(i, i))
        flaws.add((root * root).above(least * rounded(matrix(i, i))), rounded(a.constant(0.0)))


def diagonal(raw: Value, keyword: str, into: Factor, rest: Value, d: Value, flaws: Flaws) -> None:
    """A diagonal as a factor, and what its entries were rounded by into a vector of floats."""
    tile = into.tile
    a = tile.arithmetic
    zero = rounded(a.constant(0.0))
    with a.each(0, tile.n) as i, a.each(0, tile.n) as j:
        tile.put(a.constant(0.0), i, j)
    with a.each(0, d) as i:
        given = a.lanes(place_of(a.builder, raw, i))
        if "log" not in keyword:
            flaws.add(given.above(zero), zero)
        std = _std(given, keyword)
        tile.put(std if a.wide else std.high, i, i)
        a.put_lanes(std.low, a.beyond(rest, a.times(i, BYTES)))
    with a.each(d, tile.n) as i:
        tile.put(a.constant(1.0), i, i)
        a.put_lanes(zero, a.beyond(rest, a.times(i, BYTES)))
    _reciprocals(into)


def _std(given: Lanes, keyword: str) -> Wide:
    """Standard deviations; NaN where those of a logarithm, or their squares, would leave the range."""
    if keyword == "std":
        return of_lanes(given)
    if keyword == "var":
        return of_lanes(given).sqrt()
    log_std = given if keyword == "log_std" else 0.5 * given
    nothing = given.filled(float("nan"))
    std, inside = wide_exp(log_std), log_std.at_most(300.0)
    return Wide(where(inside, std.high, nothing), where(inside, std.low, nothing))


def variance(a: Arithmetic, raw: Value, keyword: str, i: Value) -> Number:
    """The variance of a dimension, a squared std without rounding."""
    given = a.lanes(place_of(a.builder, raw, i))
    if keyword == "std":
        return square(given)
    if keyword == "var":
        return a.of(given)
    return wide_exp(2.0 * given if keyword == "log_std" else given)


def any_of(builder: Any, condition: Lanes) -> Value:
    """Whether a comparison holds in some lane."""
    bits = builder.bitcast(condition.value, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", bits, ir.IntType(LANES)(0))


def less_variance(x: Number, var: Number) -> Number:
    """x - var, which may have more digits than x."""
    if isinstance(var, Wide) and not isinstance(x, Wide):
        return (x - var.high) - var.low
    return x - var


def where_number(condition: Lanes, a: Number, b: Number) -> Number:
    """``a`` where the condition holds, else ``b``."""
    chosen = [where(condition, x, y) for x, y in zip(parts(a), parts(b), strict=True)]
    return Wide(*chosen) if isinstance(a, Wide) else chosen[0]


def finish_factor(factor: Factor, d: Value) -> None:
    """What a factor needs beside its entries."""
    _fill(factor.tile, d)
    _reciprocals(factor)


def only_if(condition: Value, x: Number) -> Number:
    """``x`` if a condition holds that is one for all lanes, else 0."""
    chosen = [Lanes(y.builder, 64, y.builder.select(condition, y.value, y.filled(0.0).value)) for y in parts(x)]
    return Wide(*chosen) if isinstance(x, Wide) else chosen[0]
