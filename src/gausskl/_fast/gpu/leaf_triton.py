"""The Triton leaf for torch tensors on a GPU: diagonal pairs. It steps aside where torch follows the computation."""

from __future__ import annotations

from typing import Any

import torch

from ..autograd import obstacle
from ..contract import Job
from . import triton
from .torch import divergence, dtype_of, in_memory, on_device_of, warm_up

Tensor = Any

__all__ = ["divergence", "gradients", "obstacle", "values", "warm_up"]


def values(job: Job, tensors: tuple[Tensor, ...]) -> Tensor:
    """The divergence of each row; that of a long one in parts, which are summed."""
    parts = 1 if job.per_dim else triton.parts(job.event_size)
    shape, dtype = (job.shape, dtype_of(job)) if parts == 1 else ((*job.shape, parts), torch.float64)
    out = torch.empty(shape, dtype=dtype, device=tensors[0].device)
    with on_device_of(out):
        _run(triton.forward(job.spreads, job.bits, job.per_dim), job, tensors, [out])
    return out if parts == 1 else out.sum(-1).to(dtype_of(job))


def gradients(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients by a kernel; those of what is broadcast are summed afterwards."""
    whole = (*job.batch_shape, job.event_size)
    outputs = [
        torch.empty(whole, dtype=tensor.dtype if tensor.shape == whole else dtype_of(job), device=tensor.device)
        for tensor, want in zip(tensors, wanted, strict=True)
        if want
    ]
    weights = cotangent if job.per_dim else cotangent.unsqueeze(-1)
    with on_device_of(weights):
        _run(triton.backward(job.spreads, job.bits, wanted), job, (*tensors, weights), outputs)
    found = iter(outputs)
    return [
        next(found).sum_to_size(tensor.shape) if want else None for tensor, want in zip(tensors, wanted, strict=True)
    ]


def _run(kernel: Any, job: Job, read: tuple[Tensor, ...], written: list[Tensor]) -> None:
    triton.run(kernel, [in_memory(tensor) for tensor in read], written, job.batch_shape, job.event_size)
