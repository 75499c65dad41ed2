"""From receipt to a confirmed mailbox."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, vault
from requests_app.actors import SUBJECT, staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import AuditEntry, Case, ScopeItem, StaffMember, VaultItem
from requests_app.services import intake, letters
from requests_app.services.codes import ALPHABET, new_code, normalise
from requests_app.services.errors import (
    CodeExpired,
    CodeWrong,
    Invalid,
    NotAllowed,
    NotFound,
    TooManyTries,
    WrongState,
)
from requests_app.verifier import canonical
from tests import factories
from tests.factories import mailed_code, on_commit, open_case, take_messages
from tests.threads import run_together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]

WRONG = "AAAA-AAAA"


def entry_types(case: Case) -> list[str]:
    return [entry.type for entry in audit.case_entries(case.id)]


def test_a_request_by_form_opens_a_case_that_waits_for_its_code() -> None:
    opened = open_case(received_at=datetime(2026, 3, 5, 12, tzinfo=UTC))
    case = Case.objects.get()
    assert case.status == CaseStatus.AWAITING_CONFIRMATION
    assert case.reference == "ERQ-2026-000001"
    assert case.received_on == date(2026, 3, 5)
    assert (case.base_due_raw, case.base_due) == (date(2026, 4, 5), date(2026, 4, 7))
    assert case.due == case.base_due
    assert re.fullmatch(r"([0-9A-Z]{4}-){3}[0-9A-Z]{4}", opened.access_code)
    assert normalise(opened.access_code) not in case.access_digest
    assert [(i.kind, i.target) for i in ScopeItem.objects.all()] == [("model", "demo")]
    assert entry_types(case) == ["case.received"]
    assert vault.get(case, "name") == factories.NAME
    assert vault.get(case, "aliases") == [factories.ALIAS]


def test_the_day_of_receipt_is_that_of_the_controllers_zone(settings: Settings) -> None:
    # 23:30 UTC on 5 March is already 6 March in Brussels.
    case = open_case(received_at=datetime(2026, 3, 5, 23, 30, tzinfo=UTC)).case
    assert case.received_on == date(2026, 3, 6)


def test_references_count_by_year_of_receipt() -> None:
    receipts = [datetime(year, 6, 1, tzinfo=UTC) for year in (2025, 2026, 2026, 2025)]
    found = [open_case(received_at=at).case.reference for at in receipts]
    assert found == ["ERQ-2025-000001", "ERQ-2026-000001", "ERQ-2026-000002", "ERQ-2025-000002"]


def test_a_year_may_have_more_than_a_million_requests() -> None:
    at = datetime(2025, 6, 1, tzinfo=UTC)
    first = open_case(received_at=at).case
    Case.objects.filter(pk=first.pk).update(reference="ERQ-2025-999999")
    found = [open_case(received_at=at).case.reference for _ in range(2)]
    assert found == ["ERQ-2025-1000000", "ERQ-2025-1000001"]


def test_the_scope_names_models_in_service_and_data_stores(settings: Settings) -> None:
    settings.RTBF_MODELS = ["demo", "other"]
    case = open_case(scope=("data_store", "model", "model:demo", "data_store:crm")).case
    assert [(i.kind, i.target) for i in case.scope_items.order_by("id")] == [
        ("data_store", "customer-records"),
        ("model", "demo"),
        ("model", "other"),
        ("data_store", "crm"),
    ]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "  "}, "name is missing"),
        ({"name": "x" * 201}, "longer than 200"),
        ({"name": "a\x00b"}, "control characters"),
        ({"name": "a\ud800b"}, "control characters"),
        ({"email": ""}, "e-mail address"),
        ({"email": "zelda.canary at home"}, "e-mail address"),
        ({"email": "a@b.example\r\nBcc: c@d.example"}, "e-mail address"),
        ({"email": "zelda.canary@\ufffe.com"}, "e-mail address"),
        ({"email": f"zelda.canary@{'ü' * 70}.com"}, "e-mail address"),
        ({"email": f"zelda.canary@{'ü' * 60}.com"}, "e-mail address"),
        ({"message": "x" * 2001}, "longer than 2000"),
        ({"aliases": ("x",) * 21}, "At most 20"),
        ({"language": "xx"}, "language"),
        ({"scope": ("model:secret",)}, "No model of that name"),
        ({"scope": ("data_store:All about Zelda",)}, "scope"),
        ({"scope": ("person:zelda",)}, "scope"),
    ],
)
def test_an_intake_that_does_not_fit_is_refused_and_leaves_nothing(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message) as refused:
        open_case(**changes)
    assert not any(word in str(refused.value) for word in ("zelda", "Zelda", "secret"))
    assert not Case.objects.exists()
    assert not AuditEntry.objects.exists()


def test_receipt_lies_in_the_past_and_has_a_zone() -> None:
    for at in (timezone.now() + timedelta(hours=1), datetime(2026, 1, 1)):  # noqa: DTZ001
        with pytest.raises(Invalid, match="time of receipt"):
            open_case(received_at=at)


def test_staff_enter_a_request_by_post_and_it_is_acknowledged_at_once() -> None:
    case = open_case(channel="post", email="").case
    assert case.status == CaseStatus.IDENTITY_CHECK
    assert [letter.kind for letter in case.letters.all()] == ["acknowledgement"]
    assert not vault.has(case, "email")
    assert not vault.has(case, "code")


def test_only_staff_of_the_legal_team_enter_requests(engineer: StaffMember) -> None:
    for actor, channel in ((SUBJECT, "post"), (staff_actor(engineer), "phone")):
        with pytest.raises(NotAllowed):
            intake.open_case(
                intake=factories.make_intake(),
                received_at=timezone.now(),
                channel=channel,
                actor=actor,
            )
    with pytest.raises(NotAllowed):
        intake.open_case(
            intake=factories.make_intake(),
            received_at=timezone.now(),
            channel="form",
            actor=staff_actor(engineer),
        )
    with pytest.raises(Invalid, match="channel"):
        open_case(channel="pigeon")


def test_the_mail_holds_code_and_reference_and_nothing_of_the_person() -> None:
    with on_commit():
        case = open_case().case
    assert take_messages("legal") != []
    mailed_code()
    (message,) = mail.outbox
    assert message.to == [factories.EMAIL]
    assert message.subject == f"Your request {case.reference}"
    assert case.reference in str(message.body)
    assert not any(word in str(message.body) for word in factories.CANARIES)
    assert not vault.has(case, "code")


def test_the_wake_up_for_the_mail_carries_nothing_at_all() -> None:
    with on_commit():
        open_case()
    (message,) = take_messages("legal")
    assert message["task"] == "requests_app.send_letters"
    assert message["args"] == []
    assert message["kwargs"] == {}
    assert not any(word in repr(message["raw"].payload) for word in factories.CANARIES)


def test_the_right_code_confirms_the_mailbox_and_is_acknowledged() -> None:
    case = open_case().case
    code = mailed_code()
    confirmed = intake.confirm_email(reference=case.reference, code=code)
    assert confirmed.status == CaseStatus.IDENTITY_CHECK
    assert confirmed.email_confirmed_at is not None
    assert entry_types(case) == ["case.received", "case.email_confirmed"]
    assert [letter.kind for letter in case.letters.all()] == ["acknowledgement"]


def test_a_code_is_taken_in_any_spelling_and_confirming_twice_changes_nothing() -> None:
    case = open_case().case
    code = mailed_code()
    sloppy = f"  {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} "
    intake.confirm_email(reference=case.reference.lower(), code=sloppy)
    before = AuditEntry.objects.count()
    assert intake.confirm_email(reference=case.reference, code=code).pk == case.pk
    assert AuditEntry.objects.count() == before
    assert case.letters.count() == 1


def test_a_wrong_code_and_an_unknown_reference_get_the_same_answer() -> None:
    case = open_case().case
    answers = []
    for reference in (case.reference, "ERQ-2026-999999"):
        with pytest.raises(CodeWrong) as refused:
            intake.confirm_email(reference=reference, code=WRONG)
        answers.append(str(refused.value))
    assert answers[0] == answers[1]


def test_after_five_wrong_tries_even_the_right_code_is_refused() -> None:
    case = open_case().case
    code = mailed_code()
    for _ in range(5):
        with pytest.raises(CodeWrong):
            intake.confirm_email(reference=case.reference, code=WRONG)
    with pytest.raises(TooManyTries):
        intake.confirm_email(reference=case.reference, code=code)
    assert Case.objects.get().status == CaseStatus.AWAITING_CONFIRMATION


def test_a_code_runs_out_after_fifteen_minutes() -> None:
    case = open_case().case
    code = mailed_code()
    Case.objects.update(code_expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(CodeExpired):
        intake.confirm_email(reference=case.reference, code=code)


def test_a_new_code_replaces_the_old_one_and_gives_new_tries() -> None:
    case = open_case().case
    old = mailed_code()
    Case.objects.update(code_sent_at=timezone.now() - timedelta(minutes=2), code_attempts=5)
    intake.resend_code(reference=case.reference)
    new = mailed_code()
    with pytest.raises(CodeWrong):
        intake.confirm_email(reference=case.reference, code=old)
    assert intake.confirm_email(reference=case.reference, code=new).email_confirmed_at


def test_a_new_code_is_mailed_at_most_once_a_minute_and_only_while_it_is_needed() -> None:
    case = open_case().case
    code = mailed_code()
    intake.resend_code(reference=case.reference)
    intake.resend_code(reference="ERQ-2026-999999")
    assert letters.send_pending_codes() == 0
    intake.confirm_email(reference=case.reference, code=code)
    Case.objects.update(code_sent_at=timezone.now() - timedelta(minutes=2))
    intake.resend_code(reference=case.reference)
    assert letters.send_pending_codes() == 0


def test_a_code_that_could_not_be_mailed_waits_for_the_next_sweep(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    case = open_case().case
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    assert letters.send_pending_codes() == 0
    assert vault.has(case, "code")
    assert not any(word in caplog.text for word in factories.CANARIES)
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert intake.confirm_email(reference=case.reference, code=mailed_code()).email_confirmed_at


@pytest.mark.parametrize("address", ["zelda.canary@\ufffe.com", f"zelda.canary@{'ü' * 70}.com"])
def test_a_code_that_no_mail_can_carry_does_not_block_the_next(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    blocked, later = open_case().case, open_case().case
    vault.put(blocked, "email", address)
    assert letters.send_pending_codes() == 1
    assert not vault.has(later, "code")
    assert "zelda" not in caplog.text


def test_a_code_whose_vault_cannot_be_read_does_not_block_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged, later = open_case().case, open_case().case
    VaultItem.objects.filter(case=damaged, name="code").update(ciphertext=b"0" * 40)
    assert letters.send_pending_codes() == 1
    assert not vault.has(later, "code")
    assert "(VaultDamaged)" in caplog.text


def test_a_code_that_ran_out_before_it_was_mailed_is_dropped() -> None:
    case = open_case().case
    Case.objects.update(code_expires_at=timezone.now() - timedelta(seconds=1))
    assert letters.send_pending_codes() == 0
    assert not vault.has(case, "code")
    assert not mail.outbox


def test_a_subject_withdraws_and_gets_a_letter() -> None:
    case = factories.confirmed_case()
    withdrawn = intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    assert withdrawn.status == CaseStatus.WITHDRAWN
    assert withdrawn.withdrawn_at is not None
    assert [letter.kind for letter in case.letters.order_by("id")] == [
        "acknowledgement",
        "withdrawal",
    ]
    assert entry_types(case)[-1] == "case.withdrawn"


def test_withdrawing_an_unconfirmed_request_writes_to_nobody() -> None:
    case = open_case().case
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    assert not case.letters.exists()
    assert letters.send_pending_codes() == 0


def test_withdrawing_takes_an_open_proposal_back(officer: StaffMember) -> None:
    case = factories.propose(factories.case_in_review())
    intake.withdraw_case(case_id=case.id, actor=staff_actor(officer))
    assert [d.state for d in case.decisions.all()] == ["returned"]


def test_what_is_being_erased_can_no_longer_be_withdrawn(engineer: StaffMember) -> None:
    case = factories.executing_case()
    with pytest.raises(WrongState):
        intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    with pytest.raises(NotAllowed):
        intake.withdraw_case(case_id=case.id, actor=staff_actor(engineer))
    with pytest.raises(NotFound):
        intake.withdraw_case(case_id=engineer.pseudonym, actor=SUBJECT)


def test_the_log_of_intake_holds_no_personal_data() -> None:
    case = factories.confirmed_case()
    intake.withdraw_case(case_id=case.id, actor=SUBJECT)
    letters.send_pending_letters()
    bodies = [bytes(entry.body).decode() for entry in AuditEntry.objects.all()]
    assert not any(word in body for word in factories.CANARIES for body in bodies)
    received = canonical.loads(bodies[1].encode())
    assert isinstance(received, dict)
    assert set(received["data"]["name"]) == {"commitment"}


def test_codes_use_every_letter_of_the_alphabet_and_no_other() -> None:
    drawn = "".join(normalise(new_code(16)) for _ in range(200))
    assert set(drawn) == set(ALPHABET)


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_cannot_share_a_try() -> None:
    case = open_case().case
    answers: list[str] = []

    def guess() -> None:
        try:
            intake.confirm_email(reference=case.reference, code=WRONG)
        except (CodeWrong, TooManyTries) as refused:
            answers.append(type(refused).__name__)

    run_together(guess, 8)
    assert sorted(answers) == ["CodeWrong"] * 5 + ["TooManyTries"] * 3


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_requests_that_arrive_together_get_references_of_their_own() -> None:
    run_together(open_case, 6)
    year = timezone.localdate().year
    assert sorted(Case.objects.values_list("reference", flat=True)) == [
        f"ERQ-{year}-{i:06d}" for i in range(1, 7)
    ]
    assert audit.read_log().size == AuditEntry.objects.count() == 7


def test_little_more_than_the_log_is_written_while_everybody_waits_for_it() -> None:
    with CaptureQueriesContext(connection) as opening:
        case = open_case().case
    code = mailed_code(case.reference)
    with CaptureQueriesContext(connection) as confirming:
        intake.confirm_email(reference=case.reference, code=code)
    with CaptureQueriesContext(connection) as entering:
        entered = open_case(channel="post").case
    text = vault.get(entered, f"letter/{entered.letters.get().pk}")
    assert entered.reference in text
    assert "NEW-" not in text
    log = {"loghead", "auditentry", "auditopening", "case"}
    for queries, of_the_letter in ((opening, set()), (confirming, set()), (entering, LETTER)):
        asked = [query["sql"] for query in queries]
        turn = next(i for i, sql in enumerate(asked) if "FROM requests_app_loghead" in sql)
        others = []
        for sql in asked[turn:]:
            tables = set(re.findall(r"requests_app_(\w+)", sql))
            assert tables <= log | of_the_letter
            others += tables - log
        assert len(others) <= 4, "written before, and its number put in"


LETTER = {"letter", "vaultitem", "casekey"}


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_the_same_code_sent_twice_at_once_confirms_once() -> None:
    case = open_case().case
    code = mailed_code()

    run_together(lambda: intake.confirm_email(reference=case.reference, code=code), 3)
    assert entry_types(case) == ["case.received", "case.email_confirmed"]
    assert case.letters.count() == 1
