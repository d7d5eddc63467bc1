"""Triangular solves for stacks: the library's own where it has one, matrix products elsewhere.

Large matrices are worked off in blocks of columns, so that what is known to be zero, or by symmetry, is not computed.
How a matrix is cut depends on its size alone.
"""

from __future__ import annotations

from typing import Any

from ._checks import broadcast_shapes
from ._linalg import matmul
from ._namespace import library

Array = Any

BASE = 32  # rows of a block on the diagonal that is applied as its inverse
COLUMNS = 8  # blocks of columns that a large matrix is cut into


def solve_tril(factor: Array, b: Array, *, xp: Any) -> Array:
    """Solve ``factor @ x = b`` for lower triangular factors; batch axes broadcast."""
    return Triangle(factor, xp=xp).solve(b)


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

        One step of refinement makes good what an inverse loses against substitution.
        """
        if stop - start <= BASE:
            block, inverse = self.blocks[start // BASE]
            b = b / self.scale[..., start:stop, :]
            x = matmul(inverse, b, xp=self.xp)
            return x + matmul(inverse, b - matmul(block, x, xp=self.xp), xp=self.xp)
        half = -(-(stop - start) // (2 * BASE)) * BASE
        middle = start + half
        top = self._substitute(b[..., :half, :], start, middle)
        rest = b[..., half:, :] - matmul(self.factor[..., middle:stop, start:middle], top, xp=self.xp)
        return _above(top, self._substitute(rest, middle, stop), xp=self.xp)


def _inverted_blocks(factor: Array, *, xp: Any) -> list[tuple[Array, Array]]:
    """The blocks on the diagonal of unit factors, each with its inverse; those of equal size are inverted at once."""
    size = factor.shape[-1]
    starts = range(0, size, BASE)
    blocks = [factor[..., k : k + BASE, k : k + BASE] for k in starts]
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
    below = -matmul(second, matmul(factor[..., half:, :half], first, xp=xp), xp=xp)
    top = xp.concat([first, xp.zeros_like(factor[..., :half, half:])], axis=-1)
    return xp.concat([top, xp.concat([below, second], axis=-1)], axis=-2)


def _own_solver(xp: Any) -> Any:
    """The library's own solver, if it has one."""
    name = library(xp)
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
        return solve_triangular(factor, b, lower=True)

    return solve


def _above(top: Array, bottom: Array, *, xp: Any) -> Array:
    """One stack of matrices above another; batch axes broadcast."""
    batch = broadcast_shapes(top.shape[:-2], bottom.shape[:-2])
    return xp.concat([xp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (top, bottom)], axis=-2)
