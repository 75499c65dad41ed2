"""Looking through a training set for one person's records; memory stays flat.

An exact identifier is enough. A name counts only together with a second attribute in the same
record (a fact's value, a date of birth, a postcode): namesakes are not the person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

from requests_app import training_data
from requests_app.identifiers import (
    NotAnIdentifier,
    candidates,
    folded,
    normal_form,
    second_attributes,
)
from requests_app.services import training
from requests_app.services.errors import Invalid, LeaseLost
from requests_app.services.training import FoundRecord, SearchInput
from requests_app.training_data import DataError, Record

log = logging.getLogger(__name__)

EXCERPT = 240  # characters
EVERY = 2000  # records between two signs of life
BATCH = 50


@dataclass(frozen=True)
class Person:
    """What to look for, in the spelling of comparison."""

    identifiers: frozenset[tuple[str, str]]
    names: tuple[str, ...]
    attributes: Mapping[str, str]
    fields: Mapping[str, str]

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(kind for kind, _ in self.identifiers)


def person_of(given: SearchInput) -> Person:
    names = tuple(words for name in given.names if (words := folded(name)).strip())
    return Person(
        identifiers=frozenset(given.identifiers),
        names=names,
        attributes=second_attributes(given.attributes, names=given.names),
        fields=given.fields,
    )


Progress = Callable[[int, int], None]


def silent(records: int, found: int) -> None:
    """Progress that nobody looks at; the row of the search has it in any case."""


def search(given: SearchInput, progress: Progress = silent) -> None:
    """One search from its first record to its end, written. `progress` gets records, matches of
    this pass. Raises LeaseLost."""
    person = person_of(given)
    found: list[FoundRecord] = []
    count, matches, error = 0, 0, ""
    try:
        for record in training_data.records(given.source):
            count = record.number
            if (match := matched(record, person)) is not None:
                found.append(match)
                matches += 1
            if len(found) >= BATCH or count % EVERY == 0:
                training.save_matches(given, records=count, found=found)
                progress(count, matches)
                found = []
        training.save_matches(given, records=count, found=found)
        progress(count, matches)
    except (DataError, Invalid) as problem:  # ours: no data in them
        error = str(problem)
    except LeaseLost:
        raise
    except Exception as problem:  # noqa: BLE001  (the text may quote the person's data)
        error = f"unexpected error: {type(problem).__name__}"
    training.end_search(given, error=error)


def work_off(search_id: UUID, owner: str, *, progress: Progress = silent) -> None:
    """Take up a search if nobody else has it; safe to call any number of times."""
    given = training.lease_search(search_id=search_id, owner=owner)
    if given is None:
        return
    try:
        search(given, progress)
    except LeaseLost:
        log.warning("search %s: another worker took over", search_id)


def matched(record: Record, person: Person) -> FoundRecord | None:
    """Why the record may be the person's; None if nothing says so."""
    hits = list(_identified(record, person))
    named = [text for text in record.texts.values() if _names_in(text, person)]
    if named and (attribute := _attribute_in(record, person)):
        hits += [("name", text) for text in named]
        hits.append(("fact", attribute))
    if not hits:
        return None
    return FoundRecord(
        record_id=record.record_id,
        matched=tuple(dict.fromkeys(kind for kind, _ in hits)),
        count=len(hits),
        excerpt=" … ".join(dict.fromkeys(text[:EXCERPT] for _, text in hits))[: 2 * EXCERPT],
    )


def _identified(record: Record, person: Person) -> Iterator[tuple[str, str]]:
    prefix = settings.RTBF_PHONE_PREFIX
    for name, text in record.texts.items():
        found = {
            each
            for each in candidates(text, phone_prefix=prefix, kinds=person.kinds)
            if each in person.identifiers
        }
        if kind := person.fields.get(name):
            with suppress(NotAnIdentifier):
                found |= {(kind, normal_form(kind, text, phone_prefix=prefix))} & person.identifiers
        for kind in sorted({kind for kind, _ in found}):
            yield kind, text


def _names_in(text: str, person: Person) -> bool:
    words = folded(text)
    return any(name in words for name in person.names)


def _attribute_in(record: Record, person: Person) -> str:
    """A text of the record that holds a second attribute; empty if none does."""
    for text in record.texts.values():
        words = folded(text)
        if any(attribute in words for attribute in person.attributes):
            return text
    return ""
