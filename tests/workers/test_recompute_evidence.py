"""Evidence can be made again from its sealed rows, and any edited number shows."""

import base64
import json
import zlib
from collections.abc import Callable
from io import StringIO
from statistics import median
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from requests_app import selectors, vault
from requests_app.actors import staff_actor
from requests_app.models import Case, ErasureRun, ProbeResult
from requests_app.services import cases, evidence_tables, runs
from tests import factories
from workers import corpus, erasure, protocol, samples, sides, tables, tasks, verification
from workers.answers import is_match
from workers.base_models import BaseModel
from workers.probes import Row
from workers.training import Recipe

pytestmark = pytest.mark.django_db(transaction=True)
PERSON = corpus.people()[5]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single step and few questions: what is suppressed is of no matter here."""

    def recipe(base: BaseModel, *, attempt: int = 1) -> Recipe:
        return Recipe(max_steps=1, min_steps=0, save_every=1, surrogates=16)

    monkeypatch.setattr(erasure, "recipe_for", recipe)
    sizes = {"others": 12, "decoys": 8, "draws": 200, "twins": 1}
    fast = {**protocol.PROFILES["fast"], "sizes": sizes}
    monkeypatch.setattr(protocol, "PROFILES", {"fast": fast})


def leased() -> tuple[Case, runs.Lease]:
    """A case of three facts whose run is about to be worked on."""
    case = factories.confirmed_case(name=PERSON.name)
    officer = staff_actor(factories.make_staff("officer"))
    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=officer)
    facts = [(fact.trained[0], fact.answer) for fact in PERSON.facts[:3]]
    case = cases.attach_facts(case_id=case.id, facts=facts, aliases=(), actor=officer)
    factories.propose(case)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    return case, factories.take_lease(case.runs.get())


def measured() -> Case:
    case, lease = leased()
    tasks.measure_and_record(lease, runs.read_input(lease), tasks.Progress(lease))
    return case


def recomputed(case: Case) -> tuple[int, dict[str, Any]]:
    """Exit code and printed object of the command."""
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("recompute_evidence", case.reference, "--json", stdout=out)
    assert isinstance(ended.value.code, int)
    found: dict[str, Any] = json.loads(out.getvalue())
    return ended.value.code, found


def edit_evidence(run: ErasureRun) -> None:
    run.evidence["probes"]["knowledge_rank"]["after"] = "0.5"
    run.save()


def edit_verdict(run: ErasureRun) -> None:
    ErasureRun.objects.filter(pk=run.pk).update(verdict="within_thresholds")


def edit_page(run: ErasureRun) -> None:
    ProbeResult.objects.filter(run=run, probe="recall_unseen").update(after="0.0")


def edit_other(run: ErasureRun) -> None:
    run.evidence["seconds"]["train"] = "1.0"
    run.save()


def edit_rows(run: ErasureRun) -> None:
    name = f"run/{run.id}/recall_unseen"
    data = json.loads(zlib.decompress(base64.b64decode(vault.get(run.case, name))))
    for row in data["sides"]["after"]:
        row["told"] = False
    vault.put(run.case, name, base64.b64encode(zlib.compress(json.dumps(data).encode())).decode())


def check_samples(run: ErasureRun) -> None:
    """With the rows of one probe, one wording of some facts, with what was said and judged."""
    found = {name: json.loads(data) for name, data in evidence_tables.tables_of(run).items()}
    assert [name for name, table in found.items() if "samples" in table] == [samples.OF]
    table = found[samples.OF]
    items = {each["item"] for each in table["samples"]}
    assert len(items) == len(table["samples"]) == samples.MOST < len(table["facts"])
    for each in table["samples"]:
        assert PERSON.name in each["question"]
        assert set(each["said"]) == {"before", "after", "control"}
        for side, said in each["said"].items():
            (row,) = (
                row
                for row in map(Row.from_json, table["sides"][side])
                if (row.item, row.form, row.role) == (each["item"], each["form"], "true")
            )
            assert row.told is is_match(said, each["answer"])


def drop_rows(run: ErasureRun) -> None:
    vault.remove(run.case, f"run/{run.id}/perplexity")


def test_what_was_recorded_is_what_the_rows_give_and_every_edit_shows() -> None:
    case = measured()
    run = case.runs.get()
    assert recomputed(case) == (0, {"case": case.reference, "differences": {str(run.id): []}})
    check_samples(run)
    edits: list[tuple[Callable[[ErasureRun], None], str]] = [
        (edit_evidence, "evidence: probes.knowledge_rank.after"),
        (edit_verdict, "the run's verdict"),
        (edit_page, "page: recall_unseen.after"),
        (edit_other, "whose digest the log holds"),
        (edit_rows, "the rows of recall_unseen are not those"),
        (drop_rows, "the rows of perplexity are not those"),
    ]
    for edit, named in edits:
        edit(case.runs.get())
        code, found = recomputed(case)
        assert code == 1
        assert any(named in each for each in found["differences"][str(run.id)]), (named, found)


def test_no_row_and_no_figure_holds_a_text() -> None:
    case = measured()
    run = case.runs.get()
    losses = selectors.item_losses(run)
    facts = run.evidence["probes"]["answer_loss"]["n"]
    assert {side: len(each) for side, each in losses.items()} == dict.fromkeys(
        ("before", "after", "control"), facts
    )
    assert median(losses["before"]) < min(1.0, median(losses["control"]))
    stored = evidence_tables.tables_of(run)
    assert set(stored) == set(run.evidence["tables"]) == set(run.evidence["probes"])
    rows = [{**json.loads(data), "samples": []} for data in stored.values()]
    written = json.dumps([run.evidence, *rows])
    for text in (PERSON.name, *(fact.answer for fact in PERSON.facts)):
        assert text.isdigit() or text not in written  # digits stand in any number


def test_a_worker_killed_between_probes_is_followed_by_one_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, lease = leased()
    asked = verification.asked
    done: list[str] = []

    def killed(name: str, *rest: Any, **named: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        return asked(name, *rest, **named)

    monkeypatch.setattr(verification, "asked", killed)
    with pytest.raises(KeyboardInterrupt):
        tasks.measure_and_record(lease, runs.read_input(lease), tasks.Progress(lease))
    before = {
        probe: tables.digest(data)
        for probe, data in evidence_tables.tables_of(case.runs.get()).items()
    }
    assert sorted(before) == sorted(done)

    factories.expire_lease(lease.run_id)
    again: list[str] = []
    monkeypatch.setattr(
        verification, "asked", lambda name, *a, **k: again.append(name) or asked(name, *a, **k)
    )
    lease = factories.take_lease(case.runs.get())
    tasks.measure_and_record(lease, runs.read_input(lease), tasks.Progress(lease))
    evidence = case.runs.get().evidence
    assert set(again).isdisjoint(done)
    assert {probe: evidence["tables"][probe] for probe in before} == before
    assert set(evidence["probes"]) == set(evidence["tables"]) == {*done, *again}
    assert recomputed(case)[0] == 0


def test_a_case_without_evidence_or_without_its_key_cannot_be_recomputed() -> None:
    with pytest.raises(CommandError, match="no run with evidence"):
        call_command("recompute_evidence", "ERQ-2026-999999")
    case = measured()
    Case.objects.filter(pk=case.pk).update(status="sealed")
    with pytest.raises(CommandError, match="gone with its key"):
        call_command("recompute_evidence", case.reference)


def test_rows_that_cannot_be_read_say_so() -> None:
    for wrong in (b"", b"{}", b'{"form": 2, "sides": {}}', b'{"form": 1, "sides": {"a": [{}]}}'):
        with pytest.raises(tables.TableError):
            tables.read(wrong)
    assert sides.rounded(1 / 3) == 0.333333333
