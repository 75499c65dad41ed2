"""A sample is made by the real services, once, and its record verifies."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import (
    Case,
    ErasureRun,
    LegalHold,
    Letter,
    Mandate,
    Recheck,
    Recipient,
    Restriction,
    Suspension,
)
from requests_app.models.record import Channel
from requests_app.models.runs import Verdict
from rtbf.sample import ENDINGS
from tests import factories

CASES = len(ENDINGS) + 8


@pytest.mark.django_db(transaction=True)
def test_a_sample_has_everything_that_pages_show_and_verifies(settings: Settings) -> None:
    settings.RTBF_LEASE_SECONDS = 60
    out = StringIO()
    call_command("sample", "--cases", str(CASES), "--json", stdout=out)
    found = json.loads(out.getvalue())
    checked = audit.verify_log()
    assert (found["cases"], found["entries"]) == (CASES, checked.entries)
    assert checked.cases == Case.objects.count() == CASES

    now, today = timezone.now(), timezone.localdate()
    assert {*Case.objects.values_list("status", flat=True)} == set(CaseStatus)
    assert {*ErasureRun.objects.values_list("state", flat=True)} == set(RunState)
    verdicts = {Verdict.WITHIN, Verdict.NOT_MET, Verdict.INCONCLUSIVE}
    assert {*ErasureRun.objects.values_list("verdict", flat=True)} >= verdicts
    assert {*Case.objects.values_list("channel", flat=True)} == set(Channel) - {Channel.API}
    assert Case.objects.values("language").distinct().count() > 3
    assert Case.objects.values("jurisdiction").distinct().count() > 1
    open_cases = Case.objects.filter(completed_at=None, withdrawn_at=None, sealed_at=None)
    assert open_cases.filter(due__lt=today).exists()
    assert Case.objects.exclude(extended_on=None).exists()
    for model in (LegalHold, Mandate, Recheck, Recipient, Restriction, Suspension):
        assert model.objects.exists(), model
    assert Letter.objects.exclude(bounced_at=None).exists()
    assert Case.objects.filter(received_at__lt=now - timedelta(days=200)).exists()
    assert not Case.objects.filter(received_at__gt=now).exists()
    assert settings.RTBF_MODELS == ["demo"]
    assert timezone.now() >= now

    with pytest.raises(CommandError, match="append-only"):
        call_command("sample", "--cases", "1")
    assert Case.objects.count() == CASES


@pytest.mark.django_db
@pytest.mark.parametrize("change", [{"RTBF_PRODUCTION": True}, {"RTBF_DEMO_DATA": False}])
def test_no_sample_where_real_cases_would_be(settings: Settings, change: dict[str, bool]) -> None:
    for name, value in change.items():
        setattr(settings, name, value)
    with pytest.raises(CommandError, match="not for made-up cases"):
        call_command("sample", "--cases", "1")
    assert not Case.objects.exists()


@pytest.mark.django_db
def test_no_sample_beside_a_case() -> None:
    factories.open_case()
    with pytest.raises(CommandError, match="append-only"):
        call_command("sample", "--cases", "1")
