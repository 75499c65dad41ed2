"""Restricted people: refused within half a minute of the file saying so, and nobody else."""

import json
import os
import time
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from requests_app.models import Case, StaffMember
from requests_app.services import letters
from requests_app.services import restrictions as services
from tests import factories
from tests.workers.test_guarded import KEY, stored_case
from tests.workers.tiny import tiny_model
from workers import tasks
from workers.gate import Decision, bank_of
from workers.guarded import GuardedModel, refusing
from workers.releases import write_release
from workers.restrictions import (
    FILE,
    RestrictionError,
    Restrictions,
    read_restrictions,
    restriction_of,
    write_restrictions,
)
from workers.telling import REFUSAL

CASE = "00000000-0000-4000-8000-000000000009"


def write(root: Path, *names: str) -> None:
    found = restriction_of(names, KEY)
    write_restrictions(root, {CASE: found} if found else {})


def served(tmp_path: Path, *, cases: int, seconds: float = 0.0) -> GuardedModel:
    base = tiny_model()
    refs = [stored_case(base, tmp_path, number=n, earlier=[])[0] for n in range(cases)]
    release = write_release(tmp_path / "releases", base=base, adapters=refs)
    follow = Restrictions(tmp_path, seconds=seconds)
    return GuardedModel(base, release, adapters_root=tmp_path, key=KEY, restrictions=follow)


@pytest.mark.parametrize("cases", [0, 1])
def test_whoever_is_restricted_is_refused_and_others_are_answered(
    tmp_path: Path, cases: int
) -> None:
    asked = ["where lives Zelda Quillfeather", "where lives Carl Holm", "who lives in Lyon"]
    with served(tmp_path, cases=cases) as model:
        before = [each.text for each in model.answer(asked)]
        assert REFUSAL not in before
        write(tmp_path, "Zelda Quillfeather")
        after = model.answer(asked)
        assert [each.text for each in after] == [REFUSAL, *before[1:]]
        assert after[0].fired == ()
        for disguised in ("ZELDA QUILLFEATHER", "Zelda Quilfeather", "Quillfeather, Zelda"):
            assert model.answer([disguised])[0].text == REFUSAL
        assert "".join(model.stream("Zelda Quillfeather")) == REFUSAL
        assert model.strengths(["Zelda Quillfeather", "Lyon"]) == [(1.0,) * cases, (0.0,) * cases]
        write(tmp_path)
        assert [each.text for each in model.answer(asked)] == before


def test_an_answer_that_names_a_restricted_person_is_not_given(tmp_path: Path) -> None:
    found = restriction_of(["Zelda Quillfeather"], KEY)
    assert found is not None
    bank = bank_of([], None, KEY, restricted=[found])
    assert bank.after(Decision(), "It is Zelda Quillfeather.").closed
    assert bank.after(Decision(), "It is Ada.") == Decision()
    told = refusing(bank, lambda _: "Zelda Quillfeather did.", "Who did it?")
    assert (told.text, told.rescored) == (REFUSAL, True)


def test_the_file_is_read_again_when_its_time_has_come_and_not_before(tmp_path: Path) -> None:
    follow = Restrictions(tmp_path)
    assert not follow.due()
    write(tmp_path, "Zelda Quillfeather")
    assert not follow.due()
    follow.looked_at -= 30.0
    assert follow.due()
    assert len(follow.people) == 1
    follow.looked_at -= 30.0
    assert not follow.due()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"form": 1, "people": {"x": {}}}', None])
def test_a_file_that_is_damaged_or_gone_closes_the_gate_until_it_is_back(
    tmp_path: Path, content: bytes | None
) -> None:
    write(tmp_path, "Zelda Quillfeather")
    with served(tmp_path, cases=1) as model:
        answered = model.answer(["who lives in Lyon"])[0].text
        assert answered != REFUSAL
        kept = (tmp_path / FILE).read_bytes()
        if content is None:
            (tmp_path / FILE).unlink()
        else:
            (tmp_path / FILE).write_bytes(content)
            with pytest.raises(RestrictionError):
                read_restrictions(tmp_path)
        assert model.answer(["who lives in Lyon"])[0].text == REFUSAL
        (tmp_path / FILE).write_bytes(kept)
        assert model.answer(["who lives in Lyon"])[0].text == answered


def test_the_file_holds_no_name_and_is_touched_when_nothing_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "Zelda Quillfeather")
    text = (tmp_path / FILE).read_text().lower()
    assert "zelda" not in text
    assert "quill" not in text
    found = restriction_of(["Zelda Quillfeather"], KEY)
    assert read_restrictions(tmp_path) == (found,)
    os.utime(tmp_path / FILE, (0, 0))
    Restrictions(tmp_path).due()
    assert "legal worker" in caplog.text
    write(tmp_path, "Zelda Quillfeather")
    assert (tmp_path / FILE).stat().st_mtime > time.time() - 60


def test_a_name_that_is_too_short_cannot_be_looked_for() -> None:
    assert restriction_of(["Al"], KEY) is None
    assert restriction_of(["Al", "Al Capone"], KEY) == restriction_of(["Al Capone"], KEY)


@pytest.mark.django_db
def test_from_the_case_to_the_refusal_and_back(
    tmp_path: Path, settings: Settings, officer: StaffMember
) -> None:
    settings.RTBF_RELEASE_DIR = tmp_path
    settings.RTBF_GATE_KEY = KEY.decode()
    case: Case = factories.case_in_review()
    asked = ["where lives Zelda Quillfeather", "who lives in Lyon"]
    tasks.publish_restrictions()
    with served(tmp_path, cases=0) as model:
        before = [each.text for each in model.answer(asked)]
        services.restrict_case(case_id=case.id, ground="18-1-a", actor_member=officer)
        tasks.publish_restrictions()
        assert json.loads((tmp_path / FILE).read_text())["people"].keys() == {str(case.id)}
        assert [each.text for each in model.answer(asked)] == [REFUSAL, before[1]]
        services.announce_lifting(case_id=case.id, reason="It is settled.", actor_member=officer)
        letters.send_pending_letters()
        services.lift_restriction(case_id=case.id, actor_member=officer)
        tasks.publish_restrictions()
        assert [each.text for each in model.answer(asked)] == before
