"""Every `>>>` example in the README and in the pages gives the output that stands below it."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
NEEDS = {"distributions": "torch", "tensorflow": "tensorflow"}  # the session of that library tests the page


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorFlow Probability, when it is imported
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples(page):
    if page.stem in NEEDS and not importlib.util.find_spec(NEEDS[page.stem]):
        pytest.skip(f"needs {NEEDS[page.stem]}")
    # A blank line ends the expected output; the fence that closes a code block has to end it too.
    text = re.sub(r"^ *```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report = []
    runner.run(examples, out=report.append)
    assert not runner.failures, "".join(report)
