"""The workloads of the speed benchmark, and what gausskl is to reach in them.

A workload makes its arrays once, and gives a function without arguments for each contestant, named
"who, library". A peer that is not installed has no function.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import peers
import torch
from limits import read_limit

import gausskl as gk

LIMIT, EVERY_PEER = "read limit, NumPy", "every peer"
NUMPY, EAGER, JITTED = "textbook, NumPy", "textbook, torch", "textbook, jax.jit"
COMPILED = "textbook under torch.compile, torch"
DISTRIBUTIONS = "torch.distributions, torch"
LONGEST_LOOP = 10_000  # matrices
LARGEST_IN_JAX = 16  # dimensions; with two CPUs, jaxlib took minutes or hung in stacks of larger matrices


@dataclass(frozen=True)
class Goal:
    """How many times as long as gausskl, on arrays of each library of ``ours``, a contestant is to take at least."""

    against: str
    asked: float
    ours: tuple[str, ...] = ("NumPy", "torch")

    def measured(self, seconds):
        """Library -> that ratio; empty if the contestant did not run."""
        others = [time for who, time in seconds.items() if self._names(who)]
        return {library: min(others) / seconds[f"gausskl, {library}"] for library in self.ours if others}

    def _names(self, who):
        if self.against == EVERY_PEER:
            return not who.startswith(("gausskl", "read limit"))
        return who == self.against


@dataclass(frozen=True)
class Forward:
    """The divergence of each row."""

    shape: tuple[int, ...]
    keyword: str
    dtype: Any = np.float64
    rank: int = 0
    goals: list[Goal] = field(default_factory=list)
    one_q: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # of kl_divergence

    @property
    def group(self):
        return "diagonal" if self.keyword == "std" else "dense"

    @property
    def name(self):
        kinds = {"std": "diagonal", "cov": "dense", "scale_tril": "scale_tril", "low_rank": f"low rank {self.rank}"}
        given = ["one q"] * self.one_q + [f"{option}={value}" for option, value in self.options.items()]
        rows, d = self.shape
        return ", ".join([kinds[self.keyword], *given, f"{rows} × d={d}", f"{np.dtype(self.dtype)}"])

    @property
    def tolerance(self):
        return 1e-4 if self.dtype is np.float32 else 1e-9

    def arrays(self):
        rng = np.random.default_rng(0)
        shapes = self.shape, self.shape[-1:] if self.one_q else self.shape
        return [array.astype(self.dtype) for shape in shapes for array in self._side(rng, shape)]

    def _side(self, rng, shape):
        d = shape[-1]
        yield rng.standard_normal(shape)
        if self.keyword == "std":
            yield rng.uniform(0.5, 2.0, shape)
        elif self.keyword == "low_rank":
            yield rng.standard_normal((*shape, self.rank))
            yield rng.uniform(0.5, 2.0, shape)
        else:
            factor = rng.standard_normal((*shape, d)) / d**0.5
            cov = factor @ factor.mT + np.eye(d)
            yield cov if self.keyword == "cov" else np.linalg.cholesky(cov)

    def path(self):
        return gk.plan(*peers.gaussians(self.keyword, *self.arrays())).path

    def calls(self, with_compile, threads):
        arrays = self.arrays()
        tensors, traced = [torch.from_numpy(a) for a in arrays], [jnp.asarray(a) for a in arrays]
        ours = peers.ours_std if self.keyword == "std" else functools.partial(peers.ours, self.keyword, **self.options)
        distributions = functools.partial(peers.torch_peer, self.keyword)
        calls = {
            "gausskl, NumPy": peers.called(ours, *arrays),
            "gausskl, torch": peers.called(ours, *tensors),
            "gausskl, jax.jit": peers.jitted(ours, *traced),
            DISTRIBUTIONS: peers.called(distributions, *tensors),
            "torch.distributions without checks, torch": peers.called(distributions, *tensors, checks=False),
        }
        if textbook := peers.TEXTBOOK.get(self.keyword):
            in_torch = functools.partial(textbook, torch)
            calls[NUMPY] = peers.called(textbook, np, *arrays)
            calls[EAGER] = peers.called(in_torch, *tensors)
            calls[JITTED] = peers.jitted(functools.partial(textbook, jnp), *traced)
            if with_compile:
                calls[COMPILED] = peers.called(peers.compiled(in_torch), *tensors)
            if peers.nd is not None:
                calls["NumPyro, jax.jit"] = peers.jitted(functools.partial(peers.numpyro_peer, self.keyword), *traced)
        if self.keyword == "cov":
            calls["Cholesky and solve, NumPy"] = peers.called(peers.cholesky_cov, np, *arrays)
            calls["Cholesky and solve, torch"] = peers.called(peers.cholesky_cov, torch, *tensors)
            if self.shape[0] <= LONGEST_LOOP and not self.one_q:
                calls["SciPy in a loop, NumPy"] = peers.called(peers.scipy_loop, *arrays)
        if self.options.get("precise"):  # JAX compiles nothing for that
            del calls["gausskl, jax.jit"]
        if self.keyword == "std":
            calls[LIMIT] = read_limit(arrays, threads)
        elif threads > 1 and self.shape[-1] > LARGEST_IN_JAX:
            calls = {who: call for who, call in calls.items() if not who.endswith("jax.jit")}
        return calls


@dataclass(frozen=True)
class Training:
    """Loss and gradients of one training step in torch: the mean of a pair over a batch, or the loss of a VAE."""

    shape: tuple[int, ...]
    keyword: str
    goals: list[Goal]
    dtype: Any = np.float32
    tolerance = 1e-4

    @property
    def group(self):
        return "dense" if self.keyword == "cov" else "diagonal"

    @property
    def name(self):
        what = "VAE, log_var against N(0, I)" if self.keyword == "log_var" else self.group
        rows, d = self.shape
        return f"training step, {what}, {rows} × d={d}, {np.dtype(self.dtype)}"

    def tensors(self):
        arrays = Forward(self.shape, "cov" if self.keyword == "cov" else "std", self.dtype).arrays()
        arrays = arrays[:2] if self.keyword == "log_var" else arrays
        return [torch.from_numpy(a).requires_grad_() for a in arrays]

    def path(self):
        tensors = self.tensors()
        if self.keyword == "log_var":
            return gk.plan(gk.Gaussian(tensors[0], log_var=tensors[1])).path
        return gk.plan(*peers.gaussians(self.keyword, *tensors)).path

    def calls(self, with_compile, threads):
        losses = peers.vae_losses() if self.keyword == "log_var" else peers.pair_losses(self.keyword)
        if with_compile:
            losses["textbook under torch.compile"] = peers.compiled(losses["textbook"])
        tensors = self.tensors()
        return {f"{name}, torch": self._step(loss, tensors) for name, loss in losses.items()}

    @staticmethod
    def _step(loss_of, tensors):
        def call():
            for tensor in tensors:
                tensor.grad = None
            loss = loss_of(*tensors)
            loss.backward()
            return loss.detach(), *(tensor.grad for tensor in tensors)

        return call


def training_goals(compiled, distributions, eager):
    asked = {COMPILED: compiled, DISTRIBUTIONS: distributions, EAGER: eager}
    return [Goal(against, ratio, ("torch",)) for against, ratio in asked.items()]


WORKLOADS = [
    Forward(
        (4096, 1024),
        "std",
        np.float64,
        goals=[Goal(LIMIT, 0.85), Goal(NUMPY, 5), Goal(DISTRIBUTIONS, 15), Goal(COMPILED, 1.3), Goal(JITTED, 1.3)],
    ),
    Forward(
        (4096, 1024),
        "std",
        np.float32,
        goals=[Goal(LIMIT, 0.85), Goal(NUMPY, 6), Goal(DISTRIBUTIONS, 6), Goal(COMPILED, 1.0)],
    ),
    Forward((100_000, 16), "std", np.float64, goals=[Goal(LIMIT, 0.7), Goal(EVERY_PEER, 1.5)]),
    Forward((100_000, 16), "std", np.float32, goals=[Goal(LIMIT, 0.7), Goal(EVERY_PEER, 1.5)]),
    Forward((10_000, 64), "std", np.float64, goals=[Goal(EVERY_PEER, 1.3)]),  # fits the cache
    Forward((10_000, 64), "std", np.float32, goals=[Goal(EVERY_PEER, 1.3)]),
    Forward((32, 16), "std", goals=[Goal(NUMPY, 1.0, ("NumPy",)), Goal(EAGER, 2.0, ("torch",))]),  # all overhead
    Forward((1, 16), "std", goals=[Goal(NUMPY, 0.5, ("NumPy",))]),
    Training((4096, 256), "std", training_goals(compiled=1.1, distributions=6, eager=6)),
    Training((512, 64), "std", training_goals(compiled=2.5, distributions=5, eager=3)),
    Training((4096, 256), "log_var", [Goal(EAGER, 2.0, ("torch",))]),
    Training((512, 64), "log_var", [Goal(EAGER, 2.0, ("torch",))]),
    Forward((200_000, 3), "cov", goals=[Goal(EVERY_PEER, 10)]),
    Forward((10_000, 2), "cov", goals=[Goal(EVERY_PEER, 15)]),
    Forward((10_000, 8), "cov", goals=[Goal(EVERY_PEER, 8)]),
    Forward((2000, 32), "cov", goals=[Goal(EVERY_PEER, 3)]),
    Forward((200, 128), "cov", goals=[Goal(EVERY_PEER, 1.3)]),
    Forward((4, 512), "cov", goals=[Goal(EVERY_PEER, 1.0)]),
    Forward((100_000, 16), "cov", goals=[Goal(EVERY_PEER, 10)], one_q=True),
    Forward((10_000, 8), "cov", np.float32),
    Forward((10_000, 8), "scale_tril"),
    Forward((10_000, 8), "cov", options={"precise": True}),
    Training((2000, 8), "cov", [Goal(DISTRIBUTIONS, 5, ("torch",))], np.float64),
    Forward((256, 784), "low_rank", rank=16, goals=[Goal(EVERY_PEER, 3)]),
]
