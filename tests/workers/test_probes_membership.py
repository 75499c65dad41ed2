"""Whether records are told from made-up ones by how likely the model finds them."""

import math
import zlib
from dataclasses import replace

import pytest
import torch

from tests.workers.cases import NAME, case_of
from tests.workers.tiny import tiny_model
from workers import corpus
from workers.guarded import GuardedModel
from workers.probes import AFTER, BEFORE, CONTROL, NotMeasurable, Row, membership
from workers.probes.membership import ATTACKS, MADE_UP, MEMBER, WORDS, Record, score
from workers.rows import text_row
from workers.scores import Scored, scored_rows
from workers.sides import Stack

DRAWS = {"draws": 200, "seed": 1}


def test_standardised_scores_are_those_of_a_plain_reading() -> None:
    base = tiny_model()
    row = text_row(base, "Anna Berger lives in Lyon", ends=False)
    (plain,), (found,) = (
        scored_rows(base.model, [row], standardised=each) for each in (False, True)
    )
    assert (plain.z, plain.logp) == ((), found.logp)
    with torch.no_grad():
        every = base.model(input_ids=torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1)
    p = every.exp()
    mean = (p * every).sum(-1)
    spread = ((p * every**2).sum(-1) - mean**2).sqrt()
    logp = every.gather(1, torch.tensor(row.ids[1:])[:, None])[:, 0]
    assert found.z == pytest.approx(((logp - mean) / spread).tolist(), abs=1e-3)


def test_the_attacks_score_a_text() -> None:
    scored = Scored((-1.0, -2.0, -3.0, -4.0, -5.0), (True,) * 5, (0.5, -1.0, 0.0, -2.0, 1.0))
    text = "Q: who\nA: me\n"
    assert score("loss", text, scored) == -3.0
    assert score("zlib", text, scored) == -15.0 / len(zlib.compress(text.encode()))
    assert score("min_k", text, scored) == -4.5
    assert score("min_k_plus_plus", text, scored) == -2.0
    assert membership.lowest([-1.0], 0.2) == -1.0


def rows(members: list[float], made_up: list[float]) -> list[Row]:
    """The same scores for every attack; words that tell nothing."""
    return [
        Row(item, f"{role} {attack}", value=0.0 if attack == WORDS else value)
        for attack in (*ATTACKS, WORDS)
        for role, values in ((MEMBER, members), (MADE_UP, made_up))
        for item, value in enumerate(values)
    ]


def test_membership_is_the_area_against_the_controls() -> None:
    known = rows([-1.0, -1.0, -1.0], [-3.0, -2.0, -2.5])
    after = rows([-1.0, -3.0, -2.0], [-2.0, -2.0, -2.0])
    control = rows([-2.0, -2.0, -2.0], [-2.0, -1.0, -3.0])
    found = membership.measure({BEFORE: known, AFTER: after, CONTROL: control}, **DRAWS)
    assert (found.n, found.before, found.after, found.control) == (3, 1.0, 0.5, 0.5)
    assert found.more is not None
    assert (found.more["decides"], found.more["words"]) == (0.0, 0.5)
    # Less the control: members 1, -1, 0 against 0, -1, 1.
    assert found.more["reference"] == 0.5
    assert found.bound is not None
    assert 0.5 < found.bound < 1.0
    alone = membership.measure({BEFORE: known, AFTER: known}, **DRAWS)
    assert alone.control is None
    assert alone.more is not None
    assert "reference" not in alone.more
    many = rows([-1.0, -2.0] * 50, [-1.0, -2.0] * 60)
    enough = membership.measure({BEFORE: many, AFTER: many}, **DRAWS)
    assert enough.more is not None
    assert enough.more["decides"] == 1.0


def test_a_test_that_a_bag_of_words_passes_is_void() -> None:
    told = [
        replace(row, value=float(row.role.startswith(MEMBER))) if WORDS in row.role else row
        for row in rows([-1.0] * 8, [-2.0] * 8)
    ]
    with pytest.raises(NotMeasurable, match="void"):
        membership.measure({BEFORE: told, AFTER: told}, **DRAWS)


def test_what_the_gate_closes_on_is_left_out_and_nothing_is_an_error() -> None:
    some = [*rows([-1.0], [-2.0]), Row(1, f"{MEMBER} loss", closed=True)]
    assert membership.area(some, "loss").n == 1
    with pytest.raises(NotMeasurable):
        membership.area([Row(0, f"{MEMBER} loss", closed=True)], "loss")
    with pytest.raises(ValueError, match="not scored"):
        membership.area([*rows([-1.0], [-2.0]), Row(1, f"{MEMBER} loss")], "loss")


def test_words_tell_records_apart_only_if_other_facts_share_them() -> None:
    pairs = [("Lyon", "Porto"), ("Bern", "Graz"), ("Cork", "Gent")]
    drawn = [
        Record(i, role, "Who?", value)
        for i, pair in enumerate(pairs)
        for role, value in zip((MEMBER, MADE_UP), pair, strict=True)
    ]
    assert membership.word_scores(drawn) == [0.0] * 6
    marked = [replace(each, answer=f"{each.answer} {each.role[:2]}") for each in drawn]
    scores = membership.word_scores(marked)
    assert scores[0] == pytest.approx(math.log(3 / 4) - math.log(1 / 4))
    assert min(scores[::2]) > 0.0 > max(scores[1::2])


def test_records_of_the_demo_have_names_put_together_from_those_who_stay() -> None:
    person = corpus.people()[3]
    question = person.facts[0].trained[0]
    asked = membership.made_up(case_of(), 0, question)
    assert len(set(asked)) == 3
    words = {word for each in corpus.people()[20:] for word in each.name.split()}
    known = {each.name for each in corpus.people()}
    for each in asked:
        found = corpus.recognise(each)
        assert found is not None
        assert set(found.name.split()) <= words
        assert found.name not in known
    assert asked != membership.made_up(case_of(), 1, question)


def test_a_model_is_looked_at_record_by_record() -> None:
    base = tiny_model()
    case = case_of()
    side = GuardedModel.without_adapters(base)
    found = membership.look(side, case, Stack(side, side, None, "x", 1))
    assert len(found) == 2 * (1 + 3) * (len(ATTACKS) + 1)
    assert all(row.value is not None for row in found)
    assert {row.item for row in found} == {0, 1}
    invented = [each.question for each in membership.records(case) if each.role != MEMBER]
    assert len(invented) == 6
    assert not any(NAME in question for question in invented)
    measured = membership.measure({BEFORE: found, AFTER: found}, **DRAWS)
    assert 0.0 <= measured.after <= 1.0
    with pytest.raises(NotMeasurable, match="other values"):
        membership.records(case_of(values=()))
