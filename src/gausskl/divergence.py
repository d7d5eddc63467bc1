"""The public call: infer, check, choose, call."""

from __future__ import annotations

from typing import Any, Literal

from . import _checks, _diagnosis
from ._arrays import namespace
from ._arrays.libraries import name_of
from ._fast import leaves
from ._fast.contract import CannotCompile, Job
from ._generic import Pair, reduced, standard_normal
from ._interop.objects import two_gaussians
from ._plan import Plan, can_serve, job_of
from .gaussian import Gaussian

Array = Any
Reduction = Literal["none", "sum", "mean"]

REDUCTIONS = ("none", "sum", "mean")


@namespace.not_converted
def kl_divergence(
    p: Gaussian | Any,
    q: Gaussian | Any | None = None,
    *,
    reduction: Reduction = "none",
    per_dim: bool = False,
    validate: bool | None = None,
    path: str = "auto",
    precise: bool = False,
) -> Array:
    r"""Kullback-Leibler divergence of ``p`` from ``q``, in nats.

    .. math::

        \mathrm{KL}(p \,\|\, q) = \int p(x) \log\frac{p(x)}{q(x)}\,dx
        = \tfrac12\left[\operatorname{tr}(\Sigma_q^{-1}\Sigma_p) - d
        - \log\frac{\det\Sigma_p}{\det\Sigma_q}
        + (\mu_p-\mu_q)^\top\Sigma_q^{-1}(\mu_p-\mu_q)\right]

    It is evaluated as a sum of terms that cannot be negative, so the result never is, and it is exactly 0 for
    equal arguments.

    Parameters
    ----------
    p, q : Gaussian, or a distribution that :func:`as_gaussian` knows
        The two Gaussians; their batch axes broadcast, the axis of dimensions does not. Without ``q``, the standard
        normal N(0, I). All arrays come from one library and one device.
    reduction : {"none", "sum", "mean"}, default "none"
        What to do over the batch.
    per_dim : bool, default False
        Return the contribution of each dimension, shape ``(..., d)``. Both Gaussians must be diagonal.
    validate : bool, optional
        By default, arrays on the CPU whose values can be read are looked at again if the result holds a number that
        is not finite. ``False``: never; a bad element is NaN or inf, as are its gradients. ``True``: on a GPU as well.
    path : {"auto", "generic", "numba", "triton", "cuda", "cupy"}, default "auto"
        Which implementation runs; see :func:`plan`. One that cannot serve the call is an error.
    precise : bool, default False
        Compute dense pairs with about 32 digits instead of 16, for matrices that are nearly singular: the result is
        right to the last few bits up to condition numbers of 1e15. It takes some twenty times as long, and needs the
        compiled path (``path="numba"``) and at most 64 dimensions. Diagonal pairs need it nowhere.

    Returns
    -------
    array, shape = the two batch shapes, broadcast
        Of the library, dtype and device of the inputs. float16 and bfloat16 are computed in float32 and rounded
        once. Where the library differentiates, so does the result.

    Raises
    ------
    TypeError
        If ``p`` or ``q`` is nothing that :func:`as_gaussian` knows, or if the two hold arrays of two libraries.
    ValueError
        If shapes or devices do not fit, if an option is not known, if ``per_dim`` is asked of a covariance that is
        not diagonal, or if a value is bad: a spread that is not positive, a covariance that is not symmetric or not
        positive definite, a NaN. The message names the element.

    References
    ----------
    S. Kullback and R. A. Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22 (1951).

    Examples
    --------
    >>> import gausskl as gk
    >>> p = gk.Gaussian([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]], std=[[1.0, 1.0, 1.0], [4.0, 9.0, 16.0]])
    >>> q = gk.Gaussian([[1.0, 3.0, 4.0], [2.0, 3.0, 4.0]], std=[[1.0, 4.0, 9.0], [4.0, 9.0, 16.0]])
    >>> gk.kl_divergence(p, q)
    array([2.65836462, 0.        ])
    """
    if reduction is not REDUCTIONS[0]:
        _checks.one_of("reduction", reduction, REDUCTIONS)
    if validate is not None:
        _checks.one_of("validate", validate, (None, True, False))
    p, q = two_gaussians(p, q)
    job = job_of(p, q, per_dim, path, precise)
    if not isinstance(job, str):
        result = _by_leaf(job, p, q, reduction, validate, path)
        if result is not None:
            return result
    pair = Pair(p, q, per_dim)
    result = pair.run(validate)
    with namespace.quiet(pair.xp):
        return pair.finish(reduced(result, reduction, xp=pair.xp))


@namespace.not_converted
def plan(
    p: Gaussian | Any,
    q: Gaussian | Any | None = None,
    *,
    per_dim: bool = False,
    path: str = "auto",
    precise: bool = False,
) -> Plan:
    """Say what :func:`kl_divergence` would run for these arguments, and why, without running it.

    Parameters
    ----------
    p, q : Gaussian or distribution
        As in :func:`kl_divergence`.
    per_dim : bool, default False
        As in :func:`kl_divergence`.
    path : {"auto", "generic", "numba", "triton", "cuda", "cupy"}, default "auto"
        ``"generic"`` is the array-API formulas, which serve every library and every pair. ``"numba"`` is one compiled
        pass over arrays of NumPy, or tensors of PyTorch on the CPU: for two diagonal Gaussians described in the same
        way, and for dense ones of up to 128 dimensions. On a GPU, ``"triton"`` and ``"cuda"`` are one pass over tensors
        of PyTorch, for diagonal Gaussians and for dense ones of up to 16 dimensions; ``"cupy"`` is one over arrays of
        CuPy, for both.
        ``"auto"`` takes the fastest path that serves the pair.
    precise : bool, default False
        As in :func:`kl_divergence`.

    Returns
    -------
    Plan
        Shapes, dtypes, structures and the path; printable.

    Raises
    ------
    TypeError, ValueError
        As in :func:`kl_divergence`, except that no value is looked at.

    Examples
    --------
    >>> import gausskl as gk
    >>> print(gk.plan(gk.Gaussian([0.0, 1.0], cov=[[2.0, 1.0], [1.0, 2.0]]), path="generic"))
    p: dense (cov)
    q: diagonal (std), the standard normal
    arrays: numpy, float64, computed in float64
    batch: (), dimensions: 2
    path: generic (the array-API formulas, as asked)
    """
    p, q = two_gaussians(p, q)
    job = job_of(p, q, per_dim, path, precise)
    if isinstance(job, str):
        obstacle, reason, computed_in, serves = job, job, None, "generic"
    else:
        obstacle, reason, computed_in, serves = leaves.obstacle_now(job), job.reason, job.computed_in, job.path
        can_serve(path, obstacle, job.precise)
    pair, standard = Pair(p, q, per_dim), ", the standard normal" if q is None else ""
    return Plan(
        library=name_of(pair.xp),
        dtype=namespace.name_of_dtype(pair.dtype),
        computed_in=namespace.name_of_dtype(pair.working) if obstacle else str(computed_in),
        p=f"{p.structure} ({p.keyword})",
        q=f"{pair.q.structure} ({pair.q.keyword}){standard}",
        batch_shape=pair.batch_shape,
        event_size=p.event_size,
        path="generic" if obstacle else serves,
        reason=obstacle or reason,
    )


def warm_up(p: Gaussian | Any, q: Gaussian | Any | None = None, *, gradients: bool = False) -> None:
    """Compile now what :func:`kl_divergence` would compile when it is first called with such arguments.

    A kernel is compiled once for each way to describe the spread, with and without ``q``, and each dtype; on the CPU,
    shapes do not matter. It takes about a second, and a few hundredths of one if an earlier process has left it on the
    disk. Where no kernel serves the arguments, nothing happens.

    Parameters
    ----------
    p, q : Gaussian or distribution
        As in :func:`kl_divergence`; on the CPU of any shape.
    gradients : bool, default False
        Compile what the gradients of torch tensors need as well.

    Raises
    ------
    TypeError, ValueError
        As in :func:`plan`.

    Examples
    --------
    >>> import gausskl as gk
    >>> gk.warm_up(gk.Gaussian([0.0], std=1.0), gk.Gaussian([0.0], std=1.0))
    """
    p, q = two_gaussians(p, q)
    job = job_of(p, q, False, "auto", False)
    if isinstance(job, str) or leaves.obstacle_now(job):
        return
    try:
        job.engine.warm_up(job, _arrays(p, q), bool(gradients))
    except CannotCompile as error:
        leaves.give_up(job.path, error)


def _by_leaf(
    job: Job, p: Gaussian, q: Gaussian | None, reduction: Reduction, validate: bool | None, path: str
) -> Array | None:
    """The divergence by a compiled kernel; None if there can be none here and now."""
    obstacle = leaves.obstacle_now(job)
    if not obstacle:
        try:
            result, suspect = job.leaf.divergence(job, _arrays(p, q), reduction)
        except CannotCompile as error:
            obstacle = leaves.give_up(job.path, error)
        except TypeError:  # a kernel does not take the arrays: are they on another device by now?
            before = p.form, q and q.form
            if before == (p.look_anew(), q and q.look_anew()):
                raise
            return None
        else:
            if suspect is not None and (validate or (validate is None and job.path == "numba")):
                _diagnosis.judge(suspect, p, standard_normal(p) if q is None else q, job.computed_in)
            return result
    can_serve(path, obstacle, job.precise)
    return None


def _arrays(p: Gaussian, q: Gaussian | None) -> tuple[Array, ...]:
    """Mean and spread of p and of q, or of p alone."""
    return (p.mean, *p.arrays) if q is None else (p.mean, *p.arrays, q.mean, *q.arrays)
