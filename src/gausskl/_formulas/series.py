"""The numbers behind the formulas, one set of them per precision.

Those of the first two series were fitted at Chebyshev nodes in 60 digits (``tools/fit_series.py`` prints them). The
formulas ask functions for them, because ``torch.compile`` takes the floats of a module for numbers that may change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def atanh_tail(bits: int) -> tuple[float, ...]:
    """Coefficients of S(y) = (atanh(r)/r - 1)/y with y = r^2, on [0, 1/4]."""
    if bits == 64:
        return (
            0.3333333333333333,
            0.19999999999999934,
            0.14285714285734208,
            0.11111111108774245,
            0.09090909234076455,
            0.07692302426298539,
            0.0666679262425516,
            0.05880296593962229,
            0.05286736995315698,
            0.0456935407180027,
            0.05468265249637926,
            -0.005783645920519892,
            0.16366841241041946,
            -0.18450627783481666,
            0.22653799107253964,
        )
    return (
        0.3333333432674408,
        0.19999960064888,
        0.14288285374641418,
        0.11050830036401749,
        0.0975194051861763,
        0.04091623052954674,
        0.1562916487455368,
    )


def expm1_tail(bits: int) -> tuple[float, ...]:
    """Coefficients of (expm1(t) - t)/t^2 on [-1, 1]."""
    if bits == 64:
        return (
            0.5,
            0.16666666666666666,
            0.04166666666666609,
            0.008333333333333299,
            0.0013888888888981404,
            0.00019841269841324198,
            2.4801587246096818e-05,
            2.7557319191381816e-06,
            2.755733506893373e-07,
            2.5052117695907823e-08,
            2.0874435575864273e-09,
            1.6057679623801638e-10,
            1.1639194124150522e-11,
            7.746178593018827e-13,
        )
    return (
        0.5,
        0.1666666716337204,
        0.04166673496365547,
        0.008333339355885983,
        0.001388539676554501,
        0.00019838102161884308,
        2.535851308493875e-05,
        2.806280235745362e-06,
    )


def ln2(bits: int) -> tuple[float, float, float]:
    """ln(2) in three parts, the first two so short that their products with an exponent are exact."""
    if bits == 64:
        return 0.6931471805598903, 5.4979230187085024e-14, -1.3124698417785255e-27
    return 0.693145751953125, 1.4285906217992306e-06, 1.619850954759361e-11


def inverse_factorials(bits: int) -> tuple[tuple[float, float], ...]:
    """1/2!, 1/3!, ... as sums of two numbers: the part of the series of expm1 where one number is not enough."""
    if bits == 64:
        return (
            (0.5, 0.0),
            (0.16666666666666666, 9.25185853854297e-18),
            (0.041666666666666664, 2.3129646346357427e-18),
            (0.008333333333333333, 1.1564823173178714e-19),
            (0.001388888888888889, -5.300543954373577e-20),
        )
    return (0.5, 0.0), (0.1666666716337204, -4.967053879312289e-09)


def factorial_tail(bits: int) -> tuple[float, ...]:
    """What follows after :func:`inverse_factorials`, as single numbers."""
    if bits == 64:
        return (
            0.0001984126984126984,
            2.48015873015873e-05,
            2.7557319223985893e-06,
            2.755731922398589e-07,
            2.505210838544172e-08,
            2.08767569878681e-09,
            1.6059043836821613e-10,
        )
    return 0.0416666679084301, 0.008333333767950535, 0.0013888889225199819, 0.00019841270113829523


ATANH_TAIL = {bits: atanh_tail(bits) for bits in (64, 32)}
EXPM1_TAIL = {bits: expm1_tail(bits) for bits in (64, 32)}
# For y up to (3 - 2 sqrt 2)^2 and t up to ln(2)/2, which is what remains once a power of two has been taken out: there
# they weigh so little in the result that fewer do.
ATANH_TAIL_NARROW = {
    64: (
        0.3333333333333335,
        0.19999999999949752,
        0.14285714312987743,
        0.1111110556739754,
        0.09091444562630861,
        0.07665860800278021,
        0.07308224842521702,
    ),
    32: (
        0.33333343267440796,
        0.1999439001083374,
        0.14789974689483643,
    ),
}
EXPM1_TAIL_NARROW = {
    64: (
        0.5000000000000001,
        0.16666666666666669,
        0.041666666666624164,
        0.008333333333330065,
        0.0013888888917196719,
        0.00019841269863040545,
        2.4801521322368692e-05,
        2.7557268480310024e-06,
        2.7620075879983367e-07,
        2.5100375832561234e-08,
    ),
    32: (
        0.5,
        0.16666577756404877,
        0.041666556149721146,
        0.008363173343241215,
        0.0013926175888627768,
    ),
}


def polynomial(coefficients: Callable[[int], tuple[float, ...]], x: Any, *, xp: Any) -> Any:
    """Horner's rule with the coefficients for the precision of ``x``."""
    *rest, value = coefficients(xp.finfo(x.dtype).bits)
    for coefficient in reversed(rest):
        value = value * x + coefficient
    return value
