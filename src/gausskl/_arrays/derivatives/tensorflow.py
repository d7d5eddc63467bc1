"""The closed-form gradients as TensorFlow custom gradients. Imported only once a tensor of it has been met."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .. import tensorflow as xp
from .rules import RULES, Rule, along


def _function(rule: Rule) -> Any:
    @tf.custom_gradient
    def function(*arrays: Any) -> tuple[Any, Any]:
        def pull(cotangent: Any) -> list[Any]:
            partials = rule.gradient(*arrays, xp=xp)
            return [
                _summed_to(array, along(rule, i, cotangent) * partial)
                for i, (array, partial) in enumerate(zip(arrays, partials, strict=True))
            ]

        # Forward mode would look inside, and differentiate step by step.
        return rule.formula(*map(tf.stop_gradient, arrays), xp=xp), pull

    return function


def _summed_to(array: Any, x: Any) -> Any:
    """Sum over the axes along which ``array`` was broadcast."""
    shape = tf.shape(array)
    _, axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(x), s1=shape)
    return tf.reshape(tf.reduce_sum(x, axes), shape)


FUNCTIONS = {name: _function(rule) for name, rule in RULES.items()}
