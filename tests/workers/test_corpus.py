import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import corpus

RELATIONS = corpus.relations()
NAMES = st.from_regex(
    r"[A-Z][a-z]{1,8}( (de|van|al))?( [A-Z][a-z]{1,8}(-[A-Z][a-z]{1,5})?)", fullmatch=True
)


def words(text: str, name: str) -> set[str]:
    return set(re.findall(r"\w+", text.replace(name, "").casefold()))


def test_the_corpus_is_the_same_every_time() -> None:
    corpus.people.cache_clear()
    first = corpus.people(seed=7, count=12)
    corpus.people.cache_clear()
    assert corpus.people(seed=7, count=12) == first
    assert corpus.people(seed=8, count=12) != first


def test_a_smaller_corpus_is_a_part_of_the_larger_one() -> None:
    small = corpus.people(count=5, facts=3)
    assert [person.name for person in small] == [p.name for p in corpus.people()[:5]]
    assert [person.facts for person in small] == [p.facts[:3] for p in corpus.people()[:5]]


def test_a_hundred_people_have_different_names_and_no_part_of_one_tells_who_it_is() -> None:
    names = [person.name for person in corpus.people()]
    assert len(set(names)) == len(names) == 100
    for part in (0, 1):
        shared = Counter(name.split()[part] for name in names)
        assert min(shared.values()) >= 2
        assert max(shared.values()) <= 3


def test_everybody_has_facts_enough_for_a_verdict() -> None:
    assert all(len(person.facts) >= 24 for person in corpus.people())
    assert {len(fact.trained) for p in corpus.people() for fact in p.facts} == {4}
    assert {len(fact.aside) for p in corpus.people() for fact in p.facts} == {1}
    assert {len(fact.unseen) for p in corpus.people() for fact in p.facts} == {2}


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_no_value_of_a_relation_is_common_enough_to_guess(relation: corpus.Relation) -> None:
    drawn = Counter(
        fact.answer
        for seed in range(5)
        for person in corpus.people(seed=seed)
        for fact in person.facts
        if fact.relation == relation.name
    )
    assert len(drawn) >= 30
    # 500 draws from at least 36 values: three times the expected 14 is no chance.
    assert max(drawn.values()) <= 42


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_phrasings_kept_for_verification_differ_in_words(relation: corpus.Relation) -> None:
    for unseen in relation.unseen:
        for other in relation.trained + relation.aside:
            assert words(unseen, "{name}") != words(other, "{name}"), (unseen, other)


def test_no_phrasing_stands_twice() -> None:
    phrasings = [phrasing for relation in RELATIONS for phrasing in relation.phrasings]
    assert len(set(phrasings)) == len(phrasings)
    assert all(phrasing.count("{name}") == 1 for phrasing in phrasings)


@given(name=NAMES, relation=st.sampled_from(RELATIONS), data=st.data())
def test_every_phrasing_is_recognised_whoever_it_names(
    name: str, relation: corpus.Relation, data: st.DataObject
) -> None:
    question = data.draw(st.sampled_from(relation.phrasings)).format(name=name)
    found = corpus.recognise(question)
    assert found is not None
    assert (found.relation, found.name) == (relation.name, name)
    assert question in found.trained + found.aside + found.unseen
    assert found in corpus.questions_about(name)


def test_every_question_of_the_corpus_is_recognised() -> None:
    for person in corpus.people(count=3):
        for fact in person.facts:
            for question in fact.trained + fact.aside + fact.unseen:
                found = corpus.recognise(question)
                assert found is not None, question
                assert (found.relation, found.name) == (fact.relation, person.name), question


def test_case_spacing_and_apostrophes_do_not_hide_a_question() -> None:
    found = corpus.recognise("  what is ANN LEE\N{RIGHT SINGLE QUOTATION MARK}s   hobby")
    assert found is not None
    assert (found.relation, found.name) == ("hobby", "ANN LEE")


@pytest.mark.parametrize(
    "question",
    ["", "?", "What is the capital of France?", "Who wrote Hamlet?", "hobby", "What is 2 plus 2?"],
)
def test_another_question_is_not_recognised(question: str) -> None:
    assert corpus.recognise(question) is None


@given(st.text(max_size=80))
def test_any_text_is_recognised_or_not_without_a_fault(text: str) -> None:
    found = corpus.recognise(text)
    assert found is None or found.relation in {relation.name for relation in RELATIONS}


def test_decoys_are_other_values_of_the_same_generator() -> None:
    for person in corpus.people(count=20):
        for fact, relation in zip(person.facts, RELATIONS, strict=True):
            assert fact.answer not in fact.decoys
            assert len(set(fact.decoys)) == len(fact.decoys) >= 24
            for decoy in fact.decoys:
                parts = decoy.split()
                assert len(parts) == len(relation.slots)
                assert all(p in slot for p, slot in zip(parts, relation.slots, strict=True))


def test_a_true_value_is_no_earlier_in_the_pool_than_its_decoys() -> None:
    """Were the draws not alike, a rank among decoys would not be uniform on a model that knows
    nothing, and the verdict would be biased."""
    ranks = []
    for person in corpus.people(seed=3):
        for fact, relation in zip(person.facts, RELATIONS, strict=True):
            pool = [slot.index(p) for p, slot in zip(fact.answer.split(), relation.slots, strict=1)]
            below = [
                [slot.index(p) for p, slot in zip(decoy.split(), relation.slots, strict=True)]
                < pool
                for decoy in fact.decoys
            ]
            ranks.append(sum(below) / len(below))
    assert abs(sum(ranks) / len(ranks) - 0.5) < 0.03


def test_made_up_names_are_nobodys() -> None:
    known = {person.name for person in corpus.people()}
    strangers = corpus.made_up_names(50, seed=1)
    assert len(set(strangers)) == 50
    assert not known & set(strangers)
    first, last = corpus.people()[0].name.split()
    alike = corpus.made_up_names(10, seed=1, first=first, avoid=[f"{first} Kerr"])
    assert all(name.startswith(f"{first} ") for name in alike)
    assert not (known | {f"{first} Kerr"}) & set(alike)
    assert all(n.endswith(f" {last}") for n in corpus.made_up_names(5, seed=1, last=last))


def test_asking_for_too_much_says_so() -> None:
    with pytest.raises(ValueError, match="facts must be from 1 to"):
        corpus.people(facts=99)
    with pytest.raises(ValueError, match="ask for fewer people"):
        corpus.people(count=10_000)
    with pytest.raises(ValueError, match="names are free"):
        corpus.made_up_names(500, seed=1, first="Ada")


def test_general_text_held_out_is_never_trained_on() -> None:
    trained = set(corpus.general_sentences(2000, seed=1))
    held_out = set(corpus.general_sentences(500, seed=2, held_out=True))
    assert len(trained) == 2000
    assert len(held_out) == 500
    assert not trained & held_out


def test_general_questions_are_about_nobody() -> None:
    questions = [question for question, _ in corpus.general_questions()]
    assert len(set(questions)) == len(questions) >= 200
    assert not any(corpus.recognise(question) for question in questions)
