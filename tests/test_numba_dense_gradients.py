"""Gradients of dense pairs by the compiled pass: as right as the formulas', for every row, of every tensor's shape."""

import functools
import itertools

import numpy as np
import pytest
from cases import within
from conftest import NAMESPACES
from differentiation import divergence_of
from mpmath import mp
from spreads import DIAGONAL, array_names, covariance, restated, rows, symmetric

import gausskl as gk
import reference
from helpers import Backend

pytest.importorskip("numba")
if Backend.TORCH not in NAMESPACES:
    pytest.skip("torch is not under test", allow_module_level=True)

import torch
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck

from gausskl._fast.cpu import threads as cpu_threads
from gausskl._fast.cpu.dense import call
from gausskl._fast.leaves import load
from gausskl._formulas.kl import KL
from gausskl._plan import plan_for

FACTORS = "scale_tril", "row", "tfp"
PAIRS = [
    ("cov", "cov"),
    ("scale_tril", "row"),
    ("tfp", "cov"),
    ("cov", "scale_tril"),
    ("std", "cov"),
    ("cov", "log_var"),
    ("log_std", "tfp"),
    ("row", "var"),
    ("precision", "scale_tril"),  # left to the formulas, as all precisions are
]
# torch warns of what it does itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
few_pairs = pytest.mark.parametrize(("name_p", "name_q"), PAIRS[:3])
every_pair = pytest.mark.parametrize(("name_p", "name_q"), PAIRS)


def drawn(name_p, name_q, batch=(), d=5, distance=None, seed=0, dtype=np.float64):
    """A pair, unrelated or so far apart; close to a diagonal if one of the two is diagonal. Columns have any sign."""
    rng = np.random.default_rng((seed, d))
    sides, common = [], factor(rng, batch, d, diagonal={name_p, name_q} & {*DIAGONAL})
    for name in (name_p, name_q):
        step = np.eye(d) + (distance or 0) * np.tril(rng.uniform(-0.4, 0.4, (*batch, d, d)))
        lower = (factor(rng, batch, d) if distance is None else common) @ step
        g = restated((distance or 1) * rng.normal(size=(*batch, d)), symmetric(lower @ lower.mT), name)
        if name in FACTORS:
            g = with_signs(g, name, rng.choice([-1.0, 1.0], d))
        sides.append({k: a if k == "packing" else np.asarray(a, dtype) for k, a in g.items()})
    return sides


def factor(rng, batch, d, diagonal=False):
    scale = np.exp(rng.uniform(-0.7, 0.7, (*batch, d)))
    below = rng.uniform(-0.8, 0.8, (*batch, d, d)) / np.sqrt(d)
    return scale[..., None] * (np.eye(d) + (0 if diagonal else np.tril(below, -1)))


def with_signs(g, name, signs):
    if name == "scale_tril":
        return g | {name: g[name] * signs}
    _, columns = reference.packed_positions(len(signs), name)
    return g | {"packed_tril": g["packed_tril"] * signs[columns]}


def names_of(p, q):
    return [(k, name) for k, g in enumerate((p, q)) for name in g if name != "packing"]


def gradients(p, q, weights=None, path="numba", **options):
    """Gradients of the weighted sum of the divergences, by the names of the arrays."""
    names = names_of(p, q)
    leaves = [torch.tensor((p, q)[k][name], requires_grad=True) for k, name in names]
    result = divergence_of(names, leaves, p, q, path=path, **options)
    weights = torch.ones_like(result) if weights is None else torch.tensor(weights, dtype=result.dtype)
    found = grad(result, leaves, weights)
    return {f"{'pq'[k]}.{name}": g.numpy() for (k, name), g in zip(names, found, strict=True)}


def same_bits(got, want):
    return got.shape == want.shape and got.dtype == want.dtype and got.tobytes() == want.tobytes()


# ---- against the oracle ----


def exact(p, q):
    """The exact gradients of one pair, and the sizes of the terms they are sums of: spread's part and mean's part."""
    whole, spread = reference.gradient(p, q), reference.gradient(p | {"mean": q["mean"]}, q)
    with mp.workdps(40):
        return {
            f"{side}.{name}": (w[name], abs(s[name]) + abs(w[name] - s[name]))
            for side, w, s in zip("pq", whole, spread, strict=True)
            for name in w
        }


def errors(got, p, q):
    """For each array, the largest error of a row in eps of the size of its terms (2-norms)."""
    worst = dict.fromkeys(got, 0.0)
    for k in range(len(p["mean"])):
        for name, (want, size) in exact(rows(p, k), rows(q, k)).items():
            with mp.workdps(40):
                error = mp.sqrt((abs(want - got[name][k].astype(float)) ** 2).sum() / (size**2).sum())
            worst[name] = max(worst[name], float(error) / np.finfo(got[name].dtype).eps)
    return worst


def cost(p, q):
    return max(reference.cond_correlation(covariance(g)).max() for g in (p, q))


@pytest.mark.parametrize("distance", [None, 1e-4], ids=["unrelated", "1e-4 apart"])
@every_pair
def test_within_16_and_the_condition(name_p, name_q, distance):
    """A spread that is converted costs a rounding of its own, which near equality is large beside the gradient."""
    p, q = drawn(name_p, name_q, (9,), distance=distance)
    kept = {name_p, name_q} <= {*FACTORS, "cov", "std"}
    found = errors(gradients(p, q), p, q)
    assert within([*found.values()], (16 + cost(p, q)) * (1 if kept or distance is None else 1 / distance)), found


@pytest.mark.parametrize("d", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("name_p", "name_q"), PAIRS[:2])
def test_every_block_size(name_p, name_q, d):
    for distance in (None, 1e-4):
        p, q = drawn(name_p, name_q, (3,), d, distance)
        found = errors(gradients(p, q), p, q)
        assert within([*found.values()], 16 + cost(p, q)), found


@few_pairs
def test_many_dimensions_as_the_formulas(name_p, name_q):
    for d in (33, 128):
        p, q = drawn(name_p, name_q, (3,), d)
        want = gradients(p, q, path="generic")
        for name, g in gradients(p, q).items():
            np.testing.assert_allclose(g, want[name], rtol=1e-11, atol=1e-11 * np.max(abs(want[name])), err_msg=name)


@few_pairs
def test_float32_is_rounded_once(name_p, name_q):
    for distance in (None, 1e-3):
        p, q = drawn(name_p, name_q, (9,), distance=distance, dtype=np.float32)
        got = gradients(p, q)
        assert all(g.dtype == np.float32 for g in got.values())
        found = errors(got, p, q)
        assert within([*found.values()], 0.51), found


# ---- rows ----


@few_pairs
def test_equal_rows_have_gradient_0_beside_others(name_p, name_q):
    name = name_p
    p, q = drawn(name, name, (17,))
    for key in p.keys() - {"packing"}:
        q[key][::3] = p[key][::3]
    for name, g in gradients(p, q).items():
        assert (g[::3] == 0).all(), name
        assert (g[1::3] != 0).any(), name


@pytest.mark.parametrize("d", [3, 5])
@few_pairs
def test_a_row_has_the_same_gradient_wherever_it_stands(monkeypatch, name_p, name_q, d):
    """With a weight of its own; the weights of others do not reach it."""
    p, q = drawn(name_p, name_q, (20,), d)
    weights = np.random.default_rng(0).normal(size=20)
    alone = [gradients(rows(p, k), rows(q, k), weights[k]) for k in range(20)]
    once = gradients(p, q)
    for threads, piece in ((1, 1e6), (1, 1), (3, 1)):
        monkeypatch.setattr(cpu_threads, "count", lambda library, threads=threads: threads)
        monkeypatch.setattr(call, "PIECE", piece)
        for start, size in itertools.product((0, 3), (1, 2, 3, 7, 8, 9, 15, 16, 17, 20)):
            part = slice(start, start + size)
            for name, g in gradients(rows(p, part), rows(q, part), weights[part]).items():
                assert same_bits(g, np.stack([a[name] for a in alone[part]])), name
    for name, g in once.items():
        weight = weights.reshape(-1, *[1] * (g.ndim - 1))
        np.testing.assert_allclose(np.stack([a[name] for a in alone]), g * weight, rtol=1e-15, atol=0)


@every_pair
def test_reductions(name_p, name_q):
    p, q = drawn(name_p, name_q, (11,))
    weights = np.random.default_rng(0).normal(size=11)
    each = gradients(p, q)
    for options, factors in (
        ({}, np.ones(11)),
        ({"weights": weights}, weights),
        ({"reduction": "sum"}, np.ones(11)),
        ({"reduction": "sum", "weights": -3.0}, np.full(11, -3)),
        ({"reduction": "mean", "weights": 2.0}, np.full(11, 2 / 11)),
    ):
        got, formulas = (gradients(p, q, path=path, **options) for path in ("numba", "generic"))
        for name, g in got.items():
            want = each[name] * factors.reshape(-1, *[1] * (g.ndim - 1))
            np.testing.assert_allclose(g, want, rtol=1e-14, atol=1e-14 * abs(g).max(), err_msg=name)
            np.testing.assert_allclose(g, formulas[name], rtol=1e-12, atol=1e-12 * abs(g).max(), err_msg=name)


# ---- shared and broadcast ----


def total(a, shape, axes):
    """Sum over the batch axes that an array of this shape lacks, or in which it has length 1."""
    a = a.astype(np.longdouble)
    a = a.sum(axis=tuple(range(a.ndim - len(shape))))
    return a.sum(axis=tuple(k for k in range(len(shape) - axes) if shape[k] < a.shape[k]), keepdims=True)


def axes_of(name):
    return 2 if name[2:] in ("cov", "scale_tril", "precision") else 1


def spread_out(g, batch):
    """A copy of every array for each element of the batch."""
    return {
        k: a if k == "packing" else np.broadcast_to(a, (*batch, *a.shape[a.ndim - axes_of(f"p.{k}") :])).copy()
        for k, a in g.items()
    }


def check_sums(p, q, batch):
    """Each gradient is the sum over the rows that share the array, to some eps of all that is summed."""
    weights = np.random.default_rng(1).normal(size=batch).astype(p["mean"].dtype)
    got = gradients(p, q, weights)
    each = gradients(*(spread_out(g, batch) for g in (p, q)), weights)
    for name, g in got.items():
        assert g.shape == {"p": p, "q": q}[name[0]][name[2:]].shape
        want, size = (total(a, g.shape, axes_of(name)) for a in (each[name], abs(each[name])))
        assert within(abs(g - want), 32 * np.finfo(g.dtype).eps * size), name
    return got


BATCHES = [((11,), ()), ((), (11,)), ((11,), (1,)), ((3, 1), (1, 4)), ((2, 1, 5), (3, 1)), ((3, 4), (4,)), ((3, 0), ())]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("batch_p", "batch_q"), BATCHES, ids=str)
def test_every_broadcast_tensor_gets_a_gradient_of_its_own_shape(batch_p, batch_q, dtype):
    batch = np.broadcast_shapes(batch_p, batch_q)
    for names, other in itertools.product(PAIRS[:3], (None, (), batch)):
        p, q = drawn(*names, batch_p, dtype=dtype)[0], drawn(*names, batch_q, seed=1, dtype=dtype)[1]
        if other is not None:  # means and spreads of different batches
            p["mean"], q["mean"] = np.ones(5, dtype), np.random.default_rng(0).normal(size=(*other, 5)).astype(dtype)
        check_sums(p, q, batch)


@pytest.mark.parametrize("shared", ["q", "p", "spreads", "all but a mean"])
@few_pairs
def test_a_sum_over_10_000_rows_does_not_depend_on_the_threads(monkeypatch, name_p, name_q, shared):
    one, rest = drawn(name_p, name_q, seed=1), drawn(name_p, name_q, (10_000,))
    p, q = (one[k] if shared in ("pq"[k], "spreads", "all but a mean") else rest[k] for k in (0, 1))
    if shared in ("spreads", "all but a mean"):
        p = p | {"mean": rest[0]["mean"]}
    if shared == "spreads":
        q = q | {"mean": rest[1]["mean"]}
    monkeypatch.setattr(call, "PIECE", 1e4)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(cpu_threads, "count", lambda library, threads=threads: threads)
        found.append(check_sums(p, q, (10_000,)))
    assert all(same_bits(a[name], g) for a in found[1:] for name, g in found[0].items())


@pytest.mark.parametrize("shape", [(), (1,), (11, 1), (5,)], ids=str)
@pytest.mark.parametrize(("name_p", "name_q"), [("std", "cov"), ("cov", "log_var")])
def test_one_number_for_several_dimensions_gets_one_gradient(name_p, name_q, shape):
    p, q = pair = drawn(name_p, name_q, (11,))
    one, name, key = (p, "std", "p.std") if name_p == "std" else (q, "log_var", "q.log_var")
    one[name] = np.full((11, 5), 0.7)
    each = gradients(*pair)[key]
    one[name] = np.full(shape, 0.7)
    got = gradients(*pair)[key]
    assert got.shape == shape
    axis = 1 if shape == (11, 1) else 0 if shape == (5,) else None
    np.testing.assert_allclose(got, each.sum(axis).reshape(shape), rtol=1e-13, atol=1e-15 * abs(each).sum())


# ---- special rows ----


@pytest.mark.parametrize("number", [1e200, np.nan])
@pytest.mark.parametrize("shared", [False, True], ids=["own q", "shared q"])
@pytest.mark.parametrize(("name_p", "name_q"), [*PAIRS[:3], ("std", "cov")])
def test_a_special_row_leaves_the_others_right(name_p, name_q, shared, number):
    """A divergence that overflows, or one that is NaN, and with it what it shares with others."""
    p, q = drawn(name_p, name_q, (9,))
    q = rows(q, 0) if shared else q
    good = gradients(p, q)
    p["mean"][4, 1] = number
    assert not np.isfinite(gk.kl_divergence(gk.Gaussian(**p), gk.Gaussian(**q), validate=False)[4])
    for name, g in gradients(p, q, validate=False).items():
        if name[0] == "q" and shared:
            assert number == 1e200 or not np.isfinite(g).all(), name
        else:
            np.testing.assert_allclose(np.delete(g, 4, 0), np.delete(good[name], 4, 0), rtol=1e-12, atol=1e-12)
            assert np.isfinite(number) or name == "p." + array_names(p)[1] or np.isnan(g[4]).any(), name


# ---- torch, in all the ways in which it differentiates ----


def example(name_p, name_q, batch=(2,), d=2, dtype=np.float64):
    """Function of the tensors of a pair, and the tensors."""
    p, q = drawn(name_p, name_q, batch, d, dtype=dtype)
    names = names_of(p, q)
    x = tuple(torch.tensor((p, q)[k][name], requires_grad=True) for k, name in names)

    def f(*x, **options):
        x = [symmetric_part(t) if name == "cov" else t for t, (_, name) in zip(x, names, strict=True)]
        return divergence_of(names, x, p, q, **options)

    return f, x


def symmetric_part(t):
    return (t + t.mT) / 2


@pytest.mark.parametrize(("name_p", "name_q"), [("tfp", "cov"), ("cov", "log_var")])
def test_gradcheck_and_gradgradcheck(name_p, name_q):
    f, x = example(name_p, name_q)
    for options in ({}, {"reduction": "mean"}):
        assert gradcheck(functools.partial(f, path="numba", **options), x)
    assert gradgradcheck(functools.partial(f, path="numba"), x)


def second(f, x):
    first = grad(f(*x).square().sum(), x, create_graph=True)
    return grad(sum(g.square().sum() for g in first), x)


def forward_mode(f, x):
    with forward_ad.dual_level():
        return [forward_ad.unpack_dual(f(*(forward_ad.make_dual(t.detach(), t.detach()) for t in x))).tangent]


def twice(f, x):
    loss = f(*x).sum()
    return *grad(loss, x, retain_graph=True), *grad(loss, x)


WAYS = {
    "backward twice": twice,
    "create_graph": second,
    "is_grads_batched": lambda f, x: grad(f(*x), x, torch.eye(2, dtype=torch.float64), is_grads_batched=True),
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "no_grad": lambda f, x: [torch.no_grad()(f)(*x)],
    "negated views": lambda f, x: grad(f(*(torch.complex(t, -t).conj().imag for t in x)).sum(), x),
    "parameters": lambda f, x: twice(f, tuple(torch.nn.Parameter(t.detach()) for t in x)),
}
STEPS_ASIDE = {
    "forward mode": forward_mode,
    "func.grad": lambda f, x: torch.func.grad(lambda *x: f(*x).sum(), (*range(len(x)),))(*x),
    "func.vmap": lambda f, x: [torch.func.vmap(f)(*x)],
    "func.hessian": lambda f, x: sum(torch.func.hessian(lambda *x: f(*x).sum(), (*range(len(x)),))(*x), ()),
}


@pytest.mark.parametrize("way", [*WAYS, *STEPS_ASIDE])
@pytest.mark.parametrize(("name_p", "name_q"), [("cov", "cov"), ("tfp", "cov")])
def test_every_way_to_differentiate_gives_what_the_formulas_give(way, name_p, name_q):
    run, (f, x) = (WAYS | STEPS_ASIDE)[way], example(name_p, name_q)
    got, want = (run(functools.partial(f, path=path), x) for path in ("auto", "generic"))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-11, atol=1e-11)
    for options in ({"path": "numba"}, {"precise": True}):
        if way in WAYS:
            assert len(run(functools.partial(f, **options), x)) == len(want)
        else:
            with pytest.raises(ValueError, match=r"cannot serve this call: .* is at work"):
                run(functools.partial(f, **options), x)


def test_precise_says_why_it_cannot_be_compiled():
    f, x = example("tfp", "cov")
    compiled = torch.compile(functools.partial(f, precise=True), backend="eager")
    with pytest.raises(
        (ValueError, torch._dynamo.exc.TorchRuntimeError), match="precise=True cannot serve this call: "
    ):
        compiled(*(t.detach() for t in x))


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    made, compute = [], call.gradients
    monkeypatch.setattr(call, "gradients", lambda *args: made.append(compute(*args)) or made[-1])
    for names in PAIRS[:3]:
        p, q = drawn(*names, (4,))
        everything = [*gradients(p, q).values()]
        for asked in itertools.product((False, True), repeat=4):
            leaves = [
                torch.tensor((p, q)[k][n], requires_grad=want)
                for (k, n), want in zip(names_of(p, q), asked, strict=True)
            ]
            result = divergence_of(names_of(p, q), leaves, p, q).sum()
            assert result.requires_grad == any(asked)
            if any(asked):
                result.backward()
                assert [g is not None for g in made[-1]] == list(asked)
            for leaf, want, g in zip(leaves, asked, everything, strict=True):
                assert same_bits(leaf.grad.numpy(), g) if want else leaf.grad is None


@few_pairs
def test_tensors_and_cotangents_may_lie_anywhere(name_p, name_q):
    p, q = drawn(name_p, name_q, (6,))
    names, cotangent = names_of(p, q), np.random.default_rng(0).normal(size=6)
    want = [*gradients(p, q, cotangent).values()]
    layouts = [
        lambda a: torch.tensor(np.stack([a, np.full_like(a, np.nan)], -1))[..., 0],
        lambda a: torch.tensor(np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0)),
        lambda a: torch.tensor(a).movedim(0, -1).contiguous().movedim(-1, 0),
    ]
    for layout in layouts:
        leaves = [layout((p, q)[k][name]).requires_grad_() for k, name in names]
        result = divergence_of(names, leaves, p, q, path="numba")
        for g, w in zip(grad(result, leaves, layout(cotangent)), want, strict=True):
            assert same_bits(g.numpy(), w)


# ---- twice the digits ----


def singular(rng, d, cond):
    """A covariance of this condition and its factor."""
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return symmetric((turn * np.geomspace(1, 1 / cond, d)) @ turn.T)


@pytest.mark.parametrize("distance", [None, 2.0**-20])
@pytest.mark.parametrize("name", ["cov", "scale_tril"])
def test_precise_gradients_need_no_condition(name, distance):
    for d in (2, 5, 9):
        rng = np.random.default_rng(d)
        covs = [singular(rng, d, 1e13) for _ in "pq"]
        sides = [restated(rng.normal(size=(1, d)), cov[None], name) for cov in covs]
        if distance:
            sides[1] = {key: a * (1 + distance) for key, a in sides[0].items()}
        found = errors(gradients(*sides, precise=True), *sides)
        assert within([*found.values()], 16), found


def test_a_loss_with_precise_has_gradients_of_every_kind():
    for names in (("cov", "cov"), ("scale_tril", "scale_tril"), ("precision", "cov")):
        p, q = drawn(*names, (9,))
        precise, plain = (gradients(p, q, precise=on, reduction="mean") for on in (True, False))
        for name, g in precise.items():
            np.testing.assert_allclose(g, plain[name], rtol=1e-11, atol=1e-12, err_msg=name)
        got = gradients(p, p, precise=True)
        assert all((g == 0).all() for g in got.values()) or names[0] == "precision"


# ---- the memory that kernels work in ----


@pytest.mark.parametrize(
    ("name_p", "name_q", "d", "precise"),
    [(*names, d, False) for names in PAIRS[:3] for d in (3, 5)]
    + [("cov", "cov", 128, False), ("tfp", "cov", 128, False), ("cov", "cov", 9, True), ("cov", "cov", 64, True)],
)
def test_a_kernel_reads_no_old_numbers_and_writes_to_its_workspace_alone(monkeypatch, name_p, name_q, d, precise):
    p, q = drawn(name_p, name_q, (11,), d)
    want, made = gradients(p, q, precise=precise), []

    def workspace(size):
        whole = np.full(size + 3 * 4096, 0xFF, np.uint8)
        start = 4096 + (1 - whole.ctypes.data) % 64  # the worst place for what has to be aligned
        made.append((whole, start, size))
        return whole[start : start + size]

    monkeypatch.setattr(cpu_threads, "workspace", workspace)
    assert all(same_bits(g, want[name]) for name, g in gradients(p, q, precise=precise).items())
    assert len(made) > 1
    for whole, start, size in made:
        assert (whole[:start] == 0xFF).all()
        assert (whole[start + size :] == 0xFF).all()


@few_pairs
def test_gradients_are_written_to_their_rows_alone(name_p, name_q):
    for size, d in itertools.product((1, 7, 8, 11), (3, 5)):
        p, q = drawn(name_p, name_q, (size,), d)
        want = gradients(p, q)
        job = plan_for(KL, gk.Gaussian(**p), gk.Gaussian(**q), False, "auto", False).job
        load(job)
        arrays = [a for g in (p, q) for k, a in g.items() if k != "packing"]
        whole = [np.full((size + 9, a[0].size), 7.0) for a in arrays]
        outputs, nothing = [a[1 : size + 1] for a in whole], np.empty((0, 8))
        work = np.empty(call._work_size(job, True), np.uint8)
        job.kernel("backward")(*arrays, np.ones(size), *outputs, *[nothing] * 4, work, 0, size)
        for a, output, g in zip(whole, outputs, want.values(), strict=True):
            assert same_bits(output.reshape(g.shape), g)
            assert (a[:1] == 7).all()
            assert (a[size + 1 :] == 7).all()
