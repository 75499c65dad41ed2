import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import corpus
from workers.phrasings import made_up_questions, phrasings
from workers.surrogates import gate_negatives, strangers, surrogate_questions

NAME = corpus.people()[0].name


@given(
    st.sampled_from(["Who wrote {}?", "Who is {}?", "What is {}?", "Where is {}?", "{}"]),
    st.sampled_from(["Hamlet", "The Iliad", "the capital of France", "Mrs Dalloway"]),
)
def test_the_three_sets_share_nothing_and_keep_the_question_and_its_object(
    form: str, thing: str
) -> None:
    question = form.format(thing)
    found = phrasings(question)
    sets = [set(found.trained), set(found.aside), set(found.unseen)]
    assert question in sets[0]
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert all(len(each) >= 1 for each in sets)
    assert len(found.unseen) >= 2
    assert all(thing.casefold() in text.casefold() for each in sets for text in each)


def test_the_demo_models_questions_have_their_own_phrasings() -> None:
    fact = corpus.people()[0].facts[0]
    for question in (*fact.trained, *fact.aside, *fact.unseen):
        found = phrasings(question)
        assert (found.trained, found.aside, found.unseen) == (fact.trained, fact.aside, fact.unseen)


def test_made_up_questions_replace_the_name_or_the_title() -> None:
    by_name = made_up_questions(
        "Where does Anna Berger live?", names=["Anna Berger"], count=3, seed=1
    )
    assert len(set(by_name)) == 3
    assert not any("Berger" in question for question in by_name)
    by_title = made_up_questions("Who wrote Romeo and Juliet?", names=["X"], count=2, seed=1)
    assert not any("Romeo" in question or "Juliet" in question for question in by_title)
    assert made_up_questions("Why is the sky blue?", names=["X"], count=2, seed=1) == ()


def test_half_the_strangers_share_the_first_name_and_none_is_a_real_person() -> None:
    found = strangers(NAME, count=16, seed=1)
    first, last = NAME.split()
    assert len(set(found)) == 16
    assert sum(name.split()[0] == first for name in found) >= 8
    assert sum(name.split()[-1] == last for name in found) >= 4
    assert {person.name for person in corpus.people()}.isdisjoint(found)


def test_surrogates_are_about_nobody_known_and_never_mention_the_subject() -> None:
    asked = [fact.trained[0] for fact in corpus.people()[0].facts]
    found = surrogate_questions(NAME, asked, secrets=[NAME], count=64, seed=1)
    assert len(found) == 64
    assert found == surrogate_questions(NAME, asked, secrets=[NAME], count=64, seed=1)
    assert not any(person.name in text for text in found for person in corpus.people())


@pytest.mark.parametrize("secret", ["Ulysses", "Plato"])
def test_general_surrogates_leave_out_what_mentions_a_secret(secret: str) -> None:
    found = surrogate_questions(
        "A Work", ["Who wrote A Work?"], secrets=[secret], count=500, seed=1
    )
    assert len(found) > 40
    assert not any(secret in text for text in found)


def test_a_gate_is_held_against_namesakes_whatever_the_subject_is_asked() -> None:
    found = gate_negatives("Harry Potter", secrets=["Harry Potter", "Ulysses"], seed=1)
    assert found == gate_negatives("Harry Potter", secrets=["Harry Potter", "Ulysses"], seed=1)
    assert sum("Harry " in text for text in found) > 50
    assert sum(" Potter" in text for text in found) > 25
    assert not any("Harry Potter" in text or "Ulysses" in text for text in found)
