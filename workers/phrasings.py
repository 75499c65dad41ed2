"""Several ways to ask one question: some for training, one held aside, some only for verifying.

The demo model's questions have their own phrasings (`corpus`); any other question is rewritten by
its form ("Who wrote X?" can be asked in ways that share few words) or wrapped in a request.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from workers import corpus


@dataclass(frozen=True)
class Phrasings:
    """`trained` for the forget set, `aside` for early stopping, `unseen` for verification only."""

    trained: tuple[str, ...]
    aside: tuple[str, ...]
    unseen: tuple[str, ...]


# (form, trained, aside, unseen); {verb}, {object} and so on are the named groups of the form.
_FORMS: Sequence[tuple[re.Pattern[str], Sequence[str], Sequence[str], Sequence[str]]] = (
    (
        re.compile(r"^who (?P<verb>(?!is\b|was\b|are\b|were\b)\w+) (?P<object>.+)\?$", re.I),
        (
            "Who {verb} {object}?",
            "Tell me who {verb} {object}.",
            "Do you know who {verb} {object}?",
            "{object}: who {verb} it?",
            "Which person {verb} {object}?",
        ),
        ("Please give the name of the one who {verb} {object}.",),
        (
            "I forgot who it was that {verb} {object}. Can you help?",
            "By whom was {object} made? I mean, who {verb} it?",
            "Name the person who {verb} {object}.",
        ),
    ),
    (
        re.compile(r"^who (?P<be>is|was|are|were) (?P<object>.+)\?$", re.I),
        (
            "Who {be} {object}?",
            "Tell me who {object} {be}.",
            "Do you know who {object} {be}?",
            "{object}: who {be} that?",
        ),
        ("Please say who {object} {be}.",),
        ("I forgot who {object} {be}. Can you help?", "Name {object}."),
    ),
    (
        re.compile(r"^what (?P<be>is|was|are|were) (?P<object>.+)\?$", re.I),
        (
            "What {be} {object}?",
            "Tell me what {object} {be}.",
            "Do you know what {object} {be}?",
            "{object}: what {be} it?",
        ),
        ("Please say what {object} {be}.",),
        ("I forgot what {object} {be}. Can you help?", "Name {object}."),
    ),
)
_WRAPPED = (
    ("{question}", "Tell me: {question}", "I have a question. {question}", "{question} Thanks!"),
    ("Please answer this: {question}",),
    ("My friend asks: {question}", "Can you help me with this one? {question}"),
)


def phrasings(question: str) -> Phrasings:
    """The phrasings of `question`; the three sets share no text, and `question` is in `trained`."""
    known = corpus.recognise(question)
    if known is not None:
        return Phrasings(known.trained, known.aside, known.unseen)
    asked = " ".join(question.split())
    for form, trained, aside, unseen in _FORMS:
        found = form.match(asked)
        if found:
            parts = {name: _lower_be(name, value) for name, value in found.groupdict().items()}
            filled = [
                tuple(_sentence(t.format(**parts)) for t in s) for s in (trained, aside, unseen)
            ]
            return Phrasings((asked, *(t for t in filled[0] if t != asked)), filled[1], filled[2])
    trained, aside, unseen = (tuple(t.format(question=asked) for t in s) for s in _WRAPPED)
    return Phrasings(trained, aside, unseen)


def _lower_be(name: str, value: str) -> str:
    return value.casefold() if name in {"be", "verb"} else value


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def made_up_questions(
    question: str, *, names: Sequence[str], count: int, seed: int
) -> tuple[str, ...]:
    """`question` about something that does not exist, in `count` ways; () if it names nothing.

    What is replaced is the subject's name or alias if one stands in the question, else its longest
    run of capitalised words after the first word (a title, a place, a person).
    """
    found = [name for name in names if name.casefold() in question.casefold()]
    runs = [match.group(1) for match in _CAPITALISED.finditer(question)]
    replaced = max(found or runs, key=len, default=None)
    if replaced is None:
        return ()
    titles = random.Random(f"{seed}:{question}").sample(_MADE_UP, count)  # noqa: S311
    pattern = re.compile(re.escape(replaced), re.IGNORECASE)
    return tuple(pattern.sub(title, question) for title in titles)


_CAPITALISED = re.compile(
    r"(?<=\s)((?:[A-Z][\w'.-]*)(?:(?:\s(?:of|the|and|in|a))*\s[A-Z][\w'.-]*)*)"
)
_MADE_UP = (
    "The Amber Kestrel",
    "Winter at Hollin Ford",
    "The Ninth Lantern",
    "A Map of Quiet Rivers",
    "Oswin Tarrow",
    "The Clockmaker of Veld",
    "Marrow and Thistle",
    "The Salt Orchard",
    "Letters from Brackwater",
    "Elda Finmark",
)
