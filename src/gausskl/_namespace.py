"""The one door to array-api-compat: which library an array belongs to, where it lives, whether it can be read."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import array_api_compat
import numpy as np

Array = Any


def library(xp: Any) -> str:
    """Name of the library behind a namespace: "numpy", "torch", "jax", "dask", "cupy", "array_api_strict", ..."""
    words = [word for word in xp.__name__.split(".") if word not in ("array_api_compat", "array")]
    return str(words[0])


def namespace(*arrays: Array) -> Any:
    """Array-API namespace of the arrays."""
    return array_api_compat.array_namespace(*arrays)


def name_of(array: Array) -> str:
    """Name of an array's library, for a sentence: "torch"."""
    return type(array).__module__.partition(".")[0].replace("jaxlib", "jax")


def device_of(array: Array, *, xp: Any) -> Any:
    """Device to create new arrays on; None lets JAX choose, which moves such arrays freely."""
    return None if library(xp) == "jax" else array_api_compat.device(array)


def name_of_dtype(dtype: Any) -> str:
    """Name of a dtype, for a sentence: "float32"."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def adopt(given: dict[str, Any]) -> tuple[dict[str, Array], bool]:
    """Arrays of one library and device for what the user gave, and whether it was plain Python numbers throughout.

    Numbers and lists take the library, dtype and device of the arrays beside them; among themselves they become
    NumPy float64.
    """
    arrays = {name: value for name, value in given.items() if not _is_plain(value)}
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


def convert(array: Array, *, xp: Any, dtype: Any, device: Any) -> Array:
    """The array in the namespace, dtype and on the device of another."""
    if library(namespace(array)) == library(xp):
        return array if array.dtype == dtype else xp.astype(array, dtype)
    return xp.asarray(array, dtype=dtype, device=device)


def floating_dtype(xp: Any, arrays: Any) -> Any:
    """Common floating dtype of arrays; the default one of the library if all are integers."""
    floating = [array.dtype for array in arrays if xp.isdtype(array.dtype, "real floating")]
    if not floating:
        return xp.asarray(1.0).dtype
    return xp.result_type(*floating) if len(set(floating)) > 1 else floating[0]


def computing_dtype(xp: Any, dtype: Any) -> Any:
    """Dtype to compute in: float32 for anything narrower."""
    return dtype if xp.finfo(dtype).bits >= 32 else xp.float32


def one_library(arrays: dict[str, Array]) -> None:
    """Refuse arrays of two libraries or on two devices, by name."""
    first, *others = arrays.items() or [(None, None)]
    for name, array in others:
        a, b = library(namespace(first[1])), library(namespace(array))
        if a != b:
            raise TypeError(
                f"{first[0]} is an array of {a} and {name} one of {b}: all arrays of a call must come from one "
                f"library, so convert one of them first"
            )
        if a not in ("jax", "dask"):
            here, there = array_api_compat.device(first[1]), array_api_compat.device(array)
            if here != there:
                raise ValueError(
                    f"{first[0]} is on {here} and {name} on {there}: all arrays of a call must be on one device, so "
                    f"move one of them first"
                )


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, list, tuple, np.generic))


def _from_plain(name: str, value: Any, xp: Any, dtype: Any, device: Any) -> Array:
    try:
        numbers = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{name} is a {type(value).__name__} that does not make an array: {error}") from None
    _refuse_unsuitable(name, numbers)
    return xp.asarray(numbers.tolist(), dtype=dtype, device=device)


def _refuse_unsuitable(name: str, array: Any) -> None:
    """A sentence for whatever is not an array of real numbers."""
    kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill it with {name}.filled(...) or take the rows that are whole")
    if isinstance(array, np.matrix):
        raise TypeError(f"{name} is a numpy.matrix, which has no batch axes: convert it with numpy.asarray")
    if not array_api_compat.is_array_api_obj(array):
        hint = "; convert it with .to_numpy()" if hasattr(array, "to_numpy") else ""
        raise TypeError(f"{name} is a {kind}: expected an array of real numbers, a number or a list{hint}")
    if "torch" in kind and "strided" not in str(array.layout):
        raise TypeError(f"{name} is a {array.layout} tensor: convert it with .to_dense()")
    if array_api_compat.is_pydata_sparse_array(array):
        raise TypeError(f"{name} is a sparse array: convert it with .todense()")
    xp = namespace(array)
    dtype = name_of_dtype(array.dtype)
    if isinstance(array, np.ndarray) and array.dtype.kind not in "fiu":
        hints = {"c": "take .real if it is real", "b": "convert it with .astype(float)", "O": "convert it with .astype(float)"}
        raise TypeError(
            f"{name} has dtype {dtype}: expected real numbers; "
            + hints.get(array.dtype.kind, "convert it to float32 or float64 first")
        )
    if not xp.isdtype(array.dtype, ("real floating", "integral")):
        hint = "take its real part" if xp.isdtype(array.dtype, "complex floating") else "convert it to a float dtype"
        raise TypeError(f"{name} has dtype {dtype}: expected real numbers; {hint}")
    if xp.isdtype(array.dtype, "real floating") and xp.finfo(array.dtype).bits > 64:
        raise TypeError(f"{name} has dtype {dtype}: results are exact to float64; convert it with .astype('float64')")


def is_lazy(array: Array) -> bool:
    """Whether the array has no values yet: Dask."""
    return bool(array_api_compat.is_dask_array(array))


def can_be_read(array: Array) -> bool:
    """Whether values can be looked at without a copy from a device: eager, on the CPU, under no transformation."""
    if array_api_compat.is_numpy_array(array):
        return True
    if array_api_compat.is_torch_array(array):
        return _torch_can_be_read(array)
    if array_api_compat.is_jax_array(array):
        import jax

        return not isinstance(array, jax.core.Tracer) and all(d.platform == "cpu" for d in array.devices())
    return array_api_compat.is_array_api_strict_namespace(namespace(array))


def is_traced(array: Array) -> bool:
    """Whether the array stands for values that do not exist yet, so that nobody can look at them."""
    if array_api_compat.is_torch_array(array):
        return array.device.type == "meta" or not _torch_is_eager(array)
    if array_api_compat.is_jax_array(array):
        import jax

        return isinstance(array, jax.core.Tracer)
    return is_lazy(array)


def _torch_can_be_read(tensor: Array) -> bool:
    return bool(tensor.device.type == "cpu" and _torch_is_eager(tensor))


def _torch_is_eager(tensor: Array) -> bool:
    import torch

    if torch.compiler.is_compiling() or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """NumPy copy of an array, for a look at its values after something went wrong."""
    if array_api_compat.is_torch_array(array):
        array = array.detach().cpu()
        if "bfloat16" in str(array.dtype):
            array = array.float()
    if array_api_compat.is_cupy_array(array):
        array = array.get()
    return np.asarray(array)


@contextlib.contextmanager
def _quiet_numpy() -> Any:
    with np.errstate(all="ignore"):
        yield


def quiet(xp: Any) -> Any:
    """Context without floating-point warnings: an overflow inside a branch not taken concerns nobody."""
    return _quiet_numpy() if library(xp) in ("numpy", "array_api_strict") else contextlib.nullcontext()
