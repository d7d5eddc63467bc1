"""Triangular solves for stacks: the library's own where it has one, matrix products elsewhere.

Large matrices are worked off in blocks of columns, so that what is known to be zero, or by symmetry, is not computed.
How a matrix is cut depends on its size alone.
"""

from __future__ import annotations

from typing import Any

from .._checks import broadcast_shapes
from .libraries import facts, name_of
from .linalg import cholesky, identities, matmul, nan_unless, total, transpose
from .namespace import can_be_read

Array = Any

BASE = 32  # rows of a block on the diagonal that is applied as its inverse
COLUMNS = 8  # blocks of columns that a large matrix is cut into


def solve_tril(factor: Array, b: Array, *, xp: Any) -> Array:
    """Solve ``factor @ x = b`` for lower triangular factors; batch axes broadcast."""
    return Triangle(factor, xp=xp).solve(b)


def factor_of_definite(a: Array, *, xp: Any) -> Array:
    """Lower Cholesky factors, NaN where a matrix cannot be told from a singular one.

    A pivot is what is left of an entry of the diagonal, and rounding alone can leave (d + 1) eps of that entry. What
    rounding did to the rows before arrives there too, by the squares of a row of the factor's inverse, in units in
    which the diagonal is 1. That is looked at where some pivot is small.
    """
    factor = cholesky(a, xp=xp)
    root, variance = xp.linalg.diagonal(factor), xp.linalg.diagonal(a)
    eps = float(xp.finfo(a.dtype).eps)
    least = (a.shape[-1] + 1) * eps
    valid = xp.all(root * root > least * variance, axis=-1)
    read = facts(xp).reads_freely and can_be_read(valid)
    if not read or bool(xp.any(root * root < eps ** (1 / 3) * variance)):
        inverse = solve_tril(factor, identities(a.shape[-1], factor, xp=xp), xp=xp) * xp.sqrt(variance)[..., None, :]
        valid = valid & xp.all(least * total(inverse * inverse, xp=xp) < 1, axis=-1)
    if can_be_read(valid) and bool(xp.all(valid)):
        return factor
    return nan_unless(valid[..., None, None], factor, xp=xp)


class Triangle:
    """A stack of lower triangular factors, ready to solve with any block of theirs that stands on the diagonal."""

    def __init__(self, factor: Array, *, xp: Any) -> None:
        self.factor, self.xp = factor, xp
        self.own = _own_solver(xp)
        self.scale: Array = None
        self.blocks: list[tuple[Array, Array]] = []
        if self.own is None:
            self.scale = xp.linalg.diagonal(factor)[..., None]
            self.blocks = _inverted_blocks(factor / self.scale, xp=xp)

    def solve(self, b: Array, start: int = 0, stop: int | None = None) -> Array:
        """factor[start:stop, start:stop]^-1 @ b; ``start`` and an inner ``stop`` are multiples of ``BASE``."""
        stop = self.factor.shape[-1] if stop is None else stop
        if self.own is not None:
            return self.own(self.factor[..., start:stop, start:stop], b)
        return self._substitute(b, start, stop)

    def _substitute(self, b: Array, start: int, stop: int) -> Array:
        """Forward substitution by halves, down to blocks whose inverses are at hand.

        One step of refinement makes good what an inverse loses against substitution. What overflows stays infinite.
        """
        xp = self.xp
        if stop - start <= BASE:
            block, inverse = self.blocks[start // BASE]
            b = b / self.scale[..., start:stop, :]
            x = inverse @ b
            x = x + inverse @ (b - block @ x)
            return xp.where(xp.abs(b) == xp.inf, b, x)
        half = -(-(stop - start) // (2 * BASE)) * BASE
        middle = start + half
        top = self._substitute(b[..., :half, :], start, middle)
        rest = b[..., half:, :] - self.factor[..., middle:stop, start:middle] @ top
        return _above(top, self._substitute(rest, middle, stop), xp=self.xp)

    def solve_lower(self, b: Array) -> list[Array]:
        """factor^-1 @ b for a lower triangular ``b``: blocks of columns, each from the diagonal down."""
        return [self.solve(b[..., start:, start:stop], start) for start, stop in self._columns(b.shape[-1])]

    def congruent(self, b: Array) -> Array:
        """factor^-1 @ b @ factor^-T, symmetric, for a symmetric ``b``.

        Where ``b`` is smaller than the factor, with the leading part of that. Of the product with one inverse, what
        stands on and above the diagonal is enough: what is missing for the second one has been found in the columns
        before, as their rows.
        """
        xp, size = self.xp, b.shape[-1]
        blocks = self._columns(size)
        upper = [self.solve(transpose(b[..., start:stop, :stop], xp=xp), 0, stop) for start, stop in blocks]
        columns: list[Array] = []
        for k, (start, stop) in enumerate(blocks):
            rest = xp.concat([transpose(x[..., start:stop, :], xp=xp) for x in upper[k:]], axis=-2)
            if not columns:
                columns.append(_mirrored(self.solve(rest, start, size), xp=xp))
                continue
            left = xp.concat([x[..., start:stop, :] for x in columns], axis=-1)
            known = matmul(left, transpose(self.factor[..., start:size, :start], xp=xp), xp=xp)
            column = _mirrored(self.solve(rest - transpose(known, xp=xp), start, size), xp=xp)
            columns.append(_above(transpose(left, xp=xp), column, xp=xp))
        return xp.concat(columns, axis=-1)

    def _columns(self, size: int) -> list[tuple[int, int]]:
        """Where blocks of columns start and stop: one block of all where a solver is compiled for the whole."""
        width = -(-size // (COLUMNS * BASE)) * BASE if facts(self.xp).small_solves else size
        return [(start, min(start + width, size)) for start in range(0, size, max(width, 1))]


def _mirrored(column: Array, *, xp: Any) -> Array:
    """A block of columns of a symmetric matrix, from the diagonal down, the rounding of its square part averaged."""
    width = column.shape[-1]
    square = column[..., :width, :]
    square = square + 0.5 * (transpose(square, xp=xp) - square)
    return square if column.shape[-2] == width else _above(square, column[..., width:, :], xp=xp)


def _inverted_blocks(factor: Array, *, xp: Any) -> list[tuple[Array, Array]]:
    """The blocks on the diagonal of unit factors, each with its inverse; those of equal size are inverted at once."""
    size = factor.shape[-1]
    starts = range(0, size, BASE)
    stops = [min(k + BASE, size) for k in starts]
    blocks = [factor[..., k:stop, k:stop] for k, stop in zip(starts, stops, strict=True)]
    whole = size // BASE
    inverses = []
    if whole:
        stack = _inverse(xp.stack(blocks[:whole], axis=-3), xp=xp)
        inverses = [stack[..., k, :, :] for k in range(whole)]
    inverses += [_inverse(block, xp=xp) for block in blocks[whole:]]
    return list(zip(blocks, inverses, strict=True))


def _inverse(factor: Array, *, xp: Any) -> Array:
    """Inverses of small lower triangular matrices of unit diagonal, by halves."""
    size = factor.shape[-1]
    if size == 1:
        return factor
    half = size // 2
    if 2 * half == size:
        both = _inverse(xp.stack([factor[..., :half, :half], factor[..., half:, half:]]), xp=xp)
        first, second = both[0, ...], both[1, ...]
    else:
        first, second = _inverse(factor[..., :half, :half], xp=xp), _inverse(factor[..., half:, half:], xp=xp)
    below = -(second @ (factor[..., half:, :half] @ first))
    top = xp.concat([first, xp.zeros_like(factor[..., :half, half:])], axis=-1)
    return xp.concat([top, xp.concat([below, second], axis=-1)], axis=-2)


def _own_solver(xp: Any) -> Any:
    """The library's own solver, if it has one."""
    name = name_of(xp)
    if name == "torch":
        import torch

        return lambda factor, b: torch.linalg.solve_triangular(factor, b, upper=False)
    if name == "tensorflow":
        return xp.linalg.triangular_solve
    if name not in ("jax", "cupy"):
        return None
    if name == "jax":
        from jax.scipy.linalg import solve_triangular
    else:
        from cupyx.scipy.linalg import solve_triangular

    def solve(factor: Array, b: Array) -> Array:
        batch = broadcast_shapes(factor.shape[:-2], b.shape[:-2])
        factor = xp.broadcast_to(factor, (*batch, *factor.shape[-2:]))
        b = xp.broadcast_to(b, (*batch, *b.shape[-2:]))
        if 0 in b.shape:  # CuPy takes no empty stack
            return xp.zeros_like(b)
        return solve_triangular(factor, b, lower=True)

    return solve


def _above(top: Array, bottom: Array, *, xp: Any) -> Array:
    """One stack of matrices above another; batch axes broadcast."""
    if top.shape[:-2] == bottom.shape[:-2]:
        return xp.concat([top, bottom], axis=-2)
    batch = broadcast_shapes(top.shape[:-2], bottom.shape[:-2])
    return xp.concat([xp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (top, bottom)], axis=-2)
