"""What the distribution objects of each library hold, as the arrays of a Gaussian: a factor stays a factor."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._arrays import namespace
from .._arrays.linalg import qr, transpose
from ..gaussian import Gaussian

Array = Any

ACCEPTED = (
    "a gausskl.Gaussian, such as Gaussian(mean, std=std); a Normal, Independent(Normal), MultivariateNormal or "
    "LowRankMultivariateNormal of torch.distributions or NumPyro; a Normal, Independent(Normal), "
    "MultivariateNormalDiag, ...TriL, ...FullCovariance, ...DiagPlusLowRank or ...DiagPlusLowRankCovariance of "
    "TensorFlow Probability; or a frozen norm or multivariate_normal of scipy.stats"
)


class Normals(NamedTuple):
    """One-dimensional Gaussians, without an axis for their dimension."""

    loc: Array
    scale: Array


# torch.distributions


def torch_normal(obj: Any) -> Normals:
    """The tensors of a ``Normal``."""
    return Normals(obj.loc, obj.scale)


def torch_multivariate(obj: Any) -> Gaussian:
    """A ``MultivariateNormal``, by its factor."""
    return Gaussian(obj.loc, scale_tril=_unbroadcast(obj, "scale_tril"))


def torch_low_rank(obj: Any) -> Gaussian:
    """A ``LowRankMultivariateNormal``."""
    return Gaussian(obj.loc, cov_factor=_unbroadcast(obj, "cov_factor"), cov_diag=_unbroadcast(obj, "cov_diag"))


def _unbroadcast(obj: Any, name: str) -> Array:
    """A parameter as it was given: one matrix that a batch shares is factored and solved with once."""
    held = getattr(obj, f"_unbroadcasted_{name}", None)
    return getattr(obj, name) if held is None else held


# NumPyro


def numpyro_normal(obj: Any) -> Normals:
    """The arrays of a ``Normal``."""
    return Normals(_jax(obj.loc), _jax(obj.scale))


def numpyro_multivariate(obj: Any) -> Gaussian:
    """A ``MultivariateNormal``, by its factor."""
    return Gaussian(_jax(obj.loc, *obj.event_shape), scale_tril=_jax(obj.scale_tril))


def numpyro_low_rank(obj: Any) -> Gaussian:
    """A ``LowRankMultivariateNormal``."""
    factor, diagonal = _jax(obj.cov_factor), _jax(obj.cov_diag)
    return Gaussian(_jax(obj.loc, *obj.event_shape), cov_factor=factor, cov_diag=diagonal)


def _jax(value: Any, *event: int) -> Array:
    """A parameter as the JAX array that NumPyro computes with; one number stands for a whole event."""
    import jax.numpy as jnp

    array = jnp.asarray(value)
    return array if array.shape[-1:] == event or not event else jnp.broadcast_to(array, (*array.shape[:-1], *event))


# TensorFlow Probability: a TransformedVariable and its like become tensors.


def tfp_normal(obj: Any) -> Normals:
    """The tensors of a ``Normal``."""
    return Normals(_tensor(obj.loc), _tensor(obj.scale))


def tfp_multivariate(obj: Any) -> Gaussian:
    """A multivariate normal N(loc, S Sᵀ) for a linear operator S: diagonal, lower triangular, or any square matrix."""
    operator = obj.scale
    kind = type(operator).__name__
    if kind in ("LinearOperatorDiag", "LinearOperatorIdentity", "LinearOperatorScaledIdentity"):
        diagonal = _tensor(operator.diag_part())
        xp = namespace.namespace(diagonal)
        std = xp.abs(diagonal)
        return Gaussian(_loc(obj, std), std=std)
    factor = _tensor(operator.to_dense())
    if kind != "LinearOperatorLowerTriangular":
        xp = namespace.namespace(factor)
        _, upper = qr(transpose(factor, xp=xp), xp=xp)
        factor = transpose(upper, xp=xp)
    return Gaussian(_loc(obj, factor[..., 0]), scale_tril=factor)


def tfp_low_rank(obj: Any) -> Gaussian:
    """A ``MultivariateNormalDiagPlusLowRankCovariance``."""
    factor, diagonal = _tensor(obj.cov_perturb_factor), _tensor(obj.cov_diag_factor)
    return Gaussian(_loc(obj, diagonal), cov_factor=factor, cov_diag=diagonal)


def _loc(obj: Any, like: Array) -> Array:
    """The mean, with as many dimensions as ``like``; without one, it is 0."""
    xp = namespace.namespace(like)
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


def scipy_frozen(obj: Any) -> Normals:
    """The arrays of a frozen ``norm``."""
    if obj.dist.name != "norm":
        raise TypeError(f"this is a frozen {obj.dist.name}: expected {ACCEPTED}")
    given = dict(zip(("loc", "scale"), obj.args, strict=False)) | obj.kwds
    return Normals(np.asarray(given.get("loc", 0.0)), np.asarray(given.get("scale", 1.0)))


def scipy_normal(obj: Any) -> Normals:
    """The arrays of a ``Normal``."""
    return Normals(np.asarray(obj.mu), np.asarray(obj.sigma))


def scipy_multivariate(obj: Any) -> Gaussian:
    """A frozen ``multivariate_normal``, with the array that a ``Covariance`` was made from, where it still holds it."""
    covariance = obj.cov_object
    kind = type(covariance).__name__
    if kind == "CovViaDiagonal":
        return Gaussian(obj.mean, var=np.diagonal(covariance.covariance))
    keyword, name = {"CovViaCholesky": ("scale_tril", "_factor"), "CovViaPrecision": ("precision", "_precision")}.get(
        kind, ("cov", "covariance")
    )
    held = getattr(covariance, name, None)
    return Gaussian(obj.mean, cov=covariance.covariance) if held is None else Gaussian(obj.mean, **{keyword: held})
