"""The CUDA C for dense pairs, compiled for the processor: as right as the formulas, row by row."""

import ctypes
import functools
import itertools
import shutil

import numpy as np
import on_processor
import pytest
import regimes
from cases import within
from spreads import DIAGONAL, covariance, restated, rounded, rows, same_bits, symmetric
from spreads import drawn as _drawn

import gausskl as gk
import reference
from gausskl._fast.gpu import cuda_dense

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

SIZES = 1, 2, 3, 5, 8, 16
DTYPES = {"float64": np.float64, "float32": np.float32}
FACTORS = "scale_tril", "row", "tfp"
# Every keyword beside every other, the two packings in turn.
PAIRS = [(p, q) for p, q in itertools.product((*DIAGONAL, "cov", *FACTORS), repeat=2) if {p, q} - {*DIAGONAL}]
PAIRS = [(p, q) for p, q in PAIRS if {p, q} - {"row", "tfp"} or p != q]
FEW = [("cov", "cov"), ("scale_tril", "scale_tril"), ("tfp", "cov"), ("cov", "row"), ("cov", "std"), ("var", "cov")]
FEW += [("std", "scale_tril"), ("row", "std")]

every_size = pytest.mark.parametrize("d", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
every_pair = pytest.mark.parametrize(("name_p", "name_q"), PAIRS)
few_pairs = pytest.mark.parametrize(("name_p", "name_q"), FEW)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A function that compiles the kernel of a pair of spreads, once."""

    @functools.cache
    def compiled(spreads, bits, d):
        return on_processor.compiled(tmp_path_factory.mktemp("kernel"), cuda_dense.source(spreads, bits, d), "-O2")

    return compiled


@pytest.fixture
def divergence(kernel):
    """The kernel's answer for a pair of dicts as the oracle takes them, or for one and the standard normal."""
    return functools.partial(_divergence, kernel)


def _spread(g):
    (name,) = g.keys() - {"mean", "packing"}
    return name, g.get("packing")


def _divergence(kernel, p, q=None, blocks=2, threads=3, flush=False):
    sides = (p,) if q is None else (p, q)
    d = p["mean"].shape[-1]
    arrays = [g[name] for g in sides for name in ("mean", _spread(g)[0])]
    axes = [n for g in sides for n in (1, 2 if _spread(g)[0] in ("cov", "scale_tril") else 1)]
    batch = np.broadcast_shapes(*(a.shape[: a.ndim - n] for a, n in zip(arrays, axes, strict=True)))
    two = (1,) * (2 - len(batch)) + batch
    arrays = [np.broadcast_to(a, two + a.shape[a.ndim - n :]) for a, n in zip(arrays, axes, strict=True)]
    assert all(a[0, 0].flags.c_contiguous for a in arrays)
    strides = [ctypes.c_longlong(n // a.itemsize) for a in arrays for n in a.strides[:2]]
    out = np.full(two, 7, arrays[0].dtype)
    library = kernel(tuple(map(_spread, sides)), 8 * out.itemsize, d)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, out)]
    arguments = [*pointers, ctypes.c_longlong(out.size), ctypes.c_longlong(two[1]), *strides]
    with on_processor.flushing(library, flush):
        on_processor.launch("gausskl_dense", library, blocks, threads, arguments)
    return out.reshape(batch)


def drawn(name_p, name_q, batch=(), d=3, *others, **options):
    return _drawn(name_p, name_q, batch, d, *others, **options)


# ---- as right as promised ----


def check(divergence, cases):
    failed = []
    for name, p, q, limit in cases:
        got = divergence(p, q)
        errors = reference.eps_error(got, reference.kl(p, q), got.dtype)
        if not within(errors, limit) or (got < 0).any():
            failed.append(f"{name}: got {got}, error {errors}, limit {limit}")
    assert not failed, "\n".join(failed)


def by_cov(*covs):
    """The error that covariances may cost, in eps: 16 and the larger condition of their correlations."""
    return 16 + functools.reduce(np.maximum, map(reference.cond_correlation, covs))


@every_size
@every_dtype
def test_scale_tril_within_16_and_the_condition_of_the_row_scaled_factor(divergence, dtype, d):
    check(
        divergence,
        [
            (name, p, q, 16 + reference.cond_row_scaled(q["scale_tril"]))
            for name, p, q in regimes.scale_tril(dtype, d, rows=1)
        ],
    )


@every_size
@every_dtype
def test_cov_within_16_and_the_condition_of_the_correlations(divergence, dtype, d):
    check(divergence, [(name, p, q, by_cov(p["cov"], q["cov"])) for name, p, q in regimes.cov(dtype, d, rows=1)])


def factored(g):
    """The Gaussian of the Cholesky factor, which is a rounding away from that of the covariance."""
    return {"mean": g["mean"], "scale_tril": np.linalg.cholesky(g["cov"])}


@pytest.mark.parametrize("d", [2, 6, 9])
@every_dtype
def test_cov_and_scale_tril_are_no_worse_than_two_covs(divergence, dtype, d):
    near = [c for c in regimes.cov(dtype, d, rows=1) if c[0].startswith("near")]
    limits = [by_cov(p["cov"], q["cov"]) for _, p, q in near]
    check(divergence, [(c[0], factored(c[1]), c[2], limit) for c, limit in zip(near, limits, strict=True)])
    check(divergence, [(c[0], c[1], factored(c[2]), limit) for c, limit in zip(near, limits, strict=True)])


def near_diagonal(dtype, d, keyword, dense):
    """A diagonal side, and dense ones around it, the covariances relative distances apart."""
    rng = np.random.default_rng(d)
    for distance in (1.0, 1e-2, 1e-4, 1e-8, 1e-15):
        std = np.exp(rng.uniform(-3, 3, d)).astype(dtype)
        mean = rng.standard_normal(d).astype(dtype)
        lower = std[:, None] * (np.eye(d) + distance * np.tril(rng.uniform(-0.4, 0.4, (d, d))))
        other = {"scale_tril": lower.astype(dtype)}
        if dense == "cov":
            other = {"cov": symmetric(lower @ lower.T).astype(dtype)}
        moved = (mean + distance * std * rng.standard_normal(d)).astype(dtype)
        yield f"near {distance}", {"mean": moved, **other}, {"mean": mean, keyword: std if keyword == "std" else std**2}


@pytest.mark.parametrize(("dense", "keyword"), [("cov", "std"), ("cov", "var"), ("scale_tril", "std")])
@pytest.mark.parametrize("d", [1, 6])
@every_dtype
def test_a_dense_side_beside_a_diagonal(divergence, dtype, d, dense, keyword):
    cases = []
    for name, p, q in near_diagonal(dtype, d, keyword, dense):
        limit = by_cov(p["cov"]) if dense == "cov" else 16 + reference.cond_row_scaled(p["scale_tril"])
        cases += [(name, p, q, limit), (f"{name}, diagonal first", q, p, limit)]
    check(divergence, cases)


def condition(name, g):
    """What a spread may cost in eps: the condition of its scaled factor, or of its correlations."""
    return 1.0 if name in DIAGONAL else reference.cond_correlation(covariance(g))


def allowed(name_p, name_q, p, q, want):
    """Largest error of each divergence: 16 + the condition, in eps. A spread that is converted costs its rounding."""
    eps, want, names = np.finfo(np.float64).eps, want.astype(float), {name_p, name_q}
    cost = np.maximum(condition(name_p, p), condition(name_q, q))
    if names <= {*FACTORS, "std"}:
        cost = 1.0 if name_q == "std" else reference.cond_row_scaled(np.linalg.cholesky(covariance(q)))
    limit = (16 + cost) * eps * want
    if names & {"log_std", "log_var"} or ("var" in names and names & {*FACTORS}):
        limit += 3 * eps * cost * np.sqrt(p["mean"].shape[-1] * want) + 6 * (eps * cost) ** 2
    return limit


@every_pair
def test_every_pair_of_keywords(divergence, name_p, name_q):
    for distance in (None, 1e-6):
        p, q = drawn(name_p, name_q, (4,), distance=distance)
        want, got = reference.kl(p, q), divergence(p, q)
        errors = abs(want - got).astype(float)
        assert within(errors / allowed(name_p, name_q, p, q, want), 1), errors / want.astype(float)


@pytest.mark.parametrize("d", [3, 9])
@few_pairs
def test_float32_is_rounded_once(divergence, name_p, name_q, d):
    for distance in (None, 1e-3):
        p, q = drawn(name_p, name_q, (4,), d, distance, dtype=np.float32)
        got = divergence(p, q)
        assert got.dtype == np.float32
        assert within(reference.ulp_error(got, reference.kl(p, q), "float32"), 1)


# ---- never negative, exactly 0 ----


@pytest.mark.parametrize("d", [3, 9])
@pytest.mark.parametrize("name", ["cov", *FACTORS])
@every_dtype
def test_never_negative_and_0_for_equal_arguments(divergence, dtype, name, d):
    for order in range(18):
        p, q = drawn(name, name, (31,), d, 10.0**-order, order, dtype)
        got = divergence(p, q)
        assert (got >= 0).all()
        assert (got > 0).all() or order > (12 if dtype is np.float64 else 4)
        assert (divergence(p, p) == 0).all()


def test_one_gaussian_described_in_two_ways_is_0_apart(divergence):
    """Where nothing is rounded in passing from a factor to its covariance."""
    lower = np.tril(np.random.default_rng(0).integers(-9, 10, (3, 3)), -1) + np.diag([1.0, 7, 3000])
    mean, var = np.arange(3.0), np.diag(np.diag(lower) ** 2)
    dense = [{"mean": mean, "cov": lower @ lower.T}, restated(mean, lower @ lower.T, "scale_tril")]
    for p, q in itertools.permutations([*dense, restated(mean, lower @ lower.T, "row")], 2):
        assert divergence(p, q) == 0
    for name, other in itertools.product(("std", "var"), ("cov", "scale_tril")):
        p, q = (rounded(restated(mean, var, k), np.float64) for k in (name, other))
        assert divergence(p, q) == divergence(q, p) == 0


@pytest.mark.parametrize("name", ["cov", *FACTORS])
@every_dtype
def test_without_q_it_is_the_standard_normal(divergence, dtype, name):
    mean, std = np.zeros(3, dtype), np.ones(3, dtype)
    for distance in (None, 1e-3):
        p, _ = drawn(name, "std", (5,), distance=distance, dtype=dtype)
        assert same_bits(divergence(p), divergence(p, {"mean": mean, "std": std}))
    assert divergence(rounded(restated(np.zeros(3), np.eye(3), name), dtype)) == 0


# ---- any batch ----


@few_pairs
def test_what_broadcasts_gives_the_bits_of_copies(divergence, name_p, name_q):
    for batch_p, batch_q in (((7,), ()), ((), (7,)), ((3, 1), (1, 4)), ((3, 4), (4,)), ((1, 4), (3, 1)), ((), ())):
        p, q = drawn(name_p, name_q, batch_p)[0], drawn(name_p, name_q, batch_q, seed=1)[1]
        batch = np.broadcast_shapes(batch_p, batch_q)
        p["mean"] = np.ones(3)
        got = divergence(p, q)
        assert got.shape == batch
        for index in np.ndindex(batch):
            one = [picked(g, own, index) for g, own in ((p, batch_p), (q, batch_q))]
            assert divergence(*one, blocks=1, threads=1) == got[index]


def picked(g, batch, index):
    """The Gaussian at an index of the batch that this one is broadcast to."""
    own = tuple(0 if n == 1 else k for k, n in zip(index[len(index) - len(batch) :], batch, strict=True))
    return {k: a if k == "packing" or (k == "mean" and a.ndim == 1) else a[own] for k, a in g.items()}


@pytest.mark.parametrize("gap", [1, 5])
@few_pairs
def test_rows_may_be_apart(divergence, name_p, name_q, gap):
    """Between two events there is other memory; rows may go backwards."""
    pair = drawn(name_p, name_q, (7,))
    want = divergence(*pair)
    spread_out = [{k: a if k == "packing" else apart(a, gap) for k, a in g.items()} for g in pair]
    assert same_bits(divergence(*spread_out), want)
    assert same_bits(divergence(*(rows(g, slice(None, None, -1)) for g in spread_out)), want[::-1])


def apart(a, gap):
    """A view of the same numbers in larger memory full of NaN."""
    flat = a.reshape(len(a), -1)
    whole = np.full((len(a), flat.shape[1] + gap), np.nan, a.dtype)
    whole[:, : flat.shape[1]] = flat
    strides = (whole.strides[0], *a.strides[1:])
    return np.lib.stride_tricks.as_strided(whole, a.shape, strides)


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
        if name == "cov":
            yield from ((key, (i, j), x) for x in ((0.0, -1.0, -1e-30) if i == j else (0.01, 100.0, -1e30)))
        elif j >= i:
            yield from ((key, (i, j), x) for x in ((0.0, -0.0) if i == j else (1.0, -1e-30, 1e-45)))


@pytest.mark.parametrize(("name_p", "name_q"), [*FEW, ("cov", "log_std"), ("log_var", "tfp")])
@every_dtype
def test_a_bad_number_spoils_its_own_row_alone(divergence, dtype, name_p, name_q):
    """No place is left out. Where the formulas have NaN there is NaN; what is infinite may be infinitely far away."""
    names = name_p, name_q
    for distance in (None, 1e-3):
        cases = [(side, *c) for side in (0, 1) for c in bad_numbers(drawn(*names)[side], names[side])]
        sides = drawn(*names, (2 * len(cases) + 1,), distance=distance, dtype=dtype)
        good = divergence(*sides)
        for k, (side, key, place, number) in enumerate(cases):
            sides[side][key][(2 * k + 1, *place)] = number
        got = divergence(*sides)
        assert same_bits(got[::2], good[::2])
        formulas = gk.kl_divergence(*(gk.Gaussian(**g) for g in sides), path="generic", validate=False)
        for case, value, formula in zip(cases, got[1::2], formulas[1::2], strict=True):
            assert np.isnan(value) or (value == formula == np.inf and np.isinf(case[3])), (case, value, formula)
            assert np.isnan(value) or not np.isnan(formula), case


def test_a_matrix_that_is_not_positive_definite_is_nan(divergence):
    for d, name, side in itertools.product((3, 9), ("cov", "std", "scale_tril"), (0, 1)):
        pair = drawn("cov", name, (5,), d)[:: 1 if side == 0 else -1]
        good = divergence(*pair)
        matrix = np.eye(d)
        matrix[0, d - 1] = matrix[d - 1, 0] = 2  # the last pivot is 1 - 4
        pair[side]["cov"][2] = matrix
        got = divergence(*pair)
        assert np.flatnonzero(np.isnan(got)).tolist() == [2]
        assert same_bits(np.delete(got, 2), np.delete(good, 2))


@pytest.mark.parametrize("d", [3, 9])
@every_dtype
def test_only_rounding_may_make_a_matrix_asymmetric(divergence, dtype, d):
    tolerance = 2.0**-26 if dtype is np.float64 else 2.0**-12
    for distance, side in itertools.product((None, 1e-3), (0, 1)):
        pair = [rounded(g, dtype) for g in drawn("cov", "cov", (5,), d, distance)]
        good, cov = divergence(*pair), pair[side]["cov"]
        size = np.sqrt(cov[3, d - 1, d - 1] * cov[3, 1, 1])
        cov[3, d - 1, 1] += dtype(0.4 * tolerance) * size
        middle = [rounded(g, np.float64) for g in pair]
        middle[side]["cov"] = (middle[side]["cov"] + middle[side]["cov"].mT) / 2
        np.testing.assert_allclose(divergence(*pair), divergence(*middle), rtol=64 * np.finfo(dtype).eps)
        assert divergence(*pair)[3] != good[3]
        cov[3, d - 1, 1] += dtype(2 * tolerance) * size
        got = divergence(*pair)
        assert np.flatnonzero(np.isnan(got)).tolist() == [3]
        assert same_bits(np.delete(got, 3), np.delete(good, 3))


# ---- to the ends of the range ----


def scaled(g, size):
    """The Gaussian of ``size`` times the variable."""
    power = {"mean": 1, "std": 1, "scale_tril": 1, "packed_tril": 1, "var": 2, "cov": 2}
    return {k: a if k == "packing" else a * np.float64(size) ** power[k] for k, a in g.items()}


@few_pairs
def test_extreme_scales(divergence, name_p, name_q):
    """Entries up to 1e±300, p and q up to 1e300 apart: the divergence is right, and inf where it overflows."""
    for size_p, size_q in itertools.product((1e-150, 1e-50, 1.0, 1e75, 1e150), repeat=2):
        p, q = drawn(name_p, name_q, (2,), distance=1e-3 if size_p == size_q else None)
        p, q = scaled(p, size_p), scaled(q, size_q)
        errors = reference.eps_error(divergence(p, q), reference.kl(p, q), "float64")
        assert within(errors, 64), (size_p, size_q, errors)


@pytest.mark.parametrize(("name_p", "name_q"), [("std", "scale_tril"), ("scale_tril", "scale_tril"), ("row", "std")])
def test_factors_whose_ratio_is_out_of_range(divergence, name_p, name_q):
    for size_p, size_q in itertools.permutations((1e-318, 1e-300, 1e-10, 3e307), 2):
        p, q = (scaled(g, size) for g, size in zip(drawn(name_p, name_q, (2,)), (size_p, size_q), strict=True))
        assert within(reference.eps_error(divergence(p, q), reference.kl(p, q), "float64"), 64)


@few_pairs
def test_numbers_below_the_normal_range(divergence, name_p, name_q):
    size = 1e-155 if {name_p, name_q} & {"cov", "var"} else 1e-310
    for size_p, size_q in ((size, size), (size, 1.0)):
        p, q = (scaled(g, x) for g, x in zip(drawn(name_p, name_q, (3,)), (size_p, size_q), strict=True))
        assert within(reference.eps_error(divergence(p, q), reference.kl(p, q), "float64"), 64)


@few_pairs
def test_numbers_below_the_normal_range_of_float32(divergence, name_p, name_q):
    """Also where they count as 0 in float32, which is how CuPy compiles."""
    size = 1e-20 if {name_p, name_q} & {"cov", "var"} else 1e-40
    sides = [scaled(g, size) for g in drawn(name_p, name_q, (3,))]
    p, q = ({k: a if k == "packing" else a.astype(np.float32) for k, a in g.items()} for g in sides)
    for flush in (False, True):
        errors = reference.ulp_error(divergence(p, q, flush=flush), reference.kl(p, q), "float32")
        assert within(errors, 1), flush


@pytest.mark.parametrize("name_q", ["cov", "scale_tril"])
@pytest.mark.parametrize("keyword", ["log_std", "log_var"])
@every_dtype
def test_exponentials_beyond_the_range_of_float32(divergence, dtype, keyword, name_q):
    for log_std in (-300.0, -700.0):
        p, q = drawn(keyword, name_q, (2,), dtype=dtype)
        q = rounded(scaled(q, 1e15), dtype)
        p[keyword] += dtype(log_std * (2 if keyword == "log_var" else 1))
        assert within(reference.eps_error(divergence(p, q), reference.kl(p, q), dtype), 16)
        assert (divergence(q, p) == np.inf).all() or log_std == -300


@few_pairs
def test_coordinates_of_very_different_scales(divergence, name_p, name_q):
    """The powers of two of the coordinates change no bit, down to numbers that are smaller than any normal one."""
    for distance, size_p, size_q in ((None, 1, 1), (1e-3, 1, 1), (None, 2.0**-300, 1)):
        pair = [
            scaled(g, size) for g, size in zip(drawn(name_p, name_q, (2,), 3, distance), (size_p, size_q), strict=True)
        ]
        want = divergence(*pair)
        for exponents in ([0, 200, -180], [-150, 100, 90]):
            units = 2.0 ** np.array(exponents)
            got = divergence(*(in_units(g, units) for g in pair))
            assert same_bits(got, want)


def in_units(g, units):
    """The same Gaussian with its coordinates in other units."""
    name, packing = _spread(g)
    i = np.arange(len(units)) if packing is None else reference.packed_positions(len(units), packing)[0]
    of = {"std": units, "var": units**2, "scale_tril": units[:, None], "packed_tril": units[i]}
    factor = units[:, None] * units if name == "cov" else of[name]
    return {"mean": g["mean"] * units, name: g[name] * factor, **({"packing": packing} if packing else {})}


# ---- what there is ----


def test_it_says_what_it_does_not_serve():
    cov = ("cov", None)
    for spreads, d in (
        ((("std", None), ("var", None)), 3),
        ((("std", None),), 3),
        ((cov, ("precision", None)), 3),
        ((cov, ("low_rank", None)), 3),
        ((cov, cov), 17),
    ):
        with pytest.raises(ValueError, match="there is no kernel for"):
            cuda_dense.source(spreads, 64, d)


@pytest.mark.parametrize(("bits", "d", "pairs"), [(64, 2, PAIRS), (32, 3, PAIRS), (64, 16, FEW)])
def test_cuda_compiles_it(bits, d, pairs):
    pytest.importorskip("cupy")
    from cupy.cuda import nvrtc

    alone = [(k,) for k in ("cov", *FACTORS)]
    for names in (*pairs, *alone):
        spreads = tuple(("packed_tril", k) if k in ("row", "tfp") else (k, None) for k in names)
        program = nvrtc.createProgram(cuda_dense.source(spreads, bits, d), "kernel.cu", [], [])
        try:
            nvrtc.compileProgram(program, ["--gpu-architecture=compute_80", "--fmad=false"])
            assert b".entry gausskl_dense(" in nvrtc.getPTX(program)
        finally:
            nvrtc.destroyProgram(program)
