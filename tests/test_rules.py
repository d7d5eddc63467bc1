"""What a user can rely on: same in, same out; a bad row stays alone; the same row gives the same bits."""

import pickle

import numpy as np
import pytest
from spreads import DENSE, DIAGONAL, KEYWORDS, array_names, covariance, example, gaussian, restated, rows

import gausskl as gk
from helpers import Backend, has_leaf, make, to_numpy

FLOATS = ["float32", "float64"]
PAIRS = [(a, b) for a in KEYWORDS for b in KEYWORDS]
MIXED = [("std", "std"), ("log_var", "var"), ("std", "cov"), ("scale_tril", "log_std"), ("cov", "cov"),
         ("precision", "tfp"), ("cov", "low rank"), ("low rank", "std"), ("low rank", "low rank")]  # fmt: skip


def library_of(array):
    return type(array).__module__.partition(".")[0].replace("jaxlib", "jax")


def bits(array):
    """Return the values as integers, so that NaN equals NaN and 0.0 is not -0.0."""
    values = np.array(to_numpy(array), order="C")
    return values.view(f"u{values.dtype.itemsize}").tolist()


# ---- same in, same out ----


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("a", "b"), MIXED)
def test_library_dtype_and_device_are_kept(xp, a, b, dtype):
    p, q = gaussian(xp, example(a, (2,)), dtype), gaussian(xp, example(b, (2,)), dtype)
    for reduction in ("none", "mean"):
        result = gk.kl_divergence(p, q, reduction=reduction)
        assert result.dtype == getattr(xp, dtype)
        assert library_of(result) == library_of(p.mean)
        assert result.shape == (() if reduction != "none" else (2,))
        if hasattr(result, "device") and hasattr(p.mean, "device"):
            assert result.device == p.mean.device


def test_the_wider_float_wins(xp):
    p, q = gaussian(xp, example("std"), "float32"), gaussian(xp, example("cov"), "float64")
    assert gk.kl_divergence(p, q).dtype == xp.float64
    assert gk.kl_divergence(q, p).dtype == xp.float64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("a", "b"), MIXED)
def test_narrow_floats_are_computed_in_float32_and_rounded_once(xp, a, b, dtype):
    if not hasattr(xp, dtype):
        pytest.skip(f"no {dtype}")
    narrow = [gaussian(xp, example(name, (5,), seed=i), dtype) for i, name in enumerate((a, b))]
    wide = [gk.Gaussian(g.mean, **named(g)) for g in narrow]
    wide = [widened(xp, g, "float32") for g in wide]
    got = gk.kl_divergence(*narrow)
    assert got.dtype == getattr(xp, dtype)
    want = xp.astype(gk.kl_divergence(*wide), getattr(xp, dtype))
    assert bits(got) == bits(want)
    if (a, b) == ("std", "std"):
        total = xp.astype(gk.kl_divergence(*wide, reduction="sum"), getattr(xp, dtype))
        assert bits(gk.kl_divergence(*narrow, reduction="sum")) == bits(total)


def named(g):
    names = ["cov_factor", "cov_diag"] if g.keyword == "low_rank" else [g.keyword]
    return dict(zip(names, g.arrays, strict=True)) | ({"packing": g.packing} if g.packing else {})


def widened(xp, g, dtype):
    wide = {k: v if k == "packing" else xp.astype(v, getattr(xp, dtype)) for k, v in named(g).items()}
    return gk.Gaussian(xp.astype(g.mean, getattr(xp, dtype)), **wide)


def test_float16_is_within_half_a_ulp_of_float64():
    p, q = example("std", (100,)), example("std", (100,), seed=1)
    narrow = [gaussian(np, g, "float16") for g in (p, q)]
    exact = gk.kl_divergence(*(widened(np, g, "float64") for g in narrow))
    error = np.abs(gk.kl_divergence(*narrow).astype(float) - exact)
    assert (error <= (0.5 + 1e-3) * np.spacing(exact.astype(np.float16)).astype(float)).all()


def test_numbers_and_lists_are_numpy_float64():
    result = gk.kl_divergence(gk.Gaussian([0, 1], std=1), gk.Gaussian([0.5, 1.0], var=[1, 2]))
    assert isinstance(result, (np.ndarray, np.float64))
    assert result.dtype == np.float64
    assert gk.Gaussian([[0, 1]], std=2).mean.dtype == np.float64


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_and_lists_adopt_the_arrays_beside_them(xp, dtype):
    def is_adopted(result):
        return library_of(result) == library_of(array) and result.dtype == getattr(xp, dtype)

    array = make(xp, [1.0, 2.0], dtype)
    plain = gk.Gaussian([0.0, 1.0], std=[1.0, 2.0])
    assert is_adopted(gk.kl_divergence(gk.Gaussian(array, std=0.5), gk.Gaussian([0, 1], std=array)))
    assert is_adopted(gk.kl_divergence(plain, gk.Gaussian(array, var=2)))
    assert is_adopted(gk.kl_divergence(gk.Gaussian(array, var=2), plain))
    assert is_adopted(gk.kl_divergence(gk.Gaussian(array, cov=[[2.0, 1.0], [1.0, 2.0]]), plain))
    assert is_adopted(gk.kl_divergence(gk.Gaussian(array, std=array)))


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_pickle_brings_back_the_same_gaussian(name):
    p, q = gaussian(np, example(name, (4,))), gaussian(np, example("cov", (4,), seed=1))
    loaded = pickle.loads(pickle.dumps(p))
    assert repr(loaded) == repr(p)
    assert bits(gk.kl_divergence(loaded, q)) == bits(gk.kl_divergence(p, q))


def test_numbers_and_lists_still_adopt_after_a_pickle(xp):
    loaded = pickle.loads(pickle.dumps(gk.Gaussian([0.1, 1.0], packed_tril=[1.0, 0.5, 2.0], packing="row")))
    array = make(xp, [1.0, 2.0])
    assert library_of(gk.kl_divergence(loaded, gk.Gaussian(array, std=array))) == library_of(array)


def test_integers_become_the_default_float(xp):
    integers = make(xp, [1, 2, 3])
    default = xp.asarray(1.0).dtype
    assert gk.kl_divergence(gk.Gaussian(integers, std=integers)).dtype == default
    assert gk.kl_divergence(gk.Gaussian(integers, std=0.5)).dtype == default
    single = make(xp, [1.0, 1.0, 1.0], "float32")
    assert gk.kl_divergence(gk.Gaussian(integers, std=single)).dtype == xp.float32


@pytest.mark.parametrize("name", KEYWORDS)
def test_inputs_are_not_written_to(name):
    p, q = example(name, (2,)), example(name, (2,), seed=1)
    before = [p[key].copy() for key in array_names(p)]
    kept = gk.Gaussian(**p)
    gk.kl_divergence(kept, gk.Gaussian(**q))
    gk.kl_divergence(gk.Gaussian(**q), kept)
    assert all(np.array_equal(p[key], copy) for key, copy in zip(array_names(p), before, strict=True))
    assert kept.mean is p["mean"]


@pytest.mark.parametrize("name", KEYWORDS)
def test_read_only_arrays_give_the_same_bits(name):
    p, q = example(name, (2,)), example(name, (2,), seed=1)
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q))
    for g in (p, q):
        for key in array_names(g):
            g[key].flags.writeable = False
    assert bits(gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q))) == bits(want)


def test_big_endian_arrays():
    p, q = example("cov", (2,)), example("std", (2,))
    want = gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), path="generic")
    swapped = gk.Gaussian(**{key: value.astype(">f8") for key, value in p.items()})
    assert bits(gk.kl_divergence(swapped, gk.Gaussian(**q)).astype(float)) == bits(want)


# ---- shapes ----


@pytest.mark.parametrize(("a", "b"), MIXED)
@pytest.mark.parametrize(
    ("batch_p", "batch_q"),
    [((), ()), ((8, 1), (6,)), ((), (4,)), ((0, 1), (3,))],
)
def test_batches_broadcast(xp, a, b, batch_p, batch_q):
    p, q = gaussian(xp, example(a, batch_p)), gaussian(xp, example(b, batch_q))
    result = gk.kl_divergence(p, q)
    assert result.shape == np.broadcast_shapes(batch_p, batch_q) == to_numpy(result).shape


@pytest.mark.parametrize(("a", "b"), [("std", "log_std"), ("var", "var")])
@pytest.mark.parametrize(("batch_p", "batch_q"), [((), ()), ((4, 1), (3,)), ((0,), ())])
def test_per_dim_keeps_the_dimensions(xp, a, b, batch_p, batch_q):
    p, q = gaussian(xp, example(a, batch_p)), gaussian(xp, example(b, batch_q))
    result = gk.kl_divergence(p, q, per_dim=True)
    assert result.shape == (*np.broadcast_shapes(batch_p, batch_q), 3)
    whole = to_numpy(gk.kl_divergence(p, q))
    np.testing.assert_allclose(to_numpy(result).sum(-1), whole, rtol=1e-14)


def test_mean_and_spread_broadcast(xp):
    mean, std = make(xp, np.zeros((4, 1, 3))), make(xp, np.ones((5, 1)))
    p = gk.Gaussian(mean, std=std)
    assert p.batch_shape == (4, 5)
    assert gk.kl_divergence(p).shape == (4, 5)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_one_dimension(xp, a, b):
    """Every description of N(1, 4) and N(0, 1/4)."""
    if "low rank" in (a, b) and (a, b) not in MIXED:
        xp = np  # every pair, but not on every library
    p = restated(np.ones(1), np.full((1, 1), 4.0), a)
    q = restated(np.zeros(1), np.full((1, 1), 0.25), b)
    want = (16 - 1 - np.log(16) + 4) / 2
    np.testing.assert_allclose(to_numpy(gk.kl_divergence(gaussian(xp, p), gaussian(xp, q))), want, rtol=1e-13)


@pytest.mark.parametrize(("a", "b"), MIXED)
def test_reductions_agree_with_numpy(xp, a, b):
    p, q = gaussian(xp, example(a, (4, 1))), gaussian(xp, example(b, (3,), seed=1))
    each = to_numpy(gk.kl_divergence(p, q))
    for reduction in ("sum", "mean"):
        got = to_numpy(gk.kl_divergence(p, q, reduction=reduction))
        np.testing.assert_allclose(got, getattr(each, reduction)(), rtol=1e-14)


def test_reductions_per_dim_and_of_nothing(xp):
    p = gaussian(xp, example("std", (4,)))
    each = to_numpy(gk.kl_divergence(p, per_dim=True))
    np.testing.assert_allclose(
        to_numpy(gk.kl_divergence(p, per_dim=True, reduction="sum")).sum(), each.sum(), rtol=1e-14
    )
    assert to_numpy(gk.kl_divergence(gaussian(xp, example("std", (0,))), reduction="sum")) == 0


@pytest.mark.parametrize("name", KEYWORDS)
def test_the_standard_normal_is_the_default(xp, name):
    p = gaussian(xp, example(name, (2,)))
    want = gk.kl_divergence(p, gaussian(xp, {"mean": np.zeros(3), "var": np.ones(3)}))
    np.testing.assert_allclose(to_numpy(gk.kl_divergence(p)), to_numpy(want), rtol=1e-13)


@pytest.mark.parametrize("name", KEYWORDS)
def test_the_standard_normal_is_zero_from_itself(xp, name):
    p = restated(np.zeros(3), np.eye(3), name)
    result = to_numpy(gk.kl_divergence(gaussian(xp, p)))
    assert (result == 0) if name != "low rank" else (0 <= result < 1e-15)


# ---- bad rows stay alone, and an overflow is no mistake ----

BAD = {
    "std": [("std", (1, 2), v) for v in (0.0, -1.0, np.nan, np.inf)],
    "var": [("var", (1, 2), v) for v in (0.0, -1.0, np.nan, np.inf)],
    "log_std": [("log_std", (1, 2), v) for v in (np.nan, np.inf, -np.inf)],
    "log_var": [("log_var", (1, 2), v) for v in (np.nan, np.inf, -np.inf)],
    "cov": [("cov", (1, 2, 2), v) for v in (-1.0, 0.0, np.nan, np.inf)] + [("cov", (1, 2, 0), 0.7)],
    "precision": [("precision", (1, 2, 2), v) for v in (-1.0, 0.0, np.nan, np.inf)] + [("precision", (1, 2, 0), 0.7)],
    "scale_tril": [("scale_tril", (1, 2, 2), v) for v in (0.0, np.nan, np.inf)] + [("scale_tril", (1, 0, 2), 0.1)],
    "row": [("packed_tril", (1, 5), v) for v in (0.0, np.nan, np.inf)],
    "tfp": [("packed_tril", (1, 0), v) for v in (0.0, np.nan, np.inf)],
    "low rank": [("cov_diag", (1, 2), v) for v in (0.0, -0.01, np.nan, np.inf)] + [("cov_factor", (1, 2, 0), np.nan)],
}
BAD = [(name, *case) for name, cases in BAD.items() for case in [("mean", (1, 2), np.nan), *cases]]


def spoilt(name, key, index, value):
    arrays = example(name, (4,))
    arrays[key][index] = value
    return arrays


def only_row_one_is_bad(got, want):
    got, want = to_numpy(got), to_numpy(want)
    assert not np.isfinite(got[..., 1]).any()
    others = [0, 2, 3]
    assert bits(got[..., others]) == bits(want[..., others])


@pytest.mark.parametrize(("name", "key", "index", "value"), BAD)
def test_a_bad_row_leaves_the_others_alone(xp, name, key, index, value):
    """With validate=False; for Dask always."""
    q = gaussian(xp, example(name, (4,), seed=1))
    good, bad = gaussian(xp, example(name, (4,))), gaussian(xp, spoilt(name, key, index, value))
    only_row_one_is_bad(gk.kl_divergence(bad, q, validate=False), gk.kl_divergence(good, q))
    only_row_one_is_bad(gk.kl_divergence(q, bad, validate=False), gk.kl_divergence(q, good))


@pytest.mark.parametrize("other", KEYWORDS)
@pytest.mark.parametrize(("name", "key", "index", "value"), BAD)
def test_a_bad_row_leaves_the_others_alone_in_every_pair(name, key, index, value, other):
    arrays, good = spoilt(name, key, index, value), gaussian(np, example(name, (4,)))
    meant = example(name, (4,))
    if np.isfinite(value) and value < 0:
        meant[key][index] = -value
    bad = gaussian(np, arrays)
    near = gaussian(np, restated(meant["mean"], covariance(meant), other))
    for q in (near, gaussian(np, example(other, (4,), seed=1))):
        only_row_one_is_bad(gk.kl_divergence(bad, q, validate=False), gk.kl_divergence(good, q))
        only_row_one_is_bad(gk.kl_divergence(q, bad, validate=False), gk.kl_divergence(q, good))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_bad_dimension_leaves_the_others_alone(xp, value):
    p, q = example("std", (4,)), gaussian(xp, example("std", (4,), seed=1))
    want = to_numpy(gk.kl_divergence(gaussian(xp, p), q, per_dim=True))
    p["std"][1, 2] = value
    got = np.array(to_numpy(gk.kl_divergence(gaussian(xp, p), q, per_dim=True, validate=False)))
    assert np.isnan(got[1, 2])
    got[1, 2] = want[1, 2]
    assert bits(got) == bits(want)


def scaled(name, exponent):
    """N(0, 10**(2 exponent) I)."""
    if name == "low rank":
        return {"mean": np.zeros(2), "cov_factor": np.zeros((2, 1)), "cov_diag": np.full(2, 10.0 ** (2 * exponent))}
    if name.startswith("log"):
        log = np.full(2, np.log(10.0) * exponent)
        return {"mean": np.zeros(2), name: 2 * log if name == "log_var" else log}
    return restated(np.zeros(2), np.eye(2), name) | {
        "std": lambda: {"std": np.full(2, 10.0**exponent)},
        "var": lambda: {"var": np.full(2, 10.0 ** (2 * exponent))},
        "cov": lambda: {"cov": np.eye(2) * 10.0 ** (2 * exponent)},
        "precision": lambda: {"precision": np.eye(2) * 10.0 ** (-2 * exponent)},
        "scale_tril": lambda: {"scale_tril": np.eye(2) * 10.0**exponent},
        "row": lambda: {"packed_tril": np.array([1.0, 0.0, 1.0]) * 10.0**exponent},
        "tfp": lambda: {"packed_tril": np.array([1.0, 0.0, 1.0]) * 10.0**exponent},
    }[name]()  # fmt: skip


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_true_overflow_is_infinite(a, b):
    """Variances 1e440 apart: no error, no warning, and infinity."""
    p, q = gaussian(np, scaled(a, 110)), gaussian(np, scaled(b, -110))
    assert gk.kl_divergence(p, q) == np.inf


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_true_overflow_is_infinite_on_every_library(xp, name):
    p, q = gaussian(xp, scaled(name, 110)), gaussian(xp, scaled(name, -110))
    assert to_numpy(gk.kl_divergence(p, q)) == np.inf
    far = scaled(name, -110)
    far["mean"] = far["mean"] + 1e100
    assert to_numpy(gk.kl_divergence(gaussian(xp, far), q)) == np.inf


def test_half_precision_overflows_at_its_own_limit():
    p, q = (gk.Gaussian(np.float16([m]), std=np.float16([0.01])) for m in (0, 10))
    assert gk.kl_divergence(p, q) == np.inf


def test_validate_true_accepts_good_values(xp):
    if "dask" in xp.__name__:
        return
    p = gaussian(xp, example("cov", (2,)))
    assert bits(gk.kl_divergence(p, validate=True)) == bits(gk.kl_divergence(p))


# ---- nothing is read back from arrays that have no values ----


def pair_of(name, mean_p, *spread_p):
    names = {"row": ["packed_tril"], "tfp": ["packed_tril"], "low rank": ["cov_factor", "cov_diag"]}.get(name, [name])
    packing = {"packing": name} if name in ("row", "tfp") else {}
    return gk.Gaussian(mean_p, **dict(zip(names, spread_p, strict=True)), **packing)


def with_a_bad_row(xp, name):
    """Return the arrays of p with one bad row, those of the good p, and a function of them."""
    cases = {case[0]: case for case in BAD if case[1] != "mean"}
    q = example(name, (4,), seed=1)
    arrays = [[make(xp, g[k]) for k in array_names(g)] for g in (spoilt(*cases[name]), example(name, (4,)), q)]
    return arrays, lambda p, q: gk.kl_divergence(pair_of(name, *p), pair_of(name, *q))


@pytest.mark.parametrize("name", KEYWORDS)
def test_under_jit_a_bad_row_is_nan(name):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    (bad, good, q), function = with_a_bad_row(jax.numpy, name)
    jitted = jax.jit(function)
    only_row_one_is_bad(jitted(bad, q), jitted(good, q))


@pytest.mark.parametrize("name", KEYWORDS)
def test_under_jax_vmap_a_bad_row_is_nan(name):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    (bad, good, q), function = with_a_bad_row(jax.numpy, name)
    mapped = jax.vmap(function)
    only_row_one_is_bad(mapped(bad, q), mapped(good, q))


@pytest.mark.parametrize("name", [*DIAGONAL, *DENSE])
def test_under_torch_vmap_a_bad_row_is_nan(name):
    torch = pytest.importorskip("torch")
    (bad, good, q), function = with_a_bad_row(Backend.TORCH.load(), name)
    mapped = torch.func.vmap(function)
    only_row_one_is_bad(mapped(bad, q), mapped(good, q))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", [*DIAGONAL, *DENSE])
def test_under_torch_compile_a_bad_row_is_nan(name):
    torch = pytest.importorskip("torch")
    (bad, good, q), function = with_a_bad_row(Backend.TORCH.load(), name)
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    only_row_one_is_bad(compiled(bad, q), compiled(good, q))
    np.testing.assert_allclose(to_numpy(compiled(good, q)), to_numpy(function(good, q)), rtol=1e-12)


@pytest.mark.parametrize("transform", ["jax.jit", "jax.vmap", "torch.func.vmap"])
def test_validate_true_asks_for_values(transform):
    library, _, name = transform.partition(".")
    module = pytest.importorskip(library)
    xp = module.numpy if library == "jax" else module
    function = getattr(module.func if "func" in name else module, name.removeprefix("func."))
    with pytest.raises(ValueError, match="validate=True needs values to look at"):
        function(lambda mean: gk.kl_divergence(gk.Gaussian(mean, std=1.0), validate=True))(xp.zeros((2, 3)))


# ---- the same row, the same bits ----


@pytest.mark.skip_xp_backend("tensorflow", reason="what does not fill a register goes through other routines there")
@pytest.mark.parametrize(("a", "b"), MIXED)
def test_a_row_alone_or_in_a_batch(xp, a, b):
    p, q = example(a, (4,)), example(b, (4,), seed=1)
    whole = bits(gk.kl_divergence(gaussian(xp, p), gaussian(xp, q)))
    for index in range(4):
        alone = gk.kl_divergence(gaussian(xp, rows(p, index)), gaussian(xp, rows(q, index)))
        assert bits(alone) == whole[index]
    part = slice(1, 3)
    assert bits(gk.kl_divergence(gaussian(xp, rows(p, part)), gaussian(xp, rows(q, part)))) == whole[part]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", [2, 8, 40])
@pytest.mark.parametrize(("a", "b"), MIXED)
@pytest.mark.parametrize("module", ["numpy", "array_api_compat.torch"])
def test_a_row_alone_or_in_a_batch_in_either_precision(module, a, b, d, dtype):
    xp = pytest.importorskip(module)
    p, q = example(a, (9,), d), example(b, (9,), d, seed=1)
    whole = bits(gk.kl_divergence(gaussian(xp, p, dtype), gaussian(xp, q, dtype)))
    for index in range(9):
        alone = gk.kl_divergence(gaussian(xp, rows(p, index), dtype), gaussian(xp, rows(q, index), dtype))
        assert bits(alone) == whole[index]


@pytest.mark.parametrize(("a", "b"), MIXED)
def test_a_broadcast_row_or_a_repeated_one(xp, library, a, b):
    """On JAX, XLA divides by a broadcast matrix in its own way, so dense pairs keep the value and not each bit."""
    p, q = example(a, (4,)), example(b, seed=1)
    repeated = {k: v if k == "packing" else np.stack([v] * 4) for k, v in q.items()}
    p = gaussian(xp, p)
    shared, each = gk.kl_divergence(p, gaussian(xp, q)), gk.kl_divergence(p, gaussian(xp, repeated))
    if library is Backend.JAX and not (a in DIAGONAL and b in DIAGONAL):
        np.testing.assert_allclose(to_numpy(shared), to_numpy(each), rtol=1e-14)
    else:
        assert bits(shared) == bits(each)


@pytest.mark.parametrize("index", [slice(2, 4), slice(None, None, 2)], ids=["rows", "every other row"])
@pytest.mark.parametrize(("a", "b"), MIXED)
def test_views_of_rows(xp, a, b, index):
    p, q = example(a, (8,)), example(b, (8,), seed=1)

    def viewed(arrays):
        return gk.Gaussian(**{k: v if k == "packing" else make(xp, v)[index, ...] for k, v in arrays.items()})

    got = gk.kl_divergence(viewed(p), viewed(q))
    assert bits(got) == bits(gk.kl_divergence(gaussian(xp, rows(p, index)), gaussian(xp, rows(q, index))))


@pytest.mark.parametrize("name", KEYWORDS)
def test_the_same_call_twice(xp, name):
    p, q = gaussian(xp, example(name, (4,))), gaussian(xp, example(name, (4,), seed=1))
    first = bits(gk.kl_divergence(p, q))
    gk.kl_divergence(gaussian(xp, example(name, (4,))))
    assert bits(gk.kl_divergence(p, q)) == first


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("keyword", ["cov", "precision"])
@pytest.mark.parametrize("path", ["auto", "generic"])
def test_asymmetry_of_the_size_of_rounding_is_averaged(xp, path, keyword, dtype):
    if dtype == "float16" and not hasattr(xp, "float16"):
        pytest.skip("this library has no float16")
    matrix = np.array([[4.0, 1.0], [1.0, 9.0]], dtype)
    matrix[1, 0] = np.nextafter(matrix[1, 0], np.asarray(2, dtype))
    p = gaussian(xp, {"mean": np.zeros(2, dtype), keyword: matrix})
    q = gaussian(xp, {"mean": np.zeros(2, dtype), keyword: np.asarray((matrix.astype(float) + matrix.T) / 2, dtype)})
    assert 0 <= float(to_numpy(gk.kl_divergence(p, q, path=path))) < np.finfo(dtype).eps
    matrix[1, 0] = 1.5
    q = gaussian(xp, {"mean": np.zeros(2, dtype), keyword: matrix})
    assert np.isnan(to_numpy(gk.kl_divergence(p, q, path=path, validate=False)))


# ---- plan, repr, and a clean room ----


@pytest.mark.parametrize(("a", "b"), MIXED)
def test_plan_says_what_would_run(xp, a, b):
    p, q = gaussian(xp, example(a, (8, 1)), "float32"), gaussian(xp, example(b, (6,)), "float32")
    plan = gk.plan(p, q)
    assert (plan.dtype, plan.batch_shape, plan.event_size) == ("float32", (8, 6), 3)
    assert plan.computed_in in ("float32", "float64")
    assert plan.library == library_of(p.mean)
    assert (plan.p, plan.q) == (f"{p.structure} ({p.keyword})", f"{q.structure} ({q.keyword})")
    dense = {"dense"} <= {p.structure, q.structure} <= {"dense", "diagonal"}
    served = dense or a == b == "std" or {"low rank"} <= {a, b} <= {"low rank", "var"}
    if not p.form.on_gpu:  # test_triton.py, test_torch_cuda_leaf.py and test_cupy_leaf.py know what serves there
        assert plan.path == ("numba" if served and has_leaf(xp) else "generic")
    for part in (plan.library, "float32", plan.computed_in, plan.p, plan.q, "(8, 6)", plan.path, plan.reason):
        assert part in str(plan)


def test_plan_of_narrow_floats_and_the_standard_normal():
    plan = gk.plan(gk.Gaussian(np.zeros(3, dtype=np.float16), std=1.0))
    assert (plan.dtype, plan.computed_in) == ("float16", "float32")
    assert "the standard normal" in str(plan)


def test_plan_looks_at_no_value(xp):
    p = gaussian(xp, {"mean": np.full(3, np.nan), "std": np.zeros(3)})
    assert gk.plan(p, p).event_size == 3


def test_plan_needs_no_values():
    torch = pytest.importorskip("torch")
    p = gk.Gaussian(torch.zeros(3, device="meta"), std=1.0)
    assert gk.plan(p).library == "torch"
    assert gk.kl_divergence(p).device.type == "meta"


def test_an_impossible_path_is_an_error():
    p = gk.Gaussian(np.zeros(3), std=1.0)
    for call in (gk.plan, gk.kl_divergence):
        with pytest.raises(ValueError, match="path='nonsense'"):
            call(p, path="nonsense")
    assert bits(gk.kl_divergence(p, path="generic")) == bits(gk.kl_divergence(p, path="auto"))


@pytest.mark.parametrize("name", KEYWORDS)
def test_repr_says_what_it_is_and_shows_no_value(xp, name):
    g = gaussian(xp, example(name, (2, 1)), "float32")
    assert repr(g) == f"Gaussian({library_of(g.mean)} float32, batch=(2, 1), d=3, {g.keyword})"


def settings():
    import sys
    import warnings

    state = {"numpy": np.geterr(), "print": np.get_printoptions(), "warnings": warnings.filters[:]}
    if torch := sys.modules.get("torch"):
        state["torch"] = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    if jax := sys.modules.get("jax"):
        state["jax"] = dict(jax.config.values)
    return state


@pytest.mark.parametrize(("a", "b"), MIXED)
def test_no_global_setting_is_changed(xp, a, b):
    before = settings()
    gk.kl_divergence(gaussian(xp, example(a, (2,))), gaussian(xp, example(b, (2,))))
    if "dask" not in xp.__name__:
        with pytest.raises(ValueError, match="mean"):
            gk.kl_divergence(gaussian(xp, example(a) | {"mean": np.full(3, np.nan)}), validate=True)
    assert settings() == before


@pytest.mark.parametrize(("a", "b"), MIXED)
def test_strict_floating_point_settings_of_the_user_are_left_in_peace(a, b):
    p, q = gaussian(np, example(a, (2,))), gaussian(np, scaled_to_three(b))
    want = gk.kl_divergence(p, q)
    with np.errstate(all="raise"):
        assert bits(gk.kl_divergence(p, q)) == bits(want)
        assert set(np.geterr().values()) == {"raise"}


def scaled_to_three(name):
    return restated(np.zeros(3), 1e-12 * np.eye(3), name)
