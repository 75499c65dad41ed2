"""Counts out of so many as bars from 0 to 1, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from django.utils.translation import gettext as _

from requests_app.charts import drawing as draw

Z95 = 1.959964
ROW = 44.0


@dataclass(frozen=True)
class Share:
    """`count` of `n`; `side` (before, after, control) gives the colour."""

    label: str
    count: int
    n: int
    side: str = "after"

    @property
    def value(self) -> float:
        return self.count / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 % (JASA 22, 1927)."""
        p, n, z = self.value, self.n, Z95
        middle, spread = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = ((middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n))
        return max(0.0, low), min(1.0, high)


def shares(title: str, rows: Sequence[Share], *, unit: str) -> draw.Chart:
    """One bar a row, in its order; `unit` says what is counted. A row with n = 0 is said, not
    drawn."""
    header = (
        _("What"),
        _("Count of %(unit)s") % {"unit": unit},
        "n",
        _("Share"),
        _("95 % interval"),
    )
    table = draw.Table(header, tuple(_cells(row) for row in rows))
    body, y = draw.group(), 4.0
    left, right = 14.0, draw.WIDTH - 14
    for row in rows:
        line = draw.group(body, {"data-share": row.label})
        told = _told(row)
        draw.text(line, left, y + 14, told)
        if row.n:
            colour = {"class": f"bar {row.side}", "fill": draw.COLOURS[row.side]}
            wide = (right - left) * row.value
            box = draw.box(left, y + 20, max(wide, 0.5), 12)
            line.append(draw.element("path", {**colour, "fill-opacity": "0.45", "d": box}))
            ends = [left + (right - left) * end for end in row.interval]
            look = {"stroke-width": "1.5", "class": "interval"}
            draw.line(line, [(ends[0], y + 26), (ends[1], y + 26)], look)
            for end in ends:
                draw.line(line, [(end, y + 21), (end, y + 31)], look)
        y += ROW
    draw.line(body, [(left, y), (right, y)], {"stroke-opacity": "0.5"})
    for value, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        x = left + (right - left) * value
        draw.text(body, x, y + 16, draw.short(value), {"text-anchor": anchor, "class": "muted"})
    words = _("share of %(unit)s; whiskers: 95 %% interval") % {"unit": unit}
    draw.text(body, draw.WIDTH / 2, y + 34, words, {"text-anchor": "middle"})
    about = _("One bar for each row from 0 to 1; the line with two ends is its 95 % interval.")
    return draw.chart(title, about, body, height=y + 42, table=table)


def _told(row: Share) -> str:
    named = {"label": row.label, "count": row.count, "n": row.n}
    told = _("%(label)s: %(count)s of %(n)s") if row.n else _("%(label)s: none asked")
    return told % named


def _cells(row: Share) -> tuple[str, ...]:
    if not row.n:
        return (row.label, "0", "0", draw.not_measured(), draw.none())
    low, high = row.interval
    return (
        row.label,
        str(row.count),
        str(row.n),
        draw.short(row.value),
        _("%(low)s to %(high)s") % {"low": draw.short(low), "high": draw.short(high)},
    )
