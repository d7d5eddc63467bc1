"""Everybody whose speed is measured: gausskl, the textbook formulas and the libraries.

SciPy has no divergence of two Gaussians: its `stats.entropy` and `special.kl_div` are for probability vectors. What
stands for it is the loop over a batch that its users write.
"""

import functools

import jax
import numpy as np
import torch
from scipy.linalg import cho_factor, solve_triangular
from torch import distributions as td

import gausskl as gk

try:
    import numpyro.distributions as nd
except ImportError:
    nd = None
    print("numpyro: left out, it is not installed")


# ---- the textbook ----


def textbook_std(xp, mean_p, std_p, mean_q, std_q):
    ratio = (std_p / std_q) ** 2
    z = (mean_p - mean_q) / std_q
    return 0.5 * (ratio + z * z - 1 - xp.log(ratio)).sum(-1)


def textbook_cov(xp, mean_p, cov_p, mean_q, cov_q):
    delta = mean_p - mean_q
    inverse = xp.linalg.inv(cov_q)
    trace = (inverse * cov_p).sum((-2, -1))
    log_det = xp.linalg.slogdet(cov_q)[1] - xp.linalg.slogdet(cov_p)[1]
    quadratic = ((inverse @ delta[..., None])[..., 0] * delta).sum(-1)
    return 0.5 * (trace - delta.shape[-1] + quadratic + log_det)


def cholesky_cov(xp, mean_p, cov_p, mean_q, cov_q):
    return textbook_tril(xp, mean_p, xp.linalg.cholesky(cov_p), mean_q, xp.linalg.cholesky(cov_q))


def textbook_tril(xp, mean_p, factor_p, mean_q, factor_q):
    """Triangular solves in torch; NumPy has none for stacks, and solves as for any matrix."""
    solve = functools.partial(torch.linalg.solve_triangular, upper=False) if xp is torch else xp.linalg.solve
    whitened, z = solve(factor_q, factor_p), solve(factor_q, (mean_p - mean_q)[..., None])
    log_det = 2 * xp.log(xp.linalg.diagonal(factor_q) / xp.linalg.diagonal(factor_p)).sum(-1)
    return 0.5 * ((whitened**2).sum((-2, -1)) - mean_p.shape[-1] + (z**2).sum((-2, -1)) + log_det)


TEXTBOOK = {"std": textbook_std, "cov": textbook_cov, "scale_tril": textbook_tril}


def scipy_loop(mean_p, cov_p, mean_q, cov_q):
    """Matrix by matrix, without SciPy's search for numbers that are not finite."""
    solve = functools.partial(solve_triangular, lower=True, check_finite=False)
    result = np.empty(len(mean_p), mean_p.dtype)
    for k in range(len(result)):
        factor_p, factor_q = (cho_factor(cov[k], lower=True, check_finite=False)[0] for cov in (cov_p, cov_q))
        whitened, z = solve(factor_q, np.tril(factor_p)), solve(factor_q, mean_p[k] - mean_q[k])
        log_det = 2 * np.log(factor_q.diagonal() / factor_p.diagonal()).sum()
        result[k] = 0.5 * ((whitened**2).sum() - len(z) + z @ z + log_det)
    return result


# ---- the libraries ----


def gaussians(keyword, *arrays):
    """p and q, from the arrays of one and then of the other."""
    half = len(arrays) // 2
    return [_gaussian(keyword, *side) for side in (arrays[:half], arrays[half:])]


def _gaussian(keyword, mean, *spread):
    if keyword == "low_rank":
        return gk.Gaussian(mean, cov_factor=spread[0], cov_diag=spread[1])
    return gk.Gaussian(mean, **{keyword: spread[0]})


def ours(keyword, *arrays, **options):
    return gk.kl_divergence(*gaussians(keyword, *arrays), **options)


def ours_std(mean_p, std_p, mean_q, std_q, reduction="none"):
    """As a user would write it: in small calls the detour through `gaussians` would be seen."""
    return gk.kl_divergence(gk.Gaussian(mean_p, std=std_p), gk.Gaussian(mean_q, std=std_q), reduction=reduction)


THEIR_NAME = {"cov": "covariance_matrix", "scale_tril": "scale_tril"}


def torch_distribution(keyword, mean, *spread, checks=None):
    if keyword == "std":
        return td.Independent(td.Normal(mean, *spread, validate_args=checks), 1, validate_args=checks)
    if keyword == "low_rank":
        return td.LowRankMultivariateNormal(mean, *spread, validate_args=checks)
    return td.MultivariateNormal(mean, **{THEIR_NAME[keyword]: spread[0]}, validate_args=checks)


def torch_peer(keyword, *arrays, checks=None):
    half = len(arrays) // 2
    p, q = (torch_distribution(keyword, *side, checks=checks) for side in (arrays[:half], arrays[half:]))
    return td.kl_divergence(p, q)


def numpyro_peer(keyword, mean_p, spread_p, mean_q, spread_q):
    def make(mean, spread):
        if keyword == "std":
            return nd.Normal(mean, spread).to_event(1)
        return nd.MultivariateNormal(mean, **{THEIR_NAME[keyword]: spread})

    return nd.kl_divergence(make(mean_p, spread_p), make(mean_q, spread_q))


def called(function, *arrays, **options):
    return lambda: function(*arrays, **options)


def jitted(function, *arrays):
    """Under jax.jit, and waited for: JAX returns before it has computed."""
    function = jax.jit(function)
    return lambda: np.asarray(jax.block_until_ready(function(*arrays)))


def compiled(function):
    return torch.compile(function, dynamic=False)


# ---- losses of a training step in torch: functions of its tensors ----


def pair_losses(keyword):
    """Name -> mean over a batch of the divergence of two Gaussians."""
    mine = ours_std if keyword == "std" else functools.partial(ours, keyword)
    losses = {
        "gausskl": functools.partial(mine, reduction="mean"),
        "textbook": lambda *tensors: TEXTBOOK[keyword](torch, *tensors).mean(),
        "torch.distributions": lambda *tensors: torch_peer(keyword, *tensors).mean(),
        "torch.distributions without checks": lambda *tensors: torch_peer(keyword, *tensors, checks=False).mean(),
    }
    if keyword == "cov":
        losses["Cholesky and solve"] = lambda *tensors: cholesky_cov(torch, *tensors).mean()
    return losses


def vae_losses():
    """Name -> loss term of a variational autoencoder; its textbook is the usual line."""

    def distributions(mean, log_var, checks=None):
        std = (0.5 * log_var).exp()
        return torch_peer("std", mean, std, torch.zeros_like(mean), torch.ones_like(std), checks=checks).sum()

    return {
        "gausskl": lambda mean, log_var: gk.kl_divergence(gk.Gaussian(mean, log_var=log_var), reduction="sum"),
        "textbook": lambda mean, log_var: -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(),
        "torch.distributions": distributions,
        "torch.distributions without checks": functools.partial(distributions, checks=False),
    }
