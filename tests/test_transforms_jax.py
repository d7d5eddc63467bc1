"""Every transform of JAX gives what the plain call gives, for every pair of structures."""

import itertools

import numpy as np
import pytest
from cases import STRUCTURES, side
from conftest import NAMESPACES
from differentiation import divergence_of

import gausskl as gk
from helpers import Backend

if Backend.JAX not in NAMESPACES:
    pytest.skip("JAX is not under test", allow_module_level=True)

import jax
import jax.numpy as jnp

PAIRS = [
    *((name, name) for name in STRUCTURES),
    ("std", "log_var"),
    ("var", "cov"),
    ("cov", "scale_tril"),
    ("cov", "std"),
    ("precision", "std"),
    ("low_rank", "cov"),
    ("log_std", "low_rank"),
    ("low_rank", "var"),
    ("scale_tril", "low_rank"),
]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids="-".join)


def example(pair, d=3):
    """A function of unconstrained arrays, and arrays for it, p and q apart by an ordinary distance."""
    p, q = side(pair[0], d=d), side(pair[1], d=d, seed=1)
    names = [(which, name) for which, g in enumerate((p, q)) for name in g if name != "packing"]

    def function(arrays):
        return divergence_of(names, list(map(_valid, names, arrays)), p, q)

    return function, [jnp.asarray(np.array((p, q)[which][name])) for which, name in names]


def _valid(name, array):
    if name[1] in ("cov", "precision"):
        return (array + array.mT) / 2
    return jnp.tril(array) if name[1] == "scale_tril" else array


def stacked(arrays):
    """Three Gaussians each, a little apart."""
    return [jnp.stack([array * (1 + 0.01 * k) for k in range(3)]) for array in arrays]


def rows(arrays):
    return [[array[k] for array in arrays] for k in range(3)]


def close(got, want, factor=64):
    got, want = (jax.tree.leaves(tree) for tree in (got, want))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=factor * 2.0**-52, atol=factor * 2.0**-52)


@every_pair
def test_jit(pair):
    function, arrays = example(pair)
    close(jax.jit(function)(arrays), function(arrays))


@every_pair
def test_vmap(pair):
    function, arrays = example(pair)
    batch = stacked(arrays)
    close(jax.vmap(function)(batch), jnp.stack([function(row) for row in rows(batch)]))


@every_pair
def test_jit_of_grad(pair):
    function, arrays = example(pair)
    close(jax.jit(jax.grad(function))(arrays), jax.grad(function)(arrays))


@every_pair
def test_vmap_of_grad(pair):
    function, arrays = example(pair)
    batch = stacked(arrays)
    one_by_one = [jax.grad(function)(row) for row in rows(batch)]
    want = [jnp.stack(parts) for parts in zip(*one_by_one, strict=True)]
    close(jax.vmap(jax.grad(function))(batch), want)


@every_pair
def test_jvp_is_the_gradient_along_the_tangent(pair):
    function, arrays = example(pair)
    tangents = [jnp.cos(jnp.arange(float(a.size))).reshape(a.shape) for a in arrays]
    value, tangent = jax.jvp(function, (arrays,), (tangents,))
    close(value, function(arrays))
    close(tangent, sum((g * t).sum() for g, t in zip(jax.grad(function)(arrays), tangents, strict=True)))


@every_pair
def test_hessian_is_the_derivative_of_the_gradient(pair):
    """Forward over reverse, reverse over reverse, and symmetric; compiled, or it takes JAX ten times as long."""
    function, arrays = example(pair, d=2)
    hessian = jax.jit(jax.hessian(function))(arrays)
    close(hessian, jax.jit(jax.jacrev(jax.grad(function)))(arrays), factor=1024)
    for i, j in itertools.combinations(range(len(arrays)), 2):
        axes = (*range(arrays[j].ndim, arrays[i].ndim + arrays[j].ndim), *range(arrays[j].ndim))
        close(hessian[i][j], jnp.transpose(hessian[j][i], axes), factor=1024)


@every_pair
def test_grad_is_the_slope(pair):
    """Against central differences, which are right to eight digits or so."""
    function, arrays = example(pair)
    tangents = [jnp.cos(jnp.arange(float(a.size))).reshape(a.shape) for a in arrays]

    def along(step):
        return function([a + step * t for a, t in zip(arrays, tangents, strict=True)])

    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    grad = sum((g * t).sum() for g, t in zip(jax.grad(function)(arrays), tangents, strict=True))
    np.testing.assert_allclose(grad, slope, rtol=1e-6)


@every_pair
def test_without_x64_everything_is_float32(pair):
    """As JAX is before anyone has set it otherwise: it computes in float32, to the accuracy of float32."""
    function, arrays = example(pair)
    transformed = jax.jit(jax.vmap(jax.value_and_grad(function)))
    narrow = [np.asarray(array, dtype=np.float32) for array in stacked(arrays)]
    exact = transformed([jnp.asarray(array, dtype=np.float64) for array in narrow])
    with jax.enable_x64(False):
        found = transformed([jnp.asarray(array) for array in narrow])
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert (got.dtype, want.dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(got, want, rtol=0, atol=16 * 2.0**-23 * np.abs(want).max())


def test_jit_over_the_spread_alone():
    """The mean is an ordinary array, and the result is not one."""
    mean, std = jnp.zeros(3), jnp.full((4, 3), 2.0)

    def function(s):
        return gk.kl_divergence(gk.Gaussian(mean, std=s))

    close(jax.jit(function)(std), function(std))
    close(jax.vmap(function)(std), function(std))


@pytest.mark.parametrize(("keyword", "unit"), [("std", 1e-30), ("var", 1e-15)])
def test_jit_of_grad_where_squares_leave_the_range(keyword, unit):
    """XLA must not merge two divisions into one by a product that is 0."""

    def function(mean_p, p, mean_q, q):
        return gk.kl_divergence(gk.Gaussian(mean_p, **{keyword: p}), gk.Gaussian(mean_q, **{keyword: q}))

    spreads = [jnp.asarray([x], jnp.float32) for x in (1.5e-30, 1e-30)]
    means = [jnp.asarray([x * unit], jnp.float32) for x in (2, 1)]
    grad = jax.grad(function, argnums=(0, 1, 2, 3))
    arguments = means[0], spreads[0], means[1], spreads[1]
    for compiled, plain in zip(jax.jit(grad)(*arguments), grad(*arguments), strict=True):
        assert jnp.isfinite(plain).all()
        np.testing.assert_allclose(compiled, plain, rtol=1e-6)
