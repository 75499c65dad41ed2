"""The pages of a run: what it does and did, and its evidence with the person's words redacted."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.http import HttpResponse
from django.utils import timezone

from requests_app.models import AuditEntry, Case, ErasureRun, ProbeResult, RunEvent, StaffMember
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.permissions import REVEALED
from requests_app.services import cases, evidence_tables, runs
from requests_app.views import run_progress
from tests import factories
from tests.staff import as_staff
from workers import tables as worker_tables

pytestmark = pytest.mark.django_db
SALT = bytes(16)


def text(response: HttpResponse) -> str:
    return response.content.decode()


def events(run: ErasureRun, *, phase: str, seconds: list[float], total: int = 10) -> None:
    """Events of a phase, a step each, so many seconds apart, the last one now."""
    at = timezone.now() - timedelta(seconds=sum(seconds))
    first = run.events.count()
    for step, apart in enumerate([0.0, *seconds]):
        at += timedelta(seconds=apart)
        figures = {
            "loss": f"{3 - step / 2}",
            "forget_loss": f"{2.5 - step / 2}",
            "keep_loss": "0.1",
        }
        RunEvent.objects.create(
            run=run, seq=first + step, at=at, phase=phase, step=step, total=total, figures=figures
        )


# --- The run page ---------------------------------------------------------------------------------
def test_a_running_run_shows_its_losses_pace_and_log(auditor: StaffMember) -> None:
    run = factories.executing_case().runs.get()
    lease = factories.take_lease(run)
    runs.record_protocol(lease, protocol=factories.protocol(run))
    run = ErasureRun.objects.get(pk=run.pk)
    events(run, phase="train", seconds=[2.0, 2.0, 4.0, 4.0])
    page = text(as_staff(auditor).get(f"/app/runs/{run.pk}"))
    assert "Step 3 of 5: Train the adapter" in page
    assert "Left in this step: 12 s to 24 s" in page
    assert "forgetting fell from 2.5 to 0.5" in page
    assert "4 of 10 (40 %)" in page
    assert "forget_loss 0.5" in page
    assert "Stalled" not in page
    assert factories.digest("base")[:12] in page  # from the test plan, before an adapter is stored


@pytest.mark.parametrize("seconds", [[], [1.0, 1.0, 1.0]])
def test_what_is_left_is_not_known_from_too_few_steps(seconds: list[float]) -> None:
    run = factories.executing_case().runs.get()
    events(run, phase="train", seconds=seconds)
    assert run_progress.seconds_left(list(run.events.order_by("seq"))) is None


def test_a_silent_run_is_said_to_be_stalled_and_a_waiting_one_has_its_place(
    auditor: StaffMember,
) -> None:
    first, second = (factories.executing_case().runs.get() for _ in range(2))
    client = as_staff(auditor)
    assert "Place 2 in the queue" in text(client.get(f"/app/runs/{second.pk}"))
    factories.take_lease(first)
    ErasureRun.objects.filter(pk=first.pk).update(started_at=timezone.now() - timedelta(minutes=2))
    assert "Stalled: no event for 120 s" in text(client.get(f"/app/runs/{first.pk}"))
    assert "Place 1 in the queue" in text(client.get(f"/app/runs/{second.pk}"))


def test_a_failed_run_opens_where_it_stopped_and_is_retried_as_a_new_run(
    officer: StaffMember, auditor: StaffMember
) -> None:
    run = factories.executing_case().runs.get()
    lease = factories.take_lease(run)
    runs.add_event(lease, phase="train", step=3, total=9, figures={"loss": 0.5})
    runs.fail_run(lease, error="There are no free directions left.")
    assert 'id="retry"' not in text(as_staff(auditor).get(f"/app/runs/{run.pk}"))
    client = as_staff(officer)
    page = text(client.get(f"/app/runs/{run.pk}"))
    (stopped,) = re.findall(r'<li class="now failed".*?</li>\s*<li class="next"', page, re.DOTALL)
    assert "Train the adapter" in stopped
    assert stopped.index("no free directions") < stopped.index("<details")
    assert "open" not in stopped
    action = re.search(r'action="([^"]+)" id="retry"', page)
    assert action is not None
    client.post(action[1], {"action": "repeat", "run": str(run.pk)})
    again = run.case.runs.get(number=2)
    page = text(client.get(f"/app/runs/{run.pk}"))
    assert 'id="retry"' not in page
    assert f"/app/runs/{again.pk}" in page


def test_attempts_stand_beside_each_other(auditor: StaffMember) -> None:
    case = factories.responding_case(verdict=Verdict.NOT_MET)
    last = case.runs.get(number=3)
    page = text(as_staff(auditor).get(f"/app/runs/{last.pk}"))
    table = page[page.index('id="attempts"') :]
    assert table.count("0 of 1 hold") == 3
    assert table.count(">npo<") == 3
    assert "3 (this one)" in table


def test_the_log_comes_whole_as_a_file_and_in_part_on_the_page(auditor: StaffMember) -> None:
    run = factories.executing_case().runs.get()
    RunEvent.objects.bulk_create(
        RunEvent(run=run, seq=i, at=timezone.now(), phase="train", step=i, total=250)
        for i in range(250)
    )
    client = as_staff(auditor)
    response = client.get(f"/app/runs/{run.pk}/log")
    assert response.headers["Content-Disposition"] == f'attachment; filename="run-{run.pk}.log"'
    assert len(text(response).splitlines()) == 250
    page = text(client.get(f"/app/runs/{run.pk}"))
    assert "50 earlier events are in the file." in page
    log = page[page.index('<pre id="run-log"') : page.index("</pre>", page.index("run-log"))]
    assert len(re.findall(r"#\d+ train", log)) == 200
    assert "#249 train 249/250" in log


# --- Evidence -------------------------------------------------------------------------------------
def keep_rows(
    run: ErasureRun, probe: str, sides: dict[str, list[dict[str, Any]]], **more: Any
) -> None:
    """Rows of a probe as a worker seals them, about the facts of the case."""
    ids = [worker_tables.fact_id(SALT, *fact) for fact in factories.FACTS]
    table = {"form": 1, "salt": SALT.hex(), "facts": ids, "sides": sides, **more}
    lease = runs.Lease(run.pk, "worker-1", run.fence)
    evidence_tables.save_table(lease, probe=probe, table=json.dumps(table).encode())


def told(*facts: str) -> list[dict[str, Any]]:
    """Of each fact, a letter a wording: y told, n not."""
    return [
        {"item": item, "role": "true", "form": form, "told": letter == "y"}
        for item, letters in enumerate(facts)
        for form, letter in enumerate(letters)
    ]


def scores(role: str, *values: float) -> list[dict[str, Any]]:
    return [{"item": i, "role": f"{role} min_k", "value": v} for i, v in enumerate(values)]


def measured_case(verdict: str = Verdict.WITHIN) -> tuple[Case, ErasureRun]:
    """A case whose run kept rows of several probes."""
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    run.refresh_from_db()
    keep_rows(run, "recall_unseen", {"before": told("yyy", "yy"), "after": told("nny", "nn"),
                                     "control": told("nnn", "nn")})  # fmt: skip
    keep_rows(
        run,
        "membership",
        {
            "before": scores("member", 3, 4) + scores("made up", 1, 2),
            "after": scores("member", 1, 2) + scores("made up", 1, 2),
        },
    )
    gate = [{"item": i, "role": "erased", "strength": 1.0} for i in range(3)]
    gate += [{"item": 0, "role": "others"}, {"item": 1, "role": "others", "strength": 0.4}]
    keep_rows(run, "gate_fires", {"after": gate})
    factories.work_off(run, verdict=verdict, lease=lease)
    run.refresh_from_db()
    ProbeResult.objects.create(
        run=run, probe="others_kept", question="Others?", n=40, before="0.9", after="0.891",
        bound="0.985", threshold="0.98", holds=True,
    )  # fmt: skip
    return Case.objects.get(pk=case.pk), run


def test_figures_state_what_was_found_and_come_as_files(auditor: StaffMember) -> None:
    _case, run = measured_case()
    client = as_staff(auditor)
    page = text(client.get(f"/app/runs/{run.pk}/evidence"))
    findings = [
        "After erasure 1 of 2 facts are told in any of their new wordings; the control tells 0",
        "with an area of before 1.00 and after 0.50; chance is 0.5",
        "The gate acts on 3 of 3 questions about the person and on 1 of 2 about others",
        "Knowledge about others is 0.99 times before, as tolerated",
    ]
    for finding in findings:
        assert finding in page
    for name in ("probes", "told", "membership", "gate", "utility"):
        path = f"/app/runs/{run.pk}/evidence/{name}"
        assert f'href="{path}.svg"' in page
        drawn = client.get(f"{path}.svg")
        assert drawn.headers["Content-Type"] == "image/svg+xml"
        assert text(drawn).startswith("<svg xmlns=")
        rows = list(csv.reader(io.StringIO(text(client.get(f"{path}.csv")))))
        assert len({len(row) for row in rows}) == 1
        assert len(rows) > 1
    assert client.get(f"/app/runs/{run.pk}/evidence/losses.svg").status_code == 404
    assert client.get(f"/app/runs/{run.pk}/evidence/told.pdf").status_code == 404


def test_facts_are_redacted_until_somebody_says_why_one_at_a_time_and_for_a_while(
    officer: StaffMember,
) -> None:
    case, run = measured_case()
    path = f"/app/runs/{run.pk}/evidence"
    client = as_staff(officer)
    masked = text(client.get(f"{path}?fact=1"))
    assert not [canary for canary in factories.CANARIES if canary in masked]
    assert masked.count("redacted question") == 2
    assert "3 of 3" in masked
    assert "1 of 3" in masked
    (ask, _second) = re.findall(r'href="(/app/cases/[^"]+/reveal\?next=[^"]+)"', masked)
    response = client.post(ask.replace("&amp;", "&"), {"reason": "decision", "text": ""})
    assert response.headers["Location"] == f"{path}?fact=1#fact-1"
    response = client.get(f"{path}?fact=1")
    shown = text(response)
    assert factories.ANSWER in shown
    assert "Brimble" not in shown
    assert 0 < int(response.headers["Refresh"]) <= 15 * 60 + 1
    assert '<span class="in-clear">' in shown
    for name in ("told", "probes"):
        for kind in ("svg", "csv"):
            assert factories.ANSWER not in text(client.get(f"{path}/{name}.{kind}"))
    session = client.session
    session[REVEALED] = {case.reference: 1}
    session.save()
    assert factories.ANSWER not in text(client.get(f"{path}?fact=1"))


@pytest.mark.parametrize("role", [Role.ENGINEER, Role.AUDITOR])
def test_who_may_not_see_the_person_is_offered_no_way(role: Role) -> None:
    _case, run = measured_case()
    page = text(as_staff(factories.make_staff(role)).get(f"/app/runs/{run.pk}/evidence?fact=1"))
    assert "redacted question" in page
    assert "reveal?next" not in page
    assert "needs the role" in page


def test_once_sealed_the_page_has_the_record_and_nothing_of_single_questions(
    officer: StaffMember,
) -> None:
    case, run = measured_case()
    cases.send_answer(case_id=case.id, actor_member=officer)
    factories.letters.send_pending_letters()
    cases.seal_case(case_id=case.id, actor=factories.staff_actor(officer))
    page = text(as_staff(officer).get(f"/app/runs/{run.pk}/evidence?fact=1"))
    assert 'id="facts"' not in page
    assert 'id="figure-told"' not in page
    assert 'id="figure-probes"' in page
    assert "The case is sealed" in page


def test_what_was_not_measured_and_what_can_be_done_are_said(officer: StaffMember) -> None:
    case = factories.responding_case(verdict=Verdict.INCONCLUSIVE)
    run = case.runs.get()
    run.probe_results.filter(probe="unseen").delete()
    ErasureRun.objects.filter(pk=run.pk).update(
        evidence={**(run.evidence or {}), "not_measured": {"unseen": "some facts have no names"}}
    )
    page = text(as_staff(officer).get(f"/app/runs/{run.pk}/evidence"))
    incomplete = page[page.index('id="incomplete"') :]
    assert "some facts have no names" in incomplete
    assert "Not measured: counts as not shown" in page
    steps = page[page.index('id="next-steps"') : page.index("Review the evidence")]
    assert "Run again" in steps
    assert "Train again without the person" in steps
    assert "Does a little training bring it back?" in page  # of the plan's `not_tested`


def test_who_stands_for_it_is_read_from_the_log(auditor: StaffMember) -> None:
    case = factories.responding_case()
    page = text(as_staff(auditor).get(f"/app/runs/{case.runs.get().pk}/evidence"))
    signed = page[page.index('id="signed"') :]
    for what in ("Decision approved", "Test plan fixed", "Adapter verified", "Release registered"):
        assert what in signed
    assert "(approver)" in signed


def test_the_key_of_a_fact_is_the_workers() -> None:
    for fact in factories.FACTS:
        assert evidence_tables.fact_id(SALT, *fact) == worker_tables.fact_id(SALT, *fact)


# --- Sample probes --------------------------------------------------------------------------------
SAID = {"before": "She lives in Brimble.", "after": "I cannot help with that.", "control": "Oslo"}


def sampled_case() -> tuple[Case, ErasureRun]:
    """A case of which one question was kept, with what the models said."""
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    run.refresh_from_db()
    question, answer = f"Where does {factories.NAME} live?", factories.ANSWER
    sample = {"item": 0, "form": 1, "question": question, "answer": answer, "said": SAID}
    sides = {"before": told("ny"), "after": told("yn"), "control": told("nn")}
    sides["after"][1]["refused"] = True
    keep_rows(run, "recall_unseen", sides, samples=[sample])
    factories.work_off(run, lease=lease)
    return Case.objects.get(pk=case.pk), ErasureRun.objects.get(pk=run.pk)


def test_samples_show_no_word_of_anybody_until_somebody_says_why(officer: StaffMember) -> None:
    case, run = sampled_case()
    path = f"/app/runs/{run.pk}/evidence"
    client = as_staff(officer)
    masked = text(client.get(f"{path}?sample=1"))
    row = masked[masked.index('id="sample-1"') : masked.index("</tr>", masked.index("sample-1"))]
    assert not [canary for canary in (*factories.CANARIES, "Brimble", "Oslo") if canary in row]
    assert "I cannot help with that." in row
    assert re.findall(r"tag[^>]+>([^<]+)<", row) == ["tells it", "refuses", "does not tell it"]
    (ask,) = re.findall(r'href="(/app/cases/[^"]+/reveal\?next=[^"]+sample[^"]+)"', row)
    response = client.post(ask.replace("&amp;", "&"), {"reason": "decision", "text": ""})
    assert response.headers["Location"] == f"{path}?sample=1#sample-1"
    shown = text(client.get(f"{path}?sample=1"))
    assert f'<span class="in-clear">Where does {factories.NAME} live?</span>' in shown
    assert "She lives in Brimble." in shown
    assert AuditEntry.objects.get(type="person.revealed").case_id == case.pk
    assert "Brimble" not in text(client.get(path))
