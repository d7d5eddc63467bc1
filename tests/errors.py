"""How far a result is from the exact one, and how well-conditioned the problem was."""

import numpy as np
from mpmath import mp
from multiprecision import apply, cholesky, exact, solve_lower


def ulp_error(got, want, dtype):
    """Distance of ``got`` from the exact ``want`` in units in the last place of ``want`` in ``dtype``.

    A ``want`` beyond the largest number of ``dtype`` asks for ``inf``, a ``want`` of 0 for 0. What is NaN, or
    infinite without need, is ``inf`` units away.
    """
    digits, smallest, _ = _format(dtype)
    return _error(got, want, dtype, lambda w: mp.ldexp(1, max(mp.frexp(w)[1] - 1, smallest) - digits))


def eps_error(got, want, dtype):
    """Relative distance of ``got`` from the exact ``want`` in units of the machine epsilon of ``dtype``."""
    digits, _, _ = _format(dtype)
    return _error(got, want, dtype, lambda w: mp.ldexp(abs(w), -digits))


def _format(dtype):
    """Bits after the point, exponent of the smallest normal number, largest number."""
    if str(dtype).endswith("bfloat16"):
        return 7, -126, (2 - 2.0**-7) * 2.0**127
    info = np.finfo(dtype)
    return info.nmant, int(info.minexp), float(info.max)


def _error(got, want, dtype, unit):
    largest = _format(dtype)[2]

    def error(g, w):
        g, w = float(g), mp.mpf(w)
        if abs(w) > largest and np.isinf(g):
            return 0.0 if (g > 0) == (w > 0) else np.inf
        if not np.isfinite(g) or w == 0:
            return 0.0 if g == w else np.inf
        return float(abs(mp.mpf(g) - w) / unit(w))

    with mp.workdps(60):
        return np.vectorize(error, otypes=[float])(np.asarray(got, dtype=np.float64), want)


def cond_row_scaled(factor):
    """Condition number (2-norm) of a triangular factor after scaling its rows to length 1, over stacks."""
    return _over_stacks(lambda matrix: _cond(exact(np.tril(matrix))), factor)


def cond_correlation(cov):
    """Condition number (2-norm) of a covariance after scaling its diagonal to 1, over stacks."""
    return _over_stacks(lambda matrix: _cond(cholesky(exact(matrix))) ** 2, cov)


def _cond(factor):
    scaled = factor / apply(mp.sqrt, (factor**2).sum(axis=1))[:, None]
    sides = scaled, solve_lower(scaled, exact(np.eye(len(scaled))))
    return np.prod([np.linalg.norm(side.astype(float), 2) for side in sides])


def _over_stacks(function, matrix):
    with mp.workdps(60):
        return np.vectorize(function, signature="(d,d)->()", otypes=[float])(np.asarray(matrix, dtype=np.float64))[()]
