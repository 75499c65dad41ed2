import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.identifiers import identifier_digests, mentioned, normalised

KEY = b"a key for tests, 32 bytes long!!"
NAME = "Anna Müller-Berger"


def fires(text: str, *names: str, key: bytes = KEY) -> bool:
    return not mentioned(text, key).isdisjoint(identifier_digests(names or [NAME], key))


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
    digests = identifier_digests([NAME], KEY)
    assert mentioned(NAME, b"another key of the same length!!").isdisjoint(digests)


def test_a_name_of_more_than_four_words_fires_by_its_first_and_its_last_four() -> None:
    name = "Maria del Carmen Lopez Garcia Ruiz"
    assert fires("about Maria del Carmen Lopez", name)
    assert fires("about Carmen Lopez Garcia Ruiz", name)
    assert not fires("about Maria Lopez", name)


def test_digests_hold_no_clear_name_and_short_identifiers_or_keys_are_refused() -> None:
    assert all(len(d) == 64 and "anna" not in d for d in identifier_digests([NAME], KEY))
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
