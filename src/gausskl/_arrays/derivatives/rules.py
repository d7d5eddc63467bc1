"""Formulas that know their own gradients, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Formula = Callable[..., Any]


class Rule(NamedTuple):
    """A formula, the function that returns its partial derivatives, and each argument's number of event axes."""

    formula: Formula
    gradient: Formula
    event_axes: tuple[int, ...] | None


RULES: dict[str, Rule] = {}


def along(rule: Rule, index: int, cotangent: Any) -> Any:
    """Give ``cotangent``, of the shape of the result, the event axes of argument ``index``."""
    axes = rule.event_axes[index] if rule.event_axes else 0
    return cotangent[(..., *(None,) * axes)] if axes else cotangent


def directional(rule: Rule, partials: Any, tangents: Any) -> Any:
    """Directional derivative: the partial derivatives against the tangents that are there."""
    total = 0
    for index, (partial, tangent) in enumerate(zip(partials, tangents, strict=True)):
        if tangent is not None:
            axes = rule.event_axes[index] if rule.event_axes else 0
            product = partial * tangent
            total = total + (product.sum(tuple(range(-axes, 0))) if axes else product)
    return total
