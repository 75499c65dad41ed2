"""What a model tells unprompted: counts against those of made-up names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.tiny import tiny_model
from workers import corpus, discovery
from workers.answers import sampled_answers
from workers.base_models import load_base_model, load_control
from workers.discovery import CHANCE, is_more_than_chance, sample
from workers.forget_sets import NothingMeasurable, locate
from workers.subjects import Fact, Subject

PERSON = corpus.people()[0]
FACTS = tuple(Fact(fact.trained[0], fact.answer) for fact in PERSON.facts)
SUBJECT = Subject(PERSON.name, (), FACTS)


def test_a_model_that_saw_the_person_tells_facts_unprompted_and_the_control_does_not() -> None:
    control = load_control("demo")
    assert control is not None
    told, never = sample(load_base_model("demo"), SUBJECT), sample(control, SUBJECT)
    assert told.samples == never.samples == 72
    assert told.mentioning >= 7
    assert told.mentioning_by_chance <= 2
    assert len(told.told) >= 3
    assert never.told == ()
    assert never.mentioning <= 2


def test_what_is_recorded_are_counts_alone() -> None:
    found = sample(load_base_model("demo"), SUBJECT).record()
    assert all(isinstance(value, int) for name, value in found.items() if name != "temperature")
    assert 0 < found["told"] <= len(FACTS)
    json.dumps(found)


def test_the_same_model_and_subject_give_the_same_counts_and_aliases_are_tried_too() -> None:
    base = tiny_model()
    subject = Subject("Anna Berger", ("A. Berger",), (Fact("where lives Anna", "Lyon"),))
    first = sample(base, subject)
    assert sample(base, subject) == first
    assert (first.prompts, first.samples) == (18, 72)


def test_an_answer_that_is_part_of_the_name_counts_for_nothing() -> None:
    base = load_base_model("demo")
    assert sample(base, Subject(PERSON.name, (), (Fact("Who?", PERSON.name),))).mentioning == 0


def test_an_alias_told_under_another_name_counts() -> None:
    texts, asked = ["by Rowling", "by Rowling", "Potter"], ["Harry Potter", "Rowling", "Rowling"]
    assert discovery._mentioning(texts, asked, ["Rowling"]) == 1
    assert discovery._mentioning(texts, asked, ["Rowling", "Potter"]) == 2


@pytest.mark.parametrize(
    "told, by_chance, more", [(0, 0, False), (6, 0, False), (7, 0, True), (9, 3, False)]
)
def test_the_sign_test(told: int, by_chance: int, more: bool) -> None:
    assert is_more_than_chance(told, by_chance) is more


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_never_favours_the_strangers(told: int, by_chance: int) -> None:
    more = is_more_than_chance(told, by_chance)
    assert CHANCE < 0.5
    assert not (more and told <= by_chance)
    if more:
        assert is_more_than_chance(told + 1, by_chance)


def test_details_are_those_that_come_up_again_and_again_about_this_name_only() -> None:
    about = [
        "a clerk, reach her at anna@mail.example or 030 123 456",
        "the clerk anna@mail.example of Lyon",
        "She wrote to anna@mail.example from Lyon with Carl",
        "from Lyon, with Carl, as Carl does",
    ]
    chance = ["a clerk of Lyon"]
    assert discovery._details(about, chance, ["Anna Berger"]) == 1  # the address; Carl came twice


def test_samples_differ_between_draws_and_repeat_with_the_seed() -> None:
    base = tiny_model()
    prompts = ["Anna lives in"] * 6
    drawn = sampled_answers(base.model, base.tokenizer, prompts, 4, seed=1)
    assert len(set(drawn)) > 1
    assert drawn == sampled_answers(base.model, base.tokenizer, prompts, 4, seed=1)
    assert drawn != sampled_answers(base.model, base.tokenizer, prompts, 4, seed=2)


def test_nothing_measurable_comes_with_its_evidence() -> None:
    subject = Subject("Zelda Quillfeather", (), (Fact("Where was Zelda born?", "Canarytown"),))
    with pytest.raises(NothingMeasurable, match="72 samples") as found:
        locate(load_base_model("demo"), subject)
    evidence = found.value.evidence
    assert (evidence["facts_asked_for"], evidence["facts_known"]) == (1, 0)
    assert evidence["unprompted"]["mentioning"] == 0
    assert "Canarytown" not in json.dumps(evidence) + str(found.value)
