"""Texts about a person with everything left out that could tell of somebody.

The other way round from a list of names: only words that say nothing of anybody stay, so that what
was not thought of is left out too. Neither the length nor the number of the words shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TOKEN = re.compile(r"([\s,.?!;:()\"\u201c\u201d-]*)([^\s,.?!;:()\"\u201c\u201d-]+|$)")
WORDS = (
    "a about am an and are as asked at be been by can cannot could did do does don't from had has"
    " have help her hers him his how i i'm in information is it its know me my no nobody not of on"
    " or question she he says sorry tell than that the their them there they this to unable was we"
    " were what when where which who whom whose with would yes you your"
)
PLAIN = frozenset(WORDS.split())


def redacted(text: str, known: Iterable[str] = ()) -> list[str]:
    """The text in parts, an empty one for each stretch that is left out. Words of `known` (names
    and values) are left out though they be plain ones; so is a capital inside a sentence."""
    hidden = {word.casefold() for each in known for _, word in TOKEN.findall(each)}
    parts, clear, left_out = list[str](), "", False
    for separators, word in TOKEN.findall(text):
        at_start = not parts and not clear
        plain = word.replace("\u2019", "'")
        plain = plain.lower() if at_start or plain in ("I", "I'm") else plain
        if not word or (plain in PLAIN and word.casefold() not in hidden):
            clear += separators + word
            left_out = False
        elif not left_out:
            parts += [*([clear + separators] if clear + separators else []), ""]
            clear, left_out = "", True
    return [*parts, clear] if clear else parts
