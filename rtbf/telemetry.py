"""Spans for OpenTelemetry and errors for Sentry: off unless asked for, and neither names anybody.

A span of a page, a task or a call of the gateway holds what ATTRIBUTES lists and nothing else:
names that stand in our code, a status, the class of an error, and how long it took. No address, no
query, no header, no argument; no context comes in from outside, none goes into the queue. An event
for Sentry is made anew of what the log would say (`rtbf.scrubbing`): kinds and places of
exceptions, never variables, source lines, requests, users or breadcrumbs. The packages of
requirements-telemetry.txt are optional; where one is asked for without them, the log says so.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from rtbf.scrubbing import OURS, message, one_line

log = logging.getLogger(__name__)

ATTRIBUTES = {
    "http.request.method": frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}),
    "http.route": None,  # the pattern in our code, never the path that was asked for
    "http.response.status_code": None,
    "messaging.operation.name": None,  # the task
    "messaging.destination.name": frozenset({"legal", "model"}),
    "error.type": None,
}
"""What a span may hold; None where the value stands in code, else the values there are."""
OTHER = "_OTHER"
STANDARD = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Told = dict[str, str | int]
Asgi = Callable[[Mapping[str, Any], Any, Any], Awaitable[None]]


# --- Spans ----------------------------------------------------------------------------------------
@contextmanager
def span(kind: str) -> Iterator[Told]:
    """Time what is done within; yields what is told of it, by the keys of ATTRIBUTES."""
    told: Told = {}
    provider = spans()
    if provider is None:
        yield told
        return
    began = time.time_ns()
    try:
        yield told
    except BaseException as error:
        told["error.type"] = type(error).__qualname__
        raise
    finally:
        name = told.get("messaging.operation.name") or told.get("http.route")
        made = provider.get_tracer("rtbf").start_span(
            f"{kind} {name}" if name else kind, start_time=began, attributes=_allowed(told)
        )
        made.end()


@contextmanager
def task_span(name: str, queue: str | None) -> Iterator[None]:
    """A span of a task; its arguments are not told."""
    with span("task") as told:
        told["messaging.operation.name"] = name
        if queue:
            told["messaging.destination.name"] = queue
        yield


def traced(get_response: Callable[[HttpRequest], HttpResponse]) -> Any:
    """Middleware: a span of each page, named by its route."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with span("page") as told:
            response = get_response(request)
            found = request.resolver_match
            told["http.request.method"] = request.method or ""
            told["http.route"] = found.route if found is not None else ""
            told["http.response.status_code"] = response.status_code
        return response

    return middleware


def traced_gateway(gateway: Asgi, paths: Collection[str]) -> Asgi:
    """A span of each call of the gateway, until the end of its answer; only `paths` are named."""

    async def called(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await gateway(scope, receive, send)
            return
        with span("gateway") as told:
            told["http.request.method"] = str(scope["method"])
            told["http.route"] = scope["path"] if scope["path"] in paths else OTHER

            async def noted(event: Mapping[str, Any]) -> None:
                if event["type"] == "http.response.start":
                    told["http.response.status_code"] = int(event["status"])
                await send(event)

            await gateway(scope, receive, noted)

    return called


def _allowed(told: Told) -> Told:
    """Raises KeyError for what no span may hold."""
    return {
        key: value if (known := ATTRIBUTES[key]) is None or value in known else OTHER
        for key, value in told.items()
    }


@cache
def spans() -> Any:
    """The provider of spans, which sends them in batches; None where nobody asked for spans."""
    if not wanted():
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = exporter_of_spans()
    except ImportError:
        log.warning("No spans are sent: the packages of requirements-telemetry.txt are missing.")
        return None
    service = os.environ.get("OTEL_SERVICE_NAME", "rtbf")
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def wanted() -> bool:
    """Whether an address for spans is set, ours or a standard one."""
    return bool(settings.RTBF_OTEL_ENDPOINT or any(os.environ.get(name) for name in STANDARD))


def exporter_of_spans() -> Any:
    """OTLP over HTTP, to RTBF_OTEL_ENDPOINT or where the standard variables say."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if settings.RTBF_OTEL_ENDPOINT:
        return OTLPSpanExporter(endpoint=f"{settings.RTBF_OTEL_ENDPOINT.rstrip('/')}/v1/traces")
    return OTLPSpanExporter()


# --- Errors ---------------------------------------------------------------------------------------
def start_sentry(**options: Any) -> None:
    """Send what is logged as an error, and what ends a process, to RTBF_SENTRY_DSN if that is set.

    `options` go to `sentry_sdk.init`: a transport of the tests.
    """
    if not settings.RTBF_SENTRY_DSN:
        return
    try:
        import sentry_sdk
        from sentry_sdk.integrations.excepthook import ExcepthookIntegration
        from sentry_sdk.integrations.logging import EventHandler
    except ImportError:
        log.warning("No errors are sent: the packages of requirements-telemetry.txt are missing.")
        return
    sentry_sdk.init(
        dsn=settings.RTBF_SENTRY_DSN,
        environment=settings.RTBF_ENVIRONMENT or "production",
        before_send=scrubbed_event,
        default_integrations=False,  # they read requests, arguments, headers and the command line
        auto_enabling_integrations=False,
        integrations=[ExcepthookIntegration()],
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        send_client_reports=False,
        **options,
    )
    logging.getLogger().addHandler(EventHandler(level=logging.ERROR))
    atexit.register(sentry_sdk.flush, timeout=2.0)


def scrubbed_event(event: Mapping[str, Any], hint: Mapping[str, Any]) -> Any:
    """The event made anew, of nothing but ids, times, names of code and scrubbed words."""
    kept = ("event_id", "timestamp", "platform", "level", "environment", "server_name")
    found: dict[str, Any] = {key: event[key] for key in kept if key in event}
    if record := hint.get("log_record"):
        found["logger"] = record.name
        found["logentry"] = {"message": message(record)}
    errors = (event.get("exception") or {}).get("values") or []
    if errors:
        found["exception"] = {"values": [_error(each) for each in errors]}
    return found


def _error(told: Mapping[str, Any]) -> dict[str, Any]:
    kind, module = told.get("type"), str(told.get("module") or "")
    frames = (told.get("stacktrace") or {}).get("frames") or []
    keys = ("filename", "module", "function", "lineno", "in_app")
    return {
        "type": kind,
        "module": module,
        "value": one_line(str(told.get("value", ""))) if module.split(".")[0] in OURS else "",
        "stacktrace": {"frames": [{k: each[k] for k in keys if k in each} for each in frames]},
    }
