"""What an error advises, done literally, gives the right number: that of the Gaussian which was meant."""

import importlib
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

import gausskl as gk
from helpers import to_numpy
from reference import kl, packed_positions

RNG = np.random.default_rng(0)
MEAN, OTHER = RNG.normal(size=(4, 3)), RNG.normal(size=(5, 3))
STD, OTHER_STD = RNG.uniform(0.5, 1.5, (4, 3)), RNG.uniform(0.5, 1.5, (5, 3))
L = np.tril(RNG.normal(size=(4, 3, 3)), -1) / 3 + np.eye(3) * STD[:, None, :]
R = L.mT
COV = (L @ R + (L @ R).mT) / 2
A = np.linalg.qr(RNG.normal(size=(4, 3, 3))).Q * STD[:, None, :]  # a rotation after scales
M = {"mean": MEAN}
MEANT, ROTATED, DIAGONAL = M | {"scale_tril": L}, M | {"cov": A @ A.mT}, M | {"std": STD}
EYE, HALF = np.eye(3), "if it is one half of a symmetric matrix, pass T + T.mT - T * numpy.eye(d)"


@dataclass
class Hint:
    """What was done, the words about it, what they advise, the pair that was meant, and modules that it takes."""

    did: object
    words: str
    advised: object
    meant: dict
    q: dict | None = None
    rtol: float = 1e-12
    needs: tuple = ()


def of(mean, q=None, options=(), **spread):
    """The divergence of one Gaussian, as something still to be done."""
    return lambda: gk.kl_divergence(gk.Gaussian(mean, **spread), q, **dict(options))


def module(name):
    return importlib.import_module(name)


HINTS = {}

# ---- a factor that is none ----

ROOT = "if cov = A @ A.mT, pass cov=A @ A.mT"
JUNK = "pass scale_tril=numpy.triu(A).mT, or, after lower=True, scale_tril=numpy.tril(A)"
UPPER_JUNK, LOWER_JUNK = np.triu(R) + np.tril(COV, -1), L + np.triu(COV, 1)
HINTS |= {
    "upper factor": Hint(
        of(MEAN, scale_tril=R), "if cov = R.mT @ R (SciPy's default), pass scale_tril=R.mT",
        of(MEAN, scale_tril=R.mT), MEANT),
    "upper root": Hint(
        of(MEAN, scale_tril=R), "if cov = R @ R.mT, pass cov=R @ R.mT", of(MEAN, cov=R @ R.mT), M | {"cov": R @ R.mT}),
    "rotation times scales": Hint(of(MEAN, scale_tril=A), ROOT, of(MEAN, cov=A @ A.mT), ROTATED),
    "covariance for a factor": Hint(
        of(MEAN, scale_tril=COV), "if this matrix A is the covariance, pass cov=A",
        of(MEAN, cov=COV), M | {"cov": COV}),
    "cho_factor": Hint(of(MEAN, scale_tril=UPPER_JUNK), JUNK, of(MEAN, scale_tril=np.triu(UPPER_JUNK).mT), MEANT),
    "all of cho_factor": Hint(
        of(MEAN[0], scale_tril=(UPPER_JUNK[0], False)), "of (A, False), pass scale_tril=numpy.triu(A).mT",
        of(MEAN[0], scale_tril=np.triu(UPPER_JUNK[0]).mT), {"mean": MEAN[0], "scale_tril": L[0]}),
    "all of cho_factor lower": Hint(
        of(MEAN[0], cov=(LOWER_JUNK[0], True)), "of (A, False), pass scale_tril=numpy.triu(A).mT, of (A, True), num",
        of(MEAN[0], scale_tril=np.tril(LOWER_JUNK[0])), {"mean": MEAN[0], "scale_tril": L[0]}),
    "cho_factor lower": Hint(of(MEAN, scale_tril=LOWER_JUNK), JUNK, of(MEAN, scale_tril=np.tril(LOWER_JUNK)), MEANT),
}  # fmt: skip

# ---- a matrix that is not symmetric ----

LOWER_HALF, UPPER_HALF = np.tril(COV), np.triu(COV)
SLIGHTLY = COV * (1 + 1e-6 * (np.triu(np.ones((3, 3)), 1) - np.tril(np.ones((3, 3)), -1)))
PRECISION = M | {"precision": COV}


def whole(half):
    return half + half.mT - half * np.eye(3)


HINTS |= {
    "lower factor for cov": Hint(
        of(MEAN, cov=L), "if cov = T @ T.mT, pass scale_tril=T", of(MEAN, scale_tril=L), MEANT),
    "upper factor for cov": Hint(
        of(MEAN, cov=R), "if cov = T.mT @ T (SciPy's default), pass scale_tril=T.mT", of(MEAN, scale_tril=R.mT), MEANT),
    "lower factor for precision": Hint(
        of(MEAN, precision=L), "if precision = T @ T.mT, pass precision=T @ T.mT",
        of(MEAN, precision=L @ L.mT), PRECISION),
    "upper factor for precision": Hint(
        of(MEAN, precision=R), "if precision = T.mT @ T, pass precision=T.mT @ T",
        of(MEAN, precision=R.mT @ R), PRECISION),
    "precisions_cholesky_ of scikit-learn": Hint(
        of(MEAN, precision=R), "if precision = T @ T.mT, pass precision=T @ T.mT",
        of(MEAN, precision=R @ R.mT), M | {"precision": R @ R.mT}),
    "lower half": Hint(of(MEAN, cov=LOWER_HALF), HALF, of(MEAN, cov=whole(LOWER_HALF)), M | {"cov": COV}),
    "upper half": Hint(of(MEAN, cov=UPPER_HALF), HALF, of(MEAN, cov=whole(UPPER_HALF)), M | {"cov": COV}),
    "half a precision": Hint(of(MEAN, precision=UPPER_HALF), HALF, of(MEAN, precision=whole(UPPER_HALF)), PRECISION),
    "rounding in cov": Hint(
        of(MEAN, cov=SLIGHTLY), "if only rounding sets the two apart, pass (cov + cov.mT) / 2",
        of(MEAN, cov=(SLIGHTLY + SLIGHTLY.mT) / 2), M | {"cov": COV}),
    "rounding in precision": Hint(
        of(MEAN, precision=SLIGHTLY), "pass (precision + precision.mT) / 2",
        of(MEAN, precision=(SLIGHTLY + SLIGHTLY.mT) / 2), PRECISION),
}  # fmt: skip

# ---- other bad values ----

ZERO, FINE = np.zeros(2), np.array([[1.0, 0.0], [1.0, 1e-9]])
NEAR, TILED = np.array([[1.0, 1.0], [1.0, 1 + 2.0**-51]]), np.ones((2, 2))
F, LOW = RNG.normal(size=(3, 2)), {"mean": MEAN[0], "cov_factor": np.zeros((3, 1))}
LARGE = np.array([[-800.0, 0.5, 1.0]])
SOFTPLUS = np.logaddexp(0, LARGE) + 1e-3
HINTS |= {
    name: Hint(
        of(MEAN[:1], **{name: np.maximum(LARGE, 0)}), "a ReLU output can be 0, softplus with a small floor cannot",
        of(MEAN[:1], **{name: SOFTPLUS}), {"mean": MEAN[:1], name: SOFTPLUS})
    for name in ("std", "var")
} | {
    f"log_{name} for {name}": Hint(
        of(MEAN, **{name: np.log(STD) - 1}), f"if these are logarithms, pass log_{name}=",
        of(MEAN, **{f"log_{name}": np.log(STD) - 1}), M | {name: STD / np.e})
    for name in ("std", "var")
} | {
    f"a diagonal matrix for {name}": Hint(
        of(MEAN[:3], **columns, **{name: EYE * STD[0]}), "these are diagonal matrices: pass their diagonals alone",
        of(MEAN[:3], **columns, **{name: np.diagonal(EYE * STD[0])}), {"mean": MEAN[:3], **columns, name: STD[0]})
    for name, columns in (("std", {}), ("var", {}), ("cov_diag", {"cov_factor": F}))
} | {
    "factor made into a cov": Hint(
        of(ZERO, cov=FINE @ FINE.T), "if it was made from a lower triangular factor, pass that as scale_tril",
        of(ZERO, scale_tril=FINE), {"mean": ZERO, "scale_tril": FINE}),
    "jitter": Hint(
        of(ZERO, cov=TILED), "add a small multiple of the identity to it yourself",
        of(ZERO, cov=TILED + 1e-3 * np.eye(2)), {"mean": ZERO, "cov": TILED + 1e-3 * np.eye(2)}, rtol=1e-11),
    "precise": Hint(
        of(ZERO, cov=NEAR), "give precise=True", of(ZERO, cov=NEAR, options={"precise": True}),
        {"mean": ZERO, "cov": NEAR}, needs=("numba",)),
}  # fmt: skip

# ---- shapes ----

FACTOR, PACKED = L[0], L[(..., *packed_positions(3, "row"))]
MATRIX = "a covariance matrix is given as cov=, a lower triangular factor as scale_tril="
ALONE = "precisions alone, one for each dimension, are given as var=1 / precision"
ONE = np.asarray(0.3)
HINTS |= {
    "cov for var": Hint(of(MEAN, var=COV[0]), MATRIX, of(MEAN, cov=COV[0]), M | {"cov": COV[0]}),
    "factor for std": Hint(of(MEAN, std=FACTOR), MATRIX, of(MEAN, scale_tril=FACTOR), M | {"scale_tril": FACTOR}),
    "matrix of std": Hint(
        of(MEAN, std=EYE * STD[0]), MATRIX, of(MEAN, scale_tril=EYE * STD[0]), M | {"std": STD[0]}),
    "variances for cov": Hint(
        of(MEAN, cov=STD), "variances alone are given as var=", of(MEAN, var=STD), M | {"var": STD}),
    "vector of precisions": Hint(of(MEAN, precision=STD), ALONE, of(MEAN, var=1 / STD), M | {"var": 1 / STD}),
    "packed factor": Hint(
        of(MEAN, scale_tril=PACKED), "a packed vector is given as packed_tril=",
        of(MEAN, packed_tril=PACKED, packing="row"), MEANT),
    "packing": Hint(
        of(MEAN, packed_tril=PACKED), '"row" is row after row, as numpy.tril_indices counts',
        of(MEAN, packed_tril=L[(..., *np.tril_indices(3))], packing="row"), MEANT),
    "low rank": Hint(
        of(MEAN, cov_factor=F), "cov_factor needs cov_diag: the covariance is cov_factor @ cov_factor.mT + diag(cov_d",
        of(MEAN, cov_factor=F, cov_diag=STD[0]), M | {"cov": F @ F.T + np.diag(STD[0])}),
    "transposed columns": Hint(
        of(MEAN, cov_factor=F.T, cov_diag=STD[0]), "(..., 3, r); if it is the transpose, pass cov_factor.mT",
        of(MEAN, cov_factor=F.T.mT, cov_diag=STD[0]), M | {"cov": F @ F.T + np.diag(STD[0])}),
    "one column": Hint(
        of(MEAN, cov_factor=F[:, 0], cov_diag=STD[0]), "one column is given as cov_factor[..., None]",
        of(MEAN, cov_factor=F[:, 0][..., None], cov_diag=STD[0]), M | {"cov": F[:, :1] @ F.T[:1] + np.diag(STD[0])}),
    "one std for each": Hint(
        of(MEAN, std=STD[:, 0]), "one number for each element of the batch is given as std[..., None]",
        of(MEAN, std=STD[:, 0][..., None]), M | {"std": np.repeat(STD[:, :1], 3, axis=1)}),
    "one number": Hint(
        of(0.3, std=0.5), "write [m] for one dimension", of([0.3], std=0.5),
        {"mean": np.array([0.3]), "std": np.array([0.5])}),
    "a batch of numbers": Hint(
        of(ONE, std=STD[0]), "the spread needs that axis too: mean[..., None], std[..., None]",
        of(ONE[..., None], std=STD[0][..., None]), {"mean": np.full((3, 1), 0.3), "std": STD[0][:, None]}),
}  # fmt: skip

# ---- all with all ----

Q = gk.Gaussian(OTHER, std=OTHER_STD)
Q_DICT = {"mean": OTHER, "std": OTHER_STD}
GRID = {"mean": OTHER.reshape(5, 1, 3) + np.zeros((2, 1)), "std": OTHER_STD[:, None]}  # 5 x 2
SHARED = {"mean": MEAN[0], "std": STD[:, None]}
HINTS |= {
    "all with all": Hint(
        of(MEAN, Q, std=STD), "give p the batch shape (4, 1): mean[..., None, :], std[..., None, :]",
        of(MEAN[..., None, :], Q, std=STD[..., None, :]), {"mean": MEAN[:, None], "std": STD[:, None]}, Q_DICT),
    "all matrices with all": Hint(
        of(MEAN, Q, cov=COV), "give p the batch shape (4, 1): mean[..., None, :], cov[..., None, :, :]",
        of(MEAN[..., None, :], Q, cov=COV[..., None, :, :]), {"mean": MEAN[:, None], "cov": COV[:, None]}, Q_DICT),
    "all with all, one mean": Hint(
        of(MEAN[0], Q, std=STD), "give p the batch shape (4, 1): std[..., None, :]",
        of(MEAN[0], Q, std=STD[..., None, :]), SHARED, Q_DICT),
    "all with a grid": Hint(
        of(MEAN, gk.Gaussian(**GRID), std=STD),
        "give p the batch shape (4, 1, 1): mean[..., None, None, :], std[..., None, None, :]",
        of(MEAN[..., None, None, :], gk.Gaussian(**GRID), std=STD[..., None, None, :]),
        {"mean": MEAN[:, None, None], "std": STD[:, None, None]}, GRID),
}  # fmt: skip

# ---- arrays of other kinds ----


class Frame:
    """Looks like a data frame."""

    def to_numpy(self):
        return MEAN


MASKED = np.ma.masked_array(MEAN, mask=np.arange(12).reshape(4, 3) == 4)
KEPT = ~MASKED.mask.any(axis=-1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    COLUMN, ROWS = np.matrix(MEAN[0]).T, np.matrix(MEAN)
UNIT = M | {"std": np.ones((4, 3))}
HINTS |= {
    "masked": Hint(
        of(MASKED, std=STD), "leave out, in all arrays, what has a masked entry; pass the .data",
        of(MASKED[KEPT].data, std=STD[KEPT]), {"mean": MEAN[KEPT], "std": STD[KEPT]}),
    "matrix": Hint(of(ROWS, std=STD), "convert it with numpy.asarray, or", of(np.asarray(ROWS), std=STD), DIAGONAL),
    "column": Hint(
        of(COLUMN, std=STD[0]), "if it is one row or column, with .A1", of(COLUMN.A1, std=STD[0]),
        {"mean": MEAN[0], "std": STD[0]}),
    "bool": Hint(
        of(MEAN, std=STD > 0), "numpy.asarray(std, float)", of(MEAN, std=np.asarray(STD > 0, float)),
        UNIT),
    "object": Hint(
        of(MEAN.astype(object), std=STD), "convert it with numpy.asarray(mean, float)",
        of(np.asarray(MEAN.astype(object), float), std=STD), DIAGONAL),
    "text": Hint(
        of(MEAN.astype(str), std=STD), "convert it to float32 or float64", of(MEAN.astype(str).astype(float), std=STD),
        DIAGONAL),
    "complex": Hint(
        of(MEAN + 0j, std=STD), "take .real if it is real", of((MEAN + 0j).real, std=STD), DIAGONAL),
    "frame": Hint(
        of(Frame(), std=STD), "convert it with .to_numpy(), which keeps no labels", of(Frame().to_numpy(), std=STD),
        DIAGONAL),
}  # fmt: skip
if np.finfo(np.longdouble).bits > 64:  # elsewhere it is float64 by another name
    LONG = MEAN.astype(np.longdouble)
    HINTS["longdouble"] = Hint(
        of(LONG, std=STD), "convert it with .astype('float64')", of(LONG.astype("float64"), std=STD), DIAGONAL
    )


def with_torch(call):
    """Something to be done with torch, whose tensors cannot be made before it is there."""
    return lambda: call(module("torch"), module("torch").from_numpy)


def normal(t, base, mean, std, axes=0):
    d = base.distributions
    return d.Independent(d.Normal(t(mean), t(std)), axes)


def parts(t, base, axes=0):
    """A multivariate normal for each row; the batch becomes part of the event."""
    d = base.distributions
    return d.Independent(d.MultivariateNormal(t(MEAN), scale_tril=t(L)), axes)


def narrow(base, t, **options):
    """Two variables in float32, so near to each other that it cannot tell them apart."""
    cov = base.tensor([[1.0, 1.0], [1.0, 1 + 2.0**-22]], dtype=base.float32)
    dtype = getattr(base, options.pop("dtype", "float32"))
    return gk.kl_divergence(gk.Gaussian(base.zeros(2, dtype=dtype), cov=cov.to(dtype)), **options)


INSIDE, TORCH = "give what is inside it, on both sides, and sum the result over the axes", ("torch",)
FLAT = {"mean": MEAN.reshape(12), "cov": np.zeros((12, 12))}
for row in range(4):
    FLAT["cov"][3 * row : 3 * row + 3, 3 * row : 3 * row + 3] = COV[row]
HINTS |= {
    "float32": Hint(
        with_torch(lambda base, t: narrow(base, t, path="generic")), "give float64",
        with_torch(lambda base, t: narrow(base, t, path="generic", dtype="float64")),
        {"mean": ZERO, "cov": np.array([[1.0, 1.0], [1.0, 1 + 2.0**-22]])}, rtol=1e-9, needs=TORCH),
    "sparse": Hint(
        with_torch(lambda base, t: of(t(MEAN), cov=t(COV[0]).to_sparse())()), "convert it with .to_dense()",
        with_torch(lambda base, t: of(t(MEAN), cov=t(COV[0]).to_sparse().to_dense())()),
        M | {"cov": COV[0]}, needs=TORCH),
    "complex tensor": Hint(
        with_torch(lambda base, t: of(t(MEAN + 0j), std=t(STD))()), "take its real part if it is real",
        with_torch(lambda base, t: of(t(MEAN + 0j).real, std=t(STD))()), DIAGONAL, needs=TORCH),
    "two libraries": Hint(
        with_torch(lambda base, t: of(t(MEAN), std=STD)()), "convert one of them first",
        with_torch(lambda base, t: of(t(MEAN), std=t(STD))()), DIAGONAL, needs=TORCH),
    "Normal": Hint(
        with_torch(lambda base, t: gk.kl_divergence(normal(t, base, MEAN, STD), of_torch(t))),
        "Independent(normal, 1) makes its last axis the dimensions",
        with_torch(lambda base, t: gk.kl_divergence(normal(t, base, MEAN, STD, 1), of_torch(t))),
        DIAGONAL, {"mean": OTHER[0], "std": OTHER_STD[0]}, needs=TORCH),
    "norm of SciPy": Hint(
        lambda: gk.kl_divergence(module("scipy.stats").norm(MEAN, STD), gk.Gaussian(OTHER[0], std=OTHER_STD[0])),
        "gausskl.Gaussian(loc, std=scale) makes its last axis the dimensions",
        of(MEAN, gk.Gaussian(OTHER[0], std=OTHER_STD[0]), std=STD),
        DIAGONAL, {"mean": OTHER[0], "std": OTHER_STD[0]}, needs=("scipy",)),
    "Independent over matrices": Hint(
        with_torch(lambda base, t: gk.kl_divergence(parts(t, base, 1))), INSIDE,
        with_torch(lambda base, t: gk.kl_divergence(parts(t, base)).sum(-1)), FLAT, needs=TORCH),
}  # fmt: skip


def of_torch(t):
    return gk.Gaussian(t(OTHER[0]), std=t(OTHER_STD[0]))


# ---- options, and arrays without values ----


def chunks(compute):
    """A Dask array whose number of rows only its values tell."""
    mean = module("dask.array").from_array(MEAN)
    mean = mean[mean[:, 0] < 9]
    return gk.kl_divergence(gk.Gaussian(mean.compute_chunk_sizes() if compute else mean, std=1.0))


def lazily(**options):
    return gk.kl_divergence(gk.Gaussian(module("dask.array").from_array(MEAN), std=1.0), **options)


HINTS |= {
    "path": Hint(
        of(MEAN, std=STD, options={"path": "cupy"}), "leave path out, or give path=\"generic\"",
        of(MEAN, std=STD, options={"path": "generic"}), DIAGONAL),
    "precise in vain": Hint(
        of(MEAN, cov=COV, options={"path": "generic", "precise": True}), "leave precise out",
        of(MEAN, cov=COV, options={"path": "generic"}), M | {"cov": COV}),
    "unknown chunks": Hint(
        lambda: chunks(False), "call mean.compute_chunk_sizes() first", lambda: chunks(True), UNIT,
        needs=("dask",)),
    "validate": Hint(lambda: lazily(validate=True), "leave validate out", lazily, UNIT, needs=("dask",)),
}  # fmt: skip


@pytest.mark.parametrize("situation", HINTS)
def test_a_hint_done_literally_is_right(situation):
    hint = HINTS[situation]
    for name in hint.needs:
        pytest.importorskip(name)
    with pytest.raises((TypeError, ValueError)) as caught:
        hint.did()
    assert hint.words in str(caught.value)
    want = kl(hint.meant, hint.q).astype(np.float64)
    got = to_numpy(hint.advised())
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=hint.rtol)


@pytest.mark.parametrize("keyword", ["cov", "precision", "scale_tril"])
def test_a_batch_that_does_not_fit_is_not_taken_for_a_vector(keyword):
    """A matrix of one dimension looks like a vector of one entry, and a row of any matrix like one of d entries."""
    for d in (1, 3):
        with pytest.raises(ValueError, match=r"the batch axes of .* do not broadcast$"):
            gk.Gaussian(np.zeros((4, d)), **{keyword: np.tile(np.eye(d), (5, 1, 1))})


def test_one_stray_entry_does_not_make_a_batch_upper():
    stray = np.tile(np.eye(3), (4, 1, 1))
    stray[2, 0, 1], stray[1, 2, 0] = 0.5, 0.5
    with pytest.raises(
        ValueError, match=r"scale_tril\[2, 0, 1\] = 0.5: nothing may stand .* if this matrix A is the covariance"
    ):
        gk.kl_divergence(gk.Gaussian(np.zeros(3), scale_tril=stray))


@pytest.mark.parametrize("case", ["generic", "low rank", "too large", "two dtypes"])
def test_precise_is_advised_where_it_serves(case):
    d = 70 if case == "too large" else 2
    cov = np.eye(d)
    cov[:2, :2] = NEAR
    p, q = gk.Gaussian(np.zeros(d), cov=cov), None
    if case == "low rank":
        q = gk.Gaussian(np.zeros(d), cov_factor=np.ones((d, 1)), cov_diag=np.ones(d))
    if case == "two dtypes":
        q = gk.Gaussian(np.zeros(d, np.float32), std=np.ones(d, np.float32))
    with pytest.raises(ValueError, match="as far as float64 can tell") as caught:
        gk.kl_divergence(p, q, path="generic" if case == "generic" else "auto")
    assert "precise" not in str(caught.value)
    with pytest.raises(ValueError, match="precise=True cannot serve this call"):
        gk.kl_divergence(p, q, precise=True, path="generic" if case == "generic" else "auto")
