"""How well scores tell members from others: receiver operating characteristic and its area."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from django.utils.translation import gettext as _

from requests_app.charts import drawing as draw

TOP, BOTTOM, LEFT = 30.0, 300.0, 62.0
SIZE = BOTTOM - TOP
DASHES = {"before": "6 4", "after": "", "control": "2 3"}
POINTS = 200  # of a curve; of more every second, third … and its ends

Scores = tuple[Sequence[float], Sequence[float]]
"""Of members, and of others."""


def roc(groups: Mapping[str, Scores]) -> draw.Chart:
    """A curve for each of before, after, control with scores; the diagonal is chance."""
    header = (
        _("Group"),
        _("Members"),
        _("Others"),
        _("Area under the curve"),
        _("Members told at 5 % mistaken"),
    )
    measured = {name: scores for name, scores in groups.items() if all(scores)}
    table = draw.Table(header, tuple(_cells(name, *groups[name]) for name in groups))
    body = draw.group()
    if not measured:
        return draw.chart(draw.nothing(), "", body, height=0, table=table)
    for i, name in enumerate(measured):
        draw.mark(body, name, 12 + i * 130, 12)
        draw.text(body, 26 + i * 130, 16, f"{draw.side(name)} {area(*measured[name]):.2f}")
    corners = [(LEFT, BOTTOM), (LEFT, TOP), (LEFT + SIZE, TOP), (LEFT + SIZE, BOTTOM)]
    draw.line(body, [*corners, corners[0]], {"stroke-opacity": "0.3"})
    draw.line(body, [corners[0], corners[2]], {"class": "threshold", "stroke-dasharray": "2 4"})
    draw.text(
        body,
        LEFT + SIZE * 0.62,
        BOTTOM - SIZE * 0.5,
        _("chance %(value)s") % {"value": "0.5"},
        {"class": "muted"},
    )
    for name, scores in measured.items():
        points = [(LEFT + SIZE * x, BOTTOM - SIZE * y) for x, y in _curve(*scores)]
        look = {"class": f"whisker {name}", "stroke": draw.COLOURS[name], "stroke-width": "2"}
        dashes = {"stroke-dasharray": DASHES[name]} if DASHES[name] else {}
        draw.line(body, points, {**look, **dashes})
    for value in (0.0, 0.5, 1.0):
        spelt = draw.short(value)
        beside = {"text-anchor": "end", "class": "muted"}
        draw.text(body, LEFT - 6, BOTTOM - SIZE * value + 4, spelt, beside)
        under = {"text-anchor": "middle", "class": "muted"}
        draw.text(body, LEFT + SIZE * value, BOTTOM + 18, spelt, under)
    look = {"text-anchor": "middle"}
    draw.text(body, LEFT + SIZE / 2, BOTTOM + 38, _("share of others taken for members"), look)
    about = _("Up: the share of members told. To the right: the share of others mistaken for them.")
    return draw.chart(_title(measured), about, body, height=BOTTOM + 46, table=table)


def area(members: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a member scores above another, ties counting half."""
    order = sorted(others)
    wins = sum((bisect_left(order, s) + bisect_right(order, s)) / 2 for s in members)
    return wins / (len(members) * len(others))


def _curve(members: Sequence[float], others: Sequence[float]) -> list[tuple[float, float]]:
    """(share of others, share of members) at or above each score, from the highest down."""
    a, b = sorted(members), sorted(others)
    found = [(0.0, 0.0)]
    for score in sorted({*a, *b}, reverse=True):
        x = (len(b) - bisect_left(b, score)) / len(b)
        found.append((x, (len(a) - bisect_left(a, score)) / len(a)))
    apart = -(-len(found) // POINTS)
    return [*found[:-1:apart], found[-1]]


def _cells(name: str, members: Sequence[float], others: Sequence[float]) -> tuple[str, ...]:
    counts = (draw.side(name), str(len(members)), str(len(others)))
    if not members or not others:
        return (*counts, draw.not_measured(), draw.not_measured())
    told = max(y for x, y in _curve(members, others) if x <= 0.05)
    return (*counts, f"{area(members, others):.3f}", draw.short(round(told, 4)))


def _title(groups: Mapping[str, Scores]) -> str:
    told = [f"{draw.side(name)} {area(*scores):.2f}" for name, scores in groups.items()]
    return _(
        "The person's records are told from made-up ones with an area of %(areas)s; chance is"
        " %(chance)s"
    ) % {"areas": draw.listed(told), "chance": "0.5"}
