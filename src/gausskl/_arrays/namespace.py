"""The one door to array-api-compat: which library an array belongs to, where it lives, whether it can be read."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import array_api_compat
import numpy as np

from .libraries import LIBRARIES, UNKNOWN, facts, name_of

Array = Any


def library_of(array: Array) -> str:
    """Name of the library that an array belongs to."""
    return name_of(namespace(array))


def namespace(array: Array) -> Any:
    """Array-API namespace of an array.

    The usual libraries are known by the name of the array's type: quicker than asking array-api-compat, and
    ``torch.compile`` can follow it.
    """
    match home_of(array).partition(".")[0]:
        case "numpy":
            import array_api_compat.numpy as found
        case "torch":
            import array_api_compat.torch as found
        case "jax" | "jaxlib":
            import jax.numpy as found
        case "cupy":
            import array_api_compat.cupy as found
        case "dask":
            import array_api_compat.dask.array as found
        case "tensorflow":
            from . import tensorflow as found
        case _:
            found = array_api_compat.array_namespace(array)
    return found


def can_change(library: str) -> bool:
    """Whether an array of a library may get another shape, dtype or device after it was made."""
    return LIBRARIES.get(library, UNKNOWN).changeable


def device_of(array: Array, *, xp: Any) -> Any:
    """Device to create new arrays on; None lets those libraries choose that move arrays by themselves."""
    return None if facts(xp).moves_freely else array.device


def is_on_gpu(array: Array) -> bool:
    """Whether an array of CuPy or torch is in the memory of a CUDA device."""
    return library_of(array) == "cupy" or bool(getattr(array, "is_cuda", False))


def name_of_dtype(dtype: Any) -> str:
    """Name of a dtype, for a sentence: "float32"."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).rpartition(".")[2]


def floating_dtype(xp: Any, arrays: Any) -> Any:
    """Common floating dtype of arrays; the default one of the library if all are integers."""
    floating = [array.dtype for array in arrays if xp.isdtype(array.dtype, "real floating")]
    if not floating:
        return xp.asarray(1.0).dtype
    return xp.result_type(*floating) if len(set(floating)) > 1 else floating[0]


def widest_integer(xp: Any) -> Any:
    """The widest signed integers of a library; JAX has those of 64 bits only where it is told so."""
    return xp.asarray(0).dtype if name_of(xp) == "jax" else xp.int64


def computing_dtype(xp: Any, dtype: Any) -> Any:
    """Dtype to compute in: float32 for anything narrower, float64 where float32 functions are not good enough.

    NumPy's exp and log for float32 are off by up to 4 ulp on some processors, which no formula could make good.
    """
    if xp.finfo(dtype).bits < 32:
        return xp.float32
    return dtype if facts(xp).float32_functions else xp.float64


def home_of(value: Any) -> str:
    """Name of the module that the type of something comes from; a type may have none."""
    return str(type(value).__module__)


def is_lazy(array: Array) -> bool:
    """Whether the array is a recipe for values: Dask."""
    return library_of(array) == "dask"


def is_traced(array: Array) -> bool:
    """Whether the array has no values to look at yet: lazy, or under a transformation."""
    name = library_of(array)
    if name == "torch":
        return not _torch_is_eager(array)
    if name == "jax":
        import jax

        return isinstance(array, jax.core.Tracer)
    if name == "tensorflow":
        return not hasattr(array, "numpy")
    if name == "ndonnx":
        return not _has_value(array)
    return name == "dask"


def can_be_read(array: Array) -> bool:
    """Whether values can be looked at without a copy from a device: eager and on the CPU."""
    name = library_of(array)
    if is_traced(array) or name == "cupy":
        return False
    if name == "jax":
        return all(device.platform == "cpu" for device in array.devices())
    if name == "tensorflow":
        return "CPU" in array.device
    return name != "torch" or array.device.type == "cpu"


def is_differentiated(array: Array) -> bool:
    """Whether torch follows an eager array for a gradient or a directional derivative."""
    if library_of(array) != "torch":
        return False
    import torch

    forward = torch.autograd.forward_ad.unpack_dual(array).tangent is not None
    return bool(array.requires_grad and torch.is_grad_enabled()) or forward


def _torch_is_eager(tensor: Array) -> bool:
    import torch

    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.device.type == "meta":
        return False
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _has_value(array: Array) -> bool:
    """Whether an array of ndonnx is a constant, and not an input of a model or what follows from one."""
    try:
        array.unwrap_numpy()
    except ValueError:
        return False
    return True


def threads_of(library: str) -> int | None:
    """How many threads a library uses for one operation; None if it does not say."""
    return int(sys.modules["torch"].get_num_threads()) if library == "torch" else None


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """NumPy copy of an array, for a look at its values after something went wrong."""
    if library_of(array) == "torch":
        array = array.detach().cpu()
        if "bfloat16" in str(array.dtype):
            array = array.float()
    if library_of(array) == "cupy":
        array = array.get()
    if library_of(array) == "tensorflow":
        array = array.numpy()
    if library_of(array) == "ndonnx":
        array = array.unwrap_numpy()
    return np.asarray(array)


def not_converted(function: Any) -> Any:
    """Mark a function as one that AutoGraph shall call and not rewrite, with all that it calls.

    ``tf.autograph.experimental.do_not_convert`` does the same, and needs TensorFlow to be imported.
    """
    function.autograph_info__ = {}
    return function


@contextlib.contextmanager
def _quiet_numpy() -> Any:
    with np.errstate(all="ignore"):
        yield


def quiet(xp: Any) -> Any:
    """Context without floating-point warnings: an overflow inside a branch not taken concerns nobody."""
    return _quiet_numpy() if facts(xp).warns else contextlib.nullcontext()
