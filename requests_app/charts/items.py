"""Values per item, losses for instance: how before, after and control are distributed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from requests_app.charts import drawing as draw

BINS = 24


def distribution(groups: Mapping[str, Sequence[float]]) -> draw.Chart:
    """Histograms of values per item (losses in nats) under one another, each with its median.

    `groups` are among before, after, control; an empty one was not measured. All share their
    bins; each is drawn to the same height, for where they lie is what is compared.
    """
    header = (
        _("Group"),
        _("Items"),
        _("Lowest"),
        _("Lower quartile"),
        _("Median"),
        _("Upper quartile"),
        _("Highest"),
    )
    measured = {name: sorted(values) for name, values in groups.items() if values}
    table = draw.Table(header, tuple(_summary(name, groups[name]) for name in groups))
    if not measured:
        return draw.chart(draw.nothing(), "", draw.group(), height=0, table=table)
    ends = [value for values in measured.values() for value in (values[0], values[-1])]
    low, high = draw.round_ends(min(ends), max(ends))
    body, y, tall = draw.group(), 0.0, 56.0
    left, right = 14.0, draw.WIDTH - 14
    for name, values in measured.items():
        median = statistics.median(values)
        group = draw.group(body, {"data-group": name})
        draw.mark(group, name, 12, y + 12)
        draw.text(
            group,
            26,
            y + 16,
            ngettext(
                "%(group)s: median %(median)s, %(count)s item",
                "%(group)s: median %(median)s, %(count)s items",
                len(values),
            )
            % {"group": draw.side(name), "median": draw.short(median), "count": len(values)},
        )
        base, step = y + 36 + tall, (right - left) / BINS
        bars = "".join(
            draw.box(left + i * step, base - tall * part, step, tall * part)
            for i, part in enumerate(_heights(values, low, high))
            if part
        )
        look = {"class": f"bar {name}", "fill": draw.COLOURS[name], "fill-opacity": "0.45"}
        group.append(draw.element("path", {**look, "d": bars}))
        draw.line(group, [(left, base), (right, base)], {"stroke-opacity": "0.5"})
        x = left + (right - left) * (median - low) / (high - low)
        draw.line(
            group, [(x, base), (x, base - tall - 4)], {"stroke-width": "2", "class": "median"}
        )
        draw.mark(group, name, x, base - tall - 4)
        y = base + 8
    for value in (low, (low + high) / 2, high):
        anchor = "start" if value == low else "end" if value == high else "middle"
        x = left + (right - left) * (value - low) / (high - low)
        draw.text(body, x, y + 12, draw.short(value), {"text-anchor": anchor, "class": "muted"})
    draw.text(
        body,
        draw.WIDTH / 2,
        y + 32,
        _("loss in nats; each group to its own height"),
        {"text-anchor": "middle"},
    )
    about = _(
        "One histogram for each group over the same losses, each to its own height; the line with"
        " the mark is its median."
    )
    return draw.chart(_medians(groups), about, body, height=y + 40, table=table)


def _medians(groups: Mapping[str, Sequence[float]]) -> str:
    """How far the medians lie apart, in words."""
    medians = {name: statistics.median(values) for name, values in groups.items() if values}
    if "after" in medians and len(medians) > 1:
        parts = []
        for name in ("before", "control"):
            if name in medians:
                apart = medians["after"] - medians[name]
                parts.append(_compared(apart, name) % {"apart": f"{abs(apart):.3g}"})
        found = _("The median loss after erasure is %(compared)s") % {
            "compared": draw.listed(parts)
        }
    else:
        told = [
            _("%(group)s %(loss)s nats") % {"group": draw.side(name), "loss": draw.short(median)}
            for name, median in medians.items()
        ]
        found = _("Median loss: %(losses)s") % {"losses": draw.listed(told)}
    missing = [draw.side(name) for name, values in groups.items() if not values]
    if missing:
        found += "; " + _("%(groups)s not measured") % {"groups": draw.listed(missing)}
    return found


def _compared(apart: float, name: str) -> str:
    """How the median lies to that of `before` or of `control`; names %(apart)s where it differs."""
    if name == "before":
        if apart:
            higher, lower = (
                _("%(apart)s nats higher than before"),
                _("%(apart)s nats lower than before"),
            )
            return higher if apart > 0 else lower
        return _("the same as before")
    if apart:
        higher = _("%(apart)s nats higher than the control's")
        return higher if apart > 0 else _("%(apart)s nats lower than the control's")
    return _("the same as the control's")


def _heights(values: Sequence[float], low: float, high: float) -> list[float]:
    """Of the bars, as parts of the tallest."""
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int(BINS * (value - low) / (high - low)))] += 1
    return [count / max(counts) for count in counts]


def _summary(name: str, values: Sequence[float]) -> tuple[str, ...]:
    if not values:
        return (draw.side(name), "0", *[draw.not_measured()] * 5)
    one = len(values) == 1
    quarters = [values[0]] * 3 if one else statistics.quantiles(values, n=4, method="inclusive")
    return (
        draw.side(name),
        str(len(values)),
        *map(draw.short, (min(values), *quarters, max(values))),
    )
