"""The partial derivatives of diagonal pairs, by the formulas of any array library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._arrays.derivatives.rules import RULES

Array = Any
Spreads = tuple[tuple[str, str | None], ...]  # keyword and packing of p and of q, or of p alone


def four(spreads: Spreads, arrays: Sequence[Array], *, xp: Any) -> list[Array]:
    """Mean and spread of p and of q; for the standard normal too."""
    if len(spreads) == 2:
        return [*arrays]
    mean, spread = arrays
    return [mean, spread, xp.zeros_like(mean), (xp.zeros_like if "log" in spreads[0][0] else xp.ones_like)(spread)]


def partials(spreads: Spreads, arrays: Sequence[Array], *, xp: Any) -> list[Array]:
    """Partial derivatives of the terms of two spreads of one kind."""
    keyword = spreads[0][0]
    mean_p, spread_p, mean_q, spread_q = four(spreads, arrays, xp=xp)
    if keyword != "log_std":
        return list(RULES[f"_{keyword}_terms"].gradient(mean_p, spread_p, mean_q, spread_q, xp=xp))
    by_log_var = RULES["_log_var_terms"].gradient(mean_p, 2 * spread_p, mean_q, 2 * spread_q, xp=xp)
    return [2 * partial if k % 2 else partial for k, partial in enumerate(by_log_var)]
