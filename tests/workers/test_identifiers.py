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
from workers.identifiers import MIN_LENIENT, digester, identifier_digests, normalised

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
