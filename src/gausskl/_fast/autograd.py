"""Where torch itself follows a computation: the leaves step aside, or leave it operations that it can follow."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch
from torch._C import DispatchKey, _get_tracing_state, _len_torch_dispatch_stack
from torch._C import _dispatch_tls_is_dispatch_key_included as _is_included
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from .by_formula import partials
from .contract import Job

Tensor = Any


def obstacle() -> str:
    """Why the leaf does not serve tensors here and now; "" if it does."""
    if peek_interpreter_stack() is not None:
        return "a torch.func transform is at work"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is at work"
    if _len_torch_dispatch_stack() or _get_tracing_state() is not None or _is_included(DispatchKey.PreDispatch):
        return "torch is recording operations"
    return ""


def keep(ctx: Any, tensors: tuple[Tensor, ...]) -> None:
    """Save tensors for the way back."""
    ctx.save_for_backward(*tensors)
    ctx.seen = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def kept(ctx: Any) -> tuple[Tensor, ...]:
    """The tensors that were saved. Torch hands out whatever has become of them, and kernels check no bounds."""
    tensors: tuple[Tensor, ...] = ctx.saved_tensors
    for tensor, seen in zip(tensors, ctx.seen, strict=True):
        if (tensor.shape, tensor.dtype, tensor.device) != seen:
            shape, dtype, device = seen
            raise ValueError(
                f"a tensor had shape {tuple(shape)}, {dtype} on {device} when the divergence was computed, and has "
                f"shape {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device} now that its gradient is wanted: "
                "compute the divergence again"
            )
    return tensors


def of_each(job: Job, reduction: str, cotangent: Tensor) -> Tensor:
    """What each result counts in the loss, where the cotangent is that of all of them together."""
    if reduction == "none":
        return cotangent
    return (cotangent / job.count if reduction == "mean" else cotangent).expand(job.shape)


def followed(job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """The gradients by operations that torch follows: for second derivatives, and under a transform."""
    if not job.diagonal:
        return by_formulas(job, tensors, cotangent, wanted)
    weights = cotangent if job.per_dim else cotangent.unsqueeze(-1)
    return [
        (weights * partial).sum_to_size(tensor.shape) if want else None
        for tensor, partial, want in zip(tensors, partials(job.spreads, tensors, xp=xp), wanted, strict=False)
    ]


def by_formulas(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients that torch finds by following the formulas, computed in float64."""
    again = torch.is_grad_enabled()
    if not again:
        tensors = tuple(tensor.detach().requires_grad_() for tensor in tensors)
    with torch.enable_grad():
        result = job.engine.formula(job, torch.float64)(job.engine.four(job, tensors, xp=xp), xp=xp).reshape(job.shape)
        some = [tensor for tensor, want in zip(tensors, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(result, some, cotangent.to(result.dtype), create_graph=again))
    return [next(found) if want else None for want in wanted]
