r"""Two diagonal Gaussians whose spreads are described in different ways.

The same law as in ``diagonal``. A spread that is converted is rounded, and near equality the divergence is the square
of a difference that the rounding then decides. So the relative difference is taken first, where the two are within a
factor of 9 in variance, from squares and exponentials that are kept whole: t = s_p/s_q - 1 or x = v_p/v_q - 1. Beyond,
a rounding of the spread is worth no more than a few roundings of the divergence, and both go by standard deviations, or
by logarithms where those would leave the range of the dtype.

No finite number of digits of e^x tells it from every float. With twice the digits of the dtype, what is left of a
divergence K is an error of 2^-104 sqrt(K) in float64 and of 2^-46 sqrt(K) in float32: less than 8 units in the last
place of it as soon as the spreads differ by as much as one rounding.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from .._arrays.derivatives.differentiable import with_gradient
from .._arrays.derivatives.rules import Formula
from .diagonal import (
    again,
    excess,
    expm1_corrected,
    half_square,
    log_ratio,
    log_spread,
    over_exp,
    reach,
    std_spread,
    within,
)
from .exact import exp_ratio, square

Array = Any
HARMLESS = {"std": 1.0, "var": 1.0, "log_std": 0.0}


# The relative difference of two spreads that are not far apart.


def _of_std_and_var(std: Array, var: Array, *, xp: Any) -> tuple[Array, Array]:
    """s^2/v - 1 and v/s^2 - 1. Both sides are scaled, so that the square and its rounding error stay in range."""
    up = 2.0 ** (300 if xp.finfo(var.dtype).bits == 64 else 40)
    small, large = var < up**-1.5, var > up**1.5
    scale = xp.where(small, up, xp.where(large, 1 / up, xp.ones_like(var)))
    high, low = square(std * scale, xp=xp)
    var = (var * scale) * scale
    difference = (high - var) + low
    return difference / var, -difference / high


def _of_var_and_log(var: Array, log: Array, *, xp: Any) -> tuple[Array, Array]:
    return exp_ratio(var, 2 * log, xp=xp)


def _of_p(both: Formula) -> Formula:
    """The first of two relative differences, for p and q in their order."""
    return lambda spread_p, spread_q, *, xp: both(spread_p, spread_q, xp=xp)[0]


def _of_q(both: Formula) -> Formula:
    """The second one, for p and q in the other order."""
    return lambda spread_p, spread_q, *, xp: both(spread_q, spread_p, xp=xp)[1]


class Kinds(NamedTuple):
    """The kinds of p and q, and p's spread over q's less 1: of variances if one is a variance, else of their roots."""

    kind_p: str
    kind_q: str
    relative: Formula


# What is far apart, or beyond the range of the exponential.


def as_std(kind: str, spread: Array, *, xp: Any) -> Array:
    """Standard deviations, limited to the range of the dtype where they come from a logarithm."""
    if kind == "log_std":
        return xp.exp(within(spread, xp=xp))
    return xp.sqrt(spread) if kind == "var" else spread


def _as_log(kind: str, spread: Array, *, xp: Any) -> Array:
    """Logarithms of standard deviations; NaN where a spread is not positive."""
    if kind == "log_std":
        return spread
    log = xp.log(xp.where(spread > 0, spread, xp.nan))
    return 0.5 * log if kind == "var" else log


def _ordinary(kind: str, spread: Array, *, xp: Any) -> Array:
    """Whether the standard deviation is in the range of the dtype."""
    return (xp.abs(spread) <= reach(spread.dtype, xp=xp)) if kind == "log_std" else (spread <= spread)


def _both(kinds: Kinds, spread_p: Array, spread_q: Array, *, xp: Any) -> tuple[Array, ...]:
    """Which of the three ways each dimension goes, near or far or by logarithms, and what each of them starts from."""
    kind_p, kind_q, relative = kinds
    harmless_p, harmless_q = HARMLESS[kind_p], HARMLESS[kind_q]
    usual = _ordinary(kind_p, spread_p, xp=xp) & _ordinary(kind_q, spread_q, xp=xp)
    std_p, std_q = as_std(kind_p, spread_p, xp=xp), as_std(kind_q, spread_q, xp=xp)
    near = usual & (std_p <= 3 * std_q) & (std_q <= 2 * std_p) & (std_p > 0)
    whole = relative(xp.where(near, spread_p, harmless_p), xp.where(near, spread_q, harmless_q), xp=xp)
    far = usual & ~near
    logs = [
        _as_log(kind, xp.where(usual, harmless, spread), xp=xp)
        for kind, spread, harmless in ((kind_p, spread_p, harmless_p), (kind_q, spread_q, harmless_q))
    ]
    stds = [xp.where(far, std, 1.0) for std in (std_p, std_q)]
    return near, usual, whole, *stds, *log_ratio(*logs)


def _spread_part(kinds: Kinds, spread_p: Array, spread_q: Array, *, xp: Any) -> Array:
    near, usual, whole, std_p, std_q, t, error = _both(kinds, spread_p, spread_q, xp=xp)
    close = (
        0.5 * excess(whole, xp=xp)
        if kinds.kind_p == "var" or kinds.kind_q == "var"
        else excess(whole, xp=xp) + (0.5 * whole) * whole
    )
    far = std_spread(std_p, std_q, xp=xp)
    beyond = log_spread(2 * t, 2 * error, xp=xp)
    return xp.where(near, close, xp.where(usual, far, beyond))


def _growth(kinds: Kinds, spread_p: Array, spread_q: Array, *, xp: Any) -> Array:
    """The relative difference of the variances, v_p/v_q - 1."""
    near, usual, whole, std_p, std_q, t, error = _both(kinds, spread_p, spread_q, xp=xp)
    close = whole if kinds.kind_p == "var" or kinds.kind_q == "var" else whole * (2 + whole)
    step = (std_p - std_q) / xp.where((std_p > 0) & (std_q > 0), std_q, xp.nan)
    beyond = expm1_corrected(2 * t, 2 * error, xp=xp)
    return xp.where(near, close, xp.where(usual, step * (2 + step), beyond))


def _mean_part(kind_q: str, delta: Array, spread_q: Array, *, xp: Any) -> Array:
    if kind_q == "log_std":
        z = over_exp(delta, spread_q, xp=xp)
        return (0.5 * z) * z
    return half_square(delta, as_std(kind_q, spread_q, xp=xp), xp=xp)


def _z_and_pull(kind_q: str, delta: Array, spread_q: Array, *, xp: Any) -> tuple[Array, Array]:
    """delta over q's standard deviation, and over its variance."""
    if kind_q == "log_std":
        z = over_exp(delta, spread_q, xp=xp)
        return z, over_exp(z, spread_q, xp=xp)
    std_q = as_std(kind_q, spread_q, xp=xp)
    z = delta / std_q
    return z, again(z, std_q)


def _by_spread(kind: str, by_log: Array, spread: Array) -> Array:
    """A derivative by the logarithm of a standard deviation as one by the spread."""
    if kind == "log_std":
        return by_log
    return again(0.5 * by_log, spread) if kind == "var" else by_log / spread


def _made(kinds: Kinds) -> tuple[Formula, Formula]:
    """Spread part of a dimension and the whole of it, each with its gradient, for a pair of kinds."""
    kind_p, kind_q, _ = kinds

    def spread_gradient(spread_p: Array, spread_q: Array, *, xp: Any) -> tuple[Array, Array]:
        growth = _growth(kinds, spread_p, spread_q, xp=xp)
        return _by_spread(kind_p, growth, spread_p), -_by_spread(kind_q, growth, spread_q)

    def spread(spread_p: Array, spread_q: Array, *, xp: Any) -> Array:
        return _spread_part(kinds, spread_p, spread_q, xp=xp)

    def gradient(mean_p: Array, spread_p: Array, mean_q: Array, spread_q: Array, *, xp: Any) -> tuple[Array, ...]:
        by_p, by_q = spread_gradient(spread_p, spread_q, xp=xp)
        z, pull = _z_and_pull(kind_q, mean_p - mean_q, spread_q, xp=xp)
        return pull, by_p, -pull, by_q - _by_spread(kind_q, z * z, spread_q)

    def terms(mean_p: Array, spread_p: Array, mean_q: Array, spread_q: Array, *, xp: Any) -> Array:
        return spread(spread_p, spread_q, xp=xp) + _mean_part(kind_q, mean_p - mean_q, spread_q, xp=xp)

    for formula in (spread, terms):
        formula.__name__ = f"{kind_p}_{kind_q}_{formula.__name__}"
    return with_gradient(spread_gradient)(spread), with_gradient(gradient)(terms)


PAIRS = [
    Kinds("std", "var", _of_p(_of_std_and_var)),
    Kinds("var", "std", _of_q(_of_std_and_var)),
    Kinds("std", "log_std", _of_p(exp_ratio)),
    Kinds("log_std", "std", _of_q(exp_ratio)),
    Kinds("var", "log_std", _of_p(_of_var_and_log)),
    Kinds("log_std", "var", _of_q(_of_var_and_log)),
]
SPREAD: dict[tuple[str, str], Formula] = {}
TERMS: dict[tuple[str, str], Formula] = {}
GROWTH: dict[tuple[str, str], Formula] = {}
for pair in PAIRS:
    SPREAD[pair[:2]], TERMS[pair[:2]] = _made(pair)
    GROWTH[pair[:2]] = partial(_growth, pair)
