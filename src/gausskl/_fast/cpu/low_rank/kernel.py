r"""The compiled pass over low-rank pairs: the divergence from sums over the dimensions, and algebra of small matrices.

With A and B the factors of q and p divided by the roots of c_q, x = (c_p - c_q)/c_q, K = I + A^T A = L L^T and
P = cov_q^-1 in these coordinates, the determinant lemma says

    2 KL = sum(x - log1p(x)) + tr(B^T P B) - tr(K^-1 A^T diag(1 + x) A) + log det K - log det(I + B^T diag(1 + x)^-1 B).

That is right far from q. Near q its terms cancel. There, with C = B - A taken before anything is divided, all that is
of first order drops out by algebra, and each term left is of second order in C and x:

    2 KL = sum(x - log1p(x)) + tr(H) - log det(I + H) + tr(C^T P C) - tr(K^-1 C^T C) + tr(K^-1 J),
    H = L^-1 (A^T C + C^T A + C^T C - B^T diag(y) B) L^-T,   y = x/(1 + x),
    J = (C - t A)^T diag(y) (B + s A),   s = sqrt(1 + x),   t = s - 1.

Both are sums of signed terms. Beside the sum stands its mass, the sum of the sizes of what was added, which bounds the
rounding error. A row whose mass is out of proportion to its divergence, in both forms, becomes NaN, and is computed by
the formulas of ``_formulas/low_rank.py``. So no row is negative, or less exact than it should be.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import njit, types

from ..compiler import OPTIONS, compiled
from ..simd import loops
from ..simd.loops import address_of, strides_of
from . import terms
from .algebra import WIDE, along, cholesky, clear, inner, inverse, mirror, not_inlined, products, summed, turned

CHUNK = 256  # dimensions at a time
VECTORS = 15  # vectors of one number per dimension
PANELS = 6
MATRICES = 11  # five sums over the dimensions, and what is made of them
TRUSTED = {64: 2.0**4, 32: 2.0**24}  # mass over divergence: 2^-53 times this is half of the error, roughly


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def work_size(d: int, r_p: int, r_q: int) -> int:
    """How many float64 numbers of scratch a kernel needs for these sizes."""
    rank = max(r_p, r_q, 1)
    chunk, size = min(CHUNK, _up(d, WIDE)), _up(rank, WIDE)
    return WIDE + VECTORS * chunk + 3 * size + MATRICES * size * size + PANELS * _up(rank, 4) * (chunk + WIDE)


@functools.cache
def forward(bits: int) -> Any:
    """``kernel(mean_p, factor_p, diag_p, mean_q, factor_q, diag_q, out, work, first, last)``: rows not finite.

    Means and diagonals have shape (n or 1, d or 1), factors (n or 1, d, r), ``out`` (n,); ``work`` is scratch of
    :func:`work_size` numbers. A row that is not trusted, or not finite, becomes NaN.
    """
    per_dimension, sizes, excess = along(terms.per_dimension), along(terms.sizes), along(terms.excess)
    near_panels, far_panels, transpose = along(terms.near_panels), along(terms.far_panels), turned(bits)
    get, put, read = loops.get(64), loops.put(64), loops.get(bits)
    trusted, most = TRUSTED[bits], CHUNK
    number = loops.NUMBER[bits]
    unsigned = types.uint64

    @compiled(bits)
    def tile(base, strides, i, first, wide, count, filler, target):  # type: ignore[no-untyped-def]
        not_inlined()
        by_row, step = strides
        source = base + i * by_row + first * step
        for j in range(wide):
            put(float(read(source + j * step)), target + 8 * j)
        for j in range(wide, count):
            put(filler, target + 8 * j)

    @njit(**OPTIONS)
    def prepared(k0, step, pivots, r, row):  # type: ignore[no-untyped-def]
        """L^-1, its transpose, K^-1 and L^-1 A^T D; D is C or B. Returns the least share of a pivot."""
        not_inlined()
        factor, low, high, inv = k0 + 5 * step, k0 + 6 * step, k0 + 7 * step, k0 + 8 * step
        r4 = (r + 3) // 4 * 4
        share = cholesky(k0, factor, pivots, r, row)
        inverse(factor, low, high, r, row)
        products(high, r4, high, r4, row, row // 8, inv, row, False)
        products(low, r4, k0 + step, r4, row, row // 8, k0 + 9 * step, row, False)
        return share

    @njit(**OPTIONS)
    def near_terms(k0, step, pivots, r, row, largest):  # type: ignore[no-untyped-def]
        """The second form and its mass, but for the sum over the dimensions."""
        not_inlined()
        cross, own, spread, mixed = k0 + step, k0 + 2 * step, k0 + 3 * step, k0 + 4 * step
        factor, low, change, inv = k0 + 5 * step, k0 + 6 * step, k0 + 7 * step, k0 + 8 * step
        one, two, logs = k0 + 9 * step, k0 + 10 * step, pivots + row
        r4, size = (r + 3) // 4 * 4, row // 8
        # tr(C^T P C) - tr(K^-1 C^T C) = tr(K^-1 A^T A C^T C) - |L^-1 A^T C|^2
        products(inv, r4, k0, r4, row, size, two, row, False)
        outside, outside_mass = inner(two, own, r, row)
        inside, _ = inner(one, one, r, row)
        third, third_mass = inner(inv, mixed, r, row)
        moved, aligned = math.sqrt(max(inner(inv, own, r, row)[0], 0.0)), 0.0
        for k in range(r):
            aligned += get(two + k * (row + 8))
            for j in range(r):
                here, there = k * row + 8 * j, j * row + 8 * k
                both = get(cross + here) + get(cross + there)
                put(both + (get(own + here) - get(spread + here)), change + here)
        aligned = math.sqrt(min(max(aligned, 0.0), 1.0))
        clear(one, 2 * size * size)
        products(low, r4, change, r4, row, size, one, row, False)
        products(one, r4, low, r4, row, size, two, row, False)
        positive = cholesky(two, factor, pivots, r, row) > 0.0
        marks = excess((pivots,), (logs,), size)
        if not positive or unsigned(marks) >> unsigned(62):
            return np.nan, np.nan
        curved, steep, below = 0.0, 0.0, 0.0
        for k in range(r):
            pivot = get(pivots + 8 * k)
            curved += get(logs + 8 * k)
            steep += abs(pivot) / (1.0 + pivot)
            for j in range(k):
                entry = get(factor + k * row + 8 * j)
                below += entry * entry
        curved += below
        # What H was added up from, and how an error of H is felt.
        pieces = moved * (2.0 * aligned + moved) + largest * (aligned + moved) * (aligned + moved)
        mass = curved + outside_mass + inside + third_mass + pieces * (steep + math.sqrt(below))
        return curved + (outside - inside) + third, mass

    @njit(**OPTIONS)
    def far_terms(k0, step, pivots, r_p, r, row, length):  # type: ignore[no-untyped-def]
        """The first form and its mass, but for the sum over the dimensions, and the least share of a pivot of p."""
        not_inlined()
        own, spread, factor, inv, one = k0 + 2 * step, k0 + 3 * step, k0 + 5 * step, k0 + 8 * step, k0 + 9 * step
        log_q, log_p = 0.0, 0.0
        for k in range(r):
            log_q += math.log(get(factor + k * (row + 8)))
        share = cholesky(own, factor, pivots, r_p, row)
        for k in range(r_p):
            log_p += math.log(get(factor + k * (row + 8)))
        inside, _ = inner(one, one, r, row)
        trace, trace_mass = inner(inv, spread, r, row)
        value = (length - inside) - trace + 2.0 * (log_q - log_p)
        # A logarithm of a number near 1 is right to a unit in the last place of 1.
        return value, length + trace_mass + 2.0 * (log_q + log_p) + (r + r_p), share

    @compiled(bits)
    def low_rank(mean_p, factor_p, diag_p, mean_q, factor_q, diag_q, out, work, first_row, last_row):  # type: ignore[no-untyped-def]
        d, r_p, r_q = factor_p.shape[1], factor_p.shape[2], factor_q.shape[2]
        r = max(r_p, r_q)
        r4, r4_p, r4_q = (r + 3) // 4 * 4, (r_p + 3) // 4 * 4, (r_q + 3) // 4 * 4
        size = max((r + 7) // 8 * 8, 8)
        parts = (d + most - 1) // most
        chunk = ((d + parts - 1) // parts + 7) // 8 * 8
        # Addresses of everything.
        vector, line, row = 8 * chunk, 8 * (chunk + 8), 8 * size
        at_p, at_q = address_of(factor_p), address_of(factor_q)
        given = (address_of(work) + 63) // 64 * 64
        weight, apart, apart2, ratio = given + 4 * vector, given + 5 * vector, given + 6 * vector, given + 7 * vector
        reciprocal, y, s, t = given + 8 * vector, given + 9 * vector, given + 10 * vector, given + 11 * vector
        gap, squares = given + 12 * vector, given + 13 * vector
        mean = given + 15 * vector
        pivots = mean + row
        step = size * row
        k0 = mean + 3 * row
        cross, own, spread, mixed = k0 + step, k0 + 2 * step, k0 + 3 * step, k0 + 4 * step
        low = k0 + 6 * step
        a = k0 + 11 * step
        panel = r4 * line
        b, c, e, f, g = a + panel, a + 2 * panel, a + 3 * panel, a + 4 * panel, a + 5 * panel
        clear(a, 6 * r4 * (chunk + 8))
        not_finite = 0
        for i in range(first_row, last_row):
            i_p, i_q = i if factor_p.shape[0] > 1 else 0, i if factor_q.shape[0] > 1 else 0
            form, value = -1, np.nan  # not known yet, or 1 for the near form and 0 for the far one
            for _ in range(2):
                gaps, means, length, largest = 0.0, 0.0, 0.0, 0.0
                clear(mean, 3 * size + 11 * size * size)
                marks = 0
                for first in range(0, d, chunk):
                    wide = min(chunk, d - first)
                    count = (wide + 7) // 8 * 8
                    tile(address_of(mean_p), strides_of(mean_p), i, first, wide, count, 0.0, given)
                    tile(address_of(diag_p), strides_of(diag_p), i, first, wide, count, 1.0, given + vector)
                    tile(address_of(mean_q), strides_of(mean_q), i, first, wide, count, 0.0, given + 2 * vector)
                    tile(address_of(diag_q), strides_of(diag_q), i, first, wide, count, 1.0, given + 3 * vector)
                    marks |= per_dimension(
                        (given, given + vector, given + 2 * vector, given + 3 * vector),
                        (weight, apart, apart2, ratio, reciprocal, y, s, t, gap),
                        count,
                    )
                    gaps += summed(gap, count)
                    means += summed(apart2, count)
                    for j in range(count):
                        largest = max(largest, abs(get(y + 8 * j)))
                    by = factor_q.strides
                    transpose(at_q + i_q * by[0] + first * by[1], by[1], by[2], wide, r_q, a, line)
                    by = factor_p.strides
                    transpose(at_p + i_p * by[0] + first * by[1], by[1], by[2], wide, r_p, b, line)
                    for k in range(r):
                        for j in range(wide, count):
                            put(0.0, a + k * line + 8 * j)
                            put(0.0, b + k * line + 8 * j)
                        if k >= r_q:
                            clear(a + k * line, count)
                        if k >= r_p:
                            clear(b + k * line, count)
                    clear(squares, 2 * chunk)
                    if form < 0:
                        other = squares + vector
                        for k in range(r):
                            sizes((a + k * line, b + k * line, weight, squares, other), (squares, other), count)
                        change = summed(other, count)
                        form = 1 if largest <= 0.5 and change <= max(1.0, 0.25 * summed(squares, count)) else 0
                        clear(squares, chunk)
                    for k in range(r):
                        move = k * line
                        if form:
                            near_panels(
                                (a + move, b + move, weight, y, s, t),
                                (a + move, b + move, c + move, e + move, f + move, g + move),
                                count,
                            )
                        else:
                            far_panels(
                                (a + move, b + move, weight, ratio, reciprocal, squares),
                                (a + move, b + move, e + move, f + move, squares),
                                count,
                            )
                    length += summed(squares, count)
                    products(a, r4_q, a, r4_q, line, count, k0, row, True)
                    products(apart, 1, a, r4_q, line, count, mean, row, False)
                    if form:
                        products(c, r4, a, r4_q, line, count, cross, row, False)
                        products(c, r4, c, r4, line, count, own, row, True)
                        products(b, r4_p, e, r4_p, line, count, spread, row, True)
                        products(f, r4, g, r4, line, count, mixed, row, False)
                    else:
                        products(b, r4_p, a, r4_q, line, count, cross, row, False)
                        products(b, r4_p, f, r4_p, line, count, own, row, True)
                        products(a, r4_q, e, r4_q, line, count, spread, row, True)
                if unsigned(marks) >> unsigned(62):
                    break  # out of range

                mirror(k0, r, row)
                mirror(own, r, row)
                mirror(spread, r, row)
                share = prepared(k0, step, pivots, r, row)
                if form:
                    value, mass = near_terms(k0, step, pivots, r, row, largest)
                else:
                    value, mass, share_p = far_terms(k0, step, pivots, r_p, r, row, length)
                    share = min(share, share_p)
                value += gaps
                mass += gaps
                for k in range(r_q):
                    z = 0.0
                    for j in range(k + 1):
                        z += get(low + k * row + 8 * j) * get(mean + 8 * j)
                    means -= z * z
                    mass += z * z
                value += means
                mass += abs(means)
                if share > 0.0 and mass <= share * trusted * value and value < np.inf:
                    break
                form, value = 1 - form, np.nan
            out[i] = 0.5 * value
            if not abs(out[i]) < np.inf:
                not_finite += 1
        return not_finite

    vectors = types.Array(number, 2, "A", readonly=True)
    factors = types.Array(number, 3, "A", readonly=True)
    written, scratch = types.Array(number, 1, "A"), types.Array(types.float64, 1, "C")
    arguments = vectors, factors, vectors, vectors, factors, vectors, written, scratch
    return low_rank, types.int64(*arguments, types.int64, types.int64)
