"""What the leaves for torch tensors on a GPU have in common: reductions, and the way back for the gradients.

A leaf has ``values(job, tensors)``, the divergence of each row in the dtype it is computed in, and
``gradients(job, tensors, cotangent, wanted)``, which is None where the formulas have to find them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._C._functorch import is_legacy_batchedtensor

from ..autograd import followed, keep, kept, obstacle, of_each
from ..contract import CannotCompile, Job
from ..leaves import give_up

Tensor = Any


def divergence(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Tensor]:
    """The divergence, and that of each row in the dtype it was computed in."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        seen: list[Tensor] = []
        return _Divergence.apply(job, reduction, seen, *tensors), seen[0]
    values = job.leaf.values(job, tensors)
    return _reduced(job, values, reduction, tensors[0].dtype), values


def warm_up(job: Job, tensors: tuple[Tensor, ...], gradients: bool) -> None:
    """Compile what the divergence needs, and its gradients; that is done when a kernel first runs."""
    with torch.enable_grad():
        result, _ = divergence(job, tuple(tensor.detach().requires_grad_(gradients) for tensor in tensors), "mean")
    if gradients:
        result.backward()


@contextlib.contextmanager
def on_device_of(tensor: Tensor) -> Iterator[None]:
    """Let a kernel run on the device of a tensor. Whatever it cannot do but for want of memory, the formulas can."""
    elsewhere = tensor.is_cuda and tensor.device.index != torch.cuda.current_device()
    with torch.cuda.device(tensor.device) if elsewhere else contextlib.nullcontext():
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            raise CannotCompile(f"{type(error).__name__}: {error}") from error


def in_memory(tensor: Tensor) -> Tensor:
    """A tensor whose numbers are where it points: a negated view points at the opposite, one of zeros at nothing."""
    tensor = tensor.detach()
    return tensor.resolve_neg().clone() if tensor.is_neg() or tensor._is_zerotensor() else tensor


def dtype_of(job: Job) -> Any:
    """What the results are computed in."""
    return torch.float64 if job.bits == 64 else torch.float32


def _reduced(job: Job, values: Tensor, reduction: str, dtype: Any) -> Tensor:
    if reduction == "none":
        return values.to(dtype)
    whole = values.sum(dtype=torch.float64)
    return (whole / job.count if reduction == "mean" else whole).to(dtype)


class _Divergence(torch.autograd.Function):
    """One pass forward and one back."""

    @staticmethod
    def forward(ctx: Any, job: Job, reduction: str, seen: list[Tensor], *tensors: Tensor) -> Tensor:
        values = job.leaf.values(job, tensors)
        seen.append(values)
        ctx.job, ctx.reduction = job, reduction
        keep(ctx, tensors)
        return _reduced(job, values, reduction, tensors[0].dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        job, tensors, wanted = ctx.job, kept(ctx), ctx.needs_input_grad[3:]
        cotangent = of_each(job, ctx.reduction, cotangent.to(dtype_of(job)))
        plain = type(cotangent) is torch.Tensor and not is_legacy_batchedtensor(cotangent)
        found = None
        if plain and not torch.is_grad_enabled() and not obstacle():
            try:
                found = job.leaf.gradients(job, tensors, cotangent, wanted)
            except CannotCompile as error:
                give_up(job.path, error)
        if found is None:
            found = followed(job, tuple(tensor.to(dtype_of(job)) for tensor in tensors), cotangent, wanted)
        gradients = [
            None if gradient is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(found, tensors, strict=True)
        ]
        return None, None, None, *gradients
