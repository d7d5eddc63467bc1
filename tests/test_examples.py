"""The example in the README runs from any directory and finds what it should."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.py"


def test_digits(tmp_path):
    run = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "full covariance" in run.stdout
    assert "Most confusable, both directions added: 3 and 8 (36.7 nats), then 1 and 8 (43.1 nats)." in run.stdout
    assert "Most confusable, both directions added: 1 and 8 (12.0 nats), then 3 and 9 (14.2 nats)." in run.stdout
    assert "digits_kl.png" in run.stdout
