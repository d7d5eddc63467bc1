"""TensorFlow as an array-API namespace: as much of the standard as the formulas use.

Array-api-compat does not know TensorFlow yet. Once it does, this module goes away.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

Array = Any
Shape = tuple[Any, ...]

inf, nan = math.inf, math.nan
float16, bfloat16, float32, float64 = tf.float16, tf.bfloat16, tf.float32, tf.float64
int64 = tf.int64

# The same functions by other names.
abs, exp, expm1, floor, log, log1p, sqrt = tf.abs, tf.exp, tf.math.expm1, tf.floor, tf.math.log, tf.math.log1p, tf.sqrt
all, any, max, mean = tf.reduce_all, tf.reduce_any, tf.reduce_max, tf.reduce_mean
min, sum = tf.reduce_min, tf.reduce_sum
broadcast_to, ones_like, reshape, zeros_like = tf.broadcast_to, tf.ones_like, tf.reshape, tf.zeros_like
argsort, sort = tf.argsort, tf.sort
matrix_transpose, maximum, minimum = tf.linalg.matrix_transpose, tf.maximum, tf.minimum


def matmul(a: Array, b: Array) -> Array:
    """Matrix product in the full precision of the dtype: never in the 10 bits of TF32."""
    wide = a.dtype == tf.float32 and _has_tf32()
    return tf.cast(tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64)), tf.float32) if wide else tf.matmul(a, b)


def _has_tf32() -> bool:
    return bool(tf.config.experimental.tensor_float_32_execution_enabled() and tf.config.list_physical_devices("GPU"))


def _qr(a: Array) -> tuple[Array, Array]:
    q, r = tf.linalg.qr(a)
    return q, r


linalg = SimpleNamespace(
    cholesky=tf.linalg.cholesky,
    diagonal=tf.linalg.diag_part,
    qr=_qr,
    triangular_solve=tf.linalg.triangular_solve,
)


# Making arrays. Where they are is TensorFlow's business.


def asarray(value: Any, *, dtype: Any = None, device: Any = None) -> Array:
    """A tensor of ``value``; of the values that a variable has now."""
    if dtype is not None and not tf.is_tensor(value):
        value = np.asarray(value, dtype.as_numpy_dtype)  # TensorFlow would go by way of float32
    return tf.cast(value, dtype) if dtype is not None else tf.convert_to_tensor(value)


def arange(stop: int, *, device: Any = None) -> Array:
    """Whole numbers below ``stop``."""
    return tf.range(stop)


def zeros(shape: Any, *, dtype: Any = tf.float32, device: Any = None) -> Array:
    """A tensor of zeros."""
    return tf.zeros(shape, dtype)


def where(condition: Array, x: Any, y: Any) -> Array:
    """Elements of ``x`` or ``y``; a number takes the dtype of the other."""
    dtype = next((value.dtype for value in (x, y) if tf.is_tensor(value)), tf.float32)
    return tf.where(condition, tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype))


# Moving elements.


def astype(x: Array, dtype: Any) -> Array:
    """Convert to another dtype."""
    return tf.cast(x, dtype)


def concat(arrays: Any, *, axis: int) -> Array:
    """Join along an axis."""
    return tf.concat(arrays, axis)


def flip(x: Array, *, axis: Any) -> Array:
    """Reverse the order along an axis, or several."""
    return tf.reverse(x, [axis] if isinstance(axis, int) else list(axis))


def take(x: Array, indices: Array, *, axis: int) -> Array:
    """Elements by their places along an axis."""
    return tf.gather(x, indices, axis=axis)


# Shapes. In a function that is being traced, a size of the batch may be unknown: then it is a tensor.


def sizes(x: Array) -> Shape:
    """Shape, with a tensor for each size that only the run will tell."""
    known = tuple(x.shape)
    return tuple(tf.shape(x)[i] if size is None else size for i, size in enumerate(known)) if None in known else known


def broadcast_shapes(*shapes: Shape) -> Shape:
    """Shape of arrays of these shapes together."""
    rank = len(sorted(shapes, key=len)[-1])
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_common(column) for column in zip(*padded, strict=True))


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """The arrays, all of the same shape."""
    shape = broadcast_shapes(*map(sizes, arrays))
    return [tf.broadcast_to(array, shape) for array in arrays]


def _common(column: tuple[Any, ...]) -> Any:
    """Common size of one axis."""
    for size in column:
        if isinstance(size, int) and size != 1:
            return size
    unknown = [size for size in column if tf.is_tensor(size)]
    if not unknown:
        return 1
    common = unknown[0]
    for size in unknown[1:]:
        common = tf.where(common == 1, size, common)
    return common


# What is known of an array, and of a dtype.


def is_dense(x: Any) -> bool:
    """Whether it is a tensor or a variable, and not one of their sparse or ragged relatives."""
    return isinstance(x, (tf.Tensor, tf.Variable))


def isdtype(dtype: Any, kind: str | tuple[str, ...]) -> bool:
    """Whether a dtype is of a kind, or of one of several."""
    of = {
        "real floating": dtype.is_floating,
        "complex floating": dtype.is_complex,
        "integral": dtype.is_integer and not dtype.is_quantized,
    }
    return bool([k for k in ((kind,) if isinstance(kind, str) else kind) if of[k]])


def finfo(dtype: Any) -> Any:
    """Limits of a floating dtype."""
    return ml_dtypes.finfo(dtype.as_numpy_dtype)


def result_type(*dtypes: Any) -> Any:
    """The wider of floating dtypes; float32 for float16 and bfloat16 together."""
    widest = sorted(dtypes, key=lambda dtype: dtype.size)[-1]
    rivals = {dtype for dtype in dtypes if dtype.size == widest.size}
    return widest if len(rivals) == 1 else tf.float32
