"""TensorFlow: eager, traced for batches of any size, compiled, differentiated, and as the loss of a Keras model."""

import importlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import NAMESPACES
from differentiation import divergence_of
from spreads import DIAGONAL, KEYWORDS, array_names, example

import gausskl as gk
from helpers import Backend

if Backend.TENSORFLOW not in NAMESPACES:
    pytest.skip("TensorFlow is not under test", allow_module_level=True)

import keras
import tensorflow as tf

STRUCTURES = "log_var", "cov", "scale_tril", "precision", "low rank"
PAIRS = [*((name, name) for name in KEYWORDS), *itertools.permutations(STRUCTURES, 2)]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)
# XLA takes seconds to compile a pair.
some_pairs = pytest.mark.parametrize(
    "pair",
    [("std", "std"), ("log_var", "log_var"), ("cov", "cov"), ("row", "tfp"), ("precision", "std"), ("low rank", "cov")],
    ids="-".join,
)


def case(pair, batch=(5,)):
    """A function of tensors, and tensors for it."""
    p, q = example(pair[0], batch), example(pair[1], batch, seed=1)
    names = [(which, name) for which, g in enumerate((p, q)) for name in array_names(g)]

    def divergence(*tensors):
        return divergence_of(names, tensors, p, q)

    return divergence, [tf.constant((p, q)[which][name]) for which, name in names]


def any_batch(tensors):
    return [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype) for tensor in tensors]


def gradient(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(function(*tensors))
    return tape.gradient(total, tensors)


def close(got, want, factor=64):
    for g, w in zip(tf.nest.flatten(got), tf.nest.flatten(want), strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=factor * 2.0**-52, atol=factor * 2.0**-52)


# ---- tf.function ----


@every_pair
def test_traced_once_for_batches_of_any_size(pair):
    function, tensors = case(pair)
    traced = tf.function(function, input_signature=any_batch(tensors))
    assert traced.get_concrete_function().output_shapes == tf.TensorShape((None,))
    for rows in (5, 2, 1, 0):
        some = [tensor[:rows] for tensor in tensors]
        close(traced(*some), function(*some))
    assert traced.experimental_get_tracing_count() == 1


@every_pair
def test_traced_batches_broadcast(pair):
    """A row may turn out to stand for a whole batch."""
    function, tensors = case(pair)
    traced = tf.function(function, input_signature=any_batch(tensors))
    one = [tensor[:1] for tensor in tensors]
    half = len(array_names(example(pair[0])))
    for mixed in (one[:half] + tensors[half:], tensors[:half] + one[half:], one[:1] + tensors[1:]):
        close(traced(*mixed), function(*mixed))


@every_pair
def test_traced_gradients(pair):
    function, tensors = case(pair)
    traced = tf.function(lambda *t: gradient(function, t), input_signature=any_batch(tensors))
    close(traced(*tensors), tuple(gradient(function, tensors)), factor=1024)


@some_pairs
def test_compiled_by_xla(pair):
    function, tensors = case(pair)
    compiled = tf.function(function, input_signature=any_batch(tensors), jit_compile=True)
    for rows in (5, 1):
        some = [tensor[:rows] for tensor in tensors]
        close(compiled(*some), function(*some), factor=256)


@some_pairs
def test_gradients_compiled_by_xla(pair):
    function, tensors = case(pair)
    compiled = tf.function(lambda *t: gradient(function, t), jit_compile=True)
    close(compiled(*tensors), tuple(gradient(function, tensors)), factor=1024)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions_over_a_batch_of_unknown_size(reduction):
    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.float64)])
    def traced(mean):
        return gk.kl_divergence(gk.Gaussian(mean, std=2.0), reduction=reduction)

    mean = example("std", (5, 2))["mean"]
    close(traced(mean), gk.kl_divergence(gk.Gaussian(mean, std=2.0), reduction=reduction))


def test_contributions_of_a_batch_of_unknown_size():
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float64)])
    def traced(mean):
        return gk.kl_divergence(gk.Gaussian(mean, log_var=0.5), per_dim=True)

    mean = example("std", (5,))["mean"]
    close(traced(mean), gk.kl_divergence(gk.Gaussian(mean, log_var=0.5), per_dim=True))


def test_autograph_leaves_the_library_alone(monkeypatch):
    """It would rewrite every function that it meets, which takes seconds, and fail at some."""
    monkeypatch.setenv("AUTOGRAPH_STRICT_CONVERSION", "1")

    def loss(mean, std):
        p = gk.as_gaussian(gk.Gaussian(mean, std=std))
        assert gk.plan(p).library == "tensorflow"
        return gk.kl_divergence(p)

    mean, std = (tf.constant(example("std", (5,))[name]) for name in ("mean", "std"))
    close(tf.function(loss)(mean, std), loss(mean, std))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("name", "key", "value"), [("std", "std", -1.0), ("scale_tril", "scale_tril", 0.0),
                                                    ("cov", "cov", -1.0), ("low rank", "cov_diag", 0.0)])  # fmt: skip
def test_traced_a_bad_row_is_nan_and_no_other(name, key, value, jit_compile):
    p, q = example(name, (4,)), example(name, (4,), seed=1)
    p[key][(1, *(0,) * (p[key].ndim - 1))] = value
    q[key][(2, *(0,) * (q[key].ndim - 1))] = value
    tensors = [tf.constant(g[k]) for g in (p, q) for k in g]

    def function(*t):
        half = len(p)
        return gk.kl_divergence(
            gk.Gaussian(**dict(zip(p, t[:half], strict=True))), gk.Gaussian(**dict(zip(q, t[half:], strict=True)))
        )

    got = tf.function(function, jit_compile=jit_compile)(*tensors)
    assert np.isnan(got).tolist() == [False, True, True, False]


def test_traced_values_cannot_be_validated():
    with pytest.raises(
        ValueError, match=r"ValueError: validate=True needs values to look at, and these arrays have none yet"
    ):
        tf.function(lambda m: gk.kl_divergence(gk.Gaussian(m, std=1.0), validate=True))(tf.zeros(3))


# ---- GradientTape ----


@pytest.mark.parametrize("pair", [(name, name) for name in KEYWORDS], ids="-".join)
def test_second_derivatives_are_slopes_of_the_first(pair):
    function, tensors = case(pair, batch=())
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        first = gradient(function, tensors)
        along = sum(tf.reduce_sum(tf.cos(tf.cast(tf.range(tf.size(g)), g.dtype)) * tf.reshape(g, (-1,))) for g in first)
    second = tape.gradient(along, tensors)

    def moved(step):
        arrays = [tensor + step * by for tensor, by in zip(tensors, directions, strict=True)]
        found = gradient(function, arrays)
        return sum(tf.reduce_sum(tf.cos(tf.cast(tf.range(tf.size(g)), g.dtype)) * tf.reshape(g, (-1,))) for g in found)

    directions = [direction(tensor, pair[0]) for tensor in tensors]
    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    got = sum(tf.reduce_sum(s * by) for s, by in zip(second, directions, strict=True))
    np.testing.assert_allclose(got, slope, rtol=1e-5)


def direction(tensor, keyword):
    """A direction that keeps matrices symmetric, or lower triangular."""
    by = tf.sin(tf.reshape(tf.range(tf.size(tensor), dtype=tensor.dtype), tensor.shape))
    if tensor.shape.rank == 2 and keyword in ("cov", "precision"):
        return by + tf.linalg.matrix_transpose(by)
    return tf.linalg.band_part(by, -1, 0) if tensor.shape.rank == 2 and keyword == "scale_tril" else by


@pytest.mark.parametrize("pair", [(name, "std") for name in KEYWORDS], ids="-".join)
def test_forward_mode_is_the_gradient_along_the_tangent(pair):
    function, tensors = case(pair, batch=())
    tangents = [direction(tensor, pair[0]) for tensor in tensors]
    with tf.autodiff.ForwardAccumulator(tensors, tangents) as accumulator:
        value = function(*tensors)
    found = gradient(function, tensors)
    want = sum(tf.reduce_sum(g * t) for g, t in zip(found, tangents, strict=True))
    close(accumulator.jvp(value), want, factor=1024)


def test_a_variable_is_read_when_the_divergence_is_computed():
    mean = tf.Variable([1.0, 2.0])
    p = gk.Gaussian(mean, std=1.0)
    with tf.GradientTape() as tape:
        value = gk.kl_divergence(p)
    close(tape.gradient(value, mean), tf.constant([1.0, 2.0]))
    mean.assign([0.0, 0.0])
    assert gk.kl_divergence(p) == 0


@pytest.mark.parametrize("name", [name for name in KEYWORDS if name not in ("row", "tfp")])
def test_variables_inside_a_traced_function(name):
    given = example(name)
    variables = {key: tf.Variable(value) for key, value in given.items()}
    constants = {key: tf.constant(value) for key, value in given.items()}

    @tf.function
    def traced():
        with tf.GradientTape() as tape:
            value = gk.kl_divergence(gk.Gaussian(**variables))
        return value, tape.gradient(value, list(variables.values()))

    value, found = traced()
    want = gradient(lambda *t: gk.kl_divergence(gk.Gaussian(**dict(zip(given, t, strict=True)))), [*constants.values()])
    close(value, gk.kl_divergence(gk.Gaussian(**constants)))
    close(found, want, factor=1024)


@pytest.mark.parametrize("sizes", [(5, 1), (1, 5), (1, 1), (5, 5)])
def test_sizes_that_only_the_run_tells_broadcast(sizes):
    xp = NAMESPACES[Backend.TENSORFLOW]
    traced = tf.function(xp.broadcast_arrays, input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None, 3))])
    shapes = [array.shape for array in traced(*(tf.zeros((size, 3)) for size in sizes))]
    assert shapes == [(max(sizes), 3)] * 2


@pytest.mark.parametrize("name", DIAGONAL)
def test_vectorized_map(name):
    function, tensors = case((name, name))
    close(tf.vectorized_map(lambda t: function(*t), tensors), function(*tensors))


# ---- what it refuses ----


def test_unknown_dimensions():
    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.float64)])
    def traced(mean):
        return gk.kl_divergence(gk.Gaussian(mean, std=1.0))

    with pytest.raises(ValueError, match=r"mean has shape \(None, None\): the number of dimensions must be known when"):
        traced(tf.zeros((2, 3), tf.float64))


def test_an_unknown_number_of_axes():
    @tf.function(input_signature=[tf.TensorSpec(None, tf.float64)])
    def traced(mean):
        return gk.kl_divergence(gk.Gaussian(mean, std=1.0))

    with pytest.raises(ValueError, match=r"mean has an unknown number of axes: say how many with tf\.ensure_shape"):
        traced(tf.zeros((2, 3), tf.float64))


UNSUITABLE = {
    "sparse": (lambda: tf.sparse.from_dense([[1.0, 0.0]]), "mean is a SparseTensor: convert it with tf.sparse"),
    "ragged": (lambda: tf.ragged.constant([[1.0], [1.0, 2.0]]), r"mean is a RaggedTensor: convert it with .to_tensor"),
    "slices": (lambda: tf.IndexedSlices(tf.ones(1), [0]), "mean is a IndexedSlices: convert it with tf.convert_to"),
    "string": (lambda: tf.constant(["a"]), "mean has dtype string: expected real numbers"),
    "bool": (lambda: tf.constant([True]), "mean has dtype bool: expected real numbers; convert it to a float dtype"),
    "complex": (lambda: tf.constant([1j]), "mean has dtype complex128: expected real numbers; take its real part"),
    "NumPy beside a tensor": (lambda: np.zeros(2), "mean is an array of numpy and std one of tensorflow"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUITABLE)
def test_unsuitable_arrays(kind):
    make, text = UNSUITABLE[kind]
    with pytest.raises(TypeError, match=f"^{text}"):
        gk.Gaussian(make(), std=tf.ones(2))


def test_keras_variables_and_placeholders():
    with pytest.raises(TypeError, match=r"^mean is a keras.*; pass its \.value$"):
        gk.Gaussian(keras.Variable([1.0]), std=1.0)
    with pytest.raises(TypeError, match=r"^mean is a keras.*; it has no values: do this inside of a layer"):
        gk.Gaussian(keras.Input((3,)), std=1.0)


def test_products_keep_their_digits_where_tensorfloat_32_is_on(monkeypatch):
    """A GPU would round the factors of a product to 10 bits."""
    xp = NAMESPACES[Backend.TENSORFLOW]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a GPU"])
    wide = []
    monkeypatch.setattr(tf, "matmul", lambda a, b, matmul=tf.matmul: wide.append(a.dtype) or matmul(a, b))
    assert xp.matmul(tf.eye(2), tf.eye(2)).dtype == tf.float32
    assert wide == [tf.float64]


# ---- the notebook, and a network that learns ----

SEED = json.loads((Path(__file__).parent / "data" / "seeds.json").read_text())["notebook_packed_tril"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook(request):
    """Packed as tfp.math.fill_triangular unpacks, in float32; its own divergence as the peer."""
    required = request.config.getoption("require_backend")
    tfp = (importlib.import_module if required else pytest.importorskip)("tensorflow_probability")
    packed = [tf.constant(SEED[f"packed_{which}"]) for which in "pq"]
    theirs = [tfp.distributions.MultivariateNormalTriL(tf.zeros(2), tfp.math.fill_triangular(x)) for x in packed]
    ours = [gk.Gaussian(tf.zeros(2), packed_tril=x, packing="tfp") for x in packed]
    for p, q in (theirs, ours):
        np.testing.assert_allclose(gk.kl_divergence(p, q), SEED["printed"], rtol=2**-23)
    np.testing.assert_allclose(tfp.distributions.kl_divergence(*theirs), SEED["printed"], rtol=2**-20)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_keras_model_learns(jit_compile):
    """Targets and predictions are a mean and a packed factor side by side."""
    keras.utils.set_random_seed(0)
    d = 2

    def split(y):
        diagonal = tf.nn.softplus(y[:, 2 * d :])
        off = y[:, d : 2 * d - 1]
        return gk.Gaussian(y[:, :d], packed_tril=tf.concat([diagonal[:, :1], off, diagonal[:, 1:]], 1), packing="row")

    def loss(y_true, y_pred):
        return gk.kl_divergence(split(y_true), split(y_pred), validate=False)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 3)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(3, 3 * d))).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(3 * d)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, jit_compile=jit_compile)
    losses = model.fit(x, y, epochs=8, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert (np.asarray(losses) > 0).all()
