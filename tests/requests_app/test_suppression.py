"""The suppression list: made by decisions, without a name, kept over sealing, gone if asked."""

import base64
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import audit, suppression, vault
from requests_app.actors import SUBJECT, SYSTEM
from requests_app.models import AuditEntry, Case, StaffMember, SuppressionTag
from requests_app.services import cases, intake, releases
from requests_app.services import suppression as services
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.suppression import SuppressionKeyError, carried_on, make_list, tag
from requests_app.verifier import canonical
from tests import factories
from tests.factories import case_in_review, completed_case, executing_case, propose

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]
PHONE, CUSTOMER = "+32 2 555 01 77", "C-100234"
IDENTIFIERS = [("phone", PHONE), ("customer_id", CUSTOMER)]


def last_entry(case: Case) -> dict[str, Any]:
    body: Any = canonical.loads(bytes(audit.case_entries(case.id)[-1].body))
    return {"type": body["type"], **body["data"]}


def kinds_of(case: Case) -> list[str]:
    return sorted(SuppressionTag.objects.filter(case_id=case.id).values_list("kind", flat=True))


def identified_case(officer: StaffMember) -> Case:
    case = case_in_review()
    return services.record_identifiers(
        case_id=case.id, identifiers=IDENTIFIERS, actor_member=officer
    )


def test_nothing_is_on_the_list_before_two_people_have_decided(officer: StaffMember) -> None:
    case = propose(identified_case(officer))
    assert kinds_of(case) == []
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    assert kinds_of(case) == ["customer_id", "email", "phone"]
    held = services.list_in_force()
    assert held.holds("email", factories.EMAIL)
    assert held.holds("phone", "3225550177")
    assert held.holds("customer_id", "c100234")
    assert not held.holds("email", "c100234")
    row = SuppressionTag.objects.filter(case_id=case.id).first()
    assert row is not None
    assert row.review_on == timezone.localdate() + timedelta(days=365)


@pytest.mark.parametrize("outcome", ["refused", "cannot_identify", "excessive"])
def test_a_request_that_is_not_granted_puts_nobody_on_the_list(outcome: str) -> None:
    case = propose(case_in_review(), outcome=outcome)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    assert kinds_of(case) == []


def test_neither_table_nor_log_holds_an_identifier(officer: StaffMember) -> None:
    case = propose(identified_case(officer))
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    told = " ".join(bytes(entry.body).decode() for entry in AuditEntry.objects.all())
    told += repr(list(SuppressionTag.objects.values()))
    for secret in (*factories.CANARIES, PHONE, "3225550177", CUSTOMER, "c100234"):
        assert secret.lower() not in told.lower()
    assert "suppression.changed" in told


def test_a_name_is_refused_as_an_identifier(officer: StaffMember) -> None:
    case = case_in_review()
    for kind in ("name", "customer_id", "email"):
        with pytest.raises(Invalid, match="Identifier 1") as refused:
            services.record_identifiers(
                case_id=case.id, identifiers=[(kind, factories.NAME)], actor_member=officer
            )
        assert factories.NAME not in str(refused.value)


def test_a_mistyped_identifier_leaves_the_list_when_it_is_corrected(officer: StaffMember) -> None:
    case = executing_case()
    services.record_identifiers(
        case_id=case.id, identifiers=[("phone", "+32 2 555 01 78")], actor_member=officer
    )
    services.record_identifiers(case_id=case.id, identifiers=IDENTIFIERS, actor_member=officer)
    held = services.list_in_force()
    assert not held.holds("phone", "3225550178")
    assert held.holds("phone", "3225550177")
    assert last_entry(case)["removed"] == {"phone": 1}
    assert last_entry(case)["added"] == {"customer_id": 1, "phone": 1}


def test_tags_outlive_sealing_and_go_upon_objection(
    officer: StaffMember, approver: StaffMember, engineer: StaffMember
) -> None:
    case = completed_case()
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    assert services.list_in_force().holds("email", factories.EMAIL)
    SuppressionTag.objects.update(review_on=timezone.localdate())
    assert services.review_tags(case_id=case.id, actor_member=officer) > timezone.localdate()
    with pytest.raises(NotAllowed):
        services.remove_tags(case_id=case.id, actor_member=engineer)
    assert services.remove_tags(case_id=case.id, actor_member=approver) == 1
    assert last_entry(case) == {"type": "suppression.removed", "tags": 1, "cause": "objection"}
    assert not services.list_in_force().holds("email", factories.EMAIL)
    with pytest.raises(WrongState):
        services.review_tags(case_id=case.id, actor_member=officer)
    audit.verify_log()


def test_a_revoked_case_leaves_the_list(officer: StaffMember, approver: StaffMember) -> None:
    case = completed_case()
    releases.propose_revocation(case_id=case.id, cause="wrong_person", actor_member=officer)
    releases.revoke_case(case_id=case.id, actor_member=approver)
    assert kinds_of(case) == []


def test_a_withdrawn_or_sealed_case_takes_no_identifiers(officer: StaffMember) -> None:
    case = case_in_review()
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    with pytest.raises(WrongState):
        services.record_identifiers(case_id=case.id, identifiers=[], actor_member=officer)
    assert not vault.has(case, "identifiers")


# --- Keys ---------------------------------------------------------------------------------------
def test_the_key_is_replaced_without_any_identifier(
    officer: StaffMember, approver: StaffMember, engineer: StaffMember
) -> None:
    case = completed_case()
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    before = bytes(SuppressionTag.objects.get(case_id=case.id).tag)
    assert suppression.make_next_key() == 2
    assert services.list_in_force().holds("email", factories.EMAIL)  # not carried on yet
    with pytest.raises(NotAllowed):
        services.rotate_tags(actor_member=officer)
    assert services.rotate_tags(actor_member=engineer) == 1
    row = SuppressionTag.objects.get(case_id=case.id)
    assert row.key_version == 2
    keys = suppression.read_keys()
    assert bytes(row.tag) == carried_on(keys, before, version=1)
    held = services.list_in_force()
    assert held.holds("email", factories.EMAIL)
    assert not held.holds("email", "somebody@mailbox.example")
    assert services.rotate_tags(actor_member=engineer) == 0


@given(
    keys=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4),
    forms=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6, unique=True),
    data=st.data(),
)
def test_any_mixture_of_versions_is_looked_up_alike(
    keys: list[bytes], forms: list[str], data: st.DataObject
) -> None:
    versions = [data.draw(st.integers(1, len(keys))) for _ in forms]
    rows = [
        ("email", version, tag(keys[:version], "email", form))
        for form, version in zip(forms, versions, strict=True)
    ]
    held = make_list(rows, keys)
    assert all(held.holds("email", form) for form in forms)
    assert not any(held.holds("phone", form) for form in forms)
    assert not held.holds("email", "".join(forms) + "!")
    assert held.sha256 == make_list(reversed(rows), keys).sha256


def test_another_key_is_noticed_instead_of_finding_nobody(vault_keys: Path) -> None:
    completed_case()
    path = vault_keys / "suppression" / "1"
    path.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    with pytest.raises(Invalid, match="another one"):
        services.list_in_force()
    path.unlink()
    with pytest.raises(Invalid, match="another one"):
        services.list_in_force()


def test_a_damaged_or_readable_key_is_refused(vault_keys: Path, settings: Settings) -> None:
    assert len(suppression.read_keys()) == 1
    path = vault_keys / "suppression" / "1"
    path.chmod(0o644)
    with pytest.raises(SuppressionKeyError, match="chmod 600"):
        suppression.read_keys()
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(SuppressionKeyError, match="32 bytes"):
        suppression.read_keys()
    path.rename(path.with_name("2"))
    settings.RTBF_PRODUCTION = True
    with pytest.raises(SuppressionKeyError, match="brings its own"):
        suppression.read_keys()


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [secrets.token_bytes(32) for _ in range(2)]
    text = ",".join(base64.b64encode(key).decode() for key in keys)
    monkeypatch.setenv("RTBF_SUPPRESSION_KEYS", text)
    assert suppression.read_keys() == tuple(keys)
    with pytest.raises(SuppressionKeyError, match="add the new one there"):
        suppression.make_next_key()


def test_a_tag_stands_once_for_each_case() -> None:
    case = executing_case()
    row = SuppressionTag.objects.get(case_id=case.id)
    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)
    assert SuppressionTag.objects.count() == 1
