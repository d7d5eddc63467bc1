"""Every way in which torch differentiates, vectorises, compiles, exports or casts gives what autograd gives."""

import contextlib
import copy
import io
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
BFLOAT16, FLOAT32, FLOAT64 = torch.bfloat16, torch.float32, torch.float64


def example(pair, d=3, **options):
    """A function of unconstrained tensors, and tensors for it, p and q apart by an ordinary distance.

    A transform moves single entries: matrices are made symmetric, or lower triangular, inside the function.
    """
    p, q = side(pair[0], d=d), side(pair[1], d=d, seed=1)
    names = [(which, name) for which, g in enumerate((p, q)) for name in g if name != "packing"]

    def function(*tensors):
        return divergence_of(names, list(map(_valid, names, tensors)), p, q, **options)

    return function, [torch.asarray(np.array((p, q)[which][name])) for which, name in names]


def _valid(name, tensor):
    if name[1] in ("cov", "precision"):
        return (tensor + tensor.mT) / 2
    return torch.tril(tensor) if name[1] == "scale_tril" else tensor


def leaves(tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


def stacked(tensors, rows=3, dtype=None):
    """Three Gaussians each, or as many as said, a little apart."""
    return [torch.stack([tensor * (1 + 0.01 * k) for k in range(rows)]).to(dtype) for tensor in tensors]


def close(got, want, factor=64):
    torch.testing.assert_close(got, want, rtol=factor * 2.0**-52, atol=factor * 2.0**-52)


def identical(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def gradients(result, inputs):
    return torch.autograd.grad(result.sum(), inputs)


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


@every_pair
def test_compile_fullgraph(pair):
    """Inductor takes seconds for a pair; the graph without a break, forward and back, is there before it begins."""
    torch.compiler.reset()
    backend = "inductor" if pair in COMPILED else "aot_eager"
    function, tensors = example(pair)
    rows, eager = leaves(stacked(tensors)), leaves(stacked(tensors))
    got, want = torch.compile(function, fullgraph=True, backend=backend)(*rows), function(*eager)
    close(got, want)
    close(gradients(got, rows), gradients(want, eager))


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [("std", None), ("cov", None), ("std", True), ("scale_tril", True), ("cov", True), ("low_rank", True)],
)
def test_compile_for_batches_of_any_size(name, dynamic):
    """If it is left to torch, the second size stands for all that follow."""
    torch.compiler.reset()
    function, tensors = example((name, name), d=2)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (3, 4, 7):
        rows, eager = leaves(stacked(tensors, size)), leaves(stacked(tensors, size))
        with torch.compiler.set_stance("fail_on_recompile" if size == 7 else "default"):
            got, want = compiled(*rows), function(*eager)
        close(got, want)
        close(gradients(got, rows), gradients(want, eager))


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


class Divergence(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def exported(function, rows, **options):
    return torch.export.export(Divergence(function), tuple(rows), **options).module()


@every_pair
def test_export(pair):
    """The program holds operations and no values: it runs on other numbers than those it was made with."""
    function, tensors = example(pair)
    rows = stacked(tensors)
    program = exported(function, [torch.ones_like(tensor) for tensor in rows])
    close(program(*rows), function(*rows))


@pytest.mark.parametrize("name", ["std", "scale_tril", "cov", "low_rank"])
def test_export_for_batches_of_any_size(name):
    function, tensors = example((name, name))
    size = torch.export.Dim("size", min=2)
    program = exported(function, stacked(tensors), dynamic_shapes=(({0: size},) * len(tensors),))
    rows = stacked(tensors, 7)
    close(program(*rows), function(*rows))


def autocast():
    return torch.autocast("cpu", dtype=BFLOAT16)


@every_pair
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_autocast_changes_nothing(pair, dtype):
    """Not a bit of the divergence, and none of the gradients that are taken outside."""
    function, tensors = example(pair)
    outside, inside = leaves(stacked(tensors, dtype=dtype)), leaves(stacked(tensors, dtype=dtype))
    want = function(*outside)
    with autocast():
        got = function(*inside)
    assert got.dtype == dtype
    identical(got, want)
    identical(gradients(got, inside), gradients(want, outside))


TRANSFORMS = {
    "compile": lambda function, rows: torch.compile(function, fullgraph=True, backend="aot_eager")(*rows),
    "export": lambda function, rows: exported(function, rows)(*rows),
    "vmap": lambda function, rows: torch.func.vmap(function)(*rows),
}


@pytest.mark.parametrize("name", ["precision", "low_rank"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_autocast_changes_nothing_under_a_transform(name, transform):
    torch.compiler.reset()
    function, tensors = example((name, name))
    rows = stacked(tensors, dtype=FLOAT32)
    with autocast():
        got = transform(function, rows)
    torch.testing.assert_close(got, function(*rows), rtol=1e-5, atol=1e-5)


@contextlib.contextmanager
def default_device(name):
    """Unlike ``with torch.device(name)``, this is how a program says it once for all."""
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@every_pair
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32, FLOAT64], ids=str)
def test_the_meta_device_tells_shape_and_dtype(pair, dtype):
    """There is nothing to read there, so that no value is looked at on any other device either."""
    shapes = [({}, (3,)), ({"reduction": "mean"}, ())]
    if set(pair) <= set(DIAGONAL):
        shapes.append(({"per_dim": True}, (3, 3)))
    for options, shape in shapes:
        function, tensors = example(pair, **options)
        with default_device("meta"):
            rows = leaves(tensor.to("meta") for tensor in stacked(tensors, dtype=dtype))
            result = function(*rows)
            found = [result, *gradients(result, rows)]
        assert [(x.device.type, x.dtype, x.shape) for x in found] == [
            ("meta", dtype, size) for size in [shape, *(tensor.shape for tensor in rows)]
        ]


def test_the_meta_device_has_no_values_to_validate():
    p = gk.Gaussian(torch.zeros(3, device="meta"), std=1.0)
    with default_device("meta"), pytest.raises(ValueError, match="needs values to look at"):
        gk.kl_divergence(p, validate=True)


@every_pair
def test_the_default_device_changes_nothing(pair):
    """Whatever is made on the way is made where the tensors are."""
    function, tensors = example(pair)
    rows, others = leaves(stacked(tensors)), leaves(stacked(tensors))
    want = function(*rows)
    with default_device("meta"):
        got = function(*others)
        found = gradients(got, others)
    identical(got, want)
    identical(found, gradients(want, rows))


@pytest.mark.parametrize("spread", [{"std": 2.0}, {"log_var": [0.1, 0.2, 0.3]}])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_default_device_is_not_that_of_numbers_beside_a_tensor(spread, reduction):
    def divergence():
        return gk.kl_divergence(gk.Gaussian(mean, **spread), reduction=reduction)

    mean = torch.ones(2, 3)
    want = divergence()
    with default_device("meta"):
        identical(divergence(), want)


def test_a_saved_gaussian_can_be_loaded_on_another_device():
    file = io.BytesIO()
    torch.save(gk.Gaussian(torch.zeros(2, 3), std=torch.ones(2, 3)), file)
    file.seek(0)
    loaded = torch.load(file, map_location="meta", weights_only=False)
    assert gk.kl_divergence(loaded).device.type == "meta"


@pytest.mark.parametrize("name", ["std", "row", "low_rank"])
def test_a_deep_copy_shares_no_memory(name):
    """As a copy of a model must not move with the model."""
    p = gk.Gaussian(**{key: a if key == "packing" else torch.asarray(a) for key, a in side(name).items()})
    other = copy.deepcopy(p)
    for ours, theirs in zip((p.mean, *p.arrays), (other.mean, *other.arrays), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()
    identical(gk.kl_divergence(other), gk.kl_divergence(p))
