"""What is known of arrays in memory without their values, found out as quickly as Python can."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


_torch: Any = None  # once a tensor has been met


_tensors: tuple[type, ...] = ()


def signature(*arrays: Array) -> tuple[Any, ...] | None:
    """Dtypes, shapes and devices of arrays that are exactly NumPy's, CuPy's or torch's, with values; else None."""
    found: list[Any] = []
    for array in arrays:
        kind = type(array)
        if kind is np.ndarray:
            if not (array.dtype.isnative and array.flags.aligned):
                return None
        elif kind in _tensors or _is_tensor(kind):
            if array.layout is not _torch.strided or not (array.is_cpu or array.is_cuda):
                return None
            if not array.is_cpu:
                found.append(array.device)
        elif kind.__module__ == "cupy" and kind.__name__ == "ndarray":
            found.append(("cupy", array.device.id))
        else:
            return None
        found += array.dtype, array.shape
    return None if _torch is not None and _torch.compiler.is_compiling() else tuple(found)


def _is_tensor(kind: type) -> bool:
    """Whether this is a tensor of torch and none of its subclasses."""
    global _torch, _tensors
    if kind in (float, int) or kind.__module__ not in ("torch", "torch.nn.parameter"):
        return False
    import torch

    _torch, _tensors = torch, (torch.Tensor, torch.nn.Parameter)
    return kind in _tensors


def has_memory(name: str, array: Any) -> None:
    """Refuse a tensor of torch with a shape beyond its memory: ``resize_`` leaves it so where it fails."""
    if type(array) in _tensors and array.layout is _torch.strided and array.numel():
        last = array.storage_offset() + sum((n - 1) * step for n, step in zip(array.shape, array.stride(), strict=True))
        if array.untyped_storage().nbytes() < (last + 1) * array.element_size():
            raise ValueError(f"{name} has shape {tuple(array.shape)}, and its memory holds fewer numbers")
