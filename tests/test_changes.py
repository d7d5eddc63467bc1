"""Arrays that change after a Gaussian was made of them: a call sees them as they are, or says that they changed."""

import copy
import warnings

import numpy as np
import pytest
from spreads import KEYWORDS, array_names, example

import gausskl as gk

CHANGED = "the arrays of a Gaussian changed after it was made: "
PATHS = ("auto", "generic")


def fresh(name, batch=(8,), d=4, seed=0, **options):
    """Mean and spread, in memory that belongs to nobody else."""
    arrays = example(name, batch, d=d, seed=seed, **options)
    return {k: a if k == "packing" else np.array(a) for k, a in arrays.items()}


def kl(p, q, path="generic"):
    return np.asarray(gk.kl_divergence(p, q, path=path))


def shrink(array, shape, values):
    array.resize(shape, refcheck=False)
    array[...] = values


def reshape(array, shape, values):
    """NumPy's older way, which it may no longer have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            array.resize((int(np.prod(shape)),), refcheck=False)
            array.shape = shape
        except AttributeError:
            pytest.skip("the shape of an array cannot be set")
    array[...] = values


@pytest.mark.parametrize("change", [shrink, reshape])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", KEYWORDS)
def test_numpy_arrays_that_shrink_or_grow(name, path, change):
    given = fresh(name)
    p, q = gk.Gaussian(**given), gk.Gaussian(**fresh(name, seed=1))
    kl(p, q, path)
    for batch in [(2,), (1,), (40,), (2, 4)]:
        other, against = fresh(name, batch, seed=2), gk.Gaussian(**fresh(name, (), seed=3))
        for key in array_names(given):
            change(given[key], other[key].shape, other[key])
        np.testing.assert_array_equal(kl(p, against, path), kl(gk.Gaussian(**other), against, path))
        np.testing.assert_array_equal(kl(against, p, path), kl(against, gk.Gaussian(**other), path))
        assert gk.plan(p, against).batch_shape == p.batch_shape == batch
        assert f"batch={batch}" in repr(p)


@pytest.mark.parametrize("name", KEYWORDS)
def test_numpy_arrays_of_other_dimensions(name):
    given = fresh(name)
    p = gk.Gaussian(**given)
    kl(p, None, "auto")
    other = fresh(name, d=3, seed=1)
    for key in array_names(given):
        shrink(given[key], other[key].shape, other[key])
    assert p.event_size == 3
    np.testing.assert_array_equal(kl(p, None, "auto"), kl(gk.Gaussian(**other), None, "auto"))


CALLS = {
    "kl_divergence": lambda p, q: gk.kl_divergence(p, q),
    "its generic path": lambda p, q: gk.kl_divergence(p, q, path="generic"),
    "as q": lambda p, q: gk.kl_divergence(q, p),
    "alone": lambda p, q: gk.kl_divergence(p),
    "plan": lambda p, q: gk.plan(p, q),
    "warm_up": lambda p, q: gk.warm_up(p, q),
    "batch_shape": lambda p, q: p.batch_shape,
    "event_size": lambda p, q: p.event_size,
    "to_torch_distribution": lambda p, q: p.to_torch_distribution(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", KEYWORDS)
def test_arrays_that_no_longer_fit(name, call):
    given = fresh(name)
    p, q = gk.Gaussian(**given), gk.Gaussian(**fresh(name, seed=1))
    kl(p, q, "auto")
    for key in array_names(given)[1:]:
        given[key].resize((3, *given[key].shape[1:]), refcheck=False)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{CHANGED}the batch axes of mean .*do not broadcast"):
            CALLS[call](p, q)
    assert repr(p) == f"Gaussian({p.keyword}, of arrays that changed and no longer fit)"
    given["mean"].resize((3, 4), refcheck=False)
    assert p.batch_shape == (3,)


@pytest.mark.parametrize("dtype", ["float32", ">f8", "int64", "complex128"])
@pytest.mark.parametrize("path", PATHS)
def test_numpy_arrays_of_another_dtype(path, dtype):
    arrays = [np.random.default_rng(k).uniform(1, 2, (8, 4)) for k in range(4)]
    p, q = gk.Gaussian(arrays[0], std=arrays[1]), gk.Gaussian(arrays[2], std=arrays[3])
    kl(p, q, path)
    values = [(8 * array).astype(dtype) for array in arrays]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            for array, value in zip(arrays, values, strict=True):
                array.resize(8 * 4 * value.itemsize // 8, refcheck=False)
                array.dtype = dtype
                array.shape = value.shape
                array[...] = value
        except AttributeError:
            pytest.skip("the dtype of an array cannot be set")
    if dtype == "complex128":
        with pytest.raises(TypeError, match=f"^{CHANGED}mean has dtype complex128"):
            kl(p, q, path)
        return
    want = gk.Gaussian(values[0], std=values[1]), gk.Gaussian(values[2], std=values[3])
    got = kl(p, q, path)
    np.testing.assert_array_equal(got, kl(*want, path))
    assert got.dtype == kl(*want, path).dtype == ("float64" if dtype == "int64" else dtype)
    assert gk.plan(p, q).dtype == got.dtype.name


def test_numpy_arrays_that_say_they_are_not_aligned():
    mean, std = np.ones((8, 4)), np.ones((8, 4))
    p = gk.Gaussian(mean, std=std)
    want = kl(p, None, "auto")
    mean.setflags(align=False)
    np.testing.assert_array_equal(kl(p, None, "auto"), want)


def test_arrays_that_are_replaced():
    """They are kept in attributes, which nobody is kept from setting."""
    p = gk.Gaussian(np.zeros((8, 4)), std=np.ones((8, 4)))
    kl(p, None, "auto")
    p.mean = np.ones((2, 4), np.float32)
    p.arrays = (np.ones((2, 4), np.float32),)
    np.testing.assert_array_equal(kl(p, None, "auto"), [2.0, 2.0])


# ---- torch ----


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("way", "grad"), [("set_", False), ("resize_", False), ("data", False), ("data", True)])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["std", "cov", "scale_tril", "row", "low rank"])
def test_tensors_that_shrink_or_grow(torch, name, path, way, grad):
    def tensors(**options):
        arrays = fresh(name, **options)
        return {k: a if k == "packing" else torch.tensor(a) for k, a in arrays.items()}

    def change(tensor, value):
        if way == "data":
            tensor.data = value
        elif way == "set_":
            tensor.set_(value)
        else:
            tensor.resize_(value.shape).copy_(value)

    given = tensors()
    if grad:
        given = {k: a if k == "packing" else torch.nn.Parameter(a) for k, a in given.items()}
    p = gk.Gaussian(**given)
    gk.kl_divergence(p, path=path)
    for batch, d in [((2,), 4), ((1,), 4), ((40,), 4), ((2, 4), 3)]:
        other = tensors(batch=batch, d=d, seed=2)
        for key in array_names(given):
            try:
                change(given[key], other[key].clone())
            except RuntimeError:  # torch does not let memory grow that NumPy has seen
                with pytest.raises(ValueError, match=f"{CHANGED}.*its memory holds fewer numbers"):
                    gk.kl_divergence(p, path=path)
                return
        want = gk.kl_divergence(gk.Gaussian(**other), path=path)
        assert torch.equal(gk.kl_divergence(p, path=path), want)
        assert p.to_torch_distribution().batch_shape == batch
    given["mean"].data = torch.zeros(5, 7)
    with pytest.raises(ValueError, match=CHANGED):
        gk.kl_divergence(p, path=path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_module_of_another_dtype(torch, path, dtype):
    """The numbers beside its parameters follow, as they were given."""
    dtype = getattr(torch, dtype)
    layer = torch.nn.Linear(4, 8)
    p, q = gk.Gaussian(layer.weight, std=0.1), gk.Gaussian([0.1, 0.2, 0.3, 0.4], var=layer.weight.detach() ** 2 + 1)
    gk.kl_divergence(p, path=path)
    layer.to(dtype)
    got, want = gk.kl_divergence(p, path=path), gk.kl_divergence(gk.Gaussian(layer.weight, std=0.1), path=path)
    assert got.dtype == want.dtype == dtype
    assert torch.equal(got, want)
    assert gk.plan(p).dtype == str(dtype).removeprefix("torch.")
    assert gk.kl_divergence(p, q).dtype == torch.promote_types(dtype, torch.float32)


def test_a_tensor_on_another_device(torch):
    p = gk.Gaussian(torch.zeros(3, 4), std=torch.ones(3, 4))
    gk.kl_divergence(p)
    torch.utils.swap_tensors(p.mean, torch.zeros(3, 4, device="meta"))
    with pytest.raises(ValueError, match=f"{CHANGED}mean is on meta and std on cpu"):
        gk.kl_divergence(p)
    torch.utils.swap_tensors(p.arrays[0], torch.ones(3, 4, device="meta"))
    assert gk.kl_divergence(p).device.type == "meta"


def test_a_tensor_of_another_layout(torch):
    p = gk.Gaussian(torch.zeros(3, 4), std=torch.ones(3, 4))
    gk.kl_divergence(p)
    torch.utils.swap_tensors(p.arrays[0], torch.ones(3, 4).to_sparse())
    with pytest.raises(TypeError, match=r"std is a torch\.sparse_coo tensor"):
        gk.kl_divergence(p)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("name", ["std", "cov", "low rank"])
def test_tensors_that_change_before_the_backward_pass(torch, name, reduction):
    given = {k: torch.from_numpy(a) for k, a in fresh(name, (1000,)).items()}
    for tensor in given.values():
        tensor.requires_grad_()
    for value in (torch.zeros(1, 4).double(), torch.zeros(1000, 4)):
        p = gk.Gaussian(**given)
        loss = gk.kl_divergence(p, reduction=reduction).sum()
        before, given["mean"].data = given["mean"].data, value
        with pytest.raises(ValueError, match="compute the divergence again"):
            loss.backward()
        given["mean"].data = before
        gk.kl_divergence(p, reduction=reduction).sum().backward()


def test_a_constant_that_is_resized_before_the_backward_pass(torch):
    mean, std = torch.zeros(1000, 4, requires_grad=True), torch.ones(1000, 4)
    loss = gk.kl_divergence(gk.Gaussian(mean, std=std)).sum()
    std.resize_(1, 4)
    with pytest.raises((ValueError, RuntimeError), match=r"compute the divergence again|modified by an inplace"):
        loss.backward()


# ---- others ----


def test_a_dask_array_that_changes():
    da = pytest.importorskip("dask.array")
    mean, std = da.zeros((4, 3)), da.ones((4, 3))
    p = gk.Gaussian(mean, std=std)
    mean[1] = 1.0
    np.testing.assert_array_equal(np.asarray(gk.kl_divergence(p)), [0, 1.5, 0, 0])


def test_a_copy_follows_its_own_arrays():
    given = fresh("std")
    p = gk.Gaussian(**given)
    shallow, deep = copy.copy(p), copy.deepcopy(p)
    for array in given.values():
        array.resize((2, 4), refcheck=False)
    assert p.batch_shape == shallow.batch_shape == (2,)
    assert deep.batch_shape == (8,)
