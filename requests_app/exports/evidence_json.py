"""The case's evidence as one JSON file, for machines: timeline, runs, figures, claim, limits."""

from __future__ import annotations

import json

from django.utils.translation import gettext_lazy as _

from requests_app.dossier import Dossier
from requests_app.verifier import statements
from requests_app.verifier.runs import limits_of

OF = "case"
TITLE = _("Evidence (JSON)")
CONTENT_TYPE = "application/json"
EXTENSION = "json"

SCHEMA = "evidence-export.v1"  # a file of verifier/schemas, JSON Schema 2020-12


def render(dossier: Dossier) -> bytes:
    """UTF-8 JSON, indented; figures as decimal strings, as they were logged."""
    content = {
        "schema": SCHEMA,
        "reference": dossier.reference,
        "case": str(dossier.case_id),
        "received_on": dossier.received_on.isoformat(),
        "due": dossier.due.isoformat(),
        "decision": dossier.last("decision.approved"),
        "claim": {"name": dossier.claim, "says": statements.CLAIMS[dossier.claim]},
        "limitations": {
            name: statements.LIMITATIONS[name] for name in limits_of(dossier.run_facts)
        },
        "runs": [
            {
                **fact,
                "settings": dossier.run(fact["run"]).settings,
                "evidence": dossier.run(fact["run"]).evidence,
            }
            for fact in dossier.run_facts
        ],
        "events": [{"seq": event.seq, **event.body} for event in dossier.events],
    }
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
