"""`python -m gausskl doctor` says what this machine has, and in a plain sentence what is wrong with it."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp

import gausskl as gk
import reference
from gausskl._command import devices, doctor, one_library
from gausskl._command.devices import DEVICES, EVERY, INSTALL, OLDEST, Device
from gausskl._command.one_library import Report, Row, examine, ulps
from gausskl._command.references import KNOWN
from gausskl._fast import leaves

SOURCE = Path(gk.__file__).parents[1]
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PAIRS = [pair for known in KNOWN.values() for pair in known]


def run(*arguments, path=""):
    """Exit status, standard output and standard error of the command; packages in ``path`` come before all others."""
    places = filter(None, [str(path), str(SOURCE), os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, "-m", "gausskl", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def fake(folder, name, code):
    """Put a package in the place of a library."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def on_one_line(text):
    return " ".join(text.split())


# ---- the stored values ----


@pytest.mark.parametrize("pair", PAIRS)
def test_the_stored_values_are_the_exact_ones(pair):
    p, q = ({"mean": np.asarray(mean), pair.keyword: np.asarray(spread)} for mean, spread in (pair.p, pair.q))
    exact = reference.kl(p, q)[()]
    assert float(pair.exact) == float(exact)
    with mp.workdps(60):
        assert abs(mp.mpf(pair.exact) - exact) <= abs(exact) * mp.mpf("1e-24")


@pytest.mark.parametrize("structure", KNOWN)
def test_the_stored_pairs_are_equal_near_and_unrelated_in_both_dtypes(structure):
    batches = list(one_library.batches(KNOWN[structure]))
    assert {dtype for _, dtype in batches} == {"float32", "float64"}
    for pairs, dtype in batches:
        near = 1e-15 if dtype == "float64" else 1e-11
        assert any(0 < float(pair.exact) < near for pair in pairs)
        assert any(float(pair.exact) > 0.5 for pair in pairs)
        assert all(np.all(np.asarray(a, dtype) == np.asarray(a)) for pair in pairs for a in (*pair.p, *pair.q))
    assert any(pair.exact == "0" for pairs, _ in batches for pair in pairs)


def test_the_stored_matrices_are_well_conditioned():
    condition = {"cov": reference.cond_correlation, "scale_tril": reference.cond_row_scaled}
    for pair in KNOWN["dense"]:
        assert all(condition[pair.keyword](np.asarray(spread)) < 4 for _, spread in (pair.p, pair.q))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("exact", ["3.031644208660194177839475e-12", "88.03463396172810502626759", "0.5", "0"])
@pytest.mark.parametrize("change", [0.0, 1e-7, -1e-6, np.inf])
def test_errors_are_counted_in_units_in_the_last_place(dtype, exact, change):
    value = float(np.dtype(dtype).type(exact)) * (1 + change) if Decimal(exact) else change
    with mp.workdps(60):
        expected = reference.ulp_error(value, mp.mpf(exact), dtype)[()]
    assert ulps(value, exact, dtype) == pytest.approx(float(expected), rel=1e-9)
    assert ulps(np.nan, exact, dtype) == np.inf


# ---- a machine where all works ----


@pytest.fixture(scope="module")
def numpy_alone():
    status, printed, complaints = run("doctor", "numpy")
    assert not complaints
    assert status == 0
    return printed.splitlines()


def test_the_first_line_is_the_machine_and_the_last_the_verdict(numpy_alone):
    assert numpy_alone[0].startswith(f"gausskl {gk.__version__}, Python {sys.version.split()[0]}, ")
    assert re.search(r"CPU threads: [1-9]", numpy_alone[0])
    assert numpy_alone[-1] == "all that is installed works"
    assert max(map(len, numpy_alone)) <= 100


def test_a_row_says_version_device_paths_and_errors(numpy_alone):
    header, row = (re.split(r"  +", line.rstrip()) for line in numpy_alone[2:4])
    assert header == ["library", "version", "device", "diagonal path", "dense path", "error (ulp)"]
    name, version, device, diagonal, dense, errors = row
    assert [name, version, device] == ["numpy", np.__version__, "cpu"]
    assert [diagonal, dense] == paths_of_a_fresh_interpreter()
    worst = [float(error) for error in errors.split(" / ")]
    assert 0 < worst[0] <= 16
    assert 0 < worst[1] <= 64


def paths_of_a_fresh_interpreter():
    code = """if True:
        import gausskl as gk, numpy as np
        m = np.ones((4, 3))
        print(gk.plan(gk.Gaussian(m, std=m), gk.Gaussian(m, std=m)).path)
        print(gk.plan(gk.Gaussian(m, cov=np.eye(3)), gk.Gaussian(m, cov=np.eye(3))).path)
    """
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize("name", ["torch", "jax", "dask", "tensorflow"])
def test_every_library_that_works_has_a_row(name):
    if not doctor.is_installed(name):
        pytest.skip(f"{name} is not installed")
    report = doctor.ask(name)
    assert report.problems == []
    assert report.rows[0].device == "cpu"
    assert all(row.works and row.errors["diagonal"] <= 16 and row.errors["dense"] <= 64 for row in report.rows)
    assert all(path for row in report.rows for path in row.paths.values())


@pytest.mark.gpu
def test_every_device_of_cupy_has_a_row():
    cupy = pytest.importorskip("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    report = doctor.ask("cupy")
    assert report.problems == []
    assert [row.device for row in report.rows] == [f"cuda:{i}" for i in range(count)]


def test_a_helper_says_whom_it_serves():
    pytest.importorskip("numba")
    assert doctor.ask("numba").state == "serves numpy on cpu"


def test_every_helper_is_known_by_its_path():
    paths = {one_library._path(helper) for helper in one_library.HELPERS}
    assert paths == set(leaves.LEAVES) - {"cupy"}


def test_a_part_of_a_package_that_is_missing_is_not_installed():
    assert not doctor.is_installed("a_package_that_is_missing.core")


def test_a_helper_with_nothing_to_do_is_no_fault(tmp_path, monkeypatch):
    fake(tmp_path, "triton", '__version__ = "3.0.0"')
    monkeypatch.setitem(one_library.HELPERS, "triton", "a_library_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    assert examine("triton") == Report("3.0.0", "is not used on this machine")
    sys.modules.pop("triton")


def test_who_waits_at_a_terminal_sees_for_what(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "ask", lambda name: Report("1.0", "serves all"))
    monkeypatch.setattr(doctor, "is_installed", lambda name: True)
    assert doctor.doctor(["numba"])[1] == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert doctor.doctor(["numba"])[1] == 0
    assert "looking at numba ..." in capsys.readouterr().err


def test_what_is_not_installed_is_no_fault_unless_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(doctor, "is_installed", lambda name: False)
    text, status = doctor.doctor()
    assert status == 0
    assert text.endswith("all that is installed works")
    for name in EVERY:
        assert any(re.match(rf"{name} +not installed: .*pip install", line) for line in text.splitlines())
    text, status = doctor.doctor(["jax"])
    assert status == 1
    assert 'jax is not installed: pip install "gausskl[jax]"' in on_one_line(text)
    assert text.endswith("1 of 1 does not work: jax")


# ---- a machine where something does not ----

OF_CUPY = """
__version__ = "14.2.0"
class Device:
    def __init__(self, number): pass
    def __enter__(self): return self
    def __exit__(self, *error): pass
class OutOfMemoryError(MemoryError): pass
"""
RUNTIME = """
def getDeviceCount(): return 1
def getDeviceProperties(number): return {"name": b"a GPU"}
def runtimeGetVersion(): return 13020
"""
ASARRAY = "def asarray(values): raise RuntimeError('launch failed')"
BROKEN = {
    "a CuPy that cannot allocate": (
        "cupy",
        '__version__ = "14.2.0"\ndef zeros(shape): raise RuntimeError("nothing to be had\\nmore")',
        "cupy cannot allocate an array: RuntimeError: nothing to be had. `nvidia-smi` shows",
    ),
    "a CuPy without its libraries": (
        "cupy",
        'try:\n    raise OSError("libcuda.so.1: no such file")\n'
        'except OSError as error:\n    raise ImportError("===\\nFailed to import") from error',
        "cupy cannot be imported: OSError: libcuda.so.1: no such file. `nvidia-smi` shows",
    ),
    "a library whose parts do not fit": (
        "jax",
        'raise ImportError("jaxlib is missing.")',
        'jax cannot be imported: ImportError: jaxlib is missing. This may help: pip install --upgrade "gausskl[jax]"',
    ),
    "an error without words": ("torch", "raise KeyError", "torch cannot be imported: KeyError."),
    "an old Numba": (
        "numba",
        '__version__ = "0.60.9"',
        'numba 0.60.9 is too old, 0.61 is needed: pip install --upgrade "gausskl[numba]"',
    ),
    "a Numba that cannot compile": (
        "numba",
        '__version__ = "99.0"',
        "numba: gausskl runs without its compiled kernels: numba could not make a kernel (ModuleNotFoundError",
    ),
    "an abort": ("dask", "import os\nos.abort()", "dask crashed (SIGABRT) while it was tried out"),
    "an exit": (
        "dask",
        'import os\nos.write(2, b"so long\\n")\nos._exit(3)',
        "dask ended Python with exit status 3 while it was tried out; its last words: so long.",
    ),
    "a library that prints": (
        "tensorflow",
        'import os\nprint("{}")\nos.write(1, b"[]\\n")\nraise ImportError("no core")',
        "tensorflow cannot be imported: ImportError: no core.",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_library_has_a_sentence_and_the_exit_status_is_1(case, tmp_path):
    name, code, sentence = BROKEN[case]
    if case == "an abort" and os.name == "nt":
        pytest.skip("Windows knows no signals")
    fake(tmp_path, name, code)
    status, printed, complaints = run("doctor", name, path=tmp_path)
    assert status == 1
    assert not complaints
    assert sentence in on_one_line(printed)
    assert re.search(rf"^{name} +\S+ +does not work$", printed, re.MULTILINE)
    assert printed.endswith(f"1 of 1 does not work: {name}\n")


@pytest.mark.parametrize(
    ("driver", "zeros", "sentence"),
    [
        (0, "raise RuntimeError('insufficient')", "There is no CUDA driver: install NVIDIA's"),
        (12040, "raise RuntimeError('insufficient')", "The driver is for CUDA 12 and CuPy for CUDA 13: update"),
        (13000, "raise OutOfMemoryError('8 bytes')", "The memory of the GPU is taken"),
        (13000, "raise RuntimeError('cannot load libnvrtc.so.13')", 'pip install "cupy-cuda13x[ctk]"'),
        (13000, "pass", "cupy does not work on cuda:0: RuntimeError: launch failed."),
    ],
)
def test_the_troubles_of_cupy_have_cures(driver, zeros, sentence, tmp_path):
    fake(tmp_path, "cupy", f"from . import cuda\n{OF_CUPY}\ncuda.Device = Device\ndef zeros(shape): {zeros}\n{ASARRAY}")
    (tmp_path / "cupy" / "cuda").mkdir()
    (tmp_path / "cupy" / "cuda" / "__init__.py").write_text("from . import runtime\n")
    (tmp_path / "cupy" / "cuda" / "runtime.py").write_text(f"{RUNTIME}\ndef driverGetVersion(): return {driver}\n")
    status, printed, _ = run("doctor", "cupy", path=tmp_path)
    assert status == 1
    assert sentence in on_one_line(printed)


def test_the_fault_of_a_helper_is_its_own(tmp_path):
    fake(tmp_path, "numba", '__version__ = "99.0"')
    status, printed, _ = run("doctor", "numpy", "numba", path=tmp_path)
    assert status == 1
    assert printed.count("without its compiled kernels") == 1
    assert 'pip install --upgrade "gausskl[numba]"' in on_one_line(printed)
    assert re.search(r"^numpy .* generic +generic ", printed, re.MULTILINE)
    assert printed.endswith("1 of 2 does not work: numba\n")
    status, printed, _ = run("doctor", "numpy", path=tmp_path)
    assert status == 1
    assert printed.endswith("1 of 1 does not work: numpy\n")


def test_a_library_that_hangs_is_stopped(tmp_path, monkeypatch):
    fake(tmp_path, "dask", "import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(SOURCE)]))
    (sentence, blamed), *others = doctor.ask("dask", seconds=1).problems
    assert sentence == "dask hangs: after 1 seconds there was no answer, and it was stopped."
    assert blamed == "dask"
    assert not others


@pytest.mark.parametrize(("wrong", "off"), [(1 + 1e-5, r"\d{2,}"), (np.nan, "inf"), (-1.0, r"\d{7,}")])
def test_a_wrong_result_is_found(monkeypatch, wrong, off):
    monkeypatch.setattr(one_library, "kl_divergence", lambda p, q: wrong * gk.kl_divergence(p, q))
    sentences = [sentence for sentence, blamed in examine("numpy").problems if blamed == "numpy"]
    for structure, keyword, dtype in (("diagonal", "var", "float64"), ("dense", "scale_tril", "float32")):
        start = f"numpy on cpu: the divergence of {structure} Gaussians ({keyword}, {dtype}) is off by "
        (sentence,) = (sentence for sentence in sentences if sentence.startswith(start))
        assert re.match(rf"{off} units in the last place, where \d+ are allowed", sentence.removeprefix(start))


def test_a_device_that_fails_leaves_the_others_alone(monkeypatch):
    def refuse(values):
        raise RuntimeError("sticky error")

    monkeypatch.setitem(DEVICES, "numpy", lambda: [Device("cpu", np.asarray), Device("x:0", refuse, about="x is y.")])
    monkeypatch.setattr(doctor, "ask", examine)
    text, status = doctor.doctor(["numpy"])
    assert status == 1
    assert re.search(r"^numpy .* cpu .* \d.* / \d.*$", text, re.MULTILINE)
    assert re.search(rf"^numpy +{re.escape(np.__version__)} +x:0 +does not work$", text, re.MULTILINE)
    assert "\nx is y.\n" in text
    assert "numpy does not work on x:0: RuntimeError: sticky error." in text


def test_the_formulas_are_tried_on_a_gpu_too(monkeypatch):
    """They want linear algebra that a kernel does without."""

    def lacking(p, q, path="auto"):
        if path == "generic":
            raise ImportError("libcublasLt.so.13: cannot open shared object file")
        return gk.kl_divergence(p, q)

    monkeypatch.setitem(DEVICES, "numpy", lambda: [Device("x:0", np.asarray)])
    monkeypatch.setattr(one_library, "kl_divergence", lacking)
    (problem, _), *others = examine("numpy").problems
    assert not others
    assert problem.startswith("numpy does not work on x:0: ImportError: libcublasLt.so.13")


def test_a_report_comes_back_as_it_was(monkeypatch):
    report = Report("1.0", "", [Row("cpu", {"dense": "numba"}, {"dense": 1.5})], ["so"], [("wrong", "numpy")])
    said = one_library.json.dumps(dataclasses.asdict(report)).encode()
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, said, b""))
    assert doctor.ask("numpy") == dataclasses.replace(report, problems=[["wrong", "numpy"]])


# ---- the command, and what it promises about the package ----


def test_without_a_command_there_is_the_usage():
    status, printed, complaints = run()
    assert (status, printed) == (2, "")
    assert complaints.startswith("usage: python -m gausskl")


def test_an_unknown_library_is_named():
    status, _, complaints = run("doctor", "numpy", "theano")
    assert status == 2
    assert "theano" in complaints
    assert all(name in complaints for name in EVERY)


def test_help():
    for arguments in (["--help"], ["doctor", "--help"]):
        status, printed, _ = run(*arguments)
        assert status == 0
        assert "doctor" in printed


def test_no_library_is_imported_by_the_command_itself(tmp_path):
    fake(tmp_path, "dask", "")
    code = "import sys; from gausskl.__main__ import main; main(['doctor', 'dask']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(SOURCE)])},
        capture_output=True,
        text=True,
        check=True,
    )
    *table, modules = done.stdout.splitlines()
    assert any(line.startswith("dask") for line in table)
    assert not {name.partition(".")[0] for name in modules.split()} & (set(EVERY) - {"numpy"})


def test_a_folder_is_not_a_library(tmp_path, monkeypatch):
    (tmp_path / "cupy_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not doctor.is_installed("cupy_of_nobody")
    fake(tmp_path, "cupy_of_somebody", "")
    assert doctor.is_installed("cupy_of_somebody")


def test_versions_and_extras_are_those_of_the_package():
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    oldest = {name: extras[name][0].partition(">=")[2] for name in OLDEST if name in extras}
    oldest["numpy"] = min(need.partition(">=")[2].partition(";")[0] for need in project["dependencies"][:3])
    assert oldest == OLDEST
    for name, command in INSTALL.items():
        assert set(re.findall(r"gausskl\[([\w-]+)\]", command)) <= set(extras)
        assert name in ("numpy", "triton", "cuda.core") or f"gausskl[{name}" in command


def test_upgrades_are_commands():
    assert devices.upgrade("torch") == 'pip install --upgrade "gausskl[torch]"'
    assert devices.upgrade("numpy") == 'pip install --upgrade "numpy>=2"'
