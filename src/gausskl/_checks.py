"""Sentences about shapes, before anything is computed, and what is still taken for symmetric."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Any

from ._spreads import PACKINGS, event_shape, stretches

Array = Any

SPREADS = (
    "std, var, log_std, log_var, cov, scale_tril, packed_tril (with packing), precision, "
    "or cov_factor together with cov_diag"
)


def one_spread(spread: dict[str, Array], packing: str | None) -> str:
    """Name of the one description of the spread that is there; "low_rank" for the pair of them."""
    names = list(spread)
    if names == ["cov_factor", "cov_diag"]:
        names = ["low_rank"]
    if names in (["cov_factor"], ["cov_diag"]):
        other = "cov_diag" if names == ["cov_factor"] else "cov_factor"
        raise TypeError(f"{names[0]} needs {other}: the covariance is cov_factor @ cov_factor.mT + diag(cov_diag)")
    if len(names) != 1:
        came = "none came" if not names else f"{' and '.join(names)} came"
        raise TypeError(f"a Gaussian takes exactly one description of its spread, and {came}: give {SPREADS}")
    if names == ["packed_tril"] and packing not in PACKINGS:
        raise (TypeError if packing is None else ValueError)(
            f'packed_tril needs packing="row" or packing="tfp", not packing={packing!r}: "row" is row '
            'after row, as numpy.tril_indices counts, "tfp" the order of tfp.math.fill_triangular'
        )
    if names != ["packed_tril"] and packing is not None:
        raise TypeError(f"packing={packing!r} says how packed_tril is packed; {names[0]} takes no packing")
    return names[0]


def event_size(mean: Array) -> int:
    """Number of dimensions."""
    if not len(mean.shape):
        raise ValueError(
            "mean is a single number and has no axis of dimensions: the last axis of mean is the dimensions of the "
            "Gaussian, so write [m] for one dimension; for a batch of one-dimensional Gaussians the spread needs that "
            "axis too: mean[..., None], std[..., None]"
        )
    size = mean.shape[-1]
    if not size:
        raise ValueError(f"mean has shape {shape(mean)}: a Gaussian needs at least one dimension on the last axis")
    return int(size)


def known_shapes(arrays: dict[str, Array]) -> None:
    """Refuse arrays whose shape is not known yet. Where a function is traced, the sizes of the batch need not be."""
    for name, array in arrays.items():
        if getattr(array.shape, "rank", 0) is None:
            raise ValueError(f"{name} has an unknown number of axes: say how many with tf.ensure_shape")
        if any(size != size for size in array.shape):
            raise ValueError(f"{name} has an unknown shape {shape(array)}: call {name}.compute_chunk_sizes() first")
        if None in shape(array)[-len(_event_shape(name, array, 0)) :]:
            raise ValueError(
                f"{name} has shape {shape(array)}: the number of dimensions must be known when the function is traced; "
                "only sizes of the batch may be None"
            )


def shape(array: Array) -> tuple[int, ...]:
    """Shape as a plain tuple, for a sentence."""
    return tuple(array.shape)


def broadcast_shapes(*shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shape of arrays of these shapes together; a size that is not known yet is None."""
    together = []
    for sizes in zip_longest(*(reversed(sizes) for sizes in shapes), fillvalue=1):
        wanted = [size for size in sizes if size is None or size != 1] or [1]
        known = [size for size in wanted if size is not None]
        if any(size != known[0] for size in known):
            raise ValueError(f"{shapes} do not broadcast")
        together.append(known[0] if known else wanted[0])
    return tuple(reversed(together))


def _event_shape(name: str, array: Array, d: int) -> tuple[int, ...]:
    return event_shape(name, d, array.shape[-1] if len(array.shape) else 1)


def batch_shape(mean: Array, spread: dict[str, Array]) -> tuple[int, ...]:
    """Batch shape of a Gaussian; a sentence if the shapes of its arrays do not fit."""
    d = mean.shape[-1]
    batches = [shape(mean)[:-1]]
    for name, array in spread.items():
        event = _event_shape(name, array, d)
        has = shape(array)
        if has[-len(event) :] != event and not (stretches(name) and has[-1:] in ((), (1,))):
            columns = ("r",) if name == "cov_factor" else ()
            wanted = ", ".join(["...", *map(str, (*event[: len(event) - len(columns)], *columns))])
            verb = "be broadcastable to" if event == (d,) else "have shape"
            raise ValueError(
                f"{name} has shape {has}, but mean has shape {shape(mean)}: with {d} dimensions {name} must "
                f"{verb} ({wanted}){_shape_hint(name, has, shape(mean))}"
            )
        batches.append(has[: len(has) - len(event)])
    try:
        return broadcast_shapes(*batches)
    except ValueError:
        named = ", ".join(f"{name} {shape(array)}" for name, array in {"mean": mean, **spread}.items())
        hints = "".join(_shape_hint(name, shape(array), shape(mean)) for name, array in spread.items())
        raise ValueError(f"the batch axes of {named} do not broadcast{hints}") from None


def _shape_hint(name: str, has: tuple[int, ...], of_mean: tuple[int, ...]) -> str:
    d = of_mean[-1]
    square = has[-2:] == (d, d)
    if name in ("std", "var") and square:
        return "; a covariance matrix is given as cov=, a lower triangular factor as scale_tril="
    if name == "cov" and has[-1:] == (d,) and not square:
        return "; variances alone are given as var="
    if name == "precision" and has[-1:] == (d,) and not square:
        return "; precisions alone, one for each dimension, are given as var=1 / precision"
    if name == "scale_tril" and not square and has[-1:] == (d * (d + 1) // 2,):
        return "; a packed vector is given as packed_tril="
    if name == "cov_factor" and len(has) > 1 and has[-1] == d:
        return "; if it is the transpose, pass cov_factor.mT"
    if name == "cov_factor" and has[-1:] == (d,):
        return "; one column is given as cov_factor[..., None]"
    if stretches(name) and has == of_mean[:-1]:
        return f"; one number for each element of the batch is given as {name}[..., None]"
    return ""


def common_batch(p: Any, q: Any) -> tuple[int, ...]:
    """Batch shape of a pair; a sentence if the two do not fit."""
    if p.event_size != q.event_size:
        raise ValueError(
            f"p has {p.event_size} dimensions (mean of shape {shape(p.mean)}) and q has {q.event_size} (mean of shape "
            f"{shape(q.mean)}): the axis of dimensions does not broadcast"
        )
    try:
        return broadcast_shapes(p.batch_shape, q.batch_shape)
    except ValueError:
        raise ValueError(
            f"the batch of p has shape {p.batch_shape} and the batch of q {q.batch_shape}: they do not broadcast; "
            f"to compare all with all, give p the batch shape {(*p.batch_shape, *(1 for _ in q.batch_shape))}: "
            f"{_with_new_axes(p, len(q.batch_shape))}"
        ) from None


def _with_new_axes(g: Any, count: int) -> str:
    """How to write the arrays of a Gaussian with so many new axes behind its batch; what has no batch needs none."""
    arrays = {name: array for name, array in {"mean": g.mean, **g.spread}.items() if name != "packing"}
    events = {name: len(_event_shape(name, array, g.event_size)) for name, array in arrays.items()}
    written = [
        f"{name}[{', '.join(['...', *['None'] * count, *[':'] * events[name]])}]"
        for name, array in arrays.items()
        if len(array.shape) > events[name]
    ]
    return ", ".join(written)


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse an option that is not known."""
    for choice in allowed:
        if value is choice:
            return
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in allowed):
        raise ValueError(f"{name}={value!r} is not known: give one of {', '.join(map(repr, allowed))}")


def both_diagonal(sides: dict[str, Any]) -> None:
    """Refuse contributions per dimension where dimensions are correlated."""
    if any(side.structure != "diagonal" for side in sides.values()):
        first, *second = [f"{side.structure} ({side.keyword})" for side in sides.values()]
        raise ValueError(
            f"per_dim=True needs two diagonal Gaussians, but p is {' and q '.join([first, *second])}: the divergence "
            "of correlated dimensions has no share for each of them"
        )


def has_linalg(xp: Any, library: str, sides: dict[str, Any]) -> None:
    """Refuse matrices of a library that has no linear algebra."""
    for name, gaussian in sides.items():
        if gaussian.structure != "diagonal" and not hasattr(xp, "linalg"):
            raise TypeError(
                f"{name} is {gaussian.structure} ({gaussian.keyword}), and {library} has no linear algebra: with its "
                "arrays only diagonal Gaussians can be compared"
            )


def asymmetry(dtype: Any, *, xp: Any) -> float:
    """How far two entries of a covariance may be apart, in units of their two standard deviations, to be taken for one.

    Half of the digits of the dtype they were given in have to agree.
    """
    digits = -math.log2(float(xp.finfo(dtype).eps)) if xp.isdtype(dtype, "real floating") else 52
    return 2.0 ** -math.ceil(digits / 2)
