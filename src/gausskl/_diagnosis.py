"""The second look: when a result is not finite, find the value that made it so and name it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _namespace
from ._checks import asymmetry
from ._pairs import packed_positions

Array = Any

POSITIVE = {
    "std": "a std must be > 0; a ReLU output can be 0, softplus cannot",
    "var": "a variance must be > 0; a ReLU output can be 0, softplus cannot",
    "cov_diag": "the diagonal added to a covariance of low rank must be > 0",
}
LOGARITHM = "a logarithm must be finite; exp(log_std) = 0 would be a std of 0"
SYMMETRY = "a {name} must be symmetric; to drop a difference that you can explain, pass ({name} + {name}.T) / 2"
DEFINITE = (
    "the matrix is not positive definite{}; if it should be, add a small multiple of the identity to it yourself, or "
    "pass a factor as scale_tril"
)
BLOCK = 64  # matrices that are looked at together: one by one takes much longer for small ones


def judge(result: Array, p: Any, q: Any, precise: bool = False) -> None:
    """Raise ValueError naming the first bad value if the result is not finite; a true overflow passes.

    ``precise``: a matrix that only the rounding of float64 keeps from being positive definite is not to blame.
    """
    values = _namespace.to_numpy(result)
    if np.isfinite(values).all():
        return
    for side, gaussian in (("p", p), ("q", q)):
        for complaint in _complaints(gaussian, precise):
            raise ValueError(f"{side}: {complaint}")
    if np.isnan(values).any():
        where = _index(np.argwhere(np.isnan(values))[0])
        better = "a factor as scale_tril" if values.dtype == np.float64 else "float64, or a factor as scale_tril"
        raise ValueError(
            f"the divergence{where} cannot be computed in {values.dtype}, though no single value is bad: the spreads "
            f"are too close to singular or too far apart for it; use {better}"
        )


def _complaints(gaussian: Any, precise: bool) -> Iterator[str]:
    """Sentences about what is wrong with a Gaussian's values, the first one first."""
    arrays = {name: _namespace.to_numpy(array) for name, array in gaussian.spread.items() if name != "packing"}
    for name, array in {"mean": _namespace.to_numpy(gaussian.mean), **arrays}.items():
        hint = LOGARITHM if name.startswith("log") else f"a {name} must be finite"
        yield from _first(name, array, ~np.isfinite(array), hint)
        if name in POSITIVE:
            yield from _first(name, array, array <= 0, POSITIVE[name])
        if name in ("cov", "precision"):
            yield from _asymmetric(name, array)
            yield from _indefinite(name, array, precise)
        if name == "scale_tril":
            above = np.triu(np.ones(array.shape[-2:], dtype=bool), 1)
            hint = "nothing may stand above the diagonal of a lower triangular factor; pass its lower triangle, or cov="
            yield from _first(name, array, (array != 0) & above, hint)
            diagonal = np.eye(array.shape[-1], dtype=bool)
            yield from _first(name, array, (array == 0) & diagonal, "a 0 on the diagonal makes the covariance singular")
        if name == "packed_tril":
            on_diagonal = _diagonal_of_packed(array.shape[-1], gaussian.packing)
            hint = "this entry is on the diagonal of the factor, where a 0 makes the covariance singular"
            yield from _first(name, array, (array == 0) & on_diagonal, hint)


def _first(name: str, array: Array, bad: Array, hint: str) -> Iterator[str]:
    if bad.any():
        index = np.argwhere(bad)[0]
        yield f"{name}{_index(index)} = {array[tuple(index)]}: {hint}"


def _index(index: Any) -> str:
    return f"[{', '.join(map(str, index))}]" if len(index) else ""


def _asymmetric(name: str, array: Array) -> Iterator[str]:
    tolerance = asymmetry(array.dtype, xp=_namespace.namespace(array))
    for start, block in _blocks(array):
        size = np.sqrt(np.abs(np.diagonal(block, axis1=-2, axis2=-1)))
        bad = np.abs(block - block.mT) > tolerance * size[:, :, None] * size[:, None, :]
        for k, i, j in np.argwhere(bad):
            batch = _position(array, start + k)
            yield (
                f"{name}{_index([*batch, i, j])} = {block[k, i, j]} but "
                f"{name}{_index([*batch, j, i])} = {block[k, j, i]}: " + SYMMETRY.format(name=name)
            )


def _indefinite(name: str, array: Array, precise: bool) -> Iterator[str]:
    for start, block in _blocks(array):
        if _have_factors(block):
            continue
        for k, matrix in enumerate(block):
            if not _have_factors(matrix):
                found = _bad_pivot(matrix.astype(np.float64), precise)
                if found is not None:
                    pivot, value = found
                    close = " to the precision of float64" if value > 0 else ""
                    where = _index(_position(array, start + k))
                    yield f"{name}{where} has pivot {pivot} = {value}: " + DEFINITE.format(close)


def _blocks(array: Array) -> Iterator[tuple[int, Array]]:
    """The matrices of a batch, some at a time, after the number of the first of them."""
    stack = array.reshape(-1, *array.shape[-2:])
    for start in range(0, len(stack), BLOCK):
        yield start, stack[start : start + BLOCK]


def _position(array: Array, number: int) -> tuple[Any, ...]:
    """Index in the batch of the matrix with this number."""
    return np.unravel_index(number, array.shape[:-2])


def _have_factors(matrices: Array) -> bool:
    try:
        np.linalg.cholesky(matrices.astype(np.float64))
    except np.linalg.LinAlgError:
        return False
    return True


def _bad_pivot(matrix: Array, precise: bool) -> tuple[int, float] | None:
    """First pivot of the elimination that is not positive, and its value; if ``precise``, with 60 digits."""
    import decimal

    with decimal.localcontext(prec=60):
        work = np.vectorize(decimal.Decimal, "O")(matrix) if precise else matrix.copy()
        for k in range(len(work)):
            if not work[k, k] > 0 or (k == len(work) - 1 and not precise):
                return k, float(work[k, k])
            column = work[k + 1 :, k]
            work[k + 1 :, k + 1 :] -= np.outer(column, column) / work[k, k]
    return None


def _diagonal_of_packed(length: int, packing: str) -> Array:
    """Which entries of a packed vector are on the diagonal."""
    d = round((np.sqrt(8 * length + 1) - 1) / 2)
    index = np.arange(d)
    return np.isin(np.arange(length), packed_positions(index, index, d, packing, xp=np))
