"""Print the coefficients in ``src/gausskl/_formulas/series.py`` and how far each polynomial is from its function.

The polynomials interpolate at the Chebyshev nodes of the interval. They are solved for in 60 digits and rounded
once to the precision they serve.

Run it where mpmath is installed: ``python tools/fit_series.py``. ``--check`` also compares with the file.
"""

import argparse
import runpy
from pathlib import Path

import numpy as np
from mpmath import mp

SERIES = Path(__file__).parents[1] / "src" / "gausskl" / "_formulas" / "series.py"
FORMAT = {64: np.float64, 32: np.float32}


def atanh_tail(y):
    """(atanh(r)/r - 1)/y with y = r^2."""
    if y < mp.mpf(10) ** -15:
        return mp.fsum(y**k / (2 * k + 3) for k in range(6))
    r = mp.sqrt(y)
    return (mp.atanh(r) / r - 1) / y


def expm1_tail(t):
    """(expm1(t) - t)/t^2."""
    if abs(t) < mp.mpf(10) ** -15:
        return mp.fsum(t**k / mp.factorial(k + 2) for k in range(6))
    return (mp.expm1(t) - t) / (t * t)


TABLES = {
    "ATANH_TAIL": (atanh_tail, (0, mp.mpf(1) / 4), {64: 15, 32: 7}),
    "EXPM1_TAIL": (expm1_tail, (-1, 1), {64: 14, 32: 8}),
    "ATANH_TAIL_NARROW": (atanh_tail, (0, (3 - 2 * mp.sqrt(2)) ** 2), {64: 7, 32: 3}),
    "EXPM1_TAIL_NARROW": (expm1_tail, (-mp.log(2) / 2, mp.log(2) / 2), {64: 10, 32: 5}),
}


def fit(function, interval, count):
    """Coefficients, the constant one first, of the polynomial through ``count`` Chebyshev nodes."""
    low, high = map(mp.mpf, interval)
    nodes = [(low + high + (high - low) * mp.cos(mp.pi * (2 * k + 1) / (2 * count))) / 2 for k in range(count)]
    powers = mp.matrix([[node**k for k in range(count)] for node in nodes])
    return list(mp.lu_solve(powers, mp.matrix([function(node) for node in nodes])))


def largest_error(coefficients, function, interval, points=2000):
    """Largest relative distance of the polynomial from the function, on a grid of the interval."""
    grid = mp.linspace(*interval, points)
    wanted = [function(x) for x in grid]
    return max(abs(mp.polyval(coefficients[::-1], x) / w - 1) for x, w in zip(grid, wanted, strict=True))


def tables():
    """{name: {bits: coefficients as Python floats}}, and the error of each polynomial."""
    with mp.workdps(60):
        found, errors = {}, {}
        for name, (function, interval, counts) in TABLES.items():
            found[name] = {}
            for bits, count in counts.items():
                rounded = tuple(float(FORMAT[bits](c)) for c in fit(function, interval, count))
                found[name][bits] = rounded
                errors[name, bits] = float(largest_error([mp.mpf(c) for c in rounded], function, interval))
    return found, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the file holds other numbers")
    options = parser.parse_args()
    found, errors = tables()
    for name, precisions in found.items():
        print(f"{name} = {{")
        for bits, coefficients in precisions.items():
            print(f"    # largest relative error {errors[name, bits]:.1e}")
            print(f"    {bits}: (")
            print("".join(f"        {c!r},\n" for c in coefficients) + "    ),")
        print("}")
    if options.check:
        module = runpy.run_path(str(SERIES))
        if any(module[name] != precisions for name, precisions in found.items()):
            raise SystemExit(f"{SERIES.name} holds other numbers")
        print(f"{SERIES.name} holds these numbers")


if __name__ == "__main__":
    main()
