"""One Ctrl-C while Numba is imported, or while a kernel is made, costs that call and nothing else."""

import pytest
from test_faults import run

pytest.importorskip("numba")

IMPORTED = """
import importlib.abc
signal_me = lambda: os.kill(os.getpid(), signal.SIGINT)

class Interrupting(importlib.abc.MetaPathFinder):
    \"\"\"Ctrl-C at the moment when a module is looked for.\"\"\"
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal_me()

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
p, q = pair(3, 4)
"""
COMPILED = """
from gausskl._fast.cpu import disk_cache
usual = disk_cache.Cache.{method}

def once(*args):
    disk_cache.Cache.{method} = usual
    os.kill(os.getpid(), signal.SIGINT)
    return usual(*args)

signal.signal(signal.SIGINT, signal.default_int_handler)
disk_cache.Cache.{method} = once
p, q = pair(3, 4)
"""
AFTERWARDS = """
handler = signal.getsignal(signal.SIGINT)
try: kl(p, q)
except KeyboardInterrupt: print("interrupted")
assert signal.getsignal(signal.SIGINT) is handler
assert kl(p, q, path="numba") == kl(p, q)
print(gk.plan(p, q).path)
import numba
assert numba.njit(lambda x: x + 1)(1) == 2
"""
MODULES = ["numba", "numba.core.types", "numba.core.typing.templates", "numba.np.ufunc", "gausskl._fast.batch"]


@pytest.mark.parametrize("module", MODULES)
def test_while_modules_are_imported(module, tmp_path):
    assert run(IMPORTED.format(module=module) + AFTERWARDS, tmp_path) == ["interrupted", "numba"]


@pytest.mark.parametrize("method", ["load_overload", "save_overload"])
def test_while_a_kernel_is_made(method, tmp_path):
    assert run(COMPILED.format(method=method) + AFTERWARDS, tmp_path) == ["interrupted", "numba"]


def test_at_any_moment(tmp_path):
    """The clock decides when: in the call that imports and compiles, whatever it is at just then."""
    code = """
signal.signal(signal.SIGINT, signal.default_int_handler)
p, q = pair(3, 4)
try:
    threading.Timer({delay}, os.kill, (os.getpid(), signal.SIGINT)).start()
    kl(p, q)
    time.sleep(5)
except KeyboardInterrupt: print("interrupted")
assert kl(p, q, path="numba") == kl(p, q)
print(gk.plan(p, q).path)
"""
    for k, delay in enumerate([0.03, 0.2, 0.5]):
        assert run(code.format(delay=delay), tmp_path / str(k)) == ["interrupted", "numba"]


def test_a_second_ctrl_c_is_answered_at_once():
    code = """
from gausskl._fast.contract import uninterrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
done = []
try:
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        done.append(2)
except KeyboardInterrupt: print(done)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert run(code) == ["[1]"]


@pytest.mark.parametrize("imported", ["", "import numba"])
def test_numba_that_is_told_to_compile_nothing(imported):
    code = f"""
{imported}
p, q = pair(3, 4)
assert kl(p, q) == kl(p, q, path="generic")
print(gk.plan(p, q))
try: gk.kl_divergence(p, q, path="numba")
except ValueError as error: print(error)
"""
    *_, path, refusal = run(code, NUMBA_DISABLE_JIT="1")
    assert path == "path: generic (NUMBA_DISABLE_JIT keeps Numba from compiling)"
    assert refusal.startswith('path="numba" cannot serve this call: NUMBA_DISABLE_JIT keeps Numba from compiling; ')


def test_numba_that_is_told_so_by_its_own_file(tmp_path):
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1")
    pytest.importorskip("yaml")
    code = f"""
os.chdir({str(tmp_path)!r})
p, q = pair(3, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert kl(p, q) == kl(p, q, path="generic")
for each in caught: print(each.message)
"""
    (warning,) = run(code)
    assert "NUMBA_DISABLE_JIT keeps Numba from compiling" in warning
