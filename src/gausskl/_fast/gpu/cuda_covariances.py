"""The part of the kernel for dense pairs that is about covariances: see ``cuda_dense.py``."""

from __future__ import annotations

COVARIANCE = """
__device__ __noinline__ bool is_symmetric(const T* given) {
  _Pragma("unroll 1") for (int i = 1; i < D; ++i) _Pragma("unroll 1") for (int j = 0; j < i; ++j) {
    const double here = gausskl_wide(given[i * D + j]), there = gausskl_wide(given[j * D + i]);
    const double size = sqrt(fabs(gausskl_wide(given[i * D + i]))) * sqrt(fabs(gausskl_wide(given[j * D + j])));
    if (here != there && !(fabs(here - there) <= TOLERANCE * size)) return false;
  }
  return true;
}

// A covariance, entries that differ by their rounding averaged; false if they differ by more.
FUNCTION bool covariance(const T* given, double* x) {
  bool unequal = false;
  EACH(i, 0, D) {
    EACH(j, 0, i) {
      const double here = gausskl_wide(given[i * D + j]), there = x[AT(i, j)];
      unequal |= here != there;
      x[AT(i, j)] = here + 0.5 * (there - here);
    }
    EACH(j, i, D) x[AT(j, i)] = gausskl_wide(given[i * D + j]);
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
    const double whole = x[AT(i, i)], pivot = whole - row_of_factor(x, i);
    good &= pivot > (D + 1) * 0x1p-52 * whole && pivot < INFINITE;
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

LESS_VARIANCE = """
// x less the variance of a dimension in a unit 4^unit; the square of a standard deviation is not rounded.
FUNCTION double less_variance_SIDE(double x, const T* given, int i, int unit) {
  LESS
}
"""
LESS = {
    "std": "const double s = scaled(gausskl_wide(given[i]), -unit), square = s * s;\n"
    "  return x - square - fma(s, s, -square);",
    "var": "return x - scaled(gausskl_wide(given[i]), -2 * unit);",
    "log_std": "const Sum var = exact_exp(2.0 * given[i]);\n"
    "  return x - scaled(var.high, -2 * unit) - scaled(var.low, -2 * unit);",
    "log_var": "const Sum var = exact_exp((double)given[i]);\n"
    "  return x - scaled(var.high, -2 * unit) - scaled(var.low, -2 * unit);",
    "standard": "return x - 1.0;",
}
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


def difference(p: str, q: str) -> list[str]:
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
      sum += whitened_row(w, l + AT(i, 0), 1.0 / r, r, i, a, own[i] - unit[i], 0.0, close);
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


def divergence(p_has_one: bool, q_has_one: bool) -> str:
    """The divergence of a pair of which at least one side has its covariance."""
    return FROM_COVARIANCES % {"p": READ_P[p_has_one], "q": READ_Q[q_has_one], "far": FAR[p_has_one]}
