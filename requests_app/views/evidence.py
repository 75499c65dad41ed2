"""The evidence of a run: verdict, gates, figures, facts one by one, limits, how to repeat it.

What would name the person is redacted here, before a template sees it, and shown for one fact or
sample at a time to whoever said why (`views.reveals`); it never goes into a file or onto paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from requests_app import redaction, selectors, spreadsheets, vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, ErasureRun, ProbeResult, Recheck
from requests_app.permissions import (
    DECIDE,
    member,
    revealed_until,
    sees_personal_data,
    staff_page,
)
from requests_app.services import evidence_tables
from requests_app.services.cases import why_not_repeat
from requests_app.services.manifests import level_of
from requests_app.views.common import actor_names
from requests_app.views.evidence_figures import (
    SIDES,
    Tables,
    figures_of,
    tables_of,
    told_by_fact,
)
from requests_app.views.run_settings import attempt_of, protocol_of, settings_of

RECALL = ("recall_unseen", "recall_trained")
SAMPLED = "recall_unseen"
SIGNED = ("decision.approved", "run.protocol_fixed", "run.verified", "release.registered",
          "case.evidence_accepted", "case.completed")  # fmt: skip
SIGNS = {"at_most": "≤", "at_least": "≥"}
TYPES = {"svg": "image/svg+xml", "csv": "text/csv; charset=utf-8"}


@dataclass(frozen=True)
class Gate:
    """A probe as the table has it; figures are recorded decimal strings, empty: not measured."""

    probe: str
    question: str
    n: int | None
    before: str
    after: str
    control: str
    control_upper: str
    bound: str
    limits: Sequence[str]
    result: str
    tone: str
    glyph: str
    why: str = ""


@dataclass(frozen=True)
class FactRow:
    """A fact with what was told of it: (probe, side) to "2 of 3". Question and answer are empty
    while they are redacted."""

    number: int
    told: Sequence[str]
    question: str = ""
    answer: str = ""


@dataclass(frozen=True)
class SampleRow:
    """A question with its expected answer and what was said on each side, in the parts of
    `redaction`; whole where it `is_shown`. `said`: parts, and "told", "refused" or ""."""

    number: int
    question: Sequence[str]
    answer: Sequence[str]
    said: Sequence[tuple[Sequence[str], str]]
    is_shown: bool


@staff_page("run_evidence")
@require_GET
def evidence(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """The whole page; `?fact=3` or `?sample=3` shows that in clear while the case is revealed."""
    run = _find(run_id)
    probes = list(run.probe_results.order_by("id"))
    tables = tables_of(run)
    figures = run.evidence or {}
    shown, sample = (_shown(request, run.case, name) for name in ("fact", "sample"))
    gates = gates_of(run, probes)
    context = {
        "run": run,
        "case": run.case,
        "attempt": attempt_of(run),
        "gates": gates,
        "missing": [gate for gate in gates if gate.n is None],
        "held": sum(probe.holds is True for probe in probes if probe.threshold),
        "deciding": sum(bool(probe.threshold) for probe in probes),
        "charts": figures_of(run, probes, tables) if run.evidence else {},
        "highlights": _highlights(probes),
        "reasons": figures.get("reasons", []),
        "not_tested": protocol_of(run).get("not_tested", {}).values(),
        "facts": facts_of(run.case, tables, shown),
        "samples": samples_of(run.case, tables, sample),
        "may_reveal": sees_personal_data(member(request)),
        "is_revealed": revealed_until(request, run.case) is not None,
        "adapter": getattr(run, "adapter", None),
        "level": level_of(run.case_id, run.model_name) or _("not in force"),
        "settings": settings_of(run),
        "rechecks": [recheck_row(each) for each in _rechecks(run)],
        "signed": signed(run),
        "may_repeat": _may_repeat(request, run),
        "protocol": _pretty(run.protocol),
        "figures": _pretty(run.evidence),
    }
    response = render(request, "staff/evidence.html", context)
    if {shown, sample} != {None} and (until := revealed_until(request, run.case)):
        # The page that was left open masks itself.
        left = int((until - timezone.now()).total_seconds()) + 1
        response.headers["Refresh"] = str(max(left, 1))
    return response


@staff_page("run_figure")
@require_GET
def figure(request: HttpRequest, run_id: UUID, name: str, kind: str) -> HttpResponse:
    """A figure of the evidence as a file: the drawing (svg) or its table (csv)."""
    run = _find(run_id)
    if not run.evidence or kind not in TYPES:
        raise Http404
    probes = list(run.probe_results.order_by("id"))
    chart = figures_of(run, probes, tables_of(run)).get(name)
    if chart is None:
        raise Http404
    table = chart.table
    content = (
        chart.svg
        if kind == "svg"
        else b"".join(spreadsheets.line(row) for row in (table.header, *table.rows))
    )
    response = HttpResponse(content, content_type=TYPES[kind])
    response.headers["Content-Disposition"] = f'attachment; filename="{run.id}-{name}.{kind}"'
    return response


def gates_of(run: ErasureRun, probes: Sequence[ProbeResult]) -> list[Gate]:
    """Every probe of the test plan, in its order; those without a figure say why."""
    planned = protocol_of(run).get("probes", {})
    found = (run.evidence or {}).get("probes", {})
    missing = (run.evidence or {}).get("not_measured", {})
    measured = [
        _gate(p, found.get(p.probe, {}), planned.get(p.probe, {}).get("rules", []))
        for p in probes
    ]  # fmt: skip
    known = {probe.probe for probe in probes}
    absent = [
        _absent(name, plan, str(missing.get(name, "")))
        for name, plan in planned.items()
        if name not in known and run.evidence
    ]
    return [*measured, *absent]


def _gate(
    probe: ProbeResult, figures: Mapping[str, Any], rules: Sequence[Mapping[str, str]]
) -> Gate:
    limits = [str(limit) for limit in figures.get("limits") or [probe.threshold] if limit]
    word, tone, glyph = {
        (True, True): (_("Holds"), "ok", "✔"),
        (False, True): (_("Does not hold"), "danger", "✖"),
        (None, True): (_("Too few to decide"), "warn", "?"),
    }.get((probe.holds, bool(probe.threshold)), (_("For information"), "", ""))
    return Gate(
        probe=probe.probe,
        question=probe.question,
        n=probe.n,
        before=probe.before,
        after=probe.after,
        control=probe.control,
        control_upper=str(figures.get("control_upper95") or ""),
        bound=probe.bound,
        limits=[
            f"{rule['figure']} {SIGNS[rule['is']]} {limit}"
            for rule, limit in zip(rules, limits, strict=False)
        ]
        or limits,
        result=word,
        tone=tone,
        glyph=glyph,
    )


def _absent(name: str, plan: Mapping[str, Any], why: str) -> Gate:
    decides = bool(plan.get("rules"))
    return Gate(
        probe=name,
        question=str(plan.get("question", name)),
        n=None,
        before="",
        after="",
        control="",
        control_upper="",
        bound="",
        limits=[],
        result=_("Not measured: counts as not shown") if decides else _("Not measured"),
        tone="warn",
        glyph="?",
        why=why,
    )


def facts_of(case: Case, tables: Tables, shown: int | None) -> list[FactRow]:
    """What was told of each fact, wording by wording, before, after and by the control; the fact
    itself only for number `shown`. Nothing once the case is sealed."""
    if case.status == CaseStatus.SEALED or not any(probe in tables for probe in RECALL):
        return []
    facts = [(f["question"], f["answer"]) for f in vault.get(case, "facts", default=[])]
    told = {probe: told_by_fact(tables[probe]) for probe in RECALL if probe in tables}
    rows = []
    for number, (question, answer) in enumerate(facts, 1):
        cells = []
        for probe in RECALL:
            item = _item(tables[probe], question, answer) if probe in tables else None
            for side in SIDES:
                wordings = told.get(probe, {}).get(side, {}).get(-1 if item is None else item, [])
                cells.append(
                    _("%(count)d of %(all)d") % {"count": sum(wordings), "all": len(wordings)}
                    if wordings
                    else ""
                )
        clear = (question, answer) if number == shown else ("", "")
        rows.append(FactRow(number, cells, clear[0], clear[1]))
    return rows


def samples_of(case: Case, tables: Tables, shown: int | None) -> list[SampleRow]:
    """What the models said to a few questions, as the worker sealed it; only number `shown` whole.
    Nothing once the case is sealed."""
    table = tables.get(SAMPLED, {})
    if case.status == CaseStatus.SEALED or not table.get("samples"):
        return []
    facts = vault.get(case, "facts", default=[])
    known = [vault.get(case, "name"), *vault.get(case, "aliases"), *(f["answer"] for f in facts)]
    return [
        _sample(table, each, number, None if number == shown else known)
        for number, each in enumerate(table["samples"], 1)
    ]


def _sample(
    table: Mapping[str, Any], sample: Mapping[str, Any], number: int, known: Sequence[str] | None
) -> SampleRow:
    def parts(text: str) -> list[str]:
        return [text] if known is None else redaction.redacted(text, known)

    said = []
    for side in SIDES:
        rows = [
            row
            for row in table["sides"].get(side, [])
            if (row["item"], row.get("form", 0)) == (sample["item"], sample["form"])
            and row["role"] == "true"
        ]
        words = sample["said"].get(side, "")
        found = rows[0] if rows else {}
        how = "told" if found.get("told") else "refused" if found.get("refused") else ""
        said.append((parts(words) if words else [], how))
    question, answer = parts(sample["question"]), parts(sample["answer"])
    return SampleRow(number, question, answer, said, is_shown=known is None)


def _item(table: Mapping[str, Any], question: str, answer: str) -> int | None:
    """The place of a fact in a table; None if it is not there: the model did not know it."""
    key = evidence_tables.fact_id(bytes.fromhex(table["salt"]), question, answer)
    known: list[str] = table["facts"]
    return known.index(key) if key in known else None


def recheck_row(recheck: Recheck) -> dict[str, Any]:
    """A recheck with the figures that the page shows."""
    probes = recheck.figures.get("probes", {})
    unseen = probes.get("recall_unseen") or probes.get("unseen") or {}
    return {
        "row": recheck,
        "after": str(unseen.get("after") or ""),
        "limit": str(unseen.get("control_upper95") or ""),
        "bound": str(unseen.get("bound") or ""),
        "n": unseen.get("n"),
    }


def _rechecks(run: ErasureRun) -> list[Recheck]:
    return list(run.rechecks.select_related("release").order_by("created_at", "id"))


def signed(run: ErasureRun) -> list[dict[str, Any]]:
    """Who stands for what, from the log: decision, measurement, release, acceptance, answer."""
    items = [
        item
        for item in selectors.timeline(run.case)
        if item.type in SIGNED and item.data.get("run", str(run.id)) == str(run.id)
    ]
    names = actor_names(item.actor for item in items)
    return [{"item": item, "by": names[item.actor]} for item in items]


def _may_repeat(request: HttpRequest, run: ErasureRun) -> bool:
    last = run.case.runs.filter(model_name=run.model_name).order_by("number").last()
    return (
        run.case.status == CaseStatus.EVIDENCE_REVIEW
        and last == run
        and member(request).role in DECIDE
        and not why_not_repeat(run)
    )


def _shown(request: HttpRequest, case: Case, name: str) -> int | None:
    """The number of the fact, or sample, to show in clear; None while the case is masked."""
    given = request.GET.get(name, "")
    if not (given.isascii() and given.isdigit()) or revealed_until(request, case) is None:
        return None
    return int(given)


def _find(run_id: UUID) -> ErasureRun:
    run = ErasureRun.objects.select_related("case", "release", "adapter").filter(pk=run_id).first()
    if run is None:
        raise Http404
    return run


def _highlights(probes: Sequence[ProbeResult]) -> list[ProbeResult]:
    """The probes about the erased person and about others that compare shares of right answers."""
    wanted = ("unseen", "trained", "others")
    return [p for word in wanted for p in probes if word in p.probe and p.before and p.after][:3]


def _pretty(value: Any) -> str:
    """Stored JSON, indented for reading; empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, bytes | memoryview):
        value = json.loads(bytes(value))
    return json.dumps(value, indent=2, ensure_ascii=False)
