"""Every way in which torch differentiates, vectorises or compiles gives what autograd gives."""

import itertools

import numpy as np
import pytest
from cases import side
from conftest import NAMESPACES
from differentiation import divergence_of

import gausskl as gk
from helpers import Backend

if Backend.TORCH not in NAMESPACES:
    pytest.skip("torch is not under test", allow_module_level=True)

import torch

# torch warns of what it does itself, in forward mode and in its compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning"),
]

DIAGONAL = "std", "var", "log_std", "log_var"
OTHERS = "scale_tril", "cov", "row", "tfp", "precision", "low_rank"
PAIRS = [
    *itertools.product(DIAGONAL, repeat=2),
    *((name, name) for name in OTHERS),
    *((name, "std") for name in OTHERS),
    *(("log_var", name) for name in OTHERS),
    ("cov", "scale_tril"),
    ("scale_tril", "cov"),
    ("precision", "cov"),
    ("low_rank", "cov"),
    ("scale_tril", "low_rank"),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
COMPILED = [("std", "std"), ("log_var", "log_var"), ("scale_tril", "scale_tril"), ("cov", "cov")]


def example(pair, d=3):
    """A function of unconstrained tensors, and tensors for it, p and q apart by an ordinary distance.

    A transform moves single entries: matrices are made symmetric, or lower triangular, inside the function.
    """
    p, q = side(pair[0], d=d), side(pair[1], d=d, seed=1)
    names = [(which, name) for which, g in enumerate((p, q)) for name in g if name != "packing"]

    def function(*tensors):
        return divergence_of(names, list(map(_valid, names, tensors)), p, q)

    return function, [torch.asarray(np.array((p, q)[which][name])) for which, name in names]


def _valid(name, tensor):
    if name[1] in ("cov", "precision"):
        return (tensor + tensor.mT) / 2
    return torch.tril(tensor) if name[1] == "scale_tril" else tensor


def leaves(tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


def stacked(tensors):
    """Three Gaussians each, a little apart."""
    return [torch.stack([tensor * (1 + 0.01 * k) for k in range(3)]) for tensor in tensors]


def close(got, want, factor=64):
    torch.testing.assert_close(got, want, rtol=factor * 2.0**-52, atol=factor * 2.0**-52)


@every_pair
def test_gradcheck_reverse_and_forward(pair):
    function, tensors = example(pair)
    assert torch.autograd.gradcheck(function, leaves(tensors), check_forward_ad=True)


@every_pair
def test_gradgradcheck(pair):
    function, tensors = example(pair)
    assert torch.autograd.gradgradcheck(function, leaves(tensors))


@every_pair
def test_func_grad(pair):
    function, tensors = example(pair)
    inputs = leaves(tensors)
    want = torch.autograd.grad(function(*inputs), inputs)
    close(torch.func.grad(function, argnums=tuple(range(len(tensors))))(*tensors), want)


@every_pair
def test_func_jvp(pair):
    function, tensors = example(pair)
    tangents = [torch.cos(torch.arange(float(t.numel()), dtype=t.dtype)).reshape(t.shape) for t in tensors]
    inputs = leaves(tensors)
    grads = torch.autograd.grad(function(*inputs), inputs)
    value, tangent = torch.func.jvp(function, tuple(tensors), tuple(tangents))
    close(value, function(*tensors))
    close(tangent, sum((g * t).sum() for g, t in zip(grads, tangents, strict=True)))


@every_pair
def test_func_vmap(pair):
    function, tensors = example(pair)
    rows = stacked(tensors)
    want = torch.stack([function(*(tensor[k] for tensor in rows)) for k in range(3)])
    close(torch.func.vmap(function)(*rows), want)


@every_pair
def test_func_vmap_of_grad(pair):
    function, tensors = example(pair)
    rows = stacked(tensors)
    grad = torch.func.grad(function, argnums=tuple(range(len(tensors))))
    one_by_one = [grad(*(tensor[k] for tensor in rows)) for k in range(3)]
    want = tuple(torch.stack(parts) for parts in zip(*one_by_one, strict=True))
    close(torch.func.vmap(grad)(*rows), want)


@every_pair
def test_func_hessian(pair):
    function, tensors = example(pair, d=2)
    every = tuple(range(len(tensors)))
    want = torch.autograd.functional.hessian(function, tuple(tensors))
    close(torch.func.hessian(function, argnums=every)(*tensors), want, factor=1024)


@pytest.mark.parametrize("pair", COMPILED, ids="-".join)
def test_compile_fullgraph(pair):
    function, tensors = example(pair)
    rows, eager = leaves(stacked(tensors)), leaves(stacked(tensors))
    got, want = torch.compile(function, fullgraph=True)(*rows), function(*eager)
    close(got, want)
    close(torch.autograd.grad(got.sum(), rows), torch.autograd.grad(want.sum(), eager))


@pytest.mark.parametrize("keyword", ["std", "log_var", "scale_tril", "row"])
def test_compile_against_the_standard_normal(keyword):
    """Numbers and constants are made inside the compiled function."""

    def loss(*spread):
        g = {**p, **dict(zip(names, spread, strict=True))}
        return gk.kl_divergence(gk.Gaussian(**g)) + gk.kl_divergence(gk.Gaussian(g["mean"], std=0.5))

    p = side(keyword, d=3)
    names = [name for name in p if name != "packing"]
    spread = leaves(torch.asarray(np.array(p[name])) for name in names)
    close(torch.compile(loss, fullgraph=True)(*spread), loss(*spread))


def test_vmap_over_the_spread_alone():
    """The mean is an ordinary tensor, and the result is not one."""
    mean, std = torch.zeros(3), torch.full((4, 3), 2.0)

    def function(s):
        return gk.kl_divergence(gk.Gaussian(mean, std=s))

    close(torch.func.vmap(function)(std), function(std))
