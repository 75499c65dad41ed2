"""One spelling for each identifier, and no spelling in a text that is overlooked."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.identifiers import (
    NotAnIdentifier,
    candidates,
    folded,
    normal_form,
    second_attributes,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def found(text: str) -> set[tuple[str, str]]:
    return set(candidates(text, phone_prefix="32"))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("email", " Zelda.Q+news@Mailbox.Example. ", "zelda.q@mailbox.example"),
        ("email", "z.e.l.d.a@googlemail.com", "zelda@gmail.com"),
        ("email", "Zoë@Bücher.example", "zoë@xn--bcher-kva.example"),
        ("email", "ｚｅｌｄａ@mailbox.example", "zelda@mailbox.example"),  # noqa: RUF001
        ("phone", "02 555 01 00", "3225550100"),
        ("phone", "+32 (0)2 555.01.00", "3225550100"),
        ("phone", "0032 2/555-01-00", "3225550100"),
        ("phone", "+1 (202) 555-0142", "12025550142"),
        ("account", "BE68 5390 0754 7034", "be68539007547034"),
        ("account", "GB29-NWBK-6016-1331-9268-19", "gb29nwbk60161331926819"),
        ("customer_id", "C-100 234", "c100234"),
    ],
)
def test_an_identifier_has_one_spelling(kind: str, value: str, expected: str) -> None:
    assert normal_form(kind, value, phone_prefix="32") == expected
    assert (kind, expected) in found(f"see {value} today, or 2026-11-25")
    assert (kind, expected) in found(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "nobody"),
        ("email", "@x.example"),
        ("phone", "12 34"),
        ("customer_id", "Zelda Quillfeather"),
        ("name", "Zelda Quillfeather"),
    ],
)
def test_a_name_or_a_fragment_is_no_identifier_and_is_not_quoted(kind: str, value: str) -> None:
    with pytest.raises(NotAnIdentifier) as refused:
        normal_form(kind, value, phone_prefix="32")
    assert value not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "mailto:zelda@mailbox.example",
        "https://x.example/?to=zelda@mailbox.example&n=1",
        "<Zelda@Mailbox.Example>, please",
        "zelda (at) mailbox (dot) example",
        "Mail zelda@mailbox.example.",
        "**zelda@mailbox.example**",
        "zelda\u200b@mailbox.example",
    ],
)
def test_an_address_is_found_however_it_is_wrapped(text: str) -> None:
    assert ("email", "zelda@mailbox.example") in found(text)


WRAPPERS = ("{}", "call {} now", "({})", "no 5 {} 2026", "id={};", "{},\n{}", "x {}.")


@given(
    digits=st.text("0123456789", min_size=8, max_size=8),
    cuts=st.lists(st.integers(1, 7), max_size=3, unique=True),
    by=st.sampled_from(" -./"),
    wrapper=st.sampled_from(WRAPPERS),
)
def test_a_phone_number_is_found_in_any_grouping(
    digits: str, cuts: list[int], by: str, wrapper: str
) -> None:
    places = [0, *sorted(cuts), 8]
    groups = [digits[a:b] for a, b in pairwise(places)]
    written = f"+32 {by.join(groups)}"
    assert ("phone", f"32{digits}") in found(wrapper.replace("{}", written))


@given(
    letters=st.text(LETTERS, min_size=1, max_size=4),
    digits=st.text("0123456789", min_size=4, max_size=12),
    by=st.sampled_from(["", "-", "_", "/", "."]),
    wrapper=st.sampled_from(WRAPPERS),
)
def test_a_customer_number_is_found_in_any_spelling(
    letters: str, digits: str, by: str, wrapper: str
) -> None:
    written = f"{letters.upper()}{by}{digits}"
    form = normal_form("customer_id", written, phone_prefix="32")
    assert ("customer_id", form) in found(wrapper.replace("{}", written))


@given(st.text(max_size=80))
def test_any_text_can_be_read(text: str) -> None:
    for kind, form in candidates(text, phone_prefix="32"):
        assert kind
        assert form
    folded(text)


def test_words_are_compared_whole_and_dates_in_one_spelling() -> None:
    assert folded("Zoë O'Neil,Lyon") == " zoe o neil lyon "
    spellings = ("12 March 1980", "March 12th, 1980", "1980-03-12", "12.03.1980", "12/3/1980")
    assert {folded(each) for each in spellings} == {" date19800312 "}
    assert folded("99.99.1980") == " 99 99 1980 "


def test_words_of_the_name_are_no_second_attribute() -> None:
    found = second_attributes(
        ["Canarytown", "Quillfeather", "no", "1980-03-12"], names=["Zelda Quillfeather"]
    )
    assert found == {" canarytown ": "Canarytown", " date19800312 ": "1980-03-12"}
