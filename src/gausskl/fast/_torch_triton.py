"""The Triton leaf for torch tensors on a GPU. It steps aside wherever torch itself follows the computation."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch._C._functorch import is_legacy_batchedtensor

from . import CannotCompile, Job, _triton, give_up
from ._torch_follows import followed, obstacle, of_each

Tensor = Any

__all__ = ["divergence", "obstacle", "warm_up"]


def divergence(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Tensor]:
    """The divergence, and that of each row in the dtype it was computed in."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        seen: list[Tensor] = []
        return _Divergence.apply(job, reduction, seen, *tensors), seen[0]
    values = _values(job, tensors)
    return _reduced(job, values, reduction, tensors[0].dtype), values


def warm_up(job: Job, tensors: tuple[Tensor, ...], gradients: bool) -> None:
    """Compile what the divergence needs, and its gradients; Triton does so when a kernel first runs."""
    with torch.enable_grad():
        result, _ = divergence(job, tuple(tensor.detach().requires_grad_(gradients) for tensor in tensors), "mean")
    if gradients:
        result.backward()


def _values(job: Job, tensors: tuple[Tensor, ...]) -> Tensor:
    parts = 1 if job.per_dim else _triton.parts(job.event_size)
    shape, dtype = (job.shape, _dtype(job)) if parts == 1 else ((*job.shape, parts), torch.float64)
    out = torch.empty(shape, dtype=dtype, device=tensors[0].device)
    _run(_triton.forward, (job.spreads, job.bits, job.per_dim), job, list(tensors), [out])
    return out if parts == 1 else out.sum(-1).to(_dtype(job))


def _run(make: Any, key: tuple[Any, ...], job: Job, read: list[Tensor], written: list[Tensor]) -> None:
    """Let a kernel run on the device of the tensors."""
    read = [_in_memory(tensor) for tensor in read]
    device = read[0].device
    elsewhere = read[0].is_cuda and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        try:
            _triton.run(make(*key), read, written, job.batch_shape, job.event_size)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            raise CannotCompile(f"{type(error).__name__}: {error}") from error


def _in_memory(tensor: Tensor) -> Tensor:
    """A tensor whose numbers are where it points: a negated view points at the opposite, one of zeros at nothing."""
    tensor = tensor.detach()
    return tensor.resolve_neg().clone() if tensor.is_neg() or tensor._is_zerotensor() else tensor


def _dtype(job: Job) -> Any:
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
        values = _values(job, tensors)
        seen.append(values)
        ctx.job, ctx.reduction = job, reduction
        ctx.save_for_backward(*tensors)
        return _reduced(job, values, reduction, tensors[0].dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        job, tensors, wanted = ctx.job, ctx.saved_tensors, ctx.needs_input_grad[3:]
        cotangent = of_each(job, ctx.reduction, cotangent.to(_dtype(job)))
        plain = type(cotangent) is torch.Tensor and not is_legacy_batchedtensor(cotangent)
        if plain and not torch.is_grad_enabled() and not obstacle():
            try:
                return None, None, None, *_gradients(job, tensors, cotangent, wanted)
            except CannotCompile as error:
                give_up(job.path, error)
        wide = tuple(tensor.to(_dtype(job)) for tensor in tensors)
        found = followed(job, wide, cotangent, wanted)
        return (
            None,
            None,
            None,
            *[
                None if gradient is None else gradient.to(tensor.dtype)
                for gradient, tensor in zip(found, tensors, strict=True)
            ],
        )


def _gradients(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients by a kernel; those of what is broadcast are summed afterwards."""
    whole = (*job.batch_shape, job.event_size)
    outputs = [
        torch.empty(whole, dtype=tensor.dtype if tensor.shape == whole else _dtype(job), device=tensor.device)
        for tensor, want in zip(tensors, wanted, strict=True)
        if want
    ]
    weights = cotangent if job.per_dim else cotangent.unsqueeze(-1)
    _run(_triton.backward, (job.spreads, job.bits, wanted), job, [*tensors, weights], outputs)
    found = iter(outputs)
    return [
        next(found).sum_to_size(tensor.shape).to(tensor.dtype) if want else None
        for tensor, want in zip(tensors, wanted, strict=True)
    ]
