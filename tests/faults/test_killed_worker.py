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
SECONDS = 300
# The seed is drawn anew each time: now and then the evidence does not decide, and that too is one
# result, registered and not put live.
WITHIN = "within_thresholds"
WITHIN_OR_NOT = (WITHIN, "inconclusive")


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


def wait_for_step(stack: Stack, case: str, step: int) -> None:
    until = time.monotonic() + SECONDS
    query = """SELECT max(e.step) FROM requests_app_runevent e
               JOIN requests_app_erasurerun r ON r.id = e.run_id
               JOIN requests_app_case c ON c.id = r.case_id
               WHERE c.reference = ? AND e.phase = 'train'"""
    while time.monotonic() < until:
        if (rows(stack, query, case)[0][0] or 0) >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"{case} did not reach step {step}: {stack.log_tail('model')}")


def one_result(stack: Stack, reference: str) -> str:
    """The id of the case's only run, which two workers took up and which ended in one result."""
    (run,) = rows(
        stack,
        """SELECT r.id, r.leases, r.verdict, r.release_id FROM requests_app_erasurerun r
           JOIN requests_app_case c ON c.id = r.case_id WHERE c.reference = ?""",
        reference,
    )
    run_id, leases, verdict, release = run
    assert int(leases) == 2
    assert verdict in WITHIN_OR_NOT
    adapters = rows(stack, "SELECT sha256 FROM requests_app_adapter WHERE run_id = ?", run_id)
    assert len(adapters) == 1
    live = rows(stack, "SELECT digest FROM requests_app_release WHERE is_live")
    assert (live == [(release,)]) == (verdict == WITHIN)
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
    return run_id


@pytest.mark.parametrize(
    ("person", "phase"),
    [
        pytest.param(1, "locate", marks=pytest.mark.whole),
        pytest.param(2, "train", marks=pytest.mark.whole),
        pytest.param(3, "verify", marks=pytest.mark.whole),
    ],
)
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

    one_result(stack, reference)
    live = rows(stack, "SELECT manifest FROM requests_app_release WHERE is_live")
    within = rows(stack, "SELECT id FROM requests_app_erasurerun WHERE verdict = ?", WITHIN)
    in_force = [len(json.loads(manifest)["adapters"]) for (manifest,) in live]
    assert in_force == ([len(within)] if within else [])


def test_a_run_killed_in_training_goes_on_from_its_last_saved_step(stack: Stack) -> None:
    who = corpus.people()[4]
    with closing(Story(stack, lambda text: None)) as story:
        reference, _ = story.file_request(who)
        story.decide(reference, who)
        wait_for_step(stack, reference, 25)
        stack.kill("model")
        stack.start("model", COMMANDS["model"])
        assert story.wait_for_run(reference, seconds=SECONDS) == "succeeded"
    run_id = one_result(stack, reference)
    steps = [
        (int(step), json.loads(figures))
        for step, figures in rows(
            stack,
            """SELECT step, figures FROM requests_app_runevent
               WHERE run_id = ? AND phase = 'train' ORDER BY seq""",
            run_id,
        )
    ]
    (again,) = [i for i, (_, figures) in enumerate(steps) if "resumed_at_step" in figures]
    resumed = steps[again][0]
    assert resumed >= 20
    assert [step for step, _ in steps[:again]] == list(range(1, steps[again - 1][0] + 1))
    assert [step for step, _ in steps[again:-1]] == list(range(resumed, steps[-1][0] + 1))
    assert list((stack.var_dir / "steps").iterdir()) == []


def test_the_log_verifies_after_all_that(stack: Stack) -> None:
    stack.manage("verify_log")  # raises if the command fails


def test_no_unfinished_folder_stays_in_the_stores(stack: Stack) -> None:
    left = [p for p in stack.var_dir.glob("adapters/*") if not (Path(p) / "gate.json").exists()]
    assert left == []
