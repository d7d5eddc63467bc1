"""Any two keywords, in every scale, distance, condition, rank and layout that the table of choices has."""

import fuzzing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

choices = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in fuzzing.CHOICES.items()})


@pytest.mark.skip_xp_backend("jax", reason="each choice is another shape to compile: nox -s fuzz has it")
@pytest.mark.skip_xp_backend("tensorflow", reason="each choice is another shape to compile")
@pytest.mark.skip_xp_backend("dask", reason="its blocks are arrays of NumPy")
@pytest.mark.parametrize("names", fuzzing.PAIRS, ids="-".join)
@settings(max_examples=4)
@given(choices=choices)
def test_any_two_keywords_are_right_or_refused(library, xp, names, choices):
    found = fuzzing.check(choices, names, {library: xp}, ["generic"]) or {}
    assert {answer for answer in found.values() if answer not in (None, "refused")} == set(), choices
