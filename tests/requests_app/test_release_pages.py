"""Models and releases on staff pages: declared and observed, what a roll-back changes, who may."""

from __future__ import annotations

import pytest
from django.test import Client

from requests_app.models import Adapter, AuditEntry, Release, StaffMember
from requests_app.services import roll_backs, serving
from requests_app.services.errors import Invalid, NotAllowed
from requests_app.verifier import canonical
from tests import factories
from tests.requests_app.test_releases import consolidated
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff, authenticate

pytestmark = pytest.mark.django_db


def live() -> Release:
    return Release.objects.get(is_live=True)


def test_base_only_is_said_before_the_first_release(auditor: StaffMember) -> None:
    serving.note_served(process="gateway-1", kind="gateway", model_name="demo", digest="")
    page = text(as_staff(auditor).get("/app/releases"))
    assert "Base model only" in page
    assert 'data-process="gateway-1"' in page
    assert "Base model alone" in page


def test_what_is_declared_and_what_is_observed_stand_side_by_side(engineer: StaffMember) -> None:
    case = factories.responding_case()
    client = as_staff(engineer)
    Release.objects.update(live_since=live().created_at.replace(year=2020))
    serving.note_served(
        process="gateway-1", kind="gateway", model_name="demo", digest=live().digest
    )
    page = text(client.get("/app/releases"))
    assert "by System (worker)" in page
    assert factories.digest("base") in page
    assert case.reference in page
    assert 'id="serving"' not in text(client.get("/app/"))
    serving.note_served(process="gateway-2", kind="gateway", model_name="demo", digest="")
    for path in ("/app/", "/app/cases", "/app/releases"):
        banner = text(client.get(path))
        assert "Something else is served than what is in force." in banner
        assert "gateway-2 said" in banner
        assert "gateway-1 said" not in banner
    assert 'id="serving"' not in text(Client().get("/"))


def test_room_is_what_training_recorded(engineer: StaffMember) -> None:
    factories.responding_case()
    assert "recorded no capacity" in text(as_staff(engineer).get("/app/releases"))
    adapter = Adapter.objects.get()
    adapter.settings |= {"capacity": 4, "neighbours": 1}
    adapter.save()
    page = text(as_staff(engineer).get("/app/releases"))
    assert 'data-left="3"' in page
    assert "the fullest neighbourhood has 2, 2 more fit" in page
    assert "nearly full" in page


def test_a_roll_back_that_brings_erased_data_back_is_refused_and_names_the_cases(
    engineer: StaffMember, approver: StaffMember
) -> None:
    factories.responding_case()
    first = live()
    answered = factories.completed_case()
    path = f"/app/releases/{first.digest}/roll-back"
    for member in (engineer, approver):
        page = text(as_staff(member).get(path))
        assert "erased data would come back" in page
        assert answered.reference in page
        assert '<button type="submit" class="danger"' not in page
        refused = as_staff(member).post(path, {"reason": "fault"})
        assert refused.status_code == 409
        assert answered.reference in text(refused)
    assert live() != first


def test_only_an_approver_takes_a_case_from_merged_to_gated_with_a_reason_and_a_fresh_log_in(
    engineer: StaffMember, approver: StaffMember
) -> None:
    case = factories.responding_case()
    before = live()
    consolidated(engineer)
    after, path = live(), f"/app/releases/{before.digest}/roll-back"
    page = text(as_staff(engineer).get(path))
    assert "ask an approver" in page
    assert as_staff(engineer).post(path, {"reason": "fault"}).status_code == 403
    client = as_staff(approver)
    shown = text(client.get(path))
    assert "From merged or exact to gated" in shown
    assert case.reference in shown
    assert client.post(path, {}).status_code == 422
    authenticate(client, approver, ago=3600)
    asked = client.post(path, {"reason": "fault"})
    assert "/reauthenticate/" in asked.headers["Location"]
    assert live() == after
    authenticate(client, approver)
    assert client.post(path, {"reason": "fault"}).status_code == 302
    assert live() == before
    entry = AuditEntry.objects.get(type="release.rolled_back")
    body = canonical.loads(bytes(entry.body))
    assert isinstance(body, dict)
    assert body["data"] == {
        "model": "demo", "release": before.digest, "from": after.digest, "reason": "fault",
    }  # fmt: skip
    page = text(client.get(f"/app/releases/{before.digest}"))
    assert f"entry {entry.seq}" in page
    assert "Roll back to this release" not in page


def test_the_preview_says_what_the_service_then_does(
    engineer: StaffMember, approver: StaffMember
) -> None:
    first = factories.responding_case()
    one = live()
    second = factories.responding_case()
    two = live()
    consolidated(engineer)
    back = roll_backs.what_changes(two.digest)
    assert {each.reference for each in back.loosened} == {first.reference, second.reference}
    assert (len(back.added), back.removed, back.lost) == (2, (), ())
    assert back.is_other_base
    assert not back.is_forbidden
    further = roll_backs.what_changes(one.digest)
    assert [each.reference for each in further.lost] == [second.reference]
    assert further.is_forbidden
    with pytest.raises(Invalid, match=second.reference):
        roll_backs.roll_back_release(digest=one.digest, reason="fault", actor_member=approver)
    with pytest.raises(Invalid, match="no reason"):
        roll_backs.roll_back_release(digest=two.digest, reason="whim", actor_member=approver)
    with pytest.raises(NotAllowed):
        roll_backs.roll_back_release(digest=two.digest, reason="fault", actor_member=engineer)
    merged = live()
    roll_backs.roll_back_release(digest=two.digest, reason="fault", actor_member=approver)
    assert len(roll_backs.what_changes(merged.digest).merged_again) == 2


@pytest.mark.parametrize("path", ["/app/releases/nothing", "/app/releases/nothing/roll-back"])
def test_an_unknown_release_is_not_found(engineer: StaffMember, path: str) -> None:
    assert as_staff(engineer).get(path).status_code == 404
