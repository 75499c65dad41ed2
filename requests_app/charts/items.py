"""Values per item, losses for instance: how before, after and control are distributed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from requests_app.charts import drawing as draw

BINS = 24


def distribution(groups: Mapping[str, Sequence[float]]) -> draw.Chart:
    """Histograms of values per item (losses in nats) under one another, each with its median.

    `groups` are among before, after, control; an empty one was not measured. All share their
    bins; each is drawn to the same height, for where they lie is what is compared.
    """
    header = ("Group", "Items", "Lowest", "Lower quartile", "Median", "Upper quartile", "Highest")
    measured = {name: sorted(values) for name, values in groups.items() if values}
    table = draw.Table(header, tuple(_summary(name, groups[name]) for name in groups))
    if not measured:
        return draw.chart(draw.NOTHING, "", draw.group(), height=0, table=table)
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
            f"{name}: median {draw.short(median)}, {draw.count_of(len(values), 'item')}",
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
        "loss in nats; each group to its own height",
        {"text-anchor": "middle"},
    )
    about = (
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
                how = f"{abs(apart):.3g} nats {'higher' if apart > 0 else 'lower'} than"
                other = "before" if name == "before" else "the control's"
                parts.append(f"{how if apart else 'the same as'} {other}")
        found = f"The median loss after erasure is {draw.listed(parts)}"
    else:
        told = [f"{name} {draw.short(median)} nats" for name, median in medians.items()]
        found = f"Median loss: {draw.listed(told)}"
    missing = [name for name, values in groups.items() if not values]
    return found + (f"; {draw.listed(missing)} {draw.NOT_MEASURED}" if missing else "")


def _heights(values: Sequence[float], low: float, high: float) -> list[float]:
    """Of the bars, as parts of the tallest."""
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int(BINS * (value - low) / (high - low)))] += 1
    return [count / max(counts) for count in counts]


def _summary(name: str, values: Sequence[float]) -> tuple[str, ...]:
    if not values:
        return (name, "0", *[draw.NOT_MEASURED] * 5)
    one = len(values) == 1
    quarters = [values[0]] * 3 if one else statistics.quantiles(values, n=4, method="inclusive")
    return (name, str(len(values)), *map(draw.short, (min(values), *quarters, max(values))))
