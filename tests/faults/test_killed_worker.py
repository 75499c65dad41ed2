"""SIGKILL the model worker in each phase of a run: after a restart there is exactly one result."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rtbf.demo import Story
from rtbf.stack import COMMANDS, Stack, start_stack
from workers import corpus

pytestmark = pytest.mark.stack
SECONDS = 180


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("faults")
    quick = {"RTBF_LEASE_SECONDS": "3", "RTBF_SWEEP_SECONDS": "1"}
    quick["DATABASE_URL"] = f"sqlite:///{folder / 'rtbf.sqlite3'}"
    with start_stack(folder, env=quick) as running:
        yield running


def rows(stack: Stack, query: str, *values: str) -> list[tuple[str, ...]]:
    address = f"file:{stack.var_dir / 'rtbf.sqlite3'}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as database:
        return database.execute(query, values).fetchall()


def wait_for_phase(stack: Stack, case: str, phase: str) -> None:
    until = time.monotonic() + SECONDS
    query = """SELECT r.phase, r.state FROM requests_app_erasurerun r
               JOIN requests_app_case c ON c.id = r.case_id WHERE c.reference = ?"""
    while time.monotonic() < until:
        found = rows(stack, query, case)
        if found and found[0] == (phase, "running"):
            return
        assert not found or found[0][1] in {"queued", "running"}, found
        time.sleep(0.02)
    pytest.fail(f"{case} did not reach {phase}: {stack.log_tail('model')}")


@pytest.mark.parametrize(("person", "phase"), [(1, "locate"), (2, "train"), (3, "verify")])
def test_a_run_killed_in_any_phase_ends_in_exactly_one_result(
    stack: Stack, person: int, phase: str
) -> None:
    who = corpus.people()[person]
    with closing(Story(stack, lambda text: None)) as story:
        reference, _ = story.file_request(who)
        story.decide(reference, who)
        wait_for_phase(stack, reference, phase)
        stack.kill("model")
        stack.start("model", COMMANDS["model"])
        assert story.wait_for_run(reference, seconds=SECONDS) == "succeeded"

    (run,) = rows(
        stack,
        """SELECT r.id, r.attempts, r.verdict, r.release_id FROM requests_app_erasurerun r
           JOIN requests_app_case c ON c.id = r.case_id WHERE c.reference = ?""",
        reference,
    )
    run_id, attempts, verdict, release = run
    assert int(attempts) == 2
    assert verdict == "within_thresholds"
    adapters = rows(stack, "SELECT sha256 FROM requests_app_adapter WHERE run_id = ?", run_id)
    assert len(adapters) == 1
    live = rows(stack, "SELECT digest, manifest FROM requests_app_release WHERE is_live")
    assert [digest for digest, _ in live] == [release]
    assert len(json.loads(live[0][1])["adapters"]) == person  # persons 1, 2, 3 in this order
    entries = [
        kind
        for (kind,) in rows(
            stack,
            """SELECT type FROM requests_app_auditentry WHERE case_id =
               (SELECT id FROM requests_app_case WHERE reference = ?) ORDER BY seq""",
            reference,
        )
    ]
    once = ["run.protocol_fixed", "adapter.created", "run.verified", "release.registered"]
    assert [kind for kind in entries if kind in once] == once
    assert entries.count("run.finished") == 1


def test_the_log_verifies_after_all_that(stack: Stack) -> None:
    stack.manage("verify_log")  # raises if the command fails


def test_no_unfinished_folder_stays_in_the_stores(stack: Stack) -> None:
    left = [p for p in stack.var_dir.glob("adapters/*") if not (Path(p) / "gate.json").exists()]
    assert left == []
