"""What is to run for a pair of Gaussians, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _checks
from ._fast import leaves
from ._fast.contract import Job
from ._form import MOST
from ._generic import Pair
from .gaussian import Gaussian

PATHS = ("auto", "generic", "numba", "triton", "cuda", "cupy")
PATH_ASKED = "the array-API formulas, as asked"


@dataclass(frozen=True)
class Plan:
    """What would run for a pair of Gaussians, and why. Print it.

    Attributes
    ----------
    library : str
        Library of the arrays and of the result.
    dtype, computed_in : str
        Dtype of the result, and the one everything is computed in.
    p, q : str
        How the two spreads are described.
    batch_shape : tuple of int
        Shape of the result without reduction.
    event_size : int
        Number of dimensions.
    path : str
        The path that runs.
    reason : str
        Why it is that path.
    """

    library: str
    dtype: str
    computed_in: str
    p: str
    q: str
    batch_shape: tuple[int, ...]
    event_size: int
    path: str
    reason: str

    def __str__(self) -> str:
        return "\n".join(
            [
                f"p: {self.p}",
                f"q: {self.q}",
                f"arrays: {self.library}, {self.dtype}, computed in {self.computed_in}",
                f"batch: {self.batch_shape}, dimensions: {self.event_size}",
                f"path: {self.path} ({self.reason})",
            ]
        )


KNOWN: dict[Any, Job | str] = {}


def job_of(p: Gaussian, q: Gaussian | None, per_dim: bool, path: str, precise: bool) -> Job | str:
    """What a leaf is to do, or why none serves the pair; found out once for Gaussians of the same forms."""
    form_p, form_q = p.form, None if q is None else q.form
    known = form_p.plain and (form_q is None or form_q.plain)
    if known:
        key = form_p, form_q, per_dim, path, precise
        job = KNOWN.get(key)
        if job is not None:
            return job
    _checks.one_of("path", path, PATHS)
    _checks.one_of("precise", precise, (True, False))
    # A diagonal pair is as good in any case.
    precise = precise and not p.structure == (p if q is None else q).structure == "diagonal"
    if not known:
        can_serve(path, leaves.ANY, precise)
        return leaves.ANY
    pair = Pair(p, q, per_dim)
    forms = (form_p,) if form_q is None else (form_p, form_q)
    job = PATH_ASKED if path == "generic" else leaves.job(forms, pair.batch_shape, per_dim, precise, path)
    if isinstance(job, str):
        can_serve(path, job, precise)
    if len(KNOWN) >= MOST:
        KNOWN.clear()
    KNOWN[key] = job
    return job


def can_serve(path: str, obstacle: str, precise: bool) -> None:
    if obstacle and path not in ("auto", "generic"):
        raise ValueError(f'path="{path}" cannot serve this call: {obstacle}; leave path out, or give path="generic"')
    if obstacle and precise:
        raise ValueError(f"precise=True cannot serve this call: {obstacle}; leave precise out")
