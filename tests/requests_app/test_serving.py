"""Declared against observed: what serves another release than the one in force is shown."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from requests_app.models import Release, ServingProcess
from requests_app.services import serving
from requests_app.services.errors import Invalid
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def say(digest: str, *, process: str = "gateway-1", ago: float = 0) -> None:
    """A process says what it serves, that many seconds before now."""
    serving.note_served(process=process, kind="gateway", model_name="demo", digest=digest)
    at = timezone.now() - timedelta(seconds=ago)
    ServingProcess.objects.filter(process=process).update(seen_at=at)


def in_force(*, since: float = 600) -> Release:
    """A release of one case, live for that many seconds."""
    factories.responding_case()
    Release.objects.update(live_since=timezone.now() - timedelta(seconds=since))
    return Release.objects.get(is_live=True)


def test_another_release_than_the_one_in_force_differs() -> None:
    release = in_force()
    say(release.digest, process="gateway-1")
    say(factories.digest("old"), process="gateway-2")
    say("", process="gateway-3")
    found = {each.process: each.differs for each in serving.served("demo")}
    assert found == {"gateway-1": False, "gateway-2": True, "gateway-3": True}
    assert [row.process for row in serving.differing()] == ["gateway-2", "gateway-3"]


def test_the_base_alone_is_right_until_there_is_a_release() -> None:
    say("")
    assert not serving.differing()


@pytest.mark.parametrize(
    ("since", "ago", "differs"), [(30, 0, False), (600, 400, False), (90, 0, True)]
)
def test_a_change_takes_a_minute_and_the_silent_say_nothing(
    since: float, ago: float, differs: bool
) -> None:
    in_force(since=since)
    say(factories.digest("old"), ago=ago)
    assert bool(serving.differing()) is differs
    assert serving.served("demo")[0].is_silent is (ago > 300)


def test_a_process_has_one_row_a_model_and_yesterdays_go() -> None:
    say("")
    say(factories.digest("new"))
    assert ServingProcess.objects.get().digest == factories.digest("new")
    say("", process="yesterday", ago=2 * 86400)
    say("")
    assert ServingProcess.objects.get().process == "gateway-1"


@pytest.mark.parametrize(("kind", "digest"), [("router", ""), ("worker", "abc")])
def test_an_unknown_kind_or_digest_is_refused(kind: str, digest: str) -> None:
    with pytest.raises(Invalid):
        serving.note_served(process="p", kind=kind, model_name="demo", digest=digest)
