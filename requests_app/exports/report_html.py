"""The report a person reads: what was done, measured, and not shown. One HTML file, no scripts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.template.loader import render_to_string

from requests_app import charts
from requests_app.dossier import Dossier
from requests_app.models.runs import Verdict
from requests_app.verifier import statements
from requests_app.verifier.runs import limits_of

TITLE = "Report (HTML)"
CONTENT_TYPE = "text/html; charset=utf-8"
EXTENSION = "html"

RESULT_WORDS = {True: "within", False: "not within", None: "no decision"}


def render(dossier: Dossier) -> bytes:
    """UTF-8 HTML from templates/exports/report.html."""
    return render_to_string("exports/report.html", content(dossier)).encode()


def content(dossier: Dossier) -> dict[str, Any]:
    """What the report tells, as plain JSON values, whatever it is typeset with."""
    limits = [f"({name}) {statements.LIMITATIONS[name]}" for name in limits_of(dossier.run_facts)]
    decision = dossier.last("decision.approved")
    log = dossier.log
    return {
        "controller": settings.RTBF_CONTROLLER_NAME,
        "reference": dossier.reference,
        "received_on": dossier.received_on.isoformat(),
        "due": dossier.due.isoformat(),
        "outcome": decision["outcome"].replace("_", " ") if decision else "none yet",
        "claim": statements.CLAIMS[dossier.claim],
        "runs": [_run(dossier, fact) for fact in dossier.run_facts],
        "events": [{"seq": str(event.seq), **event.body} for event in dossier.events],
        "limitations": [*limits, statements.ONE_HISTORY] if log else limits,
        "log": {"origin": log.origin, "size": str(log.size)} if log else None,
    }


def _run(dossier: Dossier, fact: dict[str, Any]) -> dict[str, Any]:
    probes = dossier.run(fact["run"]).probes if fact["figures"] else ()
    chart = charts.dumbbell(
        [
            charts.Row(p.name, p.before, p.after, p.control, p.bound, p.threshold, p.holds)
            for p in probes
        ]
    )
    return {
        **fact,
        "verdict": str(Verdict(fact["verdict"]).label),
        "rechecked": str(Verdict(fact["rechecked"]).label) if fact["rechecked"] else "",
        "chart": {"title": chart.title, "svg": chart.svg},
        "tests": [
            {
                "question": probe.question,
                "n": str(probe.n),
                "before": probe.before,
                "after": probe.after,
                "control": probe.control,
                "bound": probe.bound,
                "threshold": probe.threshold,
                "result": RESULT_WORDS[probe.holds],
            }
            for probe in probes
        ],
    }
