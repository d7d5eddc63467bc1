"""The workloads of the speed benchmark and everybody who runs in them.

A workload makes its arrays once, and gives a function without arguments for each contestant, named
"who, library". A peer that is not installed has no function.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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


def textbook_log_var(xp, mean, log_var):
    """The loss term of a variational autoencoder."""
    return -0.5 * (1 + log_var - mean * mean - xp.exp(log_var)).sum(-1)


def textbook_cov(xp, mean_p, cov_p, mean_q, cov_q):
    delta = mean_p - mean_q
    inverse = xp.linalg.inv(cov_q)
    trace = (inverse * cov_p).sum((-2, -1))
    log_det = xp.linalg.slogdet(cov_q)[1] - xp.linalg.slogdet(cov_p)[1]
    quadratic = ((inverse @ delta[..., None])[..., 0] * delta).sum(-1)
    return 0.5 * (trace - delta.shape[-1] + quadratic + log_det)


# ---- making arrays, and waiting for them ----


def to_torch(arrays):
    return [torch.from_numpy(a) for a in arrays]


def to_jax(arrays):
    return [jnp.asarray(a) for a in arrays]


def waited(function, *arrays):
    """JAX returns before it has computed."""
    return lambda: np.asarray(jax.block_until_ready(function(*arrays)))


def ours(keyword, *arrays, validate=None):
    half = len(arrays) // 2
    p, q = (_gaussian(keyword, *side) for side in (arrays[:half], arrays[half:]))
    return gk.kl_divergence(p, q, validate=validate)


def _gaussian(keyword, mean, *spread):
    if keyword == "low_rank":
        return gk.Gaussian(mean, cov_factor=spread[0], cov_diag=spread[1])
    return gk.Gaussian(mean, **{keyword: spread[0]})


def torch_distribution(keyword, mean, *spread):
    # Checks off: they are no part of the divergence.
    if keyword == "std":
        return td.Independent(td.Normal(mean, *spread, validate_args=False), 1, validate_args=False)
    kind = td.MultivariateNormal if keyword == "cov" else td.LowRankMultivariateNormal
    return kind(mean, *spread, validate_args=False)


def torch_peer(keyword, *arrays):
    half = len(arrays) // 2
    return td.kl_divergence(*(torch_distribution(keyword, *side) for side in (arrays[:half], arrays[half:])))


def numpyro_peer(keyword, mean_p, spread_p, mean_q, spread_q):
    def make(mean, spread):
        if keyword == "std":
            return nd.Normal(mean, spread).to_event(1)
        return nd.MultivariateNormal(mean, spread)

    return nd.kl_divergence(make(mean_p, spread_p), make(mean_q, spread_q))


# ---- the workloads ----


@dataclass(frozen=True)
class Forward:
    """The divergence of each row."""

    shape: tuple[int, ...]
    keyword: str
    dtype: Any
    rank: int = 0

    @property
    def name(self):
        kind = {"std": "diagonal", "cov": "dense", "low_rank": f"low rank {self.rank}"}[self.keyword]
        rows, d = self.shape
        return f"{kind}, {rows} × d={d}, {np.dtype(self.dtype)}"

    @property
    def tolerance(self):
        return 1e-2 if self.dtype is np.float32 else 1e-8

    def arrays(self):
        rng = np.random.default_rng(0)
        return [array.astype(self.dtype) for _ in range(2) for array in self._side(rng)]

    def _side(self, rng):
        d = self.shape[-1]
        yield rng.standard_normal(self.shape)
        if self.keyword == "std":
            yield rng.uniform(0.5, 2.0, self.shape)
        elif self.keyword == "cov":
            factor = rng.standard_normal((*self.shape, d)) / d**0.5
            yield factor @ factor.mT + np.eye(d)
        else:
            yield rng.standard_normal((*self.shape, self.rank))
            yield rng.uniform(0.5, 2.0, self.shape)

    def calls(self, with_compile):
        arrays = self.arrays()
        tensors, traced = to_torch(arrays), to_jax(arrays)
        own = functools.partial(ours, self.keyword)
        calls = {
            "gausskl, NumPy": lambda: own(*arrays),
            "gausskl, torch": lambda: own(*tensors),
            "gausskl, jax.jit": waited(jax.jit(own), *traced),
            "torch.distributions, torch": lambda: torch_peer(self.keyword, *tensors),
        }
        if self.keyword != "low_rank":
            textbook = {"std": textbook_std, "cov": textbook_cov}[self.keyword]
            calls["textbook, NumPy"] = lambda: textbook(np, *arrays)
            calls["textbook, torch"] = lambda: textbook(torch, *tensors)
            calls["textbook, jax.jit"] = waited(jax.jit(functools.partial(textbook, jnp)), *traced)
            if nd is not None:
                calls["NumPyro, jax.jit"] = waited(jax.jit(functools.partial(numpyro_peer, self.keyword)), *traced)
            if with_compile:
                compiled = torch.compile(functools.partial(textbook, torch))
                calls["textbook under torch.compile, torch"] = lambda: compiled(*tensors)
        if with_compile and self.keyword == "std":
            ours_compiled = torch.compile(own)
            calls["gausskl under torch.compile, torch"] = lambda: ours_compiled(*tensors)
        return calls


@dataclass(frozen=True)
class Training:
    """Loss and gradients of one training step in torch: the mean over a batch."""

    shape: tuple[int, ...]
    keyword: str
    tolerance: float = 1e-3

    @property
    def name(self):
        what = "VAE, log_var against N(0, I)" if self.keyword == "log_var" else "diagonal"
        rows, d = self.shape
        return f"training step, {what}, {rows} × d={d}, float32"

    def calls(self, with_compile):
        rng = np.random.default_rng(0)
        means = rng.standard_normal((2, *self.shape))
        arrays = [means[0], rng.uniform(0.5, 2.0, self.shape), means[1], rng.uniform(0.5, 2.0, self.shape)]
        if self.keyword == "log_var":
            arrays = arrays[:2]
        tensors = [torch.from_numpy(a.astype(np.float32)).requires_grad_() for a in arrays]

        def step(function):
            def call():
                for tensor in tensors:
                    tensor.grad = None
                loss = function(*tensors).mean()
                loss.backward()
                return loss.detach()

            return call

        if self.keyword == "log_var":
            losses = {
                "gausskl": lambda m, v: gk.kl_divergence(gk.Gaussian(m, log_var=v)),
                "textbook": functools.partial(textbook_log_var, torch),
                "torch.distributions": lambda m, v: td.kl_divergence(
                    torch_distribution("std", m, (0.5 * v).exp()),
                    torch_distribution("std", torch.zeros_like(m), torch.ones_like(v)),
                ),
            }
        else:
            losses = {
                "gausskl": functools.partial(ours, "std"),
                "textbook": functools.partial(textbook_std, torch),
                "torch.distributions": functools.partial(torch_peer, "std"),
            }
        if with_compile:
            losses["textbook under torch.compile"] = torch.compile(losses["textbook"])
        return {f"{name}, torch": step(function) for name, function in losses.items()}


WORKLOADS = [
    Forward((4096, 1024), "std", np.float64),
    Forward((4096, 1024), "std", np.float32),
    Forward((100_000, 16), "std", np.float64),
    Forward((10_000, 64), "std", np.float64),
    Forward((32, 16), "std", np.float64),
    Forward((10_000, 2), "cov", np.float64),
    Forward((10_000, 8), "cov", np.float64),
    Forward((2000, 32), "cov", np.float64),
    Forward((200, 128), "cov", np.float64),
    Forward((256, 784), "low_rank", np.float64, rank=16),
    Training((4096, 256), "std"),
    Training((4096, 256), "log_var"),
]
