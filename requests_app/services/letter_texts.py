"""The texts of letters: one folder a language, one file a letter or mail, filled and never guessed.

The first line of a file names its version, the slots that must be filled, and whether a person who
knows language and law has reviewed it:
`{# version: 2026-3; slots: reference, due; reviewed: no #}`. An empty slot blocks the letter (GDPR
Art. 12(4): a refusal without reasons and remedies may not leave the house). `{% include
"parts/rights.txt" %}` stands for a part that several letters share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.template import Context, Engine
from django.utils import translation
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from requests_app.services.errors import Invalid

SOURCE = "en"
HEADER = re.compile(
    r"\{# version: (?P<version>[\w.-]+); slots: (?P<slots>[\w, ]+);"
    r" reviewed: (?P<reviewed>yes|no) #\}\n"
)
PART = re.compile(r'\{% include "(parts/[a-z]+\.txt)" %\}\n')
Fill = Callable[[], Mapping[str, object]]
"""Says the slots of a letter; called in the letter's language."""

NAMES = {
    "acknowledgement": gettext_lazy("Confirmation of receipt"),
    "identity_question": gettext_lazy("Question about your identity"),
    "extension": gettext_lazy("We need more time"),
    "restriction": gettext_lazy("Restriction of processing"),
    "restriction_lifted": gettext_lazy("End of the restriction"),
    "completion": gettext_lazy("Answer: granted"),
    "partial": gettext_lazy("Answer: granted in part"),
    "refusal": gettext_lazy("Answer: refused"),
    "cannot_identify": gettext_lazy("Answer: we cannot identify you"),
    "excessive": gettext_lazy("Answer: manifestly unfounded or excessive"),
    "withdrawal": gettext_lazy("Confirmation of withdrawal"),
    "recipients": gettext_lazy("Who received your data"),
}
FALLBACK = gettext_lazy(
    "Our letters in %(language)s are not ready yet, so this one is in English. Tell us if you need"
    " help to understand it."
)


@dataclass(frozen=True)
class LetterTemplate:
    """One file of templates/letters/<language>, its parts put in."""

    kind: str
    language: str
    version: str
    slots: tuple[str, ...]
    reviewed: bool
    text: str


@dataclass(frozen=True)
class Wording:
    """A letter as it would be written: in which language, and which slots are still empty.

    `note` is the line about a language that is not there; `text` is empty while slots are missing.
    """

    template: LetterTemplate
    missing: tuple[str, ...]
    note: str
    text: str


def folder() -> Path:
    return Path(settings.BASE_DIR) / "templates" / "letters"


def kinds(language: str = SOURCE) -> list[str]:
    """The names of all letters and mails there are in a language."""
    return sorted(path.stem for path in (folder() / language).glob("*.txt"))


@lru_cache(maxsize=256)
def load_template(kind: str, language: str = SOURCE) -> LetterTemplate:
    """Read one template; Invalid for an unknown name or a file without its header line."""
    if kind not in kinds(language):
        raise Invalid(f"There is no letter “{kind}”. Known: {', '.join(kinds(language))}.")
    own = folder() / language
    text = (own / f"{kind}.txt").read_text(encoding="utf-8")
    header = HEADER.match(text)
    if header is None:
        raise Invalid(f"The letter “{kind}” does not begin with its version, slots and review.")
    slots = tuple(slot.strip() for slot in header["slots"].split(","))
    whole = PART.sub(lambda part: (own / part[1]).read_text("utf-8"), text[header.end() :])
    return LetterTemplate(
        kind, language, header["version"], slots, header["reviewed"] == "yes", whole
    )


def language_of(kind: str, wanted: str) -> str:
    """The language a letter is written in: the one wanted, or English where it has no such letter,
    or none that was reviewed while RTBF_REVIEWED_LETTERS_ONLY is set."""
    if kind not in kinds(wanted):
        return SOURCE
    if settings.RTBF_REVIEWED_LETTERS_ONLY and not load_template(kind, wanted).reviewed:
        return SOURCE
    return wanted


def word(kind: str, wanted: str, fill: Fill) -> Wording:
    """Word a letter in the language wanted or, with a note that says so, in English.

    Slots that the template has no place for are an error of ours: Invalid.
    """
    language = language_of(kind, wanted)
    template = load_template(kind, language)
    with translation.override(language):
        slots = fill()
        if unknown := sorted(set(slots) - set(template.slots)):
            raise Invalid(f"The letter “{kind}” has no place for {', '.join(unknown)}.")
        missing = tuple(slot for slot in template.slots if not _is_filled(slots.get(slot)))
        # Plain text, hence no HTML escaping. Values are data: none is ever read as a template.
        engine = Engine(autoescape=False)
        text = (
            ""
            if missing
            else engine.from_string(template.text).render(Context(dict(slots), autoescape=False))
        )
    note = "" if language == wanted else fallback_note(wanted)
    return Wording(template, missing, note, text if missing or not note else f"{note}\n\n{text}")


def render(kind: str, fill: Fill, *, language: str = SOURCE) -> str:
    """The text of a letter; Invalid names every slot that is missing, empty or unknown."""
    return complete(word(kind, language, fill))


def complete(wording: Wording) -> str:
    """The text; Invalid names every slot that is empty."""
    if wording.missing:
        kind, empty = wording.template.kind, ", ".join(wording.missing)
        raise Invalid(
            _("The letter “%(kind)s” cannot be written: %(empty)s is empty.")
            % {"kind": kind, "empty": empty}
        )
    return wording.text


def fallback_note(wanted: str) -> str:
    """That a letter is not in the language wanted: said in that language, and in English."""
    names = {"language": dict(settings.LANGUAGES).get(wanted, wanted)}
    lines = []
    for language in (wanted, SOURCE):
        with translation.override(language):
            lines.append(str(FALLBACK) % names)
    return "\n".join(dict.fromkeys(lines))


def letter_name(kind: str) -> str:
    """What a page calls a letter, in the language of the page."""
    return str(NAMES.get(kind, kind))


def spell_date(day: date) -> str:
    """A date as people write it in the language in force, e.g. `22 November 2026`."""
    return date_format(day, "DATE_FORMAT")


def _is_filled(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [], (), {})
