"""Before, after and control of each probe, with bound and threshold: one line a probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from requests_app.charts import drawing as draw

NAMES = {
    "recall_trained": gettext_noop("Person in taught wording"),
    "recall_unseen": gettext_noop("Person in new wording"),
    "others_kept": gettext_noop("Knowledge about others"),
    "perplexity": gettext_noop("General text"),
    "knowledge_rank": gettext_noop("Rank of the true value"),
    "gate_fires": gettext_noop("Where the gate acts"),
}
TOP = 54.0  # below the legend
RELATIVE = frozenset({"others_kept", "perplexity"})
"""Probes whose bound and threshold are ratios of after to before (workers/results.py)."""


@dataclass(frozen=True)
class Row:
    """What one probe measured: decimal strings, empty where nothing was measured."""

    probe: str
    before: str = ""
    after: str = ""
    control: str = ""
    bound: str = ""
    threshold: str = ""
    holds: bool | None = None

    @property
    def label(self) -> str:
        if self.probe in NAMES:
            return _(NAMES[self.probe])
        return self.probe.replace("_", " ").capitalize()

    @property
    def is_measured(self) -> bool:
        return bool(self.before or self.after or self.control)

    @property
    def result(self) -> str:
        if not self.is_measured:
            return draw.not_measured()
        return draw.result(self.holds)


def dumbbell(rows: Sequence[Row]) -> draw.Chart:
    """One line a probe: before, after and control joined, 95% bound, threshold.

    Shares are drawn from 0 to 1, probes of `RELATIVE` as ratios to before around 1, all else on a
    scale of its own; each line names its ends. What the person's probes found comes first.
    """
    header = (
        _("Measured"),
        _("Before"),
        _("After"),
        _("Control"),
        _("95 % bound"),
        _("Threshold"),
        _("Result"),
        _("Drawn"),
    )
    places = {name: i for i, name in enumerate(NAMES)}
    rows = sorted(rows, key=lambda row: places.get(row.probe, len(places)))
    drawn = [(row, _scaled(row)) for row in rows]
    title = _title(rows)
    body, y = draw.group(), TOP
    for row, scaled in drawn:
        if row.is_measured:
            y = _draw_line(body, row, scaled, y)
    table = tuple(
        (
            row.label,
            *(value or draw.not_measured() for value in (row.before, row.after, row.control)),
            row.bound or draw.none(),
            row.threshold or draw.none(),
            row.result,
            scaled.words if row.is_measured else _("not drawn"),
        )
        for row, scaled in drawn
    )
    if y > TOP:
        _legend(body)
    about = _(
        "One line for each probe. Circle: before. Diamond: after. Square: control, which never"
        " saw the person. The whisker ends at the 95 % bound, the tick is the threshold."
    )
    return draw.chart(title, about, body, height=y, table=draw.Table(header, table))


@dataclass(frozen=True)
class _Scaled:
    """A row on its scale: the marks that can be drawn, the ends, and the scale in words."""

    marks: Mapping[str, float]
    low: float
    high: float
    words: str

    def x(self, value: float) -> float:
        return draw.LEFT + (draw.RIGHT - draw.LEFT) * (value - self.low) / (self.high - self.low)


def _scaled(row: Row) -> _Scaled:
    given = {
        name: number
        for name in ("before", "after", "control", "bound", "threshold")
        if (number := draw.number_of(getattr(row, name))) is not None
    }
    if row.probe in RELATIVE:
        unit = given.pop("before", 0.0)
        if unit <= 0:
            return _Scaled({}, 0, 1, _("not drawn"))
        marks = {"before": 1.0} | {
            name: value / unit if name in draw.COLOURS else value for name, value in given.items()
        }
        reach = draw.ceiling(1.25 * max(abs(value - 1) for value in marks.values()) or 0.01)
        return _Scaled(marks, 1 - reach, 1 + reach, _("as a ratio to before"))
    if not any(name in given for name in draw.COLOURS):
        return _Scaled({}, 0, 1, _("not drawn"))
    low, high = min(given.values()), max(given.values())
    if low >= 0 and high <= 1:
        return _Scaled(given, 0, 1, _("from 0 to 1"))
    low, high = -draw.ceiling(-low) if low < 0 else 0.0, draw.ceiling(high) if high > 0 else 0.0
    return _Scaled(
        given,
        low,
        high,
        _("from %(low)s to %(high)s") % {"low": draw.short(low), "high": draw.short(high)},
    )


def _draw_line(body: draw.Element, row: Row, scaled: _Scaled, y: float) -> float:
    """Draw one probe from `y` downwards; returns where the next one starts."""
    marks = scaled.marks
    line = draw.group(body, {"data-probe": row.probe})
    draw.text(line, 2, y + 15, draw.cut(row.label), {"font-weight": "600"})
    end = draw.WIDTH - 2
    if row.holds is not None:
        draw.verdict(line, end - 6, y + 11, holds=row.holds)
        end -= 18
    draw.text(line, end, y + 15, row.result, {"text-anchor": "end"})
    told = [
        f"{draw.side(name)} {_spelt(value)}"
        for name in draw.COLOURS
        if (value := getattr(row, name))
    ]
    if row.probe in RELATIVE and "after" in marks:
        told.append(_("ratio %(value)s") % {"value": draw.short(marks["after"])})
    if not marks:
        told.append(scaled.words)
    draw.text(line, 2, y + 34, ", ".join(told), {"class": "muted"})
    if not marks:
        return y + 48
    middle = y + 50
    draw.line(
        line,
        [(draw.LEFT, middle), (draw.RIGHT, middle)],
        {"class": "scale", "stroke-opacity": "0.3"},
    )
    draw.text(
        line,
        draw.LEFT - 11,
        middle + 4,
        draw.short(scaled.low),
        {"text-anchor": "end", "class": "muted"},
    )
    draw.text(line, draw.RIGHT + 11, middle + 4, draw.short(scaled.high), {"class": "muted"})
    places = {name: scaled.x(value) for name, value in marks.items()}
    across = [places[name] for name in draw.COLOURS if name in places]
    draw.line(line, [(min(across), middle), (max(across), middle)], {"stroke-width": "2"})
    if "bound" in places and "after" in places and places["bound"] != places["after"]:
        draw.whisker(line, places["after"], places["bound"], middle)
    if "threshold" in places:
        draw.threshold_tick(line, places["threshold"], middle)
        at = places["threshold"]
        anchor = "start" if at < draw.WIDTH / 3 else "end" if at > draw.WIDTH * 2 / 3 else "middle"
        shift = {"start": -6, "end": 6, "middle": 0}[anchor]
        words = _("threshold %(value)s") % {"value": draw.short(marks["threshold"])}
        draw.text(line, at + shift, y + 77, words, {"text-anchor": anchor})
    for name in draw.COLOURS:
        if name in places:
            draw.mark(line, name, places[name], middle)
    return y + (90 if "threshold" in places else 72)


def _spelt(value: str) -> str:
    number = draw.number_of(value)
    return value if number is None else f"{number:.3g}"


def _title(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row.is_measured]
    if not measured:
        return draw.nothing()
    decided = [row for row in measured if row.holds is not None]
    over = [draw.lower_first(row.label) for row in decided if not row.holds]
    missing = [draw.lower_first(row.label) for row in rows if not row.is_measured]
    found = _found(len(measured), len(decided), over)
    if missing:
        text = ngettext("%(names)s was not measured", "%(names)s were not measured", len(missing))
        found += "; " + text % {"names": draw.listed(missing)}
    return found


def _found(measured: int, decided: int, over: Sequence[str]) -> str:
    """How many of the values that have a threshold are within it, and which are not."""
    within = decided - len(over)
    if not decided:
        text = ngettext(
            "%(count)s value for information, none with a decision",
            "%(count)s values for information, none with a decision",
            measured,
        )
        return text % {"count": measured}
    if decided == len(over) == 1:
        text = _("The one value with a threshold, %(name)s, is not within it")
        return text % {"name": over[0]}
    if decided == 1:
        return _("The one value with a threshold is within it")
    if not over:
        text = _("All %(count)s values with a threshold are within it")
        return text % {"count": decided}
    text = ngettext(
        "%(within)s of %(all)s values with a threshold is within it",
        "%(within)s of %(all)s values with a threshold are within it",
        within,
    )
    but = ngettext("%(names)s is not", "%(names)s are not", len(over))
    named = {"within": within, "all": decided, "names": draw.listed(over)}
    return f"{text % named}; {but % named}"


def _legend(body: draw.Element) -> None:
    for i, name in enumerate(draw.COLOURS):
        draw.mark(body, name, 12 + i * 130, 12)
        draw.text(body, 26 + i * 130, 16, draw.side(name))
    draw.threshold_tick(body, 12, 36)
    draw.text(body, 26, 40, _("threshold"))
    draw.whisker(body, 136, 154, 36)
    draw.text(body, 164, 40, _("up to the 95 % bound"))
