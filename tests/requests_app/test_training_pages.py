"""The pages around the model, by their buttons."""

import json
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from requests_app import tasks
from requests_app.actors import SUBJECT
from requests_app.models import ModelNode, RecordMatch, RecordSearch, StaffMember, SuppressionTag
from requests_app.services import intake, letters, lineage, training
from tests.factories import case_in_review, completed_case, digest, executing_case
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff

pytestmark = pytest.mark.django_db


def test_from_identifiers_to_a_confirmed_record(
    tmp_path: Path, officer: StaffMember, engineer: StaffMember
) -> None:
    path = tmp_path / "crm.jsonl"
    path.write_text(json.dumps({"id": "r-1", "text": "call 02 555 01 77"}) + "\n")
    training.register_training_set(
        name="crm", location=str(path), id_field="id", actor_member=engineer
    )
    case = executing_case()
    client = as_staff(officer, case)
    page = reverse("case_records", args=[case.reference])
    assert reverse("case_records", args=[case.reference]) in text(
        client.get(reverse("case", args=[case.reference]))
    )
    refused = client.post(page, {"action": "identifiers", "identifiers": "name: Zelda"})
    assert refused.status_code == 422
    refused = client.post(page, {"action": "identifiers", "identifiers": "phone: 12"})
    assert "Identifier 1" in text(refused)
    client.post(page, {"action": "identifiers", "identifiers": "phone: +32 2 555 01 77"})
    assert "phone: +32 2 555 01 77" in text(client.get(page))
    assert client.post(page, {"action": "search"}).status_code == 302
    tasks.locate_records(str(RecordSearch.objects.get().pk))
    shown = text(client.get(page))
    assert "call 02 555 01 77" in shown
    match = RecordMatch.objects.get()
    assert client.post(page, {"action": "decide"}).status_code == 422
    client.post(page, {"action": "decide", f"match_{match.pk}": "yes"})
    assert "1 this person" in text(client.get(page))
    overview = text(client.get(reverse("training")))
    assert "record/crm" in overview
    assert "r-1" not in overview


def test_engineers_and_auditors_do_not_see_records(
    engineer: StaffMember, auditor: StaffMember
) -> None:
    case = case_in_review()
    for staff in (engineer, auditor):
        client = as_staff(staff)
        assert client.get(reverse("case_records", args=[case.reference])).status_code == 403
        assert client.get(reverse("case_restriction", args=[case.reference])).status_code == 403
        assert client.get(reverse("training")).status_code == 200
        page = text(client.get(reverse("case", args=[case.reference])))
        assert reverse("case_records", args=[case.reference]) not in page


def test_restricting_and_lifting_by_buttons(officer: StaffMember) -> None:
    case, client = case_in_review(), as_staff(officer)
    page = reverse("case_restriction", args=[case.reference])
    assert client.post(page, {"action": "restrict"}).status_code == 422
    client.post(page, {"action": "restrict", "ground": "18-1-d"})
    assert 'data-restricted="yes"' in text(client.get(page))
    assert client.post(page, {"action": "lift"}).status_code == 409
    assert client.post(page, {"action": "announce", "reason": " "}).status_code == 422
    client.post(page, {"action": "announce", "reason": "It was looked into."})
    assert "not sent yet" in text(client.get(page))
    letters.send_pending_letters()
    client.post(page, {"action": "lift"})
    assert 'data-restricted="no"' in text(client.get(page))


def test_a_restriction_can_be_lifted_after_the_request_was_withdrawn(officer: StaffMember) -> None:
    case, client = case_in_review(), as_staff(officer)
    page = reverse("case_restriction", args=[case.reference])
    client.post(page, {"action": "restrict", "ground": "18-1-a"})
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    assert page in text(client.get(reverse("case", args=[case.reference])))
    client.post(page, {"action": "announce", "reason": "The request was withdrawn."})
    letters.send_pending_letters()
    client.post(page, {"action": "lift"})
    assert client.get(page).status_code == 409
    assert case.restrictions.get().lifted_at is not None


def test_an_entry_is_kept_or_removed(officer: StaffMember, engineer: StaffMember) -> None:
    case = completed_case()
    SuppressionTag.objects.update(review_on="2026-01-01")
    page, client = reverse("training"), as_staff(officer)
    assert f'data-case="{case.reference}"' in text(client.get(page))
    client.post(page, {"action": "keep", "case": case.reference})
    assert f'data-case="{case.reference}"' not in text(client.get(page))
    refused = as_staff(engineer).post(page, {"action": "remove", "case": case.reference})
    assert refused.status_code == 403
    client.post(page, {"action": "remove", "case": case.reference})
    assert not SuppressionTag.objects.exists()


def test_the_models_page_shows_what_came_of_what(
    officer: StaffMember, engineer: StaffMember
) -> None:
    client, page = as_staff(engineer), reverse("models")
    assert "No weights are known" in text(client.get(page))
    for name, kind, parents in (("base", "base", []), ("copy", "quantised", [digest("base")])):
        lineage.register_model(
            name=name, kind=kind, sha256=digest(name), parents=parents, actor_member=engineer
        )
    data = {"action": "quarantine", "sha256": digest("base"), "reason": "holds_data"}
    assert as_staff(officer).post(page, data).status_code == 403
    client.post(page, data)
    shown = text(client.get(page))
    assert "An ancestor is in quarantine" in shown
    assert f'data-node="{digest("copy")}" data-blocked="yes"' in shown
    assert "Still holds erased data" in shown
    assert 'name="action"' not in text(as_staff(officer).get(page))
    client.post(page, {"action": "lift", "sha256": digest("base")})
    assert 'data-blocked="no"' in text(client.get(page))
    assert ModelNode.objects.get(pk=digest("base")).quarantined_from is None


def test_strangers_see_nothing() -> None:
    case = case_in_review()
    for name, args in (
        ("case_records", [case.reference]),
        ("case_restriction", [case.reference]),
        ("training", []),
        ("models", []),
    ):
        assert Client().get(reverse(name, args=args)).status_code == 302
