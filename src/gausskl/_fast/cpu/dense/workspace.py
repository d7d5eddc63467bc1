"""The memory that a kernel for dense pairs works in, and one of the two Gaussians in it."""

from __future__ import annotations

from ...._spreads import DIAGONAL
from ..simd import interleave
from ..simd.emitter import LANES, Arithmetic, Index, Value
from ..simd.interleave import Source
from ..simd.lanes import BYTES, I64
from . import spreads
from .matrices import Factor, Tile
from .spreads import Flaws


def work_bytes(n: int, wide: bool, gradients: bool) -> int:
    """Bytes that a kernel needs to work with matrices of ``n`` rows, filled up to whole blocks."""
    size = 2 * BYTES if wide else BYTES
    tiles, raws = (8, 3) if gradients else (6, 2)
    return (tiles * n * n + 6 * n) * size + (raws * n * n + 6 * n + 64) * BYTES


class Space:
    """Memory for tiles and vectors, handed out in order."""

    def __init__(self, a: Arithmetic, base: Value, n: Index, block: int) -> None:
        self.a, self.next, self.n, self.block = a, base, n, block

    def _take(self, count: Index, size: int) -> Value:
        base = self.next
        self.next = self.a.beyond(base, self.a.times(count, size))
        return base

    def tile(self) -> Tile:
        """A square matrix."""
        return Tile(self.a, self._take(self.a.times(self.n, self.n), self.a.size), self.n, self.block)

    def column(self) -> Value:
        """A vector of entries."""
        return self._take(self.n, self.a.size)

    def floats(self) -> Value:
        """A vector of floats."""
        return self._take(self.n, BYTES)

    def factor(self) -> Factor:
        """A factor and its reciprocals."""
        return Factor(self.tile(), self.column())

    def raw(self, matrix: bool) -> Value:
        """Room for what is read."""
        count = self.a.times(self.n, self.n) if matrix else self.n
        return self._take(self.a.plus(count, LANES), BYTES)

    def flaws(self) -> Flaws:
        """A vector of flaws."""
        return Flaws(self.a, self._take(1, BYTES))


class Side:
    """One of the two Gaussians, as the kernel reads it."""

    def __init__(self, space: Space, keyword: str, packing: str | None) -> None:
        self.keyword, self.packing = keyword, packing
        self.mean, self.raw = space.raw(False), space.raw(True)
        self.cov, self.factor, self.flaws = space.tile(), space.factor(), space.flaws()
        self.rest = space.floats()  # what the standard deviations of a diagonal were rounded by

    def stay_where_read(self, d: Value) -> None:
        """Take what is read for the tile of the covariance, if it has whole blocks."""
        a = self.cov.arithmetic
        if not a.wide:
            whole = a.builder.icmp_signed("==", a.index(self.cov.n), d)
            self.cov = self.cov.moved(a, a.builder.select(whole, self.raw, self.cov.base), self.cov.n)

    @property
    def is_diagonal(self) -> bool:
        """Whether the spread is a vector."""
        return self.keyword in DIAGONAL

    def read(self, source: Source, first: Value, left: Value, d: Value, as_matrix: bool) -> None:
        """Read the spread: as a covariance with ``as_matrix``, which a precision may stand in for, else as a factor."""
        a = self.cov.arithmetic
        b = a.builder
        length = b.ashr(b.mul(d, b.add(d, I64(1))), I64(1)) if self.packing else d
        sizes = [length] if self.packing or self.is_diagonal else [d, d]
        interleave.read(a, source, first, left, sizes, self.raw)
        self.flaws.clear()
        if self.is_diagonal:
            spreads.diagonal(self.raw, self.keyword, self.factor, self.rest, d, self.flaws)
        elif self.keyword in ("scale_tril", "packed_tril"):
            spreads.factor(self.raw, self.factor, d, self.flaws, self.packing)
        else:
            spreads.symmetric(self.raw, self.cov, d, source.bits, self.flaws, flipped=not as_matrix)
