"""Linear algebra on arrays of mpmath numbers, and the rule that says when a value has enough digits."""

import numpy as np
from mpmath import mp

DIGITS = 30


def settle(compute, dps=80, each=False):
    """Raise the precision until 30 digits of every array in the dict that ``compute`` returns stand still.

    Digits count from each entry with ``each``, else from the largest entry of an array. The first precision
    must tell 0 from a small number. What is still noise at 2000 digits is 0 as well.
    """
    before = None
    while dps < 6000:
        with mp.workdps(dps):
            now = {name: np.asarray(a, dtype=object) for name, a in compute().items()}
            if before and all(_agree(before[name], a, each) for name, a in now.items()):
                return now
        before, dps = now, dps * 3 // 2
    raise ArithmeticError("the value does not settle")


def _agree(before, now, each):
    size = abs(now) if each else np.max(abs(now), initial=mp.zero)
    noise = mp.mpf(10) ** -1000 if mp.dps > 2000 else 0
    return np.all(abs(now - before) <= size * mp.mpf(10) ** -DIGITS + noise)


def exact(a):
    """An array of binary numbers as an array of mpf."""
    return apply(mp.mpf, a)


def apply(function, a):
    """``function`` of every entry; equal entries are computed once."""
    values, places = np.unique(np.asarray(a), return_inverse=True)
    return np.array([function(mp.mpf(v)) for v in values.tolist()], dtype=object)[places].reshape(np.shape(a))


def dot(a, b):
    """Product of two matrices, or of a matrix and a vector."""
    if b.ndim == 1:
        return np.array([mp.fdot(zip(row, b, strict=True)) for row in a], dtype=object)
    return np.stack([dot(a, column) for column in b.T], axis=1) if b.size else a @ b


def cholesky(matrix):
    """Lower factor; only the lower triangle is read."""
    factor = np.full_like(matrix, mp.zero)
    for j in range(len(matrix)):
        column = matrix[j:, j] - dot(factor[j:, :j], factor[j, :j])
        factor[j:, j] = column / mp.sqrt(column[0])
    return factor


def solve_lower(factor, b):
    """Forward substitution for a vector or a matrix of columns."""
    columns = b[:, None] if b.ndim == 1 else b
    x = np.full_like(columns, mp.zero)
    for i, row in enumerate(factor):
        x[i] = (columns[i] - dot(x[:i].T, row[:i])) / row[i]
    return x.reshape(b.shape)


def inverse(matrix):
    """Inverse of a symmetric positive definite matrix."""
    half = solve_lower(cholesky(matrix), exact(np.eye(len(matrix))))
    return dot(half.T, half)


def symmetric(matrix):
    """The symmetric part."""
    return (matrix + matrix.T) / 2
