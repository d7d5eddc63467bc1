"""The public call: infer, check, choose, call."""

from __future__ import annotations

from typing import Any, Literal

from . import _checks, _diagnosis, _generic
from ._arrays import namespace
from ._fast import leaves
from ._fast.contract import CannotCompile
from ._formulas.kl import KL
from ._formulas.pairs import Divergence
from ._interop.objects import two_gaussians
from ._plan import Plan, can_serve, plan_for
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
    return _computed(KL, p, q, reduction, per_dim, validate, path, precise)


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
    found = plan_for(KL, p, q, per_dim, path, precise)
    obstacle = found.job and leaves.obstacle_now(found.job)
    if found.job and obstacle:
        can_serve(path, obstacle, found.job.precise)
        return found.by_formulas(obstacle)
    return found


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
    job = plan_for(KL, p, q, False, "auto", False).job
    if job is None or leaves.obstacle_now(job):
        return
    try:
        leaves.load(job).warm_up(job, _arrays(p, q), bool(gradients))
    except CannotCompile as error:
        leaves.give_up(job.path, error)


def _computed(
    of: Divergence,
    p: Gaussian | Any,
    q: Gaussian | Any | None,
    reduction: Reduction,
    per_dim: bool,
    validate: bool | None,
    path: str,
    precise: bool,
) -> Array:
    """What every divergence does: infer, check, choose, call."""
    if reduction is not REDUCTIONS[0]:
        _checks.one_of("reduction", reduction, REDUCTIONS)
    if validate is not None:
        _checks.one_of("validate", validate, (None, True, False))
    p, q = two_gaussians(p, q)
    return _run(plan_for(of, p, q, per_dim, path, precise), p, q, reduction, validate, path)


def _run(plan: Plan, p: Gaussian, q: Gaussian | None, reduction: Reduction, validate: bool | None, path: str) -> Array:
    """The divergence by a kernel if there is one, and can be here and now; else by the formulas."""
    job, found = plan.job, None
    if job is not None:
        obstacle = leaves.obstacle_now(job)
        if not obstacle:
            try:
                found = leaves.load(job).divergence(job, _arrays(p, q), reduction)
            except CannotCompile as error:
                obstacle = leaves.give_up(job.path, error)
            except TypeError:  # a kernel does not take the arrays: are they on another device by now?
                before = p.form, q and q.form
                if before == (p.look_anew(), q and q.look_anew()):
                    raise
                return _run(plan_for(plan.of, p, q, plan.per_dim, path, job.precise), p, q, reduction, validate, path)
        if found is None:
            can_serve(path, obstacle, job.precise)
            plan = plan.by_formulas(obstacle)
    if found is None:
        found = _generic.divergence(plan, p, _generic.standard_normal(p) if q is None else q, reduction)
    result, suspect = found
    if suspect is not None and validate is not False:
        _look_again(suspect, plan, p, q, validate, path)
    return result


def _look_again(suspect: Array, plan: Plan, p: Gaussian, q: Gaussian | None, validate: bool | None, path: str) -> None:
    """Name the value that spoilt a result, if it can be read or was asked for."""
    if validate and namespace.is_traced(suspect):
        raise ValueError(
            "validate=True needs values to look at, and these arrays have none yet (lazy, or inside jit, compile "
            "or vmap): leave validate out, and a bad element will be NaN"
        )
    if not (validate or namespace.can_be_read(suspect)) or _diagnosis.is_finite(suspect):
        return

    def precise_serves() -> bool:
        try:
            return plan_for(plan.of, p, q, plan.per_dim, path, True).job is not None
        except ValueError:
            return False

    _diagnosis.complain(suspect, p, _generic.standard_normal(p) if q is None else q, plan.computed_in, precise_serves())


def _arrays(p: Gaussian, q: Gaussian | None) -> tuple[Array, ...]:
    """Mean and spread of p and of q, or of p alone."""
    return (p.mean, *p.arrays) if q is None else (p.mean, *p.arrays, q.mean, *q.arrays)
