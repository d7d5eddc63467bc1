r"""CUDA C of one kernel for dense pairs of few dimensions: a thread reads a pair, and writes its divergence.

The formulas are those of ``gausskl._dense``, with the numbers of a pair in two triangles at most. From factors, row by
row, with E = L_q^-1 (L_p - L_q) and z = L_q^-1 (mean_p - mean_q),

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

from .._checks import asymmetry
from . import DIAGONAL, _terms
from ._cuda_source import DIALECT, TYPE
from ._symbols import Program

KEYWORDS = ("cov", "scale_tril", "packed_tril", *DIAGONAL)
LARGEST = 16  # dimensions
THREADS = 128  # in a block, at most
UNROLLED = 12  # dimensions up to which two triangles go into registers, or nearly so; one does up to the largest


def source(spreads: Any, bits: int, d: int) -> str:
    """Source of the kernel ``gausskl_dense`` for spreads of p and q, or of p alone against N(0, I)."""
    keywords = [keyword for keyword, _ in spreads]
    if not set(keywords) <= set(KEYWORDS) or set(keywords) <= set(DIAGONAL) or not 0 < d <= LARGEST:
        raise ValueError(f"there is no kernel for {spreads} in {d} dimensions")
    spreads = (*spreads, ("standard", None))[:2]
    (p, _), (q, _) = spreads
    parts = [_head(p, q, bits, d)]
    # All that float32 can hold, and its squares, are well within the range of float64; exponentials may not be.
    parts.append(SCALED if bits == 64 or any(k.startswith("log") for k in (p, q)) else UNSCALED)
    parts += [NORMALIZED, _gap()]
    parts += [_row(side, *spread) for side, spread in zip("pq", spreads, strict=True) if spread[0] != "cov"]
    parts.append(WHITENED)
    if "cov" in (p, q):
        parts.append(COVARIANCE.replace("TOLERANCE", repr(asymmetry(np.dtype(f"float{bits}"), xp=np))))
        parts += _difference(p, q)
        pieces = {"p": READ_P[p == "cov"], "q": READ_Q[q == "cov"], "far": FAR[p == "cov"]}
        parts.append(FROM_COVARIANCES % pieces)
    else:
        parts.append(FROM_FACTORS)
    return "\n".join([*parts, _kernel("pq"[: len(keywords)])])


def _head(p: str, q: str, bits: int, d: int) -> str:
    delta = "(double)mean_p[i]" if q == "standard" else "(double)mean_p[i] - (double)mean_q[i]"
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
    result = _terms.gap(*map(program.symbol, ("x", "ratio")))  # type: ignore[arg-type]
    lines = "\n".join(f"  {line}" for line in program.lines(result))  # type: ignore[arg-type]
    return GAP % {"lines": lines, "result": result.name}  # type: ignore[attr-defined]


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
  flipped |= (unsigned)(given[PLACE(i, i)] < 0) << i;  // columns whose diagonal entry is negative
  bool good = true;
  EACH(j, 0, i + 1) {
    const double x = given[PLACE(i, j)];
    good &= fabs(x) < INFINITE;
    row[j] = flipped >> j & 1 ? -x : x;
  }
  ABOVE
  return good && row[i] > 0.0;
}
"""
ABOVE = "EACH(j, i + 1, D) good &= given[i * D + j] == 0;"
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
STD = {
    "std": "given[i]",
    "var": "sqrt((double)given[i])",
    "log_std": "exp((double)given[i])",
    "log_var": "exp(0.5 * given[i])",
    "standard": "1.0",
}
LESS_VARIANCE = """
// x less the variance of a dimension in a unit 4^unit; the square of a standard deviation is not rounded.
FUNCTION double less_variance_SIDE(double x, const T* given, int i, int unit) {
  LESS
}
"""
LESS = {
    "std": "const double s = scaled(given[i], -unit), square = s * s; return x - square - fma(s, s, -square);",
    "var": "return x - scaled(given[i], -2 * unit);",
    "log_std": "return x - scaled(exp(2.0 * given[i]), -2 * unit);",
    "log_var": "return x - scaled(exp((double)given[i]), -2 * unit);",
    "standard": "return x - 1.0;",
}


def _row(side: str, keyword: str, packing: str | None) -> str:
    if keyword in STD:
        limit = " && row[i] < INFINITE" if side == "q" else ""  # of p, the divergence is infinite
        return ROW_OF_DIAGONAL.replace("SIDE", side).replace("STD", STD[keyword]).replace("LIMIT", limit)
    text = ROW_OF_FACTOR.replace("SIDE", side).replace("ABOVE", "" if packing else ABOVE)
    for where in (("i", "i"), ("i", "j")):
        text = text.replace("PLACE({}, {})".format(*where), PLACE[packing].format(*where))
    return text


WHITENED = """
// The mean: z_i = (L_q^-1 delta)_i, and half its square. With r = 1/L_q,ii.
FUNCTION double whitened_mean(double delta, double* z, const double* l, double r, int i) {
  if (!DIAGONAL_Q) EACH(j, 0, i) delta = fma(-l[j], z[j], delta);
  z[i] = UNIT ? delta : delta * r;
  return 0.5 * (delta * r) * (delta * r);
}

// Row i of E = L_q^-1 (L_p - L_q) in the place of that of L_p; what it adds to the divergence. With b = L_q,ii, r = 1/b
// and L_p,ii = a 2^k. L_q is taken off the columns of L_p whose diagonal entry is within a factor of 2 of that of L_q.
FUNCTION double whitened_row(double* e, const double* l, double b, double r, int i, double a, int k, unsigned& close) {
  const double here = e[AT(i, i)], t = (here - b) * r;
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
    const int unit = normalized(l, i), own = exponent(row[i]);
    const double a = scaled(row[i], -own), r = 1.0 / l[i];
    EACH(j, 0, i + 1) row[j] = scaled(row[j], -unit);
    sum += whitened_row(e, l, l[i], r, i, a, own - unit, close) + whitened_mean(scaled(delta, -unit), z, l, r, i);
  }
  return good ? sum == sum ? sum : INFINITE : NOTHING;
}
"""

# Covariances.

COVARIANCE = """
__device__ __noinline__ bool is_symmetric(const T* given) {
  _Pragma("unroll 1") for (int i = 1; i < D; ++i) _Pragma("unroll 1") for (int j = 0; j < i; ++j) {
    const double here = given[i * D + j], there = given[j * D + i];
    const double size = sqrt(fabs((double)given[i * D + i])) * sqrt(fabs((double)given[j * D + j]));
    if (here != there && !(fabs(here - there) <= TOLERANCE * size)) return false;
  }
  return true;
}

// A covariance, entries that differ by their rounding averaged; false if they differ by more.
FUNCTION bool covariance(const T* given, double* x) {
  bool unequal = false;
  EACH(i, 0, D) {
    EACH(j, 0, i) {
      const double here = given[i * D + j], there = x[AT(i, j)];
      unequal |= here != there;
      x[AT(i, j)] = here + 0.5 * (there - here);
    }
    EACH(j, i, D) x[AT(j, i)] = given[i * D + j];
  }
  return !unequal || is_symmetric(given);
}

// Row i of L in the place of that of X = L C L^T, where the rows before are done and have 1/C on the diagonal. C_i is
// the diagonal entry of X, less what is returned.
FUNCTION double row_of_factor(double* x, int i) {
  double less = 0.0;
  EACH(j, 1, i) EACH(m, 0, j) x[AT(i, j)] = fma(-x[AT(i, m)], x[AT(j, m)], x[AT(i, j)]);
  EACH(j, 0, i) {
    const double y = x[AT(i, j)];
    x[AT(i, j)] = y * x[AT(j, j)];
    less = fma(y, x[AT(i, j)], less);
  }
  return less;
}

// L with 1/sqrt(C) on the diagonal in the place of a matrix, its coordinates in units; whether it is positive definite.
FUNCTION bool factor(double* x, const int* unit) {
  bool good = true;
  EACH(i, 0, D) EACH(j, 0, i + 1) x[AT(i, j)] = scaled(x[AT(i, j)], -unit[i] - unit[j]);
  EACH(i, 0, D) {
    const double pivot = x[AT(i, i)] - row_of_factor(x, i);
    good &= pivot > 0.0 && pivot < INFINITE;
    x[AT(i, i)] = 1.0 / pivot;
  }
  EACH(i, 0, D) x[AT(i, i)] = sqrt(x[AT(i, i)]);
  return good;
}

// From a factor to one with a unit diagonal, and the reciprocals of its diagonal in that place; or back.
FUNCTION void exchange(double* x) {
  EACH(i, 0, D) {
    x[AT(i, i)] = 1.0 / x[AT(i, i)];
    EACH(j, 0, i) x[AT(i, j)] *= x[AT(j, j)];
  }
}

// W in the place of the difference X, by bordering: row i of L^-1 X, then of L^-1 X L^-T. Whether its norm is at most
// 1/2; where it is not, its diagonal mostly shows that early.
FUNCTION bool whiten(double* w, const double* l) {
  double size = 0.0;
  EACH(i, 0, D) {
    double last = w[AT(i, i)];
    if (!DIAGONAL_Q) {
      EACH(j, 0, i) {
        EACH(m, 0, j) w[AT(i, j)] = fma(-l[AT(j, m)], w[AT(i, m)], w[AT(i, j)]);
        last = fma(-l[AT(i, j)], w[AT(i, j)], last);
      }
      EACH(j, 0, i) {
        double x = w[AT(i, j)];
        EACH(m, 0, i) x = fma(-l[AT(i, m)], m < j ? w[AT(j, m)] : w[AT(m, j)], x);
        w[AT(i, j)] = x;
        last = fma(-l[AT(i, j)], x, last);
      }
      w[AT(i, i)] = last;
    }
    const double x = last * l[AT(i, i)] * l[AT(i, i)];
    size = fma(x, x, size);
    if (!(size <= 0.25)) return false;
  }
  EACH(i, 0, D) EACH(j, 0, i + 1) {
    const double x = w[AT(i, j)] * l[AT(i, i)] * l[AT(j, j)];
    size = j < i ? fma(2.0 * x, x, size) : size;
    w[AT(i, j)] = x;
  }
  return size <= 0.25;
}

// Half the sum of u_j - log1p(u_j) and of M_ij^2 below the diagonal, for I + W = M M^T = L C L^T with C_j = 1 + u_j.
FUNCTION double from_pivots(double* w) {
  double sum = 0.0;
  EACH(i, 0, D) {
    const double less = row_of_factor(w, i), u = w[AT(i, i)] - less, pivot = 1.0 + u;
    w[AT(i, i)] = 1.0 / pivot;
    sum += gap(u, pivot) + less;
  }
  return 0.5 * sum;
}
"""

# cov_p - cov_q, in the units of q, in the place of what was read of p.

LESS_PRODUCTS = """
// x less an entry of L L^T, with the digits that products and sums would lose.
FUNCTION double less_products(double x, const double* l, int i, int j) {
  double low = 0.0;
  EACH(m, 0, j + 1) {
    const double a = l[AT(i, m)], b = l[AT(j, m)], product = a * b, next = x - product, back = next - x;
    low += (x - (next - back)) - (product + back) - fma(a, b, -product);
    x = next;
  }
  return x + low;
}
"""
DIFFERENCE = """
FUNCTION void difference(double* w, const double* l, const int* unit, const T* given) {
  %s
}
"""
ENTRIES = "EACH(i, 0, D) EACH(j, 0, i + 1) w[AT(i, j)] = "
# The products of a factor from the last to the first, each where its own entry was.
BACKWARDS = """EACH(i, 0, D) EACH(j, 0, i + 1) w[AT(i, j)] = scaled(w[AT(i, j)], -unit[i]);
  EACH(n, 0, D) {
    const int i = D - 1 - n;
    EACH(m, 0, i + 1) {
      const int j = i - m;
      w[AT(i, j)] = -less_products(scaled(l[AT(i, j)], -unit[i] - unit[j]), w, i, j);
    }
  }"""


def _difference(p: str, q: str) -> list[str]:
    """Functions of the difference; of two covariances it is taken before it is scaled."""
    w, l = (f"scaled({name}[AT(i, j)], -unit[i] - unit[j])" for name in "wl")
    if p == q:
        return [DIFFERENCE % f"{ENTRIES}scaled(w[AT(i, j)] - l[AT(i, j)], -unit[i] - unit[j]);"]
    side, other = ("q", q) if p == "cov" else ("p", p)
    if other in LESS:
        sign = "" if p == "cov" else "-"
        less = f"{sign}less_variance_{side}({sign}w[AT(i, i)], given, i, unit[i])"
        lines = f"{ENTRIES}{w if p == 'cov' else '-' + l};\n  EACH(i, 0, D) w[AT(i, i)] = {less};"
        return [LESS_VARIANCE.replace("SIDE", side).replace("LESS", LESS[other]), DIFFERENCE % lines]
    lines = f"{ENTRIES}less_products({w}, l, i, j);" if p == "cov" else BACKWARDS
    return [LESS_PRODUCTS, DIFFERENCE % lines]


READ_P = {
    True: "good &= covariance(spread_p, w);",
    False: """unsigned flipped = 0;
  EACH(i, 0, D) good &= row_p(spread_p, w + AT(i, 0), i, flipped);""",
}
READ_Q = {
    True: """good &= covariance(spread_q, l);
  EACH(i, 0, D) unit[i] = exponent(l[AT(i, i)]) >> 1;
  difference(w, l, unit, spread_p);
  good &= factor(l, unit);""",
    False: """unsigned flipped = 0;
  EACH(i, 0, D) {
    good &= row_q(spread_q, l + AT(i, 0), i, flipped);
    unit[i] = normalized(l + AT(i, 0), i);
  }
  difference(w, l, unit, spread_q);
  exchange(l);""",
}
# Where the two are far apart: p's factor in its own units.
FAR = {
    True: """covariance(spread_p, w);
    EACH(i, 0, D) own[i] = exponent(w[AT(i, i)]) >> 1;
    good &= factor(w, own);
    exchange(w);""",
    False: """unsigned flipped = 0;
    EACH(i, 0, D) {
      row_p(spread_p, w + AT(i, 0), i, flipped);
      own[i] = normalized(w + AT(i, 0), i);
    }""",
}
FROM_COVARIANCES = """
FUNCTION double divergence(const T* mean_p, const T* spread_p, const T* mean_q, const T* spread_q) {
  double w[SIZE], l[SIZE], z[D], sum = 0.0;  // L_q = L 1/r with a unit diagonal: r is in its place
  int unit[D], own[D];
  unsigned close = 0;
  bool good = true;
  %(p)s
  %(q)s
  if (whiten(w, l)) {
    sum = from_pivots(w);
  } else {
    %(far)s
    EACH(i, 0, D) {
      double *row = w + AT(i, 0), r = l[AT(i, i)], a = row[i];
      EACH(j, 0, i + 1) row[j] = scaled(row[j], own[i] - unit[i]);
      sum += whitened_row(w, l + AT(i, 0), 1.0 / r, r, i, a, own[i] - unit[i], close);
    }
  }
  EACH(i, 0, D) {
    const double delta = DELTA(i);
    good &= delta == delta;
    sum += whitened_mean(scaled(delta, -unit[i]), z, l + AT(i, 0), l[AT(i, i)], i);
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
