"""How the losses of training went, step by step, while it goes on and afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from requests_app.charts import drawing as draw

DASHES = {"forget_loss": "", "keep_loss": "6 4", "loss": "2 3"}
NAMES = {
    "forget_loss": gettext_noop("forgetting"),
    "keep_loss": gettext_noop("keeping"),
    "loss": gettext_noop("together"),
}
MARKS = {"forget_loss": "after", "keep_loss": "control", "loss": "before"}
TOP, BOTTOM, RIGHT = 34.0, 176.0, draw.WIDTH - 14
ROWS = 60  # of the table; of more steps every second, third … and the last one


@dataclass(frozen=True)
class Step:
    """The losses after a step, in nats, by name; `names` of `NAMES` are drawn."""

    step: int
    values: Mapping[str, float]


def losses(steps: Sequence[Step], limits: Mapping[str, float] | None = None) -> draw.Chart:
    """A line a loss over the steps, ended by its mark; `limits` are dashed lines with their words.

    A step trained twice, after a worker died, counts as it was told last.
    """
    limits = dict(limits or {})
    told = {each.step: each.values for each in steps}
    names = [name for name in NAMES if any(name in values for values in told.values())]
    header = (
        _("Step"),
        *(_("Loss, %(name)s (nats)") % {"name": _(NAMES[name])} for name in names),
    )
    order = sorted(told)
    apart = -(-len(order) // ROWS)
    shown = [step for i, step in enumerate(order) if (len(order) - 1 - i) % max(apart, 1) == 0]
    table = draw.Table(
        header,
        tuple(
            (
                str(step),
                *(
                    draw.short(told[step][n]) if n in told[step] else draw.not_measured()
                    for n in names
                ),
            )
            for step in shown
        ),
    )
    if not names:
        return draw.chart(
            draw.nothing(), "", draw.group(), height=0, table=draw.Table((_("Step"),), ())
        )
    given = [values[name] for values in told.values() for name in names if name in values]
    low, high = draw.round_ends(min(0.0, *given), max(*given, *limits.values(), 1e-6))
    first, last = order[0], order[-1]

    def x(step: int) -> float:
        left = draw.LEFT
        return left + (RIGHT - left) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    body = draw.group()
    for i, name in enumerate(names):
        draw.mark(body, MARKS[name], 12 + i * 130, 12)
        draw.text(body, 26 + i * 130, 16, _(NAMES[name]))
    for value in (low, (low + high) / 2, high):
        draw.line(body, [(draw.LEFT, y(value)), (RIGHT, y(value))], {"stroke-opacity": "0.2"})
        look = {"text-anchor": "end", "class": "muted"}
        draw.text(body, draw.LEFT - 6, y(value) + 4, draw.short(value), look)
    for words, value in limits.items():
        look = {"class": "threshold", "stroke-width": "2", "stroke-dasharray": "6 4"}
        draw.line(body, [(draw.LEFT, y(value)), (RIGHT, y(value))], look)
        draw.text(body, draw.LEFT + 4, y(value) - 6, f"{words} {draw.short(value)}")
    for name in names:
        points = [(x(step), y(told[step][name])) for step in order if name in told[step]]
        dashes = {"stroke-dasharray": DASHES[name]} if DASHES[name] else {}
        colour = {"class": f"whisker {MARKS[name]}", "stroke": draw.COLOURS[MARKS[name]]}
        draw.line(body, points, {**colour, "stroke-width": "2", **dashes})
        draw.mark(body, MARKS[name], *points[-1])
    for step in {first, last}:
        anchor = "middle" if first == last else "start" if step == first else "end"
        look = {"text-anchor": anchor, "class": "muted"}
        draw.text(body, x(step), BOTTOM + 18, str(step), look)
    middle = (draw.LEFT + RIGHT) / 2
    draw.text(body, middle, BOTTOM + 36, _("step; loss in nats"), {"text-anchor": "middle"})
    about = _("One line for each loss, ended by its mark.")
    return draw.chart(_title(told, names), about, body, height=BOTTOM + 44, table=table)


def _title(told: Mapping[int, Mapping[str, float]], names: Sequence[str]) -> str:
    """Where each loss began and stands, in words."""
    parts = []
    for name in names:
        values = [told[step][name] for step in sorted(told) if name in told[step]]
        start, end = draw.short(values[0]), draw.short(values[-1])
        if start == end:
            text = _("%(name)s stays at %(end)s")
        elif values[-1] > values[0]:
            text = _("%(name)s rose from %(start)s to %(end)s")
        else:
            text = _("%(name)s fell from %(start)s to %(end)s")
        parts.append(text % {"name": _(NAMES[name]), "start": start, "end": end})
    steps = max(told)
    text = ngettext(
        "Loss after %(count)s step: %(losses)s", "Loss after %(count)s steps: %(losses)s", steps
    )
    return text % {"count": steps, "losses": draw.listed(parts)}
