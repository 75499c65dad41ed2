"""Utility across releases, held against the original model and not against the last release."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _

from requests_app.charts import drawing as draw


@dataclass(frozen=True)
class Point:
    """A measure after a release, as a ratio to the original model's; None was not measured."""

    release: int
    ratio: float | None
    lower: float | None = None
    upper: float | None = None


def trend(points: Sequence[Point], limit: float) -> draw.Chart:
    """Utility after each release as a ratio to the original model's, with bounds and least value.

    A point that was not measured is a gap in the line and says so in the table.
    """
    header = (
        _("Release"),
        _("Ratio to the original model"),
        _("Lower bound"),
        _("Upper bound"),
        _("Limit"),
    )
    table = draw.Table(
        header,
        tuple(
            (
                str(point.release),
                draw.not_measured() if point.ratio is None else draw.short(point.ratio),
                *(draw.none() if v is None else draw.short(v) for v in (point.lower, point.upper)),
                draw.short(limit),
            )
            for point in points
        ),
    )
    known = [(i, p, p.ratio) for i, p in enumerate(points) if p.ratio is not None]
    if not known:
        return draw.chart(draw.nothing(), "", draw.group(), height=0, table=table)
    given = [v for _, p, _ in known for v in (p.ratio, p.lower, p.upper) if v is not None]
    low, high = draw.round_ends(min(*given, limit, 1.0), max(*given, limit, 1.0))
    top, bottom, left, right = 34.0, 216.0, draw.LEFT, draw.WIDTH - 20

    def x(i: int) -> float:
        return (
            (left + right) / 2
            if len(points) == 1
            else left + 12 + (right - left - 24) * i / (len(points) - 1)
        )

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    body = draw.group()
    draw.text(body, 2, 16, _("Ratio to the original model (1 = as good)"))
    for value in (low, (low + high) / 2, high):
        draw.line(body, [(left, y(value)), (right, y(value))], {"stroke-opacity": "0.2"})
        draw.text(
            body,
            left - 6,
            y(value) + 4,
            draw.short(value),
            {"text-anchor": "end", "class": "muted"},
        )
    look = {"class": "threshold", "stroke-width": "2", "stroke-dasharray": "6 4"}
    draw.line(body, [(left, y(limit)), (right, y(limit))], look)
    under = y(limit) + 18 <= bottom
    draw.text(
        body,
        left + 4,
        y(limit) + (16 if under else -6),
        _("limit %(value)s") % {"value": draw.short(limit)},
    )
    for piece in _unbroken(known):
        draw.line(body, [(x(i), y(ratio)) for i, _, ratio in piece], {"stroke-width": "2"})
    for i, point, ratio in known:
        for end in (point.lower, point.upper):
            if end is not None and end != ratio:
                draw.whisker(body, y(ratio), y(end), x(i), upright=True)
        draw.mark(body, "after", x(i), y(ratio))
    every = math.ceil(len(points) / 12)
    for i in range(len(points) - 1, -1, -every):
        number = str(points[i].release)
        draw.text(body, x(i), bottom + 20, number, {"text-anchor": "middle", "class": "muted"})
    draw.text(body, (left + right) / 2, bottom + 42, _("release"), {"text-anchor": "middle"})
    about = _(
        "A diamond for each release, its bounds as whiskers; the dashed line is the least value."
    )
    return draw.chart(
        _title(points, limit, known[-1]), about, body, height=bottom + 50, table=table
    )


def _title(points: Sequence[Point], limit: float, found_last: tuple[int, Point, float]) -> str:
    last, ratio = found_last[1:]
    where = _("above") if ratio > limit else _("below") if ratio < limit else _("at")
    found = _(
        "Utility after release %(release)s is %(ratio)s times the original model's, %(where)s its"
        " limit of %(limit)s"
    ) % {
        "release": last.release,
        "ratio": draw.short(ratio),
        "where": where,
        "limit": draw.short(limit),
    }
    if ratio >= limit and last.lower is not None and last.lower < limit:
        found += "; " + _("its lower bound %(bound)s is below") % {"bound": draw.short(last.lower)}
    if last is not points[-1]:
        found += "; " + _("release %(release)s not measured") % {"release": points[-1].release}
    return found


def _unbroken(known: Sequence[tuple[int, Point, float]]) -> list[list[tuple[int, Point, float]]]:
    """The same points in pieces without a gap."""
    pieces: list[list[tuple[int, Point, float]]] = []
    for each in known:
        if pieces and pieces[-1][-1][0] == each[0] - 1:
            pieces[-1].append(each)
        else:
            pieces.append([each])
    return pieces
