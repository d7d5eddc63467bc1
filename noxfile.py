"""One session per job: `nox` runs them all, `nox -s "tests(torch)"` runs one.

Every install reads `.ci/constraints.txt`.
"""

import os

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")

CUPY = os.environ.get("GAUSSKL_CUPY", "cupy")  # cupy-cuda13 for CUDA 13

# What each backend's environment holds besides the test tools.
BACKENDS = {
    "numpy": [".[numba]", "ndonnx", "onnxruntime"],
    "array_api_strict": [".", "array-api-strict"],
    "torch": [".[numba,torch]"],
    "jax": [".[jax]", "numpyro"],
    "dask": [".[dask]", "distributed"],
    "tensorflow": [".", "tensorflow-cpu", "tensorflow-probability"],
    "triton": [".[torch-cuda13]", "triton"],
    "cupy": [f".[{CUPY}]", f"nvidia-cuda-nvrtc{'-cu12' if CUPY == 'cupy' else ''}"],  # NVRTC compiles without a GPU
}

# TensorFlow Probability asks for tf-keras, which would bring TensorFlow's other build.
WITHOUT_DEPENDENCIES = {"tensorflow": ["tf-keras"]}

# The pages whose examples need an array library.
PAGES = {"torch": "distributions", "tensorflow": "tensorflow"}

# What is tested a second time, with the formulas in place of compiled kernels.
FORMULAS = ["test_accuracy.py", "test_gradients.py", "test_rules.py", "test_transforms_torch.py"]

# The tests of a session on all cores; each takes neighbours, which share what they compare with.
PYTEST = "pytest", "-n", "auto", "--dist", "worksteal"

# What a GPU is tested with: values, gradients and rules on its arrays, and the kernels.
ON_GPU = [f"test_{name}.py" for name in ("accuracy", "accuracy_dense", "accuracy_low_rank", "properties", "rules")]
KERNELS = {
    "triton": ["test_triton.py", "test_triton_source.py", "test_torch_cuda_leaf.py", "test_torch_cuda_source.py"],
    "cupy": ["test_cuda_source.py", "test_cuda_dense.py", "test_cupy_leaf.py"],
}
# The sessions `triton` and `cupy` run these.
ELSEWHERE = [f"--ignore=tests/{name}" for names in KERNELS.values() for name in names]
# Triton's interpreter does everything one element after the other: diagonal pairs, which its kernels serve.
INTERPRETED = ["test_triton.py", "test_accuracy.py", "test_gradients.py"]

CUDA_PROBE = """
import {library}
try:
    print({library}.zeros(1, **{arguments}).device)
except Exception as error:
    print(f"{library}: NOT TESTED ON A GPU: {{error}}")
"""


def install(session: nox.Session, *requirements: str, group: str) -> None:
    """Install requirements and a dependency group, at the versions of the constraints file."""
    tools = nox.project.dependency_groups(PYPROJECT, group)
    session.install("--constraint", ".ci/constraints.txt", *requirements, *tools)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the code (ruff) and of the project (sp-repo-review)."""
    install(session, group="lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("sp-repo-review", "--show", "err", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package (mypy, strict)."""
    install(session, ".", group="types")
    session.run("mypy", *session.posargs)


@nox.session
@nox.parametrize("backend", [nox.param(name, id=name) for name in BACKENDS])
def tests(session: nox.Session, backend: str) -> None:
    """Test one array library. It must be there and work: a missing one is a failure."""
    install(session, *BACKENDS[backend], group="tests")
    for package in WITHOUT_DEPENDENCIES.get(backend, []):
        session.install("--constraint", ".ci/constraints.txt", "--no-deps", package)
    if backend in KERNELS:
        on_gpu(session, backend)
        return
    session.run(*PYTEST, *ELSEWHERE, "--require-backend", backend, *session.posargs)
    if backend in PAGES:
        session.run("pytest", "docs/test_pages.py", "-k", PAGES[backend])
    if backend == "torch":  # `minimums` does this for NumPy
        files = [f"tests/{name}" for name in FORMULAS]
        without = "--without-numba", "-k", "not compile and not export"  # which never use it
        session.run(*PYTEST, "--require-backend", backend, *without, *files, *session.posargs)


def on_gpu(session: nox.Session, backend: str) -> None:
    """Test what runs on a GPU; where there is none, what can be tested of it without."""
    library, arguments = ("torch", {"device": "cuda"}) if backend == "triton" else ("cupy", {})
    found = session.run("python", "-c", CUDA_PROBE.format(library=library, arguments=arguments), silent=True)
    print(found)
    kernels = [f"tests/{name}" for name in KERNELS[backend]]
    everything = [*(f"tests/{name}" for name in ON_GPU), *kernels]
    if "NOT TESTED" not in found:
        device = ["--torch-device", "cuda", "tests/test_gradients.py"] if backend == "triton" else []
        session.run(*PYTEST, "--require-backend", library, *device, *everything, *session.posargs)
    elif backend == "cupy":
        session.run(*PYTEST, *kernels, *session.posargs)
    else:
        files = [f"tests/{name}" for name in INTERPRETED]
        options = ["--require-backend", "torch", "--torch-device", "interpreter", "-k", "not dense and not structures"]
        session.run(*PYTEST, "--require-backend", "torch", *kernels, *session.posargs)
        session.run(*PYTEST, *options, *files, *session.posargs)


@nox.session
def minimums(session: nox.Session) -> None:
    """Test with the lowest versions of the required dependencies, and nothing optional."""
    lowest = [requirement.replace(">=", "==", 1) for requirement in PYPROJECT["project"]["dependencies"]]
    install(session, ".", *lowest, group="tests")
    session.run(*PYTEST, *ELSEWHERE, "--require-backend", "numpy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages, warnings being errors, and run every example in them and in the docstrings."""
    install(session, ".[numba]", group="docs")
    session.run("sphinx-build", "-W", "--keep-going", "-E", "docs", "docs/_build/html")
    # Some modules import an optional library at their top: those are left out here.
    session.run("pytest", "--doctest-modules", "--doctest-ignore-import-errors", "src", "docs/test_pages.py")


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Compare any two descriptions of Gaussians from a table of choices with the oracle: ``-- --minutes 30``."""
    install(session, ".[numba,torch]", "array-api-strict", "jax", group="tests")
    session.run("python", "tests/fuzzing.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Time the library beside its peers."""
    install(session, ".[numba]", group="benchmarks")
    session.run("python", "benchmarks/run.py", *session.posargs)
