"""Encryption of personal data under the key of its case."""

import base64
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import vault
from requests_app.models import Case, CaseKey, Draft, VaultItem
from tests import factories
from tests.json_values import json_values

pytestmark = pytest.mark.django_db

any_text = st.text(st.characters(codec="utf-8"))
any_json = json_values(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | any_text,
    any_text,
    longest=4,
    most_keys=4,
    max_leaves=12,
)


@pytest.fixture
def case() -> Case:
    return factories.open_case().case


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=any_json)
def test_what_is_put_in_comes_out_again(case: Case, value: Any) -> None:
    vault.put(case, "facts", value)
    assert vault.get(case, "facts") == value


def test_the_database_holds_no_readable_value(case: Case) -> None:
    vault.put(case, "message", factories.MESSAGE)
    for item in VaultItem.objects.all():
        assert all(word.encode() not in bytes(item.ciphertext) for word in factories.CANARIES)


def test_the_same_value_never_has_the_same_ciphertext(case: Case) -> None:
    vault.put(case, "facts", "same")
    first = bytes(VaultItem.objects.get(case=case, name="facts").ciphertext)
    vault.put(case, "facts", "same")
    assert bytes(VaultItem.objects.get(case=case, name="facts").ciphertext) != first


def test_a_missing_item_is_an_error_unless_there_is_a_default(case: Case) -> None:
    with pytest.raises(vault.VaultMissing, match="no “facts”"):
        vault.get(case, "facts")
    assert vault.get(case, "facts", default=[]) == []
    assert not vault.has(case, "facts")
    assert vault.has(case, "name")


@pytest.mark.parametrize("change", ["byte", "name", "case", "version", "short"])
def test_changed_or_moved_ciphertext_is_refused(case: Case, change: str) -> None:
    other = factories.open_case().case
    item = VaultItem.objects.get(case=case, name="name")
    if change == "byte":
        item.ciphertext = bytes(item.ciphertext[:-1]) + bytes([item.ciphertext[-1] ^ 1])
    elif change == "short":
        item.ciphertext = b"abc"
    elif change == "name":
        VaultItem.objects.filter(case=case, name="email").delete()
        item.name = "email"
    elif change == "case":
        VaultItem.objects.filter(case=other, name="name").delete()
        item.case = other
    else:
        item.version += 1
    item.save()
    with pytest.raises(vault.VaultDamaged) as refused:
        vault.get(item.case, item.name)
    assert factories.NAME not in str(refused.value)


def test_nothing_can_be_read_or_written_once_the_key_is_destroyed(case: Case) -> None:
    vault.destroy_key(case)
    key = CaseKey.objects.get(case=case)
    assert key.wrapped is None
    assert key.destroyed_at is not None
    with pytest.raises(vault.VaultSealed):
        vault.get(case, "name")
    with pytest.raises(vault.VaultSealed):
        vault.put(case, "name", "again")


def test_destroying_twice_keeps_the_first_time(case: Case) -> None:
    vault.destroy_key(case)
    first = CaseKey.objects.get(case=case).destroyed_at
    vault.destroy_key(case)
    assert CaseKey.objects.get(case=case).destroyed_at == first


def test_another_key_encryption_key_opens_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTBF_KEK", base64.b64encode(b"k" * 32).decode())
    with pytest.raises(vault.VaultDamaged, match="RTBF_KEK"):
        vault.get(case, "name")


def test_the_installation_makes_its_own_key_for_its_own_eyes(case: Case, vault_keys: Path) -> None:
    path = vault_keys / "kek"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in vault_keys.iterdir()] == ["kek"]
    path.chmod(0o644)
    with pytest.raises(ImproperlyConfigured, match="chmod 600"):
        vault.get(case, "name")


@pytest.mark.parametrize("text", ["not base64!", base64.b64encode(b"short").decode()])
def test_a_malformed_key_is_refused_with_what_to_do(
    case: Case, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("RTBF_KEK", text)
    with pytest.raises(ImproperlyConfigured, match="32 bytes"):
        vault.get(case, "name")


def test_production_brings_its_own_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RTBF_PRODUCTION = True
    with pytest.raises(ImproperlyConfigured, match="RTBF_KEK"):
        factories.open_case()
    monkeypatch.setenv("RTBF_KEK", base64.b64encode(b"p" * 32).decode())
    assert vault.get(factories.open_case().case, "name") == factories.NAME


def test_a_draft_is_encrypted_kept_a_day_and_then_purged() -> None:
    draft = vault.save_draft(None, {"name": factories.NAME})
    again = vault.save_draft(draft.id, {"name": factories.NAME, "email": factories.EMAIL})
    assert again.id == draft.id
    assert vault.load_draft(draft.id) == {"name": factories.NAME, "email": factories.EMAIL}
    stored = Draft.objects.get()
    assert factories.NAME.encode() not in bytes(stored.ciphertext)
    Draft.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert vault.load_draft(draft.id) is None
    assert vault.purge_drafts() == 1
    assert not Draft.objects.exists()


def test_a_draft_can_be_deleted_and_an_unknown_one_is_empty() -> None:
    draft = vault.save_draft(None, {"a": 1})
    vault.delete_draft(draft.id)
    vault.delete_draft(None)
    assert vault.load_draft(draft.id) is None
    assert vault.load_draft(None) is None
