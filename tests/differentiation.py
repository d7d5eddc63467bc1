"""Gradients by the library under test, where it has any."""

import importlib

from conftest import NAMESPACES

import gausskl as gk
from helpers import Backend, make, to_numpy

DIFFERENTIABLE = [backend for backend in NAMESPACES if backend in (Backend.TORCH, Backend.JAX, Backend.TENSORFLOW)]


def gradients(backend, p, q, **options):
    """Gradients of the sum of the divergences by every array of p and of q, as two dicts of NumPy arrays."""
    xp = NAMESPACES[backend]
    names = [(which, name) for which, g in enumerate((p, q)) for name, a in g.items() if name != "packing"]
    arrays = [make(xp, (p, q)[which][name]) for which, name in names]
    found = _DERIVE[backend](lambda *arrays: divergence_of(names, arrays, p, q, **options), arrays)
    sides = {}, {}
    for (which, name), array in zip(names, found, strict=True):
        sides[which][name] = to_numpy(array)
    return sides


def divergence_of(names, arrays, p, q, **options):
    """The divergence after the arrays called ``names`` have taken the places of those in p and q."""
    sides = [{"packing": g["packing"]} if "packing" in g else {} for g in (p, q)]
    for (which, name), array in zip(names, arrays, strict=True):
        sides[which][name] = array
    return gk.kl_divergence(*(gk.Gaussian(**g) for g in sides), **options)


def _derive_torch(function, arrays):
    leaves = [array.requires_grad_() for array in arrays]
    return importlib.import_module("torch").autograd.grad(function(*leaves).sum(), leaves)


def _derive_jax(function, arrays):
    total = lambda *arrays: function(*arrays).sum()  # noqa: E731
    return importlib.import_module("jax").grad(total, argnums=tuple(range(len(arrays))))(*arrays)


def _derive_tensorflow(function, arrays):
    tensorflow = importlib.import_module("tensorflow")
    with tensorflow.GradientTape() as tape:
        tape.watch(arrays)
        loss = tensorflow.reduce_sum(function(*arrays))
    return tape.gradient(loss, arrays)


_DERIVE = {Backend.TORCH: _derive_torch, Backend.JAX: _derive_jax, Backend.TENSORFLOW: _derive_tensorflow}
