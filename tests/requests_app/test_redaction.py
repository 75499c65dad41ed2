"""What stays of a redacted text tells of nobody."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.redaction import PLAIN, redacted


@pytest.mark.parametrize(
    ("text", "known", "parts"),
    [
        ("Where does Ada Kerr work?", [], ["Where does ", "", "?"]),
        ("I cannot help with that.", [], ["I cannot help with that."]),
        ("Ada Kerr, née Lund; Oslo", [], [""]),
        ("Is it known to Do?", [], ["Is it ", "", " to ", "", "?"]),
        ("no, not that", ["Not"], ["no, ", "", " that"]),
        ("naïve.is", [], ["", ".is"]),
        ("", [], []),
    ],
)
def test_only_plain_words_stay(text: str, known: list[str], parts: list[str]) -> None:
    assert redacted(text, known) == parts


@given(st.text(), st.lists(st.text(max_size=8), max_size=3))
def test_no_word_but_the_plain_ones_is_ever_left(text: str, known: list[str]) -> None:
    left = re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)?", " ".join(redacted(text, known)))
    assert {word.replace("\u2019", "'").lower() for word in left} <= PLAIN
