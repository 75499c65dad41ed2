"""Letters: complete or not written at all, frozen, announced without a word about the request."""

import hashlib
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core import mail
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from pytest_django.fixtures import Settings

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.models import Case, Letter, StaffMember, SuppressionTag, VaultItem
from requests_app.models.runs import Verdict
from requests_app.services import answers, cases, intake, letters, runs
from requests_app.services import letter_texts as texts
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from tests import factories
from tests.factories import case_in_review, executing_case, propose, responding_case

KINDS = texts.kinds()
IN_ENGLISH = {"mail_invitation", "recipient_notice"}  # to staff, and to organisations
LANGUAGES = [code for code, name in django_settings.LANGUAGES]
TO_THE_PERSON = [k for k in KINDS if not k.startswith("mail_") and k != "recipient_notice"]
DECISIONS = ("completion", "partial", "refusal", "cannot_identify", "excessive")
REMEDIES = ("Art. 77 GDPR", "Art. 79 GDPR", "Data Protection Authority (Belgium)")
LOOP = re.compile(r"{% for line in (\w+) %}")


def filled(kind: str, language: str = "en") -> dict[str, Any]:
    template = texts.load_template(kind, language)
    looped = set(LOOP.findall(template.text))
    return {slot: [f"<{slot}>"] if slot in looped else f"<{slot}>" for slot in template.slots}


def test_every_letter_of_the_law_is_there() -> None:
    assert set(KINDS) == {
        "acknowledgement",
        "cannot_identify",
        "completion",
        "excessive",
        "extension",
        "identity_question",
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


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_letter_exists_in_every_language_offered(language: str) -> None:
    wanted = set(KINDS) - (IN_ENGLISH if language != "en" else set())
    assert set(texts.kinds(language)) == wanted
    assert {path.name for path in (texts.folder() / language / "parts").glob("*")} == {
        path.name for path in (texts.folder() / "en" / "parts").glob("*")
    }


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - IN_ENGLISH))
def test_a_translation_has_version_slots_and_order_of_the_english_letter(
    kind: str, language: str
) -> None:
    template, english = texts.load_template(kind, language), texts.load_template(kind)
    assert (template.version, template.slots) == (english.version, english.slots)
    used = set(re.findall(r"{{ (\w+) }}", template.text)) - {"line"} | set(
        LOOP.findall(template.text)
    )
    assert used == set(template.slots)
    assert LOOP.findall(template.text) == LOOP.findall(english.text)
    headings = [t.text.count("\n\n") for t in (template, english)]
    assert headings[0] == headings[1], "as many paragraphs as the English letter"
    articles = [sorted(re.findall(r"\b\d{2}\b", t.text)) for t in (template, english)]
    assert articles[0] == articles[1], "the same articles as the English letter"
    if language != "en":
        alike = set(template.text.splitlines()) & set(english.text.splitlines())
        assert not [line for line in alike if re.search(r"[a-z]{4}", re.sub(r"{.*?}", "", line))]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - IN_ENGLISH))
def test_a_letter_says_every_slot_and_is_not_escaped(kind: str, language: str) -> None:
    text = texts.render(kind, lambda: filled(kind, language), language=language)
    assert all(f"<{slot}>" in text for slot in texts.load_template(kind).slots)
    assert "{" not in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", ["", "  \n", None, [], ()])
def test_a_letter_is_not_written_with_any_slot_empty(kind: str, empty: object) -> None:
    for slot in texts.load_template(kind).slots:
        fill = {**filled(kind), slot: empty}
        assert texts.word(kind, "en", lambda fill=fill: fill).missing == (slot,)
        with pytest.raises(Invalid, match=rf"cannot be written: {slot} is empty"):
            texts.render(kind, lambda fill=fill: fill)


@pytest.mark.parametrize("kind", TO_THE_PERSON)
def test_every_letter_names_authority_court_and_contact(kind: str) -> None:
    slots = texts.load_template(kind).slots
    for needed in ("complaint", "remedy", "court", "authority_name", "authority_url"):
        assert needed in slots
    assert {"dpo_contact", "controller_email", "controller_phone", "reference"} <= set(slots)


@pytest.mark.parametrize("kind", DECISIONS)
def test_every_decision_says_when_what_is_kept_and_on_what_law(kind: str) -> None:
    slots = set(texts.load_template(kind).slots)
    assert {"received_on", "decided_on", "kept_data"} <= slots
    assert slots & {"grounds", "legal_basis", "kept"}


@pytest.mark.parametrize("kind", ["completion", "partial"])
def test_an_answer_that_grants_says_what_was_done_where_and_from_when(kind: str) -> None:
    needed = {"erased", "method", "measured", "limits", "timetable", "recipients"}
    assert needed <= set(texts.load_template(kind).slots)


def test_values_are_never_read_as_templates() -> None:
    evil = "{{ controller_email }}{% for x in y %}"
    text = texts.render("withdrawal", lambda: {**filled("withdrawal"), "name": evil})
    assert evil in text


def test_unknown_letters_and_slots_are_refused() -> None:
    with pytest.raises(Invalid, match="Known: acknowledgement"):
        texts.load_template("../settings")
    with pytest.raises(Invalid, match="no place for extra"):
        texts.render("withdrawal", lambda: {**filled("withdrawal"), "extra": "x"})


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
    assert texts.spell_date(case.base_due) in read(letter)


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
    assert f"- {further} further test was run for information" in text
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
    "outcome, kind, words",
    [
        ("refused", "refusal", "Art. 17(3)(e) legal claims"),
        ("cannot_identify", "cannot_identify", "Art. 11(2) and 12(2) GDPR"),
        ("excessive", "excessive", "Art. 12(5) GDPR"),
    ],
)
def test_a_refusal_holds_basis_reasons_and_remedies(
    approver: StaffMember, outcome: str, kind: str, words: str
) -> None:
    case = propose(case_in_review(), outcome=outcome)
    cases.approve_decision(case_id=case.id, actor_member=approver)
    letter = cases.send_answer(case_id=case.id, actor_member=approver)
    text = read(letter)
    assert letter.kind == kind
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


# --- Languages ----------------------------------------------------------------------------------
WORDS = {
    "de": ("Art. 17 Abs. 1 Buchst. a", "Datenbestand „crm“", "Grenzwert 0.1253", "48 Fragen"),
    "es": ("artículo 17, apartado 1, letra a)", "«crm»", "umbral 0.1253", "48 preguntas"),
    "fr": ("article 17, paragraphe 1, point a)", "crm", "seuil 0.1253", "48 questions"),
    "it": ("articolo 17, paragrafo 1, lettera a)", "«crm»", "soglia 0.1253", "48 domande"),
    "pl": ("art. 17 ust. 1 lit. a)", "„crm”", "próg 0.1253", "48 pytań"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("language", WORDS)
def test_letters_and_mails_are_in_the_language_of_the_case(
    officer: StaffMember, language: str
) -> None:
    case = responding_case(scope=("model", "data_store:crm"), language=language)
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    text = read(letter)
    assert letter.language == language
    assert all(word in text for word in WORDS[language])
    with translation.override(language):
        assert texts.spell_date(case.received_on) in text
        assert _(str(answers.LIMITS)) in text
    english = ("the model", "data about you", "We measure", "Art. 17(1)", "Language model", "GDPR.")
    assert not [word for word in english[:-1] if word in text]
    mail.outbox.clear()
    letters.send_pending_letters()
    assert {str(message.subject).split()[-1] for message in mail.outbox} == {case.reference}
    assert not any("There is a new letter" in str(message.body) for message in mail.outbox)


@pytest.mark.django_db
def test_an_unreviewed_language_falls_back_to_english_and_says_so_in_both(
    settings: Settings,
) -> None:
    settings.RTBF_REVIEWED_LETTERS_ONLY = True
    letter = factories.confirmed_case(language="de").letters.get()
    lines = read(letter).splitlines()
    assert letter.language == "en"
    assert lines[0].startswith("Unsere Schreiben auf Deutsch sind noch nicht fertig")
    assert lines[1].startswith("Our letters in Deutsch are not ready yet")
    assert "We received your request" in read(letter)
    assert "Erase my data from" in read(letter)  # what Python says is English too
    assert str(mail.outbox[-1].subject).startswith("Your request")


@pytest.mark.django_db
def test_a_reviewed_letter_is_written_in_its_language(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RTBF_REVIEWED_LETTERS_ONLY = True
    reviewed = replace(texts.load_template("withdrawal", "fr"), reviewed=True)
    found = texts.load_template
    monkeypatch.setattr(
        texts,
        "load_template",
        lambda kind, language="en": (
            reviewed if (kind, language) == ("withdrawal", "fr") else found(kind, language)
        ),
    )
    assert texts.language_of("withdrawal", "fr") == "fr"
    assert texts.language_of("completion", "fr") == "en"


def test_a_language_without_a_letter_falls_back_to_english() -> None:
    wording = texts.word("mail_code", "mt", lambda: filled("mail_code"))
    assert wording.template.language == "en"
    assert wording.text.startswith("Our letters in mt are not ready yet")


@pytest.mark.django_db
def test_english_needs_no_review(settings: Settings) -> None:
    settings.RTBF_REVIEWED_LETTERS_ONLY = True
    assert "not ready yet" not in read(factories.confirmed_case().letters.get())


@pytest.mark.django_db
def test_an_answer_after_weak_evidence_says_so_in_every_language(officer: StaffMember) -> None:
    for language in WORDS:
        case = responding_case(verdict=Verdict.NOT_MET, language=language)
        cases.accept_evidence(case_id=case.id, actor_member=officer)
        text = read(cases.send_answer(case_id=case.id, actor_member=officer))
        with translation.override(language):
            assert str(Verdict.NOT_MET.label) in text
            assert ngettext(*EARLIER, 2) % {"count": 2} in text


EARLIER = (
    "%(count)d earlier attempt did not meet the thresholds; the last one was tested with questions"
    " in other words about the same facts.",
    "%(count)d earlier attempts did not meet the thresholds; the last one was tested with questions"
    " in other words about the same facts.",
)


# --- What is kept, told and dated ---------------------------------------------------------------
@pytest.mark.django_db
def test_an_answer_states_periods_and_dates_from_the_settings(
    officer: StaffMember, settings: Settings
) -> None:
    settings.RTBF_KEEP_CLOSED_DAYS = 1
    settings.RTBF_BACKUP_DAYS, settings.RTBF_RECHECK_DAYS = 14, 7
    settings.RTBF_COURT_NAME = "the Market Court in Brussels"
    settings.RTBF_DPO_CONTACT = "dpo@controller.example"
    case = responding_case(scope=("model", "data_store:crm"))
    text = read(cases.send_answer(case_id=case.id, actor_member=officer))
    gone = timezone.localdate() + timedelta(days=14)
    assert f"are overwritten by {texts.spell_date(gone)}" in text
    assert "1 day after the case is closed" in text
    assert "at least 3 years" in text
    assert "every 7 days" in text
    assert "Where: the Market Court in Brussels." in text
    assert "dpo@controller.example" in text
    assert "keyed digests of your names" in text


@pytest.mark.django_db
def test_a_refusal_speaks_of_no_adapter_and_no_backup(approver: StaffMember) -> None:
    case = propose(case_in_review(), outcome="refused")
    cases.approve_decision(case_id=case.id, actor_member=approver)
    text = read(cases.send_answer(case_id=case.id, actor_member=approver))
    assert "adapter" not in text
    assert "overwritten" not in text


@pytest.mark.django_db
def test_a_refusal_says_for_each_thing_why_it_is_kept_and_when_that_is_looked_at_again(
    approver: StaffMember,
) -> None:
    case = propose(case_in_review(scope=("model", "data_store:crm")), outcome="refused")
    cases.approve_decision(case_id=case.id, actor_member=approver)
    text = read(cases.send_answer(case_id=case.id, actor_member=approver))
    for item in case.scope_items.all():
        assert item.review_on is not None
        assert f"{vault.get(case, f'scope/{item.pk}/reasoning')} We look at this again by" in text
        assert texts.spell_date(item.review_on) in text


@pytest.mark.django_db
def test_a_refusal_under_12_5_gives_its_proof(approver: StaffMember) -> None:
    case = propose(case_in_review(language="pl"), outcome="excessive")
    cases.approve_decision(case_id=case.id, actor_member=approver)
    text = read(cases.send_answer(case_id=case.id, actor_member=approver))
    assert "Forty requests a week, to harm." in text
    assert "nadmierny, w szczególności ze względu na swój ustawiczny charakter" in text


@pytest.mark.django_db
def test_an_answer_that_grants_tells_of_the_suppression_list(officer: StaffMember) -> None:
    case = responding_case(language="fr")
    text = read(cases.send_answer(case_id=case.id, actor_member=officer))
    assert SuppressionTag.objects.filter(case_id=case.pk).exists()
    assert "liste d’exclusion" in text  # noqa: RUF001


@pytest.mark.django_db
@pytest.mark.parametrize(
    "jurisdiction, language, words",
    [
        ("UK/2026-1", "de", ("Art. 77 UK GDPR", "Art. 79 UK GDPR", "mindestens 6 Jahre")),
        ("CA/2026-1", "en", ("§ 1798.199.45", "Attorney General", "at least 2 years", "45 days")),
        ("CA/2026-1", "pl", ("prokuratora generalnego", "co najmniej 2 lata", "45 dni od")),
    ],
)
def test_rights_and_periods_are_those_of_the_law_of_the_case(
    intake_clerk: StaffMember, jurisdiction: str, language: str, words: tuple[str, ...]
) -> None:
    opened = intake.open_case(
        intake=factories.make_intake(language=language),
        received_at=timezone.now(),
        channel="phone",
        region=jurisdiction[:2],
        actor=staff_actor(intake_clerk),
    )
    text = read(opened.case.letters.get())
    assert all(word in text for word in words)


@pytest.mark.django_db
def test_a_preview_is_the_letter_and_stores_nothing(officer: StaffMember) -> None:
    case = responding_case(language="it")
    before = case.letters.count()
    wording = cases.preview_answer(case)
    assert case.letters.count() == before
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    assert read(letter) == wording.text
    assert (wording.missing, wording.note) == ((), "")


@pytest.mark.django_db
def test_a_preview_lists_what_is_missing(settings: Settings) -> None:
    case = responding_case()
    settings.RTBF_AUTHORITY_NAME = settings.RTBF_DPO_CONTACT = " "
    wording = cases.preview_answer(case)
    assert wording.missing == ("dpo_contact", "authority_name")
    assert wording.text == ""


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
    assert letters.send_pending_letters() == 0  # not before its time
    Letter.objects.update(next_try_at=timezone.now())
    assert letters.send_pending_letters() == 1
    (message,) = mail.outbox
    assert isinstance(message, mail.EmailMessage)
    assert message.extra_headers["Message-ID"] == letters.message_id(letter)


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
    factories.confirmed_case()
    Letter.objects.update(tries=1, next_try_at=timezone.now() + timedelta(minutes=1))
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
