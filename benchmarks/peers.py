"""Everybody whose speed is measured: gausskl, the textbook formulas and the libraries.

SciPy is no peer: its `stats.entropy` and `special.kl_div` are for probability vectors, and it has no divergence of
two Gaussians.
"""

import functools

import jax
import numpy as np
import torch
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


TEXTBOOK = {"std": textbook_std, "cov": textbook_cov}


# ---- the libraries ----


def gaussians(keyword, *arrays):
    """p and q, from the arrays of one and then of the other."""
    half = len(arrays) // 2
    return [_gaussian(keyword, *side) for side in (arrays[:half], arrays[half:])]


def _gaussian(keyword, mean, *spread):
    if keyword == "low_rank":
        return gk.Gaussian(mean, cov_factor=spread[0], cov_diag=spread[1])
    return gk.Gaussian(mean, **{keyword: spread[0]})


def ours(keyword, *arrays):
    return gk.kl_divergence(*gaussians(keyword, *arrays))


def ours_std(mean_p, std_p, mean_q, std_q, reduction="none"):
    """As a user would write it: in small calls the detour through `gaussians` would be seen."""
    return gk.kl_divergence(gk.Gaussian(mean_p, std=std_p), gk.Gaussian(mean_q, std=std_q), reduction=reduction)


def torch_distribution(keyword, mean, *spread, checks=None):
    if keyword == "std":
        return td.Independent(td.Normal(mean, *spread, validate_args=checks), 1, validate_args=checks)
    kind = td.MultivariateNormal if keyword == "cov" else td.LowRankMultivariateNormal
    return kind(mean, *spread, validate_args=checks)


def torch_peer(keyword, *arrays, checks=None):
    half = len(arrays) // 2
    p, q = (torch_distribution(keyword, *side, checks=checks) for side in (arrays[:half], arrays[half:]))
    return td.kl_divergence(p, q)


def numpyro_peer(keyword, mean_p, spread_p, mean_q, spread_q):
    def make(mean, spread):
        if keyword == "std":
            return nd.Normal(mean, spread).to_event(1)
        return nd.MultivariateNormal(mean, spread)

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


def pair_losses():
    """Name -> mean over a batch of the divergence of two diagonal Gaussians."""
    return {
        "gausskl": lambda *tensors: ours_std(*tensors, reduction="mean"),
        "textbook": lambda *tensors: textbook_std(torch, *tensors).mean(),
        "torch.distributions": lambda *tensors: torch_peer("std", *tensors).mean(),
        "torch.distributions without checks": lambda *tensors: torch_peer("std", *tensors, checks=False).mean(),
    }


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
