"""Faster paths for some arrays: what they compute, the formulas compute as well, only slower.

This module is the table: which Gaussians a leaf serves. The leaves import their libraries when they are first used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._spreads import DIAGONAL
from .contract import CannotCompile, Job, uninterrupted

LARGEST = 128  # dimensions of a dense pair: beyond, LAPACK is as quick and needs less memory
LARGEST_PRECISE = 64
LARGEST_ON_GPU = 16  # numbers that one thread can hold
DIAGONAL_KERNELS = ("std", "var", "log_std", "log_var")
DENSE_ON_GPU = ("cov", "scale_tril", "packed_tril")


class Leaf(NamedTuple):
    """A family of kernels: what it serves, where it is, and what has to be installed."""

    serves: str
    modules: dict[str, str]  # by library; what each has to offer says ``contract.Leaf``
    on_gpu: bool = True
    needs: str = ""
    cure: str = ""


LEAVES = {
    "numba": Leaf(
        "arrays of NumPy, and tensors of PyTorch in the memory of the CPU",
        {"numpy": "cpu.leaf", "torch": "cpu.torch"},
        on_gpu=False,
        needs="numba",
        cure="pip install gausskl[numba]",
    ),
    "triton": Leaf(
        "diagonal Gaussians in tensors of PyTorch on a GPU",
        {"torch": "gpu.leaf_triton"},
        needs="triton",
        cure="pip install triton",
    ),
    "cuda": Leaf(
        "dense Gaussians in tensors of PyTorch on a GPU",
        {"torch": "gpu.leaf_cuda"},
        needs="cuda.core",
        cure="pip install gausskl[torch-cuda12] or gausskl[torch-cuda13]",
    ),
    "cupy": Leaf("arrays of CuPy", {"cupy": "gpu.leaf_cupy"}),
}
# The modules of Numba's kernels for a pair of Gaussians; every other leaf knows its own.
ENGINES = {"diagonal": "cpu.diagonal.call", "dense": "cpu.dense.call", "low rank": "cpu.low_rank.call"}
DISABLED = "NUMBA_DISABLE_JIT keeps Numba from compiling"
ANY = "the array-API formulas serve every library and every pair"


_broken: dict[str, str] = {}  # path to why no kernel can be had


def job(
    forms: Sequence[Any], batch_shape: tuple[int, ...], per_dim: bool, precise: bool, path: str
) -> tuple[Job | None, str]:
    """What a leaf is to do for Gaussians of these forms, if one serves them, and why it does or does not."""
    p, q = forms[0], forms[-1]
    keywords = dict.fromkeys(form.keyword for form in forms)
    dtypes = dict.fromkeys(dtype for form in forms for dtype in form.dtypes)
    if not all(form.plain for form in forms) or p.library != q.library:
        return None, ANY
    diagonal = set(keywords) <= set(DIAGONAL)
    able = [name for name, leaf in LEAVES.items() if p.library in leaf.modules and leaf.on_gpu == p.on_gpu]
    unknown = [keyword for keyword in keywords if keyword in DIAGONAL and keyword not in DIAGONAL_KERNELS]
    if unknown:
        return None, f"compiled kernels do not know {' and '.join(unknown)}"
    own = able[0] if diagonal else able[-1]  # of the two for tensors on a GPU, the second is for dense ones
    path = own if path == "auto" else path
    if path != own and not (path == "triton" and diagonal and p.library == "torch" and _interprets()):
        return None, f"{path} is for {LEAVES[path].serves}"
    if path == "numba":
        obstacle = _on_cpu(keywords, dtypes, p.event_size, precise)
    elif diagonal:
        obstacle = _diagonal_on_gpu(dtypes)
    else:
        obstacle = _dense_on_gpu(path, keywords, dtypes, p.event_size, precise)
    if not obstacle and path != "cupy" and diagonal and len(keywords) > 1:
        obstacle = f"compiled kernels are for two spreads of one kind, not for {' and '.join(keywords)}"
    obstacle = obstacle or _missing(path) or _broken.get(path, "") or (_disabled() if path == "numba" else "")
    if obstacle:
        return None, obstacle
    two_axes = len(batch_shape) == 1 and {ndim for form in forms for ndim in form.ndims} == {2}
    spreads = tuple((form.keyword, form.packing) for form in forms)
    bits = max(32, int(p.dtypes[0].removeprefix("b").removeprefix("float")))
    made = Job(path, p.library, spreads, bits, batch_shape, p.event_size, per_dim, two_axes, precise)
    where = "in the memory of the CPU" if path == "numba" else "on the GPU"
    return made, f"one compiled pass over {made.structure} Gaussians {where}"


def _on_cpu(keywords: dict[str, None], dtypes: dict[str, None], size: int, precise: bool) -> str:
    """Why the kernels for a CPU do not serve such a pair, if they do not."""
    if list(dtypes) not in (["float32"], ["float64"]):
        return f"compiled kernels are for float32 or float64 throughout, not for {' and '.join(dtypes)}"
    largest = LARGEST_PRECISE if precise else LARGEST
    if "low_rank" in keywords:
        if precise:
            return "it is for dense Gaussians, and one of these is of low rank"
        if set(keywords) - {"low_rank", "var"}:
            other = " and ".join(keyword for keyword in keywords if keyword != "low_rank")
            return f"compiled kernels for Gaussians of low rank are for two of them, or one and a var, not for {other}"
    elif not set(keywords) <= set(DIAGONAL) and size > largest:
        return f"compiled kernels for dense Gaussians are for at most {largest} dimensions"
    return ""


def _diagonal_on_gpu(dtypes: dict[str, None]) -> str:
    """Why the kernels for a GPU do not serve a diagonal pair, if they do not."""
    if len(dtypes) > 1 or not set(dtypes) <= {"float16", "bfloat16", "float32", "float64"}:
        return f"compiled kernels are for one floating dtype throughout, not for {' and '.join(dtypes)}"
    return ""


def _dense_on_gpu(path: str, keywords: dict[str, None], dtypes: dict[str, None], size: int, precise: bool) -> str:
    """The same for other pairs."""
    if path == "triton":
        return f"{path} is for {LEAVES[path].serves}"
    if precise:
        return "it is for arrays in the memory of the CPU"
    if list(dtypes) not in (["float32"], ["float64"]):
        return f"compiled kernels for dense Gaussians are for float32 or float64, not for {' and '.join(dtypes)}"
    others = [keyword for keyword in keywords if keyword not in (*DIAGONAL, *DENSE_ON_GPU)]
    if others:
        return f"compiled kernels for a GPU are not for {' and '.join(others)}"
    if size > LARGEST_ON_GPU:
        return f"compiled kernels for dense Gaussians on a GPU are for at most {LARGEST_ON_GPU} dimensions"
    return ""


@functools.cache
def _missing(path: str) -> str:
    """What has to be installed for a path; CuPy is there where its arrays are."""
    leaf = LEAVES[path]
    return f"{leaf.needs} is not installed: {leaf.cure}" if leaf.needs and not is_installed(leaf.needs) else ""


def is_installed(module: str) -> bool:
    """Whether there is something to import, found out without importing it; a folder of that name alone is not."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # what it would be part of is not there either
        return False
    return spec is not None and spec.origin is not None


def _disabled() -> str:
    """Whether Numba has been told to compile nothing, found out without importing it."""
    config = sys.modules.get("numba.core.config")
    said = os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")
    return DISABLED if (getattr(config, "DISABLE_JIT", said) if config else said) else ""


def _interprets() -> bool:
    """Whether Triton has been told to run its kernels without a GPU, step by step."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def load(job: Job) -> Any:
    """The leaf of a job, imported when it is first needed."""
    if job.leaf is None:
        leaf = _import(LEAVES[job.path].modules[job.library])
        job.engine = _import(ENGINES[job.structure]) if job.path == "numba" else leaf
        job.leaf = leaf
    return job.leaf


def _import(name: str) -> Any:
    try:
        with uninterrupted():
            return importlib.import_module(f".{name}", __package__)
    except Exception as error:
        raise CannotCompile(f"{type(error).__name__}: {error}") from error


def obstacle_now(job: Job) -> str:
    """Why a leaf does not serve its job here and now; "" if it does."""
    if job.path in _broken:
        return _broken[job.path]
    if job.library != "torch":
        return ""
    try:
        return str(load(job).obstacle())
    except CannotCompile as error:
        return give_up(job.path, error)


def give_up(path: str, error: CannotCompile) -> str:
    """No kernel can be had: say so once, and leave everything to the formulas."""
    if path not in _broken:
        first = str(error).strip().partition("\n")[0]
        _broken[path] = f"{path} could not make a kernel ({first})"
        level = 1  # the first line that is not this package's
        while sys._getframe(level).f_globals["__name__"].partition(".")[0] == __name__.partition(".")[0]:
            level += 1
        message = f"gausskl runs without its compiled kernels: {_broken[path]}"
        warnings.warn(message, RuntimeWarning, stacklevel=level + 1)
    return _broken[path]
