"""The data subject's pages: the form, the code, the status page; neutral about who is known."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pikepdf
import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db.models import F
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import override
from pytest_django.fixtures import Settings

from requests_app import vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Draft
from requests_app.services import clock, identity
from requests_app.views import letter_files, sent
from tests import factories

pytestmark = pytest.mark.django_db

ANSWERS: dict[str, dict[str, object]] = {
    "who": {"who": "myself"},
    "name": {"name": factories.NAME, "aliases": factories.ALIAS},
    "email": {"email": factories.EMAIL},
    "what": {"systems": ["model"]},
    "message": {"message": factories.MESSAGE},
}


def answer_all(client: Client, **changes: dict[str, object]) -> None:
    for step, answers in ANSWERS.items():
        client.post(f"/erasure/new/{step}", changes.get(step, answers))


def send(client: Client) -> str:
    """Fill in and send; returns the reference."""
    answer_all(client)
    response = client.post("/erasure/new/check")
    assert response.status_code == 302
    return str(response.url.rsplit("/", 1)[1])  # type: ignore[attr-defined]


def text(response: HttpResponse) -> str:
    return response.content.decode()


def title(response: HttpResponse) -> str:
    found = re.search(r"<title>(.*?)</title>", text(response), re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture(autouse=True)
def _fresh_limits() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


# --- Every page ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/erasure/new/who",
        "/erasure/new/name",
        "/erasure/new/email",
        "/erasure/new/what",
        "/erasure/new/message",
        "/erasure/new/check",
        "/erasure/sent/ERQ-2026-000001",
        "/erasure/confirm",
        "/erasure/confirmed",
        "/status",
        "/transparency",
        "/privacy",
        "/accessibility",
        "/accounts/login/",
    ],
)
def test_page_opens_with_one_heading_and_strict_headers(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert len(re.findall(r"<h1[ >]", text(response))) == 1
    assert (
        response.headers["Cache-Control"].startswith("no-store")
        or "no-cache" in (response.headers["Cache-Control"])
    )
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Robots-Tag"] == "noindex"
    # `no-referrer` would make browsers send `Origin: null`, and every form would be refused
    assert response.headers["Referrer-Policy"] == "same-origin"


def test_templates_hold_no_inline_script_or_style() -> None:
    folder = Path(django_settings.BASE_DIR) / "templates"
    pages = [path for path in folder.rglob("*.html") if path.parent.name != "exports"]  # files
    assert pages
    for path in pages:
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), path


def test_vendored_script_has_the_digest_its_readme_gives() -> None:
    folder = Path(django_settings.BASE_DIR) / "requests_app" / "static" / "vendor"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for script in folder.glob("*.js"):
        line = next(line for line in readme.splitlines() if f"`{script.name}`" in line)
        assert hashlib.sha256(script.read_bytes()).hexdigest() in line


def test_unknown_address_gives_a_plain_page(client: Client) -> None:
    response = client.get("/nothing-here")
    assert response.status_code == 404
    assert "Page not found" in text(response)


def test_form_without_its_token_is_refused_with_what_to_do() -> None:
    response = Client(enforce_csrf_checks=True).post("/erasure/new/who", {"who": "myself"})
    assert response.status_code == 403
    assert "reload the page" in text(response)


def test_server_error_page_needs_nothing_from_the_request(client: Client) -> None:
    from django.template.loader import render_to_string

    assert "Something went wrong" in render_to_string("500.html")


# --- The form -----------------------------------------------------------------------------------
def test_form_leads_through_every_question_to_a_case(client: Client) -> None:
    for name, following in zip(ANSWERS, [*list(ANSWERS)[1:], "check"], strict=True):
        response = client.post(f"/erasure/new/{name}", ANSWERS[name])
        assert response.url == f"/erasure/new/{following}"  # type: ignore[attr-defined]
    page = text(client.get("/erasure/new/check"))
    for answer in (factories.NAME, factories.EMAIL, factories.ALIAS, factories.MESSAGE):
        assert answer in page
    assert "Change" in page
    response = client.post("/erasure/new/check")
    case = Case.objects.get()
    assert response.url == f"/erasure/sent/{case.reference}"  # type: ignore[attr-defined]
    assert case.status == CaseStatus.AWAITING_CONFIRMATION
    assert vault.get(case, "name") == factories.NAME
    assert vault.get(case, "aliases") == [factories.ALIAS]
    assert vault.get(case, "message") == factories.MESSAGE
    assert [(i.kind, i.target) for i in case.scope_items.all()] == [("model", "demo")]
    assert Draft.objects.count() == 1  # the access code alone, for the confirmation


def test_session_holds_no_answer_in_clear(client: Client) -> None:
    answer_all(client)
    kept = " ".join(str(s.get_decoded()) for s in Session.objects.all())
    assert "draft_id" in kept
    assert not [canary for canary in factories.CANARIES if canary in kept]


def test_not_sure_means_everything_there_is(client: Client) -> None:
    answer_all(client, what={"systems": ["not_sure"]})
    client.post("/erasure/new/check")
    assert {i.kind for i in Case.objects.get().scope_items.all()} == {"model", "data_store"}


def test_request_for_somebody_else_says_so_to_staff(client: Client) -> None:
    answer_all(client, who={"who": "someone_else"})
    client.post("/erasure/new/check")
    message = vault.get(Case.objects.get(), "message")
    assert "somebody else" in message
    assert factories.MESSAGE in message


def test_skipping_ahead_leads_to_the_first_open_question(client: Client) -> None:
    client.post("/erasure/new/who", {"who": "myself"})
    assert client.get("/erasure/new/check").url == "/erasure/new/name"  # type: ignore[attr-defined]
    assert client.post("/erasure/new/check").url == "/erasure/new/name"  # type: ignore[attr-defined]
    assert not Case.objects.exists()


def test_changing_an_answer_leads_back_to_the_check_page(client: Client) -> None:
    answer_all(client)
    page = text(client.get("/erasure/new/name"))
    assert factories.NAME in page
    assert '<a class="back" href="/erasure/new/check">' in page
    response = client.post("/erasure/new/name", {"name": "Other Name"})
    assert response.url == "/erasure/new/check"  # type: ignore[attr-defined]
    page = text(client.get("/erasure/new/check"))
    assert "Other Name" in page
    assert '<dd id="answer-aliases">Not provided</dd>' in page


@pytest.mark.parametrize("step", ["who", "email", "what", "message"])
def test_the_question_of_a_page_is_its_heading(client: Client, step: str) -> None:
    page = text(client.get(f"/erasure/new/{step}"))
    assert re.search(r"<legend><h1>|<h1><label for=", page)
    assert "maxlength" not in page


@pytest.mark.parametrize(
    ("step", "answers", "target"),
    [
        ("who", {}, "#id_who_0"),
        ("who", {"who": "nobody"}, "#id_who_0"),
        ("name", {"name": ""}, "#id_name"),
        ("name", {"name": "A", "aliases": "x\n" * 21}, "#id_aliases"),
        ("email", {"email": "not an address"}, "#id_email"),
        ("email", {"email": "a@\ufffe.com"}, "#id_email"),
        ("what", {}, "#id_systems_0"),
        ("message", {"message": "x" * 2001}, "#id_message"),
    ],
)
def test_wrong_answer_gives_an_error_summary_that_leads_to_the_field(
    client: Client, step: str, answers: dict[str, str], target: str
) -> None:
    response = client.post(f"/erasure/new/{step}", answers)
    page = text(response)
    assert response.status_code == 422
    assert title(response).startswith("Error: ")
    assert "There is a problem" in page
    assert f'href="{target}"' in page
    assert f'id="{target[1:]}"' in page
    assert page.index("There is a problem") < page.index("<h1")
    assert not Draft.objects.exists()


def test_sending_twice_makes_one_case(client: Client) -> None:
    reference = send(client)
    again = client.post("/erasure/new/check")
    assert again.url == f"/erasure/sent/{reference}"  # type: ignore[attr-defined]
    assert Case.objects.count() == 1


def test_a_second_click_while_the_first_is_at_work_leads_to_the_same_case(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_all(client)
    load, first = vault.load_draft, list[HttpResponse]()

    def overtaken(draft: UUID | None) -> dict[str, Any] | None:
        answers = load(draft)
        if not first:
            other = Client()
            other.cookies = client.cookies
            first.append(HttpResponse())  # it comes through here too
            first[0] = other.post("/erasure/new/check")
        return answers

    monkeypatch.setattr(vault, "load_draft", overtaken)
    second = client.post("/erasure/new/check")
    assert (second.status_code, second.headers["Location"]) == (302, first[0].headers["Location"])
    assert Case.objects.count() == 1
    assert client.get(second.headers["Location"]).status_code == 200


def test_after_sending_the_browsers_back_says_that_it_was_sent(client: Client) -> None:
    reference = send(client)
    for step in ("check", "message", "name"):
        page = text(client.get(f"/erasure/new/{step}"))
        assert "Your request was sent" in page
        assert f'href="/erasure/sent/{reference}"' in page
        assert factories.NAME not in page
    assert "Who is this request for?" in text(client.get("/erasure/new/who"))  # another one


@pytest.mark.parametrize("step", ["who", "message", "check"])
def test_a_draft_older_than_a_day_is_gone_and_the_page_says_so_once(
    client: Client, step: str
) -> None:
    answer_all(client)
    Draft.objects.update(created_at=timezone.now() - vault.DRAFT_LIFE)
    response = client.get(f"/erasure/new/{step}")
    assert response.status_code == 410
    assert "Your answers were deleted" in text(response)
    assert client.get("/erasure/new/who").status_code == 200
    assert not Case.objects.exists()


def test_a_visitors_session_lasts_as_long_as_the_draft_and_an_hour_once_a_case_is_open(
    client: Client,
) -> None:
    answer_all(client)
    assert client.session.get_expiry_age() == 24 * 3600
    case = opened(client)
    assert client.session.get_expiry_age() == 3600
    assert client.get(f"/status/{case.reference}").status_code == 200
    client.post("/erasure/new/who", {"who": "myself"})
    assert client.session.get_expiry_age() == 3600


def test_typed_markup_is_shown_as_text(client: Client) -> None:
    answer_all(client, name={"name": "<script>alert(1)</script>"})
    page = text(client.get("/erasure/new/check"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


# --- Confirmation -------------------------------------------------------------------------------
def test_access_code_opens_the_status_page_and_a_reload_shows_it_again_for_minutes(
    client: Client,
) -> None:
    """A browser that lost the connection has not shown the first answer to anybody."""
    reference = send(client)
    code = code_shown(client, reference)
    assert code_shown(client, reference) == code
    Draft.objects.update(created_at=F("created_at") - sent.SHOWN_AGAIN)
    assert code_shown(client, reference) == ""
    assert reference in text(client.get(f"/erasure/sent/{reference}"))
    response = Client().post("/status", {"reference": reference, "access_code": code})
    assert response.url == f"/status/{reference}"  # type: ignore[attr-defined]


def test_reloading_does_not_make_the_minutes_longer(client: Client) -> None:
    reference = send(client)
    Draft.objects.update(created_at=F("created_at") - timedelta(hours=5))  # sent, not yet seen
    for _ in range(3):
        assert code_shown(client, reference)
        Draft.objects.update(created_at=F("created_at") - sent.SHOWN_AGAIN / 4)
    Draft.objects.update(created_at=F("created_at") - sent.SHOWN_AGAIN / 4)
    assert code_shown(client, reference) == ""


def test_whoever_has_given_the_access_code_is_not_shown_it_again(client: Client) -> None:
    reference, other = send(client), send(client)
    code = code_shown(client, reference)
    client.post("/status", {"reference": reference, "access_code": code})
    assert code_shown(client, reference) == ""
    assert code_shown(client, other)
    assert Draft.objects.count() == 1


def test_access_code_lies_encrypted_while_it_is_shown(client: Client) -> None:
    reference = send(client)
    waiting = session_data()
    code = code_shown(client, reference)
    assert code
    assert code not in waiting + session_data()
    stored = Draft.objects.get()
    assert code.encode() not in bytes(stored.ciphertext) + bytes(stored.wrapped)
    assert Client().get(f"/erasure/sent/{reference}").context["access_code"] == ""


def code_shown(client: Client, reference: str) -> str:
    page = text(client.get(f"/erasure/sent/{reference}"))
    found = re.search(r'<output id="access-code">([0-9A-Z-]+)</output>', page)
    return found[1] if found else ""


def session_data() -> str:
    return " ".join(str(session.get_decoded()) for session in Session.objects.all())


def test_each_of_two_requests_of_one_visitor_shows_its_own_access_code(client: Client) -> None:
    references = [send(client), send(client)]
    pages = [text(client.get(f"/erasure/sent/{reference}")) for reference in references]
    codes = {code for page in pages for code in re.findall(r'id="access-code">([^<]+)<', page)}
    assert len(codes) == 2


def test_bookmarked_confirmation_is_the_same_for_any_reference(client: Client) -> None:
    reference = send(client)
    pages = [
        re.sub(r'value="\w{64}"', "", text(Client().get(f"/erasure/sent/{each}"))).replace(
            each, "REF"
        )
        for each in (reference, "ERQ-2026-999999")
    ]
    assert pages[0] == pages[1]


def test_the_confirmation_is_kept_as_a_pdf_without_access_code_or_person(client: Client) -> None:
    reference = send(client)
    access_code = client.get(f"/erasure/sent/{reference}").context["access_code"]
    path = f"/erasure/sent/{reference}/confirmation.pdf"
    response = client.get(path, headers={"accept-language": "pl"})
    assert response.headers["Content-Type"] == "application/pdf"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{reference}.pdf"'
    assert response.headers["Cache-Control"] == "no-store"
    case = Case.objects.get()
    with pikepdf.open(io.BytesIO(response.content)) as pdf:
        assert pdf.Root.MarkInfo.Marked
        assert str(pdf.Root.Lang) == "pl"
        with pdf.open_metadata() as said:
            assert (said["pdfuaid:part"], said["pdfaid:part"]) == ("1", "3")
    again = client.get(path, headers={"accept-language": "pl"})
    assert again.content == response.content
    with override("en"):
        told = " ".join(words_told(case))
        for wanted in (reference, sent.received_words(case), date_format(case.due, "j F Y")):
            assert wanted in told
    assert re.search(r"\d\d:\d\d CES?T", told)
    for secret in (access_code, *factories.CANARIES):
        assert secret not in told
    stranger = Client().get(path)
    assert stranger.url == f"/erasure/sent/{reference}"  # type: ignore[attr-defined]
    assert Client().get(path.replace(reference, "ERQ-2026-999999")).status_code == 302


def words_told(case: Case) -> Iterator[str]:
    """Every text that the confirmation is typeset from."""
    waiting: list[Any] = [sent.tell(case)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        else:
            waiting += value.values() if isinstance(value, dict) else value


# --- The mailed code ----------------------------------------------------------------------------
def test_mailed_code_confirms_the_address(client: Client) -> None:
    case = factories.open_case().case
    response = client.post(
        "/erasure/confirm", {"reference": case.reference.lower(), "code": factories.mailed_code()}
    )
    assert response.url == "/erasure/confirmed"  # type: ignore[attr-defined]
    case.refresh_from_db()
    assert case.status == CaseStatus.IDENTITY_CHECK
    assert "Identity" not in title(client.get("/erasure/confirmed"))


def test_wrong_worn_out_and_unknown_codes_get_the_same_answer(client: Client) -> None:
    case = factories.open_case().case
    code = factories.mailed_code()

    def answer(reference: str, given: str) -> str:
        response = client.post("/erasure/confirm", {"reference": reference, "code": given})
        assert response.status_code == 422
        page = text(response)
        return re.sub(r'name="csrfmiddlewaretoken" value="\w+"|value="[^"]*"', "", page)

    wrong = answer(case.reference, "0000-0000")
    unknown = answer("ERQ-2026-999999", "0000-0000")
    for _ in range(4):
        answer(case.reference, "0000-0000")
    worn_out = answer(case.reference, code)
    assert wrong == unknown == worn_out
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_CONFIRMATION


def test_asking_for_a_new_code_tells_nothing_about_the_reference(client: Client) -> None:
    case = factories.open_case().case

    def answer(reference: str) -> str:
        response = client.post("/erasure/resend", {"reference": reference}, follow=True)
        return re.sub(r'value="\w{64}"', "", text(response))

    assert answer(case.reference) == answer("ERQ-2026-999999")
    response = client.post("/erasure/resend", {"reference": "", "code": ""})
    assert response.status_code == 422
    assert "Enter the reference" in text(response)
    assert "Enter the code" not in text(response).split("confirm-form")[1]


def test_code_page_offers_the_reference_of_this_session_and_one_time_code_filling(
    client: Client,
) -> None:
    reference = send(client)
    page = text(client.get("/erasure/confirm"))
    assert f'value="{reference}"' in page
    assert 'autocomplete="one-time-code"' in page


# --- Status page --------------------------------------------------------------------------------
def opened(client: Client) -> Case:
    """A case in review, its status page opened in this session."""
    case = factories.open_case()
    factories.intake.confirm_email(reference=case.case.reference, code=factories.mailed_code())
    client.post("/status", {"reference": case.case.reference, "access_code": case.access_code})
    return Case.objects.get(pk=case.case.pk)


def test_status_page_shows_stages_dates_and_letters(client: Client) -> None:
    case = opened(client)
    response = client.get(f"/status/{case.reference}")
    page = text(response)
    assert page.count('aria-current="step"') == 1
    assert "Your e-mail address is confirmed" in page
    letter = case.letters.get()
    download = client.get(f"/status/{case.reference}/letters/{letter.pk}")
    assert download.headers["Content-Type"].startswith("text/plain")
    assert case.reference in text(download)
    assert hashlib.sha256(download.content).hexdigest() == letter.sha256
    path = f"/status/{case.reference}/letters/{letter.pk}?as=pdf"
    assert f'href="{path}"' in page
    file = client.get(path)
    assert file.headers["Content-Disposition"].endswith('-acknowledgement.pdf"')
    with pikepdf.open(io.BytesIO(file.content)) as pdf:
        assert str(pdf.Root.Lang) == letter.language
        assert pdf.Root.MarkInfo.Marked
    assert client.get(path).content == file.content
    assert not [canary for canary in factories.CANARIES if canary in page]


def test_the_parts_of_a_letter_for_the_post_are_its_text_word_for_word() -> None:
    words = "Us\nStreet 1\n\nTo: Zoë *#[x]\n\nOUR ANSWER\nYes.\n- one\n\nCONTACT\nUs.\n"
    parts = list(letter_files.parts_of(words))
    assert [part["text"] for part in parts if part["heading"]] == ["OUR ANSWER", "CONTACT"]
    told = "\n".join(part["text"] for part in parts)
    assert told == "\n".join(filter(None, words.splitlines()))


def test_status_page_needs_the_access_code_for_any_reference(client: Client) -> None:
    case = factories.confirmed_case()
    for path in (
        f"/status/{case.reference}",
        f"/status/{case.reference}/letters/{case.letters.get().pk}",
        f"/status/{case.reference}/withdraw",
        "/status/ERQ-2026-999999",
    ):
        assert client.get(path).url == "/status"  # type: ignore[attr-defined]


def test_wrong_access_code_and_unknown_reference_get_the_same_answer(client: Client) -> None:
    case = factories.confirmed_case()
    pages = [
        re.sub(r'value="[^"]*"', "", text(response))
        for reference in (case.reference, "ERQ-2026-999999")
        for response in [client.post("/status", {"reference": reference, "access_code": "0" * 16})]
        if response.status_code == 422
    ]
    assert len(pages) == 2
    assert pages[0] == pages[1]


def test_letter_of_another_case_is_not_given_out(client: Client) -> None:
    case = opened(client)
    other = factories.confirmed_case()
    path = f"/status/{case.reference}/letters/{other.letters.get().pk}"
    assert client.get(path).status_code == 404


def test_person_withdraws_after_being_asked_once_more(client: Client) -> None:
    case = opened(client)
    path = f"/status/{case.reference}/withdraw"
    assert "erase nothing" in text(client.get(path))
    page = text(client.post(path, follow=True))
    case.refresh_from_db()
    assert case.status == CaseStatus.WITHDRAWN
    assert "Your request is withdrawn" in page
    assert "Withdraw this request" not in page


def test_refused_case_has_no_erasure_stage(client: Client) -> None:
    case = factories.open_case()
    factories.intake.confirm_email(reference=case.case.reference, code=factories.mailed_code())
    client.post("/status", {"reference": case.case.reference, "access_code": case.access_code})
    actor = factories.staff_actor(factories.make_staff("officer"))
    factories.cases.record_identity(case_id=case.case.id, method="mailbox", note="", actor=actor)
    factories.propose(case.case, outcome="refused")
    factories.cases.approve_decision(
        case_id=case.case.id, actor_member=factories.make_staff("approver")
    )
    page = text(client.get(f"/status/{case.case.reference}"))
    assert page.count("Not part of this request.") == 2


def test_a_refused_case_shows_its_answer_and_the_remedies_of_its_law(client: Client) -> None:
    case = opened(client)
    actor = factories.staff_actor(factories.make_staff("officer"))
    factories.cases.record_identity(case_id=case.id, method="mailbox", note="", actor=actor)
    factories.propose(case, outcome="refused")
    factories.cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    factories.cases.send_answer(case_id=case.id, actor_member=factories.make_staff("officer"))
    page = text(client.get(f"/status/{case.reference}"))
    answer = case.letters.get(kind="refusal")
    answered = page.partition('id="answered"')[2].partition("</div>")[0]
    assert "Answer: refused" in answered
    assert f"/status/{case.reference}/letters/{answer.pk}" in answered
    remedies = page.partition('id="remedies"')[2].partition("</p>")[0]
    assert django_settings.RTBF_AUTHORITY_NAME in remedies
    assert "Art. 77 GDPR" in remedies
    assert "Art. 79 GDPR" in remedies
    assert "Expected by" not in page


def test_an_extension_is_shown_with_its_reasons_and_the_new_date(client: Client) -> None:
    case = opened(client)
    clock.extend_case(
        case_id=case.id,
        cause="complexity",
        reasons="Four models have to be measured, which takes six weeks.",
        done="Your records are blocked and left out of training.",
        actor_member=factories.make_staff("officer"),
    )
    case.refresh_from_db()
    page = text(client.get(f"/status/{case.reference}"))
    notice = page.partition('id="extension"')[2].partition("</div>")[0]
    assert "the complexity of the request" in notice
    assert "which takes six weeks" in notice
    assert date_format(case.extension_due, "j F Y") in notice
    assert page.count(f"Expected by {date_format(case.extension_due, 'j F Y')}") == 5


def test_what_we_wait_for_comes_first_and_a_late_answer_is_said(client: Client) -> None:
    case = opened(client)
    identity.ask_identity(
        case_id=case.id,
        doubt="Two customers have this name.",
        sufficient="The town of your contract.",
        actor_member=factories.make_staff("officer"),
    )
    factories.due_on(case, timezone.localdate() - timezone.timedelta(days=1))
    page = text(client.get(f"/status/{case.reference}"))
    assert "Read our question" in page
    assert page.index('id="late"') < page.index('id="question"') < page.index('id="stages"')


# --- Limits -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "fields", "tries"),
    [
        ("/erasure/confirm", {"reference": "ERQ-2026-000001", "code": "0000-0000"}, 20),
        ("/erasure/resend", {"reference": "ERQ-2026-000001"}, 6),
        ("/status", {"reference": "ERQ-2026-000001", "access_code": "0000"}, 20),
        ("/erasure/new/check", {}, 20),
        ("/transparency", {"text": "{}"}, 20),
    ],
)
def test_too_many_tries_from_one_address_get_a_page_with_other_ways(
    client: Client, path: str, fields: dict[str, str], tries: int, settings: Settings
) -> None:
    for _ in range(tries):
        assert client.post(path, fields).status_code != 429
    response = client.post(path, fields)
    assert response.status_code == 429
    assert settings.RTBF_CONTROLLER_PHONE in text(response)
    assert int(response.headers["Retry-After"]) > 0
    assert client.get(path, follow=True).status_code == 200
    assert Client(REMOTE_ADDR="192.0.2.7").post(path, fields).status_code != 429


# --- Languages ----------------------------------------------------------------------------------
HEADINGS = {
    "de": "Löschung Ihrer personenbezogenen Daten beantragen",
    "en": "Ask us to erase your personal data",
    "es": "Pida que suprimamos sus datos personales",
    "fr": "effacement de vos données à caractère personnel",
    "it": "Chieda di cancellare i Suoi dati personali",
    "pl": "Wniosek o usunięcie danych osobowych",
}
PUBLIC = ["/", *(f"/erasure/new/{step}" for step in (*ANSWERS, "check")), "/erasure/confirm"]
PUBLIC += ["/erasure/confirmed", "/status", "/privacy", "/accessibility", "/nothing-here"]
PUBLIC += ["/transparency"]


@pytest.mark.parametrize("language", HEADINGS)
def test_language_is_chosen_by_its_own_name_without_script(client: Client, language: str) -> None:
    page = text(client.get("/"))
    name = dict(django_settings.LANGUAGES)[language]
    assert re.search(rf'value="{language}" lang="{language}"[^>]*>{name}</button>', page)
    response = client.post("/language", {"language": language, "next": "/privacy"})
    assert response.url == "/privacy"  # type: ignore[attr-defined]
    page = text(client.get("/"))
    assert f'<html lang="{language}">' in page
    assert HEADINGS[language] in page
    assert page.count('aria-current="true"') == 1


def test_language_switch_leads_to_no_other_site(client: Client) -> None:
    response = client.post("/language", {"language": "de", "next": "https://evil.example/"})
    assert response.url == "/"  # type: ignore[attr-defined]
    client.post("/language", {"language": "xx", "next": "/"})
    assert '<html lang="de">' in text(client.get("/"))


@pytest.mark.parametrize("language", [code for code in HEADINGS if code != "en"])
@pytest.mark.parametrize("path", PUBLIC)
def test_no_public_page_is_half_translated(client: Client, path: str, language: str) -> None:
    """Whatever both pages say alike is a name, a number or no word at all."""
    kept = re.compile(
        r"<code.*?</code>|<pre.*?</pre>|<form class=\"languages.*?</form>|<[^>]+>", re.S
    )
    pages = [
        {
            " ".join(line.split())
            for line in kept.sub(
                "\n", text(client.get(path, headers={"accept-language": code}))
            ).split("\n")
        }
        for code in ("en", language)
    ]
    controller = ("Example Controller", "controller.example", "Brussels", "Data Protection Auth")
    alike = [line for line in pages[0] & pages[1] if re.search(r"[a-z]{3} [a-z]", line)]
    assert [line for line in alike if not any(name in line for name in controller)] == []


@pytest.mark.parametrize("language", ["de", "pl"])
def test_errors_and_the_language_of_letters_follow_the_page(client: Client, language: str) -> None:
    client.post("/language", {"language": language})
    response = client.post("/erasure/new/name", {"name": "", "email": "no", "aliases": "x" * 201})
    page = text(response) + text(client.post("/erasure/new/email", {"email": "no"}))
    assert response.status_code == 422
    for english in (
        "Enter the name",
        "Enter an e-mail",
        "characters or fewer",
        "There is a problem",
    ):
        assert english not in page
    answer_all(client)
    check = text(client.get("/erasure/new/check"))
    assert dict(django_settings.LANGUAGES)[language] in check
    client.post("/erasure/new/check")
    case = Case.objects.get()
    assert case.language == language
    client.post("/language", {"language": "fr"})
    factories.letters.send_pending_codes()
    assert case.reference in str(factories.mail.outbox[-1].subject)
    assert "Your confirmation code" not in str(factories.mail.outbox[-1].body)


def test_status_page_follows_the_visitor_and_names_the_language_of_a_letter(
    client: Client,
) -> None:
    case = opened(client)
    page = text(client.get(f"/status/{case.reference}", headers={"accept-language": "fr"}))
    assert "Accusé de réception" in page
    assert '<span lang="en">English</span>' in page
    letter = case.letters.get()
    download = client.get(f"/status/{case.reference}/letters/{letter.pk}")
    assert download.headers["Content-Language"] == "en"
