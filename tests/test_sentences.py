"""Every error is a sentence: what came, what was expected, where, and what to do."""

import re
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from spreads import KEYWORDS, covariance, example, gaussian, restated

import gausskl as gk
import reference
from helpers import make, to_numpy
from reference import packed_positions

MEAN = np.zeros(3)
ONES = np.ones(3)
EYE = np.eye(3)


def sentence(text):
    """Match a message that starts with ``text``; "..." stands for anything."""
    return "^" + ".*".join(map(re.escape, text.split("...")))


def refused(error, text, *args, **kwargs):
    with pytest.raises(error, match=sentence(text)):
        gk.Gaussian(*args, **kwargs)


# ---- which keywords go together ----


def test_a_spread_is_needed():
    refused(TypeError, "a Gaussian takes exactly one description of its spread, and none came: give std,", MEAN)


def test_one_spread_is_enough():
    text = "a Gaussian takes exactly one description of its spread, and std and cov came: give std, var, log_std"
    refused(TypeError, text, MEAN, std=ONES, cov=EYE)
    text = "a Gaussian takes exactly one description of its spread, and var and cov_diag came"
    refused(TypeError, text, MEAN, var=ONES, cov_diag=ONES)


@pytest.mark.parametrize("name", ["std", "var", "log_std", "log_var", "cov", "scale_tril", "packed_tril"])
def test_the_sentence_about_spreads_lists_them(name):
    refused(TypeError, f"...give ...{name}", MEAN)


def test_packed_tril_needs_packing():
    refused(TypeError, 'packed_tril needs packing="row" or packing="tfp"', MEAN, packed_tril=np.ones(6))


def test_packing_must_be_known():
    text = 'packed_tril needs packing="row" or packing="tfp", not packing=\'column\''
    refused(ValueError, text, MEAN, packed_tril=np.ones(6), packing="column")


def test_packing_belongs_to_packed_tril():
    refused(TypeError, "packing='row' says how packed_tril is packed; std takes no", MEAN, std=ONES, packing="row")


def test_a_low_rank_pair_is_a_pair():
    refused(TypeError, "cov_factor needs cov_diag: the covariance is cov_factor @", MEAN, cov_factor=EYE)
    refused(TypeError, "cov_diag needs cov_factor: the covariance is cov_factor @", MEAN, cov_diag=ONES)


# ---- shapes ----


def test_a_scalar_mean_has_no_dimensions(xp):
    with pytest.raises(ValueError, match=sentence("mean is a single number...write [m]...mean[..., None]")):
        gk.Gaussian(make(xp, 0.0), std=1.0)


def test_no_dimensions(xp):
    with pytest.raises(ValueError, match=sentence("mean has shape (2, 0): a Gaussian needs at least one")):
        gaussian(xp, {"mean": np.zeros((2, 0)), "std": np.ones((2, 0))})


def test_dimensions_do_not_broadcast(xp):
    p, q = example("std", (4,), 3), example("std", (4,), 1)
    text = (
        "p has 3 dimensions (mean of shape (4, 3)) and q has 1 (mean of shape (4, 1)): "
        "the axis of dimensions does not broadcast"
    )
    with pytest.raises(ValueError, match=sentence(text)):
        gk.kl_divergence(gaussian(xp, p), gaussian(xp, q))


def test_batches_of_p_and_q_must_broadcast(xp):
    p, q = gaussian(xp, example("std", (4,))), gaussian(xp, example("cov", (5,)))
    text = (
        "the batch of p has shape (4,) and the batch of q (5,): they do not broadcast; to compare all with all, "
        "give p the batch shape (4, 1): mean[..., None, :], std[..., None, :]"
    )
    with pytest.raises(ValueError, match=sentence(text)):
        gk.kl_divergence(p, q)


def test_batches_of_mean_and_spread_must_broadcast(xp):
    arrays = {"mean": np.zeros((4, 3)), "std": np.ones((5, 3))}
    with pytest.raises(ValueError, match=sentence("the batch axes of mean (4, 3), std (5, 3) do not")):
        gaussian(xp, arrays)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("std", (2,), "be broadcastable to (..., 3)"),
        ("std", (4, 2), "be broadcastable to (..., 3)"),
        ("std", (3, 3), None),  # a batch of three, not a matrix: refused only where it cannot be one
        ("log_var", (2,), "be broadcastable to (..., 3)"),
        ("cov", (3,), "have shape (..., 3, 3); variances alone are given as var="),
        ("cov", (), "have shape (..., 3, 3)"),
        ("cov", (2, 2), "have shape (..., 3, 3)"),
        ("cov", (1, 1), "have shape (..., 3, 3)"),
        ("precision", (3,), "have shape (..., 3, 3); precisions alone, one for each dimension, are given as var=1 / p"),
        ("scale_tril", (6,), "have shape (..., 3, 3); a packed vector is given as packed_tril="),
        ("packed_tril", (5,), "have shape (..., 6)"),
        ("packed_tril", (3, 3), "have shape (..., 6)"),
        ("packed_tril", (1,), "have shape (..., 6)"),
        ("cov_factor", (2, 3), "have shape (..., 3, r); if it is the transpose, pass cov_factor.mT"),
        ("cov_factor", (3,), "have shape (..., 3, "),
        ("cov_factor", (), "have shape (..., 3, "),
        ("cov_diag", (2,), "be broadcastable to (..., 3)"),
    ],
)
def test_shapes_of_spreads(xp, name, shape, wanted):
    arrays = {"mean": np.zeros(3), name: np.ones(shape)}
    if name.startswith("cov_"):
        arrays = {"mean": np.zeros(3), "cov_factor": np.ones((3, 2)), "cov_diag": np.ones(3)} | arrays
    if name == "packed_tril":
        arrays["packing"] = "row"
    if wanted is None:
        assert gaussian(xp, arrays).batch_shape == (3,)
        return
    text = f"{name} has shape {shape}, but mean has shape (3,): with 3 dimensions {name} must {wanted}"
    with pytest.raises(ValueError, match=sentence(text)):
        gaussian(xp, arrays)


def test_a_matrix_for_std_is_pointed_to_cov():
    text = "the batch axes of mean (2, 3), std (3, 3) do not broadcast; a covariance matrix is given as cov="
    with pytest.raises(ValueError, match=sentence(text)):
        gk.Gaussian(np.zeros((2, 3)), std=EYE)


@pytest.mark.parametrize("axis", [0, 1])
def test_unknown_chunks(axis):
    da = pytest.importorskip("dask.array")
    mean = da.ones((4, 4), chunks=2)
    mean = mean[mean[:, 0] > 0] if axis == 0 else mean[:, mean[0] > 0]
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        gk.kl_divergence(gk.Gaussian(mean, std=1.0))


# ---- what is not an array of real numbers, or not of one kind ----


def test_two_libraries():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3)
    refused(TypeError, "mean is an array of numpy and std one of torch: all arrays of a call", MEAN, std=tensor)
    p, q = gk.Gaussian(MEAN, std=ONES), gk.Gaussian(tensor, std=1.0)
    text = "the mean of p is an array of numpy and the mean of q one of torch: ...convert one of them"
    with pytest.raises(TypeError, match=sentence(text)):
        gk.kl_divergence(p, q)


def test_two_devices():
    torch = pytest.importorskip("torch")
    here, there = torch.zeros(3), torch.ones(3, device="meta")
    refused(ValueError, "mean is on cpu and std on meta: all arrays of a call must be on one", here, std=there)
    p, q = gk.Gaussian(here, std=1.0), gk.Gaussian(there, std=1.0)
    with pytest.raises(ValueError, match=sentence("the mean of p is on cpu and the mean of q on meta: ...move")):
        gk.kl_divergence(p, q)


class Frame:
    """Looks like a data frame."""

    def to_numpy(self):
        return ONES


def old_matrix():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix([[1.0, 1.0, 1.0]])


class Nowhere:
    """Of no module."""

    __module__ = None


UNSUITABLE = {
    "complex": (lambda: ONES + 0j, "dtype complex128: expected real numbers; take .real"),
    "object": (lambda: ONES.astype(object), "dtype object: expected real numbers; convert it with numpy.asarray("),
    "structured": (lambda: np.zeros(3, dtype=[("a", float)]), "expected real numbers; convert it to float"),
    "bool": (lambda: ONES > 0, "dtype bool: expected real numbers; convert it with numpy.asarray("),
    "str": (lambda: np.array(["1", "2", "3"]), "expected real numbers; convert it to float"),
    "datetime": (lambda: np.zeros(3, dtype="M8[s]"), "expected real numbers; convert it to float"),
    "masked": (lambda: np.ma.masked_array(ONES), "a masked array: leave out, in all arrays, what has"),
    "matrix": (old_matrix, "a numpy.matrix, which has no batch axes: convert it with numpy.asarray"),
    "frame": (Frame, "a test_sentences.Frame: expected an array of real numbers...; convert it with .to_numpy()"),
    "generator": (lambda: iter(ONES), "expected an array of real numbers, a number or a list"),
    "string": (lambda: "1", "a str: expected an array of real numbers, a number or a list"),
    "dict": (lambda: {0: 1.0}, "a dict: expected an array of real numbers, a number or a list"),
    "complex number": (lambda: 1j, "expected ...real numbers"),
    "list of complex": (lambda: [1j, 1j, 1j], "dtype complex128: expected real numbers; take .real"),
    "ragged list": (lambda: [[1.0], [1.0, 2.0]], "a list that does not make an array"),
    "list of None": (lambda: [None, None, None], "a list that holds a NoneType: expected real numbers"),
    "list of str": (lambda: ["1", "2", "3"], "a list that holds a str: expected real numbers"),
    "list of masked": (lambda: [np.ma.masked_array(ONES)] * 3, "a list that holds a masked array: leave out"),
    "tuple of masked": (lambda: (np.ma.masked_array(ONES),), "a tuple that holds a masked array: leave out"),
    "nested masked": (lambda: [ONES, [1.0, (np.ma.masked, 1.0)]], "a list that holds a masked array: leave out, in"),
    "list of matrix": (lambda: [old_matrix()], "a list that holds a numpy.matrix: convert it with numpy.asarray"),
    "list of Gaussian": (lambda: [gk.Gaussian(MEAN, std=ONES)], "a list that holds a gausskl.gaussian.Gaussian: expec"),
    "fraction": (lambda: Fraction(1, 2), "a fractions.Fraction: expected ...; convert it with float(...)"),
    "decimal": (lambda: Decimal(1), "a decimal.Decimal: expected ...; convert it with float(...)"),
    "list of fraction": (lambda: [Fraction(1)] * 3, "a list that holds a fractions.Fraction: ...convert it with"),
    "list of decimal": (lambda: [[Decimal(1)] * 3], "a list that holds a decimal.Decimal: ...convert it with"),
    "of nowhere": (lambda: Nowhere(), "a None.Nowhere: expected an array of real numbers, a number or a list"),
    "list of nowhere": (lambda: [Nowhere()] * 3, "a list that holds a None.Nowhere: expected real numbers"),
    "bool number": (lambda: True, "dtype bool: expected real numbers"),
}  # fmt: skip
if np.finfo(np.longdouble).bits > 64:  # elsewhere it is float64 by another name
    UNSUITABLE["longdouble"] = (lambda: ONES.astype(np.longdouble), "dtype ...convert it with .astype('float64')")


@pytest.mark.parametrize("kind", UNSUITABLE)
@pytest.mark.parametrize("name", ["mean", "std"])
def test_unsuitable_arrays(kind, name):
    value, text = UNSUITABLE[kind]
    with pytest.raises(TypeError, match=sentence(f"{name} ...{text}")):
        gk.Gaussian(**({"mean": MEAN, "std": ONES} | {name: value()}))


def test_unsuitable_arrays_of_other_libraries(xp):
    for dtype, hint in [("complex64", "take "), ("bool", "convert it ")]:
        if not hasattr(xp, dtype):
            continue
        mean = xp.astype(make(xp, ONES), getattr(xp, dtype))
        with pytest.raises(TypeError, match=sentence(f"mean has dtype {dtype}: expected real numbers; {hint}")):
            gk.Gaussian(mean, std=1.0)


@pytest.mark.parametrize(
    ("module", "stack"),
    [("torch", "torch.stack"), ("jax.numpy", "jax.numpy.stack"), ("dask.array", "dask.array.stack")],
)
def test_lists_of_arrays(module, stack):
    """NumPy would read them one by one, and lose what they are: the library, the gradient, the device."""
    xp = pytest.importorskip(module)
    more = [xp.ones(3, requires_grad=True), xp.nn.Parameter(xp.ones(3))] if module == "torch" else [xp.ones(())]
    for item in (xp.ones(3), *more):
        for items in ([item, item], [ONES, [1.0, item]], (item,)):
            kind = type(items).__name__
            text = f" is a {kind} that holds a ...: expected real numbers; make one array of them with {stack}"
            refused(TypeError, f"std{text}", MEAN, std=items)
            refused(TypeError, f"mean{text}", items, std=1.0)


def test_lists_of_arrays_of_numpy():
    assert gk.Gaussian([MEAN, ONES], std=(ONES, [1.0, np.float32(1), 1])).batch_shape == (2,)


@pytest.mark.parametrize("value", [10**400, -(10**400), [10**400] * 3, [[1.0, 2, 10**400]], (1.5, 1.5, 10**5000)])
def test_integers_beyond_every_float(xp, value):
    text = " holds an integer beyond the range of float64, which ends at 1.8e308"
    for name in ("std", "var", "log_std", "log_var", "cov_diag"):
        more = {"cov_factor": make(xp, np.ones((3, 1)))} if name == "cov_diag" else {}
        refused(ValueError, name + text, make(xp, MEAN), **more, **{name: value})
    refused(ValueError, "mean" + text, value, std=make(xp, ONES))
    for name in ("cov", "scale_tril", "precision"):
        refused(ValueError, name + text, make(xp, MEAN), **{name: [[10**400] * 3] * 3})


def test_numbers_beyond_the_dtype_beside_them(xp):
    mean = make(xp, MEAN, "float32")
    for value in (1e39, -1e39, 2**130, [1.0, 1e39, 1.0]):
        with pytest.raises(ValueError, match=r"^std holds \S+, which is beyond the range of float32$"):
            gk.Gaussian(mean, std=value)
    assert to_numpy(gk.Gaussian(mean, std=float("inf")).arrays[0]) == np.inf


def test_integers_of_more_than_64_bits():
    for value in (2**70, [2**70] * 3):
        assert np.all(gk.Gaussian(MEAN, std=value).arrays[0] == 2.0**70)


def test_sparse_tensors():
    torch = pytest.importorskip("torch")
    sparse = torch.eye(3).to_sparse()
    refused(TypeError, "cov is a torch.sparse_coo tensor: convert it with .to_dense()", torch.zeros(3), cov=sparse)


# ---- options ----

P = gk.Gaussian(MEAN, std=ONES)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"reduction": "avg"}, "reduction='avg' is not known: give one of 'none', 'sum', 'mean'"),
        ({"reduction": None}, "reduction=None is not known: give one of 'none', 'sum', 'mean'"),
        ({"path": "fast"}, "path='fast' is not known: give one of 'auto', 'generic'"),
        ({"validate": "no"}, "validate='no' is not known: give one of None, True, False"),
        ({"validate": 1}, "validate=1 is not known: give one of None, True, False"),
    ],
)
def test_unknown_options(option, text):
    with pytest.raises(ValueError, match=sentence(text)):
        gk.kl_divergence(P, P, **option)


@pytest.mark.parametrize("name", [n for n in KEYWORDS if n not in ("std", "var", "log_std", "log_var")])
def test_per_dim_needs_diagonal_pairs(name):
    dense = gaussian(np, example(name))
    structure = "low rank" if name == "low rank" else "dense"
    for call in (gk.kl_divergence, gk.plan):
        text = f"per_dim=True needs two diagonal Gaussians, but p is {structure} ({dense.keyword}) and q diagonal (std)"
        with pytest.raises(ValueError, match=sentence(text)):
            call(dense, P, per_dim=True)
        text = f"per_dim=True needs two diagonal Gaussians, but p is diagonal (std) and q {structure} ({dense.keyword})"
        with pytest.raises(ValueError, match=sentence(text)):
            call(P, dense, per_dim=True)


@pytest.mark.parametrize("call", [gk.kl_divergence, gk.plan])
def test_only_gaussians(call):
    with pytest.raises(TypeError, match=sentence("p is a ndarray: expected a gausskl.Gaussian, such as")):
        call(MEAN, P)
    with pytest.raises(TypeError, match=sentence("q is a tuple: expected a gausskl.Gaussian, such as")):
        call(P, (MEAN, ONES))
    with pytest.raises(TypeError, match=sentence("p is a NoneType: expected a gausskl.Gaussian")):
        call(None, P)


# ---- bad values: the side, the keyword, the index, the value and a hint ----

NAN, INF = float("nan"), float("inf")


def bad_values():
    """Yield the name of a spread, which array of it, where, the bad value and the sentence about it."""
    for name in ("std", "var"):
        noun = "std" if name == "std" else "variance"
        for value in (0.0, -1.5):
            hint = "a ReLU output can be 0, softplus" if value == 0 else f"if these are logarithms, pass log_{name}="
            yield name, name, (1, 2), value, f"[1, 2] = {value}: a {noun} must be > 0; {hint}"
        for value in (NAN, INF, -INF):
            yield name, name, (1, 2), value, f"[1, 2] = {value}: a {name} must be finite"
    for name in ("log_std", "log_var"):
        for value in (NAN, INF, -INF):
            yield name, name, (1, 2), value, f"[1, 2] = {value}: a logarithm must be finite"
    for name in KEYWORDS:
        for value in (NAN, INF, -INF):
            yield name, "mean", (1, 2), value, f"[1, 2] = {value}: a mean must be finite"
    for name in ("cov", "precision"):
        for value in (NAN, INF):
            yield name, name, (1, 2, 0), value, f"[1, 2, 0] = {value}: a {name} must be finite"
            yield name, name, (1, 2, 2), value, f"[1, 2, 2] = {value}: a {name} must be finite"
        yield name, name, (1, 2, 0), 0.7, "[1, 0, 2] = ...[1, 2, 0] = 0.7: ...must be symmetric"
        yield name, name, (1, 0, 0), 0.0, "[1] has pivot 0 = 0.0: the matrix is not positive definite"
        yield name, name, (1, 0, 0), -2.0, "[1] has pivot 0 = -2.0: the matrix is not positive definite"
    for value in (NAN, INF):
        yield "scale_tril", "scale_tril", (1, 2, 0), value, f"[1, 2, 0] = {value}: a scale_tril must be finite"
        yield "scale_tril", "scale_tril", (1, 2, 2), value, f"[1, 2, 2] = {value}: a scale_tril must be finite"
    yield (
        "scale_tril",
        "scale_tril",
        (1, 2, 2),
        0.0,
        "[1, 2, 2] = 0.0: a 0 on the diagonal makes the covariance singular",
    )
    yield "scale_tril", "scale_tril", (1, 0, 2), 0.5, "[1, 0, 2] = 0.5: nothing may stand above the diagonal"
    for name in ("row", "tfp"):
        row, column = packed_positions(3, name)
        for entry in np.flatnonzero(row == column):
            text = f"[1, {entry}] = 0.0: this entry is on the diagonal of the factor, where a 0 makes"
            yield name, "packed_tril", (1, int(entry)), 0.0, text
        for value in (NAN, INF):
            yield name, "packed_tril", (1, 4), value, f"[1, 4] = {value}: a packed_tril must be finite"
    for value in (0.0, -0.01, NAN, INF):
        hint = (
            "the diagonal added to a covariance of low rank must be > 0" if value <= 0 else "a cov_diag must be finite"
        )
        yield "low rank", "cov_diag", (1, 2), value, f"[1, 2] = {value}: {hint}"
    for value in (NAN, INF):
        yield "low rank", "cov_factor", (1, 2, 0), value, f"[1, 2, 0] = {value}: a cov_factor must be finite"


BAD = {f"{name}, {key}{list(index)} = {value}": (name, key, index, value, text)
       for name, key, index, value, text in bad_values()}  # fmt: skip


def bad_example(case):
    name, key, index, value, text = BAD[case]
    arrays = example(name, (2,))
    arrays[key][index] = value
    return arrays, f"{key}{text}"


@pytest.mark.skip_xp_backend("dask", reason="lazy: nothing is looked at")
@pytest.mark.parametrize("side", ["p", "q"])
@pytest.mark.parametrize("case", BAD)
def test_bad_values(xp, case, side):
    arrays, text = bad_example(case)
    bad, good = gaussian(xp, arrays), gaussian(xp, example(BAD[case][0], (2,), seed=1))
    with pytest.raises(ValueError, match=sentence(f"{side}: {text}")):
        gk.kl_divergence(*((bad, good) if side == "p" else (good, bad)))


def near(case, name):
    """Return the Gaussian that was meant, under another keyword: near enough for a plausible divergence."""
    key, index, value = BAD[case][1:4]
    meant = example(BAD[case][0], (2,))
    meant[key][index] = abs(value) if np.isfinite(value) and value < 0 else meant[key][index]
    return restated(meant["mean"], covariance(meant), name)


@pytest.mark.parametrize("side", ["p", "q"])
@pytest.mark.parametrize("other", KEYWORDS)
@pytest.mark.parametrize("case", BAD)
def test_bad_values_against_every_structure(case, side, other):
    arrays, text = bad_example(case)
    bad = gaussian(np, arrays)
    for good in (gaussian(np, near(case, other)), gaussian(np, example(other, (2,), seed=1))):
        with pytest.raises(ValueError, match=sentence(f"{side}: {text}")):
            gk.kl_divergence(*((bad, good) if side == "p" else (good, bad)))


@pytest.mark.parametrize("case", BAD)
def test_bad_values_against_the_standard_normal(case):
    arrays, text = bad_example(case)
    with pytest.raises(ValueError, match=sentence(f"p: {text}")):
        gk.kl_divergence(gaussian(np, arrays))


def test_the_first_bad_value_is_named_p_before_q():
    mean, std = np.zeros((2, 3)), np.ones((2, 3))
    bad = gk.Gaussian(mean, std=np.where(np.arange(6).reshape(2, 3) < 4, std, -1.0))
    with pytest.raises(ValueError, match=sentence("p: std[1, 1] = -1.0")):
        gk.kl_divergence(bad, gk.Gaussian(mean, std=0.0))


def test_a_bad_number_has_no_index(xp):
    if "dask" in xp.__name__:
        return
    with pytest.raises(ValueError, match=sentence("q: std = 0.0: a std must be > 0")):
        gk.kl_divergence(gaussian(xp, example("std")), gk.Gaussian(make(xp, MEAN), std=0.0))


def test_asymmetric_matrices_name_both_entries():
    cov = np.stack([EYE, EYE, EYE])
    cov[1, 0, 2] = 0.5
    with pytest.raises(ValueError, match=sentence("p: cov[1, 0, 2] = 0.5 but cov[1, 2, 0] = 0.0: a cov must be symm")):
        gk.kl_divergence(gk.Gaussian(MEAN, cov=cov))


def test_indefinite_matrices_name_the_pivot():
    cov = np.stack([np.eye(4)] * 6).reshape(2, 3, 4, 4)
    cov[1, 2, 0, 2] = cov[1, 2, 2, 0] = 2.0
    p = gk.Gaussian(np.zeros(4), cov=cov)
    with pytest.raises(ValueError, match=sentence("p: cov[1, 2] has pivot 2 = -3.0: the matrix is not positive def")):
        gk.kl_divergence(p)
    single = gk.Gaussian(np.zeros(4), cov=cov[1, 2])
    with pytest.raises(ValueError, match=sentence("p: cov has pivot 2 = -3.0: ...add a small multiple")):
        gk.kl_divergence(single)


@pytest.mark.parametrize("row", [0, 62, 63, 64, 129])
def test_bad_matrices_are_found_wherever_they_stand_in_the_batch(row):
    cov = np.tile(EYE, (2, 130, 1, 1))
    cov[1, row, 0, 2] = 0.5
    with pytest.raises(ValueError, match=sentence(f"p: cov[1, {row}, 0, 2] = 0.5 but cov[1, {row}, 2, 0] = 0.0: ")):
        gk.kl_divergence(gk.Gaussian(MEAN, cov=cov))
    cov[1, row, 0, 2] = 0.0
    cov[1, row, 1, 1] = -0.5
    with pytest.raises(ValueError, match=sentence(f"p: cov[1, {row}] has pivot 1 = -0.5: ")):
        gk.kl_divergence(gk.Gaussian(MEAN, cov=cov))


@pytest.mark.skip_xp_backend("dask", reason="lazy: nothing is looked at")
@pytest.mark.parametrize(
    ("name", "key", "index", "value", "text"),
    [
        ("std", "std", (4711, 1), 0.0, "std[4711, 1] = 0.0"),
        ("log_var", "log_var", (4711, 1), NAN, "log_var[4711, 1] = nan"),
        ("cov", "cov", (4711, 0, 0), -3.0, "cov[4711] has pivot 0 = -3.0"),
        ("scale_tril", "scale_tril", (4711, 1, 1), 0.0, "scale_tril[4711, 1, 1] = 0.0"),
        ("low rank", "cov_diag", (4711, 1), -1.0, "cov_diag[4711, 1] = -1.0"),
    ],
)
def test_one_in_ten_thousand(xp, name, key, index, value, text):
    arrays = example(name, (10_000,), d=2)
    arrays[key][index] = value
    with pytest.raises(ValueError, match=sentence(f"p: {text}")):
        gk.kl_divergence(gaussian(xp, arrays))


@pytest.mark.parametrize("cov", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0 + 2.0**-60]]])
def test_singular_matrices_are_not_positive_definite(cov):
    with pytest.raises(ValueError, match=sentence("p: cov has pivot 1 = 0.0: the matrix is not positive definite")):
        gk.kl_divergence(gk.Gaussian([0.0, 0.0], cov=cov))


def twice(seed):
    """A covariance of which one feature is twice another."""
    samples = np.random.default_rng(seed).normal(size=(200, 3))
    return np.cov(np.c_[samples, 2 * samples[:, 0]].T)


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("keyword", ["cov", "precision"])
def test_a_feature_that_is_twice_another_is_refused(keyword, path):
    """Rounding decides the sign of the last pivot, and has nothing to say about the divergence."""
    standard = gk.Gaussian(np.zeros(4), std=1.0)
    for seed in range(60):
        g = gk.Gaussian(np.zeros(4), **{keyword: twice(seed)})
        text = f"{keyword} has pivot ...: the matrix is not positive definite as far as float64 can tell"
        with pytest.raises(ValueError, match=sentence(f"p: {text}")):
            gk.kl_divergence(g, standard, path=path)
        with pytest.raises(ValueError, match=sentence(f"q: {text}")):
            gk.kl_divergence(standard, g, path=path)


def test_a_feature_that_is_twice_another_is_nan_where_nothing_is_read(xp):
    covs = np.stack([np.eye(4), *map(twice, range(40))])
    for keyword in ("cov", "precision"):
        g, standard = ({"mean": np.zeros(4), **spread} for spread in ({keyword: covs}, {"std": np.ones(4)}))
        for pair in ((g, standard), (standard, g), (g, {"mean": np.zeros(4), "scale_tril": np.eye(4)})):
            got = to_numpy(gk.kl_divergence(*(gaussian(xp, side) for side in pair), validate=False))
            assert np.isnan(got).tolist() == [False] + 40 * [True]


def test_precise_refuses_what_is_singular_to_its_precision():
    pytest.importorskip("numba")
    for seed in range(60):
        with pytest.raises(ValueError, match=sentence("p: cov has pivot 3 = ...as far as pairs of float64 can tell")):
            gk.kl_divergence(gk.Gaussian(np.zeros(4), cov=twice(seed)), precise=True)


def test_a_pivot_of_one_rounding():
    cov = [[0.46, 1.7437316307276187], [1.7437316307276187, 6.61]]  # indefinite by one rounding
    with pytest.raises(ValueError, match=sentence("p: cov has pivot 1 = ...: the matrix is not positive definite")):
        gk.kl_divergence(gk.Gaussian([0.0, 0.0], cov=cov))


def test_no_indefinite_matrix_of_float32_gives_a_number():
    """A pivot that only the rounding of the rows before has made positive is none."""
    torch = pytest.importorskip("torch")
    count = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        scale = np.exp(3 * rng.uniform(-1, 1, 3))
        cov = (basis * np.geomspace(1, 1e-9, 3)) @ basis.T
        cov = (cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov))) * np.outer(scale, scale)).astype(np.float32)
        cov = np.tril(cov) + np.tril(cov, -1).T
        g = gk.Gaussian(torch.zeros(3), cov=torch.tensor(cov))
        if np.linalg.eigvalsh(cov.astype(float)).min() <= -1e-15:
            count += 1
            assert gk.kl_divergence(g, path="generic", validate=False).isnan()
    assert count > 50


@pytest.mark.parametrize("path", ["auto", "generic"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("keyword", ["cov", "precision"])
def test_singular_matrices_of_integers_are_refused(keyword, dtype, path):
    """The last pivot is 0, and what rounding leaves of it is larger than one rounding of the variance."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        d = int(rng.integers(2, 7))
        root = rng.integers(-3, 4, (d, d - 1)) + np.eye(d, d - 1, dtype=int) * 4
        matrix = np.vstack([root[:-1], rng.integers(1, 3, d - 1)]).astype(dtype)
        matrix = matrix @ matrix.T
        g, standard = (gk.Gaussian(np.zeros(d, dtype), **spread) for spread in ({keyword: matrix}, {"std": 1.0}))
        for pair in ((g, standard), (standard, g)):
            with pytest.raises(ValueError, match=r"^(p|q): (cov|precision) has pivot|^the divergence"):
                gk.kl_divergence(*pair, path=path)


def test_columns_that_are_singular_to_working_precision():
    g = gk.Gaussian(np.zeros(2), cov_factor=np.ones((2, 2)), cov_diag=np.full(2, 1e-20))
    text = "q: cov_factor @ cov_factor.mT + diag(cov_diag) has pivot 1 = 0.0: ...add to cov_diag yourself"
    with pytest.raises(ValueError, match=sentence(text)):
        gk.kl_divergence(gk.Gaussian(np.zeros(2), std=1.0), g)


def test_out_of_reach_of_the_dtype():
    """The last pivots are positive, but no larger than what rounding leaves in float32."""
    torch = pytest.importorskip("torch")
    a, b = np.random.default_rng(0).uniform(1, 2, (2, 50)).astype(np.float32)
    c = np.nextafter((b.astype(float) ** 2 / a).astype(np.float32), np.float32(9))
    cov = torch.asarray(np.stack([a, b, b, c], axis=-1).reshape(50, 2, 2))
    text = "p: cov[0] has pivot 1 = ...: the matrix is not positive definite as far as float32 can tell...give float64"
    with pytest.raises(ValueError, match=sentence(text)):
        gk.kl_divergence(gk.Gaussian(torch.zeros(2), cov=cov), path="generic")
    assert gk.kl_divergence(gk.Gaussian(torch.zeros(2), cov=cov), path="generic", validate=False).isnan().all()
    exact = reference.kl({"mean": np.zeros(2), "cov": cov.numpy()}).astype(float)
    p = gk.Gaussian(torch.zeros(2, dtype=torch.float64), cov=cov.double())
    np.testing.assert_allclose(gk.kl_divergence(p), exact, rtol=1e-8)


def test_a_matrix_that_only_rounding_spoils_is_not_called_indefinite():
    """Exactly positive definite, and out of reach of float64: no positive pivot may be called bad."""
    a, b = np.random.default_rng(0).uniform(1, 2, (2, 50))
    cov = np.stack([a, b, b, np.nextafter(b**2 / a, 9)], axis=-1).reshape(50, 2, 2)
    with pytest.raises(ValueError, match=r"^p: cov|^the divergence") as caught:
        gk.kl_divergence(gk.Gaussian(np.zeros(2), cov=cov))
    assert not re.search(r"pivot 1 = \d", str(caught.value)) or "not positive definite;" not in str(caught.value)


@pytest.mark.parametrize("kind", ["row by row", "mean"])
def test_reductions_do_not_hide_the_row(kind):
    arrays = example("std", (4,))
    arrays["std"][3, 1] = 0.0
    with pytest.raises(ValueError, match=sentence("p: std[3, 1] = 0.0")):
        gk.kl_divergence(gaussian(np, arrays), reduction="none" if kind == "row by row" else kind)


def test_validate_true_asks_for_values():
    da = pytest.importorskip("dask.array")
    p = gk.Gaussian(da.zeros(3), std=1.0)
    text = "validate=True needs values to look at, and these arrays have none yet...leave validate out"
    with pytest.raises(ValueError, match=sentence(text)):
        gk.kl_divergence(p, validate=True)
