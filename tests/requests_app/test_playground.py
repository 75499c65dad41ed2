"""The playground asks the gateway, shows what acted, and keeps nothing."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pytest_django.fixtures import Settings

from requests_app.models import AuditEntry, StaffMember
from tests.staff import as_staff

pytestmark = pytest.mark.django_db
QUESTION = "Where does Anna Berger live?"
DIGEST, RELEASE = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def key(settings: Settings) -> None:
    settings.RTBF_GATEWAY_KEY = "the playground's own key"
    settings.RTBF_GATEWAY_URL = "http://gateway.example"


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[dict[str, Any]]:
    """A gateway that gives this answer; returns what it is asked."""
    asked: list[dict[str, Any]] = []

    def post(url: str, **given: Any) -> httpx.Response:
        asked.append({"url": url, **given})
        if isinstance(answer, Exception):
            raise answer
        status, data = answer
        return httpx.Response(status, json=data)

    monkeypatch.setattr("requests_app.views.playground.httpx.post", post)
    return asked


ANSWER = {
    "choices": [{"message": {"content": "I do not know <that>."}}],
    "rtbf": {
        "release": RELEASE,
        "strengths": {DIGEST: 0.82},
        "compared": {"original": "In Lyon.", "control": None},
    },
}


def test_an_engineer_sees_the_answer_what_acted_and_what_others_say(
    engineer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, (200, ANSWER))
    browser = as_staff(engineer)
    assert "id_question" in browser.get("/app/playground").content.decode()
    page = browser.post(
        "/app/playground",
        {"model": "demo", "question": QUESTION, "beside": ["original", "control"]},
    ).content.decode()
    assert "I do not know &lt;that&gt;." in page
    assert DIGEST in page
    assert "82 %" in page
    assert "In Lyon." in page
    assert "Not at hand" in page
    (call,) = asked
    assert call["url"] == "http://gateway.example/v1/chat/completions"
    assert call["headers"] == {"Authorization": "Bearer the playground's own key"}
    assert call["json"]["messages"] == [{"role": "user", "content": QUESTION}]


def test_its_use_is_logged_without_the_question(
    engineer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, (200, ANSWER))
    as_staff(engineer).post("/app/playground", {"model": "demo", "question": QUESTION})
    entry = AuditEntry.objects.get(type="playground.asked")
    said = json.loads(bytes(entry.body))["data"]
    assert said | {"at": ""} == {
        "model": "demo", "release": RELEASE, "fired": [DIGEST], "beside": [], "at": "",
    }  # fmt: skip
    assert b"Berger" not in bytes(entry.body)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.ConnectError("refused"), "manage.py gateway --model demo"),
        ((503, {"error": {}}), "status 503"),
    ],
)
def test_a_gateway_that_does_not_answer_is_told_so_and_nothing_is_logged(
    engineer: StaffMember, monkeypatch: pytest.MonkeyPatch, answer: Any, words: str
) -> None:
    answering(monkeypatch, answer)
    page = as_staff(engineer).post("/app/playground", {"model": "demo", "question": QUESTION})
    assert words in page.content.decode()
    assert not AuditEntry.objects.filter(type="playground.asked").exists()


def test_without_a_key_the_playground_says_what_to_set(
    engineer: StaffMember, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RTBF_GATEWAY_KEY = ""
    assert not answering(monkeypatch, (200, ANSWER))
    page = as_staff(engineer).post("/app/playground", {"model": "demo", "question": QUESTION})
    assert "RTBF_GATEWAY_KEY" in page.content.decode()


def test_it_is_for_engineers_alone(officer: StaffMember) -> None:
    assert as_staff(officer).get("/app/playground").status_code == 403
    assert as_staff(officer).post("/app/playground", {}).status_code == 403
