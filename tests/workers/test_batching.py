"""Answers in batches are those that the guarded model gives one by one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel

from tests.workers.test_guarded import KEY, NAMES, acting, served
from tests.workers.tiny import tiny_model
from workers.base_models import Turn
from workers.batching import GATHER, Batcher, NotServing, Overloaded, apart
from workers.gate import Decision
from workers.guarded import GuardedModel
from workers.identifiers import identifier_digests
from workers.lanes import Done, Event, Failed, Lane, Piece, Request
from workers.releases import ReleaseError
from workers.restrictions import Restrictions, write_restrictions
from workers.sampling import Token, drawn
from workers.serving import Prompt, Served
from workers.telling import REFUSAL, Telling

LIMIT = 24


@dataclass
class Three:
    """A release of three cases, served both ways."""

    guarded: GuardedModel
    served: Served
    root: Path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    root = tmp_path_factory.mktemp("three")
    base = tiny_model()
    guarded, _ = served(base, root, cases=3)
    own = Served(base, guarded.release, adapters_root=root, key=KEY)
    with guarded:
        yield Three(guarded, own, root)


@pytest.fixture
def batcher(three: Three) -> Iterator[Batcher]:
    found = Batcher(rows=4)
    found.serve(three.served)
    yield found
    found.close()


class Listener:
    """What the model's thread tells of one request."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended: Future[Event] = Future()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Piece):
            self.ended.set_result(event)

    @property
    def text(self) -> str:
        self.ended.result(timeout=30)
        return "".join(each.text for each in self.events if isinstance(each, Piece))

    @property
    def done(self) -> Done:
        found = self.ended.result(timeout=30)
        assert isinstance(found, Done), found
        return found


def asked(batcher: Batcher, questions: Sequence[Any], **more: Any) -> list[Listener]:
    heard = []
    for question in questions:
        listener = Listener()
        more = {"limit": LIMIT, **more}
        batcher.ask(Request(Prompt(question), tell=listener, **more))
        heard.append(listener)
    return heard


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 200), min_size=1, max_size=12),
            st.dictionaries(st.integers(0, 2), st.floats(0.01, 1.0), max_size=3),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_each_row_of_a_batch_is_pefts_exact_concatenation_at_its_own_strengths(
    three: Three, rows: list[tuple[list[int], dict[int, float]]]
) -> None:
    decisions = [Decision(tuple(strengths.items())) for _, strengths in rows]
    found = three.served.begin([ids for ids, _ in rows], decisions)
    for (ids, strengths), logits in zip(rows, found.first, strict=True):
        with acting(three.guarded, strengths) as model, torch.no_grad():
            assert isinstance(model, PeftModel) is bool(strengths)
            expected = model(torch.tensor([ids])).logits[0, -1]
        assert (logits - expected).abs().max() < 1e-4


def test_a_batch_on_which_nothing_acts_runs_the_plain_model(three: Three) -> None:
    plain = three.served.model_for([Decision(), Decision()])
    assert plain is three.guarded.base.model
    assert three.served.bank.acting.scales is None
    mixed = three.served.model_for([Decision(), Decision(((0, 0.5),))])
    assert mixed is three.served.bank.model is not plain
    own = {each.data_ptr() for each in plain.parameters()}
    assert own <= {each.data_ptr() for each in mixed.parameters()}, "the weights are shared"


def test_answers_in_batches_are_the_answers_one_by_one(three: Three, batcher: Batcher) -> None:
    questions = [
        "where is Oslo", f"where lives {NAMES[0]}", "who in the town", f"who is {NAMES[1]}",
        f"{NAMES[0]} or {NAMES[2]}", f"WHO IS {NAMES[1].upper()}", "A N N A B E R G E R", "in Lyon",
        (Turn("user", f"who is {NAMES[2]}"), Turn("assistant", "the"), Turn("user", "where")),
    ]  # fmt: skip
    expected = three.guarded.answer(questions, LIMIT)
    heard = asked(batcher, questions)
    assert [each.text for each in heard] == [each.text for each in expected]
    names = {ref.case_id: ref.adapter_sha256 for ref in three.guarded.release.adapters}
    assert [each.done.strengths for each in heard] == [
        {names[f.case_id]: f.strength for f in each.fired} for each in expected
    ]
    assert {each.done.reason for each in heard} <= {"stop", "length"}


def test_a_row_about_to_name_somebody_is_told_anew_while_others_go_on(
    three: Three, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = "A town has a baker. It was Anna Berger of Lyon. Good day."
    script(monkeypatch, three, plain=say, under="A town has a baker. Who knows that well.")
    heard = asked(batcher, ["who made the tea", f"who is {NAMES[1]}", "where"], limit=200)
    assert [each.text for each in heard] == ["A town has a baker. Who knows that well."] * 3
    names = three.served.names
    assert heard[0].done.strengths == {names[0]: 1.0}
    assert heard[1].done.strengths == {names[1]: 1.0}
    assert all("Anna" not in e.text for h in heard for e in h.events if isinstance(e, Piece))


def script(monkeypatch: pytest.MonkeyPatch, three: Three, *, plain: str, under: str) -> None:
    """The model says `plain` with no adapter and `under` with one, to whatever stands before."""
    encode = three.guarded.base.tokenizer.encode
    served_, tokenizer = three.served, three.guarded.base.tokenizer

    def logits(rows: Sequence[Any]) -> torch.Tensor:
        found = torch.zeros(len(rows), len(tokenizer))
        for place, row in enumerate(rows):
            text = under if row.decision.acting else plain
            said = [*row.telling.row, *row.fresh]
            ids = [*encode(text), tokenizer.eos_token_id]
            rest = (
                ids[len(said) :]
                if ids[: len(said)] == said
                else encode(text[len(served_.text(said)) :])
            )
            found[place, rest[0]] = 1.0
        return found

    picked = Lane._pick
    monkeypatch.setattr(Lane, "_pick", lambda self, rows, _: picked(self, rows, logits(rows)))


def test_log_probabilities_are_those_of_the_guarded_model(three: Three, batcher: Batcher) -> None:
    question = f"where lives {NAMES[0]}"
    (heard,) = asked(batcher, [question], likeliest=3)
    said = heard.done.said
    tokens = [t for each in heard.events if isinstance(each, Piece) for t in each.tokens]
    assert len(tokens) == said
    ids = three.guarded._prompt_ids(question)
    for token in tokens:
        with acting(three.guarded, {0: 1.0}) as model, torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
        assert abs(token.logprob - float(expected[token.id])) < 1e-3
        assert token.likeliest[0][0] == int(expected.argmax())
        ids.append(token.id)


def test_sampling_repeats_with_its_seed_whatever_else_is_asked(batcher: Batcher) -> None:
    alone = asked(batcher, ["where is Oslo"], temperature=1.5, seed=5)[0].text
    asked(batcher, ["who in the town"] * 3, temperature=1.5)
    again, other = (
        asked(batcher, ["where is Oslo"], temperature=1.5, seed=seed)[0].text for seed in (5, 6)
    )
    assert alone == again != other


def test_top_p_leaves_the_unlikely_out() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    draw = torch.Generator().manual_seed(0)
    assert {drawn(logits, 1.0, 0.75, draw) for _ in range(200)} == {0, 1}
    assert {drawn(logits, 1.0, 1.0, draw) for _ in range(200)} == {0, 1, 2}
    assert {drawn(logits, 1e-300, 1e-300, draw) for _ in range(20)} == {0}


def test_a_stop_text_ends_the_answer_before_it(three: Three, batcher: Batcher) -> None:
    whole = asked(batcher, ["where is Oslo"], limit=40)[0].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    (heard,) = asked(batcher, ["where is Oslo"], limit=40, stop=(stop,))
    assert heard.text == whole[: whole.index(stop)]
    assert heard.done.reason == "stop"


def test_what_asks_too_much_and_what_is_too_much_is_refused(three: Three) -> None:
    batcher = Batcher(waiting=2)
    with pytest.raises(NotServing):
        asked(batcher, ["x"])
    hold = threading.Event()
    batcher.run(hold.wait)
    batcher.serve(three.served)
    (long,) = asked(batcher, ["x " * 3000])
    asked(batcher, ["x"])
    with pytest.raises(Overloaded):
        asked(batcher, ["x"])
    hold.set()
    failed = long.ended.result(timeout=30)
    batcher.close()
    assert isinstance(failed, Failed)
    assert not failed.ours


def test_a_failing_gate_ends_in_a_failure_and_never_in_an_answer(
    three: Three, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the gate is broken")

    running = Listener()
    request = Request(Prompt("where is Oslo"), tell=running, limit=300)
    batcher.ask(request)
    while not running.events:
        time.sleep(0.001)
    monkeypatch.setattr(three.served, "take", broken)
    (heard,) = asked(batcher, ["where is Oslo"])
    assert isinstance(heard.ended.result(timeout=30), Failed)
    assert len(heard.events) == 1
    assert running.done, "what the gate had read goes on"
    monkeypatch.undo()
    assert asked(batcher, ["where is Oslo"])[0].text, "the thread lives on"


def test_a_gated_answer_costs_one_more_reading_of_its_prompt_and_no_more(
    three: Three, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    for model in (three.served.base.model, three.served.bank.model):
        own = model.forward
        monkeypatch.setattr(
            model, "forward", lambda own=own, **given: steps.append(1) or own(**given)
        )
    counts = []
    for question in ("where lives she", f"where lives {NAMES[0]}"):
        steps.clear()
        (heard,) = asked(batcher, [question])
        counts.append(len(steps) - heard.done.said)
    assert 0 <= counts[1] - counts[0] <= 1


def test_a_burst_is_read_together_however_it_trickles_in(
    three: Three, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    own = three.served.begin
    monkeypatch.setattr(
        three.served, "begin", lambda ids, *more: read.append(len(ids)) or own(ids, *more)
    )
    lane = batcher._current
    assert lane is not None
    lane.reading_seconds = 30 / GATHER
    heard = []
    for question in ("where is Oslo", "who in the town", "in Lyon", "where"):
        heard += asked(batcher, [question])
        time.sleep(0.01)
    assert all(each.done for each in heard)
    assert read == [4], "as many as there is room for, without waiting any longer"


def test_alternatives_name_nobody_who_is_erased(three: Three, batcher: Batcher) -> None:
    lane = batcher._current
    assert lane is not None
    encode = three.guarded.base.tokenizer.encode
    telling = Telling(Decision(), text_of=three.served.text, after=three.served.gate.after)
    *telling.kept, last = encode(f"it was {NAMES[0]}")
    other = encode(" town")[0]
    token = Token(other, -1.0, ((other, -1.0), (last, -2.0)))
    assert lane._without_names(telling, len(telling.kept), token).likeliest == ((other, -1.0),)
    telling.decision = Decision(((0, 1.0),))
    assert lane._without_names(telling, len(telling.kept), token) == token


def test_a_new_release_takes_new_requests_and_running_ones_end_on_theirs(
    three: Three, tmp_path: Path
) -> None:
    empty = GuardedModel.without_adapters(three.guarded.base)
    nobody = Served(three.guarded.base, empty.release, adapters_root=tmp_path, key=KEY)
    batcher, question = Batcher(), f"where lives {NAMES[0]}"
    expected = [each.answer([question], 200)[0].text for each in (empty, three.guarded)]
    batcher.serve(nobody)
    (before,) = asked(batcher, [question], limit=200)
    while not before.events:
        time.sleep(0.001)
    batcher.serve(three.served)
    (after,) = asked(batcher, [question], limit=200)
    assert [before.text, after.text] == expected
    assert before.done.release != after.done.release == three.guarded.release.sha256
    batcher.close()


def test_who_is_restricted_while_an_answer_is_made_is_not_spoken_of(
    three: Three, tmp_path: Path
) -> None:
    follows = Restrictions(tmp_path, seconds=0.0)
    empty = GuardedModel.without_adapters(three.guarded.base)
    nobody = Served(
        three.guarded.base, empty.release, adapters_root=tmp_path, key=KEY, restrictions=follows
    )
    batcher = Batcher()
    batcher.serve(nobody)
    heard = asked(batcher, ["where lives Emil Fuchs", "where is Oslo"], limit=600)
    while not heard[0].events:
        time.sleep(0.001)
    write_restrictions(tmp_path, {"case": identifier_digests(["Emil Fuchs"], KEY)})
    assert heard[0].text.endswith(REFUSAL)
    assert not heard[1].text.endswith(REFUSAL)
    (tmp_path / "restrictions.json").write_text("damaged")
    time.sleep(0.05)
    assert isinstance(asked(batcher, ["where is Oslo"])[0].ended.result(timeout=30), Failed)
    with pytest.raises(NotServing):
        asked(batcher, ["where is Oslo"])
    write_restrictions(tmp_path, {})
    until = time.monotonic() + 30
    while nobody.gate.shut:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert asked(batcher, ["where is Oslo"])[0].text != REFUSAL
    batcher.close()


def test_a_cancelled_request_leaves_its_place(batcher: Batcher) -> None:
    listener = Listener()
    request = Request(Prompt("where is Oslo"), tell=listener, limit=600)
    batcher.ask(request)
    while not listener.events:
        time.sleep(0.001)
    request.cancelled = True
    assert asked(batcher, ["where"])[0].text
    count = len(listener.events)
    time.sleep(0.05)
    assert len(listener.events) == count
    assert not listener.ended.done()


COMPUTED_APART = """
import os, sys, threading
import torch
from workers.batching import apart

def compute():
    torch.set_num_threads(2)
    torch.randn(512, 512) @ torch.randn(512, 512)
    torch.randn(2_000_000).exp()
    return len(os.listdir("/proc/self/task"))

def left():
    for _ in range(100):
        if len(os.listdir("/proc/self/task")) == before:
            break
        threading.Event().wait(0.05)
    return len(os.listdir("/proc/self/task")) - before

before = len(os.listdir("/proc/self/task"))
during = apart(compute) - before
kept = left()
compute()
print(during, kept, left())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted on Linux")
def test_what_computes_apart_leaves_no_threads_behind() -> None:
    """Helpers of OpenMP that stay make the tokens of every later answer slower."""
    told = subprocess.run(
        [sys.executable, "-c", COMPUTED_APART], check=True, capture_output=True, text=True
    ).stdout
    during, kept, without = map(int, told.split())
    assert during - kept >= 2, "the thread and its helper end"
    assert without > kept, "without a thread of its own the helper stays"


def test_an_error_apart_is_the_callers() -> None:
    def fails() -> None:
        raise ReleaseError("not this one")

    with pytest.raises(ReleaseError, match="not this one"):
        apart(fails)
