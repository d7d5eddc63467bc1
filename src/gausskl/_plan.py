"""What is to run for a pair of Gaussians, and why: found out once for Gaussians of the same forms, printed and run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from . import _checks
from ._arrays import adopt, namespace
from ._arrays.libraries import name_of
from ._fast import leaves
from ._fast.contract import Job
from ._form import MOST
from ._formulas.pairs import Divergence
from .gaussian import Gaussian

PATHS = ("auto", "generic", *leaves.LEAVES)
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
    of: Divergence = field(repr=False, compare=False)
    # What runs it: a kernel, if one serves, and the formulas, where there is none or not here and now.
    job: Job | None = field(repr=False, compare=False)
    xp: Any = field(repr=False, compare=False)
    per_dim: bool = field(repr=False, compare=False)
    returned: Any = field(repr=False, compare=False)  # dtype of the result
    working: Any = field(repr=False, compare=False)  # dtype that the formulas compute in

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

    def by_formulas(self, reason: str) -> Plan:
        """The same without a kernel."""
        working = namespace.name_of_dtype(self.working)
        return replace(self, job=None, path="generic", reason=reason, computed_in=working)


def plan_for(of: Divergence, p: Gaussian, q: Gaussian | None, per_dim: bool, path: str, precise: bool) -> Plan:
    """The plan for two Gaussians, or for one and the standard normal; remembered beside the form of p."""
    form_p, form_q = p.form, None if q is None else q.form
    key = of.name, form_q, per_dim, path, precise
    found: Plan | None = form_p.plans.get(key)
    if found is not None:
        return found
    made = _made(of, p, q, per_dim, path, precise)
    if form_p.plain and (form_q is None or form_q.plain):
        if len(form_p.plans) >= MOST:
            form_p.plans.clear()
        form_p.plans[key] = made
    return made


def _made(of: Divergence, p: Gaussian, q: Gaussian | None, per_dim: bool, path: str, precise: bool) -> Plan:
    _checks.one_of("path", path, PATHS)
    _checks.one_of("precise", precise, (True, False))
    sides = {"p": p} if q is None else {"p": p, "q": q}
    batch_shape = p.batch_shape if q is None else _checks.common_batch(p, q)
    if per_dim:
        _checks.both_diagonal(sides)
    typed = {name: side for name, side in sides.items() if not side.form.untyped} or {"p": p}
    adopt.one_library({f"the mean of {name}": side.mean for name, side in typed.items()})
    xp = namespace.namespace(next(iter(typed.values())).mean)
    library = name_of(xp)
    _checks.has_linalg(xp, library, sides)
    returned = namespace.floating_dtype(xp, [a for side in typed.values() for a in (side.mean, *side.arrays)])
    working = namespace.computing_dtype(xp, returned)

    precise = precise and any(side.structure != "diagonal" for side in sides.values())  # those are as good in any case
    job, reason = None, PATH_ASKED if path == "generic" else leaves.ANY
    if path != "generic" and of.kernels:
        job, reason = leaves.job([side.form for side in sides.values()], batch_shape, per_dim, precise, path)
    if job is None:
        can_serve(path, reason, precise)
    described = {name: f"{side.structure} ({side.keyword})" for name, side in sides.items()}
    standard = p.keyword if p.structure == "diagonal" else "std"
    return Plan(
        library=library,
        dtype=namespace.name_of_dtype(returned),
        computed_in=namespace.name_of_dtype(working) if job is None else job.computed_in,
        p=described["p"],
        q=described.get("q", f"diagonal ({standard}), the standard normal"),
        batch_shape=batch_shape,
        event_size=p.event_size,
        path="generic" if job is None else job.path,
        reason=reason,
        of=of,
        job=job,
        xp=xp,
        per_dim=per_dim,
        returned=returned,
        working=working,
    )


def can_serve(path: str, obstacle: str, precise: bool) -> None:
    """Refuse to compute otherwise than was asked, where a kernel does not serve."""
    if path not in ("auto", "generic"):
        raise ValueError(f'path="{path}" cannot serve this call: {obstacle}; leave path out, or give path="generic"')
    if precise:
        raise ValueError(f"precise=True cannot serve this call: {obstacle}; leave precise out")
