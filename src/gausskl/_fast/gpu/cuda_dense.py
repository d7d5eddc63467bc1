r"""CUDA C of one kernel for dense pairs of few dimensions: a thread reads a pair, and writes its divergence.

The formulas are those of ``_formulas/dense.py``, with the numbers of a pair in two triangles at most. From factors, row
by row, with E = L_q^-1 (L_p - L_q) and z = L_q^-1 (mean_p - mean_q),

    KL = sum_i [G(L_p,ii, L_q,ii) + e_i^2/2] + sum_{i>j} E_ij^2/2 + |z|^2/2.

Where a side has its covariance, W = L_q^-1 (cov_p - cov_q) L_q^-T comes first, and where its norm is at most 1/2,

    KL = sum_j [u_j - log1p(u_j)]/2 + sum_{i>j} M_ij^2/2 + |z|^2/2,   I + W = M M^T,   M_jj^2 = 1 + u_j.

Nothing is read back, so no number may leave the range of float64 unless the divergence does. That stays the same when
a coordinate is scaled: each is, by the power of two that makes q's spread about 1, which rounds nothing. While p's
covariance is factored, the powers are those of p. After that a valid pair gives NaN only where something overflowed,
and there its divergence does as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._checks import asymmetry
from ..._formulas import exact
from ..._spreads import DIAGONAL, event_shape
from ..contract import Job
from ..leaves import DENSE_ON_GPU, LARGEST_ON_GPU
from ..terms import diagonal
from . import cuda_covariances
from .cuda_diagonal import DIALECT, TYPE, WIDE
from .trace import Program

KEYWORDS = (*DENSE_ON_GPU, *DIAGONAL)
THREADS = 128  # in a block, at most
UNROLLED = 12  # dimensions up to which two triangles go into registers, or nearly so; one does up to the largest


def source(spreads: Any, bits: int, d: int) -> str:
    """Source of the kernel ``gausskl_dense`` for spreads of p and q, or of p alone against N(0, I)."""
    keywords = [keyword for keyword, _ in spreads]
    if not set(keywords) <= set(KEYWORDS) or set(keywords) <= set(DIAGONAL) or not 0 < d <= LARGEST_ON_GPU:
        raise ValueError(f"there is no kernel for {spreads} in {d} dimensions")
    spreads = (*spreads, ("standard", None))[:2]
    (p, _), (q, _) = spreads
    parts = [WIDE, _head(p, q, bits, d)]
    # All that float32 can hold, and its squares, are well within the range of float64; exponentials may not be.
    parts.append(SCALED if bits == 64 or any(k.startswith("log") for k in (p, q)) else UNSCALED)
    parts += [NORMALIZED, _gap()]
    if any(k.startswith("log") for k in (p, q)):
        parts.append(_exp())
    parts += [_row(side, *spread) for side, spread in zip("pq", spreads, strict=True) if spread[0] != "cov"]
    parts.append(WHITENED)
    if "cov" in (p, q):
        tolerance = repr(asymmetry(np.dtype(f"float{bits}"), xp=np))
        parts.append(cuda_covariances.COVARIANCE.replace("TOLERANCE", tolerance))
        parts += cuda_covariances.difference(p, q)
        parts.append(cuda_covariances.divergence(p == "cov", q == "cov"))
    else:
        parts.append(FROM_FACTORS)
    return "\n".join([*parts, _kernel("pq"[: len(keywords)])])


def events(job: Job) -> list[tuple[int, ...]]:
    """Shapes of the mean and the spread of each side, without the batch."""
    return [event_shape(name, job.event_size) for keyword, _ in job.spreads for name in ("mean", keyword)]


def _head(p: str, q: str, bits: int, d: int) -> str:
    delta = "gausskl_wide(mean_p[i])" if q == "standard" else "gausskl_wide(mean_p[i]) - gausskl_wide(mean_q[i])"
    two = "cov" in (p, q) and p not in STD and q not in STD
    return HEAD % {
        "type": TYPE["float", bits],
        "d": d,
        "unroll": " 1" if two and d > UNROLLED else "",
        "delta": delta,
        "p": str(p in STD).lower(),
        "q": str(q in STD).lower(),
        "unit": str("cov" in (p, q)).lower(),
    }


HEAD = """
typedef %(type)s T;
#define FUNCTION __device__ __forceinline__
#define AT(i, j) ((i) * ((i) + 1) / 2 + (j))  // place in a triangle
#define EACH(i, first, last) _Pragma("unroll%(unroll)s") for (int i = first; i < (last); ++i)
constexpr int D = %(d)d, SIZE = D * (D + 1) / 2;
constexpr bool DIAGONAL_P = %(p)s, DIAGONAL_Q = %(q)s;
constexpr bool UNIT = %(unit)s;  // L_q is there as a factor l of unit diagonal and L_q,ii; the rows of E are times that
#define DELTA(i) (%(delta)s)
#define INFINITE __longlong_as_double(0x7ff0000000000000LL)
#define NOTHING __longlong_as_double(0x7ff8000000000000LL)
"""

SCALED = """
FUNCTION double power_of_two(int k) { return __longlong_as_double((long long)(k + 1023) << 52); }

// The power of two in a number; of one below the normal range that of its lower end, which is near enough.
FUNCTION int exponent(double x) { return (int)(__double_as_longlong(x) >> 52 & 0x7ff) - 1023; }

// x 2^k, where k is the difference of two exponents. The power 2^-1023 counts as 0: then nothing would be left of x.
FUNCTION double scaled(double x, int k) { return x * power_of_two(k / 2) * power_of_two(k - k / 2); }
"""
UNSCALED = """
FUNCTION int exponent(double) { return 0; }
FUNCTION double scaled(double x, int) { return x; }
"""
NORMALIZED = """
// A row of a factor in the unit of its diagonal entry, which is returned.
FUNCTION int normalized(double* row, int i) {
  const int unit = exponent(row[i]);
  EACH(j, 0, i + 1) row[j] = scaled(row[j], -unit);
  return unit;
}
"""


def _gap() -> str:
    program = Program(64, DIALECT, "v")
    result = diagonal.gap(*map(program.symbol, ("x", "ratio")))  # type: ignore[arg-type]
    lines = "\n".join(f"  {line}" for line in program.lines(result))  # type: ignore[arg-type]
    return GAP % {"lines": lines, "result": result.name}  # type: ignore[attr-defined]


def _exp() -> str:
    program = Program(64, DIALECT, "v")
    high, low = exact.exp(program.symbol("x"), xp=program)
    lines = "\n".join(f"  {line}" for line in program.lines(high, low))
    return EXP % {"lines": lines, "high": high.name, "low": low.name}


EXP = """
struct Sum { double high, low; };

// e^x without rounding it to one number.
FUNCTION Sum exact_exp(double x) {
%(lines)s
  return {%(high)s, %(low)s};
}
"""
GAP = """
// G(a, b) = a/b - 1 - log(a/b) from x = (a - b)/b and a/b, which is in [2^-512, 2^512].
FUNCTION double gap(double x, double ratio) {
%(lines)s
  return %(result)s;
}

// The same for a/b = 2^k ratio.
FUNCTION double gap(double x, double ratio, int k) {
  const bool inside = -400 <= k && k <= 400;
  return inside ? gap(x, scaled(ratio, k)) : x - (log(ratio) + k * 0.6931471805599453);
}
"""


# A spread that is no covariance: row i of its factor, and whether that is one.

ROW_OF_FACTOR = """
FUNCTION bool row_SIDE(const T* given, double* row, int i, unsigned& flipped) {
  flipped |= (unsigned)(gausskl_wide(given[PLACE(i, i)]) < 0) << i;  // columns whose diagonal entry is negative
  bool good = true;
  EACH(j, 0, i + 1) {
    const double x = gausskl_wide(given[PLACE(i, j)]);
    good &= fabs(x) < INFINITE;
    row[j] = flipped >> j & 1 ? -x : x;
  }
  ABOVE
  return good && row[i] > 0.0;
}
"""
ABOVE = "EACH(j, i + 1, D) good &= gausskl_wide(given[i * D + j]) == 0;"
PLACE = {
    None: "{0} * D + {1}",
    "row": "AT({0}, {1})",
    "tfp": "{0} * D + {1} < SIZE - D ? {0} * D + {1} + D : 2 * SIZE - D - 1 - {0} * D - {1}",
}
ROW_OF_DIAGONAL = """
FUNCTION bool row_SIDE(const T* given, double* row, int i, unsigned&) {
  EACH(j, 0, i) row[j] = 0.0;
  row[i] = STD;
  return row[i] > 0.0LIMIT;
}
"""
# What row i of a factor was rounded by.
REST = """
FUNCTION double rest_SIDE(const T* given, int i, double std) {
  VALUE
}
"""
RESTS = {
    "var": "return fma(-std, std, gausskl_wide(given[i])) / (2.0 * std);",
    "log_std": "const Sum whole = exact_exp((double)given[i]);\n  return (whole.high - std) + whole.low;",
    "log_var": "const Sum whole = exact_exp(0.5 * given[i]);\n  return (whole.high - std) + whole.low;",
}
STD = {
    "std": "gausskl_wide(given[i])",
    "var": "sqrt(gausskl_wide(given[i]))",
    "log_std": "exp((double)given[i])",
    "log_var": "exp(0.5 * given[i])",
    "standard": "1.0",
}


def _row(side: str, keyword: str, packing: str | None) -> str:
    rest = REST.replace("SIDE", side).replace("VALUE", RESTS.get(keyword, "return 0.0;"))
    if keyword in STD:
        limit = " && row[i] < INFINITE" if side == "q" else ""  # of p, the divergence is infinite
        limit += " && gausskl_wide(given[i]) < INFINITE" if keyword.startswith("log") else ""
        return ROW_OF_DIAGONAL.replace("SIDE", side).replace("STD", STD[keyword]).replace("LIMIT", limit) + rest
    text = ROW_OF_FACTOR.replace("SIDE", side).replace("ABOVE", "" if packing else ABOVE)
    for where in (("i", "i"), ("i", "j")):
        text = text.replace("PLACE({}, {})".format(*where), PLACE[packing].format(*where))
    return text + rest


WHITENED = """
// The mean: z_i = (L_q^-1 delta)_i, and half its square. With r = 1/L_q,ii.
FUNCTION double whitened_mean(double delta, double* z, const double* l, double r, int i) {
  if (!DIAGONAL_Q) EACH(j, 0, i) delta = fma(-l[j], z[j], delta);
  z[i] = UNIT ? delta : delta * r;
  return 0.5 * (delta * r) * (delta * r);
}

// Row i of E = L_q^-1 (L_p - L_q) in the place of that of L_p; what it adds to the divergence. With b = L_q,ii, r = 1/b
// and L_p,ii = a 2^k. L_q is taken off the columns of L_p whose diagonal entry is within a factor of 2 of that of L_q.
// The rest is what the difference of the two diagonal entries was rounded by when they were made.
FUNCTION double whitened_row(
    double* e, const double* l, double b, double r, int i, double a, int k, double rest, unsigned& close) {
  const double here = e[AT(i, i)], t = ((here - b) + rest) * r;
  const bool less = !UNIT && !DIAGONAL_P && here <= 2.0 * b && b <= 2.0 * here;
  close |= (unsigned)less << i;
  double sum = 0.0;
  EACH(j, 0, i) {
    double x = e[AT(i, j)];
    if (!DIAGONAL_Q) {
      x -= close >> j & 1 ? l[j] : 0.0;
      EACH(m, j, i) x = fma(-l[m], e[AT(m, j)], x);
    }
    e[AT(i, j)] = UNIT ? x : x * r;
    sum = fma(0.5 * (x * r), x * r, sum);
  }
  if (!UNIT) e[AT(i, i)] = less ? t : here * r;
  return sum + fma(0.5 * t, t, gap(t, a * r, k));
}
"""

FROM_FACTORS = """
FUNCTION double divergence(const T* mean_p, const T* spread_p, const T* mean_q, const T* spread_q) {
  double e[SIZE], l[D], z[D], sum = 0.0;
  unsigned flipped_p = 0, flipped_q = 0, close = 0;
  bool good = true;
  EACH(i, 0, D) {
    double* row = e + AT(i, 0);
    const double delta = DELTA(i);
    good &= row_q(spread_q, l, i, flipped_q) && delta == delta;
    good &= row_p(spread_p, row, i, flipped_p);
    const double rest = rest_p(spread_p, i, row[i]) - rest_q(spread_q, i, l[i]);
    const int unit = normalized(l, i), own = exponent(row[i]);
    const double a = scaled(row[i], -own), r = 1.0 / l[i];
    EACH(j, 0, i + 1) row[j] = scaled(row[j], -unit);
    sum += whitened_row(e, l, l[i], r, i, a, own - unit, scaled(rest, -unit), close);
    sum += whitened_mean(scaled(delta, -unit), z, l, r, i);
  }
  return good ? sum == sum ? sum : INFINITE : NOTHING;
}
"""


def _kernel(sides: str) -> str:
    inputs = [f"{what}_{side}" for side in sides for what in ("mean", "spread")]
    pointers = ", ".join(f"const T* {name}" for name in inputs)
    strides = ", ".join(f"long long {name}_outer, long long {name}_inner" for name in inputs)
    places = [f"{name} + o * {name}_outer + n * {name}_inner" for name in inputs] + ["0"] * (4 - len(inputs))
    return KERNEL % {"pointers": pointers, "strides": strides, "places": ", ".join(places), "threads": THREADS}


KERNEL = """
extern "C" __global__ void __launch_bounds__(%(threads)d)
gausskl_dense(%(pointers)s, T* out, long long rows, long long inner, %(strides)s) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += step) {
    const long long o = row < inner ? 0 : row / inner, n = row - o * inner;
    out[row] = (T)divergence(%(places)s);
  }
}
"""
