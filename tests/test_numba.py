"""The compiled pass gives what the formulas give: as right, row by row, from any memory, and differentiable."""

import functools
import itertools
import warnings

import numpy as np
import pytest
import regimes
from cases import DTYPES, side, within
from conftest import NAMESPACES

import gausskl as gk
import reference
from helpers import Backend, make, to_numpy

pytest.importorskip("numba")

from gausskl._fast.cpu import threads as cpu_threads
from gausskl._fast.cpu.diagonal import call as diagonal_call
from gausskl._formulas import kl

HAS_TORCH = Backend.TORCH in NAMESPACES
if HAS_TORCH:
    import torch
    from torch.autograd import forward_ad, grad
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.checkpoint import checkpoint

# torch warns of what it does itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not under test")
SERVED = [b for b in NAMESPACES if b in (Backend.NUMPY, Backend.TORCH)]
KEYWORDS = list(regimes.SPREAD)
every_backend = pytest.mark.parametrize("backend", SERVED, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_keyword = pytest.mark.parametrize("keyword", KEYWORDS)
every_side = pytest.mark.parametrize("count", [4, 2], ids=["pair", "standard normal"])
every_size = pytest.mark.parametrize("d", [1, 3, 17, 100, 1100])


def every_kernel(test):
    return every_keyword(every_dtype(every_side(test)))


# A pair is a list of mean and spread of p, and of q; without the latter, q is the standard normal.


def gaussians(keyword, arrays):
    return [gk.Gaussian(mean, **{keyword: spread}) for mean, spread in zip(arrays[::2], arrays[1::2], strict=True)]


def divergence(keyword, arrays, path="numba", **options):
    return gk.kl_divergence(*gaussians(keyword, arrays), path=path, **options)


def drawn(keyword, dtype, *shapes, seed=0):
    """Arrays of ordinary size; one shape for all four of them, or one for each."""
    rng = np.random.default_rng(seed)
    draws = [rng.normal(0, 0.7, shape) for shape in (shapes * 4 if len(shapes) == 1 else shapes)]
    return [np.asarray(np.exp(x) if k % 2 and "log" not in keyword else x, dtype) for k, x in enumerate(draws)]


def same_bits(got, want):
    """Whether shape, dtype and every bit agree, those of NaN and -0.0 too."""
    got, want = (np.ascontiguousarray(to_numpy(a)) for a in (got, want))
    return got.shape == want.shape and got.dtype == want.dtype and got.tobytes() == want.tobytes()


# ---- what it serves ----


REASON = "one compiled pass over diagonal Gaussians in the memory of the CPU"


@every_kernel
@every_backend
def test_it_serves_two_spreads_of_one_kind(monkeypatch, backend, keyword, dtype, count):
    def never(*_, **__):
        raise AssertionError("the formulas were called")

    arrays = [make(NAMESPACES[backend], a) for a in drawn(keyword, dtype, (2, 3))[:count]]
    for per_dim in (False, True):
        plan = gk.plan(*gaussians(keyword, arrays), per_dim=per_dim)
        assert (plan.path, plan.reason, plan.computed_in) == (
            "numba",
            "one compiled pass over diagonal Gaussians in the memory of the CPU",
            np.dtype(dtype).name,
        )
    want = divergence(keyword, arrays, path="generic")
    monkeypatch.setattr(kl, "by_structure", never)
    got = gk.kl_divergence(*gaussians(keyword, arrays))
    assert type(got) is type(want)
    np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=64 * np.finfo(dtype).eps)


class Subclass(np.ndarray):
    """Whoever made it may have given any operation another meaning."""


def ones(dtype, xp=np):
    return gk.Gaussian(make(xp, np.ones((2, 3)), dtype), std=make(xp, np.ones((2, 3)), dtype))


UNSERVED = {
    "two keywords": (lambda: [gk.Gaussian(np.zeros(3), **{k: np.ones(3)}) for k in ("std", "var")], "std and var"),
    "float16": (lambda: [ones("float16")], "not for float16"),
    "two dtypes": (lambda: [ones("float32"), ones("float64")], "not for float32 and float64"),
    "big-endian": (lambda: [gk.Gaussian(np.zeros(3, ">f8"), std=1.0)], "array-API formulas"),
    "subclass": (lambda: [gk.Gaussian(np.zeros(3).view(Subclass), std=1.0)], "array-API formulas"),
    "dense against low rank": (
        lambda: [gk.Gaussian(**side("cov")), gk.Gaussian(**side("low_rank"))],
        "not for cov",
    ),
    "many dimensions": (lambda: [gk.Gaussian(np.zeros(129), cov=np.eye(129))], "for at most 128 dimensions"),
}
UNSERVED |= {
    str(b): (lambda b=b: [ones("float64", NAMESPACES[b])], "array-API formulas")
    for b in NAMESPACES
    if b in (Backend.ARRAY_API_STRICT, Backend.JAX, Backend.DASK)
}
if HAS_TORCH:
    UNSERVED["bfloat16"] = (lambda: [ones("bfloat16", NAMESPACES[Backend.TORCH])], "not for bfloat16")
    UNSERVED["meta"] = (lambda: [gk.Gaussian(torch.zeros(3, device="meta"), std=1.0)], "array-API formulas")


@pytest.mark.parametrize("name", UNSERVED)
def test_it_says_why_it_does_not_serve(name):
    pair, reason = UNSERVED[name]
    plan = gk.plan(*pair())
    assert plan.path == "generic"
    assert reason in plan.reason
    for call in (gk.plan, gk.kl_divergence):
        with pytest.raises(ValueError, match=r'path="numba" cannot serve this call: .*; leave path out') as error:
            call(*pair(), path="numba")
        assert plan.reason in str(error.value)


# ---- right to 6 ulp ----


def sharp(keyword, dtype, standard):
    """One dimension per row: near equality, where the vector formulas change over, and to the end of their reach."""
    rng, double, ln2, n = np.random.default_rng(1), dtype is np.float64, np.log(2), 40
    log, twice = "log" in keyword, 2 if keyword == "log_std" else 1
    reach = (600 if double else 75) / twice if log else (300 if double else 36) * ln2
    near = [size * rng.normal(size=n) for size in ((1e-3, 1e-8, 1e-15) if double else (1e-3, 1e-5, 1e-7))]
    at = [
        (sign * place + width * rng.normal(size=n)) / twice
        for place in (0.5 * ln2, ln2, 1, 1.5 * ln2, 2.5 * ln2)
        for width in (1e-1, 1e-3, 4 * np.finfo(dtype).eps)
        for sign in (-1, 1)
    ]
    halves = (rng.integers(-reach / ln2, reach / ln2, 2 * n) + 0.5) * ln2
    step = np.concatenate([*near, *at, halves, rng.uniform(-reach, reach, 4 * n), np.zeros(n)])
    log_q = rng.uniform(-0.5, 0.5, step.size) * rng.choice([2, reach], step.size) * (not standard)
    spread_p, spread_q = ((x if log else np.exp(x)).astype(dtype) for x in (log_q + step, log_q))
    spread_p[-n:] = spread_q[-n:]
    std_q = np.exp(log_q * (0.5 if "var" in keyword else 1))
    mean_q = rng.choice([0, 1], step.size) * std_q * (not standard)
    apart = rng.choice([0, 1], step.size) * 10 ** rng.uniform(-6, 2, step.size) * std_q * (step != 0)
    return [(mean_q + apart).astype(dtype), spread_p, mean_q.astype(dtype), spread_q]


@every_kernel
def test_within_6_ulp_where_the_vector_formulas_change_over(keyword, dtype, count):
    arrays = sharp(keyword, dtype, count == 2)[:count]
    want = reference.kl_per_dim(*({"mean": m, keyword: s} for m, s in zip(arrays[::2], arrays[1::2], strict=True)))
    got = divergence(keyword, [a[:, None] for a in arrays])
    errors = reference.ulp_error(got, want, dtype)
    worst = int(np.argmax(errors))
    assert within(errors, 6), (errors[worst], [float(a[worst]) for a in arrays])
    assert (got >= 0).all()
    assert (want == 0).sum() >= 40


# ---- special rows ----


def specials(keyword, dtype, count):
    """``(which array, value, whether it is bad)``; good ones are beyond the reach of the vector formulas."""
    huge, tiny, *sizes = (1e300, 1e-310, 705, 712, 1600) if dtype is np.float64 else (1e38, 1e-40, 86, 90, 200)
    logs = [sign * size / (2 if keyword == "log_std" else 1) for size in sizes for sign in (1, -1)]
    good = logs if "log" in keyword else [huge, 1 / huge, tiny, 2 * tiny]
    bad = [np.nan, np.inf, -np.inf]
    negative = [] if "log" in keyword else [0.0, -0.0, -1.0, -tiny]
    for k in range(count):
        yield from ((k, value, True) for value in (bad + negative if k % 2 else bad))
        yield from ((k, value, False) for value in (good if k % 2 else [huge, -huge]))


def spoilt(keyword, dtype, count, d):
    """Every second row has one special number; also the same arrays without them, and where they are."""
    cases = list(specials(keyword, dtype, count))
    good = drawn(keyword, dtype, (2 * len(cases) + 1, d))[:count]
    arrays, where = [a.copy() for a in good], np.zeros(good[0].shape, bool)
    for row, (k, value, _) in enumerate(cases):
        arrays[k][2 * row + 1, 7 * row % d], where[2 * row + 1, 7 * row % d] = value, True
    return arrays, good, where


@every_size
@every_kernel
def test_special_numbers_give_what_the_formulas_give(keyword, dtype, count, d):
    arrays, good, where = spoilt(keyword, dtype, count, d)
    for per_dim in (False, True):
        got, without, want = (
            divergence(keyword, a, path=path, per_dim=per_dim, validate=False)
            for a, path in ((arrays, "numba"), (good, "numba"), (arrays, "generic"))
        )
        special = where if per_dim else where.any(axis=1)
        np.testing.assert_allclose(got[special], want[special], rtol=4 * np.finfo(dtype).eps)
        assert same_bits(got[~special], without[~special])


@every_backend
@every_dtype
@every_keyword
def test_a_bad_number_is_named_as_by_the_formulas(backend, keyword, dtype):
    good = drawn(keyword, dtype, (5, 3))
    for (k, value, bad), per_dim in itertools.product(specials(keyword, dtype, 4), (False, True)):
        arrays = [a.copy() for a in good]
        arrays[k][3, 1] = value
        said = []
        for path, reduction in itertools.product(("numba", "generic"), ("none", "mean")):
            try:
                tensors = [make(NAMESPACES[backend], a) for a in arrays]
                said.append(divergence(keyword, tensors, path=path, per_dim=per_dim, reduction=reduction) is None)
            except ValueError as error:
                said.append(str(error))
        assert said[:2] == said[2:], (k, value)
        assert all(isinstance(sentence, str) == bad for sentence in said), (k, value)


# ---- any memory ----


def gappy(values, axis):
    """Twice the memory, every second number or row of which is NaN."""
    return np.stack([values, np.full_like(values, np.nan)], axis)


LAYOUTS = [
    make,
    lambda xp, a: make(xp, gappy(a, -1))[..., 0],
    lambda xp, a: make(xp, gappy(a, -2))[..., 0, :],
    lambda xp, a: make(xp, np.asfortranarray(a)),
    lambda xp, a: make(xp, a[..., ::-1])[..., ::-1],  # torch knows no negative strides
    lambda xp, a: make(xp, a[::-1])[::-1],
]
BATCHES = [(), (1,), (5,), (2, 3), (4, 3), (2, 3, 1, 5), (0,), (3, 0), "several blocks"]


def broadcasting(rng, d):
    """Keyword and arrays that broadcast in all ways: axes are missing or have length 1, a spread is one number."""
    for batch, keyword, dtype in itertools.product(BATCHES, ("std", "log_var"), (np.float32, np.float64)):
        batch, shapes = (2 * 1024 // d + 3,) if batch == "several blocks" else batch, []
        for k in range(4):
            own = tuple(size if rng.random() < 0.6 else 1 for size in batch)[rng.choice([0, 0, 1, len(batch)]) :]
            shapes.append((*own, d) if k % 2 == 0 or rng.random() < 0.7 else (*own, 1) if rng.random() < 0.7 else ())
        arrays = drawn(keyword, dtype, *shapes, seed=d)[: rng.choice([2, 4, 4])]
        yield keyword, arrays, np.broadcast_shapes((d,), *(a.shape for a in arrays))


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 64, 100, 1000, 1023, 1024, 1025, 2500])
@every_backend
def test_any_memory_gives_the_bits_of_contiguous_copies(backend, d):
    rng, xp = np.random.default_rng(d), NAMESPACES[backend]
    for keyword, arrays, shape in itertools.chain(broadcasting(rng, d), broadcasting(rng, d)):
        given = [LAYOUTS[rng.integers(6 if backend is Backend.NUMPY else 4) * bool(a.ndim)](xp, a) for a in arrays]
        given = [xp.broadcast_to(a, shape) if rng.random() < 0.3 else a for a in given]
        if backend is Backend.NUMPY:
            given[0].flags.writeable = False
        copies = [make(xp, np.broadcast_to(a, shape).copy()) for a in arrays]
        for per_dim in (False, True):
            got, want = (divergence(keyword, a, per_dim=per_dim) for a in (given, copies))
            assert same_bits(got, want), (keyword, per_dim, [(a.shape, a.dtype) for a in arrays])
            assert got.shape == (shape if per_dim else shape[:-1])
        assert all(np.array_equal(to_numpy(x), np.broadcast_to(a, x.shape)) for x, a in zip(given, arrays, strict=True))


@every_backend
def test_a_result_belongs_to_the_caller(backend):
    for shape, per_dim in itertools.product([(3,), (2, 3), (2, 2, 3), (2, 1)], (False, True)):
        arrays = [make(NAMESPACES[backend], a) for a in drawn("std", np.float64, shape)]
        results = [divergence("std", arrays, per_dim=per_dim) for _ in range(2)]
        kept = [to_numpy(a).copy() for a in (*arrays, results[1])]
        results[0][...] = np.nan
        assert all(map(same_bits, (*arrays, results[1]), kept))


# ---- the same row, the same bits ----


@every_size
@every_dtype
@every_keyword
def test_a_row_gives_the_same_bits_wherever_it_stands(keyword, dtype, d):
    arrays, order = drawn(keyword, dtype, (50, d)), np.random.default_rng(0).permutation(50)
    for count, per_dim in itertools.product((2, 4), (False, True)):
        whole = divergence(keyword, arrays[:count], per_dim=per_dim)
        for rows in (17, slice(16, 17), slice(3, None), slice(None, None, -7), order, order.reshape(5, 10)):
            assert same_bits(divergence(keyword, [a[rows] for a in arrays[:count]], per_dim=per_dim), whole[rows])
        if HAS_TORCH:
            assert same_bits(divergence(keyword, [*map(torch.tensor, arrays[:count])], per_dim=per_dim), whole)


@every_dtype
def test_the_number_of_threads_changes_no_bit(monkeypatch, dtype):
    good, found = drawn("std", dtype, (330_000, 4), (330_000, 4), (4,), ()), []
    bad = [a.copy() for a in good]
    bad[1][5::100_000, 1] = 0
    for threads in (1, 2, 3):
        monkeypatch.setattr(cpu_threads, "count", lambda library, threads=threads: threads)
        found.append([divergence("std", bad, validate=False, per_dim=per_dim) for per_dim in (False, True)])
        if HAS_TORCH:
            found[-1] += gradients("std", good) + gradients("std", bad, validate=False)
    for one, two, three in zip(*found, strict=True):
        assert same_bits(one, two)
        assert same_bits(one, three)
    last = divergence("std", [a[-7:] if a.ndim > 1 else a for a in good])
    assert same_bits(last, found[0][0][-7:])


# ---- gradients ----


def gradients(keyword, arrays, path="numba", weights=None, **options):
    """Gradients of the weighted sum of the divergences, as NumPy arrays."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    result = divergence(keyword, leaves, path=path, **options)
    weights = torch.ones_like(result) if weights is None else torch.tensor(weights, dtype=result.dtype)
    return [g.numpy() for g in grad(result, leaves, weights)]


def summed(a, shape):
    """Sum over the axes that an array of this shape lacks, or in which it has length 1."""
    a = a.astype(np.longdouble).sum(axis=tuple(range(a.ndim - len(shape))))
    return a.sum(axis=tuple(k for k, size in enumerate(shape) if size < a.shape[k]), keepdims=True)


def check_gradients(keyword, arrays, weights=None, reduction="none", per_dim=False):
    """Within 8 eps of all that is summed: over rows and dimensions, the spread's part and the mean's."""
    got = gradients(keyword, arrays, weights=weights, reduction=reduction, per_dim=per_dim)
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    each = np.ones(shape if per_dim else shape[:-1]) if weights is None else weights
    each = (each / each.size if reduction == "mean" else each)[... if per_dim else (..., None)]
    wide = [np.broadcast_to(a, shape).astype(float) for a in arrays]
    formulas = functools.partial(gradients, keyword, path="generic", weights=np.broadcast_to(each, shape), per_dim=True)
    whole, spread = formulas(wide), formulas([wide[2] if len(wide) == 4 else 0 * wide[0], *wide[1:]])
    for g, w, s in zip(got, whole, spread, strict=True):
        size = np.finfo(g.dtype).eps * summed(abs(s) + abs(w - s), g.shape) + np.finfo(g.dtype).tiny
        errors = abs(g - summed(w, g.shape)) / size
        assert within(errors, 8), (errors.max(), per_dim, reduction, [a.shape for a in arrays])


@needs_torch
@every_size
@every_kernel
def test_gradients_within_8_eps(keyword, dtype, count, d):
    arrays = drawn(keyword, dtype, (23, d))[:count]
    check_gradients(keyword, [*arrays[:2], *(a * dtype(1 + 1e-6) for a in arrays[:2])][:count], reduction="sum")
    check_gradients(keyword, arrays, reduction="mean", per_dim=True)
    for per_dim in (False, True):
        weights = np.random.default_rng(1).normal(size=(23, d) if per_dim else 23).astype(dtype)
        check_gradients(keyword, arrays, weights, per_dim=per_dim)


@needs_torch
@every_kernel
def test_gradients_within_8_eps_where_the_vector_formulas_change_over(keyword, dtype, count):
    check_gradients(keyword, [a[:, None] for a in sharp(keyword, dtype, count == 2)[:count]])


@needs_torch
@every_size
@every_dtype
@every_keyword
def test_gradients_are_exactly_0_at_equality(keyword, dtype, d):
    p = drawn(keyword, dtype, (23, d))[:2]
    for arrays in ([*p, *p], [0 * p[0], np.full_like(p[1], "log" not in keyword)]):
        assert all((g == 0).all() for g in gradients(keyword, arrays))


@needs_torch
@pytest.mark.parametrize("d", [1, 2, 7, 16, 100, 600, 1025])
def test_every_broadcast_input_gets_a_gradient_of_its_own_shape(d):
    rng = np.random.default_rng(d)
    for keyword, arrays, shape in broadcasting(rng, d):
        check_gradients(keyword, arrays, rng.normal(size=shape[:-1]).astype(arrays[0].dtype))


@needs_torch
@pytest.mark.parametrize("special", [False, True], ids=["ordinary", "with a special row"])
@pytest.mark.parametrize("shape", [(2,), (1, 2), ()], ids=str)
@every_dtype
def test_a_gradient_summed_over_100_000_rows(dtype, shape, special):
    """All contributions of the mean have one sign, the worst case for a sum."""
    arrays = drawn("std", dtype, (100_000, 2), (100_000, 2), shape or (2,), shape)
    arrays[0] = abs(arrays[0]) + abs(arrays[2])
    arrays[1][777, 1] = np.finfo(dtype).tiny if special else 1
    check_gradients("std", arrays)


@needs_torch
@every_side
def test_only_the_gradients_asked_for_are_computed(monkeypatch, count):
    made, compute = [], diagonal_call.gradients
    monkeypatch.setattr(diagonal_call, "gradients", lambda *args: made.append(compute(*args)) or made[-1])
    arrays = drawn("std", np.float64, (4, 3))[:count]
    everything = gradients("std", arrays)
    for asked in itertools.product((False, True), repeat=count):
        leaves = [torch.tensor(a, requires_grad=want) for a, want in zip(arrays, asked, strict=True)]
        result = divergence("std", leaves).sum()
        assert result.requires_grad == any(asked)
        if any(asked):
            result.backward()
            assert [g is not None for g in made[-1]] == list(asked)
        for leaf, want, g in zip(leaves, asked, everything, strict=True):
            assert same_bits(leaf.grad, g) if want else leaf.grad is None


@needs_torch
@every_size
@every_kernel
def test_gradients_of_special_numbers_are_those_of_the_formulas(keyword, dtype, count, d):
    arrays, good, where = spoilt(keyword, dtype, count, d)
    bad = np.isnan(divergence(keyword, arrays, path="generic", per_dim=True, validate=False)) & where
    for per_dim in (False, True):
        weights = np.random.default_rng(1).uniform(1, 2, where.shape if per_dim else len(where)).astype(dtype)
        options = {"weights": weights, "per_dim": per_dim, "validate": False}
        got, without = (gradients(keyword, a, **options) for a in (arrays, good))
        want = gradients(keyword, [a.astype(float) for a in arrays], path="generic", **options)
        assert (~np.isfinite([g[bad] for g in got])).any(axis=0).all()
        for g, w, clean in zip(got, want, without, strict=True):
            with np.errstate(over="ignore", under="ignore"):
                np.testing.assert_allclose(g[where], w[where].astype(dtype), rtol=8 * np.finfo(dtype).eps)
            np.testing.assert_allclose(g[~where], clean[~where], rtol=1e-3, atol=1e-5)  # in the row of a special number
            assert same_bits(g[::2], clean[::2])


@needs_torch
@every_dtype
@every_keyword
def test_special_numbers_in_a_shared_gradient_raise_no_warning(keyword, dtype):
    good = drawn(keyword, dtype, (3, 1), (3, 1), (1,), (1,))
    for k, value, _ in specials(keyword, dtype, 2):
        arrays = [a.copy() for a in good]
        arrays[k][1:] = [[value], [value if k else -value]]
        wide = gradients(keyword, [a.astype(float) for a in arrays], path="generic", validate=False)
        with np.errstate(all="raise"):
            got = gradients(keyword, arrays, validate=False)
        for g, w in zip(got, wide, strict=True):
            with np.errstate(over="ignore", under="ignore"):
                np.testing.assert_allclose(g, w.astype(dtype), rtol=1e-3, err_msg=str((k, value)))


@needs_torch
def test_a_cotangent_may_lie_anywhere_in_memory():
    leaves = [torch.tensor(a, requires_grad=True) for a in drawn("std", np.float64, (6, 4))]
    values = np.random.default_rng(2).normal(size=(6, 4))
    for per_dim, c in ((False, values[:, 0]), (True, values)):
        pull = functools.partial(grad, divergence("std", leaves, per_dim=per_dim), leaves, retain_graph=True)
        x = torch.tensor(c)
        negated, one = torch.complex(x, -x).conj().imag, x[:1].expand(x.shape)
        assert negated.is_neg()
        for cotangent in (negated, torch.tensor(gappy(c, -1))[..., 0], torch.asarray(np.asfortranarray(c)), one):
            assert all(map(torch.equal, pull(cotangent), pull(torch.tensor(cotangent.tolist(), dtype=x.dtype))))


# ---- torch, in all the ways in which it differentiates ----


def example(count=4, seed=3):
    """Tensors of p and of q that broadcast, and which ask for gradients."""
    arrays = drawn("std", np.float64, (2, 1, 3), (2, 3), (3,), (1,), seed=seed)[:count]
    return tuple(torch.tensor(a, requires_grad=True) for a in arrays)


def basis():
    """Cotangents of the example, one after the other."""
    return torch.eye(4, dtype=torch.float64).reshape(4, 2, 2)


def twice(f, x):
    loss = f(*x).sum()
    return *grad(loss, x, retain_graph=True), *grad(loss, x)


def second(f, x):
    first = grad(f(*x).square().sum(), x, create_graph=True)
    return grad(sum(g.square().sum() for g in first), x)


def forward_mode(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(*(forward_ad.make_dual(t.detach(), t.detach().cos()) for t in x)))


WAYS = {
    "backward twice": twice,
    "create_graph": second,
    "is_grads_batched": lambda f, x: grad(f(*x), x, basis(), is_grads_batched=True),
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "vmap of backward": lambda f, x: torch.func.vmap(functools.partial(grad, f(*x), x, retain_graph=True))(basis()),
    "checkpoint": lambda f, x: grad(checkpoint(f, *x, use_reentrant=False).sum(), x),
    "parameters": lambda f, x: twice(f, tuple(torch.nn.Parameter(t.detach()) for t in x)),
    "views": lambda f, x: grad(f(*(torch.stack([t, 2 * t])[0] for t in x)).sum(), x),
    "negated views": lambda f, x: grad(f(*(torch.complex(t, -t).conj().imag for t in x)).sum(), x),
    "no_grad": lambda f, x: [torch.no_grad()(f)(*x)],
    "inference_mode": lambda f, x: [torch.inference_mode()(f)(*x).clone()],
}
STEPS_ASIDE = {
    "forward mode": forward_mode,
    "func.grad": lambda f, x: torch.func.grad(lambda *x: f(*x).sum(), (*range(len(x)),))(*x),
    "func.jvp": lambda f, x: torch.func.jvp(f, x, tuple(map(torch.cos, x))),
    "func.vmap": lambda f, x: [torch.func.vmap(f, (0, 0, None, None)[: len(x)])(*x)],
    "func.hessian": lambda f, x: sum(torch.func.hessian(lambda *x: f(*x).sum(), (*range(len(x)),))(*x), ()),
}


@needs_torch
@every_side
@pytest.mark.parametrize("way", [*WAYS, *STEPS_ASIDE])
def test_every_way_to_differentiate_gives_what_the_formulas_give(way, count):
    run = (WAYS | STEPS_ASIDE)[way]
    usual, formulas, compiled = (
        lambda path=path: run(lambda *x: divergence("std", x, path=path), example(count))
        for path in ("auto", "generic", "numba")
    )
    got = usual()
    for g, w in zip(got, formulas(), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-13, atol=1e-13)
    if way in WAYS:
        assert all(map(torch.equal, compiled(), got))
    else:
        with pytest.raises(ValueError, match=r"cannot serve this call: .* is at work"):
            compiled()


@needs_torch
@every_side
@every_keyword
def test_gradcheck_and_gradgradcheck(keyword, count):
    arrays = drawn(keyword, np.float64, (2, 2), (2,), (1, 2), ())[:count]
    x = [torch.tensor(a, requires_grad=True) for a in arrays]
    for options in ({}, {"per_dim": True}, {"reduction": "mean"}):
        assert torch.autograd.gradcheck(lambda *x, o=options: divergence(keyword, x, **o), x)
    assert torch.autograd.gradgradcheck(lambda *x: divergence(keyword, x), x)


RECORDERS = {
    "jit.trace": lambda f, x: torch.jit.trace(f, x),
    "make_fx": lambda f, x: make_fx(f)(*x),
    "make_fx, before dispatch": lambda f, x: make_fx(f, pre_dispatch=True)(*x),
    "compile": lambda f, x: torch.compile(f, backend="eager", fullgraph=True),
}


@needs_torch
@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_recording_holds_operations_and_no_results(recorder):
    def f(*x):
        return divergence("std", x, path="auto")

    first, other = (tuple(t.detach() for t in example(seed=seed)) for seed in (3, 4))
    with warnings.catch_warnings(action="ignore"):  # torch.jit.trace is deprecated, and says so
        recorded = RECORDERS[recorder](f, first)
        for tensors in (first, other):
            torch.testing.assert_close(recorded(*tensors), f(*tensors), rtol=1e-13, atol=1e-13)


@needs_torch
def test_under_autocast_a_layer_hands_over_bfloat16():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    (want,) = grad(gk.kl_divergence(gk.Gaussian(layer(x), log_var=layer(x))).sum(), [layer.weight])
    with torch.autocast("cpu", torch.bfloat16):
        result = gk.kl_divergence(gk.Gaussian(layer(x), log_var=layer(x)))
        assert same_bits(gk.kl_divergence(gk.Gaussian(x, log_var=x)), divergence("log_var", [x, x]))
    assert result.dtype == torch.bfloat16
    (got,) = grad(result.sum(), [layer.weight])
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
