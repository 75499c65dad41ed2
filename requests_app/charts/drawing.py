"""How a figure is drawn: marks, lines and texts, and how numbers are spelt in it.

Drawn with presentation attributes alone (no style, no script), so that a strict policy lets it
through and a saved file looks the same; pages recolour it by class.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

Element = ElementTree.Element

WIDTH = 440.0
FONT = "12.5"
LEFT, RIGHT = 62.0, 378.0  # of a scale; what stands before and after it names its ends
COLOURS = {"before": "#0072b2", "after": "#b84a00", "control": "#00735a"}
LABEL_CHARACTERS = 26
SIDES = {
    "before": gettext_noop("before"),
    "after": gettext_noop("after"),
    "control": gettext_noop("control"),
}
"""What a group of figures is called; its name stays the key of colours and marks."""


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A figure; `wide` is one that may scroll sideways rather than shrink."""

    title: str
    svg: SafeString
    table: Table
    wide: bool = False


def chart(
    title: str,
    about: str,
    body: Element,
    *,
    height: float,
    table: Table,
    wide: bool = False,
) -> Chart:
    if not len(body):
        text(body, 2, 24, nothing())
        height = 40
    root = element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_at(WIDTH)} {_at(height)}",
            "role": "img",
            "font-family": "system-ui, sans-serif",
            "font-size": FONT,
            "fill": "currentColor",
        },
    )
    root.append(element("title", {}, title))
    if about:
        root.append(element("desc", {}, about))
    root.append(body)
    # ElementTree escapes every text and attribute, so the markup holds no one else's.
    svg = SafeString(ElementTree.tostring(root, encoding="unicode"))
    return Chart(title=title, svg=svg, table=table, wide=wide)


def element(tag: str, attributes: Mapping[str, str], text: str = "") -> Element:
    made = Element(tag, {name: _clean(value) for name, value in attributes.items()})
    made.text = _clean(text) or None
    return made


def group(parent: Element | None = None, attributes: Mapping[str, str] | None = None) -> Element:
    made = element("g", attributes or {})
    if parent is not None:
        parent.append(made)
    return made


def text(
    parent: Element,
    x: float,
    y: float,
    text: str,
    attributes: Mapping[str, str] | None = None,
) -> None:
    parent.append(element("text", {"x": _at(x), "y": _at(y), **(attributes or {})}, text))


def line(
    parent: Element,
    points: Iterable[tuple[float, float]],
    attributes: Mapping[str, str],
) -> None:
    places = " ".join(f"{_at(x)},{_at(y)}" for x, y in points)
    look = {"points": places, "fill": "none", "stroke": "currentColor", **attributes}
    parent.append(element("polyline", look))


def mark(parent: Element, name: str, x: float, y: float) -> None:
    """Circle, diamond or square around (x, y); hollow but for `after`, so that none hides one."""
    look = {"class": f"mark {name}", "stroke": COLOURS[name], "stroke-width": "2.5"}
    if name == "before":
        place = {"cx": _at(x), "cy": _at(y), "r": "7"}
        parent.append(element("circle", {**look, **place, "fill": "none"}))
    elif name == "control":
        place = {"x": _at(x - 6), "y": _at(y - 6), "width": "12", "height": "12"}
        parent.append(element("rect", {**look, **place, "fill": "none"}))
    else:
        place = {"d": f"M{_at(x)} {_at(y - 6)}l6 6l-6 6l-6-6z"}
        parent.append(element("path", {**look, **place, "fill": COLOURS[name]}))


def whisker(
    parent: Element, start: float, end: float, other: float, *, upright: bool = False
) -> None:
    """From `start` to `end` with a bar across the end; `other` is the coordinate that stays."""
    for points in ([(start, other), (end, other)], [(end, other - 6), (end, other + 6)]):
        turned = [(b, a) if upright else (a, b) for a, b in points]
        line(parent, turned, {"class": "whisker after", "stroke": COLOURS["after"]})


def threshold_tick(parent: Element, x: float, y: float) -> None:
    line(parent, [(x, y - 12), (x, y + 12)], {"class": "threshold", "stroke-width": "3"})


def verdict(parent: Element, x: float, y: float, *, holds: bool) -> None:
    """A tick or a cross, drawn, since not every font has them."""
    tick = f"M{_at(x - 5)} {_at(y)}l4 5l7-10"
    cross = f"M{_at(x - 5)} {_at(y - 5)}l10 10m0-10l-10 10"
    look = {"class": "verdict", "fill": "none", "stroke": "currentColor", "stroke-width": "2"}
    parent.append(element("path", {**look, "d": tick if holds else cross}))


def box(x: float, y: float, wide: float, high: float) -> str:
    return f"M{_at(x)} {_at(y)}h{_at(wide)}v{_at(high)}h{_at(-wide)}z"


# --- Numbers and words --------------------------------------------------------------------------
def number_of(text: str) -> float | None:
    """A recorded decimal string; None where it is empty or nothing that can be drawn."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _at(value: float) -> str:
    found = f"{value:.1f}".rstrip("0").rstrip(".")
    return "0" if found == "-0" else found


def short(value: float) -> str:
    """A number in at most four figures."""
    return f"{value:.4g}"


def ceiling(value: float) -> float:
    """The least of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))


def round_ends(low: float, high: float) -> tuple[float, float]:
    """Round ends of a scale around values, with some air; never of width zero."""
    step = ceiling(max(high - low, abs(high) / 50, 1e-6) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return first * step, last * step


def _clean(text: str) -> str:
    """Without the characters that XML forbids."""
    return re.sub(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def cut(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1].rstrip() + "…"


def side(name: str) -> str:
    """A group of figures as it is called, in the language of the page."""
    return _(SIDES[name]) if name in SIDES else name


def not_measured() -> str:
    return _("not measured")


def nothing() -> str:
    return _("Nothing was measured")


def none() -> str:
    return _("none")


def result(holds: bool | None) -> str:
    return {True: _("within"), False: _("not within"), None: _("for information")}[holds]


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c and 2 more`."""
    if len(words) > 4:
        words = [*words[:3], _("%(count)s more") % {"count": len(words) - 3}]
    if len(words) == 1:
        return words[0]
    return _("%(words)s and %(last)s") % {"words": ", ".join(words[:-1]), "last": words[-1]}
