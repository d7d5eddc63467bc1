"""The `xp` fixture: every test that takes it runs once per array library."""

import itertools
import os
import sys

import hypothesis
import pytest
from array_api_extra.testing import patch_lazy_xp_functions

import helpers
from gausskl._fast import leaves
from helpers import Backend

LIBRARIES = sorted({backend.library for backend in Backend})
NAMESPACES = {}  # Backend -> namespace, for the backends under test
NOT_TESTED = {}  # Backend -> why

# XLA lays each program it compiles into maps of its own, and Linux grants a process 65530: 122 tests of low rank
# took 23000 of them, and a whole session ended in a crash.
PROGRAMS_KEPT_FOR = 60  # tests

hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],  # `xp` never changes
)
hypothesis.settings.load_profile("ci")


def pytest_addoption(parser):
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        choices=LIBRARIES,
        help="test this array library and no other (may be repeated); fail if it does not work",
    )
    parser.addoption("--torch-device", default="cpu", help="where the tensors of torch are: cpu, cuda or interpreter")
    parser.addoption("--without-numba", action="store_true", help="test as if Numba were not installed")


def pytest_configure(config):
    if config.getoption("without_numba"):
        sys.modules["numba"] = None
    device = config.getoption("torch_device")
    if device == "interpreter":  # Triton serves tensors of the CPU, step by step
        os.environ["TRITON_INTERPRET"] = "1"
        numba, triton = leaves.LEAVES["numba"], leaves.LEAVES["triton"]
        leaves.LEAVES |= {
            "numba": numba._replace(modules={"numpy": numba.modules["numpy"]}),
            "triton": triton._replace(on_gpu=False),
        }
    else:
        helpers.TORCH_DEVICE = device
    required = config.getoption("require_backend")
    for backend in Backend:
        if required and backend.library not in required:
            continue
        try:
            NAMESPACES[backend] = backend.load()
        except Exception as error:
            if required:
                message = f"--require-backend {backend}: this backend cannot make an array: {error!r}"
                raise pytest.UsageError(message) from error
            NOT_TESTED[backend] = error


def pytest_collection_modifyitems(items):
    on_gpu = {Backend.CUPY} | ({Backend.TORCH} if helpers.TORCH_DEVICE != "cpu" else set())
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, Backend) and value in on_gpu for value in parameters):
            item.add_marker("gpu")


def pytest_terminal_summary(terminalreporter):
    for backend, error in NOT_TESTED.items():
        terminalreporter.write_line(f"not tested: {backend} ({error})")


def pytest_generate_tests(metafunc):
    if "library" in metafunc.fixturenames:
        metafunc.parametrize("library", list(NAMESPACES), ids=str, indirect=True)


@pytest.fixture(scope="session")
def tests_so_far():
    return itertools.count(1)


@pytest.fixture
def library(request, tests_so_far):
    """The current `Backend`."""
    if request.param is Backend.JAX and next(tests_so_far) % PROGRAMS_KEPT_FOR == 0:
        import jax

        jax.clear_caches()
    for mark in request.node.iter_markers("skip_xp_backend"):
        if mark.args[0] == str(request.param):
            pytest.skip(f"{request.param}: {mark.kwargs['reason']}")
    return request.param


@pytest.fixture
def xp(library, request):
    """The current array namespace, as array-api-compat gives it."""
    namespace = NAMESPACES[library]
    with patch_lazy_xp_functions(request, xp=namespace):
        yield namespace
