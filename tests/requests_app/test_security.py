"""What holds for every page: headers, forged forms, rows of others, answers that tell nothing.

docs/threat-model.md names these tests beside the threats that they answer.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from collections.abc import Callable

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.cache import cache
from django.http import HttpResponseBase
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from requests_app import urls
from requests_app.models import Case, StaffMember
from requests_app.models.people import Role
from requests_app.permissions import PAGES
from requests_app.services import recipients
from rtbf.stack import BASE_DIR
from tests import factories
from tests.staff import as_staff, page_addresses

pytestmark = pytest.mark.django_db

STREAMS = frozenset({"run_stream"})  # never end by themselves
OPEN_PATHS = ("/", "/status", "/erasure/confirm", "/transparency", "/privacy", "/accounts/login/")
OTHER_PATHS = ("/healthz", "/readyz", "/nothing", "/api/openapi.json", "/api/nothing", "/api/cases")
LEAST, MOST = 0.5, 2.0
"""Bounds of a ratio of times; skipping the password's hash would be a factor of ten and more."""


# --- Headers --------------------------------------------------------------------------------------
def lacking(response: HttpResponseBase) -> list[str]:
    """What a response lacks of the headers that each has."""
    sent = response.headers
    policy = sent.get("Content-Security-Policy", "")
    wanted = {
        "policy": "default-src 'none'" in policy and "unsafe" not in policy,
        "frames": "frame-ancestors 'none'" in policy and sent.get("X-Frame-Options") == "DENY",
        "sniffing": sent.get("X-Content-Type-Options") == "nosniff",
        "referrer": sent.get("Referrer-Policy") == "same-origin",
        "opener": sent.get("Cross-Origin-Opener-Policy") == "same-origin",
        "stored": re.search("no-store|no-cache", sent.get("Cache-Control", "")) is not None,
        "found": "noindex" in sent.get("X-Robots-Tag", ""),
    }
    return [name for name, holds in wanted.items() if not holds]


@pytest.mark.parametrize("path", [*OPEN_PATHS, *OTHER_PATHS])
def test_every_answer_to_strangers_has_the_headers(client: Client, path: str) -> None:
    assert lacking(client.get(path)) == []


def test_every_answer_to_staff_has_the_headers_refusals_too() -> None:
    addresses = page_addresses(factories.completed_case())
    officer = as_staff(factories.make_staff(Role.OFFICER))
    for name in addresses.keys() - STREAMS:
        assert lacking(officer.get(addresses[name])) == [], name


# --- Forged forms ---------------------------------------------------------------------------------
def test_no_page_takes_a_post_without_its_token() -> None:
    """As staff of each role, and as a stranger at the public pages."""
    case = factories.completed_case()
    paths = page_addresses(case)
    public = {
        str(page.name): reverse(
            str(page.name),
            kwargs={
                key: {"reference": case.reference, "step": "who", "letter_id": 1, "size": 1}[key]
                for key in page.pattern.converters
            },
        )
        for page in urls.urlpatterns
        if not str(page.pattern).startswith("app/")
    }
    browser = Client(enforce_csrf_checks=True)
    log_in = {"login": "/accounts/login/", "reset": "/accounts/password/reset/"}
    for name, path in {**public, **log_in}.items():
        assert browser.post(path).status_code == 403, name
    for role in (Role.APPROVER, Role.ADMINISTRATOR):
        browser.force_login(factories.make_staff(role))
        for name, path in {**paths, "logout": "/accounts/logout/"}.items():
            assert browser.post(path).status_code == 403, name


def test_a_session_of_staff_opens_no_call_of_the_api() -> None:
    """Else a forged form could make one: these calls carry no token."""
    officer = as_staff(factories.make_staff(Role.OFFICER))
    assert officer.get("/api/cases").status_code == 401
    assert officer.post("/api/opendsr/requests", {}, "application/json").status_code == 401


# --- Rows of another case -------------------------------------------------------------------------
def two_cases() -> tuple[Case, Case]:
    recipients.save_recipient(
        data=recipients.RecipientData(
            name="Vendor", kind="processor", how="mail", email="dsr@vendor.example"
        ),
        actor_member=factories.make_staff(Role.OFFICER),
    )
    return factories.executing_case(), factories.executing_case()


def test_no_role_reaches_a_letter_or_a_notice_through_another_case() -> None:
    ours, theirs = two_cases()
    foreign = {"letter_id": theirs.letters.get().pk, "notice_id": theirs.notices.get().pk}
    pages = [
        page
        for page in urls.urlpatterns
        if page.name in PAGES
        and "reference" in page.pattern.converters
        and foreign.keys() & page.pattern.converters.keys()
    ]
    assert {page.name for page in pages} >= {"case_letter", "case_letter_sent", "notice_text"}
    for role in Role:
        client = as_staff(factories.make_staff(role))
        if role in PAGES["case_reveal"]:
            client.post(f"/app/cases/{ours.reference}/reveal", {"reason": "decision", "text": ""})
        for page in pages:
            known = {"reference": ours.reference, **foreign}
            kwargs = {key: known[key] for key in page.pattern.converters}
            path = reverse(str(page.name), kwargs=kwargs)
            for response in (client.get(path), client.post(path, {"action": "sent"})):
                allowed = {404, 405} if role in PAGES[str(page.name)] else {403}
                assert response.status_code in allowed, (role, page.name)
    theirs.refresh_from_db()
    assert theirs.letters.get().sent_at is None
    assert theirs.notices.get().state == "to_send"


def test_the_status_session_of_one_case_opens_nothing_of_another() -> None:
    opened = factories.open_case()
    factories.mailed_code(opened.case.reference)
    theirs = factories.executing_case()
    client = Client()
    posted = {"reference": opened.case.reference, "access_code": opened.access_code}
    assert client.post("/status", posted).status_code == 302
    assert client.get(f"/status/{opened.case.reference}").status_code == 200
    letter = theirs.letters.get().pk
    endings = ("", f"/letters/{letter}", "/receipt", "/receipt.json", "/withdraw")
    for ending in endings:
        response = client.get(f"/status/{theirs.reference}{ending}")
        assert response.status_code == 302, ending
        assert response.url == reverse("status_lookup")  # type: ignore[attr-defined]
    assert client.get(f"/status/{opened.case.reference}/letters/{letter}").status_code == 404
    client.post(f"/status/{theirs.reference}/withdraw")
    theirs.refresh_from_db()
    assert theirs.withdrawn_at is None


# --- Answers that tell nothing --------------------------------------------------------------------
def told(response: HttpResponseBase) -> tuple[int, str]:
    """Status and page, without what was typed and the token against forged forms."""
    page = getattr(response, "content", b"").decode()
    return response.status_code, re.sub(r'value="[^"]*"|nonce="[^"]*"', "", page)


def ratio(one: Callable[[], object], other: Callable[[], object], *, pairs: int) -> float:
    """Median over interleaved pairs of how much longer the first takes."""
    ratios = []
    for _ in range(pairs):
        seconds = []
        for call in (one, other):
            cache.clear()  # the limits on tries
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def test_the_status_look_up_does_not_tell_which_references_exist(client: Client) -> None:
    known = factories.open_case().case.reference

    def look_up(reference: str) -> HttpResponseBase:
        typed = {"reference": reference, "access_code": "AAAA-AAAA-AAAA-AAAA"}
        return client.post("/status", typed)

    assert told(look_up(known)) == told(look_up("ERQ-2020-999999"))
    found = ratio(lambda: look_up(known), lambda: look_up("ERQ-2020-999999"), pairs=15)
    assert LEAST < found < MOST


@pytest.mark.parametrize("path", ["/erasure/confirm", "/erasure/resend"])
def test_a_code_that_is_wrong_or_asked_for_does_not_tell_which_references_exist(path: str) -> None:
    known = factories.open_case().case.reference
    answers = [
        told(Client().post(path, {"reference": each, "code": "AAAA-AAAA"}, follow=True))
        for each in (known, "ERQ-2020-999999")
    ]
    assert answers[0] == answers[1]


def test_a_new_password_that_is_asked_for_does_not_tell_which_accounts_exist() -> None:
    member = factories.make_staff(Role.OFFICER)
    member.email = "ana@controller.example"
    member.save()
    answers = [
        told(Client().post("/accounts/password/reset/", {"email": each}, follow=True))
        for each in (member.email, "nobody@controller.example")
    ]
    assert answers[0] == answers[1]


class QuickPBKDF2(PBKDF2PasswordHasher):
    """The hasher of an installation with fewer rounds: some ten milliseconds."""

    iterations = 30_000


def test_the_log_in_does_not_tell_which_accounts_exist(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = [f"{__name__}.QuickPBKDF2"]
    member: StaffMember = factories.make_staff(Role.OFFICER)
    client = Client()

    def log_in(name: str) -> HttpResponseBase:
        return client.post("/accounts/login/", {"login": name, "password": "a wrong one"})

    assert told(log_in(member.username)) == told(log_in("nobody"))
    found = ratio(lambda: log_in(member.username), lambda: log_in("nobody"), pairs=7)
    assert LEAST < found < MOST


# --- The repository -------------------------------------------------------------------------------
SECRETS = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}|\bxox[abpr]-[0-9A-Za-z-]{20}|\bsk-[A-Za-z0-9]{32}"
    rb"|AGE-SECRET-KEY-1[0-9A-Z]{58}|\bhf_[A-Za-z0-9]{34}\b|\bglpat-[\w-]{20}"
)


def test_the_patterns_find_keys() -> None:
    examples = [
        b"-----BEGIN " + b"PRIVATE KEY-----\n" + b"A" * 40,
        b"AKIA" + b"A" * 16,
        b"ghp_" + b"a" * 36,
        b"hf_" + b"a" * 34,
    ]
    assert all(SECRETS.search(each) for each in examples)


def test_no_tracked_file_holds_a_key() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=BASE_DIR, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this is no checkout")
    paths = [BASE_DIR / name for name in done.stdout.decode().split("\0") if name]
    assert len(paths) > 100
    files = [path for path in paths if path.is_file() and path.stat().st_size < 2_000_000]
    assert [path.name for path in files if SECRETS.search(path.read_bytes())] == []
    kept = re.compile(r"\.(pem|key|p12|pfx)$|(^|/)\.env$")
    assert [str(path) for path in paths if kept.search(str(path))] == []
