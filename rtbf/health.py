"""`/healthz`, `/readyz`, `/metrics`: whether this installation lives, can serve, and how it fares.

Strangers learn yes or no. Whoever brings RTBF_METRICS_TOKEN as a bearer token learns which check of
`/readyz` fails, and reads `/metrics` (`metrics`); without a token set there are no metrics.
"""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from kombu.exceptions import OperationalError

from requests_app.services.restoring import why_not_served
from rtbf import metrics
from rtbf.celery import app

logger = logging.getLogger(__name__)
BROKER_SECONDS = 2
_migrated: set[str] = set()  # this process saw all migrations applied; none is ever taken back


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """This web process answers, and its database holds what was signed last. No details."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        problem = why_not_served()
    except DatabaseError:
        return HttpResponse("database not reachable\n", status=503, content_type="text/plain")
    if problem:
        return HttpResponse("record not current\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """All that serving needs is there: 200, or 503. Meant for a load balancer, each few seconds."""
    failing = [name for name, holds in CHECKS.items() if not holds()]
    if failing:
        logger.warning("Not ready: %d of %d checks fail.", len(failing), len(CHECKS))
    words = "not ready" if failing else "ready"
    told = f"{words}: {', '.join(failing)}\n" if failing and has_token(request) else f"{words}\n"
    return HttpResponse(told, status=503 if failing else 200, content_type="text/plain")


@require_safe
def metrics_page(request: HttpRequest) -> HttpResponse:
    """Counts for Prometheus; 404 where no token is set, 401 without it."""
    if not settings.RTBF_METRICS_TOKEN:
        raise Http404
    if not has_token(request):
        return HttpResponse("unauthorised\n", status=401, content_type="text/plain")
    return HttpResponse(metrics.exposition(metrics.read()), content_type=metrics.CONTENT_TYPE)


def has_token(request: HttpRequest) -> bool:
    """Whether the request brings RTBF_METRICS_TOKEN."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = settings.RTBF_METRICS_TOKEN
    return bool(expected) and kind == "Bearer" and constant_time_compare(token, expected)


# --- What serving needs -------------------------------------------------------------------------
def database_is_current() -> bool:
    """The database answers, and holds what was signed last."""
    try:
        return not why_not_served()
    except DatabaseError:
        return False


def migrations_are_applied() -> bool:
    try:
        if not _migrated:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return False
            _migrated.add("all")
    except DatabaseError:
        return False
    return True


def broker_answers() -> bool:
    limits = {"socket_connect_timeout": BROKER_SECONDS, "socket_timeout": BROKER_SECONDS}
    try:
        with app.connection_for_write(transport_options=limits) as broker:
            broker.ensure_connection(max_retries=1, interval_start=0)
    except OperationalError:
        return False
    return True


def storage_is_writable() -> bool:
    try:
        with tempfile.TemporaryFile(dir=Path(settings.RTBF_VAR_DIR)) as file:
            file.write(b"ready")
    except OSError:
        return False
    return True


CHECKS: dict[str, Callable[[], bool]] = {
    "database": database_is_current,
    "migrations": migrations_are_applied,
    "broker": broker_answers,
    "storage": storage_is_writable,
}
