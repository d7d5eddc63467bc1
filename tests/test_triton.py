"""What the Triton kernels are given and what they leave alone: strides, broadcasting, narrow dtypes, gradients.

That their numbers are right is what the other tests say with ``--torch-device interpreter`` or ``cuda``.
"""

import itertools

import numpy as np
import pytest
from cases import side

import gausskl as gk
import helpers
from gausskl._fast import leaves as leaf_table
from helpers import make

if helpers.TORCH_DEVICE != "cuda" and leaf_table.LEAVES["triton"].on_gpu:
    pytest.skip("needs --torch-device interpreter, or cuda", allow_module_level=True)
pytest.importorskip("triton")

import array_api_compat.torch as xp
import torch
from torch.autograd import grad

pytestmark = [pytest.mark.gpu] if helpers.TORCH_DEVICE == "cuda" else []

KEYWORDS = "std", "var", "log_std", "log_var"
every_keyword = pytest.mark.parametrize("keyword", KEYWORDS)
every_dtype = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
every_side = pytest.mark.parametrize("count", [4, 2], ids=["pair", "standard normal"])


def drawn(keyword, *shapes, dtype="float64", seed=0):
    """Mean and spread of p and of q; one shape for all four, or one for each."""
    rng = np.random.default_rng(seed)
    draws = [rng.normal(0, 0.7, shape) for shape in (shapes * 4 if len(shapes) == 1 else shapes)]
    return [make(xp, np.exp(x) if k % 2 and "log" not in keyword else x, dtype) for k, x in enumerate(draws)]


def divergence(keyword, arrays, path="triton", **options):
    sides = [gk.Gaussian(mean, **{keyword: s}) for mean, s in zip(arrays[::2], arrays[1::2], strict=True)]
    return gk.kl_divergence(*sides, path=path, **options)


def close(got, want, eps=64):
    torch.testing.assert_close(
        got, want, rtol=eps * torch.finfo(want.dtype).eps, atol=eps * torch.finfo(want.dtype).eps
    )


def same_bits(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def gradients(arrays, keyword, weights, **options):
    leaves = [array.detach().clone().requires_grad_() for array in arrays]
    return grad((divergence(keyword, leaves, **options) * weights).sum(), leaves)


# ---- what it serves ----


@every_side
@every_dtype
@every_keyword
def test_it_serves_diagonal_pairs_of_one_dtype(keyword, dtype, count):
    arrays = drawn(keyword, (5, 3), dtype=dtype)[:count]
    p, q = gk.Gaussian(arrays[0], **{keyword: arrays[1]}), None
    if count == 4:
        q = gk.Gaussian(arrays[2], **{keyword: arrays[3]})
    plan = gk.plan(p, q)
    computed_in = "float64" if dtype == "float64" else "float32"
    assert (plan.path, plan.dtype, plan.computed_in) == ("triton", dtype, computed_in)
    assert plan.reason == "one compiled pass over diagonal Gaussians on the GPU"
    for options in ({}, {"per_dim": True}, {"reduction": "sum"}, {"reduction": "mean"}):
        got, want = divergence(keyword, arrays, **options), divergence(keyword, arrays, "generic", **options)
        assert got.device == arrays[0].device
        close(got, want, 2 if "16" in dtype else 64)


UNSERVED = {
    "two keywords": (lambda: [gk.Gaussian(make(xp, np.zeros(3)), **{k: 1.0}) for k in ("std", "var")], "std and var"),
    "dense": (lambda: [gk.Gaussian(**{k: make(xp, a) for k, a in side("cov").items()})], "is for diagonal Gaussians"),
    "two dtypes": (
        lambda: [gk.Gaussian(make(xp, np.zeros(3), dtype), std=1.0) for dtype in ("float32", "float64")],
        "not for float32 and float64",
    ),
    "integers": (lambda: [gk.Gaussian(make(xp, np.zeros(3, int)), std=make(xp, np.ones(3, int)))], "not for int64"),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_it_says_why_it_does_not_serve(name):
    pair, reason = UNSERVED[name]
    assert gk.plan(*pair()).path == "generic"
    with pytest.raises(ValueError, match=r'path="triton" cannot serve this call: .*; leave path out') as error:
        gk.kl_divergence(*pair(), path="triton")
    assert reason in str(error.value)


# ---- any memory ----

LAYOUTS = {
    "single": [(3,)],
    "empty": [(0, 3)],
    "one dimension": [(6, 1)],
    "many dimensions": [(2, 1100)],
    "more than a program takes": [(2, 20_000), (2, 20_000), (20_000,), ()],
    "one q": [(6, 3), (6, 3), (3,), (3,)],
    "isotropic": [(6, 3), (6, 1), (6, 3), ()],
    "all with all": [(4, 1, 3), (4, 1, 3), (5, 3), (5, 3)],
    "three batch axes": [(2, 1, 4, 3), (2, 1, 1, 3), (5, 1, 3), (3,)],
    "axes of length 1": [(1, 2, 1, 3), (1, 2, 1, 3), (1, 3), (1, 1, 1, 1)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_keyword
def test_broadcasting(keyword, layout):
    arrays = drawn(keyword, *LAYOUTS[layout])
    weights = torch.cos(torch.arange(100.0, dtype=torch.float64, device=arrays[0].device))
    for options in ({}, {"per_dim": True}):
        want = divergence(keyword, arrays, "generic", **options)
        got = divergence(keyword, arrays, **options)
        assert got.shape == want.shape
        close(got, want)
        weight = weights[torch.arange(want.numel(), device=weights.device) % 100].reshape(want.shape)
        for a, b in zip(
            gradients(arrays, keyword, weight, **options),
            gradients(arrays, keyword, weight, path="generic", **options),
            strict=True,
        ):
            assert a.shape == b.shape
            close(a, b, 256)


VIEWS = {
    "transposed": lambda x: x.T.contiguous().T,
    "every second": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "every second row": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "reversed": lambda x: x.flip(0).contiguous().flip(0),
    "negated": lambda x: torch._neg_view(-x),
    "part of a larger one": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[1:-4, 3:-2],
}


@pytest.mark.parametrize("d", [12, 128])
@pytest.mark.parametrize("view", VIEWS)
@every_keyword
def test_any_strides_give_the_same_bits(keyword, view, d):
    arrays = drawn(keyword, (37, d))
    views = [VIEWS[view](array) for array in arrays]
    same_bits(divergence(keyword, views), divergence(keyword, arrays))
    same_bits(divergence(keyword, views, per_dim=True), divergence(keyword, arrays, per_dim=True))
    weights = torch.ones((), dtype=torch.float64, device=arrays[0].device)
    for got, want in zip(gradients(views, keyword, weights), gradients(arrays, keyword, weights), strict=True):
        same_bits(got, want)


@pytest.mark.parametrize("d", [3, 100])
@every_keyword
def test_a_row_has_the_same_bits_in_any_batch(keyword, d):
    arrays = drawn(keyword, (40, d))
    whole = divergence(keyword, arrays)
    for rows in (slice(0, 1), slice(7, 8), slice(3, 39)):
        same_bits(divergence(keyword, [array[rows] for array in arrays]), whole[rows])


def test_an_empty_batch():
    arrays = drawn("std", (0, 3))
    assert divergence("std", arrays).shape == (0,)
    assert divergence("std", arrays, reduction="sum") == 0
    assert torch.isnan(divergence("std", arrays, reduction="mean"))


# ---- values ----


@every_keyword
def test_a_bad_element_is_nan_in_its_row_alone_until_validate_asks(keyword):
    arrays = drawn(keyword, (5, 3))
    arrays[1][2, 1] = float("nan") if "log" in keyword else -1.0
    arrays[0][3, 0] = float("inf")
    unread = {} if helpers.TORCH_DEVICE == "cuda" else {"validate": False}  # values on a CPU are looked at
    got = divergence(keyword, arrays, **unread)
    assert torch.isnan(got[2])
    assert torch.isinf(got[3])
    assert torch.isfinite(got[[0, 1, 4]]).all()
    for reduction in ("none", "sum", "mean"):
        with pytest.raises(ValueError, match=r"^p: mean\[3, 0\] = inf"):
            divergence(keyword, arrays, reduction=reduction, validate=True)


@every_dtype
@every_keyword
def test_equal_gives_exactly_0_and_so_do_the_gradients(keyword, dtype):
    mean, spread = drawn(keyword, (5, 3), dtype=dtype)[:2]
    arrays = [mean, spread, mean, spread]
    assert (divergence(keyword, arrays) == 0).all()
    assert all((part == 0).all() for part in gradients(arrays, keyword, 1.0))


def test_reductions_add_in_float64():
    """A sum in float32 would stay at 2**24."""
    mean = make(xp, np.array([[2.0**12.5]] + [[1.0]] * 64), "float32")
    p = gk.Gaussian(mean, std=1.0)
    want = divergence("std", [mean, torch.ones_like(mean)]).double().sum().float()
    assert gk.kl_divergence(p, reduction="sum", path="triton") == want
    assert gk.kl_divergence(p, reduction="mean", path="triton") == (want.double() / 65).float()


# ---- gradients ----


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@every_side
@every_dtype
@every_keyword
def test_gradients_are_those_of_the_formulas(keyword, dtype, count, reduction):
    arrays = drawn(keyword, (6, 3), dtype=dtype)[:count]
    found = gradients(arrays, keyword, 1.5, reduction=reduction)
    for got, want in zip(found, gradients(arrays, keyword, 1.5, path="generic", reduction=reduction), strict=True):
        assert got.dtype == want.dtype
        close(got, want, 4 if "16" in dtype else 256)


@every_keyword
def test_only_what_is_asked_for(keyword):
    arrays = drawn(keyword, (6, 3))
    whole = gradients(arrays, keyword, 1.0)
    for wanted in itertools.product((False, True), repeat=4):
        leaves = [array.detach().clone().requires_grad_(want) for array, want in zip(arrays, wanted, strict=True)]
        result = divergence(keyword, leaves).sum()
        assert result.requires_grad == any(wanted)
        if any(wanted):
            result.backward()
        for leaf, want, expected in zip(leaves, wanted, whole, strict=True):
            assert (leaf.grad is not None) == want
            if want:
                same_bits(leaf.grad, expected)


@every_dtype
@every_keyword
def test_second_derivatives(keyword, dtype):
    leaves = [array.requires_grad_() for array in drawn(keyword, (6, 3), dtype=dtype)]
    results = []
    for path in ("triton", "generic"):
        first = grad(divergence(keyword, leaves, path).sum(), leaves, create_graph=True)
        results.append(grad(sum((part**2).sum() for part in first), leaves))
    for got, want in zip(*results, strict=True):
        close(got, want, 16 if "16" in dtype else 1024)


@pytest.mark.skipif(helpers.TORCH_DEVICE != "cuda", reason="only a GPU is waited for")
def test_nothing_waits_for_the_gpu():
    arrays = drawn("std", (6, 3))
    gradients(arrays, "std", 1.0, reduction="mean")
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(arrays, "std", 1.0, reduction="mean")
        divergence("std", arrays)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_inputs_are_not_written_to():
    arrays = drawn("std", (6, 3))
    before = [array.clone() for array in arrays]
    gradients(arrays, "std", 1.0)
    for array, was in zip(arrays, before, strict=True):
        same_bits(array, was)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_without_a_kernel_the_formulas_run(monkeypatch, where):
    from gausskl._fast.gpu import triton

    def fails(*_):
        raise RuntimeError("no compiler was found")

    arrays = drawn("std", (6, 3))
    want = gradients(arrays, "std", 1.0, path="generic")
    monkeypatch.setattr(leaf_table, "_broken", {})
    monkeypatch.setattr(triton, where, fails)
    with pytest.warns(RuntimeWarning, match=r"triton could not make a kernel \(RuntimeError: no compiler was found\)"):
        got = gradients(arrays, "std", 1.0, path="auto")
    for a, b in zip(got, want, strict=True):
        close(a, b)
    close(divergence("std", arrays, "auto"), divergence("std", arrays, "generic"))
    with pytest.raises(ValueError, match='path="triton" cannot serve this call: triton could not make a kernel'):
        divergence("std", arrays)


def test_warm_up_compiles_what_a_training_step_needs():
    arrays = drawn("log_var", (6, 3), dtype="float32")
    gk.warm_up(gk.Gaussian(arrays[0], log_var=arrays[1]), gradients=True)
