"""Two machines with folders of their own, one database: the chain of releases stays one line."""

import json
import subprocess
import sys

import pytest

from rtbf.stack import BASE_DIR


@pytest.mark.whole
def test_two_machines_erase_two_cases_of_one_model_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.machines", "--cases", "2", "--json"],
        cwd=BASE_DIR, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    figures = json.loads(done.stdout)["figures"]
    assert figures["adapters_shared"] == figures["runs"] >= 2  # more where one decided nothing
    # The machine of the second run fetched the adapter of the first.
    assert sum(figures["adapters_by_machine"].values()) > figures["runs"]
