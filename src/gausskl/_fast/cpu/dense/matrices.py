"""Matrices of vectors: eight matrices side by side, entry by entry in one vector, and the algebra they need.

A :class:`Tile` is square, has whole blocks of rows and columns, and lies in memory row after row. The loops here emit
code as ``simd/lanes.py`` does: over blocks of a few rows and columns that stay in registers, so that a number that was
loaded is used several times. What is outside of a given matrix is filled up with the identity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..simd.double_double import Number
from ..simd.emitter import Arithmetic, Index, Value, rounded
from ..simd.lanes import BYTES


class Tile(NamedTuple):
    """A square matrix of ``n`` rows in memory, seen as it is or transposed."""

    arithmetic: Arithmetic
    base: Value
    n: Index
    block: int
    turned: bool = False

    @property
    def mT(self) -> Tile:
        """The transpose."""
        return self._replace(turned=not self.turned)

    def moved(self, arithmetic: Arithmetic, base: Value, n: Index) -> Tile:
        """A tile like this one elsewhere."""
        return self._replace(arithmetic=arithmetic, base=base, n=n)

    def at(self, i: Index, j: Index) -> Value:
        """Address of an entry."""
        a = self.arithmetic
        i, j = (j, i) if self.turned else (i, j)
        return a.beyond(self.base, a.times(a.plus(a.times(i, self.n), j), a.size))

    def __call__(self, i: Index, j: Index) -> Number:
        """An entry."""
        return self.arithmetic.load(self.at(i, j))

    def put(self, x: Number, i: Index, j: Index) -> None:
        """Set an entry."""
        self.arithmetic.store(x, self.at(i, j))

    def blocks(self, start: Index = 0, stop: Index | None = None) -> Any:
        """A loop over the first rows of blocks."""
        single = self.n == self.block
        return self.arithmetic.each(start, self.n if stop is None else stop, self.block, once=single)

    def downwards(self) -> Any:
        """The same from the last block to the first."""
        return _reversed_blocks(self)

    def load(self, i: Index, j: Index) -> list[list[Number]]:
        """The block whose first entry this is."""
        rows, a = range(self.block), self.arithmetic
        return [[self(a.plus(i, r), a.plus(j, c)) for c in rows] for r in rows]

    def load_symmetric(self, i: Index, j: Index) -> list[list[Number]]:
        """The block of a symmetric matrix of which only the lower triangle is there."""
        a, b = self.arithmetic, self.arithmetic.builder
        i, j = a.index(i), a.index(j)
        above, not_below = b.icmp_signed("<", i, j), b.icmp_signed("<=", i, j)

        def entry(r: int, c: int) -> Number:
            turned = above if c <= r else not_below
            row, column = a.plus(i, r), a.plus(j, c)
            return self(b.select(turned, column, row), b.select(turned, row, column))

        return [[entry(r, c) for c in range(self.block)] for r in range(self.block)]

    def store(self, block: list[list[Number]], i: Index, j: Index) -> None:
        """Set a block."""
        a = self.arithmetic
        for r, row in enumerate(block):
            for c, x in enumerate(row):
                self.put(x, a.plus(i, r), a.plus(j, c))


@contextlib.contextmanager
def _reversed_blocks(tile: Tile) -> Iterator[Index]:
    a = tile.arithmetic
    with tile.blocks() as i:
        yield a.minus(a.minus(tile.n, tile.block), i)


def less_products(
    x: list[list[Number]], left: Tile, right: Tile, i: Index, j: Index, start: Index, stop: Index
) -> list[list[Number]]:
    """A block of X - left @ right^T at (i, j), the products summed over columns from ``start`` to ``stop``."""
    a, size = left.arithmetic, len(x)

    def step(k: Index, flat: list[Number]) -> list[Number]:
        of_rows = [left(a.plus(i, r), k) for r in range(size)]
        of_columns = [right(a.plus(j, c), k) for c in range(size)]
        return [a.less_product(flat[r * size + c], of_rows[r], of_columns[c]) for r in range(size) for c in range(size)]

    flat = a.fold(start, stop, [entry for row in x for entry in row], step)
    return [flat[r * size : (r + 1) * size] for r in range(size)]


class Factor(NamedTuple):
    """A lower triangular factor and the reciprocals of its diagonal, a vector in memory."""

    tile: Tile
    inverse: Value

    def reciprocal(self, i: Index) -> Number:
        """1 / L_ii."""
        a = self.tile.arithmetic
        return a.load(a.beyond(self.inverse, a.times(i, a.size)))

    def put_reciprocal(self, x: Number, i: Index) -> None:
        """Set it."""
        a = self.tile.arithmetic
        a.store(x, a.beyond(self.inverse, a.times(i, a.size)))


def cholesky(x: Tile, into: Factor, less_one: Value | None = None) -> None:
    """Factor the matrix whose lower triangle X holds; NaN where it is not positive definite.

    If there is a place for pivots ``less_one``, that is a vector of floats, X + I is factored.
    """

    def emit(a: Arithmetic, n: Index, *places: Value) -> None:
        base, tile, inverse, *pivots = places
        factor = Factor(Tile(a, tile, n, x.block), inverse)
        _cholesky(Tile(a, base, n, x.block), factor, pivots[0] if pivots else None)

    places = (x.base, into.tile.base, into.inverse, *([] if less_one is None else [less_one]))
    x.arithmetic.call(f"cholesky_{len(places)}_{x.block}", emit, x.n, *places)


def _cholesky(x: Tile, into: Factor, less_one: Value | None) -> None:
    a, factor, size = x.arithmetic, into.tile, x.block
    one = a.constant(1.0)
    with x.blocks() as j, x.blocks(j) as i:
        block = less_products(x.load(i, j), factor, factor, i, j, 0, j)
        on_diagonal = a.builder.icmp_signed("==", a.index(i), a.index(j))
        with a.builder.if_else(on_diagonal) as (then, otherwise):
            with then:
                own = [list(row) for row in block]
                for c in range(size):
                    pivot = own[c][c]
                    if less_one is not None:
                        a.put_lanes(rounded(pivot), a.beyond(less_one, a.times(a.plus(j, c), BYTES)))
                        pivot = one + pivot
                    root = a.sqrt(pivot)
                    reciprocal = one if a.wide else 1.0 / pivot
                    inverse = one / root if a.wide else root * reciprocal  # the two do not wait for each other
                    into.put_reciprocal(inverse, a.plus(j, c))
                    below = range(c + 1, size)
                    column, lower = {r: own[r][c] for r in below}, {r: own[r][c] * inverse for r in below}
                    # Of the factors of a product one is divided by the pivot, and none by its root: a difference that
                    # cancels has no more roundings in it than it must. Where there are digits enough, L L^T it is.
                    left, right = (lower, lower) if a.wide else ({r: x * reciprocal for r, x in column.items()}, column)
                    for r in below:
                        own[r][c] = lower[r]
                        for k in range(c + 1, r + 1):
                            own[r][k] = a.less_product(own[r][k], left[r], right[k])
                    own[c][c] = root
                for r in range(size):
                    for c in range(r + 1):
                        factor.put(own[r][c], a.plus(i, r), a.plus(j, c))
            with otherwise:
                factor.store(_right_solved(block, into, j), i, j)


def _right_solved(block: list[list[Number]], by: Factor, j: Index) -> list[list[Number]]:
    """A block times the inverse transpose of the block of a factor at (j, j)."""
    a, size = by.tile.arithmetic, len(block)
    for c in range(size):
        for k in range(c):
            entry = by.tile(a.plus(j, c), a.plus(j, k))
            for row in block:
                row[c] = a.less_product(row[c], row[k], entry)
        inverse = by.reciprocal(a.plus(j, c))
        for row in block:
            row[c] = row[c] * inverse
    return block


Load = Callable[[Index, Index], list[list[Number]]]


def solve(by: Factor, x: Tile | Load, into: Tile, part: str = "whole", triangular: bool = False) -> None:
    """L^-1 X, or its "lower" or "upper" triangle of blocks, for an X that is itself lower ``triangular`` or not.

    ``x`` may be a function that loads a block.
    """
    if not isinstance(x, Tile):
        _solve(by, x, into, part, triangular)
        return

    def emit(a: Arithmetic, n: Index, tile: Value, inverse: Value, source: Value, target: Value) -> None:
        factor = Factor(Tile(a, tile, n, x.block), inverse)
        _solve(factor, x.moved(a, source, n).load, into.moved(a, target, n), part, triangular)

    name = f"solve_{part}_{triangular}_{x.turned}_{into.turned}_{x.block}"
    into.arithmetic.call(name, emit, into.n, by.tile.base, by.inverse, x.base, into.base)


def _solve(by: Factor, x: Load, into: Tile, part: str, triangular: bool) -> None:
    a = into.arithmetic
    with into.blocks() as i:
        start, stop = {"whole": (0, into.n), "lower": (0, a.plus(i, into.block)), "upper": (i, into.n)}[part]
        with into.blocks(start, stop) as j:
            block = less_products(x(i, j), by.tile, into.mT, i, j, j if triangular else 0, i)
            into.store(_left_solved(block, by, i), i, j)


def solve_vector(by: Factor, x: Value) -> None:
    """L^-1 x in the place of a vector x."""
    tile, a = by.tile, by.tile.arithmetic

    def at(i: Index, r: int = 0) -> Value:
        return a.beyond(x, a.times(a.plus(i, r), a.size))

    rows = range(tile.block)
    with tile.blocks() as i:

        def step(k: Index, block: list[Number], i: Index = i) -> list[Number]:
            z = a.load(at(k))
            return [a.less_product(block[r], tile(a.plus(i, r), k), z) for r in rows]

        block = a.fold(0, i, [a.load(at(i, r)) for r in rows], step)
        for r in rows:
            for k in range(r):
                block[r] = a.less_product(block[r], block[k], tile(a.plus(i, r), a.plus(i, k)))
            block[r] = block[r] * by.reciprocal(a.plus(i, r))
            a.store(block[r], at(i, r))


def solve_transposed(by: Factor, x: Tile, into: Tile) -> None:
    """L^-T X."""

    def emit(a: Arithmetic, n: Index, tile: Value, inverse: Value, source: Value, target: Value) -> None:
        factor = Factor(Tile(a, tile, n, x.block), inverse)
        _solve_transposed(factor, x.moved(a, source, n).load, into.moved(a, target, n))

    name = f"solve_transposed_{x.turned}_{into.turned}_{x.block}"
    into.arithmetic.call(name, emit, into.n, by.tile.base, by.inverse, x.base, into.base)


def _solve_transposed(by: Factor, x: Load, into: Tile) -> None:
    """From the last row to the first."""
    a = into.arithmetic
    with into.downwards() as i, into.blocks() as j:
        block = less_products(x(i, j), by.tile.mT, into.mT, i, j, a.plus(i, into.block), into.n)
        for r in reversed(range(into.block)):
            for k in range(r + 1, into.block):
                entry = by.tile(a.plus(i, k), a.plus(i, r))
                block[r] = [a.less_product(y, below, entry) for y, below in zip(block[r], block[k], strict=True)]
            block[r] = [y * by.reciprocal(a.plus(i, r)) for y in block[r]]
        into.store(block, i, j)


def _left_solved(block: list[list[Number]], by: Factor, i: Index) -> list[list[Number]]:
    """The inverse of the block of a factor at (i, i) times a block."""
    return _transposed(_right_solved(_transposed(block), by, i))


def _transposed(block: list[list[Number]]) -> list[list[Number]]:
    return [list(row) for row in zip(*block, strict=True)]
