"""The Numba leaf for torch tensors on the CPU. It steps aside wherever torch itself follows the computation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from ..autograd import by_formulas, divergence, obstacle
from ..by_formula import events
from ..contract import Job
from . import leaf
from .leaf import warm_up

Tensor = Any

__all__ = ["backward", "divergence", "forward", "obstacle", "warm_up"]


def forward(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Any, Any]:
    """As the function of this name for NumPy arrays."""
    result, suspect, special = leaf.forward(job, _arrays(tensors), reduction)
    return torch.from_numpy(result), suspect, special


def backward(
    job: Job, tensors: tuple[Tensor, ...], cotangent: Tensor, reduction: str, wanted: tuple[bool, ...], special: Any
) -> list[Tensor | None] | None:
    """The gradients by a kernel; None where the formulas have to find them."""
    with np.errstate(all="ignore"):
        weights = _weights(job, reduction, cotangent)
        gradients = job.engine.gradients(job, _arrays(tensors), weights, wanted, special, _empty)
        if gradients is None:
            return None
        if special is not None and not job.diagonal:
            _add_special(job, tensors, weights, wanted, special, gradients)
    return [None if array is None else torch.from_numpy(array) for array in gradients]


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
    own_axes = [min(axes, tensor.ndim) for tensor, axes in zip(tensors, events(job), strict=False)]
    rows = []
    for tensor, axes in zip(tensors, own_axes, strict=True):
        event = tensor.shape[tensor.ndim - axes :]
        rows.append(tensor.detach().expand(*job.batch, *event)[index])
    cotangent = torch.from_numpy(np.broadcast_to(weights[..., 0], job.batch)[index])
    rowwise = dataclasses.replace(job, batch_shape=(len(special),))
    found = by_formulas(rowwise, tuple(rows), cotangent, wanted)
    for gradient, part, axes in zip(gradients, found, own_axes, strict=True):
        if part is None:
            continue
        own = gradient.shape[: gradient.ndim - axes]
        if own:
            last = index[len(index) - len(own) :]
            np.add.at(gradient, tuple(i if n > 1 else 0 * i for i, n in zip(last, own, strict=True)), part.numpy())
        else:
            gradient += part.numpy().sum(axis=0)
