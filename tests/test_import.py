"""`import gausskl` is light: it brings no backend with it and shows exactly its public names."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import gausskl

BACKENDS = ["cupy", "dask", "jax", "numba", "scipy", "tensorflow", "torch", "triton"]


def run(code):
    """Run code in a fresh interpreter and return what it prints."""
    source = str(Path(gausskl.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {source!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.split()


def loaded(code):
    names = run(f"{code}\nprint(*sys.modules)")
    assert "numpy" in names
    return {name.partition(".")[0] for name in names}


def test_no_backend_is_imported():
    assert not loaded("import gausskl") & set(BACKENDS)


def test_no_backend_is_imported_by_numpy_arrays():
    code = """
import gausskl
p = gausskl.Gaussian([0.0, 1.0], cov=[[2.0, 1.0], [1.0, 2.0]])
q = gausskl.Gaussian([0.0, 1.0], cov_factor=[[1.0], [2.0]], cov_diag=[1.0, 1.0])
gausskl.kl_divergence(p, q), gausskl.kl_divergence(p, path="generic"), gausskl.plan(p, q)
"""
    assert not loaded(code) & set(BACKENDS)


@pytest.mark.parametrize("name", ["dask.array", "jax", "torch"])
def test_a_backend_that_is_there_is_seen(name):
    """The test above can fail."""
    pytest.importorskip(name)
    assert name.partition(".")[0] in loaded(f"import gausskl, numpy, {name}") & set(BACKENDS)


def test_nothing_is_changed_by_the_import():
    code = """
import numpy, warnings
state = lambda: (numpy.geterr(), numpy.get_printoptions(), warnings.filters[:])
before = state()
import gausskl
print(before == state())
"""
    assert run(code) == ["True"]


def test_public_names():
    public = {
        name
        for name, value in vars(gausskl).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert gausskl.__all__ == sorted(public)
    assert {"Gaussian", "kl_divergence", "plan"} <= public


def test_version():
    assert gausskl.__version__.split(".")[0].isdigit()
