"""The compiled pass over dense pairs: as right as the formulas, row by row, from any memory."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import regimes
from cases import within
from conftest import NAMESPACES
from mpmath import mp
from spreads import (
    DENSE,
    DIAGONAL,
    array_names,
    covariance,
    drawn,
    restated,
    rounded,
    rows,
    same_bits,
    symmetric,
)

import gausskl as gk
import reference
from helpers import Backend, make, to_numpy

pytest.importorskip("numba")

from gausskl._fast.cpu import leaf
from gausskl._fast.cpu import threads as cpu_threads
from gausskl._fast.cpu.dense import call as dense_call
from gausskl._fast.leaves import load
from gausskl._formulas import kl
from gausskl._formulas.kl import KL
from gausskl._plan import plan_for

FACTORS = "scale_tril", "row", "tfp"
MATRICES = "cov", "precision"
TWO_AXES = *MATRICES, "scale_tril"
# Every keyword beside every other, the two packings in turn; two packed factors once in each order.
SPREADS = *DIAGONAL, "cov", "scale_tril", "packed", "precision"
PACKED = {(k, 1 - side): ("row", "tfp")[(n + side) % 2] for n, k in enumerate(SPREADS) for side in (0, 1)}
PAIRS = [
    (PACKED[q, 0] if p == "packed" else p, PACKED[p, 1] if q == "packed" else q)
    for p, q in itertools.product(SPREADS, repeat=2)
    if {p, q} - {*DIAGONAL}
] + [("row", "row"), ("tfp", "tfp")]
FEW = [("cov", "cov"), ("scale_tril", "cov"), ("cov", "std"), ("tfp", "precision"), ("precision", "precision")]
SERVED = [b for b in NAMESPACES if b in (Backend.NUMPY, Backend.TORCH)]

every_pair = pytest.mark.parametrize(("name_p", "name_q"), PAIRS)
few_pairs = pytest.mark.parametrize(("name_p", "name_q"), FEW)
every_backend = pytest.mark.parametrize("backend", SERVED, ids=str)


def gaussian(g, xp=np):
    return gk.Gaussian(**{k: make(xp, a) if isinstance(a, np.ndarray) else a for k, a in g.items()})


def divergence(p, q=None, path="numba", xp=np, **options):
    return to_numpy(gk.kl_divergence(gaussian(p, xp), q and gaussian(q, xp), path=path, **options))


# ---- against the oracle ----


def condition(name, g):
    """What a spread may cost in eps: the condition of its scaled factor, or of its correlations."""
    if name in DIAGONAL:
        return 1.0
    return reference.cond_correlation(g[name] if name in MATRICES else covariance(g))


def allowed(name_p, name_q, p, q, want):
    """Largest error of each divergence: 16 + the condition, in eps."""
    eps, want = np.finfo(np.float64).eps, want.astype(float)
    if {name_p, name_q} <= {*FACTORS, "std"}:
        cost = 1.0 if name_q == "std" else reference.cond_row_scaled(np.linalg.cholesky(covariance(q)))
    else:
        cost = np.maximum(condition(name_p, p), condition(name_q, q))
    return (16 + cost) * eps * want


@pytest.fixture
def kernels_alone(monkeypatch, request):
    """What a kernel calls NaN is an error here, and not left to the formulas.

    But for a precision near anything else: its inverse has lost what the two differ by.
    """
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    names = {given.get("name_p"), given.get("name_q")}
    may_be_near = given.get("distance", True) and "precise" not in request.node.name
    if "precision" in names and len(names) > 1 and may_be_near:
        return

    def never(*_):
        raise AssertionError("the kernel could not compute something")

    monkeypatch.setattr(leaf, "of_rows", never)


def check(name_p, name_q, p, q):
    want, got = reference.kl(p, q), divergence(p, q)
    errors = abs(want - got).astype(float)
    assert within(errors / allowed(name_p, name_q, p, q, want), 1), errors / want.astype(float)


@pytest.mark.parametrize("seed", [12, 14, 24, 29, 33])
def test_nearly_singular_pairs_in_two_dimensions(seed):
    """Of the difference that makes a pivot, a rounding counts as often as the condition says."""
    for name, p, q in regimes.cov(np.float64, d=2, rows=4, seed=seed):
        if "ill-conditioned" in name:
            check("cov", "cov", p, q)


@pytest.mark.parametrize("distance", [None, 1e-6], ids=["unrelated", "1e-6 apart"])
@every_pair
@pytest.mark.usefixtures("kernels_alone")
def test_every_pair_of_keywords(name_p, name_q, distance):
    p, q = drawn(name_p, name_q, (9,), distance=distance)
    check(name_p, name_q, p, q)


@pytest.mark.parametrize("distance", [None, 1e-6], ids=["unrelated", "1e-6 apart"])
@pytest.mark.parametrize("d", [1, 2, 3, 4, 8, 13])
@pytest.mark.parametrize(("name_p", "name_q"), FEW[:2] + FEW[3:4])
@pytest.mark.usefixtures("kernels_alone")
def test_every_block_size(name_p, name_q, d, distance):
    p, q = drawn(name_p, name_q, (2,), d, distance)
    check(name_p, name_q, p, q)


def exactly(name, d, size):
    """A pair whose divergence follows from its construction: factors L (I + E), covariances L (I + S) L^T.

    All entries are multiples of a power of 2 so large that nothing is rounded. S is a diagonal s and c times the
    signs u u^T.
    """
    rng = np.random.default_rng(d)
    lower = np.eye(d) + np.tril(rng.integers(-1, 2, (d, d)), -1) / 16
    z, mean = rng.integers(-8, 9, d) * size, rng.integers(-8, 9, d) * 1.0
    if name == "scale_tril":
        step = np.tril(rng.integers(-(2**14), 2**14, (d, d))) * (size * 2.0**-15)
        p, q = ({"mean": m, name: a} for m, a in ((mean + lower @ z, lower + lower @ step), (mean, lower)))
        with mp.workdps(60):
            terms = [(1 + mp.mpf(e)) ** 2 - 1 - 2 * mp.log1p(e) for e in np.diag(step).tolist()]
            below = (mp.mpf(e) ** 2 for e in np.tril(step, -1).ravel().tolist())
            return p, q, mp.fsum([*terms, *below, *(mp.mpf(x) ** 2 for x in z.tolist())]) / 2
    s, c, u = rng.integers(0, 2**14, d) * (size * 2.0**-14), size * 2.0**-7, rng.choice([-1.0, 1.0], d)
    whole, other = lower @ lower.T, lower @ (np.diag(s) + c * np.outer(u, u)) @ lower.T + lower @ lower.T
    apart = lower @ z if name == "cov" else z
    first, second = (other, whole) if name == "cov" else (whole, other)  # two precisions change places
    p, q = {"mean": mean + apart, name: first}, {"mean": mean, name: second}
    with mp.workdps(60):
        s = [mp.mpf(x) for x in s.tolist()]
        spread = mp.fsum(x - mp.log1p(x) for x in s) + d * mp.mpf(c) - mp.log1p(c * mp.fsum(1 / (1 + x) for x in s))
        if name == "cov":
            return p, q, (spread + mp.fsum(mp.mpf(x) ** 2 for x in z.tolist())) / 2
        moved = (lower.T @ z).tolist()
        more = mp.fsum(x * y**2 for x, y in zip(s, moved, strict=True)) + mp.mpf(c) * mp.mpf(float(u @ moved)) ** 2
        return p, q, (spread + mp.fsum(mp.mpf(y) ** 2 for y in moved) + more) / 2


@pytest.mark.parametrize("size", [1.0, 2.0**-14])
@pytest.mark.parametrize("d", [64, 127, 128])
@pytest.mark.parametrize("name", ["cov", "scale_tril", "precision"])
@pytest.mark.usefixtures("kernels_alone")
def test_many_dimensions(name, d, size):
    p, q, want = exactly(name, d, size)
    scaled = [a / np.sqrt(a.diagonal() * a.diagonal()[:, None]) for a in (p[name], q[name])]
    lengths = np.sqrt((q[name] ** 2).sum(axis=1, keepdims=True))
    cost = np.linalg.cond(q[name] / lengths) if name == "scale_tril" else max(map(np.linalg.cond, scaled))
    assert within(reference.eps_error(divergence(p, q), want, "float64"), 16 + cost)


@few_pairs
@pytest.mark.usefixtures("kernels_alone")
def test_float32_is_rounded_once(name_p, name_q):
    for distance in (None, 1e-3):
        p, q = drawn(name_p, name_q, (9,), distance=distance, dtype=np.float32)
        got = divergence(p, q)
        assert got.dtype == np.float32
        assert within(reference.ulp_error(got, reference.kl(p, q), "float32"), 1)


# ---- never negative, exactly 0 ----


@hypothesis.given(
    st.sampled_from([("cov", 1), ("precision", 4), ("scale_tril", 4), ("tfp", 4)]).flatmap(
        lambda k: st.tuples(st.just(k[0]), st.integers(k[1], 20))
    ),
    st.integers(0, 2**32),
    st.integers(0, 17),
)
def test_never_negative_and_0_for_equal_arguments(kind, seed, order):
    name, d = kind
    p, q = drawn(name, name, (11,), d, 10.0**-order, seed)
    got = divergence(p, q)
    assert (got >= 0).all()
    for g in (p, q):
        assert (divergence(g, g) == 0).all()
    assert (got > 0).all() or order > 12


def test_one_gaussian_described_in_two_ways_is_0_apart():
    """Where nothing is rounded in passing from a factor to its covariance."""
    lower = np.tril(np.random.default_rng(0).integers(-9, 10, (5, 5)), -1) + np.diag([1.0, 7, 3, 1000, 2])
    mean, var = np.arange(5.0), np.diag(np.diag(lower) ** 2)
    dense = [{"mean": mean, "cov": lower @ lower.T}, restated(mean, lower @ lower.T, "scale_tril")]
    for p, q in itertools.permutations([*dense, restated(mean, lower @ lower.T, "row")], 2):
        assert divergence(p, q) == 0
    for name, other in itertools.product(("std", "var"), ("cov", "scale_tril")):
        p, q = restated(mean, var, name), restated(mean, var, other)
        assert divergence(p, q) == divergence(q, p) == 0


@pytest.mark.parametrize("name", DENSE)
def test_without_q_it_is_the_standard_normal(name):
    p, _ = drawn(name, name, (11,))
    alone = divergence(p)
    for mean, std in ((np.zeros(5), np.ones(5)), (np.zeros((1, 5)), np.ones((11, 5))), (np.zeros(5), np.float64(1))):
        assert same_bits(alone, divergence(p, {"mean": mean, "std": np.asarray(std)}))


# ---- the same row, the same bits ----


def mixed(g, h):
    """Twice ten rows in another order."""
    order = np.concatenate([np.arange(20)[k::3] for k in range(3)])
    return {k: a if k == "packing" else np.concatenate([a, h[k]])[order] for k, a in g.items()}


@pytest.mark.parametrize("d", [3, 5])
@few_pairs
def test_a_row_gives_the_same_bits_wherever_it_stands(monkeypatch, name_p, name_q, d):
    """A batch of near and far pairs, so that lanes side by side need different formulas."""
    near, far = drawn(name_p, name_q, (10,), d, 1e-4), drawn(name_p, name_q, (10,), d)
    p, q = (mixed(*sides) for sides in zip(near, far, strict=True))
    alone = np.array([divergence(rows(p, k), rows(q, k)) for k in range(20)])
    for threads, piece in ((1, 1e6), (1, 1), (2, 1), (3, 1)):
        monkeypatch.setattr(cpu_threads, "count", lambda library, threads=threads: threads)
        monkeypatch.setattr(dense_call, "PIECE", piece)
        for start, size in itertools.product((0, 3), range(1, 21)):
            part = slice(start, start + size)
            assert same_bits(divergence(rows(p, part), rows(q, part)), alone[part])


def gappy(a, axis):
    """Twice the memory, every second number or row of which is NaN."""
    return np.stack([a, np.full_like(a, np.nan)], axis)


def turned(a):
    return np.ascontiguousarray(a.T).T if a.ndim < 3 else np.ascontiguousarray(a.mT).mT


LAYOUTS = {
    "strided": lambda xp, a: make(xp, gappy(a, -1))[..., 0],
    "rows apart": lambda xp, a: make(xp, gappy(a, -2))[..., 0, :],
    "transposed": lambda xp, a: xp.asarray(turned(a)),
    "batch last": lambda xp, a: xp.moveaxis(xp.asarray(np.ascontiguousarray(np.moveaxis(a, 0, -1))), -1, 0),
    "negative": lambda xp, a: make(xp, a[..., ::-1])[..., ::-1],
    "rows backwards": lambda xp, a: make(xp, a[::-1])[::-1],
    "read-only": lambda xp, a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("d", [3, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
@every_backend
def test_any_memory_gives_the_bits_of_contiguous_copies(backend, layout, d):
    xp = NAMESPACES[backend]
    if backend is Backend.TORCH and layout in ("negative", "rows backwards", "read-only"):
        pytest.skip("torch knows no such memory")
    for names in FEW:
        pair = drawn(*names, (11,), d)
        given = [{k: a if k == "packing" else LAYOUTS[layout](xp, a) for k, a in g.items()} for g in pair]
        got = gk.kl_divergence(*(gk.Gaussian(**g) for g in given), path="numba")
        assert same_bits(to_numpy(got), divergence(*pair))
        for before, after in zip(pair, given, strict=True):
            assert all(np.array_equal(before[k], to_numpy(after[k])) for k in array_names(before))


BATCHES = [((11,), ()), ((), (11,)), ((11,), (1,)), ((3, 1), (1, 4)), ((3, 4), (4,)), ((2, 1, 5), (3, 1))]
BATCHES += [((2, 1, 3, 1), (4, 1, 2)), ((0,), ()), ((3, 0), (3, 1))]


def spread_out(a, axes, batch):
    """A copy for each element of the batch; ``axes`` are not of the batch."""
    return np.broadcast_to(a, (*batch, *a.shape[a.ndim - axes :])).copy()


@pytest.mark.parametrize(("batch_p", "batch_q"), BATCHES, ids=str)
@every_backend
def test_what_broadcasts_gives_the_bits_of_copies(backend, batch_p, batch_q):
    batch = np.broadcast_shapes(batch_p, batch_q)
    for names, other in itertools.product(FEW, (None, (), batch)):
        p, q = drawn(*names, batch_p)[0], drawn(*names, batch_q, seed=1)[1]
        if other is not None:  # means and spreads of different batches
            p["mean"], q["mean"] = np.ones(5), np.random.default_rng(0).normal(size=(*other, 5))
        copies = [
            {k: a if k == "packing" else spread_out(a, 2 if k in TWO_AXES else 1, batch) for k, a in g.items()}
            for g in (p, q)
        ]
        got = divergence(p, q, xp=NAMESPACES[backend])
        assert got.shape == batch
        assert same_bits(got, divergence(*copies))


def test_batch_axes_that_do_not_merge():
    p, q = drawn("cov", "cov", (3, 4))
    want = divergence(p, q)
    swapped = [{k: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1) for k, a in g.items()} for g in (p, q)]
    for sides in ((swapped[0], q), (p, swapped[1]), swapped):
        assert same_bits(gk.kl_divergence(*(gk.Gaussian(**g) for g in sides), path="numba"), want)
    part = [rows(g, (slice(None, None, 2), slice(3, None, -2))) for g in (p, q)]
    assert same_bits(gk.kl_divergence(*(gk.Gaussian(**g) for g in part), path="numba"), want[::2, 3::-2])


# ---- bad elements ----

BAD = np.nan, np.inf, -np.inf


def bad_numbers(g, name):
    """Every place of an unbatched Gaussian, and every number that must not stand there: ``(array, place, number)``."""
    d = g["mean"].shape[-1]
    yield from itertools.product(["mean"], np.ndindex(d), BAD)
    key = "packed_tril" if name in ("row", "tfp") else name
    if name in DIAGONAL:
        yield from itertools.product([key], np.ndindex(d), BAD if name.startswith("log") else (*BAD, 0.0, -0.0, -1.0))
        return
    yield from itertools.product([key], np.ndindex(g[key].shape), BAD)
    if key == "packed_tril":
        i, j = reference.packed_positions(d, name)
        yield from itertools.product([key], [(k,) for k in np.flatnonzero(i == j)], (0.0, -0.0))
        return
    for i, j in itertools.product(range(d), repeat=2):
        if name in MATRICES:
            yield from ((key, (i, j), x) for x in ((0.0, -1.0, -1e-300) if i == j else (0.01, 100.0, -1e300)))
        elif j >= i:
            yield from ((key, (i, j), x) for x in ((0.0, -0.0) if i == j else (1.0, -1e-300, 5e-324)))


@pytest.mark.parametrize("d", [3, 5])
@pytest.mark.parametrize(("name_p", "name_q"), [*FEW, ("log_var", "row"), ("cov", "scale_tril")])
def test_a_bad_number_spoils_its_own_row_alone(name_p, name_q, d):
    """No place is left out; the rows before and after it keep their bits, and it is named."""
    names = name_p, name_q
    cases = [(side, *c) for side in (0, 1) for c in bad_numbers(drawn(*names, d=d)[side], names[side])]
    sides = drawn(*names, (2 * len(cases) + 1,), d)
    good = divergence(*sides)
    for k, (side, key, place, number) in enumerate(cases):
        sides[side][key][(2 * k + 1, *place)] = number
    before = [{k: a if k == "packing" else a.copy() for k, a in g.items()} for g in sides]
    got = divergence(*sides, validate=False)
    assert same_bits(got[::2], good[::2])
    plausible = [c for c, x in zip(cases, got[1::2], strict=True) if np.isfinite(x)]
    assert not plausible
    for g, h in zip(before, sides, strict=True):
        assert all(same_bits(g[k], h[k]) for k in array_names(g))
    for k, (side, key, place, number) in enumerate(cases[:: 1 if d == 3 else 7]):
        k = k * (1 if d == 3 else 7)
        with pytest.raises(ValueError, match=r"^[pq]: ") as error:
            divergence(*(rows(g, slice(2 * k, 2 * k + 2)) for g in sides))
        assert str(error.value).startswith(f"{'pq'[side]}: {key}[1"), (key, place, number)


def many(name, d=3):
    return drawn(name, name, (10_000,), d)


@every_backend
def test_a_matrix_that_is_not_positive_definite_is_named_among_10_000(monkeypatch, backend):
    monkeypatch.setattr(cpu_threads, "count", lambda library: 2)
    monkeypatch.setattr(dense_call, "PIECE", 1e4)
    for name, side in itertools.product(MATRICES, (0, 1)):
        pair = many(name)
        good = divergence(*pair)
        matrix = np.diag([4.0, 1, 1])
        matrix[0, 1] = matrix[1, 0] = 4  # the second pivot is 1 - 16/4
        pair[side][name][4711] = matrix
        sentence = rf"^{'pq'[side]}: {name}\[4711\] has pivot 1 = -3.0: the matrix is not positive definite"
        with pytest.raises(ValueError, match=sentence):
            divergence(*pair, xp=NAMESPACES[backend])
        square = [{k: a.reshape(100, 100, *a.shape[1:]) for k, a in g.items()} for g in pair]
        with pytest.raises(ValueError, match=sentence.replace("4711", "47, 11")):
            divergence(*square, xp=NAMESPACES[backend])
        got = divergence(*pair, xp=NAMESPACES[backend], validate=False)
        assert np.flatnonzero(np.isnan(got)).tolist() == [4711]
        assert same_bits(np.delete(got, 4711), np.delete(good, 4711))
        assert np.isnan(divergence(*pair, xp=NAMESPACES[backend], validate=False, reduction="sum"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_backend
def test_only_rounding_may_make_a_matrix_asymmetric(backend, dtype):
    xp, allowed = NAMESPACES[backend], 2.0**-26 if dtype is np.float64 else 2.0**-12
    for name in MATRICES:
        p, q = (rounded(g, dtype) for g in drawn(name, name, (50,)))
        good, size = divergence(p, q, xp=xp), np.sqrt(p[name][17, 4, 4] * p[name][17, 2, 2])
        p[name][17, 4, 2] += dtype(0.4 * allowed) * size
        middle = p | {name: symmetric(p[name].astype(float)).astype(dtype)}
        np.testing.assert_allclose(divergence(p, q, xp=xp), divergence(middle, q), rtol=16 * np.finfo(dtype).eps)
        p[name][17, 4, 2] += dtype(2 * allowed) * size
        here, there = (f"{p[name][17, i, j]}" for i, j in ((2, 4), (4, 2)))
        with pytest.raises(ValueError, match="must be symmetric") as error:
            divergence(p, q, xp=xp)
        assert f"p: {name}[17, 2, 4] = {here} but {name}[17, 4, 2] = {there}: " in str(error.value)
        got = divergence(p, q, xp=xp, validate=False)
        assert np.flatnonzero(np.isnan(got)).tolist() == [17]
        assert same_bits(np.delete(got, 17), np.delete(good, 17))


# ---- to the ends of the range ----


def scaled(g, size):
    """The Gaussian of ``size`` times the variable."""
    power = {"mean": 1, "std": 1, "scale_tril": 1, "packed_tril": 1, "cov": 2, "precision": -2}
    return {k: a if k == "packing" else a * size ** power[k] for k, a in g.items()}


SIZES = 1e-150, 1e-75, 1e-50, 1.0, 1e50, 1e75, 1e150


@pytest.mark.parametrize(("name_p", "name_q"), [*FEW, ("std", "scale_tril")])
def test_extreme_scales(name_p, name_q):
    """Entries up to 1e±300, p and q up to 1e300 apart: the divergence is right, and inf where it overflows."""
    for size_p, size_q in itertools.product(SIZES, repeat=2):
        p, q = drawn(name_p, name_q, (3,), distance=1e-3 if size_p == size_q else None)
        p, q = scaled(p, size_p), scaled(q, size_q)
        errors = reference.eps_error(divergence(p, q), reference.kl(p, q), "float64")
        assert within(errors, 64), (size_p, size_q, errors)


@pytest.mark.parametrize(("name_p", "name_q"), [("std", "scale_tril"), ("scale_tril", "scale_tril"), ("row", "row")])
def test_factors_whose_ratio_is_out_of_range(name_p, name_q):
    for size_p, size_q in itertools.permutations((1e-300, 1e-10, 1e300), 2):
        p, q = (scaled(g, size) for g, size in zip(drawn(name_p, name_q, (3,)), (size_p, size_q), strict=True))
        assert within(reference.eps_error(divergence(p, q), reference.kl(p, q), "float64"), 64)


# ---- what it serves ----

SERVES = "one compiled pass over dense Gaussians in the memory of the CPU"


def identity(d, dtype=np.float64, xp=np, name="cov", rows=2):
    return gk.Gaussian(
        make(xp, np.zeros((rows, d), dtype)), **{name: make(xp, np.zeros((rows, d, d), dtype) + np.eye(d, dtype=dtype))}
    )


def diagonal(d=3, dtype=np.float64, xp=np):
    return gk.Gaussian(make(xp, np.zeros(d, dtype)), std=make(xp, np.ones(d, dtype)))


def low_rank(d=3):
    return gk.Gaussian(np.zeros(d), cov_factor=np.ones((d, 1)), cov_diag=np.ones(d))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_backend
def test_the_plan_up_to_128_dimensions(monkeypatch, backend, dtype):
    xp = NAMESPACES[backend]
    for d, name in itertools.product((1, 4, 64, 128), ("cov", "scale_tril", "precision")):
        for pair in ([identity(d, dtype, xp, name)], [diagonal(d, dtype, xp), identity(d, dtype, xp, name)]):
            plan = gk.plan(*pair)
            assert (plan.path, plan.reason, plan.computed_in) == ("numba", SERVES, "float64")
            plan = gk.plan(*pair, path="generic")
            assert (plan.path, plan.reason) == ("generic", "the array-API formulas, as asked")

    def never(*_, **__):
        raise AssertionError("the formulas were called")

    monkeypatch.setattr(kl, "by_structure", never)
    result = gk.kl_divergence(identity(5, dtype, xp), identity(5, dtype, xp))
    assert type(result) is type(make(xp, np.zeros(2)))
    assert result.dtype == getattr(xp, dtype)
    assert (to_numpy(result) == 0).all()


UNSERVED = {
    "129 dimensions": (lambda: [identity(129)], "compiled kernels for dense Gaussians are for at most 128 dimensions"),
    "low rank": (lambda: [low_rank(), identity(3)], "not for cov"),
    "two dtypes": (lambda: [identity(3), identity(3, "float32")], "not for float64 and float32"),
    "float16": (lambda: [identity(3, "float16")], "not for float16"),
    "big-endian": (lambda: [gk.Gaussian(np.zeros(3, ">f8"), cov=np.eye(3))], "array-API formulas"),
}
UNSERVED |= {
    str(b): (lambda b=b: [identity(3, xp=NAMESPACES[b])], "array-API formulas")
    for b in NAMESPACES
    if b in (Backend.ARRAY_API_STRICT, Backend.JAX, Backend.DASK)
}


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
        if name not in ("129 dimensions", "low rank"):
            with pytest.raises(
                ValueError, match=r"precise=True cannot serve this call: .*; leave precise out$"
            ) as error:
                call(*pair(), precise=True)
            assert plan.reason.replace("128", "64") in str(error.value)


# ---- twice the digits ----


def test_precise_serves_up_to_64_dimensions():
    plan = gk.plan(identity(64), precise=True)
    assert (plan.path, plan.reason, plan.computed_in) == ("numba", SERVES, "pairs of float64")
    for call, d in itertools.product((gk.plan, gk.kl_divergence), (65, 128, 129)):
        sentence = "cannot serve this call: compiled kernels for dense Gaussians are for at most 64 dimensions; leave"
        with pytest.raises(ValueError, match=f"^precise=True {sentence} precise out$"):
            call(identity(d), precise=True)
        with pytest.raises(ValueError, match=f'^path="numba" {sentence} path out'):
            call(identity(d), precise=True, path="numba")
    for call in (gk.plan, gk.kl_divergence):
        with pytest.raises(ValueError, match=r"^precise=True cannot serve .*: the array-API formulas, as asked; leave"):
            call(identity(3), precise=True, path="generic")
        with pytest.raises(ValueError, match=r"^precise"):
            call(identity(3), precise="yes")


def test_precise_changes_nothing_for_diagonal_pairs():
    p, q = drawn("std", "log_var", (9,))
    for path in ("auto", "generic"):
        plain, precise = (divergence(p, q, path, precise=on) for on in (False, True))
        assert same_bits(plain, precise)
    assert gk.plan(gaussian(p), gaussian(q), precise=True) == gk.plan(gaussian(p), gaussian(q))


def hilbert(d):
    """The Hilbert matrix times the least common multiple of its denominators: all entries are integers."""
    i = np.arange(d)
    return np.lcm.reduce(np.arange(1, 2 * d)) / (i[:, None] + i + 1)


def check_precise(p, q):
    got = divergence(p, q, precise=True)
    errors = reference.ulp_error(got, reference.kl(p, q), "float64")
    assert within(errors, 16), errors
    assert divergence(p, p, precise=True) == divergence(q, q, precise=True) == 0


@pytest.mark.parametrize("d", range(1, 13))
@pytest.mark.parametrize("name", ["cov", "precision"])
@pytest.mark.usefixtures("kernels_alone")
def test_hilbert_matrices(name, d):
    """Condition numbers up to 1.6e16; the float formulas have no digit left."""
    mean, matrix, scale = np.linspace(-1, 1, d), hilbert(d), 2.0**20
    given = {"mean": mean, name: scale * matrix}
    for other in (np.eye(d), (scale + 1) * matrix, scale * matrix + np.eye(d), 4 * scale * matrix):
        changed = {"mean": mean + 2.0**-12, name: other}
        check_precise(given, changed)
        check_precise(changed, given)


@pytest.mark.parametrize(
    ("name_p", "name_q"),
    [
        ("cov", "std"),
        ("log_var", "cov"),
        ("precision", "cov"),
        ("scale_tril", "log_var"),
        ("row", "tfp"),
        ("std", "precision"),
    ],
)
@pytest.mark.usefixtures("kernels_alone")
def test_precise_between_keywords(name_p, name_q):
    """Matrices whose condition is 1e15, beside each other and beside diagonals."""
    for seed, d in itertools.product((0, 1), (2, 5, 9)):
        p, q = (singular(name, d, seed + k) for k, name in enumerate((name_p, name_q)))
        check_precise(p, q)


def singular(name, d, seed):
    """A Gaussian of condition 1e15, its matrix or its factor turned at random."""
    rng = np.random.default_rng((seed, d))
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    sizes, mean = np.geomspace(1, 1e-15, d), rng.normal(size=d)
    if name in DIAGONAL:
        return {"mean": mean, name: np.log(sizes) if name.startswith("log") else sizes}
    if name in MATRICES:
        return {"mean": mean, name: symmetric((turn * np.maximum(sizes, 1e-14)) @ turn.T)}
    lower = np.linalg.qr((turn * sizes) @ np.linalg.qr(rng.standard_normal((d, d)))[0])[1].T
    return restated_factor(mean, np.tril(lower), name)


def restated_factor(mean, lower, name):
    if name == "scale_tril":
        return {"mean": mean, name: lower}
    return {"mean": mean, "packed_tril": lower[reference.packed_positions(len(mean), name)], "packing": name}


@pytest.mark.usefixtures("kernels_alone")
def test_precise_exponentials():
    """A logarithm beside what its exponential was rounded to, and moved by 1e-8: its own rounding must not matter."""
    p, _ = drawn("log_var", "log_var")
    for name in ("cov", "scale_tril"):
        q = restated(p["mean"], covariance(p) * (1 + 2.0**-26), name)
        pairs = ((p, q), (q, p)) if name == "cov" else ((q, p),)
        for pair in pairs:
            got = divergence(*pair, precise=True)
            assert within(reference.ulp_error(got, reference.kl(*pair), "float64"), 16)


@pytest.mark.parametrize("name", ["cov", "scale_tril"])
@pytest.mark.usefixtures("kernels_alone")
def test_precise_with_many_dimensions(name):
    for d in (16, 33, 64):
        p, q = singular(name, d, 2), singular(name, d, 3)
        check_precise(p, q)
        q[name] = p[name] * (1 + 2.0**-30)
        check_precise(p, q)


# ---- the memory that kernels work in ----


def test_the_workspace_is_small():
    for d, precise in ((128, False), (64, True)):
        for gradients in (False, True):
            job = plan_for(KL, identity(d), identity(d), False, "auto", precise).job
            assert dense_call._work_size(job, gradients) <= 16e6


def guarded(monkeypatch):
    """Workspaces that begin at an odd address, full of NaN, with guards on both sides; returns them all."""
    made = []

    def workspace(size):
        whole = np.full(size + 3 * 4096, 0xFF, np.uint8)
        start = 4096 + (1 - whole.ctypes.data) % 64
        made.append((whole, start, size))
        return whole[start : start + size]

    monkeypatch.setattr(cpu_threads, "workspace", workspace)
    return made


@pytest.mark.parametrize(
    ("name_p", "name_q", "d", "precise"),
    [(*names, d, False) for names in FEW for d in (4, 5)]
    + [("cov", "cov", 128, False), ("cov", "cov", 5, True), ("cov", "cov", 64, True)],
)
@pytest.mark.usefixtures("kernels_alone")
def test_a_kernel_reads_no_old_numbers_and_writes_to_its_workspace_alone(monkeypatch, name_p, name_q, d, precise):
    p, q = drawn(name_p, name_q, (11,), d)
    want = divergence(p, q, precise=precise)
    made = guarded(monkeypatch)
    assert same_bits(divergence(p, q, precise=precise), want)
    for whole, start, size in made:
        assert (whole[:start] == 0xFF).all()
        assert (whole[start + size :] == 0xFF).all()
        assert not (whole[start : start + size] == 0xFF).all()
    assert made


@few_pairs
def test_results_are_written_to_their_rows_alone(name_p, name_q):
    for size in (1, 7, 8, 11):
        p, q = drawn(name_p, name_q, (size,))
        job = plan_for(KL, gaussian(p), gaussian(q), False, "auto", False).job
        load(job)
        arrays = [a for g in (p, q) for k, a in g.items() if k != "packing"]
        out = np.full(size + 16, 7.0)
        work = np.empty(dense_call._work_size(job, False), np.uint8)
        assert job.kernel("forward")(*arrays, out[:size], work, 0, size) == 0
        assert same_bits(out[:size], divergence(p, q))
        assert (out[size:] == 7).all()
