"""Other libraries' distribution objects as Gaussians, and back. None of those libraries is imported for it.

An object is known by the names of its class and of the classes that it derives from; ``readers`` knows what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .._arrays import namespace
from .._arrays.linalg import sizes
from .._formulas import given
from ..gaussian import Gaussian
from . import readers as read
from .readers import ACCEPTED, Normals

Array = Any


@namespace.not_converted
def as_gaussian(obj: Any) -> Gaussian:
    r"""Make a :class:`Gaussian` of another library's distribution object.

    :func:`kl_divergence` and :func:`plan` do so by themselves. Which axes are dimensions is what the object says: a
    ``Normal`` has none, so its parameters of shape ``(B, D)`` are B·D Gaussians of one dimension; inside
    ``Independent(normal, 1)`` they are B Gaussians of D dimensions.

    Parameters
    ----------
    obj : distribution
        One of

        - ``torch.distributions`` or NumPyro: ``Normal``, ``Independent`` over it, ``MultivariateNormal``,
          ``LowRankMultivariateNormal``; in NumPyro also these after ``expand``;
        - TensorFlow Probability, on TensorFlow, JAX or NumPy: ``Normal``, ``Independent`` over it,
          ``MultivariateNormalDiag``, ``MultivariateNormalTriL``, ``MultivariateNormalFullCovariance``,
          ``MultivariateNormalDiagPlusLowRank``, ``MultivariateNormalDiagPlusLowRankCovariance``;
        - ``scipy.stats``: a frozen ``norm`` or ``multivariate_normal``, with a matrix or a ``Covariance``; ``Normal``;
        - a :class:`Gaussian`, which is returned as it is.

    Returns
    -------
    Gaussian
        With the arrays that the object holds, where it holds them as they are needed: the standard deviations, the
        Cholesky factor, the factors of low rank. NumPyro's numbers and NumPy arrays become JAX arrays.

    Raises
    ------
    TypeError
        If ``obj`` is anything else.

    Examples
    --------
    >>> import gausskl as gk
    >>> from scipy import stats
    >>> p = stats.multivariate_normal([0.0, 0.0], [[2.0, 0.3], [0.3, 1.0]])
    >>> gk.as_gaussian(p)
    Gaussian(numpy float64, batch=(), d=2, cov)
    >>> gk.kl_divergence(p, stats.multivariate_normal([0.0, 0.0], [[2.0, 0.3], [0.3, 1.0]]))
    array(0.)
    """
    return gaussian_of("obj", obj)


def gaussian_of(name: str, obj: Any) -> Gaussian:
    """The Gaussian of an object that the user gave as argument ``name``."""
    if isinstance(obj, Gaussian):
        return obj
    read = _read(name, obj)
    return Gaussian(read.loc[..., None], std=read.scale[..., None]) if isinstance(read, Normals) else read


def two_gaussians(p: Any, q: Any) -> tuple[Gaussian, Gaussian | None]:
    """The Gaussians of both arguments; without ``q``, None for it."""
    if type(p) is Gaussian and (q is None or type(q) is Gaussian):
        return p, q
    ours = gaussian_of("p", p), None if q is None else gaussian_of("q", q)
    for (name, obj, g), other in zip((("p", p, ours[0]), ("q", q, ours[1])), reversed(ours), strict=True):
        if obj is g or g is None or other is None:
            continue
        if g.keyword == "std" and g.event_size == 1 != other.event_size:
            is_scipy = type(obj).__module__.startswith("scipy")
            how = "gausskl.Gaussian(loc, std=scale)" if is_scipy else "Independent(normal, 1)"
            raise ValueError(
                f"{name} is a {type(obj).__name__} of one dimension, in a batch of shape {g.batch_shape}, and the "
                f"other side has {other.event_size} dimensions: "
                f"{how} makes its last axis the dimensions"
            )
    return ours


def _read(name: str, obj: Any) -> Gaussian | Normals:
    for kind in type(obj).__mro__:
        for family, readers in FAMILIES.items():
            if str(kind.__module__).startswith(family) and kind.__name__ in readers:
                try:
                    return readers[kind.__name__](obj)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{name}: {error}") from error
    raise TypeError(f"{name} is a {type(obj).__name__}: expected {ACCEPTED}")


# Independent: the last axes of the batch become dimensions.


def _independent(obj: Any) -> Gaussian | Normals:
    inner = obj.distribution if hasattr(obj, "distribution") else obj.base_dist
    axes = len(obj.event_shape) - len(inner.event_shape)
    base = _read("what is inside of Independent", inner)
    if not axes:
        return base
    if isinstance(base, Normals):
        mean, std = base
    elif base.keyword == "std":
        mean, std = base.mean, base.arrays[0]
        axes += 1
    else:
        raise TypeError(
            f"an Independent over a {type(inner).__name__} has a covariance matrix for each part: give what is inside "
            "it, on both sides, and sum the result over the axes that Independent joins"
        )
    xp = namespace.namespace(mean)
    if mean.shape != std.shape:
        mean, std = xp.broadcast_arrays(mean, std)
    return Gaussian(_merged(mean, axes, xp=xp), std=_merged(std, axes, xp=xp))


def _merged(array: Array, axes: int, *, xp: Any) -> Array:
    """The last axes of an array as one."""
    if axes == 1:
        return array
    shape = sizes(array, xp=xp)
    return xp.reshape(array, (*shape[: len(shape) - axes], math.prod(shape[len(shape) - axes :])))


# NumPyro's expand.


def _expanded(obj: Any) -> Gaussian | Normals:
    import jax.numpy as jnp

    base = _read("what is expanded", obj.base_dist)
    if isinstance(base, Normals):
        return Normals(jnp.broadcast_to(base.loc, obj.batch_shape), base.scale)
    return Gaussian(jnp.broadcast_to(base.mean, (*obj.batch_shape, base.event_size)), **base.spread)


FAMILIES: dict[str, dict[str, Callable[[Any], Gaussian | Normals]]] = {
    "torch.distributions": {
        "Independent": _independent,
        "LowRankMultivariateNormal": read.torch_low_rank,
        "MultivariateNormal": read.torch_multivariate,
        "Normal": read.torch_normal,
    },
    "numpyro.distributions": {
        "ExpandedDistribution": _expanded,
        "Independent": _independent,
        "LowRankMultivariateNormal": read.numpyro_low_rank,
        "MultivariateNormal": read.numpyro_multivariate,
        "Normal": read.numpyro_normal,
    },
    "tensorflow_probability": {
        "Independent": _independent,
        "MultivariateNormalDiagPlusLowRankCovariance": read.tfp_low_rank,
        "MultivariateNormalLinearOperator": read.tfp_multivariate,
        "Normal": read.tfp_normal,
    },
    "scipy.stats": {
        "Normal": read.scipy_normal,
        "multivariate_normal_frozen": read.scipy_multivariate,
        "rv_continuous_frozen": read.scipy_frozen,
    },
}


# The way back.


def to_torch_distribution(g: Gaussian) -> Any:
    """Torch's own object for a Gaussian of tensors: see the method of this name."""
    library = g.form.library
    if library != "torch":
        raise TypeError(f"torch.distributions takes tensors, and the arrays of this Gaussian are those of {library}")
    from torch import distributions

    xp = namespace.namespace(g.mean)
    dtype = namespace.floating_dtype(xp, (g.mean, *g.arrays))
    mean, *arrays = (xp.astype(array, dtype) for array in (g.mean, *g.arrays))
    spread, arrays = given.without_empty_factor(given.Spread(g.keyword, g.packing), arrays, xp=xp)
    kind, arrays = given.ready(spread, arrays, g.event_size, arrays[0].dtype, xp=xp)
    if kind == "low_rank":
        return distributions.LowRankMultivariateNormal(mean, *arrays)
    if kind in MATRIX:
        return distributions.MultivariateNormal(mean, **{MATRIX[kind]: arrays[0]})
    return distributions.Independent(distributions.Normal(mean, given.as_std(kind, arrays[0], xp=xp)), 1)


MATRIX = {"tril": "scale_tril", "cov": "covariance_matrix", "precision": "precision_matrix"}
