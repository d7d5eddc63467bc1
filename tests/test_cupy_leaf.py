"""What the CuPy leaf gives its kernels: shapes, strides and dtypes, with NumPy in the place of CuPy.

There is no GPU in it. The kernels are the same sources, compiled for the processor by a C++ compiler.
"""

import contextlib
import ctypes
import importlib
import shutil
import sys
import types

import numpy as np
import on_processor
import pytest
from on_processor import address

import gausskl as gk
from gausskl._fast import contract, gpu
from gausskl._fast import leaves as leaf_table

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

C_TYPES = {"float32": "float", "float64": "double"}


class Array(np.ndarray):
    """An array as CuPy has them: its device is a context."""

    device = contextlib.nullcontext()


def here(array):
    return np.asarray(array).view(Array)


def stand_in(folder):
    """What the leaf uses of CuPy."""

    class Elementwise:
        def __init__(self, given, out, operation, name, preamble, options):
            self._made(given, out, operation.removeprefix("out = "), preamble)

        def _made(self, given, out, term, preamble):
            kinds, names = zip(*(part.split() for part in given.split(", ")), strict=True)
            self.kinds, self.kind = kinds, out.split()[0]
            parameters = ", ".join(f"const {C_TYPES[kind]} *{name}_at" for kind, name in zip(kinds, names, strict=True))
            values = "".join(f"const auto {name} = {name}_at[i]; " for name in names)
            loop = f"for (long i = 0; i < n; i++) {{ {values}out[i] = {term}; }}"
            head = f'extern "C" void run({C_TYPES[self.kind]} *out, long n, {parameters})'
            self.library = on_processor.compiled(folder, f"{preamble}{head} {{ {loop} }}")

        def __call__(self, *arrays):
            assert [str(array.dtype) for array in arrays] == [*self.kinds]
            wholes = [np.ascontiguousarray(whole) for whole in np.broadcast_arrays(*arrays)]
            out = np.empty(wholes[0].shape, self.kind)
            self.library.run(address(out), ctypes.c_long(out.size), *map(address, wholes))
            return here(out)

    class Raw:
        def __init__(self, source, name, options):
            self.name, self.library = name, on_processor.compiled(folder, source)

        def __call__(self, grid, block, arguments):
            values = [address(a) if isinstance(a, np.ndarray) else ctypes.c_longlong(int(a)) for a in arguments]
            rows = self.name == "gausskl_rows"
            assert rows or all(a[0, 0].flags.c_contiguous for a in arguments if isinstance(a, Array) and a.ndim > 2)
            on_processor.launch(self.name, self.library, grid[0], block[0], values, meet=rows)

    return types.SimpleNamespace(
        ElementwiseKernel=Elementwise,
        RawKernel=Raw,
        ascontiguousarray=lambda a: here(np.ascontiguousarray(a)),
        broadcast_to=lambda a, shape: np.broadcast_to(a, shape, subok=True),
        cuda=types.SimpleNamespace(compiler=types.SimpleNamespace(CompileException=RuntimeError)),
        empty=lambda shape, dtype: here(np.empty(shape, dtype)),
        float64=np.float64,
        int64=np.int64,
    )


@pytest.fixture(scope="module")
def leaf(tmp_path_factory):
    """The leaf, with the stand-in for CuPy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", stand_in(tmp_path_factory.mktemp("kernels")))
        _forget()
        yield importlib.import_module("gausskl._fast.gpu.leaf_cupy")
        _forget()


def _forget():
    """Let the next import of the leaf find the CuPy that is there then."""
    sys.modules.pop("gausskl._fast.gpu.leaf_cupy", None)
    vars(gpu).pop("leaf_cupy", None)


def divergence(leaf, p, q=None, reduction="none", per_dim=False):
    """The leaf's answer, and that of the formulas."""
    sides = [gk.Gaussian(**g) for g in (p, q) if g]
    spreads = tuple((side.keyword, side.packing) for side in sides)
    want = gk.kl_divergence(*sides, reduction=reduction, per_dim=per_dim, path="generic")
    batch = np.broadcast_shapes(*(side.batch_shape for side in sides))
    dtype = sides[0].mean.dtype
    job = contract.Job("cupy", "cupy", spreads, 8 * dtype.itemsize, batch, sides[0].event_size, per_dim, False)
    leaf_table.load(job)
    arrays = [here(array) for side in sides for array in (side.mean, *side.arrays)]
    before = [array.copy() for array in arrays]
    got, values = leaf.divergence(job, tuple(arrays), reduction)
    assert all((a == b).all() for a, b in zip(arrays, before, strict=True))
    assert values.shape == (*batch, *[sides[0].event_size] * per_dim)
    assert np.shape(got) == want.shape
    assert got.dtype == want.dtype
    return np.asarray(got), want


def agree(got, want):
    np.testing.assert_allclose(got, want, rtol=64 * np.finfo(want.dtype).eps)


def drawn(keyword, mean_shape, spread_shape, dtype, seed):
    rng = np.random.default_rng(seed)
    mean, x = rng.normal(size=mean_shape).astype(dtype), rng.normal(0, 0.3, spread_shape).astype(dtype)
    if keyword in ("cov", "scale_tril"):
        factor = np.tril(x) + 2 * np.eye(x.shape[-1], dtype=dtype)
        return {"mean": mean, keyword: factor if keyword == "scale_tril" else factor @ factor.swapaxes(-1, -2)}
    if keyword == "packed_tril":
        return {"mean": mean, "packed_tril": x + 1, "packing": "row"}
    return {"mean": mean, keyword: x if "log" in keyword else np.exp(x)}


every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
# Shapes of mean and spread of p, and of q.
LAYOUTS = {
    "single": [(), (), (), ()],
    "batch": [(7,)] * 4,
    "one q": [(7,), (7,), (), ()],
    "one p": [(), (1,), (7,), (7,)],
    "one spread": [(7,), (), (7,), ()],
    "all with all": [(4, 1), (4, 1), (5,), (5,)],
    "three batch axes": [(2, 1, 4), (2, 1, 1), (5, 1), ()],
    "empty": [(0,)] * 4,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_dtype
@pytest.mark.parametrize("keywords", [("std", "std"), ("log_var", "std"), ("var", "log_std")], ids="-".join)
def test_diagonal(leaf, keywords, dtype, layout):
    shapes = [(*shape, 3) for shape in LAYOUTS[layout]]
    p, q = (drawn(keywords[k], *shapes[2 * k : 2 * k + 2], dtype, k) for k in (0, 1))
    for options in ({}, {"per_dim": True}, {"reduction": "sum"}):
        agree(*divergence(leaf, p, q, **options))


@every_dtype
@pytest.mark.parametrize("d", [100, 4096, 8192, 10_000])
def test_long_rows(leaf, d, dtype):
    p, q = drawn("std", (2, 3, d), (2, 1, d), dtype, 0), {"mean": np.zeros(d, dtype), "std": np.full(1, 1.5, dtype)}
    agree(*divergence(leaf, p, q))
    agree(*divergence(leaf, p, q, reduction="mean"))
    agree(*divergence(leaf, p))
    agree(*divergence(leaf, drawn("std", (0, d), (0, 1), dtype, 0), q))


@pytest.mark.parametrize("layout", LAYOUTS)
@every_dtype
@pytest.mark.parametrize("keywords", [("cov", "cov"), ("scale_tril", "packed_tril"), ("cov", "std")], ids="-".join)
def test_dense(leaf, keywords, dtype, layout):
    events = {"cov": (3, 3), "scale_tril": (3, 3), "packed_tril": (6,)}
    shapes = [
        (*shape, *(events.get(keywords[k // 2], (3,)) if k % 2 else (3,))) for k, shape in enumerate(LAYOUTS[layout])
    ]
    p, q = (drawn(keywords[k], *shapes[2 * k : 2 * k + 2], dtype, k) for k in (0, 1))
    for options in ({}, {"reduction": "sum"}):
        agree(*divergence(leaf, p, q, **options))


@every_dtype
@pytest.mark.parametrize("keyword", ["std", "cov"])
def test_against_the_standard_normal(leaf, keyword, dtype):
    p = drawn(keyword, (7, 3), (7, 3, 3)[: 2 + (keyword == "cov")], dtype, 0)
    agree(*divergence(leaf, p))
    agree(*divergence(leaf, p, reduction="mean"))


def test_a_number_is_the_spread_of_every_dimension(leaf):
    p, q = drawn("cov", (7, 3), (7, 3, 3), "float64", 0), {"mean": np.zeros(3), "std": np.array(1.5)}
    agree(*divergence(leaf, p, q))
    agree(*divergence(leaf, q, p))


def test_matrices_that_lie_apart_in_memory(leaf):
    p, q = (drawn("cov", (7, 3), (7, 3, 3), "float64", k) for k in (0, 1))
    want, _ = divergence(leaf, p, q)
    spread = np.zeros((14, 6, 6))
    spread[::2, 1:4, 2:5] = p["cov"]
    wide = np.zeros((7, 6))
    wide[:, ::2] = p["mean"]
    apart = {"mean": wide[:, ::2], "cov": spread[::2, 1:4, 2:5]}
    np.testing.assert_array_equal(divergence(leaf, apart, q)[0], want)
    turned = {"mean": np.asfortranarray(p["mean"]), "cov": np.asfortranarray(p["cov"])}
    np.testing.assert_array_equal(divergence(leaf, turned, q)[0], want)
    np.testing.assert_array_equal(
        divergence(leaf, {name: a[::-1] for name, a in p.items()}, {name: a[::-1] for name, a in q.items()})[0],
        want[::-1],
    )
