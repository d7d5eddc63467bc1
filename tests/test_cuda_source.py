"""The CUDA C of diagonal pairs, compiled for the processor: the same lines give what the oracle says."""

import ctypes
import functools
import itertools
import shutil

import numpy as np
import on_processor
import pytest
import regimes
from cases import DTYPES, ulp_error_of_two_keywords, within
from on_processor import address

import reference
from gausskl._fast.gpu import cuda_diagonal

KEYWORDS = list(regimes.SPREAD)
SPREADS = [((p, None), (q, None)) for p, q in itertools.product(KEYWORDS, repeat=2)] + [((p, None),) for p in KEYWORDS]
KINDS = [(spreads, bits) for spreads in SPREADS for bits in (64, 32)]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_keyword = pytest.mark.parametrize("keyword", KEYWORDS)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """Every kind of pair as a function of arrays: ``term_0(out, n, ...)``, ``term_1(out, n, ...)``, ..."""
    parts = []
    for k, (spreads, bits) in enumerate(KINDS):
        kind, count = cuda_diagonal.TYPE["float", bits], 2 * len(spreads)
        parameters = ", ".join(f"const {kind} *x{i}" for i in range(count))
        values = ", ".join(f"x{i}[i]" for i in range(count))
        parts.append(f"namespace kind_{k} {{\n{cuda_diagonal.function(spreads, bits)}}}\n")
        parts.append(
            f'extern "C" void term_{k}({kind} *out, long n, {parameters})\n'
            f"{{ for (long i = 0; i < n; i++) out[i] = kind_{k}::gausskl_term({values}); }}\n"
        )
    return on_processor.compiled(tmp_path_factory.mktemp("cuda"), "".join(parts))


def terms(kernels, *sides):
    """The contribution of every dimension to the divergence of p from q, or from the standard normal."""
    keywords = [next(name for name in g if name != "mean") for g in sides]
    dtype = sides[0]["mean"].dtype
    arrays = [
        np.ascontiguousarray(g[name]) for g, keyword in zip(sides, keywords, strict=True) for name in ("mean", keyword)
    ]
    out = np.empty(arrays[0].shape, dtype)
    kind = KINDS.index((tuple((keyword, None) for keyword in keywords), 8 * dtype.itemsize))
    target, *sources = map(address, (out, *arrays))
    with on_processor.flushing(kernels, dtype == np.float32):  # numbers of float64 are not flushed
        getattr(kernels, f"term_{kind}")(target, ctypes.c_long(out.size), *sources)
    return out


@functools.cache
def same_keyword(keyword, dtype):
    return [(name, p, q, reference.kl_per_dim(p, q)) for name, p, q in regimes.diagonal(keyword, dtype, rows=1)]


@needs_compiler
@every_dtype
@every_keyword
def test_each_dimension_within_6_ulp(kernels, keyword, dtype):
    smallest = float(np.finfo(dtype).smallest_normal)
    for name, p, q, want in same_keyword(keyword, dtype):
        got = terms(kernels, p, q)
        errors = reference.ulp_error(got, want, dtype)
        assert within(np.where(want.astype(float) >= smallest, errors, 0), 6), (name, errors)
        assert (got >= 0).all(), name


@needs_compiler
@every_dtype
@every_keyword
def test_against_the_standard_normal_within_6_ulp(kernels, keyword, dtype):
    unit = {"mean": np.zeros(1, dtype), keyword: np.full(1, 0.0 if "log" in keyword else 1.0, dtype)}
    for name, p, _ in regimes.diagonal(keyword, dtype, rows=1):
        if "subnormal" in name:
            continue
        q = {key: np.broadcast_to(a, p["mean"].shape) for key, a in unit.items()}
        errors = reference.ulp_error(terms(kernels, p), reference.kl_per_dim(p, q), dtype)
        assert within(errors, 6), (name, errors)


@needs_compiler
@every_dtype
@pytest.mark.parametrize(
    ("keyword_p", "keyword_q"), [pair for pair in itertools.product(KEYWORDS, repeat=2) if len(set(pair)) == 2]
)
def test_two_keywords_within_8_ulp(kernels, keyword_p, keyword_q, dtype):
    """In the regimes in which both sides are of ordinary size."""
    left, right = (list(regimes.diagonal(keyword, dtype, rows=1)) for keyword in (keyword_p, keyword_q))
    for (name, p, _), (_, _, q) in zip(left, right, strict=True):
        if not name.startswith(("moderate", "common mean offset", "near", "equal")):
            continue
        got = terms(kernels, p, q)
        errors = ulp_error_of_two_keywords(got, reference.kl_per_dim(p, q), dtype)
        assert within(errors, 8), (name, errors)
        assert (got >= 0).all(), name


@needs_compiler
@every_dtype
@every_keyword
def test_equal_is_0_and_a_bad_spread_nan(kernels, keyword, dtype):
    values = np.array([-800.0, -3.0, 0.0, 1e-30, 0.3, 1.0, 5.0, 1e30], dtype)
    bad = ~np.isfinite(values) if "log" in keyword else values <= 0
    if "log" in keyword:
        values[-1], bad[-1] = np.nan, True
    p = {"mean": np.arange(8, dtype=dtype), keyword: values}
    np.testing.assert_array_equal(terms(kernels, p, p), np.where(bad, np.nan, 0))
    assert np.isnan(terms(kernels, p)[bad]).all()
    nowhere = p | {"mean": np.full(8, np.nan, dtype)}
    assert np.isnan(terms(kernels, nowhere, p)).all()


def test_cuda_takes_every_line():
    """Compiled for a GPU, which needs none."""
    pytest.importorskip("cupy")
    from cupy.cuda import nvrtc

    for spreads, bits in KINDS:
        kind = cuda_diagonal.TYPE["float", bits]
        source = cuda_diagonal.rows(spreads, bits, kind, (1, 0, None, 1)[: 2 * len(spreads)], kind, 32)
        program = nvrtc.createProgram(source, "terms.cu", [], [])
        try:
            nvrtc.compileProgram(program, ["--gpu-architecture=sm_80", "--fmad=false"])
        finally:
            assert nvrtc.getProgramLog(program) == "", (spreads, bits)


def test_kernels_of_cupy_are_made_from_every_kind():
    """As far as it goes without a GPU."""
    pytest.importorskip("cupy")
    from gausskl._fast.gpu import leaf_cupy

    for spreads, bits in KINDS:
        kernel = leaf_cupy._elementwise(spreads, bits, np.dtype(f"float{bits}").char)
        given, made = ([str(parameter.dtype) for parameter in side] for side in (kernel.in_params, kernel.out_params))
        assert given == [f"float{bits}"] * 2 * len(spreads)
        assert made == [f"float{bits}"]
        assert kernel.kwargs["options"] == ("--fmad=false",)
