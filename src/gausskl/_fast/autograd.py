"""The one autograd function over kernels, for tensors wherever they are; and where torch itself follows a computation.

There the leaves step aside, or leave torch operations that it can follow.
"""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch
from torch._C import DispatchKey, _get_tracing_state, _len_torch_dispatch_stack
from torch._C import _dispatch_tls_is_dispatch_key_included as _is_included
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
from torch.autograd import forward_ad

from .by_formula import completed, formula, partials
from .contract import CannotCompile, Job
from .leaves import give_up

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


def divergence(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Any]:
    """The divergence, and that of each row if there are rows to look at again; differentiable."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                result = _Divergence.apply(job, reduction, *tensors)
                return result, vars(result.grad_fn).pop("suspect")  # that is its ctx
    result, suspect, _ = job.leaf.forward(job, tensors, reduction)
    return result, suspect


class _Divergence(torch.autograd.Function):
    """One pass forward and one back."""

    @staticmethod
    def forward(ctx: Any, job: Job, reduction: str, *tensors: Tensor) -> Tensor:
        result, ctx.suspect, ctx.special = job.leaf.forward(job, tensors, reduction)
        ctx.job, ctx.reduction = job, reduction
        ctx.save_for_backward(*tensors)
        ctx.seen = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return result

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        job, tensors, wanted = ctx.job, _kept(ctx), ctx.needs_input_grad[2:]
        plain = type(cotangent) is torch.Tensor and not is_legacy_batchedtensor(cotangent)
        found = None
        if plain and not torch.is_grad_enabled() and not obstacle():
            try:
                found = job.leaf.backward(job, tensors, cotangent, ctx.reduction, wanted, ctx.special)
            except CannotCompile as error:
                give_up(job.path, error)
        if found is None:
            found = _followed(job, tensors, of_each(job, ctx.reduction, cotangent), wanted)
        return None, None, *found


def _kept(ctx: Any) -> tuple[Tensor, ...]:
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


def dtype_of(job: Job) -> Any:
    """What the results are computed in."""
    return torch.float64 if job.bits == 64 else torch.float32


def of_each(job: Job, reduction: str, cotangent: Tensor) -> Tensor:
    """What each result counts in the loss, where the cotangent is that of all of them together."""
    cotangent = cotangent.to(dtype_of(job))
    if reduction == "none":
        return cotangent
    return (cotangent / job.count if reduction == "mean" else cotangent).expand(job.shape)


def _followed(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients by operations that torch follows: for second derivatives, and under a transform."""
    wide = tuple(tensor.to(dtype_of(job)) for tensor in tensors)
    if job.diagonal:
        weights = cotangent if job.per_dim else cotangent.unsqueeze(-1)
        found = [
            (weights * partial).sum_to_size(tensor.shape) if want else None
            for tensor, partial, want in zip(wide, partials(job.spreads, wide, xp=xp), wanted, strict=False)
        ]
    else:
        found = by_formulas(job, wide, cotangent, wanted)
    return [None if g is None else g.to(tensor.dtype) for g, tensor in zip(found, tensors, strict=True)]


def by_formulas(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients that torch finds by following the formulas, computed in float64."""
    again = torch.is_grad_enabled()
    if not again:
        tensors = tuple(tensor.detach().requires_grad_() for tensor in tensors)
    with torch.enable_grad():
        result = formula(job, torch.float64)(completed(job, tensors, xp=xp), xp=xp).reshape(job.shape)
        some = [tensor for tensor, want in zip(tensors, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(result, some, cotangent.to(result.dtype), create_graph=again))
    return [next(found) if want else None for want in wanted]
