"""The web process killed while somebody sends the form: all of it happened, or nothing."""

import pytest
from django.core.cache import cache
from django.test import Client

from requests_app import audit, vault
from requests_app.models import AuditEntry, Case, Draft
from tests.faults.killing import Killed, killed
from tests.requests_app.test_public_pages import answer_all, text

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


@pytest.mark.parametrize(
    ("where", "was_sent"),
    [
        ("requests_app.audit.append_entry", False),
        ("requests_app.vault.save_draft", False),  # of the access code
        ("django.contrib.sessions.middleware.SessionMiddleware.process_response", True),
    ],
)
def test_a_form_whose_server_is_killed_was_sent_once_with_its_access_code_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, where: str, was_sent: bool
) -> None:
    cache.clear()
    person = Client()
    answer_all(person)
    with monkeypatch.context() as patch:
        patch.setattr(where, killed)
        with pytest.raises(Killed):
            person.post("/erasure/new/check")
    assert Case.objects.count() == was_sent
    assert AuditEntry.objects.filter(type="case.received").count() == was_sent

    page = text(person.post("/erasure/new/check", follow=True))
    case = Case.objects.get()
    assert case.reference in page
    assert 'id="access-code"' in page
    person.post("/erasure/new/check")
    assert Case.objects.count() == 1
    kept = vault.load_draft(Draft.objects.get().pk)
    assert kept is not None
    assert set(kept) == {"code"}  # its page shows it again for some minutes
    audit.verify_log()
