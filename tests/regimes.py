"""Where formulas fail: pairs of Gaussians from every corner of a dtype, the same at every call.

Each generator yields ``(name, p, q)``; ``p`` and ``q`` are dicts of NumPy arrays under the library's
keywords. Numbers are drawn in float64 and rounded once to the dtype: a name's promise holds up to that.
"""

import math
from dataclasses import dataclass

import numpy as np

DISTINCT = 1000  # further dimensions repeat these, which keeps the oracle quick


@dataclass(frozen=True)
class Range:
    """How far a dtype reaches, in decimal orders."""

    near: int  # smallest relative difference
    far: int  # means apart, in standard deviations
    ratio: int  # variance ratio
    scale: int  # tiny and huge numbers
    offset: int  # common mean
    cond: int  # condition number
    grade: int  # rows of very different size
    floor: int  # smallest entry of cov_diag


RANGES = {
    "float64": Range(near=15, far=150, ratio=300, scale=300, offset=6, cond=10, grade=8, floor=6),
    "float32": Range(near=7, far=18, ratio=36, scale=30, offset=6, cond=4, grade=3, floor=6),
    "float16": Range(near=3, far=1, ratio=4, scale=4, offset=3, cond=1, grade=1, floor=1),
}

SPREAD = {
    "std": lambda log10_std: 10.0**log10_std,
    "var": lambda log10_std: 10.0 ** (2 * log10_std),
    "log_std": lambda log10_std: math.log(10) * log10_std,
    "log_var": lambda log10_std: math.log(10) * 2 * log10_std,
}


# ---- diagonal ----


def diagonal(keyword, dtype=np.float64, d=8, rows=4, seed=0):
    """Diagonal pairs of shape ``(rows, d)``, both sides under ``keyword``; every divergence is finite."""
    draw = _Diagonal(keyword, dtype, d, rows, seed)
    for cases in (draw.ordinary, draw.near, draw.means_apart, draw.ratios, draw.scales):
        for name, p, q in cases():
            yield name, _widen(p, d), _widen(q, d)


class _Diagonal:
    def __init__(self, keyword, dtype, d, rows, seed):
        self.keyword, self.dtype, self.reach = keyword, np.dtype(dtype), RANGES[np.dtype(dtype).name]
        self.rng, self.shape = np.random.default_rng(seed), (rows, min(d, DISTINCT))
        # Means 10**far standard deviations apart give d/2 * 10**(2 far), which must stay finite.
        self.far = min(self.reach.far, math.log10(float(np.finfo(dtype).max) / d) / 2 - 0.5)

    def side(self, mean, log10_std):
        return {
            "mean": _cast(mean, self.dtype),
            self.keyword: _cast(SPREAD[self.keyword](log10_std), self.dtype),
        }

    def normal(self):
        return self.rng.standard_normal(self.shape)

    def logs(self, width=0.5):
        return self.rng.uniform(-width, width, self.shape)

    def ordinary(self):
        yield "moderate", self.side(self.normal(), self.logs()), self.side(self.normal(), self.logs())
        offset = 10.0**self.reach.offset
        sides = (self.side(offset + self.normal(), self.logs()) for _ in range(2))
        yield "common mean offset", *sides

    def near(self):
        for order in range(1, self.reach.near + 1):
            logs, mean = self.logs(), self.normal()
            q = self.side(mean, logs)
            p = self.side(mean + 10.0**-order * self.normal(), logs + 10.0**-order * self.logs())
            yield f"near 1e-{order}", p, q
            yield f"near 1e-{order}, same mean", p | {"mean": q["mean"]}, q
        q = self.side(self.normal(), self.logs())
        p = {name: _next(self.rng, a) for name, a in q.items()}
        yield "near 1 ulp", p, q
        yield "near 1 ulp, same mean", p | {"mean": q["mean"]}, q
        yield "equal", {name: a.copy() for name, a in q.items()}, q

    def means_apart(self):
        for order in np.unique(np.linspace(-self.reach.far, self.reach.far, 7).round()) + 0.0:
            logs = self.logs()
            apart = 10.0 ** (min(order, self.far) + logs - 0.2 + self.logs(0.2)) * _signs(self.rng, self.shape)
            yield (
                f"same spread, means 1e{order:+.0f} std apart",
                self.side(apart, logs),
                self.side(0 * apart, logs),
            )

    def ratios(self):
        largest = min(self.reach.ratio, 2 * self.far)
        for order in largest * np.array([-1, -0.5, 0.5, 1]):
            for wide, share in (("p", 1.0), ("q", 0.0), ("both", 0.5)):
                logs_p, logs_q = (
                    order / 2 * share - 0.2 + self.logs(0.1),
                    order / 2 * (share - 1) + self.logs(0.1),
                )
                p, q = (self.side(10.0 ** (logs_q - 0.2) * self.normal(), logs) for logs in (logs_p, logs_q))
                yield f"variance ratio 1e{order:+.0f}, by {wide}", p, q
        logs_p, logs_q = self.logs(largest / 4), self.logs(largest / 4)
        yield (
            "variance ratios mixed",
            self.side(10.0**logs_q * self.normal(), logs_p),
            self.side(0 * logs_q, logs_q),
        )

    def scales(self):
        info, on_variance = np.finfo(self.dtype), self.keyword in ("var", "log_var")
        scale = self.reach.scale / (2 if self.keyword == "var" else 1)
        orders = {"tiny": -scale, "small": -scale / 2, "large": scale / 2, "huge": scale - 1}
        sizes = {
            "subnormal": float(info.smallest_normal) / 8,
            "last subnormal": 32 * float(info.smallest_subnormal),
        }
        orders |= {name: math.log10(size) / (2 if on_variance else 1) for name, size in sizes.items()}
        for name, order in orders.items():
            sides = (self.side(10.0**order * self.normal(), order + self.logs(0.25)) for _ in range(2))
            yield f"{name} scale", *sides


def _widen(g, d):
    return {name: np.ascontiguousarray(a[..., np.arange(d) % DISTINCT]) for name, a in g.items()}


# ---- dense ----


def scale_tril(dtype=np.float64, d=6, rows=2, seed=0):
    """Dense pairs from factors of shape ``(rows, d, d)``, exactly lower triangular; signs vary."""
    rng, reach = np.random.default_rng(seed), RANGES[np.dtype(dtype).name]

    def cast(mean, factor):
        return {"mean": _cast(mean, dtype), "scale_tril": _cast(factor, dtype)}

    for name, p, q in _dense(rng, reach, d, rows, reach.cond):
        yield name, cast(*p), cast(*q)
        if "well-conditioned" in name:
            signs = _signs(rng, (2, rows, 1, d))
            yield f"{name}, signs", cast(p[0], p[1] * signs[0]), cast(q[0], q[1] * signs[1])
    q = cast(*q)
    p = {name: _next(rng, a) for name, a in q.items()}
    yield "near 1 ulp", p | {"scale_tril": np.tril(p["scale_tril"])}, q
    yield "equal", {name: a.copy() for name, a in q.items()}, q


def cov(dtype=np.float64, d=6, rows=2, seed=0):
    """Dense pairs from covariances of shape ``(rows, d, d)``, exactly symmetric and positive definite."""
    rng, reach = np.random.default_rng(seed), RANGES[np.dtype(dtype).name]

    def cast(mean, factor):
        return {"mean": _cast(mean, dtype), "cov": _mirror(_cast(factor @ factor.mT, dtype))}

    for name, p, q in _dense(rng, reach, d, rows, reach.cond / 2):
        yield name, cast(*p), cast(*q)
    q = cast(*q)
    p = {name: _next(rng, a) for name, a in q.items()}
    yield "near 1 ulp", p | {"cov": _mirror(p["cov"])}, q
    yield "equal", {name: a.copy() for name, a in q.items()}, q


def _dense(rng, reach, d, rows, cond):
    """Pairs of (mean, factor) in float64, the condition numbers of the factors up to ``10**cond``."""
    shape = (rows, d)
    distances = sorted({*range(0, reach.near, 3 if reach.near > 9 else 2), reach.near})
    grades = 10.0 ** np.linspace(-reach.grade, reach.grade, d)

    def side(order):
        return rng.standard_normal(shape), _factor(rng, rows, d, 10.0**order)

    yield "unrelated, well-conditioned", side(0.5), side(0.5)
    yield "unrelated, ill-conditioned", side(cond), side(cond)
    for name, size in (("narrow", 10.0**-reach.grade), ("wide", 10.0**reach.grade)):
        p, q = side(0.5), side(0.5)
        yield f"{name} against ordinary", (size * p[0], size * p[1]), q
    yield "identity correlation", (np.zeros(shape), np.eye(d) * 2.0 + np.zeros((rows, d, d))), side(0)

    kinds = {
        "well-conditioned": 0.5,
        "half ill-conditioned": cond / 2,
        "ill-conditioned": cond,
        "graded": 0.5,
    }
    for name, order in kinds.items():
        for distance in distances:
            mean, factor = side(order)
            if name == "graded":
                scale = rng.permutation(grades)
                mean, factor = scale * mean, scale[:, None] * factor
            step = np.eye(d) + 10.0**-distance * np.tril(rng.uniform(-0.5, 0.5, (rows, d, d)))
            shift = 10.0**-distance * rng.standard_normal((rows, d, 1))
            yield (
                f"near 1e-{distance}, {name}",
                (mean + (factor @ shift)[..., 0], factor @ step),
                (mean, factor),
            )


def _factor(rng, rows, d, cond):
    """Lower triangular factors with a positive diagonal and singular values from 1 down to ``1/cond``."""
    left, right = (np.linalg.qr(rng.standard_normal((rows, d, d)))[0] for _ in range(2))
    upper = np.linalg.qr(right * np.geomspace(1, 1 / cond, d) @ left.mT)[1]
    factor = np.tril(upper.mT)
    return factor * np.sign(np.diagonal(factor, axis1=-2, axis2=-1))[:, None, :]


# ---- low rank ----


def low_rank(dtype=np.float32, d=6, r=2, rows=1, seed=0):
    """Low-rank pairs: ``cov_factor`` of shape ``(rows, d, r)`` and a ``cov_diag`` that falls to 1e-6."""
    rng, reach = np.random.default_rng(seed), RANGES[np.dtype(dtype).name]

    def side(floor):
        diag = 10.0 ** rng.uniform(floor, 0, (rows, d))
        return {
            "mean": rng.standard_normal((rows, d)),
            "cov_factor": rng.standard_normal((rows, d, r)),
            "cov_diag": diag,
        }

    def cast(g):
        return {name: _cast(a, dtype) for name, a in g.items()}

    for floor in (0, -reach.floor):
        yield f"unrelated, cov_diag from 1e{floor}", cast(side(floor)), cast(side(floor))
        for order in sorted({1, reach.near // 2, reach.near}):
            q = side(floor)
            p = {name: a * (1 + 10.0**-order * rng.uniform(-0.5, 0.5, a.shape)) for name, a in q.items()}
            p["mean"] = q["mean"] + 10.0**-order * np.sqrt(q["cov_diag"]) * rng.standard_normal((rows, d))
            yield f"near 1e-{order}, cov_diag from 1e{floor}", cast(p), cast(q)
        q = cast(side(floor))
        yield f"near 1 ulp, cov_diag from 1e{floor}", {name: _next(rng, a) for name, a in q.items()}, q
        yield f"equal, cov_diag from 1e{floor}", {name: a.copy() for name, a in q.items()}, q


# ---- small tools ----


def _cast(a, dtype):
    out = np.asarray(a).astype(dtype)
    assert np.isfinite(out).all(), "a regime leaves the range of its dtype"
    return out


def _next(rng, a):
    """Each entry moved by one unit in the last place, up or down."""
    return np.nextafter(a, _signs(rng, a.shape).astype(a.dtype) * a.dtype.type(np.inf))


def _signs(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


def _mirror(a):
    return np.tril(a) + np.tril(a, -1).mT
