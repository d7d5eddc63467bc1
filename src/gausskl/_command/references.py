"""Pairs of Gaussians whose divergence is known: what ``python -m gausskl doctor`` holds the results against.

The inputs are short binary fractions, so that they are exact in float64, and in float32 too unless a step of 2^-27
makes them longer. The divergences were computed with mpmath from the inputs as they stand here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

STEP = 2.0**-27  # 7e-9: too short for float32
WIDE = 2.0**-20  # 1e-6: float32 can hold a number near 1 and this beside it


class Known(NamedTuple):
    """Two Gaussians, each a mean and a spread, and their divergence in 25 digits."""

    keyword: str
    p: tuple[Any, Any]
    q: tuple[Any, Any]
    exact: str


def _moved(std: list[float], step: float) -> list[float]:
    """Nearly the same numbers: one step more, one less, and the same."""
    return [std[0] + step, std[1] - step, std[2]]


MEAN = [0.5, -1.25, 2.0]
OTHER_MEAN = [0.25, -1.0, 1.5]

STD = [0.75, 1.5, 0.375]
LOG_VAR = [-0.75, 0.5, 1.25]

DIAGONAL = [
    Known("std", (MEAN, STD), (OTHER_MEAN, [1.0, 0.625, 0.5]), "2.253645407549661919249488"),
    Known("std", (MEAN, STD), (_moved(MEAN, STEP), _moved(STD, STEP)), "1.850371684833476447772650e-16"),
    Known("std", (MEAN, STD), (_moved(MEAN, WIDE), _moved(STD, WIDE)), "3.031644208660194177839475e-12"),
    Known(
        "std", (MEAN, [2.0**-40, 2.0**-30, 1.5]), ([8.0, -1.0, 1.5], [1.0, 0.5, 2.0**20]), "88.03463396172810502626759"
    ),
    Known("std", (MEAN, STD), (MEAN, STD), "0"),
    Known("var", (MEAN, STD), (OTHER_MEAN, [1.0, 0.625, 0.5]), "0.6311977037748309596247439"),
    Known("var", (MEAN, STD), (MEAN, _moved(STD, STEP)), "3.083952817587093060222420e-17"),
    Known("var", (MEAN, STD), (_moved(MEAN, WIDE), _moved(STD, WIDE)), "1.414768358194709715833800e-12"),
    Known(
        "var", (MEAN, [2.0**-60, 2.0**-40, 1.5]), (OTHER_MEAN, [2.0**30, 0.5, 2.0**20]), "49.99923323215688354122204"
    ),
    Known("log_var", (MEAN, LOG_VAR), (OTHER_MEAN, [1.5, -0.25, 0.125]), "1.496218769645489904056199"),
    Known("log_var", (MEAN, LOG_VAR), (_moved(MEAN, STEP), _moved(LOG_VAR, STEP)), "1.033487369315032180949965e-16"),
    Known("log_var", (MEAN, LOG_VAR), (MEAN, _moved(LOG_VAR, WIDE)), "4.547473508864985848163759e-13"),
    Known("log_var", (MEAN, [-40.0, -30.0, 1.25]), (OTHER_MEAN, [20.0, -0.25, 12.5]), "49.04013276381643659285152"),
]


def _cov(step: float) -> list[list[float]]:
    return [[2.0 + step, 0.5, -0.25 - step], [0.5, 1.0 - step, 0.125], [-0.25 - step, 0.125, 1.5]]


def _tril(step: float) -> list[list[float]]:
    return [[1.0 + step, 0.0, 0.0], [0.5, 0.75 - step, 0.0], [-0.25, 0.125 + step, 1.5]]


COV = [[1.5, -0.25, 0.5], [-0.25, 0.75, 0.0], [0.5, 0.0, 2.5]]
TRIL = [[0.75, 0.0, 0.0], [-0.25, 1.25, 0.0], [0.5, 0.375, 0.625]]

DENSE = [
    Known("cov", (MEAN, _cov(0.0)), (OTHER_MEAN, COV), "0.5364321278839117131035276"),
    Known("cov", (MEAN, _cov(0.0)), (_moved(MEAN, STEP), _cov(STEP)), "9.823359631655198495919784e-17"),
    Known("cov", (MEAN, _cov(0.0)), (MEAN, _cov(WIDE)), "5.209081572850264756668690e-13"),
    Known("cov", (MEAN, _cov(0.0)), (MEAN, _cov(0.0)), "0"),
    Known("scale_tril", (MEAN, _tril(0.0)), (OTHER_MEAN, TRIL), "4.026341480626976486804012"),
    Known("scale_tril", (MEAN, _tril(0.0)), (MEAN, _tril(STEP)), "1.846945107102262465104220e-16"),
    Known("scale_tril", (MEAN, _tril(0.0)), (_moved(MEAN, WIDE), _tril(WIDE)), "5.350304932766909111649980e-12"),
    Known("scale_tril", (MEAN, _tril(0.0)), (MEAN, _tril(0.0)), "0"),
]

KNOWN = {"diagonal": DIAGONAL, "dense": DENSE}
