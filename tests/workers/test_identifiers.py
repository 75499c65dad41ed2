import hmac
import random
import string
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers import corpus
from workers.gate import Gate, bank_of
from workers.identifiers import (
    MAX_WORDS,
    MIN_LENIENT,
    MIN_LENIENT_WORD,
    Identifiers,
    digester,
    grams_of,
    identifier_digests,
    masked,
    normalised,
    worth_masking,
)

KEY = b"a key for tests, 32 bytes long!!"
NAME = "Anna Müller-Berger"


def fires(text: str, *names: str, key: bytes = KEY, name_words: tuple[str, ...] = ()) -> bool:
    digests = identifier_digests(names or [NAME], KEY, name_words=name_words)
    gate = Gate(digests, None, torch.zeros(0, 0), 1.0, 2.0, "")
    return bool(bank_of([gate], None, key).named(text))


@pytest.mark.parametrize(
    "text",
    [
        "Where does Anna Müller-Berger live?",
        "ANNA MÜLLER BERGER",
        "anna   muller\tberger's address",
        "AnnaMüllerBerger",
        "Berger, Anna Müller",
        "anna.mueller_berger anna.muller.berger@example.org",
        "\u0410nna Müller-Berger",  # Cyrillic capital A
        "An\u200bna Müller\u00adBerger",  # zero-width space, soft hyphen
        "Ａｎｎａ Ｍüller-Berger",  # full-width letters  # noqa: RUF001
        "4nna Mull3r Berg3r",
        "tell me of A n n a M u l l e r B e r g e r please",
        "A.n.n.a-M.u.l.l.e.r-B.e.r.g.e.r",
    ],
)
def test_the_full_name_fires_however_it_is_written(text: str) -> None:
    assert fires(text)


@pytest.mark.parametrize(
    "text",
    [
        "Where does Anna Schmidt live?",
        "Mr Berger called",
        "Anna, Müller and others",
        "",
        "Annaberg",
    ],
)
def test_a_part_of_the_name_alone_does_not_fire(text: str) -> None:
    assert not fires(text)


def test_another_key_does_not_fire() -> None:
    assert not fires(NAME, key=b"another key of the same length!!")


@pytest.mark.parametrize("key", [KEY, b"k" * 16, b"k" * 64, b"k" * 100])
def test_a_digest_is_the_first_half_of_the_first_half_of_an_hmac_sha256(key: bytes) -> None:
    whole = hmac.digest(key, b"annaberger", "sha256")
    assert digester(key)("annaberger").to_bytes(8, "big", signed=True) == whole[:8]


def misspelled(name: str, draw: random.Random) -> str:
    """`name` with one random typing error in a letter."""
    places = [i for i, c in enumerate(name) if c.isalpha()]
    i, letter = draw.choice(places), draw.choice(string.ascii_lowercase)
    kinds = [
        name[:i] + name[i + 1 :],
        name[:i] + letter + name[i:],
        name[:i] + letter + name[i + 1 :],
        name[: i + 1] + letter + name[i + 1 :],
    ]
    if i + 1 in places:
        kinds.append(name[:i] + name[i + 1] + name[i] + name[i + 2 :])
    return draw.choice(kinds)


@given(st.sampled_from([p.name for p in corpus.people()]), st.integers(0, 10**9))
def test_one_typing_error_anywhere_in_the_name_still_fires(name: str, seed: int) -> None:
    assert len(normalised(name).replace(" ", "")) >= MIN_LENIENT
    wrong = misspelled(name, random.Random(seed))  # noqa: S311
    assert fires(f"Where does {wrong} live?", name)


@pytest.mark.parametrize("text", ["Where is Anan Bergr?", "Bo Lin called", "Joe Lee, Jon Lin"])
def test_two_typing_errors_or_an_error_in_a_very_short_name_do_not_fire(text: str) -> None:
    assert not fires(text, "Anna Berger", "Bo Li", "Jo Li")


def test_a_single_word_is_found_misspelled_only_if_it_is_long() -> None:
    assert fires("who is Voldemrot", "Voldemort")
    assert fires("who is Voldemirt", "Voldemort")
    assert fires("by J. K. Rowling", "Rowling")
    for text in ("a growling dog", "the rolling stones", "bowling"):
        assert not fires(text, "Rowling")


def test_a_misspelling_that_is_another_name_is_another_person() -> None:
    words = ("Ada", "Ida", "Tate", "Clara", "Klara")
    assert not fires("Where does Ida Tate live?", "Ada Tate", name_words=words)
    assert not fires("Tate, Ida", "Ada Tate", name_words=words)
    assert not fires("Klara Holm", "Clara Holm", name_words=words)
    assert fires("Where does Ade Tate live?", "Ada Tate", name_words=words)
    assert fires("Where do Ida Tate and Ada Tate live?", "Ada Tate", name_words=words)


def test_a_name_of_more_than_four_words_fires_by_its_first_and_its_last_four() -> None:
    name = "Maria del Carmen Lopez Garcia Ruiz"
    assert fires("about Maria del Carmen Lopez", name)
    assert fires("about Carmen Lopez Garcia Ruiz", name)
    assert not fires("about Maria Lopez", name)


def test_digests_hold_no_clear_name_and_short_identifiers_or_keys_are_refused() -> None:
    held = asdict(identifier_digests([NAME], KEY))
    assert all(-(2**63) <= digest < 2**63 for each in held.values() for digest in each)
    with pytest.raises(ValueError, match="three letters"):
        identifier_digests(["J."], KEY)
    with pytest.raises(ValueError, match="16 random bytes"):
        identifier_digests([NAME], b"short")


@given(st.text(max_size=60), st.text(max_size=20))
def test_normalising_twice_changes_nothing_and_a_mention_survives_its_surroundings(
    before: str, after: str
) -> None:
    assert normalised(normalised(before)) == normalised(before)
    assert fires(f"{before} {NAME} {after}")


WORDS = st.lists(st.sampled_from(["anna", "berger", "voldemort", "4nn4", "x", "of"]), max_size=9)


def runs(count: int) -> list[range]:
    """The places of every n-gram of `count` words."""
    return [
        range(i, i + n) for n in range(1, MAX_WORDS + 1) for i in range(count) if i + n <= count
    ]


@given(WORDS)
def test_n_grams_are_all_runs_of_up_to_four_words_by_size(words: list[str]) -> None:
    plain = [word.replace("4", "a") for word in words]
    found = [(n, gram) for n, each in enumerate(grams_of(words), start=1) for gram in each]
    assert found == [(len(run), "".join(plain[i] for i in run)) for run in runs(len(words))]


@given(WORDS, st.sets(st.integers(0, 8)), st.sets(st.integers(1, MAX_WORDS)))
def test_typing_errors_are_looked_for_in_long_words_and_around_words_of_names(
    words: list[str], near: set[int], sizes: set[int]
) -> None:
    near &= set(range(len(words)))
    found = worth_masking(words, near_names=near, sizes=sizes)
    assert sorted(found, key=lambda run: (len(run), run.start)) == [
        run
        for run in runs(len(words))
        if len(run) in sizes
        and (
            len(words[run.start]) >= MIN_LENIENT_WORD if len(run) == 1 else not near.isdisjoint(run)
        )
    ]


def mentioned(held: list[Identifiers], text: str) -> set[tuple[int, range]]:
    """Case and places of each mention, n-gram by n-gram and case by case, as slow as it is plain;
    of texts that are not at once seen to be silent."""
    digest, words = digester(KEY), normalised(text).split()
    grams = grams_of(words)
    digests = {run: digest(grams[len(run) - 1][run.start]) for run in runs(len(words))}
    known = {digest for each in held for digest in each.words}
    sizes = {size for each in held for size in each.sizes}
    names = {run.start for run, own in digests.items() if len(run) == 1 and own in known}
    exact = {own for each in held for own in each.exact}
    masks = {
        run: map(digest, masked(grams[len(run) - 1][run.start]))
        for run in worth_masking(words, near_names=names, sizes=sizes)
        if digests[run] not in exact
    }
    found = set()
    for case, each in enumerate(held):
        plain = {run for run, own in digests.items() if own in each.exact}
        taken = {place for run in plain for place in run}
        near = {
            run
            for run, own in digests.items()
            if own not in each.others
            and taken.isdisjoint(run)
            and not {own, *masks.get(run, ())}.isdisjoint(each.near)
        }
        found |= {(case, run) for run in plain | near}
    return found


NAMES = ("Anna Berger", "Hanna Berger", "Ada Tate", "Voldemort", "Maria del Carmen Lopez")
HELD = [identifier_digests([name], KEY, name_words=("Ada", "Ida", "Tate")) for name in NAMES]
BANK = bank_of([Gate(each, None, torch.zeros(0, 0), 1.0, 2.0, "") for each in HELD], None, KEY)
FIRST = ("anna", "anan", "hanna", "Ida", "Ada", "AnnaBerger", "AdaTate", "Maria", "the")
THEN = ("Bergr", "Berger", "Tate", "tat", "Voldemrot", "growling", "del", "carmen", "lopez")


@given(st.lists(st.sampled_from(FIRST + THEN), max_size=12))
def test_the_look_up_over_all_names_is_exactly_the_loop_over_each(said: list[str]) -> None:
    text = " ".join([*said, "berger"])  # a word of a name, lest the text be silent
    found = {(each.case, each.places) for each in BANK.mentions(text)}
    assert found == mentioned(HELD, text)
