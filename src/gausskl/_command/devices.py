"""What is particular to each library that ``python -m gausskl doctor`` looks at: versions, devices, cures.

A library is imported when its devices are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = Any

INSTALL = {
    "numpy": 'pip install "numpy>=2"',
    "torch": 'pip install "gausskl[torch]"',
    "cupy": 'pip install "gausskl[cupy-cuda12]" or "gausskl[cupy-cuda13]"',
    "jax": 'pip install "gausskl[jax]"',
    "dask": 'pip install "gausskl[dask]"',
    "tensorflow": 'pip install "gausskl[tensorflow]"',
    "numba": 'pip install "gausskl[numba]"',
    "triton": "pip install triton (PyTorch for CUDA brings it)",
    "cuda.core": 'pip install "gausskl[torch-cuda12]" or "gausskl[torch-cuda13]"',
}
OLDEST = {
    "numpy": "2.0.0",
    "torch": "2.4",
    "cupy": "13.3",
    "jax": "0.4.34",
    "dask": "2024.9",
    "tensorflow": "2.18",
    "numba": "0.61",
}
# What compiles kernels, with a library whose arrays it serves.
HELPERS = {"numba": "numpy", "triton": "torch", "cuda.core": "torch"}


@dataclasses.dataclass(frozen=True)
class Device:
    """Where arrays are, and how to put them there."""

    name: str
    array: Callable[[Any], Array]
    about: str = ""


def _numpy() -> Iterator[Device]:
    yield Device("cpu", np.asarray)


def _torch() -> Iterator[Device]:
    import torch

    unused = torch.version.cuda and not torch.cuda.is_available()
    about = f"torch is built for CUDA {torch.version.cuda} and finds no GPU that it can use." if unused else ""
    yield Device("cpu", torch.tensor, about=about)
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name = f"cuda:{i}"
        with torch.cuda.device(i):
            yield Device(
                name,
                functools.partial(torch.tensor, device=name),
                about=f"{name} is called {torch.cuda.get_device_name(i)} by torch.",
            )


def _cupy() -> Iterator[Device]:
    import cupy

    cupy.zeros(1)
    for i in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(i):
            called = cupy.cuda.runtime.getDeviceProperties(i)["name"].decode()
            yield Device(
                f"cuda:{i}",
                cupy.asarray,
                about=f"cuda:{i} is called {called} by cupy.",
            )


def _jax() -> Iterator[Device]:
    import jax

    jax.config.update("jax_enable_x64", True)  # in this process, which ends with its report
    for device in jax.devices():
        array = functools.partial(jax.device_put, device=device)
        name = "cpu" if device.platform == "cpu" else str(device)
        about = "" if name == "cpu" else f"{name} is called {device.device_kind} by jax."
        yield Device(name, array, about)


def _dask() -> Iterator[Device]:
    import dask.array

    yield Device("cpu", functools.partial(dask.array.from_array, chunks=1024))


def _tensorflow() -> Iterator[Device]:
    import tensorflow as tf

    for device in tf.config.list_logical_devices():
        name = device.name.removeprefix("/device:").lower()
        if device.device_type in ("CPU", "GPU"):
            with tf.device(device.name):
                yield Device(name.removesuffix(":0"), tf.constant)


DEVICES: dict[str, Callable[[], Iterator[Device]]] = {
    "numpy": _numpy,
    "torch": _torch,
    "cupy": _cupy,
    "jax": _jax,
    "dask": _dask,
    "tensorflow": _tensorflow,
}
EVERY = (*DEVICES, *HELPERS)


def upgrade(library: str) -> str:
    """The command that brings a version that is new enough."""
    return INSTALL[library].replace("install", "install --upgrade", 1)


def cure(library: str, error: Exception) -> str:
    """What to do about an error, as a sentence, where that is known."""
    if library == "cupy":
        return _cure_of_cupy(error)
    if isinstance(error, ImportError | OSError):
        return f"This may help: {upgrade(library)}"
    return ""


PARTS = (
    r"nvrtc|cublas|cusolver|cudart|lib\w+\.so|\w+\.dll|CUDA_PATH|headers?\b"  # of CUDA, by which an error names them
)


def _cure_of_cupy(error: Exception) -> str:
    fitting = f"the CuPy for that version and no other: {INSTALL['cupy']}"
    try:
        from cupy.cuda import runtime

        driver, built = (version // 1000 for version in (runtime.driverGetVersion(), runtime.runtimeGetVersion()))
    except Exception:
        return f"`nvidia-smi` shows the version of CUDA that the driver is for; install {fitting}"
    if not driver:
        return (
            "There is no CUDA driver: install NVIDIA's, until `nvidia-smi` lists the GPU. Without a GPU, remove CuPy."
        )
    if driver < built:
        return f"The driver is for CUDA {driver} and CuPy for CUDA {built}: update the driver, or install {fitting}"
    if "OutOfMemory" in type(error).__name__:
        return "The memory of the GPU is taken: `nvidia-smi` shows by whom."
    if re.search(PARTS, str(error)):
        return f'Parts of CUDA are missing, and this brings them: pip install "cupy-cuda{built}x[ctk]"'
    return ""
