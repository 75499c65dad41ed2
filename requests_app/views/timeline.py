"""The timeline of a case: who did what and when, newest first, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from requests_app import selectors
from requests_app.models.people import Role
from requests_app.selectors import TimelineItem
from requests_app.views.common import actor_names

SHOWN = 30
FILTERS = {
    "all": _("All"),
    "people": _("People"),
    "system": _("System"),
    "letters": _("Letters"),
}


@dataclass(frozen=True)
class Timeline:
    """One page of it. `lines` are entries with their actor's name; `earlier` and `newest` are
    query strings, empty where there is nothing more."""

    lines: tuple[tuple[TimelineItem, str], ...]
    filters: tuple[tuple[str, str, int], ...]  # name, label, how many
    show: str
    earlier: str
    newest: str


def timeline(items: list[TimelineItem], query: QueryDict, *, whole: bool = False) -> Timeline:
    """The page that the address asks for: `show` is one of FILTERS, `before` a number of the
    case's chain. What is neither is as if it were not there."""
    show = query.get("show", "all")
    show = show if show in FILTERS else "all"
    before = query.get("before", "")
    found = {name: [item for item in items if _is_of(item, name)] for name in FILTERS}
    older = found[show]
    if before.isdecimal() and not whole:
        older = [item for item in older if item.case_seq < int(before)]
    page = older if whole else older[-SHOWN:]
    names = actor_names(item.actor for item in page)
    return Timeline(
        lines=tuple((item, names[item.actor]) for item in reversed(page)),
        filters=tuple((name, str(label), len(found[name])) for name, label in FILTERS.items()),
        show=show,
        earlier=urlencode({"show": show, "before": page[0].case_seq}) if older != page else "",
        newest=urlencode({"show": show}) if older != found[show] else "",
    )


def _is_of(item: selectors.TimelineItem, show: str) -> bool:
    kind = item.actor.partition(":")[0]
    by_people = kind in Role.values or kind == "subject"
    return {
        "all": True,
        "people": by_people,
        "system": not by_people,
        "letters": item.type.startswith("letter.") or "letter" in item.data,
    }[show]
