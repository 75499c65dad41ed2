"""Who is still told after how many requests: a heat map of requests and people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from requests_app.charts import drawing as draw

CELLS_WITH_TEXT = 20
LEFT, TOP = 34.0, 56.0
STAIRS = {"class": "stairs", "stroke-dasharray": "4 3", "stroke-width": "1.5"}


@dataclass(frozen=True)
class _Grid:
    """The size of a cell; `x` of a column and `y` of a row are its near edges."""

    wide: float
    high: float
    columns: int

    def x(self, column: float) -> float:
        return LEFT + column * self.wide

    def y(self, row: float) -> float:
        return TOP + row * self.high

    def box(self, row: int, column: int, *, inset: float = 0.0) -> str:
        size = (self.wide - 2 * inset, self.high - 2 * inset)
        return draw.box(self.x(column) + inset, self.y(row) + inset, *size)


def matrix(
    people: Sequence[int],
    requests: Sequence[int],
    values: Sequence[Sequence[float | None]],
    *,
    limits: Sequence[float],
) -> draw.Chart:
    """A heat map: a row for each of `requests` (measured after so many), a column for each person.

    `values` lie between 0 (nothing told) and 1; `limits` has one number a person. People stand in
    the order of their requests: the one of column j was asked for by request j + 1, and what is
    told before that is no relapse. Shades are in tenths. ValueError if the sizes do not fit.
    """
    if len(values) != len(requests) or len(limits) != len(people):
        raise ValueError("A matrix needs a row a request and a limit a person.")
    rows, columns = len(requests), len(people)
    if not rows or not columns:
        return draw.chart(
            draw.nothing(), "", draw.group(), height=0, table=draw.Table((_("After request"),), ())
        )
    grid = _Grid((draw.WIDTH - LEFT - 4) / columns, max(4.0, min(22.0, 420 / rows)), columns)
    shades: dict[int, list[str]] = {}
    again = []
    cells = _texts("middle", columns)
    for i, row in enumerate(values):
        if len(row) != columns:
            raise ValueError("A row of a matrix needs a value a person.")
        for j, value in enumerate(row):
            if value is not None:
                tenth = round(10 * min(1.0, max(0.0, value)))
                shades.setdefault(tenth, []).append(grid.box(i, j))
                if value > limits[j] and j < requests[i]:
                    again.append(grid.box(i, j, inset=0.75))
            if columns <= CELLS_WITH_TEXT and grid.high >= 11:
                draw.text(cells, grid.x(j + 0.5), grid.y(i + 0.5) + 3.5, _cell(value))
    body = draw.group()
    for tenth in sorted(shades):
        body.append(_shade(tenth, "".join(shades[tenth])))
    body.append(cells)
    if again:
        body.append(_frame("".join(again)))
    _labels(body, people, requests, grid)
    later = any(number < columns for number in requests)
    if later:
        _stairs(body, requests, grid)
    height = _key(body, grid.y(rows) + 12, again=bool(again), later=later)
    header = (
        _("After request"),
        *(_("person %(number)s") % {"number": number} for number in people),
    )
    told = tuple(
        (str(number), *(draw.not_measured() if v is None else f"{v:.2f}" for v in row))
        for number, row in zip(requests, values, strict=True)
    )
    title = _title(people, requests[-1], values[-1], limits)
    about = _(
        "A row for each request, a column for each person; the darker, the more is still told."
    )
    return draw.chart(
        title, about, body, height=height, table=draw.Table(header, told), wide=columns > 5
    )


def _title(
    people: Sequence[int], after: int, last: Sequence[float | None], limits: Sequence[float]
) -> str:
    erased = list(zip(people, last, limits, strict=True))[:after]
    over = [str(person) for person, value, limit in erased if value is not None and value > limit]
    missing = [str(person) for person, value, _ in erased if value is None]
    who = _("nobody that was measured is") if missing else _("nobody is")
    if over:
        text = ngettext("person %(persons)s is", "persons %(persons)s are", len(over))
        who = text % {"persons": draw.listed(over)}
    text = ngettext(
        "After %(count)s request %(who)s told again above the limit",
        "After %(count)s requests %(who)s told again above the limit",
        after,
    )
    title = text % {"count": after, "who": who}
    if missing:
        title += "; " + _("%(count)s of %(all)s people not measured") % {
            "count": len(missing),
            "all": len(erased),
        }
    return title


def _labels(
    body: draw.Element, people: Sequence[int], requests: Sequence[int], grid: _Grid
) -> None:
    draw.text(body, 2, 14, _("Down: after so many requests. Across: person."), {"class": "muted"})
    across, down = _texts("middle", grid.columns), _texts("end", grid.columns)
    for j in range(0, len(people), 1 if len(people) <= CELLS_WITH_TEXT else 10):
        draw.text(across, grid.x(j + 0.5), TOP - 6, str(people[j]))
    for i in range(0, len(requests), 1 if grid.high >= 11 else math.ceil(11 / grid.high)):
        draw.text(down, LEFT - 6, grid.y(i + 0.5) + 3.5, str(requests[i]))
    body.extend((across, down))


def _stairs(body: draw.Element, requests: Sequence[int], grid: _Grid) -> None:
    """The line between people whose request is done and those whose turn comes later."""
    points = [
        (grid.x(number), grid.y(end))
        for i, number in enumerate(requests)
        if number < grid.columns
        for end in (i, i + 1)
    ]
    draw.line(body, points, STAIRS)


def _key(body: draw.Element, y: float, *, again: bool, later: bool) -> float:
    """What shades and lines mean; returns where the drawing ends."""
    draw.text(body, 2, y + 11, "0")
    for i, tenth in enumerate((0, 2, 4, 6, 8, 10)):
        body.append(_shade(tenth, draw.box(14 + i * 18, y, 18, 14)))
    draw.text(body, 126, y + 11, _("1: all is told"))
    if later:
        y += 22
        draw.line(body, [(14, y + 7), (46, y + 7)], STAIRS)
        draw.text(body, 54, y + 11, _("right of it: request comes later"))
    if again:
        y += 22
        body.append(_frame(draw.box(14, y, 32, 14)))
        draw.text(body, 54, y + 11, _("framed: told again above the limit"))
    return y + 20


def _cell(value: float | None) -> str:
    """Two decimals in as few characters as they take: `0`, `.05`, `1`."""
    if value is None:
        return "?"
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("0.", ".", 1) or "0"


def _texts(anchor: str, columns: int) -> draw.Element:
    """A group for the texts of cells, small where there are many."""
    size = "9" if columns > 5 else draw.FONT
    return draw.group(attributes={"text-anchor": anchor, "font-size": size})


def _shade(tenth: int, path: str) -> draw.Element:
    opacity = 0.05 + 0.055 * tenth  # at most 0.6, so that text on it stays readable
    look = {"class": "heat", "fill": draw.COLOURS["before"], "fill-opacity": f"{opacity:.3f}"}
    return draw.element("path", {**look, "d": path})


def _frame(path: str) -> draw.Element:
    look = {"class": "again", "fill": "none", "stroke": draw.COLOURS["after"]}
    return draw.element("path", {**look, "stroke-width": "1.5", "d": path})
