"""Other libraries' distribution objects as Gaussians, and back. None of those libraries is imported for it.

An object is known by the names of its class and of the classes that it derives from. A Gaussian takes the arrays that
the object holds: a factor stays a factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _namespace, _pairs
from ._linalg import qr, sizes, transpose
from .gaussian import Gaussian

Array = Any

ACCEPTED = (
    "a gausskl.Gaussian, such as Gaussian(mean, std=std); a Normal, Independent(Normal), MultivariateNormal or "
    "LowRankMultivariateNormal of torch.distributions or NumPyro; a Normal, Independent(Normal), "
    "MultivariateNormalDiag, ...TriL, ...FullCovariance, ...DiagPlusLowRank or ...DiagPlusLowRankCovariance of "
    "TensorFlow Probability; or a frozen norm or multivariate_normal of scipy.stats"
)


@_namespace.not_converted
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
    np.float64(0.0)
    """
    return gaussian_of("obj", obj)


class Normals(NamedTuple):
    """One-dimensional Gaussians, without an axis for their dimension."""

    loc: Array
    scale: Array


def gaussian_of(name: str, obj: Any) -> Gaussian:
    """The Gaussian of an object that the user gave as argument ``name``."""
    if isinstance(obj, Gaussian):
        return obj
    read = _read(name, obj)
    return Gaussian(read.loc[..., None], std=read.scale[..., None]) if isinstance(read, Normals) else read


def _read(name: str, obj: Any) -> Gaussian | Normals:
    for kind in type(obj).__mro__:
        for family, readers in FAMILIES.items():
            if kind.__module__.startswith(family) and kind.__name__ in readers:
                try:
                    return readers[kind.__name__](obj)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{name}: {error}") from error
    raise TypeError(f"{name} is a {type(obj).__name__}: expected {ACCEPTED}")


# torch.distributions


def _torch_normal(obj: Any) -> Normals:
    return Normals(obj.loc, obj.scale)


def _torch_multivariate(obj: Any) -> Gaussian:
    return Gaussian(obj.loc, scale_tril=_unbroadcast(obj, "scale_tril"))


def _torch_low_rank(obj: Any) -> Gaussian:
    return Gaussian(obj.loc, cov_factor=_unbroadcast(obj, "cov_factor"), cov_diag=_unbroadcast(obj, "cov_diag"))


def _unbroadcast(obj: Any, name: str) -> Array:
    """A parameter as it was given: one matrix that a batch shares is factored and solved with once."""
    held = getattr(obj, f"_unbroadcasted_{name}", None)
    return getattr(obj, name) if held is None else held


# NumPyro


def _numpyro_normal(obj: Any) -> Normals:
    return Normals(_jax(obj.loc), _jax(obj.scale))


def _numpyro_multivariate(obj: Any) -> Gaussian:
    return Gaussian(_jax(obj.loc, *obj.event_shape), scale_tril=_jax(obj.scale_tril))


def _numpyro_low_rank(obj: Any) -> Gaussian:
    factor, diagonal = _jax(obj.cov_factor), _jax(obj.cov_diag)
    return Gaussian(_jax(obj.loc, *obj.event_shape), cov_factor=factor, cov_diag=diagonal)


def _jax(value: Any, *event: int) -> Array:
    """A parameter as the JAX array that NumPyro computes with; one number stands for a whole event."""
    import jax.numpy as jnp

    array = jnp.asarray(value)
    return array if array.shape[-1:] == event or not event else jnp.broadcast_to(array, (*array.shape[:-1], *event))


def _expanded(obj: Any) -> Gaussian | Normals:
    import jax.numpy as jnp

    base = _read("what is expanded", obj.base_dist)
    if isinstance(base, Normals):
        return Normals(jnp.broadcast_to(base.loc, obj.batch_shape), base.scale)
    return Gaussian(jnp.broadcast_to(base.mean, (*obj.batch_shape, base.event_size)), **base.spread)


# TensorFlow Probability: a TransformedVariable and its like become tensors.


def _tfp_normal(obj: Any) -> Normals:
    return Normals(_tensor(obj.loc), _tensor(obj.scale))


def _tfp_multivariate(obj: Any) -> Gaussian:
    """N(loc, S Sᵀ) for a linear operator S: diagonal, lower triangular, or any square matrix."""
    operator = obj.scale
    kind = type(operator).__name__
    if kind in ("LinearOperatorDiag", "LinearOperatorIdentity", "LinearOperatorScaledIdentity"):
        diagonal = _tensor(operator.diag_part())
        xp = _namespace.namespace(diagonal)
        std = xp.abs(diagonal)
        return Gaussian(_loc(obj, std), std=std)
    factor = _tensor(operator.to_dense())
    if kind != "LinearOperatorLowerTriangular":
        xp = _namespace.namespace(factor)
        _, upper = qr(transpose(factor, xp=xp), xp=xp)
        factor = transpose(upper, xp=xp)
    return Gaussian(_loc(obj, factor[..., 0]), scale_tril=factor)


def _tfp_low_rank(obj: Any) -> Gaussian:
    factor, diagonal = _tensor(obj.cov_perturb_factor), _tensor(obj.cov_diag_factor)
    return Gaussian(_loc(obj, diagonal), cov_factor=factor, cov_diag=diagonal)


def _loc(obj: Any, like: Array) -> Array:
    """The mean, with as many dimensions as ``like``; without one, it is 0."""
    xp = _namespace.namespace(like)
    if obj.loc is None:
        return xp.zeros_like(like)
    loc = _tensor(obj.loc)
    return loc if loc.shape[-1:] == like.shape[-1:] else xp.broadcast_arrays(loc, like)[0]


def _tensor(value: Any) -> Array:
    if isinstance(value, (int, float)):
        return np.asarray(value)
    if type(value).__module__.startswith("tensorflow_probability"):
        import tensorflow as tf

        return tf.convert_to_tensor(value)
    return value


# scipy.stats


def _scipy_frozen(obj: Any) -> Normals:
    if obj.dist.name != "norm":
        raise TypeError(f"this is a frozen {obj.dist.name}: expected {ACCEPTED}")
    given = dict(zip(("loc", "scale"), obj.args, strict=False)) | obj.kwds
    return Normals(np.asarray(given.get("loc", 0.0)), np.asarray(given.get("scale", 1.0)))


def _scipy_normal(obj: Any) -> Normals:
    return Normals(np.asarray(obj.mu), np.asarray(obj.sigma))


def _scipy_multivariate(obj: Any) -> Gaussian:
    """With the array that a ``Covariance`` was made from, where it still holds it."""
    covariance = obj.cov_object
    match type(covariance).__name__:
        case "CovViaCholesky":
            return Gaussian(obj.mean, scale_tril=covariance._factor)
        case "CovViaPrecision":
            return Gaussian(obj.mean, precision=covariance._precision)
        case "CovViaDiagonal":
            return Gaussian(obj.mean, var=np.diagonal(covariance.covariance))
    return Gaussian(obj.mean, cov=covariance.covariance)


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
            "it, and sum the result over the axes that Independent joins"
        )
    xp = _namespace.namespace(mean)
    if mean.shape != std.shape:
        mean, std = xp.broadcast_arrays(mean, std)
    return Gaussian(_merged(mean, axes, xp=xp), std=_merged(std, axes, xp=xp))


def _merged(array: Array, axes: int, *, xp: Any) -> Array:
    """The last axes of an array as one."""
    if axes == 1:
        return array
    shape = sizes(array, xp=xp)
    return xp.reshape(array, (*shape[: len(shape) - axes], math.prod(shape[len(shape) - axes :])))


FAMILIES: dict[str, dict[str, Callable[[Any], Gaussian | Normals]]] = {
    "torch.distributions": {
        "Independent": _independent,
        "LowRankMultivariateNormal": _torch_low_rank,
        "MultivariateNormal": _torch_multivariate,
        "Normal": _torch_normal,
    },
    "numpyro.distributions": {
        "ExpandedDistribution": _expanded,
        "Independent": _independent,
        "LowRankMultivariateNormal": _numpyro_low_rank,
        "MultivariateNormal": _numpyro_multivariate,
        "Normal": _numpyro_normal,
    },
    "tensorflow_probability": {
        "Independent": _independent,
        "MultivariateNormalDiagPlusLowRankCovariance": _tfp_low_rank,
        "MultivariateNormalLinearOperator": _tfp_multivariate,
        "Normal": _tfp_normal,
    },
    "scipy.stats": {
        "Normal": _scipy_normal,
        "multivariate_normal_frozen": _scipy_multivariate,
        "rv_continuous_frozen": _scipy_frozen,
    },
}


# The way back.


def to_torch_distribution(g: Gaussian) -> Any:
    """Torch's own object for a Gaussian of tensors: see the method of this name."""
    library = _namespace.library_of(g.mean)
    if library != "torch":
        raise TypeError(f"torch.distributions takes tensors, and the arrays of this Gaussian are those of {library}")
    from torch import distributions

    xp = _namespace.namespace(g.mean)
    dtype = _namespace.floating_dtype(xp, (g.mean, *g.arrays))
    mean, *arrays = (xp.astype(array, dtype) for array in (g.mean, *g.arrays))
    kind, arrays = _pairs.ready(_pairs.Spread(g.keyword, g.packing), arrays, g.event_size, xp=xp)
    if kind == "low_rank":
        return distributions.LowRankMultivariateNormal(mean, *arrays)
    if kind in MATRIX:
        return distributions.MultivariateNormal(mean, **{MATRIX[kind]: arrays[0]})
    return distributions.Independent(distributions.Normal(mean, _pairs.as_std(kind, arrays[0], xp=xp)), 1)


MATRIX = {"tril": "scale_tril", "cov": "covariance_matrix", "precision": "precision_matrix"}
