"""Ten thousand hostile inputs: no fault, a plain answer, nothing echoed raw, told or lost.

The seeded generator mixes lengths, encodings, lone surrogates, NUL, header injection, script,
template syntax, bidirectional controls and huge counts. Of the 10,000, 1,500 are whole requests
through Django's test client (odd content types and doubled fields among them), 300 go to the
service that opens cases, and 8,200 to the form classes, since a whole request takes milliseconds.
"""

from __future__ import annotations

import html
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from django.core import mail
from django.core.cache import cache
from django.forms import Form
from django.test import Client
from django.utils import timezone
from django.utils.datastructures import MultiValueDict
from pytest_django.fixtures import Settings

from requests_app import vault
from requests_app.actors import SUBJECT
from requests_app.forms import (
    ConfirmForm,
    EmailForm,
    MessageForm,
    NameForm,
    ReferenceForm,
    StatusForm,
    WhatForm,
    WhoForm,
)
from requests_app.models import Case, Draft, StaffMember
from requests_app.services import intake, letters
from requests_app.services.errors import ServiceError
from requests_app.views.holds import HoldForm
from requests_app.views.recipients import RecipientForm, WaiveForm
from requests_app.views.step_forms import FactsForm, IdentityForm, NewCaseForm, ReturnForm
from tests import factories

SEED = 20261125
REQUESTS, SERVICES, FORMS = 1500, 300, 8200
PAYLOADS = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</textarea><svg onload=alert(1)>",
    "javascript:alert(1)//",
    "{{ settings.SECRET_KEY }}{% load x %}{% debug %}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "{0.__class__.__mro__} %s%n%(x)s",
    "x\r\nBcc: victim@mailbox.example\r\n\r\nbody",
    "victim@mailbox.example\nBcc: other@mailbox.example",
    "victim@mailbox.example,other@mailbox.example",
    '"a\\"b"@mailbox.example',
    "a@" + "b" * 300 + ".example",
    "' OR 1=1; DROP TABLE requests_app_case; --",
    "../../../../etc/passwd\x00.txt",
    "\x00\x01\x08\x1b[31m\x7f\x85",
    "\ud800\udfff\udc00",
    "\u202egnp.exe\u202c\u2066\u2069\u200b\ufeff",
    "Z\u0351\u0321\u0489" * 60,
    "\U0001f9d1\u200d\U0001f4bb\U0010ffff\ufffe",
    "\u0660\u0661\u0662-\uff10\uff11",
    "ERQ-2026-000001",
    "erq-2026-000001\x00",
    "AAAA-AAAA-AAAA-AAAA",
    "=cmd|' /C calc'!A0",
    "999999999999999999999999",
    "2026-02-30",
    "0000-00-00",
    "",
    " \t\r\n",
)
FIELDS = (
    "who",
    "name",
    "email",
    "aliases",
    "systems",
    "message",
    "reference",
    "code",
    "access_code",
    "received_on",
    "channel",
    "region",
    "facts",
    "reason",
    "until",
    "method",
    "note",
    "cause",
    "kind",
    "how",
    "endpoint",
    "on_behalf",
    "step",
)
KNOWN_FORMS: tuple[type[Form], ...] = (
    WhoForm,
    NameForm,
    EmailForm,
    WhatForm,
    MessageForm,
    ConfirmForm,
    ReferenceForm,
    StatusForm,
    NewCaseForm,
    IdentityForm,
    FactsForm,
    HoldForm,
    ReturnForm,
    RecipientForm,
    WaiveForm,
)
PUBLIC = (
    "/erasure/new/who",
    "/erasure/new/name",
    "/erasure/new/email",
    "/erasure/new/what",
    "/erasure/new/message",
    "/erasure/new/check",
    "/erasure/confirm",
    "/erasure/resend",
    "/status",
)
STAFF = ("/app/cases/new", "/app/recipients/new")


def hostile(rng: random.Random) -> str:
    """One hostile text: a payload, glued, repeated, cut, or of random characters."""
    kind = rng.randrange(6)
    if kind < 3:
        return rng.choice(PAYLOADS)
    if kind == 3:
        return "".join(rng.choice(PAYLOADS) for _ in range(rng.randrange(1, 5)))
    if kind == 4:
        return rng.choice(("A", "<", "\n", "é", "\u202e", "a\n", "\x00")) * rng.choice(
            (1, 199, 200, 201, 254, 2000, 2001, 20_000)
        )
    points = (rng.randrange(0x110000) for _ in range(rng.randrange(1, 40)))
    return "".join(map(chr, points))


def fields(rng: random.Random) -> list[tuple[str, str]]:
    """Some fields, some of them more than once."""
    return [(rng.choice(FIELDS), hostile(rng)) for _ in range(rng.randrange(1, 9))]


def encoded(pairs: list[tuple[str, str]]) -> bytes:
    """As a form, lone surrogates and all."""
    return "&".join(
        f"{name}={quote_from_bytes(value.encode('utf-8', 'surrogatepass'))}"
        for name, value in pairs
    ).encode()


def request_of(rng: random.Random) -> tuple[bytes, str]:
    """A body and its content type; one in four is not what it says."""
    pairs = fields(rng)
    form = "application/x-www-form-urlencoded"
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(400)), form
    if kind == 1:
        return encoded(pairs), rng.choice(("application/json", "text/xml", "a/b; charset=\x80", ""))
    if kind == 2:
        return b"--x\r\nContent-Disposition: form-data; name=" + rng.randbytes(40), (
            rng.choice(("multipart/form-data; boundary=x", "multipart/form-data", form))
        )
    if kind == 3 and rng.randrange(4) == 0:
        return encoded([("systems", "model")] * 1500), form
    if kind == 4:
        return b"%zz%u0000&&=&;" + encoded(pairs), f"{form}; charset=utf-7"
    return encoded(pairs), form


@pytest.fixture(autouse=True)
def _fresh_limits() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def somewhere(rng: random.Random) -> str:
    return ".".join(str(rng.randrange(1, 255)) for _ in range(4))


def assert_plain(response: Any, body: bytes) -> None:
    """No fault, a page in plain words, and nothing of the input in it that a browser would run."""
    assert response.status_code in {200, 302, 400, 403, 404, 409, 410, 413, 422}, response
    if response.status_code == 302:
        assert response.url.startswith("/")
        return
    text = response.content.decode()
    assert "Traceback" not in text
    assert response.headers["Content-Type"].startswith("text/html")
    assert re.search(r"<h1[ >]|<title>", text)
    for raw in ("<script>alert", "<img src=x", "<svg onload", "<%= 7*7", "</textarea><svg"):
        assert raw not in text
    assert "javascript:alert" not in re.sub(r">[^<]*<|value=\"[^\"]*\"", "", text)
    assert not any(name.lower() == "bcc" for name in response.headers)


@pytest.mark.django_db
def test_hostile_requests_get_plain_answers(intake_clerk: StaffMember) -> None:
    rng = random.Random(SEED)  # noqa: S311
    visitor, clerk = Client(), Client()
    clerk.force_login(intake_clerk)
    opened = Case.objects.count()
    for number in range(REQUESTS):
        path = rng.choice(PUBLIC if number % 5 else STAFF)
        client = clerk if path in STAFF else visitor
        body, kind = request_of(rng)
        response = client.generic("POST", path, body, kind, REMOTE_ADDR=somewhere(rng))
        assert_plain(response, body)
    assert Case.objects.count() == opened  # none of it was a whole request
    letters.send_pending_codes()
    assert mail.outbox == []


def test_hostile_values_meet_words_in_every_form() -> None:
    rng = random.Random(SEED + 1)  # noqa: S311
    for number in range(FORMS):
        kind = KNOWN_FORMS[number % len(KNOWN_FORMS)]
        names = list(kind.base_fields)
        data: MultiValueDict[str, str] = MultiValueDict()
        for _ in range(rng.randrange(1, 2 * len(names) + 1)):
            data.appendlist(rng.choice(names), hostile(rng))
        form = kind(data)
        if form.is_valid():
            continue
        for messages in form.errors.values():
            assert all(message.strip() and len(message) < 300 for message in messages)
            said = html.unescape(str(messages))
            assert not re.search(r"<(script|img|svg)", said)


@pytest.mark.django_db
def test_hostile_intakes_open_a_clean_case_or_are_refused() -> None:
    rng = random.Random(SEED + 2)  # noqa: S311
    opened = refused = 0
    said = ""
    for _ in range(SERVICES):
        given = factories.make_intake(
            name=hostile(rng) if rng.randrange(3) else factories.NAME,
            email=hostile(rng) if rng.randrange(3) == 0 else factories.EMAIL,
            aliases=tuple(hostile(rng) for _ in range(rng.choice((0, 1, 3, 25)))),
            message=hostile(rng),
            scope=(hostile(rng),) if rng.randrange(4) == 0 else (),
        )
        try:
            case = intake.open_case(
                intake=given, received_at=timezone.now(), channel="form", actor=SUBJECT
            ).case
        except ServiceError as problem:
            refused += 1
            said += str(problem)
        else:
            opened += 1
            name = vault.get(case, "name")
            assert name == " ".join(given.name.split())
            assert not re.search("[\x00-\x1f\ud800-\udfff]", name)
    assert opened > 10
    assert refused > 10
    assert not any(len(payload) > 9 and payload in said for payload in PAYLOADS)
    letters.send_pending_codes()
    for sent in mail.outbox:  # no header of a mail came from a form
        message = sent.message()
        assert message["Bcc"] is None
        assert len(message.get_all("To")) == len(sent.to) == 1


def page(client: Client, path: str, form: dict[str, str], *, address: str) -> tuple[int, str]:
    """Status and text of the answer, without the token and without what was asked."""
    response = client.post(path, form, REMOTE_ADDR=address, follow=True)
    text = re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", response.content.decode())
    return response.status_code, text.replace(html.escape(form["reference"]), "REFERENCE")


@pytest.mark.django_db
def test_no_answer_tells_whether_a_case_exists() -> None:
    rng = random.Random(SEED + 3)  # noqa: S311
    known = factories.open_case().case.reference
    done = factories.confirmed_case().reference
    for _ in range(60):
        code = hostile(rng).encode("utf-8", "replace").decode()
        code = code.replace("ERQ", "QRE")  # or the page would name the known one
        for path in ("/erasure/confirm", "/erasure/resend", "/status"):
            answers = [
                page(
                    Client(),
                    path,
                    {"reference": reference, "code": code, "access_code": code},
                    address=somewhere(rng),
                )
                for reference in (known, done, "ERQ-2026-999999")
            ]
            assert answers[0] == answers[1] == answers[2], path


@pytest.mark.django_db
def test_a_valid_draft_survives_what_is_thrown_at_it() -> None:
    rng = random.Random(SEED + 4)  # noqa: S311
    client = Client()
    client.post("/erasure/new/who", {"who": "myself"})
    client.post("/erasure/new/name", {"name": factories.NAME, "aliases": factories.ALIAS})
    client.post("/erasure/new/email", {"email": factories.EMAIL})
    draft = Draft.objects.get()
    before = vault.load_draft(draft.pk)
    for _ in range(150):
        step = rng.choice(("who", "name", "email", "what"))
        pairs = [("who", hostile(rng)), ("email", "\x00" + hostile(rng)), ("systems", "\x00")]
        response = client.generic(
            "POST",
            f"/erasure/new/{step}",
            encoded(pairs),
            "application/x-www-form-urlencoded",
            REMOTE_ADDR=somewhere(rng),
        )
        assert response.status_code in (400, 422)
    assert vault.load_draft(draft.pk) == before
    assert client.post("/erasure/new/what", {"systems": "model"}).status_code == 302
    assert client.post("/erasure/new/message").status_code == 302
    assert client.post("/erasure/new/check").status_code == 302
    assert vault.get(Case.objects.get(), "name") == factories.NAME


@pytest.mark.django_db
def test_one_address_is_limited_and_one_mailbox_is_not_flooded(settings: Settings) -> None:
    settings.RTBF_CODE_MAILS_PER_DAY = 3
    rng = random.Random(SEED + 5)  # noqa: S311
    codes = [
        Client().post("/status", {"reference": "x"}, REMOTE_ADDR="192.0.2.1").status_code
        for _ in range(40)
    ]
    assert codes.count(429) == 20
    for _ in range(12):  # from everywhere, for one victim
        client, address = Client(REMOTE_ADDR=somewhere(rng)), factories.EMAIL
        client.post("/erasure/new/who", {"who": "myself"})
        client.post("/erasure/new/name", {"name": "A"})
        client.post("/erasure/new/email", {"email": address})
        client.post("/erasure/new/what", {"systems": "model"})
        client.post("/erasure/new/message")
        assert client.post("/erasure/new/check").status_code == 302
    letters.send_pending_codes()
    assert len(mail.outbox) == 3
    assert Case.objects.count() == 12  # nothing is dropped
