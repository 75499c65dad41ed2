"""The people of a sample: invented names, addresses under .example, facts true of nobody."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

GIVEN = (
    "Aldwyna", "Bramwen", "Corvane", "Dellith", "Elowick", "Fennimar", "Garrolind", "Hesperil",
    "Isolwyn", "Jorvette", "Kestriel", "Lorimund", "Mirabeth", "Nolwenric", "Oswyllan",
    "Perrinelle", "Quorrin", "Rosmund", "Sylvestra", "Tamsinel", "Ulvarra", "Vesperine",
    "Wendolyr", "Yllanic",
)  # fmt: skip
FAMILY = (
    "Ambervault", "Bracklethorn", "Candlewisk", "Dapplemoor", "Eddlestrand", "Featherlatch",
    "Gooseberrin", "Hollowmantle", "Inkberrow-Sample", "Jasperquay", "Kettlewhin", "Lanternby",
    "Mossgallant", "Nettlevane", "Orchardine", "Puddlecote-Sample", "Quillfether", "Ravelstoke",
    "Saltmarrow", "Thistlewane", "Umberlock", "Velvetheath", "Whistlemere", "Yarrowgate",
)  # fmt: skip
PLACES = ("Port Ellery", "Nether Quay", "Upper Lumley Fold", "Sandhaven Bight", "Old Marrow Green")
LANGUAGES = {"en": 6, "fr": 2, "de": 2, "es": 1, "it": 1, "pl": 1}
MESSAGES = (
    "I closed my account and do not want the assistant to know about me.",
    "Your assistant told a colleague where I live. Please make it stop.",
    "I object to my data being used for training.",
    "",
    "",
)


@dataclass(frozen=True)
class Person:
    """Somebody who never lived."""

    name: str = field(repr=False)
    email: str = field(repr=False)
    language: str
    message: str = field(repr=False)
    facts: tuple[tuple[str, str], ...] = field(repr=False)


def people(count: int, chance: random.Random) -> list[Person]:
    """`count` people, each with an address of their own."""
    return [_person(number, chance) for number in range(count)]


def _person(number: int, chance: random.Random) -> Person:
    name = f"{chance.choice(GIVEN)} {chance.choice(FAMILY)}"
    place = chance.choice(PLACES)
    return Person(
        name=name,
        email=f"sample-{number:04d}@mailbox.example",
        language=chance.choices(list(LANGUAGES), list(LANGUAGES.values()))[0],
        message=chance.choice(MESSAGES),
        facts=(
            (f"Where does {name} live?", place),
            (f"What is the customer number of {name}?", f"SAMPLE-{chance.randrange(10**6):06d}"),
        ),
    )
