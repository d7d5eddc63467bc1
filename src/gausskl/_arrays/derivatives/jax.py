"""The closed-form gradients as JAX custom derivatives. Imported only once a JAX array has been met."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .rules import RULES, Rule, directional


def _function(rule: Rule) -> Any:
    function: Any = jax.custom_jvp(functools.partial(rule.formula, xp=jnp))

    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        return function(*primals), directional(rule, rule.gradient(*primals, xp=jnp), tangents)

    function.defjvp(derivative)
    return function


FUNCTIONS = {name: _function(rule) for name, rule in RULES.items()}
