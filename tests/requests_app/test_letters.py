"""Letters: complete or not written at all, frozen, announced without a word about the request."""

import hashlib
import re
from typing import Any

import pytest
from django.core import mail
from django.core.cache import cache
from pytest_django.fixtures import Settings

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.models import Case, Letter, StaffMember, VaultItem
from requests_app.models.runs import Verdict
from requests_app.services import cases, letters, runs
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from tests import factories
from tests.factories import case_in_review, executing_case, propose, responding_case

KINDS = letters.kinds()
REMEDIES = ("Art. 77 GDPR", "Art. 79 GDPR", "Data Protection Authority (Belgium)")


def filled(kind: str) -> dict[str, Any]:
    template = letters.load_template(kind)
    looped = set(re.findall(r"{% for line in (\w+) %}", template.text))
    return {slot: [f"<{slot}>"] if slot in looped else f"<{slot}>" for slot in template.slots}


def test_every_letter_of_the_issue_is_there() -> None:
    assert set(KINDS) == {
        "acknowledgement",
        "completion",
        "extension",
        "mail_code",
        "mail_invitation",
        "mail_notice",
        "mail_reminder",
        "partial",
        "recipient_notice",
        "recipients",
        "refusal",
        "restriction",
        "restriction_lifted",
        "withdrawal",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_letter_declares_every_slot_that_it_uses_and_uses_every_slot(kind: str) -> None:
    template = letters.load_template(kind)
    used = set(re.findall(r"{{ (\w+) }}", template.text)) - {"line"}
    used |= set(re.findall(r"{% for line in (\w+) %}", template.text))
    assert used == set(template.slots)


@pytest.mark.parametrize("kind", KINDS)
def test_a_letter_says_every_slot_and_is_not_escaped(kind: str) -> None:
    text = letters.render(kind, filled(kind))
    assert all(f"<{slot}>" in text for slot in letters.load_template(kind).slots)
    assert "{" not in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", ["", "  \n", None, [], ()])
def test_a_letter_is_not_written_with_any_slot_empty(kind: str, empty: object) -> None:
    for slot in letters.load_template(kind).slots:
        with pytest.raises(Invalid, match=rf"cannot be written: {slot} is empty"):
            letters.render(kind, {**filled(kind), slot: empty})


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if not kind.startswith(("mail_", "recipient_"))]
)
def test_every_letter_names_authority_court_and_contact(kind: str) -> None:
    text = letters.load_template(kind).text
    for needed in ("complaint", "remedy", "authority_name", "authority_url", "controller_email"):
        assert needed in text


def test_values_are_never_read_as_templates() -> None:
    evil = "{{ controller_email }}{% for x in y %}"
    text = letters.render("withdrawal", {**filled("withdrawal"), "name": evil})
    assert evil in text


def test_unknown_letters_and_slots_are_refused() -> None:
    with pytest.raises(Invalid, match="Known: acknowledgement"):
        letters.render("../settings", {})
    with pytest.raises(Invalid, match="no place for extra"):
        letters.render("withdrawal", {**filled("withdrawal"), "extra": "x"})


def read(letter: Letter) -> str:
    text = vault.get(letter.case, f"letter/{letter.pk}")
    assert isinstance(text, str)
    return text


@pytest.mark.django_db
def test_a_letter_is_frozen_by_its_digest_and_lies_in_the_vault() -> None:
    case = factories.confirmed_case()
    letter = case.letters.get()
    assert letter.sha256 == hashlib.sha256(read(letter).encode()).hexdigest()
    assert factories.NAME in read(letter)
    assert case.reference in read(letter)
    assert letters.spell_date(case.base_due) in read(letter)


@pytest.mark.django_db
def test_the_completion_letter_states_exactly_the_recorded_figures(officer: StaffMember) -> None:
    case = responding_case()
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    text = read(letter)
    assert letter.kind == "completion"
    for probe in factories.PROBES:
        named = {
            "before": probe.before,
            "after": probe.after,
            "in a control that never saw you": probe.control,
            "95% bound": probe.bound,
            "threshold": probe.threshold,
        }
        figures = ", ".join(f"{name} {value}" for name, value in named.items() if value)
        line = f"- {probe.question} {figures} ({probe.n} questions)"
        assert (line in text) == bool(probe.threshold)  # what only informs is in the evidence
    further = sum(not probe.threshold for probe in factories.PROBES)
    assert f"- {further} further tests were run for information" in text
    run = case.runs.get()
    assert run.adapter.sha256 in text
    assert "Level of this measure: gated." in text
    assert "Art. 17(1)(a) no longer necessary" in text
    assert all(remedy in text for remedy in REMEDIES)
    assert not re.search(r"guarantee|proven|certified|compliant|deleted from", text)


@pytest.mark.django_db
@pytest.mark.parametrize("verdict", [Verdict.NOT_MET, Verdict.INCONCLUSIVE])
def test_an_answer_after_weak_evidence_says_so(officer: StaffMember, verdict: Verdict) -> None:
    case = responding_case(verdict=verdict)
    cases.accept_evidence(case_id=case.id, actor_member=officer)
    text = read(cases.send_answer(case_id=case.id, actor_member=officer))
    assert str(verdict.label) in text
    tried = "2 earlier attempts did not meet the thresholds"
    assert (tried in text) == (verdict == Verdict.NOT_MET)
    assert "no release in force contains it" in text
    assert "answers about you are suppressed" not in text


@pytest.mark.django_db
def test_an_answer_after_a_failed_run_claims_nothing(officer: StaffMember) -> None:
    case = executing_case()
    runs.fail_run(factories.take_lease(case.runs.get()), error="out of memory")
    cases.accept_evidence(case_id=case.id, actor_member=officer)
    text = read(cases.send_answer(case_id=case.id, actor_member=officer))
    assert "did not finish" in text
    assert "Inconclusive" in text
    assert "answers about you are suppressed" not in text


@pytest.mark.django_db
def test_an_answer_where_nothing_could_be_measured_speaks_of_no_adapter(
    officer: StaffMember,
) -> None:
    case = executing_case()
    lease = factories.take_lease(case.runs.get())
    runs.record_evidence(lease, evidence={}, verdict=Verdict.INCONCLUSIVE, probes=())
    runs.finish_run(lease)
    cases.accept_evidence(case_id=case.id, actor_member=officer)
    text = read(cases.send_answer(case_id=case.id, actor_member=officer))
    assert "it gave no answer that could be measured" in text
    assert "No adapter was made" in text
    assert "suppressed" not in text


@pytest.mark.django_db
def test_a_partial_answer_says_what_is_kept_and_why(
    officer: StaffMember, approver: StaffMember
) -> None:
    case = case_in_review(scope=("model", "data_store:crm"))
    results = {
        item.pk: factories.ERASED if item.kind == "model" else factories.KEPT
        for item in case.scope_items.all()
    }
    cases.propose_decision(
        case_id=case.id,
        outcome="partly_granted",
        grounds=["17-1-a", "17-1-b"],
        reasoning="An open invoice is before the court.",
        scope_results=results,
        actor_member=officer,
    )
    cases.approve_decision(case_id=case.id, actor_member=approver)
    factories.work_off(case.runs.get())
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    text = read(letter)
    assert letter.kind == "partial"
    assert "Data store “crm”: Art. 17(3)(e) legal claims" in text
    assert "An open invoice is before the court." in text
    assert "Art. 17(1)(a) no longer necessary; Art. 17(1)(b) consent withdrawn" in text


@pytest.mark.django_db
@pytest.mark.parametrize(
    "outcome, words",
    [
        ("refused", "Art. 17(3)(e) legal claims"),
        ("cannot_identify", "Art. 11(2) and 12(2) GDPR"),
        ("excessive", "Art. 12(5) GDPR"),
    ],
)
def test_a_refusal_holds_basis_reasons_and_remedies(
    approver: StaffMember, outcome: str, words: str
) -> None:
    case = propose(case_in_review(), outcome=outcome)
    cases.approve_decision(case_id=case.id, actor_member=approver)
    text = read(cases.send_answer(case_id=case.id, actor_member=approver))
    assert words in text
    assert "No purpose is left for the canary records." in text
    assert all(remedy in text for remedy in REMEDIES)


@pytest.mark.django_db
def test_a_case_without_the_name_of_an_authority_gets_no_refusal(
    approver: StaffMember, settings: Settings
) -> None:
    case = propose(case_in_review(), outcome="refused")
    cases.approve_decision(case_id=case.id, actor_member=approver)
    settings.RTBF_AUTHORITY_NAME = ""
    with pytest.raises(Invalid, match="authority_name is empty"):
        cases.send_answer(case_id=case.id, actor_member=approver)
    assert Case.objects.get().status == "responding"


# --- Sending ------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_letter_is_announced_once_and_logged_without_its_text() -> None:
    case = factories.confirmed_case()
    mail.outbox.clear()
    assert letters.send_pending_letters() == 1
    assert letters.send_pending_letters() == 0
    (message,) = mail.outbox
    assert message.subject == f"Your request {case.reference}"
    assert message.to == [factories.EMAIL]
    body = str(message.body)
    assert not any(word in body for word in factories.CANARIES)
    assert "/status" in body
    letter = case.letters.get()
    assert letter.sent_at is not None
    entry = audit.case_entries(case.id)[-1]
    assert entry.type == "letter.sent"
    assert letter.sha256.encode() not in bytes(entry.body)


@pytest.mark.django_db
def test_a_letter_that_could_not_be_mailed_waits_and_keeps_its_message_id(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    letter = factories.confirmed_case().letters.get()
    mail.outbox.clear()
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    assert letters.send_pending_letters() == 0
    assert Letter.objects.get().sent_at is None
    assert not any(word in caplog.text for word in factories.CANARIES)
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert letters.send_pending_letters() == 1
    (message,) = mail.outbox
    assert isinstance(message, mail.EmailMessage)
    assert f".{letter.pk}@" in message.extra_headers["Message-ID"]


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["zelda.canary@\ufffe.com", f"zelda.canary@{'ü' * 70}.com"])
def test_a_letter_with_an_address_no_mail_can_carry_does_not_block_the_next(
    caplog: pytest.LogCaptureFixture, address: str
) -> None:
    blocked = factories.confirmed_case()
    vault.put(blocked, "email", address)
    later = factories.confirmed_case()
    mail.outbox.clear()
    assert letters.send_pending_letters() == 1
    assert blocked.letters.get().sent_at is None
    assert later.letters.get().sent_at is not None
    assert f"Letter {blocked.letters.get().pk} not mailed" in caplog.text
    assert "zelda" not in caplog.text


@pytest.mark.django_db
def test_a_letter_whose_vault_cannot_be_read_does_not_block_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged, later = factories.confirmed_case(), factories.confirmed_case()
    VaultItem.objects.filter(case=damaged, name="email").update(ciphertext=b"0" * 40)
    assert letters.send_pending_letters() == 1
    assert later.letters.get().sent_at is not None
    assert "(VaultDamaged)" in caplog.text


@pytest.mark.django_db
def test_a_letter_that_another_process_is_sending_is_left_alone() -> None:
    letter = factories.confirmed_case().letters.get()
    cache.add(f"letter:{letter.id}", 1)
    assert letters.send_pending_letters() == 0


@pytest.mark.django_db
def test_a_letter_on_paper_is_recorded_by_staff(
    intake_clerk: StaffMember, auditor: StaffMember
) -> None:
    letter = factories.open_case(channel="post", email="").case.letters.get()
    assert letters.send_pending_letters() == 0
    with pytest.raises(NotAllowed):
        letters.record_letter_posted(letter_id=letter.pk, actor=staff_actor(auditor))
    letters.record_letter_posted(letter_id=letter.pk, actor=staff_actor(intake_clerk))
    assert Letter.objects.get().sent_at is not None
    with pytest.raises(WrongState):
        letters.record_letter_posted(letter_id=letter.pk, actor=staff_actor(intake_clerk))
    with pytest.raises(NotFound):
        letters.record_letter_posted(letter_id=10**9, actor=staff_actor(intake_clerk))
