"""The load benchmark for ten seconds at a tenth of its rates: the harness, not its figures."""

import json
import subprocess
import sys

import pytest

from rtbf.stack import BASE_DIR

pytestmark = [pytest.mark.stack, pytest.mark.whole]


def test_everybody_is_served_while_a_run_trains() -> None:
    rates = ["--minutes", "0.17", "--public", "5", "--staff", "2", "--cases", "500"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *rates, "--json"],
        cwd=BASE_DIR, capture_output=True, text=True, check=False,
    )  # fmt: skip
    figures = json.loads(done.stdout)["figures"]
    assert figures["errors"] == {}
    assert 25 <= figures["requests"]["public"] <= 85
    assert 8 <= figures["requests"]["staff"] <= 40
    assert figures["counts"]["mailboxes confirmed"] > 0
    assert figures["share_of_time_with_a_run"] > 0.5
