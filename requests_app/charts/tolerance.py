"""What erasing cost everything else: ratios to before, each with the band that is tolerated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _

from requests_app.charts import drawing as draw

ROW = 74.0


@dataclass(frozen=True)
class Band:
    """A measure after as a ratio to before; between 1 and `limit` it is tolerated."""

    label: str
    n: int
    ratio: float
    bound: float | None
    limit: float | None

    @property
    def is_within(self) -> bool | None:
        """By the bound, where there is one; None without a limit."""
        if self.limit is None:
            return None
        value = self.ratio if self.bound is None else self.bound
        return value >= self.limit if self.limit < 1 else value <= self.limit


def tolerance(bands: Sequence[Band]) -> draw.Chart:
    """One line a measure, all on the same scale around 1."""
    header = (
        _("Measure"),
        "n",
        _("Ratio to before"),
        _("95 % bound"),
        _("Limit"),
        _("Result"),
    )
    table = draw.Table(header, tuple(_cells(band) for band in bands))
    if not bands:
        return draw.chart(draw.nothing(), "", draw.group(), height=0, table=table)
    given = [
        value for b in bands for value in (b.ratio, b.bound, b.limit, 1.0) if value is not None
    ]
    reach = draw.ceiling(1.25 * max(abs(value - 1) for value in given) or 0.01)
    low, high = 1 - reach, 1 + reach

    def x(value: float) -> float:
        return draw.LEFT + (draw.RIGHT - draw.LEFT) * (value - low) / (high - low)

    body, y = draw.group(), 4.0
    for band in bands:
        line = draw.group(body, {"data-band": band.label})
        draw.text(line, 2, y + 15, band.label, {"font-weight": "600"})
        told = f"{draw.short(band.ratio)}, {draw.result(band.is_within)}"
        draw.text(line, draw.WIDTH - 2, y + 15, told, {"text-anchor": "end"})
        middle = y + 42
        if band.limit is not None:
            start, end = sorted((x(band.limit), x(1.0)))
            path = draw.box(start, middle - 12, end - start, 24)
            look = {"class": "bar control", "fill": draw.COLOURS["control"], "fill-opacity": "0.2"}
            line.append(draw.element("path", {**look, "d": path}))
            draw.threshold_tick(line, x(band.limit), middle)
        draw.line(line, [(draw.LEFT, middle), (draw.RIGHT, middle)], {"stroke-opacity": "0.3"})
        if band.bound is not None and band.bound != band.ratio:
            draw.whisker(line, x(band.ratio), x(band.bound), middle)
        draw.mark(line, "before", x(1.0), middle)
        draw.mark(line, "after", x(band.ratio), middle)
        y += ROW
    for value in (low, 1.0, high):
        anchor = "start" if value == low else "end" if value == high else "middle"
        look = {"text-anchor": anchor, "class": "muted"}
        draw.text(body, x(value), y + 4, draw.short(value), look)
    words = _("ratio to before; shaded: tolerated")
    draw.text(body, draw.WIDTH / 2, y + 24, words, {"text-anchor": "middle"})
    about = _(
        "One line for each measure. Circle: before. Diamond: after; the whisker ends at its 95 %"
        " bound. The shaded band reaches from no change to the limit."
    )
    return draw.chart(_title(bands), about, body, height=y + 32, table=table)


def _cells(band: Band) -> tuple[str, ...]:
    bound, limit = (
        draw.none() if value is None else draw.short(value) for value in (band.bound, band.limit)
    )
    return (
        band.label,
        str(band.n),
        draw.short(band.ratio),
        bound,
        limit,
        draw.result(band.is_within),
    )


def _title(bands: Sequence[Band]) -> str:
    beyond = [draw.lower_first(band.label) for band in bands if band.is_within is False]
    decided = [band for band in bands if band.is_within is not None]
    if beyond:
        return _("Beyond what is tolerated: %(measures)s") % {"measures": draw.listed(beyond)}
    told = [
        _("%(measure)s is %(ratio)s times before")
        % {"measure": draw.lower_first(b.label), "ratio": draw.short(b.ratio)}
        for b in bands
    ]
    found = draw.listed(told)
    found = found[:1].upper() + found[1:]
    return _("%(found)s, as tolerated") % {"found": found} if decided else found
