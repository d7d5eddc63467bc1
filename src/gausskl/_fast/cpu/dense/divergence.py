"""The divergence of dense pairs, eight of them side by side: the formulas of ``gausskl._formulas.dense`` on tiles.

Everything is computed in float64, or with twice its digits, whatever the dtype of the arrays. A lane's numbers
depend on nothing but its own matrices: where lanes differ in what they need, all of them compute both and select.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from ...terms.diagonal import gap, outside
from ...terms.operations import fma, where
from ..simd.double_double import Number, Wide, difference, less_product
from ..simd.emitter import Arithmetic, Index, Value, parts, rounded
from ..simd.interleave import Source
from ..simd.lanes import BYTES, I64, Lanes
from . import spreads
from .matrices import Factor, Load, Tile, cholesky, solve, solve_vector
from .spreads import any_of, only_if, where_number
from .workspace import Side, Space

# Where the Frobenius norm of W is at most 1/2, the divergence is at most (log(2) - 1/2)/2 = 0.0966.
NEAR_AT_MOST = 0.1


class Pair:
    """What a kernel has of p and q: ``p`` and ``q`` play the roles that the formulas of covariances give them."""

    def __init__(self, a: Arithmetic, work: Value, n: Index, block: int, d: Value, keywords: tuple[Any, Any]) -> None:
        self.a, self.n, self.d = a, n, d
        self.space = space = Space(a, work, n, block)
        self.given_p, self.given_q = (Side(space, keyword, packing) for keyword, packing in keywords)
        self.x, self.w = space.tile(), space.tile()
        self.z, self.inverse = space.column(), space.column()
        self.u = space.floats()
        # Of two precisions, each plays the other one's part.
        self.swapped = self.given_p.keyword == self.given_q.keyword == "precision"
        self.p, self.q = (self.given_q, self.given_p) if self.swapped else (self.given_p, self.given_q)
        for side in (self.p, self.q):
            if self.has_cov(side):
                side.stay_where_read(d)

    def has_cov(self, side: Side) -> bool:
        """Whether a side is there as a matrix that has to be factored."""
        return side.keyword == "cov" or self.swapped

    def read(self, side: Side, source: Source, first: Value, left: Value) -> None:
        """Read a side's spread and make of it what does not depend on the other side."""
        side.read(source, first, left, self.d, self.has_cov(side))
        if side.keyword == "precision" and not self.swapped:
            self._invert(side)
        elif side is self.q and self.has_cov(side):
            self.factor_matrix(side)

    def factor_matrix(self, side: Side) -> None:
        """Factor the matrix of a side."""
        cholesky(side.cov, side.factor)
        spreads.definite(side.cov, side.factor, self.d, side.flaws)

    def _invert(self, side: Side) -> None:
        """The factor U^-T of the covariance, for the precision U U^T with U upper triangular."""
        a, d = self.a, self.d
        b = a.builder
        upper = Factor(self.w, self.inverse)
        cholesky(side.cov, upper)
        spreads.definite(side.cov, upper, d, side.flaws)
        with a.each(0, self.n) as i:
            with a.each(0, self.n) as j:
                self.x.put(a.constant(0.0), i, j)
            self.x.put(a.constant(1.0), i, i)
        solve(upper, self.x, self.x, part="lower", triangular=True)
        last = b.sub(d, I64(1))
        with a.each(0, self.n) as i, a.each(0, self.n) as j:
            side.factor.tile.put(a.constant(0.0), i, j)
        with a.each(0, d) as j, a.each(j, d) as i:
            side.factor.tile.put(self.x(b.sub(last, j), b.sub(last, i)), i, j)
        spreads.finish_factor(side.factor, d)

    # The mean.

    def z_at(self, i: Index) -> Value:
        """Address of an entry of z."""
        return self.a.beyond(self.z, self.a.times(i, self.a.size))

    def mean_part(self) -> Number:
        """|z|^2 / 2 for z = L_q^-1 (mean_p - mean_q); of a precision R R^T of q, z = R^T (mean_p - mean_q)."""
        a, at = self.a, self.z_at
        with a.each(0, self.d) as i:
            here, there = (a.lanes(a.beyond(side.mean, a.times(i, BYTES))) for side in (self.given_p, self.given_q))
            a.store(difference(here, there) if a.wide else here - there, at(i))
        with a.each(self.d, self.n) as i:
            a.store(a.constant(0.0), at(i))
        if self.swapped:
            return self._from_root(at)
        solve_vector(self.q.factor, self.z)

        def add(i: Index, s: list[Number]) -> list[Number]:
            z = a.load(at(i))
            return [a.plus_product(s[0], z, z)]

        (half,) = a.fold(0, self.n, [a.constant(0.0)], add)
        return a.constant(0.5) * half

    def _from_root(self, at: Any) -> Number:
        a, root = self.a, self.p.factor.tile
        zero = a.constant(0.0)

        def add(j: Index, s: list[Number]) -> list[Number]:
            (z,) = a.fold(j, self.n, [zero], lambda i, t: [a.plus_product(t[0], root(i, j), a.load(at(i)))])
            return [a.plus_product(s[0], z, z)]

        (half,) = a.fold(0, self.n, [zero], add)
        return a.constant(0.5) * half

    # The spread.

    def spread_part(self) -> Number:
        """The divergence for equal means."""
        a = self.a
        b = a.builder
        if not self.has_cov(self.p) and not self.has_cov(self.q):
            return self._from_factors()
        if self.has_cov(self.p):
            self.factor_matrix(self.p)
        far = self._from_factors()
        result = [cgutils.alloca_once_value(b, part.value) for part in parts(far)]
        maybe = rounded(far).above(NEAR_AT_MOST).negated()
        with b.if_then(any_of(b, maybe)):
            self._whiten(self.difference())
            near = self._size().not_above(0.25).also(maybe)
            with b.if_then(any_of(b, near)):
                for part, place in zip(parts(self._from_pivots()), result, strict=True):
                    b.store(where(near, part, Lanes(b, 64, b.load(place))).value, place)
        found = [Lanes(b, 64, b.load(place)) for place in result]
        return Wide(*found) if a.wide else found[0]

    def difference(self) -> Load:
        """Blocks of cov_p - cov_q, without rounding anything that is larger."""
        p, q = self.p, self.q
        if self.has_cov(p) and self.has_cov(q):
            return lambda i, j: less(p.cov.load_symmetric(i, j), q.cov.load_symmetric(i, j))
        if self.has_cov(p):
            self._minus(p, q, -1.0)
        else:
            self._minus(q, p, 1.0)
        return self.x.load

    def _minus(self, matrix: Side, other: Side, sign: float) -> None:
        """The covariance of one side less that of the other one, which is a factor or a diagonal."""
        a, x = self.a, self.x
        with a.each(0, self.n) as i, a.each(0, a.plus(i, 1)) as j:
            value = matrix.cov(i, j)
            if not other.is_diagonal:
                value = self._minus_product(value, other.factor.tile, i, j)
            x.put(self._signed(value, sign), i, j)
            x.put(self._signed(value, sign), j, i)
        if other.is_diagonal:
            with a.each(0, self.d) as i:
                var = spreads.variance(a, other.raw, other.keyword, i)
                x.put(self._signed(spreads.less_variance(matrix.cov(i, i), var), sign), i, i)
            with a.each(self.d, self.n) as i:
                x.put(a.constant(0.0), i, i)

    def _signed(self, x: Number, sign: float) -> Number:
        return x if sign < 0 else -x

    def _minus_product(self, entry: Number, factor: Tile, i: Index, j: Index) -> Number:
        """An entry less that of L L^T, with the digits that products and sums would lose."""
        a = self.a

        def step(k: Index, s: list[Number]) -> list[Number]:
            left, right = factor(i, k), factor(j, k)
            if a.wide:
                return [s[0] - left * right]
            return list(less_product(s[0], s[1], left, right))

        start = [entry] if a.wide else [entry, a.constant(0.0)]
        result = a.fold(0, a.plus(j, 1), start, step)
        return result[0] if a.wide else result[0] + result[1]

    def _whiten(self, difference: Load) -> None:
        """L_q^-1 (cov_p - cov_q) L_q^-T: the lower triangle of blocks, into w."""
        a, q = self.a, self.q.factor
        if not self.q.is_diagonal:
            solve(q, difference, self.x)
            solve(q, self.x.mT, self.w.mT, part="upper")
            return
        with self.w.blocks() as i, self.w.blocks(0, a.plus(i, self.w.block)) as j:
            block = difference(i, j)
            rows = [[x * q.reciprocal(a.plus(i, r)) for x in row] for r, row in enumerate(block)]
            self.w.store([[x * q.reciprocal(a.plus(j, c)) for c, x in enumerate(row)] for row in rows], i, j)

    def _size(self) -> Lanes:
        """The squared Frobenius norm of w."""
        a, w = self.a, self.w
        zero = rounded(a.constant(0.0))

        def row(i: Index, s: list[Lanes]) -> list[Lanes]:
            def entry(j: Index, t: list[Lanes]) -> list[Lanes]:
                return [fma(rounded(w(i, j)), rounded(w(i, j)), t[0])]

            (below,) = a.fold(0, i, [zero], entry)
            diagonal = rounded(w(i, i))
            return [s[0] + fma(diagonal, diagonal, 2.0 * below)]

        size: list[Lanes] = a.fold(0, self.n, [zero], row)
        return size[0]

    def _from_pivots(self) -> Number:
        """Half the sum of u_j - log1p(u_j) and of M_ij^2 below the diagonal, for I + W = M M^T."""
        a, m = self.a, self.x

        def at(j: Index) -> Value:
            return a.beyond(self.u, a.times(j, BYTES))

        def excess(j: Index) -> Lanes:
            u = a.lanes(at(j))
            return gap(u, 1.0 + u)

        cholesky(self.w, Factor(m, self.inverse), self.u)
        return self._sum(m, excess)

    def _sum(self, matrix: Tile, of_row: Any) -> Number:
        """Half the sum of the squares below the diagonal and of one number for each row."""
        a = self.a
        zero = a.constant(0.0)

        def row(i: Index, s: list[Number]) -> list[Number]:
            (below,) = a.fold(0, i, [zero], lambda j, t: [a.plus_product(t[0], matrix(i, j), matrix(i, j))])
            return [s[0] + (below + a.of(of_row(i)))]

        (whole,) = a.fold(0, self.n, [zero], row)
        return a.constant(0.5) * whole

    def _from_factors(self) -> Number:
        """Sum of G(L_p,ii, L_q,ii) + e_i^2/2 and of E_ij^2/2 below the diagonal, for E = L_q^-1 (L_p - L_q)."""
        p, q = self.p.factor, self.q.factor
        self.whiten_factors()

        def of_row(i: Index) -> Lanes:
            here, there, inverse = p.tile(i, i), q.tile(i, i), q.reciprocal(i)
            t, ratio = rounded(self.of_diagonals(i) * inverse), rounded(here * inverse)
            flaw = (outside(ratio) | outside(rounded(there))) & (3 << 62)
            return where(flaw.is_zero(), fma(t, t, 2.0 * gap(t, ratio)), float("nan"))

        return self._sum(self.x, of_row)

    def of_diagonals(self, i: Index) -> Number:
        """L_p,ii - L_q,ii, without what standard deviations were rounded by when they were made."""
        p, q = self.p, self.q
        apart = p.factor.tile(i, i) - q.factor.tile(i, i)
        for side, sign in ((p, 1.0), (q, -1.0)):
            if not self.a.wide and side.is_diagonal and side.keyword != "std":
                apart = apart + sign * self.a.lanes(self.a.beyond(side.rest, self.a.times(i, BYTES)))
        return apart

    def whiten_factors(self) -> None:
        """E = L_q^-1 (L_p - L_q) into x, its columns L_q^-1 L_p where the diagonals are far apart."""
        a, q = self.a, self.q.factor
        if not self.q.is_diagonal:
            solve(q, self.factor_difference, self.x, part="lower", triangular=True)
            return
        with self.x.blocks() as i, self.x.blocks(0, a.plus(i, self.x.block)) as j:
            block = self.factor_difference(i, j)
            self.x.store([[x * q.reciprocal(a.plus(i, r)) for x in row] for r, row in enumerate(block)], i, j)

    def factor_difference(self, i: Index, j: Index) -> list[list[Number]]:
        """A block of L_p - L_q, the columns of L_p as they are where the two diagonals are not within a factor 2."""
        a, p, q = self.a, self.p.factor.tile, self.q.factor.tile
        block, other = p.load(i, j), q.load(i, j)
        on_diagonal = a.builder.icmp_signed("==", a.index(i), a.index(j))
        for c in range(p.block):
            k = a.plus(j, c)
            here, there = rounded(p(k, k)), rounded(q(k, k))
            close = here.not_above(2.0 * there).also(there.not_above(2.0 * here))
            for r, row in enumerate(block):
                row[c] = row[c] - where_number(close, other[r][c], a.constant(0.0))
                if r < c:
                    row[c] = only_if(a.builder.not_(on_diagonal), row[c])
        return block


def less(a: list[list[Number]], b: list[list[Number]]) -> list[list[Number]]:
    """The difference of two blocks."""
    return [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def result(pair: Pair) -> Lanes:
    """The divergence in each lane; NaN where something is not valid or out of range."""
    total = rounded(pair.spread_part() + pair.mean_part())
    one_precision = "precision" in (pair.given_p.keyword, pair.given_q.keyword) and not pair.swapped
    if one_precision and not pair.a.wide:  # near equality its inverse has lost what matters
        total = where(total.above(NEAR_AT_MOST), total, float("nan"))
    for side in (pair.given_p, pair.given_q):
        total = total + pair.a.lanes(side.flaws.place)
    return total
