"""A few cases of the fault benchmark, in a process of its own."""

import json
import subprocess
import sys

import pytest

from rtbf.stack import BASE_DIR

pytestmark = [pytest.mark.stack, pytest.mark.whole]


def test_no_case_is_lost_or_doubled_while_processes_are_killed() -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--cases", "30", "--json"]
    done = subprocess.run(command, cwd=BASE_DIR, capture_output=True, text=True, check=False)
    bars = {bar["name"]: bar["value"] for bar in json.loads(done.stdout)["bars"]}
    del bars["kinds of fault that never happened"]  # so few cases end before all have come
    assert set(bars.values()) == {0}, done.stdout
