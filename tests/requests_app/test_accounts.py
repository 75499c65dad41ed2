"""Staff accounts: second factor, lockout, sessions, invitations, company log-in."""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import (
    TOTP,
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
)
from allauth.mfa.utils import decrypt
from allauth.socialaccount.models import SocialAccount
from django.conf import settings as django_settings
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from requests_app import middleware
from requests_app.models import AuditEntry, Invitation, StaffMember
from requests_app.models.people import Role
from requests_app.services import accounts
from requests_app.services.errors import CodeWrong, Invalid, NotAllowed, NotFound
from requests_app.tasks import purge_drafts
from rtbf.settings import company_log_in
from tests import factories
from tests.staff import as_staff, authenticate
from tests.threads import run_together

pytestmark = pytest.mark.django_db

PASSWORD = "password-for-tests"
NEW = "colleague.canary@controller.example"


@pytest.fixture
def administrator(db: None) -> StaffMember:
    return factories.make_staff(Role.ADMINISTRATOR)


def text(response: HttpResponse) -> str:
    return response.content.decode()


def log_in(client: Client, login: str, password: str = PASSWORD, **extra: str) -> HttpResponse:
    fields = {"login": login, "password": password}
    return client.post("/accounts/login/", fields, **extra)  # type: ignore[arg-type]


def is_in(client: Client) -> bool:
    return client.get("/app/releases").status_code == 200


def entries() -> list[dict[str, object]]:
    rows = AuditEntry.objects.filter(type__startswith="staff.").order_by("seq")
    return [json.loads(bytes(row.body)) for row in rows]


# --- Second factor --------------------------------------------------------------------------------
def code_now(secret: str) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30))


def test_with_totp_a_password_alone_opens_nothing_and_the_code_does(officer: StaffMember) -> None:
    secret = generate_totp_secret()
    TOTP.activate(officer, secret)
    client = Client()
    assert log_in(client, officer.username).url == reverse("mfa_authenticate")  # type: ignore[attr-defined]
    assert not is_in(client)
    wrong = client.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert "Incorrect code" in text(wrong)
    assert not is_in(client)
    client.post(reverse("mfa_authenticate"), {"code": code_now(secret)})
    assert is_in(client)


def test_secrets_of_second_factors_are_not_readable_in_the_database(officer: StaffMember) -> None:
    secret = generate_totp_secret()
    TOTP.activate(officer, secret)
    codes = RecoveryCodes.activate(officer).get_unused_codes()
    stored = str(list(Authenticator.objects.values_list("data", flat=True)))
    assert secret not in stored
    assert not [code for code in codes if code in stored]
    row = Authenticator.objects.get(type="totp")
    assert decrypt(row.data["secret"]) == secret


def test_a_recovery_code_works_once(officer: StaffMember) -> None:
    TOTP.activate(officer, generate_totp_secret())
    code = RecoveryCodes.activate(officer).get_unused_codes()[0]
    for tried in (True, False):
        client = Client()
        log_in(client, officer.username)
        client.post(reverse("mfa_authenticate"), {"code": code})
        assert is_in(client) is tried


def test_totp_is_set_up_by_its_page_and_recovery_codes_come_with_it(
    officer: StaffMember, settings: Settings
) -> None:
    settings.RTBF_REQUIRE_MFA = True
    client = as_staff(officer)
    page = text(client.get(reverse("mfa_activate_totp")))
    secret = re.search(r'value="([A-Z2-7]{32})"', page)
    assert secret is not None
    assert 'src="data:image/svg+xml' in page
    done = client.post(reverse("mfa_activate_totp"), {"code": code_now(secret[1])}, follow=True)
    assert done.status_code == 200
    assert re.search(r"\d{8}|[a-z0-9]{4,}-", text(done))
    assert is_in(client)
    types = set(Authenticator.objects.filter(user=officer).values_list("type", flat=True))
    assert types == {"totp", "recovery_codes"}


def test_without_a_second_factor_every_other_page_leads_to_setting_one_up(
    officer: StaffMember, settings: Settings
) -> None:
    settings.RTBF_REQUIRE_MFA = True
    client = as_staff(officer)
    case = factories.confirmed_case()
    closed = ["/", "/app/", "/app/cases", f"/app/cases/{case.reference}", "/app/not-there"]
    closed += ["/accounts/password/change/", "/accounts/email/", "/accounts/3rdparty/", "/healthz"]
    for path in closed:
        for response in (client.get(path), client.post(path)):
            assert response.url == reverse("mfa_index"), path  # type: ignore[attr-defined]
    for path in (reverse("mfa_index"), reverse("mfa_activate_totp"), reverse("mfa_add_webauthn")):
        assert client.get(path).status_code == 200, path
    RecoveryCodes.activate(officer)  # codes alone are no second factor
    assert client.get("/app/").url == reverse("mfa_index")  # type: ignore[attr-defined]
    client.post("/accounts/logout/")
    assert client.get("/").status_code == 200


def test_the_pages_of_the_second_factor_hold_no_script_of_their_own(officer: StaffMember) -> None:
    client = as_staff(officer)
    for name in ("mfa_index", "mfa_activate_totp", "mfa_add_webauthn"):
        page = text(client.get(reverse(name)))
        for attributes, body in re.findall(r"<script([^>]*)>(.*?)</script>", page, re.S):
            assert "src=" in attributes or 'type="application/json"' in attributes, name
            assert "src=" not in attributes or not body.strip()
        assert "style=" not in page, name
        assert not re.search(r"\son[a-z]+=", page), name


# --- Lockout, log-out, sessions -------------------------------------------------------------------
def test_an_account_is_closed_to_guessing_from_anywhere_after_five_tries(
    officer: StaffMember, approver: StaffMember
) -> None:
    for number in range(5):
        log_in(Client(), officer.username, "wrong", REMOTE_ADDR=f"198.51.100.{number}")
    client = Client()
    late = log_in(client, officer.username, REMOTE_ADDR="198.51.100.99")
    assert "Too many failed" in text(late)
    assert not is_in(client)
    other = Client()
    log_in(other, approver.username, REMOTE_ADDR="198.51.100.99")
    assert is_in(other)


def test_an_address_is_closed_after_ten_wrong_tries_whatever_the_account(
    officer: StaffMember,
) -> None:
    for number in range(10):
        log_in(Client(), f"nobody{number}", "wrong", REMOTE_ADDR="203.0.113.7")
    client = Client()
    assert "Too many failed" in text(log_in(client, officer.username, REMOTE_ADDR="203.0.113.7"))
    assert not is_in(client)
    log_in(client, officer.username, REMOTE_ADDR="203.0.113.8")
    assert is_in(client)


def test_a_log_in_takes_a_new_session_key_and_log_out_ends_it(officer: StaffMember) -> None:
    client = Client()
    client.get("/erasure/new/who")
    client.post("/erasure/new/who", {"who": "myself"})
    before = client.session.session_key
    log_in(client, officer.username)
    assert before
    assert client.session.session_key != before
    stolen = client.cookies["sessionid"].value
    assert "Log out?" in text(client.get("/accounts/logout/"))
    assert is_in(client)
    client.post("/accounts/logout/")
    client.cookies["sessionid"] = stolen
    assert not is_in(client)


@pytest.mark.parametrize(
    ("steps", "alive"),
    [
        ([59 * 60], True),
        ([60 * 60], False),
        ([50 * 60] * 14, True),  # 11 h 40 min, never idle
        ([50 * 60] * 15, False),  # 12 h 30 min, never idle
    ],
)
def test_a_session_ends_after_an_idle_hour_and_after_twelve(
    officer: StaffMember, monkeypatch: pytest.MonkeyPatch, steps: list[int], alive: bool
) -> None:
    client = as_staff(officer)
    assert is_in(client)
    now = time.time()
    for step in steps:
        now += step
        monkeypatch.setattr(middleware.time, "time", lambda at=now: at)
        response = client.get("/app/releases")
    assert (response.status_code == 200) is alive
    if not alive:
        assert response.url == "/accounts/login/?next=/app/releases"  # type: ignore[attr-defined]
        assert "your session had ended" in text(client.get(response.url))  # type: ignore[attr-defined]


def test_a_page_that_asks_by_itself_keeps_no_session_alive(
    officer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factories.executing_case().runs.get()
    client = as_staff(officer)
    assert is_in(client)
    start = time.time()
    for minutes in (30, 59):
        monkeypatch.setattr(middleware.time, "time", lambda m=minutes: start + m * 60)
        client.get(f"/app/runs/{run.pk}/progress", headers={"HX-Request": "true"})
    monkeypatch.setattr(middleware.time, "time", lambda: start + 61 * 60)
    assert not is_in(client)


def test_a_new_log_in_begins_the_time_anew(
    officer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = as_staff(officer)
    assert is_in(client)
    start = time.time()
    monkeypatch.setattr(middleware.time, "time", lambda: start + 13 * 3600)
    assert not is_in(client)
    log_in(client, officer.username)
    assert is_in(client)


def test_a_new_password_ends_all_other_sessions(officer: StaffMember) -> None:
    here, elsewhere = as_staff(officer), as_staff(officer)
    fields = {
        "oldpassword": PASSWORD,
        "password1": "another-long-word-7",
        "password2": "another-long-word-7",
    }
    here.post("/accounts/password/change/", fields)
    assert is_in(here)
    assert not is_in(elsewhere)


def test_one_query_more_than_the_page_itself(
    officer: StaffMember, settings: Settings, django_assert_max_num_queries: object
) -> None:
    client = as_staff(officer)
    TOTP.activate(officer, generate_totp_secret())
    assert is_in(client)
    counts = []
    for needed in (False, True):
        settings.RTBF_REQUIRE_MFA = needed
        with django_assert_max_num_queries(100) as seen:  # type: ignore[operator]
            client.get("/app/releases")
        counts.append(len(seen))
    assert counts[1] - counts[0] == 1


# --- Invitations ----------------------------------------------------------------------------------
def invited(client: Client, *, email: str = NEW, role: str = "officer") -> str:
    """Invite by the page; returns the code of the mail."""
    response = client.post("/app/staff/invite", {"email": email, "role": role})
    assert response.status_code == 302, text(response)
    found = re.search(r"^[0-9a-f-]{36}:\S+$", str(mail.outbox[-1].body), re.M)
    assert found is not None
    return found[0]


def joining(code: str, **changes: str) -> dict[str, str]:
    return {"code": code, "name": "Cora Canary", "password": "a-long-password-1", **changes}


def test_an_invited_colleague_joins_with_the_role_that_was_fixed(
    administrator: StaffMember,
) -> None:
    code = invited(as_staff(administrator), role="approver")
    (letter,) = mail.outbox
    assert letter.to == [NEW]
    link = re.search(r"http\S+", str(letter.body))
    assert link is not None
    assert link[0].endswith(
        "/accounts/invitation"
    )  # the same for everybody: nothing to leave in logs
    client = Client()
    assert client.get(urlsplit(link[0]).path).status_code == 200
    response = client.post("/accounts/invitation", joining(code, role="administrator"))
    assert response.url == reverse("mfa_index")  # type: ignore[attr-defined]
    member = StaffMember.objects.get(email=NEW)
    assert (member.role, member.get_full_name()) == (Role.APPROVER, "Cora Canary")
    assert is_in(client)
    assert client.get(reverse("mfa_activate_totp")).status_code == 200  # asks for no password again
    again = Client()
    log_in(again, NEW, "a-long-password-1")
    assert is_in(again)


def test_the_log_names_colleagues_by_pseudonym_alone(administrator: StaffMember) -> None:
    client = as_staff(administrator)
    Client().post("/accounts/invitation", joining(invited(client)))
    member = StaffMember.objects.get(email=NEW)
    client.post(reverse("staff_role", args=[member.pseudonym]), {"role": "auditor"})
    client.post(reverse("staff_deactivate", args=[member.pseudonym]))
    actor = f"administrator:{administrator.pseudonym}"
    who = str(member.pseudonym)
    assert [(e["type"], e["actor"], e["data"]) for e in entries()] == [
        ("staff.invited", actor, {"member": who, "role": "officer"}),
        ("staff.joined", f"officer:{who}", {"member": who, "role": "officer"}),
        ("staff.role_changed", actor, {"before": "officer", "member": who, "role": "auditor"}),
        ("staff.deactivated", actor, {"member": who, "role": "auditor"}),
    ]
    assert "canary" not in json.dumps(entries()).lower()


def test_an_invitation_holds_once_for_72_hours_and_only_as_it_was_signed(
    administrator: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = as_staff(administrator)
    code = invited(client)
    for wrong in (code[:-1] + ("A" if code[-1] != "A" else "B"), "nonsense", code.split(":")[0]):
        response = Client().post("/accounts/invitation", joining(wrong))
        assert response.status_code == 422
        assert "This code does not hold" in text(response)
    Invitation.objects.update(invited_at=factories.timezone.now() - timedelta(hours=72))
    assert Client().post("/accounts/invitation", joining(code)).status_code == 422
    code = invited(client)
    assert Client().post("/accounts/invitation", joining(f" {code}\n")).status_code == 302
    with pytest.raises(CodeWrong):
        accounts.join_staff(code=code, name="Twice", password="a-long-password-2")
    assert StaffMember.objects.filter(email=NEW).count() == 1


def test_a_withdrawn_or_replaced_invitation_opens_nothing(administrator: StaffMember) -> None:
    client = as_staff(administrator)
    first = invited(client)
    second = invited(client, role="auditor")
    invitation = Invitation.objects.get()
    assert NEW in text(client.get("/app/staff"))
    client.post(reverse("staff_withdraw", args=[invitation.pseudonym]))
    for code in (first, second):
        with pytest.raises(CodeWrong):
            accounts.join_staff(code=code, name="Late", password="a-long-password-1")
    assert not Invitation.objects.exists()
    with pytest.raises(NotFound):
        accounts.withdraw_invitation(pseudonym=invitation.pseudonym, actor_member=administrator)


def test_beat_forgets_addresses_of_invitations_that_lapsed(administrator: StaffMember) -> None:
    invited(as_staff(administrator))
    purge_drafts()
    assert Invitation.objects.exists()
    Invitation.objects.update(invited_at=factories.timezone.now() - timedelta(hours=73))
    purge_drafts()
    assert not Invitation.objects.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "short"}, "too short"),
        ({"password": "password123"}, "too common"),
        ({"name": " "}, "Enter your name"),
    ],
)
def test_what_a_colleague_leaves_out_is_said(
    administrator: StaffMember, changes: dict[str, str], words: str
) -> None:
    code = invited(as_staff(administrator))
    response = Client().post("/accounts/invitation", joining(code, **changes))
    assert response.status_code == 422
    assert words in text(response)
    assert Invitation.objects.exists()


def test_the_page_refuses_addresses_that_cannot_be_invited(
    administrator: StaffMember, officer: StaffMember
) -> None:
    client = as_staff(administrator)
    for email, role in (("nowhere", "officer"), (officer.email.upper(), "auditor"), (NEW, "king")):
        response = client.post("/app/staff/invite", {"email": email, "role": role})
        assert response.status_code == 422, email
    assert not mail.outbox
    assert not Invitation.objects.exists()
    with pytest.raises(Invalid):
        accounts.invite_member(email=NEW, role="king", actor_member=administrator)


def test_a_mail_that_cannot_be_sent_is_told(administrator: StaffMember, settings: Settings) -> None:
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    client = as_staff(administrator)
    response = client.post("/app/staff/invite", {"email": NEW, "role": "officer"}, follow=True)
    assert "could not be sent" in text(response)


def test_only_an_active_administrator_changes_accounts(
    administrator: StaffMember, officer: StaffMember, approver: StaffMember
) -> None:
    former = factories.make_staff(Role.ADMINISTRATOR, is_active=False)
    for actor in (officer, approver, former):
        with pytest.raises(NotAllowed):
            accounts.invite_member(email=NEW, role="officer", actor_member=actor)
        with pytest.raises(NotAllowed):
            accounts.change_role(pseudonym=officer.pseudonym, role="approver", actor_member=actor)
        with pytest.raises(NotAllowed):
            accounts.deactivate_member(pseudonym=approver.pseudonym, actor_member=actor)
    assert not entries()


def test_nobody_changes_their_own_role_and_the_last_administrator_stays(
    administrator: StaffMember,
) -> None:
    client = as_staff(administrator)
    own = administrator.pseudonym
    assert client.post(reverse("staff_role", args=[own]), {"role": "approver"}).status_code == 403
    assert client.post(reverse("staff_deactivate", args=[own])).status_code == 403
    administrator.refresh_from_db()
    assert (administrator.role, administrator.is_active) == (Role.ADMINISTRATOR, True)
    second = factories.make_staff(Role.ADMINISTRATOR)
    accounts.deactivate_member(pseudonym=own, actor_member=administrator)
    with pytest.raises(NotAllowed):
        accounts.deactivate_member(pseudonym=second.pseudonym, actor_member=second)


def test_a_deactivated_member_is_out_at_once_and_comes_back_only_by_invitation(
    administrator: StaffMember, officer: StaffMember
) -> None:
    theirs = as_staff(officer)
    assert is_in(theirs)
    client = as_staff(administrator)
    client.post(reverse("staff_deactivate", args=[officer.pseudonym]))
    assert not is_in(theirs)
    log_in(theirs, officer.username)
    assert not is_in(theirs)
    code = invited(client, email=officer.email, role="auditor")
    Client().post("/accounts/invitation", joining(code))
    again = StaffMember.objects.get(pk=officer.pk)
    assert (again.is_active, again.role, again.pseudonym) == (True, "auditor", officer.pseudonym)
    assert not is_in(theirs)


def test_accounts_need_a_fresh_log_in(administrator: StaffMember, officer: StaffMember) -> None:
    client = as_staff(administrator)
    authenticate(client, administrator, ago=301)
    for path in ("/app/staff/invite", reverse("staff_role", args=[officer.pseudonym])):
        response = client.post(path, {"role": "auditor", "email": NEW})
        assert response.url.startswith("/accounts/reauthenticate/")  # type: ignore[attr-defined]
    officer.refresh_from_db()
    assert officer.role == Role.OFFICER


def test_staff_change_no_address_by_themselves(officer: StaffMember) -> None:
    client = as_staff(officer)
    client.post("/accounts/email/", {"email": "else@where.example", "action_add": ""}, follow=True)
    officer.refresh_from_db()
    assert officer.email != "else@where.example"
    assert not log_in(Client(), "else@where.example").headers.get("Location")


# --- Company log-in -------------------------------------------------------------------------------
class Issuer(HTTPServer):
    """A company's OpenID Connect server on loopback; `person` is who is logged in there."""

    person: dict[str, object]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        url = self.server.url
        self._answer(
            {
                "issuer": url,
                "authorization_endpoint": f"{url}/authorize",
                "token_endpoint": f"{url}/token",
                "userinfo_endpoint": f"{url}/userinfo",
                "jwks_uri": f"{url}/keys",
            }
            if "well-known" in self.path
            else self.server.person
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        token: dict[str, object] = {"access_token": "t", "token_type": "Bearer"}
        if find_spec("jwt"):  # allauth reads identity tokens with it
            token["id_token"] = self._identity_token()
        self._answer(token)

    def _identity_token(self) -> str:
        """Fetched from the issuer itself: its claims are checked, its signature is not."""
        claims = {"iss": self.server.url, "aud": "client", "exp": int(time.time()) + 60}
        parts = [{"alg": "RS256", "kid": "k"}, {**claims, "iat": int(time.time()), "sub": "7"}]
        encoded = [urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
        return ".".join([*(part.rstrip("=") for part in encoded), "c2ln"])

    def _answer(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def issuer(settings: Settings) -> Iterator[Issuer]:
    server = Issuer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings.RTBF_OIDC_ISSUER = server.url
    settings.SOCIALACCOUNT_PROVIDERS = company_log_in(server.url, "client", "secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def company(client: Client, issuer: Issuer, **person: object) -> HttpResponse:
    """Press the button, come back from the issuer as `person`; returns the last page."""
    issuer.person = {"sub": "7", "email_verified": True, **person}
    page = text(client.get("/accounts/login/"))
    found = re.search(r'href="(/accounts/oidc/[^"]+)"', page)
    assert found is not None
    away = client.get(found[1])
    where = urlsplit(away.url)  # type: ignore[attr-defined]
    assert f"{where.scheme}://{where.netloc}" == issuer.url
    asked = parse_qs(where.query)
    assert asked["code_challenge_method"] == ["S256"]
    back = f"/accounts/oidc/company/login/callback/?code=c&state={asked['state'][0]}"
    return client.get(back, follow=True)


def test_the_company_log_in_lets_an_invited_colleague_in(
    issuer: Issuer, administrator: StaffMember
) -> None:
    Client().post("/accounts/invitation", joining(invited(as_staff(administrator))))
    client = Client()
    company(client, issuer, email=NEW)
    assert is_in(client)


def test_the_company_log_in_refuses_strangers_and_unverified_addresses(
    issuer: Issuer, officer: StaffMember, administrator: StaffMember
) -> None:
    invited(as_staff(administrator))  # invited, but the invitation was not taken up
    people: list[dict[str, object]] = [
        {"email": "stranger@controller.example"},
        {"email": officer.email, "email_verified": False},
        {"email": officer.email, "email_verified": "false"},
        {"email": NEW},
        {},
    ]
    before = StaffMember.objects.count()
    for person in people:
        client = Client()
        page = company(client, issuer, **person)
        assert "There is no account for you" in text(page), person
        assert not is_in(client)
    assert StaffMember.objects.count() == before


def test_the_company_log_in_still_asks_for_the_second_factor_and_for_an_active_account(
    issuer: Issuer, officer: StaffMember, approver: StaffMember
) -> None:
    TOTP.activate(officer, generate_totp_secret())
    client = Client()
    page = company(client, issuer, email=officer.email.upper())
    assert page.redirect_chain[-1][0] == reverse("mfa_authenticate")  # type: ignore[attr-defined]
    assert not is_in(client)
    StaffMember.objects.filter(pk=approver.pk).update(is_active=False)
    other = Client()
    company(other, issuer, email=approver.email, sub="8")
    assert not is_in(other)


def test_nobody_joins_another_company_account_to_their_own(
    issuer: Issuer, officer: StaffMember
) -> None:
    client = as_staff(officer)
    issuer.person = {"sub": "9", "email": "friend@where.example", "email_verified": True}
    away = client.post("/accounts/oidc/company/login/?process=connect")
    state = parse_qs(urlsplit(away.url).query)["state"][0]  # type: ignore[attr-defined]
    page = client.get(f"/accounts/oidc/company/login/callback/?code=c&state={state}")
    assert "There is no account for you" in text(page)
    assert not SocialAccount.objects.exists()


def test_the_company_log_in_is_off_unless_it_is_set() -> None:
    assert not django_settings.RTBF_OIDC_ISSUER
    client = Client()
    assert "/accounts/oidc/" not in text(client.get("/accounts/login/"))
    assert client.get("/accounts/oidc/company/login/").status_code == 404
    with pytest.raises(ImproperlyConfigured, match="RTBF_OIDC_SECRET"):
        company_log_in("https://login.example", "client", None)


# --- Two at once ----------------------------------------------------------------------------------
@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_who_paste_one_code_at_once_make_one_account(administrator: StaffMember) -> None:
    invitation = accounts.invite_member(email=NEW, role="officer", actor_member=administrator)
    code = accounts.SIGNER.sign(str(invitation.pk))
    came: list[str] = []

    def take_up() -> None:
        try:
            accounts.join_staff(code=code, name="Cora", password="a-long-password-1")
        except CodeWrong:
            came.append("late")
        else:
            came.append("in")

    run_together(take_up, 2)
    assert sorted(came) == ["in", "late"]
    assert StaffMember.objects.filter(email=NEW).count() == 1


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_administrators_who_deactivate_each_other_at_once_leave_one(db: None) -> None:
    pair = [factories.make_staff(Role.ADMINISTRATOR) for _ in range(2)]
    turns = iter([(pair[0], pair[1]), (pair[1], pair[0])])

    def deactivate() -> None:
        actor, other = next(turns)
        with suppress(NotAllowed, NotFound):
            accounts.deactivate_member(pseudonym=other.pseudonym, actor_member=actor)

    run_together(deactivate, 2)
    assert StaffMember.objects.filter(role=Role.ADMINISTRATOR, is_active=True).count() == 1
