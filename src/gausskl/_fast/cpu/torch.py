"""The Numba leaf for torch tensors on the CPU. It steps aside wherever torch itself follows the computation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch._C._functorch import is_legacy_batchedtensor

from ..autograd import by_formulas, followed, keep, kept, obstacle, of_each
from ..contract import CannotCompile, Job
from ..leaves import give_up
from . import leaf

Tensor = Any

__all__ = ["divergence", "obstacle"]


def divergence(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Any]:
    """As the function of this name for NumPy arrays, and differentiable."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                seen: list[Any] = []
                return _Divergence.apply(job, reduction, seen, *tensors), seen[0]
    result, suspect = leaf.divergence(job, _arrays(tensors), reduction)
    return torch.from_numpy(result), suspect


def _arrays(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """The memory of the tensors as NumPy arrays."""
    try:
        return tuple([(tensor.detach() if tensor.requires_grad else tensor).numpy() for tensor in tensors])
    except RuntimeError:  # the memory of a negated view holds the opposite, and that of a tensor of zeros nothing
        return tuple([tensor.detach().resolve_neg().clone().numpy() for tensor in tensors])


def _empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array in torch's memory if it is large: NumPy would ask the system for it anew each time."""
    if math.prod(shape) < 2**18:
        return np.empty(shape, dtype)
    return torch.empty(shape, dtype=getattr(torch, dtype.name)).numpy()


class _Divergence(torch.autograd.Function):
    """One pass forward and one back."""

    @staticmethod
    def forward(ctx: Any, job: Job, reduction: str, seen: list[Any], *tensors: Tensor) -> Tensor:
        values, special = job.engine.by_row(job, _arrays(tensors))
        seen.append(None if special is None else values)
        ctx.job, ctx.reduction, ctx.special = job, reduction, special
        keep(ctx, tensors)
        return torch.from_numpy(values if reduction == "none" else leaf.reduced(job, values, reduction))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        job, tensors, wanted = ctx.job, kept(ctx), ctx.needs_input_grad[3:]
        plain = type(cotangent) is torch.Tensor and not is_legacy_batchedtensor(cotangent)
        gradients = None
        if plain and not torch.is_grad_enabled() and not obstacle():
            try:
                with np.errstate(all="ignore"):
                    weights = _weights(job, ctx.reduction, cotangent)
                    gradients = job.engine.gradients(job, _arrays(tensors), weights, wanted, ctx.special, _empty)
                    if gradients is not None and ctx.special is not None and not job.diagonal:
                        _add_special(job, tensors, weights, wanted, ctx.special, gradients)
            except CannotCompile as error:
                give_up(job.path, error)
        if gradients is None:
            return None, None, None, *followed(job, tensors, of_each(job, ctx.reduction, cotangent), wanted)
        return None, None, None, *[None if array is None else torch.from_numpy(array) for array in gradients]


def _weights(job: Job, reduction: str, cotangent: Tensor) -> Any:
    """What each term counts in the loss, as an array that broadcasts with the inputs."""
    if reduction == "none":
        (weights,) = _arrays((cotangent,))
        return weights if job.per_dim else weights[..., None]
    return np.array([[cotangent.item() / ((job.count or 1) if reduction == "mean" else 1)]], job.dtype)


def _add_special(
    job: Job, tensors: tuple[Tensor, ...], weights: Any, wanted: tuple[bool, ...], special: Any, gradients: list[Any]
) -> None:
    """Add what the special rows contribute, which the formulas find."""
    index = np.unravel_index(special, job.batch)
    events = [min(axes, tensor.ndim) for tensor, axes in zip(tensors, job.engine.events(job), strict=False)]
    rows = []
    for tensor, axes in zip(tensors, events, strict=True):
        event = tensor.shape[tensor.ndim - axes :]
        rows.append(tensor.detach().expand(*job.batch, *event)[index])
    cotangent = torch.from_numpy(np.broadcast_to(weights[..., 0], job.batch)[index])
    rowwise = dataclasses.replace(job, batch_shape=(len(special),))
    found = by_formulas(rowwise, tuple(rows), cotangent, wanted)
    for gradient, part, axes in zip(gradients, found, events, strict=True):
        if part is None:
            continue
        own = gradient.shape[: gradient.ndim - axes]
        if own:
            last = index[len(index) - len(own) :]
            np.add.at(gradient, tuple(i if n > 1 else 0 * i for i, n in zip(last, own, strict=True)), part.numpy())
        else:
            gradient += part.numpy().sum(axis=0)
