"""The oracle itself: against published numbers, integrals, determinants and numerical derivatives."""

import json
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp

import reference

SEEDS = json.loads((Path(__file__).parent / "data" / "seeds.json").read_text())

DIAGONAL = {
    "std": {"std": np.array([2.0, 0.5])},
    "var": {"var": np.array([4.0, 0.25])},
    "scalar std": {"std": np.array(0.75)},
    "log_std": {"log_std": np.array([0.25, -0.5])},
    "log_var": {"log_var": np.array([0.5, -0.75])},
}
# One covariance under every keyword; all numbers are exact in binary.
DENSE = {
    "cov": {"cov": np.array([[4.0, 2.0], [2.0, 17.0]])},
    "scale_tril": {"scale_tril": np.array([[2.0, 0.0], [1.0, -4.0]])},
    "row": {"packed_tril": np.array([2.0, 1.0, 4.0]), "packing": "row"},
    "tfp": {"packed_tril": np.array([4.0, 1.0, 2.0]), "packing": "tfp"},
    "precision": {"precision": np.array([[17.0, -2.0], [-2.0, 4.0]]) / 64},
    "low rank": {"cov_factor": np.array([[1.0], [2.0]]), "cov_diag": np.array([3.0, 13.0])},
}
SPREADS = DIAGONAL | DENSE
MEANS = np.array([0.5, -1.0]), np.array([-0.25, 2.0])


def side(name, which=0):
    return {"mean": MEANS[which], **SPREADS[name]}


def covariance(g):
    """The covariance as an mpmath matrix; a second reading of the keywords for d = 2."""
    (name,) = g.keys() - {"mean", "packing", "cov_diag"}
    value = g[name]
    if name in ("std", "var", "log_std", "log_var"):
        square = {
            "std": lambda s: s**2,
            "var": lambda v: v,
            "log_var": mp.exp,
            "log_std": lambda x: mp.exp(2 * x),
        }
        entries = [value[()]] * 2 if value.ndim == 0 else value
        return mp.diag([square[name](mp.mpf(x)) for x in entries])
    if name == "packed_tril":
        value = [[value[0], 0], [value[1], value[2]]]
        if g["packing"] == "tfp":
            value[0][0], value[1][1] = value[1][1], value[0][0]
    matrix = mp.matrix(value if isinstance(value, list) else value.tolist())
    if name == "cov_factor":
        return matrix * matrix.T + mp.diag(g["cov_diag"].tolist())
    return {"cov": lambda: matrix, "precision": lambda: matrix**-1}.get(name, lambda: matrix * matrix.T)()


def textbook(p, q):
    """The divergence by determinants and inverses, at mpmath's present precision."""
    cov_p, cov_q = covariance(p), covariance(q)
    delta = mp.matrix([mp.mpf(a) - mp.mpf(b) for a, b in zip(p["mean"], q["mean"], strict=True)])
    inverse = cov_q**-1
    ratio = inverse * cov_p
    trace = sum(ratio[i, i] for i in range(len(delta)))
    maha = (delta.T * inverse * delta)[0]
    return (trace - len(delta) - mp.log(mp.det(cov_p) / mp.det(cov_q)) + maha) / 2


def agree(got, want, digits):
    with mp.workdps(digits + 10):
        return abs(got - want) <= abs(want) * mp.mpf(10) ** -digits


# ---- values ----


@pytest.mark.parametrize("keyword", ["std", "var"])
def test_published_batch(keyword):
    seed = SEEDS["forum_batch"]
    p, q = ({"mean": seed[f"mean_{s}"], keyword: seed[f"spread_{s}"]} for s in "pq")
    np.testing.assert_allclose(reference.kl(p, q).astype(float), seed[f"kl_as_{keyword}"], rtol=1e-14)


def test_published_packed_vector():
    seed = SEEDS["notebook_packed_tril"]
    zero = np.zeros(2)
    packed = ({"mean": zero, "packed_tril": seed[f"packed_{s}"], "packing": seed["packing"]} for s in "pq")
    dense = ({"mean": zero, "cov": seed[f"cov_{s}"]} for s in "pq")
    first, second = reference.kl(*packed)[()], reference.kl(*dense)[()]
    assert first == second
    assert agree(first, mp.mpf("0.6441068611198906"), 14)


@pytest.mark.parametrize("names", [("std", "var"), ("log_std", "std"), ("log_var", "log_var")])
def test_integral(names):
    """The definition, integrated: KL = ∫ p log(p/q) in one dimension."""
    p, q = ({name: a[..., :1] for name, a in side(name, i).items()} for i, name in enumerate(names))
    with mp.workdps(30):
        (mean_p, mean_q), (var_p, var_q) = (p["mean"][0], q["mean"][0]), (covariance(g)[0] for g in (p, q))

        def log_density(x, mean, var):
            return -((x - mean) ** 2) / (2 * var) - mp.log(2 * mp.pi * var) / 2

        def integrand(x):
            log_p = log_density(x, mean_p, var_p)
            return mp.exp(log_p) * (log_p - log_density(x, mean_q, var_q))

        reach = 12 * mp.sqrt(var_p)
        integral = mp.quad(integrand, mp.linspace(mean_p - reach, mean_p + reach, 9))
    assert agree(reference.kl(p, q)[()], integral, 20)


@pytest.mark.parametrize("name_q", SPREADS)
@pytest.mark.parametrize("name_p", SPREADS)
def test_every_pair_against_determinants(name_p, name_q):
    p, q = side(name_p, 0), side(name_q, 1)
    with mp.workdps(60):
        want = textbook(p, q)
    assert agree(reference.kl(p, q)[()], want, 30)


@pytest.mark.parametrize("name", DENSE)
def test_the_same_gaussian_under_two_keywords_is_at_distance_zero(name):
    assert reference.kl(side(name), side(name))[()] == 0
    assert reference.kl(side("cov"), side(name))[()] == 0
    assert reference.kl(side(name), side("cov"))[()] == 0


@pytest.mark.parametrize("name", DIAGONAL)
def test_per_dim_adds_up(name):
    p, q = side(name, 0), side("log_var", 1)
    per_dim = reference.kl_per_dim(p, q)
    assert per_dim.shape == (2,)
    with mp.workdps(60):
        assert agree(sum(per_dim), reference.kl(p, q)[()], 29)


@pytest.mark.parametrize("distance", [1e-8, 2.0**-52, 1e-100, 5e-324])
def test_near_equal_to_any_distance(distance):
    """For a small t, log-variances t apart give t²/4 (1 + t/3 + …)."""
    p, q = (
        {"mean": np.zeros(1), "log_var": np.array([distance])},
        {"mean": np.zeros(1), "log_var": np.zeros(1)},
    )
    with mp.workdps(40):
        t = mp.mpf(distance)
        want = t**2 / 4 + t**3 / 12 + t**4 / 48 + t**5 / 240
    assert agree(reference.kl(p, q)[()], want, 30)
    assert agree(reference.kl_per_dim(p, q)[0], want, 30)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ({"std": 1 + 2.0**-52}, {"std": 1.0}),
        ({"var": 1e300}, {"var": 1.0}),
        ({"var": 1e-300}, {"var": 1.0}),
        ({"std": 5e-324}, {"std": 1e-323}),
        ({"std": 1.7e308}, {"std": 1.6e308}),
    ],
)
def test_corners_of_float64(p, q):
    p, q = ({"mean": np.zeros(1), **{name: np.array([v]) for name, v in g.items()}} for g in (p, q))
    wide = ({**g, "mean": np.zeros(2)} | {n: np.repeat(a, 2) for n, a in g.items()} for g in (p, q))
    with mp.workdps(2000):
        want = textbook(*wide)
    with mp.workdps(60):
        assert agree(2 * reference.kl(p, q)[()], want, 30)


def test_condition_1e15():
    near = {"cov": np.array([[1.0, 1 - 2.0**-50], [1 - 2.0**-50, 1.0]])}
    p, q = {"mean": MEANS[0], **near}, {"mean": MEANS[0], "cov": near["cov"] + np.diag([2.0**-52, 0])}
    with mp.workdps(400):
        want = textbook(p, q)
    assert agree(reference.kl(p, q)[()], want, 30)


def test_repeated_dimensions_count_each_time():
    p, q = ({name: np.repeat(a, 500, axis=-1) for name, a in side("std", i).items()} for i in (0, 1))
    with mp.workdps(60):
        want = 500 * reference.kl(side("std", 0), side("std", 1))[()]
    assert agree(reference.kl(p, q)[()], want, 30)


# ---- shapes ----


@pytest.mark.parametrize("name", SPREADS)
def test_batches_broadcast(name):
    p = side(name) | {"mean": MEANS[0] + np.arange(3)[:, None, None]}
    q = {"mean": MEANS[1] * np.arange(1, 5)[:, None], "std": 1.5}
    together = reference.kl(p, q)
    assert together.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        assert together[i, j] == reference.kl(p | {"mean": p["mean"][i, 0]}, q | {"mean": q["mean"][j]})[()]


def test_empty_batch_single_pair_and_standard_normal():
    assert reference.kl({"mean": np.zeros((0, 3)), "std": 1.0}).shape == (0,)
    assert reference.kl({"mean": np.zeros(3), "std": 1.0}).shape == ()
    assert reference.kl({"mean": np.zeros(3), "std": 1.0})[()] == 0
    assert agree(reference.kl({"mean": np.ones(3), "cov": np.eye(3)})[()], mp.mpf(1.5), 30)


def test_low_precision_inputs_are_exact():
    p = {"mean": np.array([0.1], dtype=np.float32), "std": np.array([0.3], dtype=np.float16)}
    wider = {name: a.astype(np.float64) for name, a in p.items()}
    assert reference.kl(p)[()] == reference.kl(wider)[()]


def test_packing_as_documented():
    """TensorFlow Probability writes the tail of x, then x reversed, row by row, and keeps the lower half."""
    filled = np.zeros((3, 3))
    filled[reference.packed_positions(3, "tfp")] = range(1, 7)
    np.testing.assert_array_equal(filled, [[4, 0, 0], [6, 5, 0], [3, 2, 1]])
    for d in range(1, 8):
        x = np.arange(1, d * (d + 1) // 2 + 1)
        filled = np.zeros((d, d))
        filled[reference.packed_positions(d, "tfp")] = x
        np.testing.assert_array_equal(filled, np.tril(np.concatenate([x[d:], x[::-1]]).reshape(d, d)))


# ---- gradients ----


@pytest.mark.parametrize("name_q", SPREADS)
@pytest.mark.parametrize("name_p", SPREADS)
def test_gradient_against_numerical_derivatives(name_p, name_q):
    pair = side(name_p, 0), side(name_q, 1)
    for which, grads in enumerate(reference.gradient(*pair)):
        assert grads.keys() == pair[which].keys() - {"packing"}
        for name, grad in grads.items():
            given = pair[which][name].astype(object)
            assert grad.shape == given.shape
            for index in np.ndindex(given.shape):
                if name == "scale_tril" and index == (0, 1):
                    assert grad[index] == 0
                    continue

                def moved(x, which=which, name=name, given=given, index=index):
                    changed = given.copy()
                    changed[index] = x
                    return textbook(*(g | {name: changed} if i == which else g for i, g in enumerate(pair)))

                with mp.workdps(30):
                    want = mp.diff(moved, mp.mpf(given[index]))
                    assert abs(grad[index] - want) <= (1 + abs(want)) * mp.mpf(10) ** -20


@pytest.mark.parametrize("name", SPREADS)
def test_gradient_is_zero_at_equality(name):
    for grads in reference.gradient(side(name), side(name)):
        assert all((grad == 0).all() for grad in grads.values())


def test_gradient_against_the_standard_normal():
    grads, none = reference.gradient({"mean": np.array([3.0]), "std": np.array([2.0])})
    assert none == {}
    assert grads["mean"][0] == 3
    assert grads["std"][0] == 1.5
