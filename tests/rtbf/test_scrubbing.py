"""No log line holds a text that somebody else wrote."""

from __future__ import annotations

import logging
import sys
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.services.errors import WrongState
from requests_app.tasks import send_letters
from rtbf import celery_app
from rtbf.scrubbing import HARMLESS, HIDDEN, Scrubbed, one_line

CANARY = "Zorah Quillfeather"


def formatted(name: str, msg: object, *args: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord(name, logging.INFO, "place.py", 7, msg, args, info)
    return Scrubbed().format(record)


def test_ids_references_numbers_and_task_names_are_kept() -> None:
    case = uuid4()
    line = formatted("requests_app.letters", "Code of %s %s not mailed.", case, "ERQ-2026-000123")
    assert f"Code of {case} ERQ-2026-000123 not mailed." in line
    received = {"name": "requests_app.send_letters", "id": str(case)}
    line = formatted("celery.worker.strategy", "Task %(name)s[%(id)s] received", received)
    assert f"Task requests_app.send_letters[{case}] received" in line


@given(text=st.text(min_size=4, max_size=60))
def test_no_other_text_passes_from_any_logger(text: str) -> None:
    if HARMLESS.fullmatch(text) or text in "INFO place.py" or not one_line(text):
        return
    marked = f"<{text}>"
    for name in ("requests_app.x", "django.request", "celery.worker", "elsewhere"):
        assert one_line(marked) not in formatted(name, "About %s", marked)
        assert one_line(marked) not in formatted(name, "About %r", [marked])
        assert one_line(marked) not in formatted(name, "About %(who)s", {"who": marked})
    for name in ("elsewhere", "django.request"):
        assert one_line(marked) not in formatted(name, marked)


def test_what_cannot_be_filled_in_names_its_place_only() -> None:
    assert f"{HIDDEN} (place:7)" in formatted("requests_app", "%d of %s", CANARY, CANARY)


def test_an_exception_is_told_by_types_and_places_and_only_ours_by_its_words() -> None:
    try:
        try:
            raise ValueError(CANARY)
        except ValueError as problem:
            raise WrongState("The case is sealed.") from problem
    except WrongState as error:
        line = formatted("django.request", "Failed: %s", CANARY, error=error)
    assert CANARY not in line
    assert "builtins.ValueError" in line
    assert "WrongState: The case is sealed." in line
    assert "tests/rtbf/test_scrubbing.py" in line


def test_a_line_stays_one_line() -> None:
    assert "\n" not in formatted("requests_app", "first\nsecond")


@pytest.mark.django_db
def test_a_path_and_a_failing_page_leave_no_text_in_the_log(
    client: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.test import Client

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Scrubbed())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        asked = Client(raise_request_exception=False)
        assert asked.get("/status/zorah-quillfeather").status_code in {302, 404}
        assert asked.get("/nothing/Zorah").status_code == 404

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(CANARY)

        monkeypatch.setattr("requests_app.views.public.render", fail)
        assert asked.get("/privacy").status_code == 500
    finally:
        root.removeHandler(handler)
    written = capsys.readouterr().err
    assert "builtins.RuntimeError" in written
    assert "zorah" not in written.lower()


@pytest.mark.parametrize(
    "args, kwargs", [([CANARY], {}), ([str(uuid4())], {"name": CANARY}), ([7], {})]
)
def test_the_queue_takes_ids_alone(
    args: list[object], kwargs: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_letters, "typing", False)
    with pytest.raises(ValueError, match="only ids"):
        send_letters.apply_async(args=args, kwargs=kwargs)
    with pytest.raises(ValueError, match="only ids"):
        celery_app.send_task("requests_app.send_letters", args=args, kwargs=kwargs)
