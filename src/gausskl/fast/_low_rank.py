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
the formulas of ``_low_rank.py`` one level up. So no row is negative, or less exact than it should be.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from . import _loops
from ._lanes import Lanes, fma
from ._loops import address_of
from ._products import OPTIONS, WIDE, cholesky, inner, inverse, mirror, products
from ._terms import _gap, _outside

CHUNK = 256  # dimensions at a time
TILES = 12  # vectors of one number per dimension
PANELS = 6
MATRICES = 5  # sums over the dimensions; the small matrices made of them take the place of the panels
TEMPORARY = 8
SAMPLE = 64  # dimensions that tell which form to try first
TRUSTED = {64: 2.0**17, 32: 2.0**24}  # mass over divergence: 2^-53 times this is the error


def _sqrt(x: Lanes) -> Lanes:
    kind = x.value.type
    function = cgutils.get_or_insert_function(
        x.builder.module, ir.FunctionType(kind, [kind]), f"llvm.sqrt.v{kind.count}f{x.bits}"
    )
    return x._new(x.builder.call(function, [x.value]))


def _none(x: Lanes) -> Lanes:
    return x.as_integers() & 0


def _per_dimension(mean_p: Lanes, var_p: Lanes, mean_q: Lanes, var_q: Lanes) -> tuple[Lanes, ...]:
    """G(c_p, c_q), 1/sqrt(c_q), delta/sqrt(c_q), 1 + x, 1/(1 + x), x, y, s and t."""
    inverse = 1.0 / var_q
    x, ratio, error = (var_p - var_q) * inverse, var_p * inverse, fma(-inverse, var_q, 1.0)
    x, ratio = fma(x, error, x), fma(ratio, error, ratio)
    weight, s = _sqrt(inverse), _sqrt(ratio)
    apart = (mean_p - mean_q) * weight
    marks = _outside(ratio) | _outside(var_q)
    return _gap(x, ratio), weight, apart, ratio, 1.0 / ratio, x, x / ratio, s, x / (1.0 + s), marks


def _near_panels(a: Lanes, c: Lanes, y: Lanes, s: Lanes, t: Lanes) -> tuple[Lanes, ...]:
    """B, y B, and the two factors of J."""
    b = a + c
    return b, y * b, fma(-t, a, c), y * fma(s, a, b), _none(a)


def _weighted(a: Lanes, weight: Lanes) -> tuple[Lanes, Lanes]:
    return a * weight, _none(a)


def _excess(u: Lanes) -> tuple[Lanes, Lanes]:
    """u - log1p(u)."""
    return _gap(u, 1.0 + u), _outside(1.0 + u)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def work_size(d: int, r_p: int, r_q: int) -> int:
    """How many float64 numbers of scratch a kernel needs for these sizes."""
    rank = max(r_p, r_q, 1)
    chunk, size = min(CHUNK, _up(d, WIDE)), _up(rank, WIDE)
    own = max(PANELS * _up(rank, 4) * (chunk + WIDE), TEMPORARY * size * size)
    return WIDE + TILES * chunk + 4 * size + MATRICES * size * size + own


@njit(**OPTIONS)
def _fill(factor, i, first, wide, rank, work, weight, panel, stride):  # type: ignore[no-untyped-def]
    """Columns of a factor as rows, divided by the roots."""
    for j in range(wide):
        scale = work[weight + j]
        for k in range(rank):
            work[panel + k * stride + j] = scale * np.float64(factor[i, first + j, k])


@njit(**OPTIONS)
def _fill_difference(factor_p, factor_q, i_p, i_q, first, wide, r_p, r_q, work, weight, panel, stride):  # type: ignore[no-untyped-def]
    """The same for the difference of two factors, where the narrower one has zeros for what it lacks."""
    both = min(r_p, r_q)
    for j in range(wide):
        scale = work[weight + j]
        for k in range(both):
            change = np.float64(factor_p[i_p, first + j, k]) - np.float64(factor_q[i_q, first + j, k])
            work[panel + k * stride + j] = scale * change
        for k in range(both, r_p):
            work[panel + k * stride + j] = scale * np.float64(factor_p[i_p, first + j, k])
        for k in range(both, r_q):
            work[panel + k * stride + j] = -scale * np.float64(factor_q[i_q, first + j, k])


@njit(**OPTIONS)
def _clear(work, first, count):  # type: ignore[no-untyped-def]
    for k in range(first, first + count):
        work[k] = 0.0


@functools.cache
def kernel(bits: int) -> Any:
    """``kernel(mean_p, factor_p, diag_p, mean_q, factor_q, diag_q, out, work, first, last)``: rows not finite.

    Means and diagonals have shape (n or 1, d or 1), factors (n or 1, d, r), ``out`` (n,); ``work`` is scratch of
    :func:`work_size` numbers. A row that is not trusted, or not finite, becomes NaN.
    """
    per_dimension, near_panels = _loops.elementwise(_per_dimension, 64), _loops.elementwise(_near_panels, 64)
    weighted, excess, total = _loops.elementwise(_weighted, 64), _loops.elementwise(_excess, 64), _loops.total(64)
    trusted = TRUSTED[bits]
    number = _loops.NUMBER[bits]
    unsigned = types.uint64
    tiles_count, panels_count, matrices_count, temporary_count = TILES, PANELS, MATRICES, TEMPORARY

    @njit(**OPTIONS)
    def tile(array, i, first, wide, count, filler, work, target):  # type: ignore[no-untyped-def]
        row = i if array.shape[0] > 1 else 0
        if array.shape[1] > 1:
            for j in range(wide):
                work[target + j] = array[row, first + j]
        else:
            for j in range(wide):
                work[target + j] = array[row, 0]
        for j in range(wide, count):
            work[target + j] = filler

    @njit(**OPTIONS)
    def resembles(work, at, tiles, panels, panel, wide, count, stride, r, matrices):  # type: ignore[no-untyped-def]
        """Whether the first dimensions look like those of a pair for the second form."""
        for j in range(wide):
            if not -0.5 <= work[tiles + j] <= 1.0:
                return False
        _clear(work, matrices, 8)
        for k in range(r):
            for m in range(2):
                row = at + 8 * (panels + m * panel + k * stride)
                products(row, 1, row, 4, 0, count, at + 8 * (matrices + 4 * m), 0, False)
        size, change = work[matrices], work[matrices + 4]
        return change <= max(1.0, 0.25 * size)

    @njit(**OPTIONS)
    def near_sum(work, at, sums, small, size, r, r4, gap_sum):  # type: ignore[no-untyped-def]
        """The second form and its mass, from A^T A, C^T A, C^T C, B^T y B and J."""
        k0, turned, square, by_y, j = sums, sums + size * size, sums + 2 * size * size, sums + 3 * size * size, sums + 4 * size * size
        step = size * size
        factor, low, high, inv = small, small + step, small + 2 * step, small + 3 * step
        first, second, pivots, found = small + 4 * step, small + 5 * step, small + 6 * step, small + 7 * step
        row = 8 * size
        largest = work[found]
        _clear(work, small, 7 * step)
        share = cholesky(work, k0, factor, pivots, r, size)
        if not share > 0.0:
            return np.nan, np.nan, share, low
        inverse(work, factor, low, high, r, size)
        products(at + 8 * high, r4, at + 8 * high, r4, row, size, at + 8 * inv, row, False)
        # tr(C^T P C) - tr(K^-1 C^T C) = tr(K^-1 A^T A C^T C) - |L^-1 A^T C|^2
        products(at + 8 * inv, r4, at + 8 * k0, r4, row, size, at + 8 * first, row, False)
        outside, outside_mass = inner(work, first, square, r, size)
        products(at + 8 * low, r4, at + 8 * turned, r4, row, size, at + 8 * second, row, False)
        inside, _ = inner(work, second, second, r, size)
        cross, cross_mass = inner(work, inv, j, r, size)
        moved, _ = inner(work, inv, square, r, size)
        for i in range(r):
            for m in range(r):
                there, back = turned + i * size + m, turned + m * size + i
                here = i * size + m
                work[factor + here] = (work[there] + work[back]) + (work[square + here] - work[by_y + here])
        _clear(work, first, 2 * step)
        products(at + 8 * low, r4, at + 8 * factor, r4, row, size, at + 8 * first, row, False)
        products(at + 8 * first, r4, at + 8 * low, r4, row, size, at + 8 * second, row, False)
        _clear(work, factor, step)
        if not cholesky(work, second, factor, pivots, r, size) > 0.0:
            return np.nan, np.nan, share, low
        marks = excess((at + 8 * pivots,), (at + 8 * first,), r)
        if unsigned(marks) >> unsigned(62):
            return np.nan, np.nan, share, low
        curved, steep, below = 0.0, 0.0, 0.0
        for i in range(r):
            curved += work[first + i]
            steep += abs(work[pivots + i]) / (1.0 + work[pivots + i])
            for m in range(i):
                below += work[factor + i * size + m] * work[factor + i * size + m]
        curved += below
        moved = np.sqrt(max(moved, 0.0))
        pieces = moved * (2.0 + moved) + largest * (1.0 + moved) * (1.0 + moved)
        value = gap_sum + curved + (outside - inside) + cross
        mass = gap_sum + curved + outside_mass + inside + cross_mass + pieces * (steep + np.sqrt(below))
        return value, mass, share, low

    @njit(**OPTIONS)
    def far_sum(work, at, sums, small, size, r_p, r_q, r4_p, r4_q, gap_sum):  # type: ignore[no-untyped-def]
        """The first form and its mass, from A^T A, B^T A, B^T (1 + x)^-1 B and A^T (1 + x) A."""
        step = size * size
        k0, turned, own, spread = sums, sums + step, sums + 2 * step, sums + 3 * step
        factor, low, high, inv = small, small + step, small + 2 * step, small + 3 * step
        first, pivots, found = small + 4 * step, small + 6 * step, small + 7 * step
        row = 8 * size
        length = work[found + 1]
        _clear(work, small, 7 * step)
        share_p = cholesky(work, own, factor, pivots, r_p, size)
        if not share_p > 0.0:
            return np.nan, np.nan, share_p, low
        log_p, log_q = 0.0, 0.0
        for i in range(r_p):
            log_p += math.log(work[factor + i * size + i])
        share = cholesky(work, k0, factor, pivots, r_q, size)
        if not share > 0.0:
            return np.nan, np.nan, share, low
        for i in range(r_q):
            log_q += math.log(work[factor + i * size + i])
        inverse(work, factor, low, high, r_q, size)
        products(at + 8 * high, r4_q, at + 8 * high, r4_q, row, size, at + 8 * inv, row, False)
        products(at + 8 * low, r4_q, at + 8 * turned, r4_p, row, size, at + 8 * first, row, False)
        inside, _ = inner(work, first, first, max(r_p, r_q), size)
        trace, trace_mass = inner(work, inv, spread, r_q, size)
        value = gap_sum + (length - inside) - trace + 2.0 * (log_q - log_p)
        mass = gap_sum + length + trace_mass + 2.0 * (abs(log_q) + abs(log_p))
        return value, mass, min(share, share_p), low

    @njit(**OPTIONS)
    def divergence(mean_p, factor_p, diag_p, mean_q, factor_q, diag_q, i, work, near):  # type: ignore[no-untyped-def]
        """Twice the divergence of a row, NaN if it is not trusted, and which form it came from.

        ``near`` says which form to use: 1 and 0, or -1 to be found out.
        """
        d, r_p, r_q = factor_p.shape[1], factor_p.shape[2], factor_q.shape[2]
        i_p, i_q = i if factor_p.shape[0] > 1 else 0, i if factor_q.shape[0] > 1 else 0
        r = max(r_p, r_q)
        r4, r4_p, r4_q = (r + 3) // 4 * 4, (r_p + 3) // 4 * 4, (r_q + 3) // 4 * 4
        size = max((r + 7) // 8 * 8, 8)
        chunk = min(256, (d + 7) // 8 * 8)
        stride = chunk + 8
        row, line = 8 * size, 8 * stride
        at = address_of(work)
        tiles = (64 - at % 64) // 8 % 8
        vectors = tiles + tiles_count * chunk
        sums = vectors + 4 * size
        step = size * size
        panels = sums + matrices_count * step
        panel = r4 * stride
        a, c, b, weighted_b, e, f = panels, panels + panel, panels + 2 * panel, panels + 3 * panel, panels + 4 * panel, panels + 5 * panel
        gap, weight, apart = tiles + 4 * chunk, tiles + 5 * chunk, tiles + 6 * chunk
        ratio, reciprocal, x = tiles + 7 * chunk, tiles + 8 * chunk, tiles + 9 * chunk
        y, s, t = tiles + 10 * chunk, tiles + 11 * chunk, tiles + 0 * chunk
        gap_sum, mean_sum, length, largest = 0.0, 0.0, 0.0, 0.0
        _clear(work, vectors, 4 * size + matrices_count * step)
        _clear(work, panels, panels_count * panel)
        for first in range(0, d, chunk):
            wide = min(chunk, d - first)
            count = (wide + 7) // 8 * 8
            if count < chunk and first > 0:
                _clear(work, panels, panels_count * panel)
            tile(mean_p, i, first, wide, count, 0.0, work, tiles)
            tile(diag_p, i, first, wide, count, 1.0, work, tiles + chunk)
            tile(mean_q, i, first, wide, count, 0.0, work, tiles + 2 * chunk)
            tile(diag_q, i, first, wide, count, 1.0, work, tiles + 3 * chunk)
            here = at + 8 * tiles
            marks = per_dimension(
                (here, here + 8 * chunk, here + 16 * chunk, here + 24 * chunk),
                (at + 8 * gap, at + 8 * weight, at + 8 * apart, at + 8 * ratio, at + 8 * reciprocal, at + 8 * x, at + 8 * y, at + 8 * s, at + 8 * t),
                count,
            )
            if unsigned(marks) >> unsigned(62):
                return np.nan, np.nan, 0
            gap_sum += total(at + 8 * gap, count)
            _fill(factor_q, i_q, first, wide, r_q, work, weight, a, stride)
            if near != 0:
                _fill_difference(factor_p, factor_q, i_p, i_q, first, wide, r_p, r_q, work, weight, c, stride)
            if near < 0:
                sample = min(count, 64)
                near = 1 if resembles(work, at, x, a, panel, min(wide, 64), sample, stride, r, vectors) else 0
                _clear(work, vectors, 8)
            products(at + 8 * a, r4_q, at + 8 * a, r4_q, line, count, at + 8 * sums, row, True)
            if near:
                for k in range(r):
                    move = 8 * k * stride
                    near_panels(
                        (at + 8 * a + move, at + 8 * c + move, at + 8 * y, at + 8 * s, at + 8 * t),
                        (at + 8 * b + move, at + 8 * weighted_b + move, at + 8 * e + move, at + 8 * f + move),
                        count,
                    )
                products(at + 8 * c, r4, at + 8 * a, r4_q, line, count, at + 8 * (sums + step), row, False)
                products(at + 8 * c, r4, at + 8 * c, r4, line, count, at + 8 * (sums + 2 * step), row, True)
                products(at + 8 * b, r4, at + 8 * weighted_b, r4, line, count, at + 8 * (sums + 3 * step), row, True)
                products(at + 8 * e, r4, at + 8 * f, r4, line, count, at + 8 * (sums + 4 * step), row, False)
                for j in range(count):
                    largest = max(largest, abs(work[y + j]))
            else:
                _fill(factor_p, i_p, first, wide, r_p, work, weight, b, stride)
                products(at + 8 * b, r4_p, at + 8 * a, r4_q, line, count, at + 8 * (sums + step), row, False)
                for k in range(r_p):
                    move = 8 * k * stride
                    weighted((at + 8 * b + move, at + 8 * reciprocal), (at + 8 * c + move,), count)
                    products(at + 8 * b + move, 1, at + 8 * b + move, 4, 0, count, at + 8 * vectors, 0, False)
                products(at + 8 * b, r4_p, at + 8 * c, r4_p, line, count, at + 8 * (sums + 2 * step), row, True)
                for k in range(r_q):
                    move = 8 * k * stride
                    weighted((at + 8 * a + move, at + 8 * ratio), (at + 8 * e + move,), count)
                products(at + 8 * a, r4_q, at + 8 * e, r4_q, line, count, at + 8 * (sums + 3 * step), row, True)
                length = work[vectors]
            products(at + 8 * apart, 1, at + 8 * a, r4_q, line, count, at + 8 * (vectors + size), row, False)
            weighted((at + 8 * apart, at + 8 * apart), (at + 8 * gap,), count)
            mean_sum += total(at + 8 * gap, count)
        for k in range(matrices_count):
            if k != 1 and not (near == 1 and k == 4):
                mirror(work, sums + k * step, r, size)
        if near:
            work[panels + 7 * step] = largest
            value, mass, share, low = near_sum(work, at, sums, panels, size, r, r4, gap_sum)
        else:
            work[panels + 7 * step + 1] = length
            value, mass, share, low = far_sum(work, at, sums, panels, size, r_p, r_q, r4_p, r4_q, gap_sum)
        inside = 0.0
        for k in range(r_q):
            along = 0.0
            for j in range(k + 1):
                along += work[low + k * size + j] * work[vectors + size + j]
            inside += along * along
        value += mean_sum - inside
        mass += mean_sum
        if not (mass <= share * trusted * value and value < np.inf):
            return np.nan, mass, near
        return value, mass, near

    @njit(**OPTIONS)
    def low_rank(mean_p, factor_p, diag_p, mean_q, factor_q, diag_q, out, work, first, last):  # type: ignore[no-untyped-def]
        not_finite = 0
        for i in range(first, last):
            near = -1
            for _ in range(2):
                value, _mass, near = divergence(mean_p, factor_p, diag_p, mean_q, factor_q, diag_q, i, work, near)
                if value == value:
                    break
                near = 1 - near
            out[i] = 0.5 * value
            if not abs(out[i]) < np.inf:
                not_finite += 1
        return not_finite

    vector = types.Array(number, 2, "A", readonly=True)
    matrix = types.Array(number, 3, "A", readonly=True)
    written, scratch = types.Array(number, 1, "A"), types.Array(types.float64, 1, "C")
    return low_rank, types.int64(
        vector, matrix, vector, vector, matrix, vector, written, scratch, types.int64, types.int64
    )
