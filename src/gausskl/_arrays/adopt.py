"""What the user gave as arrays of one library, or a sentence about what is wrong with it."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from numbers import Number
from typing import Any

import array_api_compat
import numpy as np

from .libraries import BY_HOME, LIBRARIES, UNKNOWN, name_of
from .namespace import device_of, floating_dtype, home_of, library_of, name_of_dtype, namespace

Array = Any


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
        hint = ""
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], (bool, np.bool_)):
            hint = (
                "; what scipy.linalg.cho_factor returns is a matrix with one triangle of junk, and whether the "
                "other is the lower one: of (A, False), pass scale_tril=numpy.triu(A).mT, of (A, True), numpy.tril(A)"
            )
        raise TypeError(f"{name} is a {type(value).__name__} that does not make an array: {error}{hint}") from None
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
                f"{name} is {kind} that holds a masked array: leave out, in all arrays, what has a masked entry; "
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


def _refuse_unsuitable(name: str, array: Any) -> None:
    """A sentence for whatever is not an array of real numbers."""
    kind = f"{home_of(array)}.{type(array).__qualname__}".removeprefix("builtins.")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: leave out, in all arrays, what has a masked entry; pass the .data")
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


def moved(array: Array, *, xp: Any, dtype: Any, device: Any) -> Array:
    """The array itself if it belongs to the namespace, else a copy that does: numbers that came without a library."""
    return array if library_of(array) == name_of(xp) else xp.asarray(array, dtype=dtype, device=device)
