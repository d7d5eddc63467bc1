"""The ways to describe a spread: what each argument of a Gaussian means, said once."""

from __future__ import annotations

from typing import Literal, NamedTuple

Structure = Literal["diagonal", "dense", "low rank"]


class Argument(NamedTuple):
    """One array that describes a spread, or a part of it.

    ``event`` is its shape without the batch: so many numbers, by name, along each axis. One number may stand for all
    of a single axis of dimensions.
    """

    keyword: str  # of the whole description
    structure: Structure
    event: tuple[str, ...]


ARGUMENTS = {
    "std": Argument("std", "diagonal", ("d",)),
    "var": Argument("var", "diagonal", ("d",)),
    "log_std": Argument("log_std", "diagonal", ("d",)),
    "log_var": Argument("log_var", "diagonal", ("d",)),
    "cov": Argument("cov", "dense", ("d", "d")),
    "scale_tril": Argument("scale_tril", "dense", ("d", "d")),
    "packed_tril": Argument("packed_tril", "dense", ("d(d+1)/2",)),
    "precision": Argument("precision", "dense", ("d", "d")),
    "cov_factor": Argument("low_rank", "low rank", ("d", "r")),
    "cov_diag": Argument("low_rank", "low rank", ("d",)),
}
MEAN = ("d",)
PACKINGS = ("row", "tfp")  # the orders of a packed_tril

STRUCTURE = {argument.keyword: argument.structure for argument in ARGUMENTS.values()}
DIAGONAL = tuple(keyword for keyword, structure in STRUCTURE.items() if structure == "diagonal")
# Number of event axes of each array of a description.
EVENT_AXES = {
    keyword: tuple(len(argument.event) for argument in ARGUMENTS.values() if argument.keyword == keyword)
    for keyword in STRUCTURE
}


def event_shape(name: str, d: int, columns: int = 0) -> tuple[int, ...]:
    """Shape of the mean, or of an argument, without the batch; ``columns`` are those of a factor."""
    sizes = {"d": d, "d(d+1)/2": d * (d + 1) // 2, "r": columns}
    return tuple(sizes[size] for size in (ARGUMENTS[name].event if name in ARGUMENTS else MEAN))


def stretches(name: str) -> bool:
    """Whether one number may stand for all dimensions."""
    return name in ARGUMENTS and ARGUMENTS[name].event == ("d",)
