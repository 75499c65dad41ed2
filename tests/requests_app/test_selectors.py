"""Reads for the pages."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from requests_app import selectors, vault
from requests_app.actors import SUBJECT
from requests_app.models import Case
from requests_app.services import cases, intake, runs
from tests import factories

pytestmark = pytest.mark.django_db


def test_the_queue_is_ordered_by_due_date_and_leaves_out_closed_cases() -> None:
    now = timezone.now()
    late, soon, done = (
        factories.confirmed_case(received_at=now - timedelta(days=days)) for days in (3, 20, 30)
    )
    intake.withdraw_case(case_id=done.id, actor=SUBJECT)
    assert list(selectors.queue()) == [soon, late]
    assert list(selectors.queue("withdrawn")) == [done]
    assert list(selectors.queue("executing")) == []


def test_reference_and_access_code_open_the_case_in_any_spelling() -> None:
    opened = factories.open_case()
    code = f" {opened.access_code.lower().replace('-', ' ')} "
    assert selectors.access_ok(opened.case.reference.lower(), code) == opened.case
    assert selectors.access_ok(opened.case.reference, "0" * 16) is None
    assert selectors.access_ok(opened.case.reference, "") is None
    assert selectors.access_ok("ERQ-2026-999999", opened.access_code) is None
    other = factories.open_case().case
    assert selectors.access_ok(other.reference, opened.access_code) is None


def test_a_sealed_case_opens_to_nobody() -> None:
    opened = factories.open_case()
    Case.objects.update(access_digest="")
    assert selectors.access_ok(opened.case.reference, opened.access_code) is None


def test_an_address_is_shown_masked() -> None:
    case = factories.open_case(email="anna@mail.example.org").case
    assert selectors.masked_email(case) == "a***@m***.org"
    assert selectors.masked_email(factories.open_case(channel="post", email="").case) == ""
    vault.destroy_key(case)
    assert selectors.masked_email(case) == ""


def test_the_timeline_tells_the_log_of_the_case() -> None:
    case = factories.confirmed_case()
    items = selectors.timeline(case)
    assert [item.type for item in items] == ["case.received", "case.email_confirmed"]
    assert [item.case_seq for item in items] == [0, 1]
    assert items[0].data["reference"] == case.reference
    assert items[0].at.tzinfo is not None
    assert len(items[0].leaf_hash) == 64


def test_progress_goes_on_after_the_last_event_seen() -> None:
    run = factories.executing_case().runs.get()
    lease = factories.take_lease(run)
    for step in range(3):
        runs.add_event(lease, phase="train", step=step, total=3, figures={})
    progress = selectors.run_progress(run.id)
    assert progress is not None
    assert ([e.step for e in progress.events], progress.last_seq) == ([0, 1, 2], 2)
    later = selectors.run_progress(run.id, after_seq=1)
    assert later is not None
    assert [event.step for event in later.events] == [2]
    nothing = selectors.run_progress(run.id, after_seq=2)
    assert nothing is not None
    assert (nothing.events, nothing.last_seq) == ((), 2)
    assert selectors.run_progress(uuid4()) is None


def test_cases_are_found_by_reference() -> None:
    case = factories.open_case().case
    assert selectors.case_by_reference(f" {case.reference.lower()} ") == case
    assert selectors.case_by_reference("nothing") is None
    assert cases.latest_runs(case) == []
