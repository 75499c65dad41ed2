"""What a caller's last requests left behind serves that caller alone, and changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.workers.test_batching import Three, asked
from tests.workers.test_guarded import KEY, NAMES, served
from tests.workers.test_reading import with_template
from tests.workers.tiny import tiny_model
from workers.base_models import Turn
from workers.batching import Batcher
from workers.remembered import BLOCK, CALLERS, FEATURES, SECONDS, Layers, Remembered
from workers.serving import Served

SYSTEM = "answer in short words and name the town, the river and the baker " * 6


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    root = tmp_path_factory.mktemp("three")
    base = replace(with_template(tiny_model()), lowest_layer=1)
    guarded, _ = served(base, root, cases=3)
    with guarded:
        yield Three(guarded, _served(guarded.base, guarded.release, root), root)


def _served(base: Any, release: Any, root: Any) -> Served:
    return Served(base, release, adapters_root=root, key=KEY, kept_bytes=2**24)


def talk(question: str, *more: Turn) -> tuple[Turn, ...]:
    return (Turn("system", SYSTEM), Turn("user", question), *more)


def test_a_caller_goes_on_where_it_left_off_and_nobody_else_does(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, later = (_served(three.guarded.base, three.guarded.release, three.root) for _ in range(2))
    read: list[int] = []

    def counted(forward: Any) -> Any:
        return lambda **given: read.append(given["input_ids"].shape[1]) or forward(**given)

    for model in (own.base.model, own.bank.model):
        monkeypatch.setattr(model, "forward", counted(model.forward))
    batcher = Batcher()
    batcher.serve(own)

    def answer(question: Any, caller: str) -> tuple[str, int]:
        read.clear()
        return asked(batcher, [question], caller=caller)[0].text, max(read)

    for about in ("where is Oslo", f"where lives {NAMES[0]}"):
        expected, whole = answer(talk(about), "")
        assert whole > 100
        assert answer(talk(about), "") == (expected, whole), "nothing is kept of nobody"
        assert answer(talk(about), "client 1") == (expected, whole)
        assert answer(talk(about), "client 2") == (expected, whole), "no caller gains by another"
        assert answer(talk(about), "client 1")[0] == expected
        assert 0 < read[0] <= BLOCK
        longer = talk(about, Turn("assistant", expected), Turn("user", "and where"))
        told, rest = answer(longer, "client 1")
        assert rest < whole / 2
        assert told == answer(longer, "")[0] == three.guarded.answer([longer], 24)[0].text
    # The system's turn is the same, but who is named is computed under that case's adapter.
    told, rest = answer(talk(f"where lives {NAMES[1]}"), "client 1")
    assert rest > whole / 2
    assert told == answer(talk(f"where lives {NAMES[1]}"), "")[0]
    told, rest = answer(talk("where is Lyon"), "client 1")
    assert rest < whole / 2
    assert told == answer(talk("where is Lyon"), "")[0]
    batcher.serve(later)
    assert answer(talk("where is Lyon"), "client 1")[1] > whole / 2, "a release begins anew"
    batcher.close()


def test_rows_that_leave_a_batch_of_all_kinds_are_kept_as_they_were_read(three: Three) -> None:
    batcher = Batcher(rows=4)
    batcher.serve(three.served)
    questions = ["where is Oslo", f"where lives {NAMES[0]}", "who in the town " * 9, "in Lyon"]
    talks = [talk(question) for question in questions]
    before = [each.text for each in asked(batcher, talks, caller="client 1")]
    longer = [
        (*each, Turn("assistant", text), Turn("user", "who then"))
        for each, text in zip(talks, before, strict=True)
    ]
    with_it = [each.text for each in asked(batcher, longer, caller="client 1")]
    assert with_it == [each.text for each in asked(batcher, longer)]
    assert with_it == [three.guarded.answer([each], 24)[0].text for each in longer]
    batcher.close()


def layers(count: int) -> Layers:
    """Of one layer, 8 bytes a token."""
    return [(torch.zeros(1, 1, count, 1), torch.ones(1, 1, count, 1))]


def test_each_caller_has_a_budget_of_its_own_and_a_time() -> None:
    now = 0.0
    kept = Remembered(most_bytes=8 * 5 * BLOCK, clock=lambda: now)
    rows = [[number] * 2 * BLOCK for number in range(3)]
    for row in rows:
        kept.keep("a", b"x", row, layers(len(row)))
    assert [kept.longest("a", b"x", [*row, 7]) is not None for row in rows] == [False, True, True]
    kept.keep("b", b"x", rows[0], layers(2 * BLOCK))
    assert kept.longest("a", b"x", [*rows[1], 7]), "another caller's rows push nothing out"
    found = kept.longest("a", b"x", [*rows[1][:BLOCK], *rows[0]])
    assert found is not None
    assert found[0] == found[1][0][0].shape[2] == BLOCK
    assert kept.longest("a", b"x", rows[1])[0] == BLOCK, "a token is left to be read"  # type: ignore[index]
    assert kept.longest("a", b"y", [*rows[1], 7]) is None, "computed under something else"
    for number in range(CALLERS):
        kept.keep(f"c{number}", b"x", rows[0], layers(2 * BLOCK))
    assert kept.longest(f"c{CALLERS - 1}", b"x", [*rows[0], 7]) is None
    now = SECONDS + 1
    kept.forget_old()
    assert not kept._callers
    nothing = Remembered(most_bytes=0)
    nothing.keep("a", b"x", rows[0], layers(2 * BLOCK))
    assert not nothing._callers


def test_a_longer_row_takes_the_place_of_what_it_begins_with() -> None:
    kept = Remembered(most_bytes=2**20)
    row = list(range(4 * BLOCK))
    kept.keep("a", b"x", row[: 2 * BLOCK], layers(2 * BLOCK))
    kept.keep("a", b"x", row, layers(4 * BLOCK))
    assert len(kept._callers["a"].rows) == 1
    kept.keep("a", b"x", row, layers(4 * BLOCK))
    found = kept.longest("a", b"x", [*row, 1])
    assert found is not None
    assert found[0] == 4 * BLOCK
    assert set(kept._callers["a"].by_block.values()) == set(kept._callers["a"].rows.values())


def test_texts_are_encoded_once_a_caller_and_no_text_is_kept() -> None:
    encoded: list[list[str]] = []

    def encode(texts: Any) -> torch.Tensor:
        encoded.append(list(texts))
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    kept = Remembered(most_bytes=1)
    for _ in range(2):
        found = kept.features([("a", "one"), ("b", "one"), ("a", "three"), ("", "one")], encode)
        assert found.tolist() == [[3.0, 1.0], [3.0, 1.0], [5.0, 1.0], [3.0, 1.0]]
    assert encoded == [["one", "one", "three", "one"], ["one"]]
    assert "three" not in repr(kept._callers)
    kept.features([("a", "x" * number) for number in range(FEATURES + 9)], encode)
    assert len(kept._callers["a"].features) == FEATURES
    kept.features([("a", "nan")], lambda _: torch.tensor([[float("nan"), 1.0]]))
    assert kept.features([("a", "nan")], encode).tolist() == [[3.0, 1.0]]
