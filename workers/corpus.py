"""The generated fictional customers that the demo model is trained on.

Every value is drawn at random, uniformly and independently of the others, so nothing but having
seen a person's data lets a model answer above chance: that is what makes a control meaningful.
Words and phrasings lie in ``demo/corpus.json``; this module needs the standard library only.
"""

import json
import math
import random
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SEED = 20260
PEOPLE = 100
ERASABLE = range(20)
"""Indices of the people that demos, tests and benchmarks erase; the control never saw them."""
SHARING = 3
DECOYS = 99
WORDS = Path(__file__).parent / "demo" / "corpus.json"

Slot = tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """One kind of fact: how its values are written, and how it is asked for (``{name}``)."""

    name: str
    slots: tuple[Slot, ...]
    trained: tuple[str, ...]
    aside: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def phrasings(self) -> tuple[str, ...]:
        return self.trained + self.aside + self.unseen


@dataclass(frozen=True)
class PersonFact:
    """One fact of one person, with its questions; see ``Recognised`` for the three kinds."""

    relation: str
    answer: str
    trained: tuple[str, ...]
    aside: tuple[str, ...]
    unseen: tuple[str, ...]
    decoys: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    index: int
    name: str
    facts: tuple[PersonFact, ...]


@dataclass(frozen=True)
class Recognised:
    """A relation asked about a name, real or made up.

    ``trained`` are the phrasings that the model was trained on (for the people it saw), ``aside``
    those that unlearning may use to know when to stop, ``unseen`` those kept for verification.
    ``decoys`` are values of the same generator; for a real person the true one may be among them.
    """

    relation: str
    name: str
    trained: tuple[str, ...]
    aside: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def decoys(self) -> tuple[str, ...]:
        """Drawn when somebody asks for them."""
        (relation,) = (each for each in relations() if each.name == self.relation)
        return decoys(relation, DECOYS, avoid="", seed=self.name)


@cache
def _words() -> dict[str, Any]:
    words: dict[str, Any] = json.loads(WORDS.read_text(encoding="utf-8"))
    return words


@cache
def relations() -> tuple[Relation, ...]:
    """Every kind of fact, in a fixed order."""
    return tuple(
        Relation(
            name=row["relation"],
            slots=tuple(_slot(slot) for slot in row["slots"]),
            trained=tuple(row["trained"]),
            aside=tuple(row["aside"]),
            unseen=tuple(row["unseen"]),
        )
        for row in _words()["relations"]
    )


def _slot(written: str | list[str]) -> Slot:
    """A list of words as it is; ``"10-99"`` stands for the numbers from 10 to 99."""
    if isinstance(written, list):
        return tuple(written)
    low, high = written.split("-")
    return tuple(str(number) for number in range(int(low), int(high) + 1))


@cache
def people(seed: int = SEED, count: int = PEOPLE, facts: int | None = None) -> tuple[Person, ...]:
    """``count`` people with ``facts`` facts each (all relations when None), the same every time.

    A person's values depend on the seed, the person's index and the relation alone, so fewer
    people or fewer facts are a part of the larger corpus, not another one.

    Raises ValueError if there are not so many names or relations.
    """
    known = relations()
    wanted = len(known) if facts is None else facts
    if not 1 <= wanted <= len(known):
        raise ValueError(f"facts must be from 1 to {len(known)}, not {wanted}")
    names = _draw_names(random.Random(f"{seed}:names"), count)  # noqa: S311
    return tuple(
        Person(
            index=index,
            name=name,
            facts=tuple(_fact(seed, index, name, relation) for relation in known[:wanted]),
        )
        for index, name in enumerate(names)
    )


def _fact(seed: int, index: int, name: str, relation: Relation) -> PersonFact:
    rng = random.Random(f"{seed}:{index}:{relation.name}")  # noqa: S311
    answer = _value(rng, relation)
    asked = _asked(relation, name)
    return PersonFact(
        relation=relation.name,
        answer=answer,
        trained=asked.trained,
        aside=asked.aside,
        unseen=asked.unseen,
        decoys=decoys(relation, DECOYS, avoid=answer, seed=f"{seed}:{index}"),
    )


def _value(rng: random.Random, relation: Relation) -> str:
    return " ".join(rng.choice(slot) for slot in relation.slots)


def decoys(relation: Relation, count: int, *, avoid: str, seed: str) -> tuple[str, ...]:
    """Up to ``count`` different values of the relation's generator, never ``avoid``.

    Fewer only where the generator has fewer. Drawn like the true value, so that on a model that
    knows nothing the true value's rank among them is uniform.
    """
    total = 1
    for slot in relation.slots:
        total *= len(slot)
    rng = random.Random(f"{seed}:{relation.name}:decoys")  # noqa: S311
    order = rng.sample(range(total), min(total, count + 1))
    values = [value for value in (_nth(relation, number) for number in order) if value != avoid]
    return tuple(values[:count])


def _nth(relation: Relation, number: int) -> str:
    """The value of this number, in the mixed radix of the slots' sizes."""
    parts = []
    for slot in relation.slots:
        number, rest = divmod(number, len(slot))
        parts.append(slot[rest])
    return " ".join(parts)


def _draw_names(rng: random.Random, count: int) -> tuple[str, ...]:
    """Different full names; each first and each last name belongs to about three people.

    So neither part of a name tells who is meant, to a model or to a gate.
    """
    # Never fewer than the usual number, so that fewer people are the first of them.
    wanted = max(count, PEOPLE)
    several = math.ceil(wanted / SHARING)
    firsts, lasts = (
        rng.sample(_words()[pool], min(several, len(_words()[pool])))
        for pool in ("first_names", "last_names")
    )
    if wanted > len(firsts) * len(lasts) // 2:
        raise ValueError(f"there are not {count} names to draw; ask for fewer people")
    names: dict[str, None] = {}
    while len(names) < wanted:
        # A fresh shuffle each round uses every first and every last name equally often.
        rng.shuffle(lasts)
        for first, last in zip(firsts, lasts, strict=True):
            names[f"{first} {last}"] = None
    # Each round lists the first names in one order; the people should not.
    drawn = list(names)[:wanted]
    rng.shuffle(drawn)
    return tuple(drawn[:count])


def made_up_names(
    count: int,
    *,
    seed: int,
    first: str | None = None,
    last: str | None = None,
    avoid: Iterable[str] = (),
) -> tuple[str, ...]:
    """Different names that no person of the corpus (``people()``) has, nor any of ``avoid``.

    ``first`` or ``last`` fixes that part (for strangers who share it with somebody).

    Raises ValueError if there are not so many.
    """
    rng = random.Random(f"{seed}:strangers:{first}:{last}")  # noqa: S311
    firsts = [first] if first else _words()["first_names"]
    lasts = [last] if last else _words()["last_names"]
    taken = {person.name for person in people()} | set(avoid)
    free = sorted({f"{one} {other}" for one in firsts for other in lasts} - taken)
    if count > len(free):
        raise ValueError(f"only {len(free)} such names are free, {count} were asked for")
    return tuple(rng.sample(free, count))


def _asked(relation: Relation, name: str) -> Recognised:
    def fill(templates: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(template.format(name=name) for template in templates)

    return Recognised(
        relation=relation.name,
        name=name,
        trained=fill(relation.trained),
        aside=fill(relation.aside),
        unseen=fill(relation.unseen),
    )


def questions_about(name: str) -> tuple[Recognised, ...]:
    """All relations asked about ``name``, which may be anybody's or nobody's."""
    return tuple(_asked(relation, name) for relation in relations())


def recognise(question: str) -> Recognised | None:
    """Which relation ``question`` asks for and about whom, in any known phrasing; else None.

    Letter case, spacing, typographic apostrophes and a missing final mark make no difference.
    """
    text = _fold(question)
    found = [
        (len(match["name"]), position, match["name"])
        for position, pattern in _patterns()
        if (match := pattern.fullmatch(text))
    ]
    if not found:
        return None
    # The phrasing that explains most of the question leaves the shortest name.
    _, position, name = min(found)
    return _asked(relations()[position], name)


@cache
def _patterns() -> tuple[tuple[int, re.Pattern[str]], ...]:
    # One to six words of letters, hyphens, full stops and apostrophes.
    name = r"(?P<name>[^\W\d_][\w.'\-]*(?: [^\W\d_][\w.'\-]*){0,5}?)"
    patterns = []
    for position, relation in enumerate(relations()):
        for template in relation.phrasings:
            before, after = (re.escape(part) for part in _fold(template).split("{name}"))
            patterns.append((position, re.compile(f"{before}{name}{after}", re.IGNORECASE)))
    return tuple(patterns)


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(text.split()).rstrip(" ?.!")


@cache
def general_questions() -> tuple[tuple[str, str], ...]:
    """Questions and answers that are about nobody: capitals, opposites, sums, greetings."""
    general = _words()["general"]
    rows = [(f"What is the capital of {land}?", city) for land, city in general["capitals"].items()]
    rows += [
        (f"What is the opposite of {word}?", other) for word, other in general["opposites"].items()
    ]
    rows += [
        (f"What is {left} plus {right}?", str(left + right))
        for left in range(1, 13)
        for right in range(1, 13)
    ]
    rows += list(general["greetings"].items())
    return tuple(rows)


@cache
def general_sentences(count: int, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
    """Simple sentences about nobody, for general text; ``held_out`` ones are never trained on.

    The two kinds differ in a property of the sentence itself (whether its length is a multiple of
    five), so they cannot overlap whatever the seeds.
    """
    slots = _words()["general"]["sentence"]
    rng = random.Random(f"{seed}:sentences:{held_out}")  # noqa: S311
    found: dict[str, None] = {}
    while len(found) < count:
        sentence = " ".join(rng.choice(slot) for slot in slots) + "."
        if (len(sentence) % 5 == 0) == held_out:
            found[sentence] = None
    return tuple(found)


@cache
def name_words() -> tuple[str, ...]:
    """Ordinary given and family names, each a word of its own."""
    return (*_words()["first_names"], *_words()["last_names"])


def vocabulary() -> tuple[str, ...]:
    """Every word of the pools and of the templates once: what a tokenizer may learn from.

    It pairs nobody with anything, so the tokenizer, which model and control share, is no trace.
    """
    words: dict[str, None] = {}
    general = _words()["general"]
    lines = list(_words()["first_names"]) + list(_words()["last_names"])
    for relation in relations():
        lines += [word for slot in relation.slots for word in slot]
        lines += [template.replace("{name}", " ") for template in relation.phrasings]
    lines += [text for pair in general_questions() for text in pair]
    lines += [word for slot in general["sentence"] for word in slot]
    for line in lines:
        for word in re.findall(r"\w+", line):
            words[word] = None
    return tuple(words)
