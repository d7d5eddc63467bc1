"""What the leaves for torch tensors on a GPU have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ..autograd import divergence
from ..contract import CannotCompile, Job, reduced

Tensor = Any


def finished(job: Job, values: Tensor, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Tensor, None]:
    """What a leaf gives forward: nothing has been read back, so all rows are to be looked at again."""
    result = values if reduction == "none" else reduced(job, values, reduction, torch.float64)
    return result.to(tensors[0].dtype), values, None


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
