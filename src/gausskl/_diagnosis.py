"""The second look: when a result is not finite, find the value that made it so and name it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._arrays import namespace
from ._arrays.libraries import LIBRARIES, UNKNOWN
from ._checks import asymmetry
from ._formulas.given import packed_positions
from ._formulas.kl import DENSE

Array = Any

POSITIVE = {
    "std": "a std must be > 0",
    "var": "a variance must be > 0",
    "cov_diag": "the diagonal added to a covariance of low rank must be > 0",
}
RELU = "a ReLU output can be 0, softplus with a small floor cannot"
MAYBE_LOGARITHM = "if these are logarithms, pass log_{name}="
MAYBE_DIAGONAL = "these are diagonal matrices: pass their diagonals alone"
LOGARITHM = "a logarithm must be finite; exp({name}) may be neither 0 nor infinite"
# What a matrix should have been instead: the sentence looks at the matrix, and each advice holds under its own "if".
SYMMETRY = "a {name} must be symmetric; "
ROUNDING = "if only rounding sets the two apart, pass ({name} + {name}.mT) / 2"
HALF = "; if it is one half of a symmetric matrix, pass T + T.mT - T * {xp}.eye(d)"
PRODUCT = (
    "this is a triangle T: if precision = T @ T.mT, pass precision=T @ T.mT; if precision = T.mT @ T, "
    "pass precision=T.mT @ T" + HALF
)
TRIANGULAR = {
    ("cov", "lower"): "this is a lower triangle T: if cov = T @ T.mT, pass scale_tril=T" + HALF,
    ("cov", "upper"): "this is an upper triangle T: if cov = T.mT @ T (SciPy's default), pass scale_tril=T.mT" + HALF,
    ("precision", "lower"): PRODUCT,
    ("precision", "upper"): PRODUCT,
}
ABOVE = "nothing may stand above the diagonal of a lower triangular factor; "
UPPER = (
    "this is an upper triangular factor: if cov = R.mT @ R (SciPy's default), pass scale_tril=R.mT; "
    "if cov = R @ R.mT, pass cov=R @ R.mT"
)
NOT_TRIANGULAR = (
    "if this matrix A is the covariance, pass cov=A; if cov = A @ A.mT, pass cov=A @ A.mT; if it is what "
    "scipy.linalg.cho_factor returned, one triangle of it is junk: pass scale_tril={xp}.triu(A).mT, or, after "
    "lower=True, scale_tril={xp}.tril(A)"
)
DEFINITE = "the matrix is not positive definite; if it should be, {}"
SINGULAR = (
    "the matrix is not positive definite as far as {} can tell, in which rounding a variance of {:.6g} may leave a "
    "pivot of this size; {}{}"
)
JITTER = "add a small multiple of the identity to it yourself"
CURES = {
    "cov": f"{JITTER}, or, if it was made from a lower triangular factor, pass that as scale_tril",
    "precision": JITTER,
}
LOW_RANK = "cov_factor @ cov_factor.mT + diag(cov_diag)"
EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "pairs of float64": 2.0**-104}
BLOCK = 64  # matrices that are looked at together: one by one takes much longer for small ones


def is_finite(result: Array) -> bool:
    """Whether there is nothing to complain of."""
    return bool(np.isfinite(namespace.to_numpy(result)).all())


def complain(result: Array, p: Any, q: Any, computed_in: str, precise_serves: bool) -> None:
    """Raise ValueError naming the first bad value of a pair whose result is not finite; a true overflow passes.

    ``computed_in`` says in what precision a matrix had to be positive definite: it is a key of ``EPS``.
    """
    with np.errstate(all="ignore"):  # whatever the caller has said about warnings, the sentence comes
        for side, gaussian in (("p", p), ("q", q)):
            for complaint in _complaints(gaussian, computed_in, precise_serves):
                raise ValueError(f"{side}: {complaint}")
        values = namespace.to_numpy(result)
        if np.isnan(values).any():
            where = _index(np.argwhere(np.isnan(values))[0])
            factor = "a factor as scale_tril that was not made from the covariance"
            better = factor if values.dtype == np.float64 else f"float64, or {factor}"
            raise ValueError(
                f"the divergence{where} cannot be computed in {values.dtype}, though no single value is bad: the "
                f"spreads are too close to singular or too far apart for it; use {better}"
            )


def _complaints(gaussian: Any, computed_in: str, precise_serves: bool) -> Iterator[str]:
    """Sentences about what is wrong with a Gaussian's values, the first one first."""
    arrays = {name: namespace.to_numpy(array) for name, array in gaussian.spread.items() if name != "packing"}
    xp = LIBRARIES.get(gaussian.form.library, UNKNOWN).spelt or gaussian.form.library
    for name, array in {"mean": namespace.to_numpy(gaussian.mean), **arrays}.items():
        hint = LOGARITHM.format(name=name) if name.startswith("log") else f"a {name} must be finite"
        yield from _first(name, array, ~np.isfinite(array), hint)
        if name in POSITIVE:
            yield from _first(name, array, array <= 0, _not_positive(name, array))
        if name in ("cov", "precision"):
            yield from _asymmetric(name, array, xp)
            yield from _indefinite(name, array, computed_in, precise_serves)
        if name == "cov_diag":
            factor = arrays["cov_factor"].astype(np.float64)
            if factor.shape[-2] <= DENSE:
                whole = factor @ factor.mT + array[..., None].astype(np.float64) * np.eye(factor.shape[-2])
                yield from _indefinite(LOW_RANK, whole, computed_in, False)
        if name == "scale_tril":
            hint = ABOVE + (UPPER if _triangle(array) == "upper" else NOT_TRIANGULAR.format(xp=xp))
            yield from _first(name, array, np.triu(array, 1) != 0, hint)
            diagonal = np.eye(array.shape[-1], dtype=bool)
            yield from _first(name, array, (array == 0) & diagonal, "a 0 on the diagonal makes the covariance singular")
        if name == "packed_tril":
            on_diagonal = _diagonal_of_packed(array.shape[-1], gaussian.packing)
            hint = "this entry is on the diagonal of the factor, where a 0 makes the covariance singular"
            yield from _first(name, array, (array == 0) & on_diagonal, hint)


def _not_positive(name: str, array: Array) -> str:
    """What to say of numbers of which one is 0 or less, and should not be."""
    hints = [POSITIVE[name]]
    if array.ndim > 1 and array.shape[-1] == array.shape[-2] and not (array * (1 - np.eye(array.shape[-1]))).any():
        hints.append(MAYBE_DIAGONAL)
    elif name != "cov_diag":
        hints += [MAYBE_LOGARITHM.format(name=name)] if (array < 0).any() else [RELU]
    return "; ".join(hints)


def _first(name: str, array: Array, bad: Array, hint: str) -> Iterator[str]:
    if bad.any():
        index = np.argwhere(bad)[0]
        yield f"{name}{_index(index)} = {array[tuple(index)]}: {hint}"


def _index(index: Any) -> str:
    return f"[{', '.join(map(str, index))}]" if len(index) else ""


def _asymmetric(name: str, array: Array, xp: str) -> Iterator[str]:
    tolerance = asymmetry(array.dtype, xp=namespace.namespace(array))
    for start, block in _blocks(array):
        size = np.sqrt(np.abs(np.diagonal(block, axis1=-2, axis2=-1)))
        bad = np.abs(block - block.mT) > tolerance * size[:, :, None] * size[:, None, :]
        for k, i, j in np.argwhere(bad):
            batch = _position(array, start + k)
            hint = SYMMETRY + TRIANGULAR.get((name, _triangle(array)), ROUNDING)
            yield (
                f"{name}{_index([*batch, i, j])} = {block[k, i, j]} but "
                f"{name}{_index([*batch, j, i])} = {block[k, j, i]}: " + hint.format(name=name, xp=xp)
            )


def _triangle(array: Array) -> str:
    """Which half of all matrices of a batch holds numbers, if it is only one: "lower", "upper" or ""."""
    below, above = np.tril(array, -1).any(), np.triu(array, 1).any()
    return "" if below and above else "lower" if below else "upper"


def _indefinite(name: str, array: Array, computed_in: str, precise_serves: bool) -> Iterator[str]:
    for start, block in _blocks(array):
        # Kernels and formulas need not round alike: twice the least pivot makes sure that the culprit is found.
        least = 2 * (block.shape[-1] + 1) * EPS[computed_in]
        if computed_in == "float64" and _have_factors(block, least):
            continue
        for k, matrix in enumerate(block.astype(np.float64)):
            found = _bad_pivot(matrix, least, computed_in)
            if found is not None:
                where = _index(_position(array, start + k))
                pivot, value, variance = found
                if not np.isfinite(variance):
                    yield f"{name}{where} has variance {pivot} = {variance}: it is beyond the range of float64"
                    return
                cure = CURES.get(name, "add to cov_diag yourself")
                sentence = DEFINITE.format(cure)
                if value > -least * variance:
                    more = "give precise=True, " if precise_serves and computed_in != "pairs of float64" else ""
                    more = more or ("give float64, " if computed_in == "float32" else "")
                    sentence = SINGULAR.format(computed_in, variance, more, cure)
                yield f"{name}{where} has pivot {pivot} = {value}: {sentence}"


def _blocks(array: Array) -> Iterator[tuple[int, Array]]:
    """The matrices of a batch, some at a time, after the number of the first of them."""
    stack = array.reshape(-1, *array.shape[-2:])
    for start in range(0, len(stack), BLOCK):
        yield start, stack[start : start + BLOCK]


def _position(array: Array, number: int) -> tuple[Any, ...]:
    """Index in the batch of the matrix with this number."""
    return np.unravel_index(number, array.shape[:-2])


def _have_factors(matrices: Array, least: float) -> bool:
    """Whether all of them have pivots that are large enough, in whichever order they are gone through."""
    for turned in (matrices, matrices[..., ::-1, ::-1]):
        try:
            roots = np.diagonal(np.linalg.cholesky(turned.astype(np.float64)), axis1=-2, axis2=-1)
        except np.linalg.LinAlgError:
            return False
        if not (roots**2 > least * np.diagonal(turned, axis1=-2, axis2=-1)).all():
            return False
    return True


def _bad_pivot(matrix: Array, least: float, computed_in: str) -> tuple[int, float, float] | None:
    """First pivot of the elimination that is too small, its value, and the variance that it was left of.

    A precision may have been gone through from its end. Pairs of float64 are looked at with 60 digits.
    """
    import decimal

    order = np.arange(len(matrix))
    with decimal.localcontext(decimal.Context(prec=60)):
        for way in (order, order[::-1]):
            work = matrix[np.ix_(way, way)]
            work = np.vectorize(decimal.Decimal, "O")(work) if computed_in == "pairs of float64" else work.copy()
            for k, place in enumerate(way):
                pivot, variance = float(work[k, k]), float(matrix[place, place])
                if not pivot > least * variance:
                    return int(place), pivot, variance
                column = work[k + 1 :, k]
                work[k + 1 :, k + 1 :] -= np.outer(column, column) / work[k, k]
    return None


def _diagonal_of_packed(length: int, packing: str) -> Array:
    """Which entries of a packed vector are on the diagonal."""
    d = round((np.sqrt(8 * length + 1) - 1) / 2)
    index = np.arange(d)
    return np.isin(np.arange(length), packed_positions(index, index, d, packing, xp=np))
