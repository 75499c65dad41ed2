"""Every test runs on an installation of its own: keys, artefacts, mail, cache and queue."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.test import TestCase, TransactionTestCase
from hypothesis import settings as property_settings
from pytest_django.fixtures import Settings

from requests_app.models import StaffMember
from requests_app.models.people import Role
from rtbf import celery_app
from tests import factories
from tests.append_last import appended_last
from tests.append_only import triggers_dropped

# How long an example takes says how busy the machine is, not whether the property holds.
property_settings.register_profile("untimed", deadline=None)
property_settings.load_profile("untimed")

# The machine is busy with tests: a worker that gives way to them would let its lease run out.
os.environ.setdefault("RTBF_WORKER_NICE", "0")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SQLite as a file, as in an installation, so that threads meet real locks."""
    database = django_settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        folder = tmp_path_factory.mktemp("database")
        database.setdefault("TEST", {})["NAME"] = str(folder / "test.sqlite3")


@pytest.fixture(autouse=True, scope="session")
def _flush_may_empty_the_log() -> Iterator[None]:
    """Transactional tests flush all tables afterwards; only then do the triggers step aside."""
    teardown = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]

    def with_triggers_dropped(self: TransactionTestCase) -> None:
        if isinstance(self, TestCase):
            teardown(self)
            return
        with triggers_dropped():
            teardown(self)

    patch = pytest.MonkeyPatch()
    patch.setattr(TransactionTestCase, "_fixture_teardown", with_triggers_dropped)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def vault_keys(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key folder of its own; returns it."""
    monkeypatch.delenv("RTBF_KEK", raising=False)
    settings.RTBF_PRODUCTION = False
    settings.RTBF_KEY_DIR = tmp_path / "keys"
    return tmp_path / "keys"


@pytest.fixture(autouse=True)
def installation(settings: Settings, tmp_path: Path) -> Iterator[None]:
    """Everything else that an installation sets: folders, models, controller, mail, cache."""
    settings.RTBF_VAR_DIR = tmp_path
    settings.STATIC_ROOT = str(tmp_path)
    settings.RTBF_SIGNER_DIR = tmp_path / "signer"
    settings.RTBF_CHECKPOINT_FILE = tmp_path / "checkpoint"
    settings.RTBF_ADAPTER_DIR = tmp_path / "adapters"
    settings.RTBF_RELEASE_DIR = tmp_path / "releases"
    settings.RTBF_MODELS = ["demo"]
    settings.RTBF_WORKER_MODELS = []
    settings.RTBF_HOLIDAY_COUNTRY = "BE"
    settings.RTBF_LOG_ORIGIN = "rtbf.example/log/test"
    settings.RTBF_DEMO_DATA = True
    settings.RTBF_REQUIRE_MFA = False
    settings.RTBF_LEASE_SECONDS = 60
    settings.RTBF_MAX_LEASES = 3
    settings.RTBF_CODE_MAILS_PER_DAY = 1000  # the same few people ask in every test
    settings.RTBF_WITNESSES = {}
    settings.RTBF_OUTGOING_CA = settings.RTBF_OPENDSR_KEY = settings.RTBF_OPENDSR_CERTIFICATE = ""
    settings.RTBF_TSA_URL = settings.RTBF_TSA_CERTIFICATE = settings.RTBF_CHECKPOINT_MAIL = ""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(autouse=True)
def queue_messages() -> Callable[[str], list[dict[str, Any]]]:
    """Celery on kombu's in-memory broker; call it with a queue's name to take its messages."""
    celery_app.conf.broker_url = "memory://"
    for queue in ("legal", "model"):
        factories.take_messages(queue)
    return factories.take_messages


@pytest.fixture
def entries_last(db: None) -> Iterator[None]:
    """For modules of services: what they append comes last (`tests.append_last`)."""
    with appended_last():
        yield


def _staff(role: Role) -> Callable[[Any], StaffMember]:
    @pytest.fixture(name=role.value)
    def member(db: None) -> StaffMember:
        return factories.make_staff(role)

    return member


intake_clerk = pytest.fixture(name="intake_clerk")(lambda db: factories.make_staff(Role.INTAKE))
officer = _staff(Role.OFFICER)
approver = _staff(Role.APPROVER)
engineer = _staff(Role.ENGINEER)
auditor = _staff(Role.AUDITOR)
