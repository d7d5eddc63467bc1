"""What the leaf for dense pairs of CUDA tensors gives its kernels, with tensors of the CPU and a stand-in for CUDA.

There is no GPU in it. The kernels are the same sources, compiled for the processor by a C++ compiler.
"""

import ctypes
import dataclasses
import functools
import importlib
import shutil
import sys
import types

import numpy as np
import on_processor
import pytest
from test_cupy_leaf import LAYOUTS, agree, drawn

import gausskl as gk
from gausskl._fast import contract, gpu
from gausskl._fast import leaves as leaf_table

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
EVENTS = {"cov": (3, 3), "scale_tril": (3, 3), "packed_tril": (6,)}


def stand_in(folder):
    """What the leaf uses of cuda.core."""

    class Program:
        def __init__(self, source, kind, options):
            assert (kind, options.arch, options.fma) == ("c++", "sm_90", False)
            self.source = source

        def compile(self, kind):
            assert kind == "cubin"
            return types.SimpleNamespace(get_kernel=lambda name: (name, on_processor.compiled(folder, self.source)))

    def launch(stream, config, kernel, *arguments):
        assert stream.__cuda_stream__() == (0, 1234)
        values = [(ctypes.c_longlong if isinstance(x, np.int64) else ctypes.c_void_p)(int(x)) for x in arguments]
        on_processor.launch(*kernel, config.grid, config.block, values)

    return types.SimpleNamespace(
        Device=lambda number: types.SimpleNamespace(set_current=lambda: None),
        LaunchConfig=types.SimpleNamespace,
        Program=Program,
        ProgramOptions=types.SimpleNamespace,
        launch=launch,
    )


@pytest.fixture(scope="module")
def leaf(tmp_path_factory):
    """The leaf, with the stand-in for CUDA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cuda.core", stand_in(tmp_path_factory.mktemp("kernels")))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        patch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=1234))
        _forget()
        yield importlib.import_module("gausskl._fast.gpu.leaf_cuda")
        _forget()


def _forget():
    """Let the next import of the leaf find the CUDA that is there then."""
    sys.modules.pop("gausskl._fast.gpu.leaf_cuda", None)
    vars(gpu).pop("leaf_cuda", None)


def pair(keywords, dtype, layout):
    shapes = [
        (*shape, *(EVENTS.get(keywords[k // 2], (3,)) if k % 2 else (3,))) for k, shape in enumerate(LAYOUTS[layout])
    ]
    return [drawn(keywords[k], *shapes[2 * k : 2 * k + 2], dtype, k) for k in (0, 1)]


def tensors(side, **options):
    return {name: x if name == "packing" else torch.tensor(x, **options) for name, x in side.items()}


def divergence(leaf, *sides, reduction="none"):
    """The leaf's answer, and that of the formulas."""
    sides = [gk.Gaussian(**side) for side in sides]
    want = gk.kl_divergence(*sides, reduction=reduction, path="generic")
    mean = sides[0].mean
    batch = np.broadcast_shapes(*(side.batch_shape for side in sides))
    spreads = tuple((side.keyword, side.packing) for side in sides)
    bits = 8 * mean.element_size()
    job = contract.Job("cuda", "torch", spreads, bits, tuple(batch), sides[0].event_size, False, False)
    leaf_table.load(job)
    given = tuple(array for side in sides for array in (side.mean, *side.arrays))
    before = [array.clone() for array in given]
    got, values = leaf.divergence(job, given, reduction)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    assert values.shape == job.shape
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    return got, want


def close(got, want):
    agree(got.detach().numpy(), want.detach().numpy())


@every_layout
@every_dtype
@pytest.mark.parametrize("keywords", [("cov", "cov"), ("scale_tril", "packed_tril"), ("cov", "std")], ids="-".join)
def test_values(leaf, keywords, dtype, layout):
    sides = [tensors(side) for side in pair(keywords, dtype, layout)]
    for reduction in ("none", "sum"):
        close(*divergence(leaf, *sides, reduction=reduction))


@every_dtype
@pytest.mark.parametrize("keyword", ["cov", "scale_tril"])
def test_against_the_standard_normal(leaf, keyword, dtype):
    p = tensors(drawn(keyword, (7, 3), (7, 3, 3), dtype, 0))
    close(*divergence(leaf, p))
    close(*divergence(leaf, p, reduction="mean"))


def test_a_number_is_the_spread_of_every_dimension(leaf):
    p, q = drawn("cov", (7, 3), (7, 3, 3), "float64", 0), {"mean": np.zeros(3), "std": np.array(1.5)}
    close(*divergence(leaf, tensors(p), tensors(q)))
    close(*divergence(leaf, tensors(q), tensors(p)))


VIEWS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "every second row": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "part of a larger one": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[..., 1:-4, 3:-2],
    "negated": lambda x: torch._neg_view(-x),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_memory_gives_the_same_bits(leaf, view):
    p, q = (tensors(side) for side in pair(("cov", "cov"), "float64", "batch"))
    want, _ = divergence(leaf, p, q)
    got, _ = divergence(leaf, *({"mean": VIEWS[view](g["mean"]), "cov": VIEWS[view](g["cov"])} for g in (p, q)))
    assert torch.equal(got, want)


def gradients(function, sides, twice=False):
    leaves = [{name: x.clone().requires_grad_() for name, x in side.items()} for side in sides]
    some = [x for side in leaves for x in side.values()]
    weights = torch.arange(1.0, 8.0)
    found = torch.autograd.grad((function(leaves) * weights).sum(), some, create_graph=twice)
    return torch.autograd.grad(sum((x**2).sum() for x in found), some) if twice else found


@pytest.mark.parametrize("twice", [False, True], ids=["first", "second"])
@every_dtype
@pytest.mark.parametrize("layout", ["batch", "one q", "one spread"])
@pytest.mark.parametrize("keyword", ["cov", "scale_tril"])
def test_gradients_are_those_of_the_formulas(leaf, keyword, layout, dtype, twice):
    sides = [tensors(side) for side in pair((keyword, keyword), dtype, layout)]
    found = [gradients(lambda leaves, k=k: divergence(leaf, *leaves)[k], sides, twice) for k in (0, 1)]
    for given, got, want in zip([x for side in sides for x in side.values()], *found, strict=True):
        assert (got.shape, got.dtype) == (given.shape, given.dtype)
        torch.testing.assert_close(got, want, rtol=4096 * torch.finfo(got.dtype).eps, atol=1e-12 * twice)


def test_gradients_against_the_standard_normal(leaf):
    sides = [tensors(drawn("cov", (7, 3), (7, 3, 3), "float64", 0))]
    got, want = (gradients(lambda leaves, k=k: divergence(leaf, *leaves)[k], sides) for k in (0, 1))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_what_cannot_run_is_left_to_the_formulas(leaf, monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA_ERROR_INVALID_SOURCE")

    p = tensors(drawn("cov", (7, 3), (7, 3, 3), "float64", 0))
    monkeypatch.setattr(leaf, "launch", fails)
    with pytest.raises(contract.CannotCompile, match="RuntimeError: CUDA_ERROR_INVALID_SOURCE"):
        divergence(leaf, p)


# ---- which pairs it serves ----


@dataclasses.dataclass
class Form:
    """A Gaussian in tensors on a GPU, as the table of paths sees it."""

    keyword: str
    dtypes: tuple[str, ...] = ("float64",)
    event_size: int = 3
    packing: str | None = None
    library: str = "torch"
    on_gpu: bool = True
    plain: bool = True
    ndims: tuple[int, ...] = (2, 3)


def path_of(*forms, path="auto", precise=False):
    job, obstacle = leaf_table.job(forms, (7,), False, precise, path)
    return obstacle if job is None else job.path


@pytest.fixture
def everything_installed(monkeypatch):
    monkeypatch.setattr(leaf_table, "is_installed", lambda module: True)
    leaf_table._missing.cache_clear()
    yield
    leaf_table._missing.cache_clear()


@pytest.mark.usefixtures("everything_installed")
def test_which_path():
    dense = [Form(keyword) for keyword in ("cov", "scale_tril", "packed_tril")]
    assert {path_of(p, q) for p in dense for q in (*dense, Form("std"))} == {"cuda"}
    assert path_of(Form("cov")) == path_of(Form("cov"), path="cuda") == "cuda"
    assert path_of(Form("std"), Form("std")) == "triton"
    assert path_of(Form("cov"), path="triton") == "triton is for diagonal Gaussians in tensors of PyTorch on a GPU"
    assert path_of(Form("std"), path="cuda") == "cuda is for dense Gaussians in tensors of PyTorch on a GPU"
    assert (
        path_of(Form("cov", on_gpu=False), path="cuda") == "cuda is for dense Gaussians in tensors of PyTorch on a GPU"
    )
    assert "are not for precision" in path_of(Form("precision"))
    assert "at most 16 dimensions" in path_of(Form("cov", event_size=17))
    assert "for float32 or float64, not for bfloat16" in path_of(Form("cov", ("bfloat16",)))
    assert path_of(Form("cov"), precise=True) == "it is for arrays in the memory of the CPU"


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(leaf_table, "is_installed", functools.partial(str.__eq__, "triton"))
    leaf_table._missing.cache_clear()
    assert path_of(Form("cov")) == (
        "cuda.core is not installed: pip install gausskl[torch-cuda12] or gausskl[torch-cuda13]"
    )
    assert path_of(Form("std")) == "triton"
    leaf_table._missing.cache_clear()
