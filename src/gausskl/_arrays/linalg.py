"""Cholesky, products and sums for stacks: the library's own where it is good, plain array API elsewhere.

A matrix that is not positive definite gives NaN in its own element of the stack and in no other.
"""

from __future__ import annotations

from typing import Any

from .._checks import broadcast_shapes
from .libraries import facts, name_of
from .namespace import can_be_read, device_of

Array = Any


def nan_unless(valid: Array, x: Array, *, xp: Any) -> Array:
    """``x`` where it is valid; NaN elsewhere, in value and gradient."""
    return xp.where(valid, xp.astype(valid, x.dtype), xp.nan) * x


def matmul(a: Array, b: Array, *, xp: Any) -> Array:
    """Matrix product in the full precision of the dtype."""
    if name_of(xp) == "jax":
        return xp.matmul(a, b, precision="highest")
    if name_of(xp) == "torch":
        return _product_of_tensors(a, b)
    return xp.matmul(a, b)


def _product_of_tensors(a: Array, b: Array) -> Array:
    """Matrix product out of the reach of autocast, which would round the factors."""
    import torch

    kind = a.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return _product_of_tensors(a, b)
    if a.ndim == b.ndim == 2:
        return torch.matmul(a[None, ...], b[None, ...])[0, ...]  # the routine for stacks, and so its bits
    return torch.matmul(a, b)


def cholesky(a: Array, *, xp: Any) -> Array:
    """Lower Cholesky factors of a stack of matrices, NaN where a matrix is not positive definite.

    LAPACK takes up to twice its time for matrices whose columns all lie in the same few lines of the cache: those whose
    size is a power of two, from some size on.
    """
    size = a.shape[-1]
    if size >= facts(xp).bad_stride and size & (size - 1) == 0:
        return _cholesky(_bordered(a, 8, xp=xp), xp=xp)[..., :size, :size]
    return _cholesky(a, xp=xp)


def _bordered(a: Array, more: int, *, xp: Any) -> Array:
    """The matrices with some rows and columns more, those of the identity."""
    zeros = xp.zeros_like(a[..., :more, :])
    corner = xp.astype(eye_mask(more, a, xp=xp), a.dtype) + zeros[..., :more]
    upper = xp.concat([a, transpose(zeros, xp=xp)], axis=-1)
    return xp.concat([upper, xp.concat([zeros, corner], axis=-1)], axis=-2)


def _cholesky(a: Array, *, xp: Any) -> Array:
    name = name_of(xp)
    if name == "torch":
        import torch

        factor, info = torch.linalg.cholesky_ex(a)
        if can_be_read(info) and not bool(torch.any(info)):
            return factor
        return nan_unless((info == 0)[..., None, None], factor, xp=xp)
    if name in ("jax", "tensorflow"):
        return xp.linalg.cholesky(a)
    if name == "cupy":
        factor = xp.linalg.cholesky(a)
        positive = xp.all(xp.linalg.diagonal(factor) > 0, axis=-1)
        return nan_unless(positive[..., None, None], factor, xp=xp)
    return _cholesky_by_element(a, xp=xp)


def _cholesky_by_element(a: Array, *, xp: Any) -> Array:
    """For libraries that refuse a whole stack because of one element: split the stack until it is found."""
    try:
        return xp.linalg.cholesky(a)
    except Exception as error:
        if type(error).__name__ != "LinAlgError":
            raise
    if a.ndim == 2:
        return xp.full(a.shape, xp.nan, dtype=a.dtype, device=a.device)
    stack = xp.reshape(a, (-1, *a.shape[-2:]))
    if stack.shape[0] == 1:
        return xp.full(a.shape, xp.nan, dtype=a.dtype, device=a.device)
    half = stack.shape[0] // 2
    parts = [_cholesky_by_element(part, xp=xp) for part in (stack[:half, ...], stack[half:, ...])]
    return xp.reshape(xp.concat(parts, axis=0), a.shape)


LINE = 16  # numbers of float32 in a line of the cache


def qr(a: Array, *, xp: Any) -> tuple[Array, Array]:
    """Orthonormal basis and triangular factor of a stack of tall matrices.

    LAPACK as torch has it rounds otherwise where a matrix starts elsewhere in a line of the cache. Rows of zeros, which
    change nothing, make each matrix as long as some lines.
    """
    rows = a.shape[-2]
    missing = -rows % LINE if facts(xp).bits_by_layout else 0
    if missing:
        zeros = xp.zeros_like(a[..., :1, :])
        a = xp.concat([a, xp.broadcast_to(zeros, (*a.shape[:-2], missing, a.shape[-1]))], axis=-2)
    basis, triangle = xp.linalg.qr(a)
    return basis[..., :rows, :], triangle


def eye_mask(size: int, like: Array, *, xp: Any) -> Array:
    """Boolean identity matrix on the device of ``like``."""
    index = xp.arange(size, device=device_of(like, xp=xp))
    return index[:, None] == index[None, :]


def below_mask(like: Array, *, xp: Any) -> Array:
    """Boolean matrix, true strictly below the diagonal, for the last two axes of ``like`` and on its device."""
    row, column = (xp.arange(size, device=device_of(like, xp=xp)) for size in like.shape[-2:])
    return row[:, None] > column[None, :]


def identities(size: int, like: Array, *, xp: Any) -> Array:
    """An identity matrix for each element of the batch of ``like``, a stack of matrices."""
    identity = xp.astype(eye_mask(size, like, xp=xp), like.dtype)
    return xp.broadcast_to(identity, (*sizes(like, xp=xp)[:-2], size, size))


def sizes(x: Array, *, xp: Any) -> tuple[Any, ...]:
    """Shape of an array; sizes that only the run will tell are there as symbols that can be part of a new shape."""
    return xp.sizes(x) if name_of(xp) == "tensorflow" else tuple(x.shape)


def transpose(x: Array, *, xp: Any) -> Array:
    """Swap the last two axes."""
    return xp.matrix_transpose(x)


def same_shape(*arrays: Array, xp: Any) -> list[Array]:
    """The arrays as they are, except on JAX, where they are broadcast.

    XLA turns division by a broadcast array into multiplication by a reciprocal, so that a row shared by a batch
    would not give the bits that it gives alone.
    """
    return list(xp.broadcast_arrays(*arrays)) if name_of(xp) == "jax" else list(arrays)


def half_square_total(z: Array, *, xp: Any) -> Array:
    """Half the sum of squares over the last axis; infinite where an entry is, whatever came of the others."""
    overflow = xp.any(xp.abs(z) == xp.inf, axis=-1)
    return xp.where(overflow, xp.inf, total((0.5 * z) * z, xp=xp))


def flat(x: Array, *, xp: Any) -> Array:
    """The last two axes as one."""
    return xp.reshape(x, (*sizes(x, xp=xp)[:-2], x.shape[-2] * x.shape[-1]))


def beside(*matrices: Array, xp: Any) -> Array:
    """The columns of several stacks of matrices side by side; batch axes broadcast."""
    together = xp.broadcast_shapes if name_of(xp) == "tensorflow" else broadcast_shapes
    batch = together(*(sizes(matrix, xp=xp)[:-2] for matrix in matrices))
    return xp.concat([xp.broadcast_to(matrix, (*batch, *matrix.shape[-2:])) for matrix in matrices], axis=-1)


def total_of_matrix(x: Array, *, xp: Any) -> Array:
    """Sum over the last two axes, by halves."""
    return total(flat(x, xp=xp), xp=xp)


def total(x: Array, *, xp: Any) -> Array:
    """Sum over the last axis by halves.

    The order of the additions depends on the length of the axis alone, so the same row gives the same bits in
    any batch, and the rounding error grows with the logarithm of the length. XLA sums in such a tree by itself.
    """
    if facts(xp).sums_in_a_tree:
        return xp.sum(x, axis=-1)
    odd = []
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        if x.shape[-1] % 2:
            odd.append(x[..., -1])
        x = x[..., :half] + x[..., half : 2 * half]
    result = x[..., 0] if x.shape[-1] else xp.sum(x, axis=-1)
    for last in odd:
        result = result + last
    return result
