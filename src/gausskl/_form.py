"""What is known of a Gaussian without its values, and shared by all that are alike."""

from __future__ import annotations

from typing import Any

from . import _checks
from ._arrays import namespace
from ._arrays.signature import signature

Array = Any


class Form:
    """What is known of a Gaussian without its values. Gaussians share it, so that it is found out once.

    A ``plain`` form belongs to arrays that are exactly NumPy's, CuPy's or torch's, with values in memory. ``seen`` is
    what each array was like when the form was found, ``plans`` what is known of pairs with this one.
    """

    __slots__ = (
        "batch_shape",
        "dtypes",
        "event_size",
        "keyword",
        "library",
        "mean_dtype",
        "mean_shape",
        "ndims",
        "on_gpu",
        "packing",
        "plain",
        "plans",
        "seen",
        "spread_dtype",
        "spread_shape",
        "untyped",
    )

    def __init__(self, keyword: str, packing: str | None, mean: Array, spread: dict[str, Array], untyped: bool) -> None:
        _checks.known_shapes({"mean": mean, **spread})
        self.keyword, self.packing, self.untyped = keyword, packing, untyped
        self.event_size = _checks.event_size(mean)
        self.batch_shape = _checks.batch_shape(mean, spread)
        self.library = namespace.library_of(mean)
        arrays = mean, *spread.values()
        self.dtypes = tuple(namespace.name_of_dtype(array.dtype) for array in arrays)
        self.ndims = tuple(len(array.shape) for array in arrays)
        self.on_gpu = namespace.is_on_gpu(mean)
        self.seen = seen(arrays)
        (self.mean_shape, self.mean_dtype, _), (self.spread_shape, self.spread_dtype, _), *more = self.seen
        if more or self.on_gpu:  # these two do not say it all; memory of a CPU no kernel takes once it is elsewhere
            self.mean_shape = None
        self.plain = False
        self.plans: dict[Any, Any] = {}


def seen(arrays: tuple[Array, ...]) -> tuple[Any, ...]:
    """What can change of arrays beside their values."""
    return tuple((array.shape, array.dtype, getattr(array, "device", None)) for array in arrays)


MOST = 1024
KNOWN: dict[Any, Form] = {}


def form_of(keyword: str, packing: str | None, mean: Array, spread: dict[str, Array], untyped: bool) -> Form:
    """The form of arrays, the one that was found before if there is one."""
    own = signature(mean, *spread.values())
    if own is None:
        return Form(keyword, packing, mean, spread, untyped)
    key = (own, packing, *spread, *["untyped"] * untyped)
    form = KNOWN.get(key)
    if form is None:
        form = Form(keyword, packing, mean, spread, untyped)
        form.plain = True
        if len(KNOWN) >= MOST:
            KNOWN.clear()
        KNOWN[key] = form
    return form
