"""The array libraries under test, and how arrays get in and out of them."""

import importlib
import importlib.util
from enum import Enum

import array_api_compat
import numpy as np

from gausskl._arrays.namespace import namespace

TORCH_DEVICE = "cpu"  # --torch-device


class Backend(Enum):
    """One parameter of the `xp` fixture; the value is the module that makes its arrays."""

    NUMPY = "numpy"
    NUMPY_READONLY = "numpy_readonly"
    ARRAY_API_STRICT = "array_api_strict"
    TORCH = "torch"
    JAX = "jax.numpy"
    DASK = "dask.array"
    CUPY = "cupy"
    TENSORFLOW = "tensorflow"

    def __str__(self):
        return self.name.lower()

    @property
    def library(self):
        """The name that --require-backend knows."""
        return str(self).removesuffix("_readonly")

    def load(self):
        """Import the library, prove that it can allocate an array, and return its namespace."""
        if self is Backend.NUMPY_READONLY:
            return ReadOnlyNumPy()
        module = importlib.import_module(self.value)
        if self is Backend.JAX:
            importlib.import_module("jax").config.update("jax_enable_x64", True)
        if self is Backend.TENSORFLOW:
            return namespace(module.zeros(1))  # which array-api-compat does not know
        return array_api_compat.array_namespace(module.zeros(1))


class ReadOnlyNumPy:
    """NumPy, but every array that comes out of it is read-only."""

    def __getattr__(self, name):
        attribute = getattr(array_api_compat.array_namespace(np.empty(0)), name)
        if not callable(attribute) or isinstance(attribute, type):
            return attribute

        def function(*args, **kwargs):
            return _read_only(attribute(*args, **kwargs))

        return function


def _read_only(result):
    if not isinstance(result, np.ndarray):
        return result
    view = result.view()
    view.flags.writeable = False
    return view


def make(xp, values, dtype=None):
    """Return an array of the namespace `xp` with the values and the dtype of a NumPy array.

    `dtype` is the name of another dtype to convert to, such as "bfloat16".
    """
    array = xp.asarray(np.array(values))  # a copy: no backend shares memory with the test's array
    array = array.to(TORCH_DEVICE) if array_api_compat.is_torch_array(array) else array
    return array if dtype is None else xp.astype(array, getattr(xp, dtype))


def has_leaf(xp):
    """Whether compiled kernels serve arrays of the namespace `xp` here."""
    return (
        importlib.util.find_spec("numba") is not None
        and xp.__name__.endswith(("numpy", "torch"))
        and "jax" not in xp.__name__
    )


def to_numpy(array):
    """Return the values of any backend's array as a NumPy array; bfloat16 becomes float32."""
    if array_api_compat.is_torch_array(array):
        array = array.detach().cpu()
        array = array.float() if "bfloat16" in str(array.dtype) else array
    elif array_api_compat.is_cupy_array(array):
        array = array.get()
    elif hasattr(array, "numpy"):  # TensorFlow, whose bfloat16 NumPy cannot convert by itself
        array = array.numpy()
    values = np.asarray(array)
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values
