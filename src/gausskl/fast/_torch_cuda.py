"""The leaf for dense pairs of torch tensors on a GPU: the kernels of ``_cuda_dense.py``, compiled by NVRTC."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

from . import Job, _cuda_dense, _gpu
from ._dense_formula import formula, four
from ._torch_follows import obstacle
from ._torch_gpu import divergence, dtype_of, in_memory, on_device_of, warm_up

Tensor = Any

__all__ = ["divergence", "formula", "four", "gradients", "obstacle", "values", "warm_up"]


def values(job: Job, tensors: tuple[Tensor, ...]) -> Tensor:
    """The divergence of each pair, by one thread each."""
    out = torch.empty(job.shape, dtype=dtype_of(job), device=tensors[0].device)
    if out.numel():
        with on_device_of(out):
            _run(job, tensors, out)
    return out


def gradients(*_: Any) -> None:
    """None: the formulas find them."""


def _run(job: Job, tensors: tuple[Tensor, ...], out: Tensor) -> None:
    events = _cuda_dense.events(job)
    wholes = [_whole(tensor, job.batch_shape, event) for tensor, event in zip(tensors, events, strict=True)]
    batch = range(len(job.batch_shape))
    outer, inner = _gpu.two_axes(job.batch_shape, [[whole.stride(k) for whole in wholes] for k in batch])
    views = [whole.reshape(outer, inner, *event) for whole, event in zip(wholes, events, strict=True)]
    strides = [stride for view in views for stride in view.stride()[:2]]
    pointers = [tensor.data_ptr() for tensor in (*views, out)]
    kernel = _kernel(job.spreads, job.bits, job.event_size, torch.cuda.get_device_capability())
    Device(torch.cuda.current_device()).set_current()  # a thread of its own may have used none yet
    blocks = LaunchConfig(grid=-(-out.numel() // _cuda_dense.THREADS), block=_cuda_dense.THREADS)
    launch(_Stream(), blocks, kernel, *pointers, *map(np.int64, (out.numel(), inner, *strides)))


def _whole(tensor: Tensor, batch: tuple[int, ...], event: tuple[int, ...]) -> Tensor:
    """The tensor with the shape of the batch and of an event, whose numbers lie one after the other."""
    tensor = in_memory(tensor)
    own = tensor.shape[: max(tensor.ndim - len(event), 0)]
    tensor = tensor.expand(*own, *event)
    apart = tensor.numel() and not tensor[(0,) * len(own)].is_contiguous()
    return (tensor.contiguous() if apart else tensor).expand(*batch, *event)


@functools.cache
def _kernel(spreads: Any, bits: int, d: int, capability: tuple[int, int]) -> Any:
    return compiled(spreads, bits, d, "sm_{}{}".format(*capability)).get_kernel("gausskl_dense")


def compiled(spreads: Any, bits: int, d: int, arch: str) -> Any:
    """The kernel for a GPU of some kind, which need not be there."""
    options = ProgramOptions(std="c++17", arch=arch, fma=False)
    return Program(_cuda_dense.source(spreads, bits, d), "c++", options).compile("cubin")


class _Stream:
    """The current stream of torch, for libraries that know none but their own."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream().cuda_stream
