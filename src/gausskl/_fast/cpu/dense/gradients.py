"""Gradients of the divergence of dense pairs, eight of them side by side.

With D = cov_p - cov_q, W = L_q^-1 D L_q^-T and z = L_q^-1 (mean_p - mean_q):

* by the means: L_q^-T z, of either sign;
* by cov_q: -L_q^-T (W + z z^T) L_q^-1 / 2; by L_q: the lower triangle of -L_q^-T (W + z z^T);
* by cov_p: cov_q^-1 D cov_p^-1 / 2; by L_p: the lower triangle of cov_q^-1 D L_p^-T.

Between two factors W = E + E^T + E E^T, and by L_p it is the lower triangle of L_q^-T E, plus (1/L_q,ii - 1/L_p,ii) on
the diagonal. All are exactly 0 at equality.
"""

from __future__ import annotations

from ...terms.operations import where
from ..simd.double_double import Number
from ..simd.emitter import Index, rounded
from ..simd.lanes import BYTES, Lanes
from .divergence import Pair
from .matrices import Tile, solve, solve_transposed
from .spreads import only_if, packed_place, sign_of_column, where_number
from .workspace import Side


class Gradients:
    """The gradients of a pair, times a weight in each lane, one after the other into a place of vectors.

    Where the weight is 0 they are 0, whatever the pair.
    """

    def __init__(self, pair: Pair, weight: Lanes) -> None:
        self.pair, self.a, self.weight = pair, pair.a, weight
        self.t, self.y = pair.space.tile(), pair.space.tile()
        self.place = pair.space.raw(True)

    def prepare(self) -> None:
        """z, and W + z z^T into w; what p's gradient starts from, L_q^-1 D or E, into x."""
        pair, a = self.pair, self.a
        pair.mean_part()
        if self.from_factors:
            pair.whiten_factors()
            self._from_distance()
            self._square()
        else:
            if pair.has_cov(pair.p):
                pair.factor_matrix(pair.p)
            solve(pair.q.factor, pair.difference(), pair.x)
            solve(pair.q.factor, pair.x.mT, pair.w.mT)
        w = pair.w
        half = a.constant(0.5)
        with a.each(0, pair.n) as i, a.each(0, a.plus(i, 1)) as j:
            mean = w(i, j) if self.from_factors else half * (w(i, j) + w(j, i))
            value = a.plus_product(mean, a.load(pair.z_at(i)), a.load(pair.z_at(j)))
            w.put(value, i, j)
            w.put(value, j, i)

    @property
    def from_factors(self) -> bool:
        """Whether neither side is a covariance."""
        return not self.pair.has_cov(self.pair.p) and not self.pair.has_cov(self.pair.q)

    def _from_distance(self) -> None:
        """The diagonal of E, whatever its columns are, and 0 above it."""
        pair, a = self.pair, self.a
        q, x = pair.q.factor, pair.x
        with a.each(0, pair.n) as j:
            with a.each(0, j) as i:
                x.put(a.constant(0.0), i, j)
            x.put(pair.of_diagonals(j) * q.reciprocal(j), j, j)

    def _square(self) -> None:
        """E + E^T + E E^T into w, its lower triangle."""
        x, w, a = self.pair.x, self.pair.w, self.a

        with a.each(0, self.pair.n) as i, a.each(0, a.plus(i, 1)) as j:
            start = x(i, j) + x(j, i)
            (entry,) = a.fold(0, a.plus(j, 1), [start], lambda k, s: [a.plus_product(s[0], x(i, k), x(j, k))])
            w.put(entry, i, j)

    # Each of these leaves a gradient in the place, and is called in this order.

    def of_means(self, sign: float) -> None:
        """By the mean of p (sign 1) or q (-1)."""
        pair, a = self.pair, self.a
        if sign > 0:
            self._pull()
        with a.each(0, pair.d) as i:
            self._deliver(a.load(pair.z_at(i)), i, sign)

    def _pull(self) -> None:
        """L_q^-T z in the place of z."""
        pair, a = self.pair, self.a
        factor = pair.q.factor
        with a.each(0, pair.n) as count:
            i = a.minus(a.minus(pair.n, 1), count)
            (rest,) = a.fold(
                a.plus(i, 1),
                pair.n,
                [a.load(pair.z_at(i))],
                lambda k, s: [a.less_product(s[0], factor.tile(k, i), a.load(pair.z_at(k)))],
            )
            a.store(rest * factor.reciprocal(i), pair.z_at(i))

    def of_p(self) -> None:
        """By the spread of p."""
        pair, a, y = self.pair, self.a, self.y
        side = pair.p
        solve_transposed(pair.q.factor, pair.x, y)
        if self.from_factors:
            with a.each(0, pair.n) as i:
                y.put(y(i, i) + pair.x(i, i) * side.factor.reciprocal(i), i, i)
            self._of_factor(side, y, 1.0)
            return
        solve(side.factor, y.mT, self.t)
        if side.keyword != "cov":
            self._of_factor(side, self.t.mT, 1.0)
            return
        solve_transposed(side.factor, self.t, y)
        self._of_cov(y, 0.25)

    def of_q(self) -> None:
        """By the spread of q."""
        pair, t = self.pair, self.t
        side = pair.q
        solve_transposed(side.factor, pair.w, t)
        if side.keyword != "cov":
            self._of_factor(side, t, -1.0)
            return
        solve_transposed(side.factor, t.mT, self.y)
        self._of_cov(self.y, -0.25)

    def _of_cov(self, gradient: Tile, scale: float) -> None:
        """Twice the symmetric part, times ``scale``."""
        a, d = self.a, self.pair.d
        with a.each(0, d) as i, a.each(0, d) as j:
            self._deliver(gradient(i, j) + gradient(j, i), a.plus(a.times(i, d), j), scale)

    def _of_factor(self, side: Side, gradient: Tile, sign: float) -> None:
        """The lower triangle of a gradient by a factor, as what the factor was made from."""
        a, d = self.a, self.pair.d
        if side.is_diagonal:
            with a.each(0, d) as i:
                self._deliver(self._by_diagonal(side, gradient(i, i), i), i, sign)
            return
        with a.each(0, d) as j:
            turned = sign_of_column(a, side.raw, d, side.packing, j)
            with a.each(0, d) as i:
                below = a.builder.icmp_signed(">=", i, j)
                if side.packing is None:
                    entry = where_number(turned, -gradient(i, j), gradient(i, j))
                    self._deliver(only_if(below, entry), a.plus(a.times(i, d), j), sign)
                else:
                    with a.builder.if_then(below):
                        entry = where_number(turned, -gradient(i, j), gradient(i, j))
                        self._deliver(entry, packed_place(a, d, side.packing, i, j), sign)

    def _by_diagonal(self, side: Side, by_std: Number, i: Index) -> Number:
        a, std = self.a, side.factor.tile(i, i)
        if side.keyword == "std":
            return by_std
        if side.keyword == "var":
            return a.constant(0.5) * by_std * side.factor.reciprocal(i)
        return by_std * std if side.keyword == "log_std" else a.constant(0.5) * by_std * std

    def _deliver(self, x: Number, m: Index, scale: float) -> None:
        a = self.a
        value = where(self.weight.nonzero(), rounded(x) * (scale * self.weight), 0.0)
        a.put_lanes(value, a.beyond(self.place, a.times(m, BYTES)))
