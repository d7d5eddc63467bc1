"""Closed-form gradients for formulas, where the array library differentiates.

Differentiating a series or a selection step by step costs memory and, at extreme scales, overflows. A formula
that knows its own gradient says so with :func:`with_gradient`; the gradient is itself a plain formula, so that
second derivatives follow from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from .libraries import name_of

Formula = Callable[..., Any]


class Rule(NamedTuple):
    """A formula, the function that returns its partial derivatives, and each argument's number of event axes."""

    formula: Formula
    gradient: Formula
    event_axes: tuple[int, ...] | None


RULES: dict[str, Rule] = {}


def with_gradient(gradient: Formula, event_axes: tuple[int, ...] | None = None) -> Callable[[Formula], Formula]:
    """Attach ``gradient`` to a formula.

    ``gradient(*arrays, xp=xp)`` returns one partial derivative per argument, of the shape of the result followed
    by that argument's event axes. ``event_axes=None`` marks an elementwise formula.
    """

    def attach(formula: Formula) -> Formula:
        name = formula.__name__
        RULES[name] = Rule(formula, gradient, event_axes)

        @functools.wraps(formula)
        def differentiable(*arrays: Any, xp: Any) -> Any:
            if name_of(xp) == "jax":
                from . import derivatives_jax

                return derivatives_jax.FUNCTIONS[name](*arrays)
            if name_of(xp) == "tensorflow":
                from . import derivatives_tensorflow

                return derivatives_tensorflow.FUNCTIONS[name](*arrays)
            if name_of(xp) == "torch":
                from . import derivatives_torch

                return derivatives_torch.call(name, arrays)
            return formula(*arrays, xp=xp)

        return differentiable

    return attach


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
