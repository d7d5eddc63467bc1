"""Compiled kernels get into nobody's way: threads, forks, Ctrl-C, the last moments of Python, no Numba, bad disks."""

import hashlib
import inspect
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gausskl as gk

LARGE = (1200, 1024)  # three pieces of work for the threads: a piece has 2**19 numbers of each input
NOWHERE = "/proc/nobody"  # no folder can be made there, not even by root: with it, every process has to compile
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def pair(n, d, keyword="std", dtype="float64", library="numpy"):
    """Two Gaussians, the same ones in every process."""
    arrays = np.random.default_rng([n, d]).uniform(0.5, 2.0, (4, n, d)).astype(dtype)
    a, b, c, e = arrays if library == "numpy" else map(__import__(library).from_numpy, arrays)
    return gk.Gaussian(a, **{keyword: b}), gk.Gaussian(c, **{keyword: e})


def kl(p, q, **options):
    """The bits of the divergence."""
    return np.asarray(gk.kl_divergence(p, q, **options)).tobytes()


PRELUDE = f"""
import sys; sys.path.insert(0, {str(Path(gk.__file__).parents[1])!r})
import atexit, builtins, errno, os, signal, tempfile, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import gausskl as gk
LARGE = {LARGE}
{inspect.getsource(pair)}
{inspect.getsource(kl)}
"""


def run(code, cache=None, **environment):
    """What a fresh interpreter with its kernels in ``cache`` prints. It has to end in time and complain of nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "OMP", "PYTHONWARN"))}
    given = kept | {"NUMBA_CACHE_DIR": cache} | environment
    given = {name: str(value) for name, value in given.items() if value is not None}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code], env=given, start_new_session=True, **pipes
    ) as process:
        try:
            printed, complaints = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: they hold the pipes
            pytest.fail(f"it hangs: {process.communicate()}")
    assert process.returncode == 0, complaints
    assert not complaints
    return printed.splitlines()


@pytest.fixture(autouse=True)
def _with_numba(request):
    if request.function is not test_without_numba_the_formulas_serve:
        pytest.importorskip("numba")


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """A folder with what was compiled before, so that not every process has to."""
    return tmp_path_factory.mktemp("kernels")


# ---- threads ----


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_result_does_not_depend_on_threads(threads, monkeypatch):
    pairs = [pair(1, 4), pair(7, 33, "var"), pair(50, 3, dtype="float32"), pair(*LARGE), pair(*LARGE, "var")]
    monkeypatch.setattr("gausskl._fast.cpu.threads.count", lambda library: 1)
    alone = [kl(*each, path="numba") for each in pairs]
    monkeypatch.setattr("gausskl._fast.cpu.threads.count", lambda library: threads)

    def wrong(caller):
        turns = [k % 3 if k % 50 else 3 + k // 50 % 2 for k in range(1000)]
        return sum(kl(*pairs[which]) != alone[which] for which in turns)

    with ThreadPoolExecutor(8) as callers:
        assert list(callers.map(wrong, range(8))) == [0] * 8


ALL_AT_ONCE = """
def work(k):
    p, q = pair(3, 4)
    barrier.wait()
    {call}
    return kl(p, q)

barrier = threading.Barrier(8)
with ThreadPoolExecutor(8) as callers:
    print(len(set(callers.map(work, range(8)))), gk.plan(*pair(3, 4)).path)
"""


@pytest.mark.parametrize("call", ["kl(p, q)", "gk.warm_up(p, q, gradients=True)"])
def test_threads_may_need_a_kernel_at_the_same_time(call):
    assert run(ALL_AT_ONCE.format(call=call), NOWHERE) == ["1 numba"]


# ---- fork ----

ASK = """
import multiprocessing
fork = multiprocessing.get_context("fork")

def answer(sender, pairs):
    sender.send([kl(*each) for each in pairs])

def ask(*pairs):
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=answer, args=(sender, pairs), daemon=True)
    child.start()
    assert receiver.poll(20), "the child hangs"
    found = receiver.recv()
    child.join()
    assert child.exitcode == 0
    return found
"""
WHILE_OTHERS_WORK = """
used = [pair(3, 4), pair(*LARGE)]
before = [kl(*each) for each in used]

def compute():
    while busy: [kl(*each) for each in used]

busy = ["computing"]
threading.Thread(target=compute, daemon=True).start()
assert all(ask(*used) == before for _ in range(200))
busy.clear()
new = [pair(3, 4, keyword, dtype) for keyword in ("var", "log_std") for dtype in ("float32", "float64")]
answers = []
for k in range(3):
    compiling = threading.Thread(target=kl, args=new[k])
    compiling.start()
    time.sleep(0.1 * k)  # each time another moment of the compilation
    answers += ask(new[k + 1])
    compiling.join()
assert answers == [kl(*each) for each in new[1:4]]
print(gk.plan(*new[0]).path)
"""
ON_THE_WAY = """
from gausskl._fast.cpu import disk_cache
from gausskl._fast.cpu.diagonal import kernels
before, parent, there = kl(*pair(3, 4)), os.getpid(), threading.Event()

def slowly(*args):
    if os.getpid() == parent:
        there.set()
        time.sleep(0.5)
    return usual(*args)

usual, {place} = {place}, slowly
thread = threading.Thread(target=kl, args=pair(3, 4, "var"))
thread.start()
there.wait()
assert ask(pair(3, 4), pair(3, 4, "log_var")) == [before, kl(*pair(3, 4, "log_var"))]
print(gk.plan(*pair(3, 4)).path)
"""
WORKERS = """
import torch
from torch.utils.data import DataLoader
warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than there are processors

class Numbers(list):
    def __getitem__(self, k): return gk.kl_divergence(*pair(3 + k, 4, library="torch"), reduction="sum")

def collate(numbers):
    return torch.stack(numbers), gk.kl_divergence(*large), gk.kl_divergence(*pair(3, 4, "var", library="torch"))

numbers, large = Numbers(range(8)), pair(*LARGE, library="torch")
want = [collate([numbers[k] for k in batch]) for batch in (range(4), range(4, 8))]
for _ in range(2):
    loader = DataLoader(numbers, 4, num_workers=2, collate_fn=collate, multiprocessing_context="fork", timeout=60)
    print([all(map(torch.equal, *both)) for both in zip(loader, want, strict=True)], gk.plan(*large).path)
"""


@fork
def test_children_compute_what_the_parent_computes():
    assert run(ASK + WHILE_OTHERS_WORK, NOWHERE, OMP_NUM_THREADS=2) == ["numba"]


@fork
@pytest.mark.parametrize("place", ["kernels.forward", "disk_cache.Cache.load_overload"])
def test_a_fork_may_find_a_thread_on_its_way_to_a_kernel(place, kernels):
    assert run(ASK + ON_THE_WAY.format(place=place), kernels) == ["numba"]


@fork
def test_the_workers_of_a_torch_data_loader_compute(kernels):
    pytest.importorskip("torch")
    assert run(WORKERS, kernels, OMP_NUM_THREADS=2) == ["[True, True] numba"] * 2


# ---- Ctrl-C ----

CTRL_C = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may have been told to ignore it
small, large = pair(3, 4), pair(*LARGE)
before = kl(*small), kl(*large)
rows = (10**7, 1000)  # in the memory of one row
p, q = [gk.Gaussian(np.broadcast_to(g.mean, rows), std=np.broadcast_to(*g.arrays, rows)) for g in pair(1, 1000)]
for _ in range(3):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    try: gk.kl_divergence(p, q)
    except KeyboardInterrupt: print(time.monotonic() - begun - 0.3)
    assert (kl(*small), kl(*large)) == before
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_is_answered_at_once(threads, kernels):
    """The call would take 10 s and more. The quickest of three answers is the library's; the rest is other load."""
    answers = [float(line) for line in run(CTRL_C, kernels, OMP_NUM_THREADS=threads)]
    assert len(answers) == 3
    assert min(answers) < 0.2
    assert max(answers) < 2


# ---- the end of the interpreter ----

AT_THE_END = """
class Last:
    def __del__(self, kl=kl, pairs=(pair(3, 4), pair(*LARGE))): [kl(*each) for each in pairs]

def loop(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end: [kl(*each) for each in pairs]

pairs = [pair(3, 4), pair(*LARGE)]
for each in pairs:
    kl(*each)
    atexit.register(kl, *each)
threading.Thread(target=loop, args=(1e9,), daemon=True).start()
threading.Thread(target=loop, args=(0.5,)).start()
last = builtins.last = [Last(), Last()]
print(gk.plan(*pairs[1]).path)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_the_interpreter_ends_with_work_under_way(attempt, kernels):
    assert run(AT_THE_END, kernels, OMP_NUM_THREADS=2) == ["numba"]


# ---- no Numba, and a Numba that does not work ----

ABSENT = """
sys.modules["numba"] = None
p, q = pair(3, 4)
assert kl(p, q) == kl(p, q, path="generic")
print(gk.plan(p, q).path, gk.plan(p, q).reason, sep="\\n")
try: gk.kl_divergence(p, q, path="numba")
except ValueError as error: print(error)
"""
BROKEN = """
def fault(*args): raise NotImplementedError("out of order")

def gradients(path):
    sides = pair(5, 7, library="torch")
    tensors = [tensor.requires_grad_() for g in sides for tensor in (g.mean, *g.arrays)]
    gk.kl_divergence(*[gk.Gaussian(g.mean, std=g.arrays[0]) for g in sides], path=path).sum().backward()
    return [tensor.grad.numpy() for tensor in tensors]

{fault}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if "backward" in {fault!r}:
        for got, want in zip(gradients("auto"), gradients("generic"), strict=True):
            np.testing.assert_array_max_ulp(got, want, 4)
    for keyword in ("std", "var", "std"):
        p, q = pair(3, 4, keyword, library={of!r})
        assert kl(p, q) == kl(p, q, path="generic")
for each in caught: print(each.category.__name__, each.message)
print(gk.plan(p, q).path, gk.plan(p, q).reason)
"""
PARTS = [("numba", "numpy"), ("numba", "torch"), ("forward", "numpy"), ("forward", "torch"), ("backward", "torch")]


def test_without_numba_the_formulas_serve():
    missing = "numba is not installed: pip install gausskl[numba]"
    refusal = f'path="numba" cannot serve this call: {missing}; leave path out, or give path="generic"'
    assert run(ABSENT) == ["generic", missing, refusal]


@pytest.mark.parametrize(("broken", "of"), PARTS)
def test_without_a_kernel_the_formulas_serve_after_one_warning(broken, of, tmp_path, kernels):
    pytest.importorskip(of)
    (tmp_path / "numba.py").write_text("raise NotImplementedError('out of order')")
    fault = f"from gausskl._fast.cpu.diagonal import kernels; kernels.{broken} = fault"
    fault = f"sys.path.insert(0, {str(tmp_path)!r})" if broken == "numba" else fault
    why = "numba could not make a kernel (NotImplementedError: out of order)"
    warning = f"RuntimeWarning gausskl runs without its compiled kernels: {why}"
    assert run(BROKEN.format(fault=fault, of=of), kernels) == [warning, f"generic {why}"]


# ---- the cache on disk ----

KEYWORDS = ("std", "var", "log_var")
COMPUTE = "for keyword in {}: print(kl(*pair(3, 4, keyword)).hex(), gk.plan(*pair(3, 4, keyword)).path)"
ONE, THREE = COMPUTE.format(KEYWORDS[:1]), COMPUTE.format(KEYWORDS)


def computed(keywords):
    """What the code above prints."""
    return [f"{kl(*pair(3, 4, keyword), path='numba').hex()} numba" for keyword in keywords]


def files(folder):
    """Everything in a folder: where it lies on the disk, when it was written, and what it says."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_a_kernel_is_compiled_once(tmp_path):
    assert run(ONE, tmp_path) == computed(["std"])
    kept = files(tmp_path)
    assert [path.suffix for path in kept] == [".kernel"]
    assert run(ONE, tmp_path) == computed(["std"])
    assert files(tmp_path) == kept


def test_a_damaged_file_is_replaced(tmp_path):
    run(THREE, tmp_path)
    whole = files(tmp_path)
    damages = [lambda content: b"", lambda content: content[:-1], lambda content: content[:-1] + b"~"]
    for (path, (*_, content)), damage in zip(whole.items(), damages, strict=True):
        path.write_bytes(damage(content))
    assert run(THREE, tmp_path) == computed(KEYWORDS)
    assert list(files(tmp_path)) == list(whole)
    for *_, content in files(tmp_path).values():
        assert hashlib.sha256(content[32:]).digest() == content[:32]


def test_processes_may_start_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(6) as callers:
        assert list(callers.map(run, [ONE] * 6, [tmp_path] * 6)) == [computed(["std"])] * 6
    assert [path.suffix for path in files(tmp_path)] == [".kernel"]


def test_kernels_of_several_processes_meet_in_one(tmp_path):
    """Each of these kernels is the first of its process, so nothing but its name sets it apart from the others."""
    each = "print(kl(*pair(3, 4, {!r}, {!r})).hex(), gk.plan(*pair(3, 4)).path)"
    kinds = [(keyword, dtype) for keyword in KEYWORDS[:2] for dtype in ("float64", "float32")]
    alone = [run(each.format(*kind), tmp_path) for kind in kinds]
    together = run("\n".join(each.format(*kind) for kind in kinds), tmp_path)
    assert [[line] for line in together] == alone
    assert together == [f"{kl(*pair(3, 4, *kind), path='numba').hex()} numba" for kind in kinds]


@pytest.mark.parametrize("cache", ["file/folder", ".", NOWHERE])
def test_a_folder_that_cannot_be_written_is_survived(cache, tmp_path):
    (tmp_path / "file").touch()
    tmp_path.chmod(0o500)  # does not stop root
    assert run(ONE, tmp_path / cache) == computed(["std"])


def test_a_missing_home_is_survived(tmp_path):
    code = f"sys.modules['pwd'] = None  # nobody knows where it could be\nos.chdir({str(tmp_path)!r})\n{ONE}"
    assert run(code, HOME=None, XDG_CACHE_HOME=None) == computed(["std"])
    assert not list(tmp_path.iterdir())


FULL = f"""
def full(*args, **options): raise OSError(errno.ENOSPC, "No space left on device")
first, last = tempfile.NamedTemporaryFile, os.replace

tempfile.NamedTemporaryFile = full
{COMPUTE.format(KEYWORDS[:1])}
tempfile.NamedTemporaryFile, os.replace = first, full
{COMPUTE.format(KEYWORDS[1:2])}
os.replace = last
resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))  # a kernel is larger
{COMPUTE.format(KEYWORDS[2:])}
"""


def test_a_full_disk_is_survived(tmp_path):
    pytest.importorskip("resource")
    assert run(f"import resource\n{FULL}", tmp_path) == computed(KEYWORDS)
    assert not files(tmp_path)


class Spell:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("others", ["can write", "own"])
def test_a_folder_of_others_is_not_used(others, tmp_path):
    run(ONE, tmp_path)
    (path,) = files(tmp_path)
    spell = pickle.dumps(Spell())
    path.write_bytes(hashlib.sha256(spell).digest() + spell)
    if others == "own" and os.getuid():
        pytest.skip("only root can give a folder away")
    path.parent.chmod(0o777) if others == "can write" else os.chown(path.parent, 12345, 12345)
    planted = files(tmp_path)
    assert run(ONE, tmp_path) == computed(["std"])
    assert files(tmp_path) == planted
    path.unlink()
    assert run(ONE, tmp_path) == computed(["std"])
    assert not files(tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners on this system")
@pytest.mark.parametrize(
    ("place", "kept"),
    [
        ("an ordinary folder", True),
        ("a folder with umask 0", True),
        ("below a sticky folder", True),
        ("below a folder that others can write to", False),
        ("a link of ours", True),
        ("a link in a folder that others can write to", False),
        ("a link to below a folder that others can write to", False),
        ("a link in the middle of a relative path", True),
        ("a link that leads to itself", False),
        ("below a folder of others", False),
        ("a link of others", False),
    ],
)
def test_nobody_else_can_put_a_folder_in_place_of_the_cache(place, kept, tmp_path):
    outer, real = tmp_path / "outer", tmp_path / "real"
    outer.mkdir()
    real.mkdir()
    cache, before = outer / "cache", ""
    if "umask" in place:
        before = "os.umask(0)\n"
    if "link" in place:
        target = {"a link to below a folder that others can write to": outer / "there"}.get(place, real)
        cache = tmp_path / "cache" if "to below" in place else cache
        target = (
            "cache" if "itself" in place else os.path.relpath(target, cache.parent) if "relative" in place else target
        )
        cache.symlink_to(target)
        cache = cache / "below" if "relative" in place else cache
        (outer / "there").mkdir(exist_ok=True)
    if "others" in place:
        if "of others" in place:
            if os.getuid():
                pytest.skip("only root can give a folder away")
            os.chown(cache if "link" in place else outer, 12345, 12345, follow_symlinks=False)
        else:
            outer.chmod(0o777)
    if "sticky" in place:
        outer.chmod(0o1777)
    assert run(before + ONE, cache) == computed(["std"])
    assert bool(files(tmp_path)) == kept
    if kept:
        (path,) = files(tmp_path)
        path.write_bytes(b"")
        run(before + ONE, cache)
        assert path.read_bytes()  # it was looked at, and replaced


# ---- memory ----


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_call_allocates_its_result_and_little_else(reduction):
    p, q = pair(4096, 1024)
    gk.kl_divergence(p, q, reduction=reduction, path="numba")
    tracemalloc.start()
    try:
        result = gk.kl_divergence(p, q, reduction=reduction)
        assert tracemalloc.get_traced_memory()[1] <= result.nbytes + 2**20
    finally:
        tracemalloc.stop()
