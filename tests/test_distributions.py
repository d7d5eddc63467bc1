"""Distribution objects of other libraries are taken as they are, and their axes mean what they mean there."""

import importlib

import numpy as np
import pytest
from conftest import NAMESPACES
from spreads import DENSE, DIAGONAL, example, gaussian

import gausskl as gk
import reference
from helpers import Backend, make, to_numpy

BATCH, D = (4,), 3
STD, FACTOR, LOW = (
    example("std", BATCH, D),
    example("scale_tril", BATCH, D, seed=1),
    example("low rank", BATCH, D, seed=2),
)
MEAN, COV = FACTOR["mean"], FACTOR["scale_tril"] @ FACTOR["scale_tril"].mT
SINGLE = {"mean": STD["mean"][..., None], "std": STD["std"][..., None]}  # a Normal: one-dimensional, batch (4, 3)
FLAT = {"mean": STD["mean"].reshape(-1), "std": STD["std"].reshape(-1)}  # both axes joined: one Gaussian


def torch_objects(d, a):
    precision = np.linalg.inv(COV)
    std, factor, low = (dict(zip(g, map(a, g.values()), strict=True)) for g in (STD, FACTOR, LOW))
    normal = d.Normal(std["mean"], std["std"])
    return {
        "Normal": (normal, SINGLE),
        "Independent": (d.Independent(normal, 1), STD),
        "Independent over nothing": (d.Independent(normal, 0), SINGLE),
        "Independent over two axes": (d.Independent(normal, 2), FLAT),
        "Independent twice": (d.Independent(d.Independent(normal, 1), 1), FLAT),
        "MultivariateNormal": (d.MultivariateNormal(a(MEAN), scale_tril=factor["scale_tril"]), FACTOR),
        "MultivariateNormal by covariance": (d.MultivariateNormal(a(MEAN), covariance_matrix=a(COV)), FACTOR),
        "MultivariateNormal by precision": (d.MultivariateNormal(a(MEAN), precision_matrix=a(precision)), FACTOR),
        "LowRankMultivariateNormal": (
            d.LowRankMultivariateNormal(low["mean"], low["cov_factor"], low["cov_diag"]), LOW
        ),
    }  # fmt: skip


def numpyro_objects(d, a):
    one, zero, eye = np.ones((*BATCH, D)), np.zeros((*BATCH, D)), np.broadcast_to(np.eye(D), (*BATCH, D, D))
    return torch_objects(d, a) | {
        "expand": (d.Normal(0.0, 2.0).expand([4, 3]), {"mean": zero[..., None], "std": 2 * one[..., None]}),
        "expand and to_event": (d.Normal(a(zero[0]), 2.0).expand([4, 3]).to_event(1), {"mean": zero, "std": 2 * one}),
        "MultivariateNormal with one number as mean": (
            d.MultivariateNormal(0.0, scale_tril=a(eye)), {"mean": zero, "scale_tril": eye}
        ),
        "MultivariateNormal, expanded": (
            d.MultivariateNormal(a(zero[0]), scale_tril=a(eye[0])).expand([4]), {"mean": zero, "scale_tril": eye}
        ),
    }  # fmt: skip


def tfp_objects(d, a):
    std, factor, low = (dict(zip(g, map(a, g.values()), strict=True)) for g in (STD, FACTOR, LOW))
    normal = d.Normal(std["mean"], std["std"])
    ones, zeros, columns = np.ones((*BATCH, D)), np.zeros((*BATCH, D)), LOW["cov_factor"]
    square = LOW["cov_diag"][..., None] * np.eye(D) + columns @ columns.mT
    lowest = np.linalg.cholesky(square @ square)
    return {
        "Normal": (normal, SINGLE),
        "Independent": (d.Independent(normal, 1), STD),
        "Independent by default": (d.Independent(normal), STD),
        "Independent over two axes": (d.Independent(normal, 2), FLAT),
        "Independent with one number as mean": (
            d.Independent(d.Normal(a(zeros[0, 0]), a(ones)), 1), {"mean": zeros, "std": ones}
        ),
        "MultivariateNormalDiag": (d.MultivariateNormalDiag(std["mean"], -std["std"]), STD),
        "MultivariateNormalDiag without a mean": (
            d.MultivariateNormalDiag(None, a(ones)), {"mean": zeros, "std": ones}
        ),
        "MultivariateNormalDiag with nothing but a mean": (
            d.MultivariateNormalDiag(std["mean"]), {"mean": STD["mean"], "std": ones}
        ),
        "MultivariateNormalTriL": (d.MultivariateNormalTriL(a(MEAN), factor["scale_tril"]), FACTOR),
        "MultivariateNormalFullCovariance": (d.MultivariateNormalFullCovariance(a(MEAN), a(COV)), FACTOR),
        "MultivariateNormalDiagPlusLowRank": (
            d.MultivariateNormalDiagPlusLowRank(low["mean"], low["cov_diag"], scale_perturb_factor=low["cov_factor"]),
            {"mean": LOW["mean"], "scale_tril": lowest},
        ),
        "MultivariateNormalDiagPlusLowRankCovariance": (
            d.MultivariateNormalDiagPlusLowRankCovariance(low["mean"], low["cov_diag"], low["cov_factor"]), LOW
        ),
    }  # fmt: skip


def scipy_objects(d, a):
    mean, factor = MEAN[0], FACTOR["scale_tril"][0]
    cov = factor @ factor.T
    dense, diagonal = {"mean": mean, "scale_tril": factor}, {"mean": mean, "std": STD["std"][0]}
    values, vectors = np.linalg.eigh(cov)
    standard = {"mean": np.zeros(1), "std": np.ones(1)}
    return {
        "norm": (d.norm(STD["mean"], STD["std"]), SINGLE),
        "norm by keywords": (d.norm(scale=STD["std"], loc=STD["mean"]), SINGLE),
        "norm of nothing": (d.norm(), standard),
        "Normal": (d.Normal(mu=STD["mean"], sigma=STD["std"]), SINGLE),
        "multivariate_normal": (d.multivariate_normal(mean, cov), dense),
        "multivariate_normal by variances": (d.multivariate_normal(mean, STD["std"][0] ** 2), diagonal),
        "multivariate_normal in one dimension": (d.multivariate_normal(), standard),
        "Covariance.from_cholesky": (d.multivariate_normal(mean, d.Covariance.from_cholesky(factor)), dense),
        "Covariance.from_diagonal": (
            d.multivariate_normal(mean, d.Covariance.from_diagonal(STD["std"][0] ** 2)), diagonal
        ),
        "Covariance.from_precision": (
            d.multivariate_normal(mean, d.Covariance.from_precision(np.linalg.inv(cov))), dense
        ),
        "Covariance.from_eigendecomposition": (
            d.multivariate_normal(mean, d.Covariance.from_eigendecomposition((values, vectors))), dense
        ),
    }  # fmt: skip


class Family:
    """One library of distributions on one array library."""

    def __init__(self, backend, module, objects):
        self.backend, self.module, self.objects = backend, module, objects

    def load(self, required):
        """Its module; it may be missing only where no array library was asked for by name."""
        return importlib.import_module(self.module) if required else pytest.importorskip(self.module)


TFP = "tensorflow_probability"
FAMILIES = {
    "torch": Family(Backend.TORCH, "torch.distributions", torch_objects),
    "numpyro": Family(Backend.JAX, "numpyro.distributions", numpyro_objects),
    "tfp": Family(Backend.TENSORFLOW, f"{TFP}.python.distributions", tfp_objects),
    "tfp on numpy": Family(Backend.TENSORFLOW, f"{TFP}.substrates.numpy.distributions", tfp_objects),
    "scipy": Family(Backend.NUMPY, "scipy.stats", scipy_objects),
}
NAMES = {name: family for name, family in FAMILIES.items() if family.backend in NAMESPACES}


@pytest.fixture(params=NAMES)
def objects(request):
    """Every object of a family beside what it should be read as, in NumPy arrays."""
    family = NAMES[request.param]
    distributions = family.load(bool(request.config.getoption("require_backend")))
    xp = np if "numpy" in request.param.split() else NAMESPACES[family.backend]
    return family.objects(distributions, lambda values: make(xp, values))


# TensorFlow Probability warns of an object that it would rather see made in another way.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_probability"),
    pytest.mark.filterwarnings("ignore:.*distutils:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),  # torch, of itself
]


def close(got, want):
    np.testing.assert_allclose(to_numpy(got), want, rtol=1e-13, atol=1e-30)


def test_every_object_is_read_as_what_it_is(objects):
    for name, (obj, want) in objects.items():
        got = gk.kl_divergence(obj)
        assert got.shape == np.shape(want["mean"])[:-1], name
        close(got, reference.kl(want, None).astype(float))


def test_every_object_goes_with_every_other(objects):
    """Also where their own library has no divergence for the two."""
    for p, want_p in objects.values():
        for q, want_q in objects.values():
            if want_p["mean"].shape[-1] == want_q["mean"].shape[-1]:
                close(gk.kl_divergence(p, q), gk.kl_divergence(gk.Gaussian(**want_p), gk.Gaussian(**want_q)))


def test_an_object_goes_with_a_gaussian(objects):
    for obj, _ in objects.values():
        g = gk.as_gaussian(obj)
        for got in (gk.kl_divergence(g, obj), gk.kl_divergence(obj, g)):
            assert (to_numpy(got) == 0).all()


def test_plan_and_warm_up_take_objects(objects):
    for obj, want in objects.values():
        gk.warm_up(obj, obj)
        assert gk.plan(obj, obj).batch_shape == want["mean"].shape[:-1]


def test_what_is_already_a_gaussian_stays_it():
    g = gk.Gaussian(MEAN, cov=COV)
    assert gk.as_gaussian(g) is g


AGREED = {"torch": 20, "numpyro": 20, "tfp": 20}  # pairs at least


@pytest.mark.parametrize("name", [name for name in AGREED if name in NAMES])
def test_their_own_divergence_agrees(name, request):
    """In float64, where theirs is accurate; between equal Gaussians it is 0 to rounding."""
    distributions = NAMES[name].load(bool(request.config.getoption("require_backend")))
    objects = NAMES[name].objects(distributions, lambda values: make(NAMESPACES[NAMES[name].backend], values))
    agreed = 0
    for p, want_p in objects.values():
        for q, want_q in objects.values():
            if want_p["mean"].shape != want_q["mean"].shape or len(p.event_shape) != len(q.event_shape):
                continue
            try:
                want = to_numpy(distributions.kl_divergence(p, q))
            except (NotImplementedError, TypeError):  # NumPyro's, of a mean that is one number
                continue
            np.testing.assert_allclose(to_numpy(gk.kl_divergence(p, q)), want, rtol=1e-12, atol=1e-14)
            agreed += 1
    assert agreed >= AGREED[name]


# ---- what an object holds is taken as it is ----


def with_torch():
    if Backend.TORCH not in NAMESPACES:
        pytest.skip("torch is not under test")
    return importlib.import_module("torch")


def test_torch_factors_are_kept():
    torch = with_torch()
    mean, factor = torch.zeros(5, 3), torch.eye(3)
    g = gk.as_gaussian(torch.distributions.MultivariateNormal(mean, scale_tril=factor))
    assert g.keyword == "scale_tril"
    assert g.arrays[0].data_ptr() == factor.data_ptr()
    assert g.arrays[0].shape == (3, 3)  # one matrix for the whole batch
    low = torch.distributions.LowRankMultivariateNormal(mean, torch.ones(3, 2), torch.ones(3))
    assert gk.as_gaussian(low).arrays[0].shape == (3, 2)


def test_gradients_reach_the_parameters_of_torch_objects():
    torch = with_torch()
    mean, std = (torch.asarray(STD[name]).requires_grad_() for name in ("mean", "std"))
    normal = torch.distributions.Normal(mean, std)
    found = torch.autograd.grad(gk.kl_divergence(torch.distributions.Independent(normal, 1)).sum(), (mean, std))
    want = torch.autograd.grad(gk.kl_divergence(gk.Gaussian(mean, std=std)).sum(), (mean, std))
    torch.testing.assert_close(found, want, rtol=0, atol=0)


def test_objects_inside_torch_compile_and_vmap():
    torch = with_torch()
    d = torch.distributions
    mean, std, factor = torch.zeros(4, 3), torch.full((4, 3), 2.0), 3 * torch.eye(3)

    def loss(m, s):
        normal = d.Independent(d.Normal(m, s, validate_args=False), 1, validate_args=False)
        return gk.kl_divergence(normal, d.MultivariateNormal(m, scale_tril=factor, validate_args=False))

    want = loss(mean, std)
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(mean, std), want)
    torch.testing.assert_close(torch.func.vmap(loss)(mean, std), want)


@pytest.mark.parametrize("name", [*DIAGONAL, *DENSE, "low rank"])
def test_a_gaussian_of_tensors_becomes_an_object_of_torch(name):
    torch = with_torch()
    g = gaussian(NAMESPACES[Backend.TORCH], example(name, BATCH, D))
    obj = g.to_torch_distribution()
    assert isinstance(obj, torch.distributions.Distribution)
    assert (obj.batch_shape, obj.event_shape) == (BATCH, (D,))
    np.testing.assert_allclose(gk.kl_divergence(g, obj), 0, atol=1e-13)
    q = gaussian(NAMESPACES[Backend.TORCH], example("cov", BATCH, D, seed=1))
    theirs = torch.distributions.MultivariateNormal(obj.mean, covariance_matrix=covariance_of(obj))
    want = torch.distributions.kl_divergence(theirs, q.to_torch_distribution())
    np.testing.assert_allclose(gk.kl_divergence(g, q), want, rtol=1e-12)


def covariance_of(obj):
    if hasattr(obj, "covariance_matrix"):
        return obj.covariance_matrix
    return obj.variance.diag_embed()


def test_negative_diagonals_of_factors_are_turned_for_torch():
    torch = with_torch()
    factor = torch.tensor([[-1.0, 0.0], [0.5, 2.0]])
    found = gk.Gaussian(torch.zeros(2), scale_tril=factor).to_torch_distribution().scale_tril
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [-0.5, 2.0]]))


def test_a_low_rank_without_columns_becomes_a_diagonal_object_of_torch():
    torch = with_torch()
    obj = gk.Gaussian(torch.zeros(2), cov_factor=torch.zeros(3, 2, 0), cov_diag=torch.tensor([4.0, 9.0]))
    obj = obj.to_torch_distribution()
    assert (obj.batch_shape, obj.event_shape) == ((3,), (2,))
    torch.testing.assert_close(obj.variance, torch.tensor([4.0, 9.0]).expand(3, 2))


def test_only_tensors_become_objects_of_torch():
    with_torch()
    with pytest.raises(TypeError, match=r"^torch\.distributions takes tensors, and .* Gaussian are those of numpy$"):
        gk.Gaussian(MEAN, cov=COV).to_torch_distribution()


def test_jax_transforms_go_through_numpyro_objects(request):
    if Backend.JAX not in NAMESPACES:
        pytest.skip("JAX is not under test")
    d = NAMES["numpyro"].load(bool(request.config.getoption("require_backend")))
    jax = importlib.import_module("jax")
    mean, std = (make(NAMESPACES[Backend.JAX], STD[name]) for name in ("mean", "std"))

    def ours(m, s):
        return gk.kl_divergence(d.Normal(m, s).to_event(1), d.Normal(0.0, 1.0).expand([D]).to_event(1)).sum()

    def plain(m, s):
        return gk.kl_divergence(gk.Gaussian(m, std=s)).sum()

    for transform in (jax.jit, jax.grad, jax.vmap):
        np.testing.assert_allclose(transform(ours)(mean, std), transform(plain)(mean, std), rtol=1e-14)


def test_numbers_of_numpyro_are_jax_arrays(request):
    if Backend.JAX not in NAMESPACES:
        pytest.skip("JAX is not under test")
    d = NAMES["numpyro"].load(bool(request.config.getoption("require_backend")))
    assert gk.plan(d.Normal(0.0, 1.0), d.Normal(np.zeros(3), 2.0)).library == "jax"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_variables_of_tensorflow_probability_get_their_gradients(request):
    if Backend.TENSORFLOW not in NAMESPACES:
        pytest.skip("TensorFlow is not under test")
    d = NAMES["tfp"].load(bool(request.config.getoption("require_backend")))
    tf, tfp = importlib.import_module("tensorflow"), importlib.import_module("tensorflow_probability")
    mean, raw = tf.Variable(STD["mean"]), tfp.util.TransformedVariable(STD["std"], tfp.bijectors.Softplus())
    normal = d.Independent(d.Normal(mean, raw), 1)
    with tf.GradientTape() as tape:
        loss = gk.kl_divergence(normal, reduction="sum")
    by_mean, by_raw = tape.gradient(loss, [mean, *raw.trainable_variables])
    np.testing.assert_allclose(by_mean, STD["mean"], rtol=1e-14)
    slope = 1 - np.exp(-STD["std"])  # of softplus, at the value that gives this std
    np.testing.assert_allclose(by_raw, (STD["std"] - 1 / STD["std"]) * slope, rtol=1e-12)


# ---- sentences ----


def frozen(name, *args):
    return getattr(importlib.import_module("scipy.stats"), name)(*args)


def test_anything_else_is_refused():
    expected = (
        r"a gausskl\.Gaussian, .* torch\.distributions or NumPyro; .* TensorFlow Probability; .* frozen norm or "
        r"multivariate_normal of scipy\.stats$"
    )
    with pytest.raises(TypeError, match=rf"^obj is a int: expected {expected}"):
        gk.as_gaussian(3)
    with pytest.raises(TypeError, match=rf"^q: this is a frozen expon: expected {expected}"):
        gk.kl_divergence(frozen("norm"), frozen("expon"))
    with pytest.raises(TypeError, match=rf"^p is a poisson_gen: expected {expected}"):
        gk.plan(importlib.import_module("scipy.stats").poisson)


def test_a_subclass_is_what_it_derives_from():
    torch = with_torch()

    class Prior(torch.distributions.Normal):
        pass

    assert gk.kl_divergence(Prior(0.0, 1.0)) == 0


def test_what_is_made_from_a_normal_is_no_normal():
    d = with_torch().distributions
    for obj in (d.LogNormal(0.0, 1.0), d.HalfNormal(1.0)):
        with pytest.raises(TypeError, match=rf"^p is a {type(obj).__name__}: expected"):
            gk.kl_divergence(obj)


def test_independent_over_something_else():
    torch = with_torch()
    d, ones = torch.distributions, torch.ones(3)
    with pytest.raises(TypeError, match=r"^p: what is inside of Independent is a Gamma: expected"):
        gk.kl_divergence(d.Independent(d.Gamma(ones, ones), 1))
    many = d.MultivariateNormal(ones[:, None], scale_tril=ones[:1, None])
    with pytest.raises(TypeError, match=r"^q: an Independent over a MultivariateNormal has .* sum the result over"):
        gk.kl_divergence(many, d.Independent(many, 1))


def test_a_normal_has_no_dimensions():
    g = gk.Gaussian(np.zeros((4, 3)), std=1.0)
    normal = frozen("norm", STD["mean"], STD["std"])
    text = r"is a rv_continuous_frozen of one dimension, in a batch of shape \(4, 3\), and the other side has 3 dimen"
    with pytest.raises(ValueError, match=f"^p {text}"):
        gk.kl_divergence(normal, g)
    with pytest.raises(ValueError, match=f"^q {text}"):
        gk.plan(g, normal)


def test_two_libraries():
    torch = with_torch()
    with pytest.raises(TypeError, match=r"^the mean of p is an array of torch and the mean of q one of numpy"):
        gk.kl_divergence(torch.distributions.Normal(torch.zeros(3), 1.0), frozen("norm", np.zeros(3), 1.0))


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"^q: std\[1, 0\] = -1.0: a std must be > 0"):
        gk.kl_divergence(frozen("norm", 0.0, [1.0, 1.0]), frozen("norm", 0.0, [1.0, -1.0]))
