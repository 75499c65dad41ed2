"""Health, readiness, metrics and log lines: enough for who operates it, nothing for strangers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from celery import current_app
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app.models import AuditEntry, Letter
from requests_app.services import wake
from rtbf import celery_app, health, metrics
from rtbf.cache import JsonSerializer
from rtbf.scrubbing import ScrubbedJson
from tests import factories
from tests.json_values import json_values
from workers import tasks as worker_tasks

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TOKEN = {"Authorization": "Bearer of-the-operator"}
SERIES = re.compile(r'rtbf_[a-z_]+(\{[a-z]+="[a-z_]+"\})? -?[0-9.e+-]+')


@pytest.fixture(autouse=True)
def _fresh(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RTBF_METRICS_TOKEN = "of-the-operator"
    monkeypatch.setattr(health, "_migrated", set())


# --- Ready ----------------------------------------------------------------------------------------
def away(*_: object) -> str:
    raise DatabaseError("connection refused at 10.0.0.7")


def no_database(settings: Settings, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(health, "why_not_served", away)


def no_broker(settings: Settings, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(celery_app.conf, "broker_url", "redis://127.0.0.1:1/0")


def a_migration_missing(settings: Settings, patch: pytest.MonkeyPatch) -> None:
    last = MigrationRecorder(connection).migration_qs.filter(app="requests_app").last()
    assert last is not None
    last.delete()


def no_folder(settings: Settings, patch: pytest.MonkeyPatch) -> None:
    settings.RTBF_VAR_DIR = Path("/proc/nowhere")


BROKEN: dict[str, Callable[[Settings, pytest.MonkeyPatch], None]] = {
    "database": no_database,
    "broker": no_broker,
    "migrations": a_migration_missing,
    "storage": no_folder,
}


def test_an_installation_that_has_all_it_needs_is_ready(client: Client) -> None:
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (200, b"ready\n")
    assert client.get("/healthz").content == b"ok\n"
    assert client.post("/readyz").status_code == 405


@pytest.mark.parametrize("missing", BROKEN)
def test_what_is_missing_makes_it_not_ready_and_only_the_operator_learns_what(
    missing: str, client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(BROKEN) == set(health.CHECKS)
    BROKEN[missing](settings, monkeypatch)
    response = client.get("/readyz")
    assert (response.status_code, response.content) == (503, b"not ready\n")
    told = client.get("/readyz", headers=TOKEN)
    assert (told.status_code, told.content) == (503, f"not ready: {missing}\n".encode())
    settings.RTBF_METRICS_TOKEN = ""
    for header in ({}, TOKEN, {"Authorization": "Bearer "}):
        assert client.get("/readyz", headers=header).content == b"not ready\n"


# --- Metrics --------------------------------------------------------------------------------------
def figures(client: Client) -> dict[str, float]:
    page = client.get("/metrics", headers=TOKEN).content.decode()
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    assert all(SERIES.fullmatch(line) for line in lines), page
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


def test_metrics_are_for_who_has_the_token(client: Client, settings: Settings) -> None:
    for header in (
        {},
        {"Authorization": "Bearer guess"},
        {"Authorization": "Basic of-the-operator"},
    ):
        assert client.get("/metrics", headers=header).status_code == 401
    assert client.get("/metrics", headers=TOKEN).status_code == 200
    settings.RTBF_METRICS_TOKEN = ""
    for header in (TOKEN, {"Authorization": "Bearer "}):
        assert client.get("/metrics", headers=header).status_code == 404


def test_metrics_count_what_an_operator_watches_and_name_nobody(client: Client) -> None:
    assert figures(client)["rtbf_log_entries"] == AuditEntry.objects.count()
    case = factories.executing_case()
    factories.due_on(factories.confirmed_case(), timezone.localdate() - timedelta(days=1))
    factories.open_case()
    Letter.objects.filter(case=case).update(tries=20)
    wake.note_seen("legal")
    found = figures(client)
    assert found['rtbf_cases{status="executing"}'] == 1
    assert found["rtbf_cases_overdue"] == 1
    assert found['rtbf_runs{state="queued"}'] == 1
    assert 0 <= found['rtbf_queue_oldest_seconds{queue="run"}'] < 60
    assert found['rtbf_waiting{kind="code"}'] == 1
    assert found['rtbf_stuck{kind="letter"}'] == 1
    assert found["rtbf_log_entries_unsigned"] == found["rtbf_log_entries"] > 0
    assert 0 <= found['rtbf_worker_seen_seconds{queue="legal"}'] < 60
    assert 'rtbf_worker_seen_seconds{queue="model"}' not in found  # unknown is not nought
    assert "rtbf_checkpoint_age_seconds" not in found
    page = client.get("/metrics", headers=TOKEN).content.decode()
    assert not [canary for canary in (*factories.CANARIES, "ERQ-", str(case.pk)) if canary in page]


def test_metrics_of_many_cases_take_as_many_queries() -> None:
    made = []
    for cases in (1, 3):
        for _ in range(cases):
            factories.executing_case()
        with CaptureQueriesContext(connection) as queries:
            metrics.read()
        made.append(len(queries))
    assert made[0] == made[1] <= 30


def test_a_worker_that_takes_up_a_message_is_seen_at_its_queue() -> None:
    assert wake.last_seen("model") is None
    task = worker_tasks.note_alive
    task.push_request(delivery_info={"routing_key": "model"})
    try:
        task()
    finally:
        task.pop_request()
    assert wake.last_seen("model") is not None
    task()  # without a message nobody is seen
    assert wake.last_seen("legal") is None
    assert current_app.conf.beat_schedule["note-alive"]["options"]["queue"] == "model"


# --- The cache and the log ------------------------------------------------------------------------
@property_settings(max_examples=40)
@given(
    json_values(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        st.text(),
        max_leaves=8,
    )
)
def test_what_lies_in_the_cache_comes_back_and_is_never_unpickled(value: object) -> None:
    stored = JsonSerializer().dumps(value)
    raw = str(stored).encode() if isinstance(stored, int) else stored
    assert JsonSerializer().loads(raw) == value


def test_a_pickle_in_the_cache_is_refused() -> None:
    with pytest.raises(ValueError, match=r".*"):
        JsonSerializer().loads(b"\x80\x05\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.")


def test_a_json_line_says_what_the_plain_one_says() -> None:
    try:
        raise ValueError(factories.NAME)
    except ValueError as problem:
        info = (type(problem), problem, problem.__traceback__)
    record = logging.LogRecord(
        "requests_app.x",
        logging.ERROR,
        "p.py",
        7,
        "Case %s of %s",
        ("ERQ-2026-000123", "Zelda"),
        info,
    )
    line = ScrubbedJson().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert set(told) == {"time", "level", "logger", "message", "error"}
    assert told["message"] == "Case ERQ-2026-000123 of […]"
    assert told["error"].endswith("builtins.ValueError")
    assert told["time"].endswith("+00:00")
    assert factories.NAME not in line
