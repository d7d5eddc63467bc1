"""The one door to array-api-compat: which library an array belongs to, where it lives, whether it can be read."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from decimal import Decimal
from numbers import Number
from typing import Any

import array_api_compat
import numpy as np

from .libraries import BY_HOME, LIBRARIES, UNKNOWN, facts, name_of

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


def adopt(given: dict[str, Any]) -> tuple[dict[str, Array], bool]:
    """Arrays of one library and device for what the user gave, and whether it was plain Python numbers throughout.

    Numbers and lists take the library, dtype and device of the arrays beside them; among themselves they become
    NumPy float64.
    """
    given = {name: value.view(np.ndarray) if type(value) is np.memmap else value for name, value in given.items()}
    arrays = {name: value for name, value in given.items() if not is_plain(value)}
    for name, array in arrays.items():
        _refuse_unsuitable(name, array)
    one_library(arrays)
    if not arrays:
        return {name: _from_plain(name, value, np, np.float64, None) for name, value in given.items()}, True
    some = next(iter(arrays.values()))
    xp = namespace(some)
    dtype, device = floating_dtype(xp, arrays.values()), device_of(some, xp=xp)
    return {
        name: value if name in arrays else _from_plain(name, value, xp, dtype, device) for name, value in given.items()
    }, False


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


def moved(array: Array, *, xp: Any, dtype: Any, device: Any) -> Array:
    """The array itself if it belongs to the namespace, else a copy that does: numbers that came without a library."""
    return array if library_of(array) == name_of(xp) else xp.asarray(array, dtype=dtype, device=device)


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


def one_library(arrays: dict[str, Array]) -> None:
    """Refuse arrays of two libraries or on two devices, by name."""
    for first, name in itertools.pairwise(arrays):
        a, b = library_of(arrays[first]), library_of(arrays[name])
        if a != b:
            raise TypeError(
                f"{first} is an array of {a} and {name} one of {b}: all arrays of a call must come from one library, "
                f"so convert one of them first"
            )
        if not LIBRARIES.get(a, UNKNOWN).moves_freely and arrays[first].device != arrays[name].device:
            raise ValueError(
                f"{first} is on {arrays[first].device} and {name} on {arrays[name].device}: all arrays of a call must "
                f"be on one device, so move one of them first"
            )


def is_plain(value: Any) -> bool:
    """Whether these are Python's numbers, which take the library and dtype of the arrays beside them."""
    return isinstance(value, (bool, int, float, list, tuple, np.generic))


def _from_plain(name: str, value: Any, xp: Any, dtype: Any, device: Any) -> Array:
    largest = float(xp.finfo(dtype).max)
    if type(value) in (float, int) and (abs(value) <= largest or value in (math.inf, -math.inf) or value != value):
        return xp.asarray(float(value), dtype=dtype, device=device)  # which ``torch.compile`` can follow
    if isinstance(value, (list, tuple)):
        _refuse_items(name, f"a {type(value).__name__}", value)
    try:
        with np.errstate(all="ignore"):
            numbers = np.asarray(value)
            if numbers.dtype == object:  # integers of more than 64 bits
                numbers = np.asarray(value, np.float64)
    except OverflowError:
        raise ValueError(f"{name} holds an integer beyond the range of float64, which ends at 1.8e308") from None
    except (ValueError, TypeError) as error:
        raise TypeError(f"{name} is a {type(value).__name__} that does not make an array: {error}") from None
    _refuse_unsuitable(name, numbers)
    with np.errstate(all="ignore"):
        beyond = numbers[np.isfinite(numbers) & (np.abs(numbers.astype(np.float64)) > largest)]
        if beyond.size:
            raise ValueError(f"{name} holds {beyond[0]}, which is beyond the range of {name_of_dtype(dtype)}")
        return xp.asarray(numbers.tolist(), dtype=dtype, device=device)


def _refuse_items(name: str, kind: str, items: Any) -> None:
    """Lists hold numbers, lists and arrays of NumPy: whatever else NumPy could read would lose what it is."""
    for item in items:
        if type(item) in (float, int):
            continue
        if isinstance(item, (list, tuple)):
            _refuse_items(name, kind, item)
        elif isinstance(item, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is {kind} that holds a masked array: leave out, in all arrays, the rows with a masked entry; "
                "pass the .data"
            )
        elif isinstance(item, np.matrix):
            raise TypeError(
                f"{name} is {kind} that holds a numpy.matrix: convert it with numpy.asarray, or, if it is one row or "
                "column, with .A1"
            )
        elif not isinstance(item, (bool, int, float, complex, np.generic, np.ndarray)):
            home, hint = home_of(item), ""
            what = f"{home}.{type(item).__qualname__}".removeprefix("builtins.")
            first = home.partition(".")[0]
            if array_api_compat.is_array_api_obj(item) or first in BY_HOME:
                spelt = BY_HOME.get(first, UNKNOWN).spelt or first
                hint = f"; make one array of them with {spelt}.stack"
            elif isinstance(item, (Number, Decimal)):
                hint = "; convert it with float(...)"
            raise TypeError(f"{name} is {kind} that holds a {what}: expected real numbers{hint}")


def home_of(value: Any) -> str:
    """Name of the module that the type of something comes from; a type may have none."""
    return str(type(value).__module__)


def _refuse_unsuitable(name: str, array: Any) -> None:
    """A sentence for whatever is not an array of real numbers."""
    kind = f"{home_of(array)}.{type(array).__qualname__}".removeprefix("builtins.")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array: leave out, in all arrays, the rows with a masked entry; pass the .data"
        )
    if isinstance(array, np.matrix):
        raise TypeError(
            f"{name} is a numpy.matrix, which has no batch axes: convert it with numpy.asarray, or, if it is one row "
            "or column, with .A1"
        )
    known = home_of(array).partition(".")[0] in BY_HOME and hasattr(array, "dtype")
    if not known and not array_api_compat.is_array_api_obj(array):
        hint = "; convert it with .to_numpy(), which keeps no labels" if hasattr(array, "to_numpy") else ""
        if isinstance(array, (Number, Decimal)) and not isinstance(array, complex):
            hint = "; convert it with float(...)"
        if kind.startswith("keras."):
            holds = hasattr(array, "value")
            hint = (
                "; pass its .value" if holds else "; it has no values: do this inside of a layer or of a loss function"
            )
        raise TypeError(f"{name} is a {kind}: expected an array of real numbers, a number or a list{hint}")
    if "torch" in kind and "strided" not in str(array.layout):
        raise TypeError(f"{name} is a {array.layout} tensor: convert it with .to_dense()")
    xp = namespace(array)
    if name_of(xp) == "tensorflow" and not xp.is_dense(array):
        how = {"SparseTensor": "tf.sparse.to_dense", "RaggedTensor": ".to_tensor() if all rows are equally long"}
        raise TypeError(
            f"{name} is a {type(array).__name__}: convert it with "
            + how.get(type(array).__name__, "tf.convert_to_tensor")
        )
    dtype = name_of_dtype(array.dtype)
    if isinstance(array, np.ndarray) and array.dtype.kind not in "fiu":
        hints = {
            "c": "take .real if it is real",
            "b": f"convert it with numpy.asarray({name}, float)",
            "O": f"convert it with numpy.asarray({name}, float)",
        }
        raise TypeError(
            f"{name} has dtype {dtype}: expected real numbers; "
            + hints.get(array.dtype.kind, "convert it to float32 or float64 first")
        )
    if not xp.isdtype(array.dtype, ("real floating", "integral")):
        hint = (
            "take its real part if it is real"
            if xp.isdtype(array.dtype, "complex floating")
            else "convert it to a float dtype"
        )
        raise TypeError(f"{name} has dtype {dtype}: expected real numbers; {hint}")
    if xp.isdtype(array.dtype, "real floating") and xp.finfo(array.dtype).bits > 64:
        raise TypeError(f"{name} has dtype {dtype}: results are exact to float64; convert it with .astype('float64')")


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
