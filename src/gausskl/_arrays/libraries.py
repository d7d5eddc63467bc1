"""What sets one array library apart from the others, one record for each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

OURS = __name__.partition(".")[0]


class Library(NamedTuple):
    """A library's facts; the defaults are what one gets of which nothing is known."""

    name: str = ""
    homes: tuple[str, ...] = ()  # the packages that the types of its arrays come from
    spelt: str = ""  # what its users call its namespace
    changeable: bool = True  # an array may get another shape or dtype after it was made
    moves_freely: bool = False  # arrays of one device go with those of another
    float32_functions: bool = True  # exp and log of float32 are good to an ulp or so on every processor
    warns: bool = False  # of what overflows
    reads_freely: bool = False  # to look at a value on the CPU costs no more than that
    small_solves: bool = False  # many small triangular systems are solved as fast as one large one
    bits_by_layout: bool = False  # its linear algebra rounds otherwise where matrices lie otherwise in memory
    sums_in_a_tree: bool = False  # by itself, and perhaps over several devices
    bad_stride: float = math.inf  # powers of two from this one on are slow as sizes of matrices: see linalg.cholesky


LIBRARIES = {
    library.name: library
    for library in (
        Library(
            "numpy",
            ("numpy",),
            float32_functions=False,
            warns=True,
            reads_freely=True,
            small_solves=True,
            bad_stride=256,
        ),
        Library("array_api_strict", float32_functions=False, warns=True, reads_freely=True, small_solves=True),
        Library("torch", ("torch",), reads_freely=True, small_solves=True, bits_by_layout=True, bad_stride=128),
        Library("jax", ("jax", "jaxlib"), "jax.numpy", changeable=False, moves_freely=True, sums_in_a_tree=True),
        Library("dask", ("dask",), "dask.array", moves_freely=True, float32_functions=False),
        Library("cupy", ("cupy",)),
        Library("tensorflow", ("tensorflow",), "tf", changeable=False, moves_freely=True),
    )
}
BY_HOME = {home: library for library in LIBRARIES.values() for home in library.homes}
UNKNOWN = Library()


def name_of(xp: Any) -> str:
    """Name of the library behind a namespace: "numpy", "torch", "jax", "dask", "cupy", "array_api_strict", ..."""
    first, *rest = xp.__name__.split(".")
    if first == OURS:  # a shim of this package has the name of its library
        return str(rest[-1])
    return str(rest[0] if first == "array_api_compat" else first).removeprefix("_")


def facts(xp: Any) -> Library:
    """What is known of the library behind a namespace."""
    return LIBRARIES.get(name_of(xp), UNKNOWN)
