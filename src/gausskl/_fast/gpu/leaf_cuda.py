"""The leaf for dense pairs of torch tensors on a GPU: the kernels of ``cuda_dense.py``, compiled by NVRTC."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

from ..autograd import divergence, dtype_of, obstacle
from ..contract import Job
from . import cuda_dense, programs
from .torch import finished, in_memory, on_device_of, warm_up

Tensor = Any

__all__ = ["backward", "divergence", "forward", "obstacle", "warm_up"]


def forward(job: Job, tensors: tuple[Tensor, ...], reduction: str) -> tuple[Tensor, Tensor, None]:
    """The divergence of each pair, by one thread each."""
    out = torch.empty(job.shape, dtype=dtype_of(job), device=tensors[0].device)
    if out.numel():
        with on_device_of(out):
            _run(job, tensors, out)
    return finished(job, out, tensors, reduction)


def backward(*_: Any) -> None:
    """None: the formulas find them."""


def _run(job: Job, tensors: tuple[Tensor, ...], out: Tensor) -> None:
    events = cuda_dense.events(job)
    tensors = tuple(_apart(tensor, event) for tensor, event in zip(tensors, events, strict=True))
    found = _layout(job, tensors, events)
    if found is None:
        both = zip(tensors, events, strict=True)
        tensors = tuple(tensor.expand(*job.batch_shape, *event).contiguous() for tensor, event in both)
        found = _layout(job, tensors, events)
    inner, steps = found
    numbers = [out.numel(), inner, *(step for each in steps for step in each[:2])]
    kernel = _kernel(job.spreads, job.bits, job.event_size, torch.cuda.get_device_capability())
    blocks = LaunchConfig(grid=-(-out.numel() // cuda_dense.THREADS), block=cuda_dense.THREADS)
    Device(torch.cuda.current_device()).set_current()  # a thread of its own may have used none yet
    launch(_Stream(), blocks, kernel, *(tensor.data_ptr() for tensor in (*tensors, out)), *map(np.int64, numbers))


def _layout(job: Job, tensors: tuple[Tensor, ...], events: list[tuple[int, ...]]) -> Any:
    both = zip(tensors, events, strict=True)
    return programs.layout(job.batch_shape, [(tensor.shape, tensor.stride(), len(event)) for tensor, event in both])


def _apart(tensor: Tensor, event: tuple[int, ...]) -> Tensor:
    """The tensor with the shape of an event, whose numbers lie one after the other."""
    tensor = in_memory(tensor)
    own = tensor.shape[: max(tensor.ndim - len(event), 0)]
    tensor = tensor.expand(*own, *event)
    return tensor if not tensor.numel() or tensor[(0,) * len(own)].is_contiguous() else tensor.contiguous()


@functools.cache
def _kernel(spreads: Any, bits: int, d: int, capability: tuple[int, int]) -> Any:
    return compiled(spreads, bits, d, "sm_{}{}".format(*capability)).get_kernel("gausskl_dense")


def compiled(spreads: Any, bits: int, d: int, arch: str) -> Any:
    """The kernel for a GPU of some kind, which need not be there."""
    options = ProgramOptions(std="c++17", arch=arch, fma=False)
    return Program(cuda_dense.source(spreads, bits, d), "c++", options).compile("cubin")


class _Stream:
    """The current stream of torch, for libraries that know none but their own."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream().cuda_stream
