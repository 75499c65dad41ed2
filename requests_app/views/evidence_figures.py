"""The figures of a run's evidence as drawings, from its probes and its sealed rows.

The rows lie in the vault under the case's key and hold numbers alone; once the case is sealed they
are gone, and what is drawn of them with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from requests_app import charts, selectors, vault
from requests_app.charts import drawing
from requests_app.charts.drawing import number_of
from requests_app.models import ErasureRun, ProbeResult
from requests_app.services import evidence_tables
from requests_app.services.errors import Invalid, WrongState

SIDES = ("before", "after", "control")
UTILITY = {
    "others_kept": gettext_noop("Knowledge about others"),
    "perplexity": gettext_noop("Perplexity of general text"),
}
FULLY = 0.99  # of a gate's strength
ATTACK = "min_k"  # the membership attack that the probe reports

Tables = Mapping[str, Mapping[str, Any]]
"""By probe: `salt`, `facts`, and rows by side, as the worker wrote them."""


def tables_of(run: ErasureRun) -> Tables:
    """The sealed rows of a run; empty where there are none, none any more, or changed ones."""
    try:
        found = evidence_tables.tables_of(run)
    except (Invalid, WrongState, vault.VaultError):
        return {}
    return {probe: json.loads(data) for probe, data in found.items()}


def figures_of(
    run: ErasureRun, probes: Sequence[ProbeResult], tables: Tables
) -> dict[str, charts.Chart]:
    """Every figure that can be drawn, by the name of its file."""
    losses = selectors.item_losses(run) if "answer_loss" in tables else {}
    found = {
        "probes": probes_chart(probes),
        "told": told_chart(tables),
        "losses": charts.distribution(losses) if losses else None,
        "membership": membership_chart(tables),
        "utility": utility_chart(probes),
        "gate": gate_chart(tables),
    }
    return {name: each for name, each in found.items() if each is not None}


def probes_chart(probes: Sequence[ProbeResult]) -> charts.Chart:
    return charts.dumbbell(
        [
            charts.Row(p.probe, p.before, p.after, p.control, p.bound, p.threshold, p.holds)
            for p in probes
        ]
    )


def told_by_fact(table: Mapping[str, Any]) -> dict[str, dict[int, list[bool]]]:
    """By side and fact, whether each wording was answered with the fact."""
    found: dict[str, dict[int, list[bool]]] = {}
    for side, rows in table["sides"].items():
        for row in rows:
            if row["role"] == "true" and row.get("told") is not None:
                found.setdefault(side, {}).setdefault(row["item"], []).append(row["told"])
    return found


def told_chart(tables: Tables) -> charts.Chart | None:
    """How many facts are told in at least one wording: the worst case, not the mean."""
    rows = []
    for probe, words in (("recall_unseen", _("new")), ("recall_trained", _("taught"))):
        told = told_by_fact(tables[probe]) if probe in tables else {}
        for side in SIDES:
            if facts := told.get(side):
                label = _("%(side)s, %(words)s wording") % {
                    "side": drawing.side(side),
                    "words": words,
                }
                count = sum(any(wordings) for wordings in facts.values())
                rows.append(charts.Share(label, count, len(facts), side))
    after = next((row for row in rows if row.side == "after"), None)
    if after is None:
        return None
    title = _("After erasure %(count)s of %(all)s facts are told in any of their new wordings") % {
        "count": after.count,
        "all": after.n,
    }
    control = next((row for row in rows if row.side == "control"), None)
    if control is not None:
        title += "; " + _("the control tells %(count)s") % {"count": control.count}
    return charts.shares(title, rows, unit=_("facts"))


def membership_chart(tables: Tables) -> charts.Chart | None:
    """The curve of the membership attack that the probe reports, on each side."""
    if "membership" not in tables:
        return None
    sides = tables["membership"]["sides"]
    groups = {
        side: (_scores(sides[side], "member"), _scores(sides[side], "made up"))
        for side in SIDES
        if side in sides
    }
    return charts.roc(groups)


def _scores(rows: Sequence[Mapping[str, Any]], who: str) -> list[float]:
    own = [row for row in rows if row["role"] == f"{who} {ATTACK}" and not row.get("closed")]
    return [row["value"] for row in own if row.get("value") is not None]


def utility_chart(probes: Sequence[ProbeResult]) -> charts.Chart | None:
    """What erasing cost others and general text, with the band that the test plan tolerates."""
    bands = []
    for probe in probes:
        before, after = number_of(probe.before), number_of(probe.after)
        if probe.probe in UTILITY and before and after is not None:
            bound, limit = number_of(probe.bound), number_of(probe.threshold)
            band = charts.Band(_(UTILITY[probe.probe]), probe.n, after / before, bound, limit)
            bands.append(band)
    return charts.tolerance(bands) if bands else None


def gate_chart(tables: Tables) -> charts.Chart | None:
    """How strongly the gate acts on questions about the person, and on those about others."""
    if "gate_fires" not in tables:
        return None
    rows = tables["gate_fires"]["sides"].get("after", ())
    shares: list[charts.Share] = []
    acts: list[tuple[int, int]] = []
    for role, who, side in (
        ("erased", _("the person"), "after"),
        ("others", _("others"), "before"),
    ):
        own = [
            1.0 if row.get("closed") else float(row.get("strength", 0.0))
            for row in rows
            if row["role"] == role
        ]
        acts.append((sum(strength > 0 for strength in own), len(own)))
        for words, count in (
            (_("fully"), sum(s >= FULLY for s in own)),
            (_("partly"), sum(0 < s < FULLY for s in own)),
            (_("not at all"), sum(s <= 0 for s in own)),
        ):
            shares.append(
                charts.Share(
                    _("About %(who)s: %(words)s") % {"who": who, "words": words},
                    count,
                    len(own),
                    side,
                )
            )
    (erased, of_erased), (others, of_others) = acts
    title = _(
        "The gate acts on %(erased)s of %(of_erased)s questions about the person and on"
        " %(others)s of %(of_others)s about others"
    ) % {"erased": erased, "of_erased": of_erased, "others": others, "of_others": of_others}
    return charts.shares(title, shares, unit=_("questions"))
