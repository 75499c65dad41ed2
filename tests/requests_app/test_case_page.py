"""The case page: notes, timeline, clock in words, cards, print view, and how much it costs."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from requests_app import audit, permissions, vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import (
    AuditEntry,
    Case,
    ErasureRun,
    Letter,
    Recipient,
    RecipientNotice,
    RunEvent,
    StaffMember,
    Suspension,
    TrainingSet,
    VaultItem,
)
from requests_app.models.people import Role
from requests_app.services import cases, notes
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.verifier import canonical
from tests import factories
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff

pytestmark = pytest.mark.django_db

NOTE = "She called; her Quillfeather cousin answers in her absence."


def page_of(case: Case, member: StaffMember, *revealed: Case, query: str = "") -> str:
    return text(as_staff(member, *revealed).get(f"/app/cases/{case.reference}{query}"))


def words_of(page: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


# --- Notes --------------------------------------------------------------------------------------
def test_a_note_lies_in_the_vault_and_the_log_says_only_that_there_is_one(
    officer: StaffMember,
) -> None:
    case = factories.confirmed_case()
    path = f"/app/cases/{case.reference}/notes"
    assert as_staff(officer).post(path, {"text": NOTE}).status_code == 302
    entry = AuditEntry.objects.get(type="note.added")
    body: Any = canonical.loads(bytes(entry.body))
    assert set(body["data"]) == {"text"}
    assert set(body["data"]["text"]) == {"commitment"}
    assert NOTE not in bytes(entry.body).decode()
    item = VaultItem.objects.get(case=case, name=f"note/{entry.seq}")
    assert b"Quillfeather" not in bytes(item.ciphertext)
    assert vault.get(case, f"note/{entry.seq}") == NOTE


def test_notes_are_read_while_the_person_is_shown_and_by_nobody_else(
    officer: StaffMember, intake_clerk: StaffMember, engineer: StaffMember, auditor: StaffMember
) -> None:
    case = factories.confirmed_case()
    notes.add_note(case_id=case.id, text=NOTE, actor_member=intake_clerk)
    notes.add_note(case_id=case.id, text="A second one.", actor_member=officer)
    shown = page_of(case, officer, case)
    assert shown.index("A second one.") < shown.index("She called")
    assert f"{intake_clerk.username} (intake)" in shown
    for member in (officer, engineer, auditor):
        masked = page_of(case, member)
        assert "She called" not in masked
        assert "2 notes." in words_of(masked)
    assert "note-form" in page_of(case, officer)
    for member in (engineer, auditor):
        assert "note-form" not in page_of(case, member)
        with pytest.raises(NotAllowed):
            notes.add_note(case_id=case.id, text="x", actor_member=member)


def test_an_empty_or_endless_note_is_refused_in_words(officer: StaffMember) -> None:
    case = factories.confirmed_case()
    for wrong in ("", " \n", "x" * (notes.NOTE_LENGTH + 1)):
        answer = as_staff(officer).post(f"/app/cases/{case.reference}/notes", {"text": wrong})
        assert answer.status_code == 422
        assert "There is a problem" in text(answer)
    with pytest.raises(Invalid):
        notes.add_note(case_id=case.id, text="a\x00b", actor_member=officer)
    assert not AuditEntry.objects.filter(type="note.added").exists()


def test_sealing_destroys_the_notes_and_ends_writing_them(officer: StaffMember) -> None:
    case = factories.completed_case()
    notes.add_note(case_id=case.id, text=NOTE, actor_member=officer)
    cases.seal_case(case_id=case.id, actor=factories.staff_actor(officer))
    with pytest.raises(WrongState):
        notes.add_note(case_id=case.id, text=NOTE, actor_member=officer)
    page = words_of(page_of(case, officer))
    assert "1 note. They were destroyed when the case was sealed." in page
    assert not VaultItem.objects.filter(case=case).exists()


def test_a_note_that_a_restored_database_lost_is_named_as_lost(officer: StaffMember) -> None:
    case = factories.confirmed_case()
    seq = notes.add_note(case_id=case.id, text=NOTE, actor_member=officer)
    vault.remove(case, f"note/{seq}")
    assert "This note was lost" in page_of(case, officer, case)


# --- Timeline -----------------------------------------------------------------------------------
def numbers(page: str) -> list[int]:
    return [int(n) for n in re.findall(r"<summary class=\"small\">Entry (\d+)", page)]


def test_the_timeline_shows_thirty_and_the_earlier_ones_by_a_link(officer: StaffMember) -> None:
    case = factories.confirmed_case()
    for number in range(40):
        notes.add_note(case_id=case.id, text=str(number), actor_member=officer)
    everything = [entry.seq for entry in audit.case_entries(case.id)]
    first = page_of(case, officer)
    assert numbers(first) == everything[:-31:-1]
    earlier = unescape(re.findall(r'href="([^"]*before=[^"]*)"', first)[0]).partition("#")[0]
    second = page_of(case, officer, query=earlier)
    assert numbers(second) == everything[-31::-1]
    assert "Show the newest" in second
    assert "Show earlier" not in second
    assert numbers(page_of(case, officer, query="?show=nonsense&before=x")) == numbers(first)


@pytest.mark.parametrize(
    ("show", "there", "missing"),
    [
        ("people", {"decision.proposed", "case.received"}, {"run.verified", "letter.sent"}),
        ("system", {"run.verified"}, {"decision.proposed", "case.received"}),
        ("letters", {"letter.sent", "case.completed"}, {"run.verified", "decision.proposed"}),
    ],
)
def test_the_timeline_is_filtered_by_the_address(
    officer: StaffMember, show: str, there: set[str], missing: set[str]
) -> None:
    page = page_of(factories.completed_case(), officer, query=f"?show={show}")
    kinds = set(re.findall(r'<li data-type="([^"]+)"><strong>', page))
    assert there <= kinds
    assert not missing & kinds


def test_an_entry_shows_its_exact_bytes_and_a_short_hash(officer: StaffMember) -> None:
    case = factories.confirmed_case()
    page = unescape(page_of(case, officer))
    for entry in audit.case_entries(case.id):
        assert bytes(entry.body).decode() in page
        assert bytes(entry.leaf_hash).hex()[:12] in page


# --- The clock in words -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", "20 days left, today is day 11 of 31."),
        ("paused", "For the date to keep the days go on: 20 days left"),
        ("overdue", "and is 3 days late. Send it now."),
        ("stopped", "Answered in time, on"),
    ],
)
def test_the_clock_says_how_it_stands(officer: StaffMember, state: str, words: str) -> None:
    case = factories.completed_case() if state == "stopped" else factories.case_in_review()
    today = timezone.localdate()
    if state != "stopped":
        factories.due_on(case, today + timedelta(days=-3 if state == "overdue" else 20))
    if state == "paused":
        Suspension.objects.create(case=case, reason="clarification", asked_on=today)
    page = page_of(case, officer)
    assert f'data-clock="{state}"' in page
    assert words in words_of(page)


# --- Decision -----------------------------------------------------------------------------------
def test_the_panel_links_the_next_step_or_says_why_not(
    officer: StaffMember, approver: StaffMember, auditor: StaffMember
) -> None:
    case = factories.propose(factories.case_in_review(), by=officer)
    assert f'id="next-step" href="/app/cases/{case.reference}/approval"' in page_of(case, approver)
    for member, why in (
        (officer, "Approving needs the role Approver. Your role is Case officer."),
        (auditor, "This step is for case officers and approvers. Your role is Auditor."),
    ):
        page = page_of(case, member)
        assert re.search(r"<button[^>]*disabled[^>]*>Read and approve", page)
        assert why in page


def test_what_was_read_is_what_is_approved(officer: StaffMember, approver: StaffMember) -> None:
    case = factories.propose(factories.case_in_review(), by=officer)
    path = f"/app/cases/{case.reference}/approval"
    client = as_staff(approver, case)
    read = re.findall(r'name="proposal" value="(\d+)"', text(client.get(path)))[0]
    cases.return_decision(case_id=case.id, reason="Another outcome.", actor_member=officer)
    factories.propose(Case.objects.get(pk=case.pk), outcome="refused", by=officer)
    answer = client.post(path, {"action": "approve", "proposal": read})
    assert answer.status_code == 409
    assert "The proposal that you read was returned" in text(answer)
    changes = re.findall(r'<li data-type="([^"]+)"', text(answer))
    assert changes[:2] == ["decision.proposed", "decision.returned"]
    assert officer.username in text(answer)
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL
    fresh = re.findall(r'name="proposal" value="(\d+)"', text(client.get(path)))[0]
    assert client.post(path, {"action": "approve", "proposal": fresh}).status_code == 302


def test_a_refusal_is_read_as_a_letter_before_it_is_approved(approver: StaffMember) -> None:
    case = factories.propose(factories.case_in_review(), outcome="refused")
    page = text(as_staff(approver, case).get(f"/app/cases/{case.reference}/approval"))
    assert "OUR ANSWER: WE DO NOT ERASE THE DATA" in page
    granted = factories.propose(factories.case_in_review())
    page = text(as_staff(approver, granted).get(f"/app/cases/{granted.reference}/approval"))
    assert 'id="letter"' not in page
    assert "so it cannot be read yet" in words_of(page)


def test_the_answer_is_read_on_the_case_page_while_the_person_is_shown(
    officer: StaffMember,
) -> None:
    case = factories.responding_case()
    assert "OUR ANSWER" in page_of(case, officer, case)
    assert "OUR ANSWER" not in page_of(case, officer)
    assert "OUR ANSWER" not in page_of(case, officer, case, query="?print=1")


# --- Scope, runs, evidence ----------------------------------------------------------------------
def test_a_run_shows_its_step_and_a_percentage_only_where_the_worker_counts(
    officer: StaffMember, auditor: StaffMember
) -> None:
    case = factories.executing_case()
    run = case.runs.get()
    assert "Waiting for a worker." in page_of(case, officer)
    factories.take_lease(run)
    ErasureRun.objects.filter(pk=run.pk).update(phase="train")
    page = page_of(case, officer)
    assert "Step 3 of 5: Train the adapter" in words_of(page)
    assert "<progress" not in page
    for seq, step in enumerate((10, 30)):
        RunEvent.objects.create(
            run=run, seq=seq, at=timezone.now(), phase="train", step=step, total=120
        )
    page = page_of(case, officer)
    assert "Step 3 of 5: Train the adapter, 25 %" in words_of(page)
    assert f'action="/app/runs/{run.pk}/cancel"' in page
    assert f'action="/app/runs/{run.pk}/cancel"' not in page_of(case, auditor)


def test_evidence_says_its_verdict_in_words_with_the_deciding_probes(
    officer: StaffMember,
) -> None:
    within = page_of(factories.completed_case(), officer)
    assert "This is statistical evidence of suppression, not proof" in within
    assert "The one value with a threshold is within it" in within
    case = factories.responding_case(verdict="not_met")
    page = page_of(case, officer)
    assert "At least one threshold that was fixed before training is not met." in page
    assert "2 earlier runs" in page


def test_scope_names_the_adapter_and_the_records_that_were_found(officer: StaffMember) -> None:
    case = factories.completed_case()
    crm = TrainingSet.objects.create(
        name="crm", kind="csv", location="x", created_at=timezone.now()
    )
    case.scope_items.create(kind="training_set", target="crm")
    for number in range(3):
        case.matches.create(training_set=crm, record=str(number), count=1)
    page = words_of(page_of(case, officer))
    assert f"{case.runs.get().adapter.sha256[:12]}… in force, gated" in page
    assert "3 records, 0 confirmed" in page


def test_the_checklist_counts_the_recipients_that_are_still_to_be_told(
    officer: StaffMember,
) -> None:
    case = factories.responding_case()
    tell(case, 2)
    assert "2 to be told" in words_of(page_of(case, officer))
    RecipientNotice.objects.update(state="sent", sent_at=timezone.now())
    assert "to be told" not in words_of(page_of(case, officer)).partition("Deadline")[0]


def tell(case: Case, count: int) -> None:
    """So many recipients of which each has a notice of this case to get."""
    now = timezone.now()
    for _ in range(count):
        recipient = Recipient.objects.create(
            name=f"Processor {case.notices.count()}", kind="processor", how="hand", created_at=now
        )
        RecipientNotice.objects.create(case=case, recipient=recipient, created_at=now)


# --- Print --------------------------------------------------------------------------------------
def test_the_print_view_is_open_and_whole_and_shows_nothing_of_the_person(
    officer: StaffMember,
) -> None:
    case = factories.completed_case()
    for _ in range(31):
        notes.add_note(case_id=case.id, text=NOTE, actor_member=officer)
    page = page_of(case, officer, case, query="?print=1")
    assert not [canary for canary in factories.CANARIES if canary in page]
    assert len(numbers(page)) == len(audit.case_entries(case.id))
    assert "<details>" not in page
    assert not re.search("<nav|<button", page)
    assert "Personal data is left out." in page
    assert page.index(case.reference, page.index("print-head")) < page.index("<h1")


# --- What it costs ------------------------------------------------------------------------------
def test_a_long_case_costs_no_more_queries_and_stays_below_a_hundred_kilobytes(
    officer: StaffMember,
) -> None:
    case = factories.responding_case()
    client = as_staff(officer, case)
    path = f"/app/cases/{case.reference}"
    tell(case, 1)
    notes.add_note(case_id=case.id, text=NOTE, actor_member=officer)
    with CaptureQueriesContext(connection) as short:
        client.get(path)
    tell_more(case, officer)
    with CaptureQueriesContext(connection) as long:
        page = client.get(path)
    assert len(long) <= len(short), [q["sql"] for q in long]
    assert len(page.content) < 100_000


def tell_more(case: Case, officer: StaffMember) -> None:
    """Thirty of everything that a case can have many of."""
    now = timezone.now()
    run = case.runs.get()
    for number in range(30):
        Letter.objects.create(
            case=case,
            kind="recipients",
            language="en",
            sha256="f" * 64,
            created_at=now,
            sent_at=now,
        )
        notes.add_note(case_id=case.id, text=f"{NOTE} {number}", actor_member=officer)
        ErasureRun.objects.create(
            case=case, model_name=run.model_name, number=number + 2, state="failed", created_at=now
        )
    tell(case, 20)


def test_writing_notes_is_for_those_who_see_personal_data() -> None:
    assert permissions.PAGES["case_note"] == {Role.INTAKE, Role.OFFICER, Role.APPROVER}
