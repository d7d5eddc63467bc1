"""The closed-form gradients as torch autograd functions. Imported only once a tensor has been met.

The functions are made when this module is imported, because ``torch.compile`` cannot make a class; it also asks
for a fixed number of arguments, and for a function without ``jvp``.
"""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch

from .rules import RULES, Rule, along, directional

ARGUMENTS = 7


def _functions(rule: Rule) -> tuple[Any, Any]:
    class Reverse(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any:
            return rule.formula(*[x for x in (a, b, c, d, e, f, g) if x is not None], xp=xp)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> Any:
            arrays = [x for x in ctx.saved_tensors if x is not None]
            partials = rule.gradient(*arrays, xp=xp)
            pulled = [
                (along(rule, i, cotangent) * partial).sum_to_size(array.shape)
                for i, (array, partial) in enumerate(zip(arrays, partials, strict=True))
            ]
            return (*pulled, *[None] * (ARGUMENTS - len(pulled)))

    class Forward(Reverse):
        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            arrays = [x for x in ctx.saved_tensors if x is not None]
            return directional(rule, rule.gradient(*arrays, xp=xp), tangents[: len(arrays)])

    return Reverse, Forward


_FUNCTIONS = {name: _functions(rule) for name, rule in RULES.items()}


def call(name: str, arrays: tuple[Any, ...]) -> Any:
    """Apply the named formula to tensors."""
    reverse, forward = _FUNCTIONS[name]
    function = reverse if torch.compiler.is_compiling() else forward
    return function.apply(*arrays, *[None] * (ARGUMENTS - len(arrays)))
