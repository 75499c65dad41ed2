"""Spans and error events tell what the code is called and how it went, and nothing of anybody."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import sentry_sdk
from django.test import Client
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_django.fixtures import Settings
from sentry_sdk.transport import Transport

from requests_app.services.errors import WrongState
from requests_app.tasks import send_letters
from rtbf import telemetry
from rtbf.stack import BASE_DIR

CANARY = "Zorah Quillfeather"


@pytest.fixture
def exporter(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What would have gone to the collector, in memory."""
    kept = InMemorySpanExporter()
    settings.RTBF_OTEL_ENDPOINT = "http://127.0.0.1:1"
    monkeypatch.setattr(telemetry, "exporter_of_spans", lambda: kept)
    telemetry.spans.cache_clear()
    yield kept
    telemetry.spans().shutdown()
    telemetry.spans.cache_clear()


def sent(exporter: InMemorySpanExporter) -> list[Any]:
    telemetry.spans().force_flush()
    return list(exporter.get_finished_spans())


@pytest.mark.django_db
def test_a_page_is_a_span_with_its_route_and_nothing_that_was_asked(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(raise_request_exception=False, headers={"user-agent": CANARY})
    client.get("/status/zorah-quillfeather", {"q": CANARY})
    client.get(f"/nothing/{CANARY}")
    client.post("/erasure/new/name", {"name": CANARY, "aliases": ""})
    client.generic("ZORAH", "/privacy")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("requests_app.views.public.render", fail)
    client.get("/privacy")
    told = [(each.name, dict(each.attributes)) for each in sent(exporter)]
    assert told[0] == (
        "page status/<slug:reference>",
        {
            "http.request.method": "GET",
            "http.route": "status/<slug:reference>",
            "http.response.status_code": 302,
        },
    )
    assert [each["http.response.status_code"] for _, each in told] == [302, 404, 302, 405, 500]
    assert told[3][1]["http.request.method"] == telemetry.OTHER
    everything = "".join(each.to_json() for each in exporter.get_finished_spans()).lower()
    assert "zorah" not in everything
    assert "quillfeather" not in everything


@pytest.mark.django_db
def test_a_task_is_a_span_with_its_name_and_without_its_words(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_letters()

    def fail() -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr("requests_app.services.letters.send_pending_codes", fail)
    with pytest.raises(RuntimeError):
        send_letters()
    told = [(each.name, dict(each.attributes)) for each in sent(exporter)]
    name = "requests_app.send_letters"
    assert told == [
        (f"task {name}", {"messaging.operation.name": name}),
        (f"task {name}", {"messaging.operation.name": name, "error.type": "RuntimeError"}),
    ]
    assert CANARY not in "".join(each.to_json() for each in exporter.get_finished_spans())


def test_a_call_of_the_gateway_is_a_span_with_a_known_path_and_its_status(
    exporter: InMemorySpanExporter,
) -> None:
    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": CANARY.encode()})

    answered: list[Any] = []

    async def send(event: Any) -> None:
        answered.append(event)

    async def call() -> None:
        traced = telemetry.traced_gateway(gateway, {"/v1/completions"})
        for path in ("/v1/completions", f"/v1/models/{CANARY}"):
            scope = {"type": "http", "method": "POST", "path": path, "query_string": CANARY}
            await traced(scope, None, send)
        await traced({"type": "lifespan"}, None, send)

    asyncio.run(call())
    assert len(answered) == 6
    assert [dict(each.attributes)["http.route"] for each in sent(exporter)] == [
        "/v1/completions", telemetry.OTHER,
    ]  # fmt: skip
    assert {dict(each.attributes)["http.response.status_code"] for each in sent(exporter)} == {200}
    assert CANARY not in "".join(each.to_json() for each in exporter.get_finished_spans())


def test_what_is_not_listed_is_told_by_no_span(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(KeyError), telemetry.span("page") as told:
        told["url.full"] = CANARY
    assert sent(exporter) == []


def test_without_an_address_there_are_no_spans_and_nothing_is_imported() -> None:
    code = (
        "import django, sys; django.setup(); from rtbf import telemetry\n"
        "with telemetry.span('page'): pass\n"
        "assert telemetry.spans() is None\n"
        "print([each for each in sys.modules if each.startswith(('opentelemetry', 'sentry_sdk'))])"
    )
    done = run_alone(code, {})
    assert done.stdout.strip() == "[]", done.stderr


def test_asked_for_without_the_packages_the_log_says_so_and_all_goes_on() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = sys.modules['sentry_sdk'] = None\n"
        "import django; django.setup(); from rtbf import telemetry\n"
        "with telemetry.span('page'): print('served')"
    )
    asked = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "RTBF_SENTRY_DSN": "http://key@127.0.0.1:1/1",
    }
    done = run_alone(code, asked)
    assert done.stdout.strip() == "served", done.stderr
    assert "No spans are sent" in done.stderr
    assert "No errors are sent" in done.stderr


def run_alone(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "RTBF_SENTRY"))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, capture_output=True, text=True, check=False,
        env=inherited | {"DJANGO_SETTINGS_MODULE": "rtbf.settings"} | env,
    )  # fmt: skip


# --- Sentry ---------------------------------------------------------------------------------------
class Kept(Transport):
    """Sends nothing; keeps what would have been sent, byte for byte."""

    sent: list[bytes]

    def capture_envelope(self, envelope: Any) -> None:
        self.sent.append(envelope.serialize())


@pytest.fixture
def sentry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    settings.RTBF_SENTRY_DSN = "http://key@127.0.0.1:1/1"
    monkeypatch.setattr(sys, "argv", ["manage.py", CANARY])
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    sent: list[bytes] = []
    kind = type("Kept", (Kept,), {"sent": sent})
    telemetry.start_sentry(transport=kind)
    yield sent
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def events(sent: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(each.split(b"\n")[2]) for each in sent]


@pytest.mark.django_db
def test_a_failing_page_is_an_event_of_kinds_and_places_without_what_was_asked(
    sentry: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentry_sdk.set_user({"username": CANARY})
    sentry_sdk.set_tag("who", CANARY)
    sentry_sdk.set_extra("who", CANARY)
    sentry_sdk.add_breadcrumb(message=CANARY)
    logging.getLogger("requests_app").warning("About %s", CANARY)

    def fail(*_: object, **__: object) -> None:
        person = CANARY
        try:
            raise ValueError(person)
        except ValueError as error:
            raise WrongState("The case is sealed.") from error

    monkeypatch.setattr("requests_app.views.public.render", fail)
    client = Client(raise_request_exception=False, headers={"user-agent": CANARY})
    client.cookies["name"] = "Zorah"
    assert client.get("/privacy", {"q": CANARY}).status_code == 500
    (event,) = events(sentry)
    inner, outer = event["exception"]["values"]
    assert (inner["type"], inner["value"]) == ("ValueError", "")
    assert (outer["type"], outer["value"]) == ("WrongState", "The case is sealed.")
    assert outer["stacktrace"]["frames"][-1]["function"] == "fail"
    assert event["logger"] == "django.request"
    assert not event.keys() & {"user", "tags", "extra", "request", "breadcrumbs", "contexts"}
    assert b"zorah" not in b"".join(sentry).lower()
    assert b"quillfeather" not in b"".join(sentry).lower()


def test_an_error_that_is_logged_keeps_its_ids_alone(sentry: list[bytes]) -> None:
    case = uuid4()
    logging.getLogger("requests_app").error(
        "Letter of %s for %s", case, CANARY, extra={"person": CANARY}
    )
    logging.getLogger("elsewhere").error(CANARY)
    ours, other = events(sentry)
    assert ours["logentry"] == {"message": f"Letter of {case} for […]"}
    assert CANARY.encode() not in b"".join(sentry)
    assert other["logentry"]["message"].startswith("[…] (")


def test_what_ends_a_process_is_an_event_without_its_words(sentry: list[bytes]) -> None:
    try:
        raise RuntimeError(CANARY)
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)
    (event,) = events(sentry)
    assert event["exception"]["values"][0]["type"] == "RuntimeError"
    assert b"Zorah" not in b"".join(sentry)


def test_without_an_address_nothing_is_started(settings: Settings) -> None:
    settings.RTBF_SENTRY_DSN = ""
    before = list(logging.getLogger().handlers)
    telemetry.start_sentry()
    assert logging.getLogger().handlers == before
    assert not sentry_sdk.get_client().is_active()
