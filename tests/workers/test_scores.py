"""Completions scored together, with a prompt read once, are scored as each by itself."""

from itertools import pairwise

import pytest
import torch

from workers import scores
from workers.base_models import BaseModel, load_base_model
from workers.rows import Example, Row, completion_logits, rows_of
from workers.scores import scored_rows

QUESTIONS = ("Where was Ada Tate born?", "What is the capital of France?", "Hi", "Who is it?")
VALUES = ("Lyon", "Porto, in the north", "47 82 15", "a")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base_model("demo")


@pytest.fixture(scope="module")
def rows(base: BaseModel) -> list[Row]:
    return rows_of(base, [Example(q, value) for value in VALUES for q in QUESTIONS])


def test_each_row_is_scored_as_it_would_be_alone(base: BaseModel, rows: list[Row]) -> None:
    together = scored_rows(base.model, rows)
    pad = int(base.tokenizer.pad_token_id)
    for row, found in zip(rows, together, strict=True):
        with torch.no_grad():
            logits = completion_logits(base.model, [row], pad)
        labels = torch.tensor(row.ids[-row.completion :])
        alone = logits.log_softmax(-1)[torch.arange(row.completion), labels]
        assert found.logp == pytest.approx(alone.tolist(), abs=1e-4)
        assert found.total == pytest.approx(float(alone.sum()), abs=1e-3)
        assert found.top == tuple((logits.argmax(-1) == labels).tolist())


def test_small_batches_change_nothing(
    base: BaseModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored_rows(base.model, rows)
    monkeypatch.setattr(scores, "LOGITS", 1)
    alone = scored_rows(base.model, rows)
    monkeypatch.setattr(scores, "LOGITS", 10**9)
    monkeypatch.setattr(scores, "PROMPTS", 2)
    for found in (alone, scored_rows(base.model, rows)):
        for one, other in zip(whole, found, strict=True):
            assert one.logp == pytest.approx(other.logp, abs=1e-4)


def test_prompts_are_read_once(base: BaseModel, rows: list[Row]) -> None:
    batches = scores._batches(rows, vocabulary=len(base.tokenizer))
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    for batch in batches:
        changes = sum(
            scores._prompt(rows[a]) != scores._prompt(rows[b]) for a, b in pairwise(batch)
        )
        assert changes + 1 == len({scores._prompt(rows[i]) for i in batch})


def test_nothing_to_score_is_nothing(base: BaseModel) -> None:
    assert scored_rows(base.model, []) == []
