"""The Triton leaf for torch tensors on a GPU: diagonal pairs. It steps aside where torch follows the computation."""

from __future__ import annotations

from typing import Any

import torch

from ..autograd import divergence, dtype_of, obstacle, of_each
from ..contract import Job
from . import triton
from .torch import finished, in_memory, on_device_of, warm_up

Tensor = Any

__all__ = ["backward", "divergence", "forward", "obstacle", "warm_up"]


def forward(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Tensor, None]:
    """The divergence of each row; that of a long one in parts, which are summed."""
    parts = 1 if job.per_dim else triton.parts(job.event_size)
    shape, dtype = (job.shape, dtype_of(job)) if parts == 1 else ((*job.shape, parts), torch.float64)
    out = torch.empty(shape, dtype=dtype, device=tensors[0].device)
    with on_device_of(out):
        _run(triton.forward(job.spreads, job.bits, job.per_dim), job, tensors, [out])
    return finished(job, out if parts == 1 else out.sum(-1).to(dtype_of(job)), tensors, reduction)


def backward(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, reduction: str, wanted: tuple[bool, ...], _: None
) -> list[Tensor | None]:
    """The gradients by a kernel; those of what is broadcast are summed afterwards."""
    cotangent = of_each(job, reduction, cotangent)
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
        next(found).sum_to_size(tensor.shape).to(tensor.dtype) if want else None
        for tensor, want in zip(tensors, wanted, strict=True)
    ]


def _run(kernel: Any, job: Job, read: tuple[Tensor, ...], written: list[Tensor]) -> None:
    triton.run(kernel, [in_memory(tensor) for tensor in read], written, job.batch_shape, job.event_size)
