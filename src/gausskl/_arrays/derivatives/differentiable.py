"""Closed-form gradients for formulas, where the array library differentiates.

Differentiating a series or a selection step by step costs memory and, at extreme scales, overflows. A formula
that knows its own gradient says so with :func:`with_gradient`; the gradient is itself a plain formula, so that
second derivatives follow from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..libraries import name_of
from .rules import RULES, Formula, Rule


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
                from . import jax as by_jax

                return by_jax.FUNCTIONS[name](*arrays)
            if name_of(xp) == "tensorflow":
                from . import tensorflow as by_tensorflow

                return by_tensorflow.FUNCTIONS[name](*arrays)
            if name_of(xp) == "torch":
                from . import torch as by_torch

                return by_torch.call(name, arrays)
            return formula(*arrays, xp=xp)

        return differentiable

    return attach
