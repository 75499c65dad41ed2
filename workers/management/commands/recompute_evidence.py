"""``manage.py recompute_evidence``: every figure and the verdict again, from the stored rows."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import selectors
from requests_app.commands import ToldCommand
from requests_app.services.errors import ServiceError
from requests_app.services.evidence_tables import tables_of
from workers import tables
from workers.results import probe_results
from workers.verification import judged, recorded

EQUAL, DIFFERENT, COULD_NOT_RUN = 0, 1, 2


class Command(ToldCommand):
    help = (
        "Recomputes the figures and the verdict of a case's runs from the encrypted rows that the"
        " probes stored, and compares them with the evidence, the pages' rows and the audit log."
    )
    examples = (
        (
            "recompute_evidence ERQ-2026-000123",
            "every run of the case, naming each figure that differs; no model is loaded",
        ),
        ("recompute_evidence ERQ-2026-000123 --json", "the same as one JSON object"),
    )
    exits = (
        "0: all figures are the same; 1: one differs; 2: could not run (a sealed case: its rows are"
        " gone with its key)"
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="the case's reference, such as ERQ-2026-000123")

    def handle(self, *, reference: str, **options: Any) -> None:
        found: dict[str, list[str]] = {}
        try:
            for run in selectors.measured_runs(reference):
                found[str(run.row.id)] = list(differences(run))
        except (ServiceError, tables.TableError) as error:
            raise CommandError(str(error), returncode=COULD_NOT_RUN) from error
        if not found:
            raise CommandError(
                f"The case {reference!r} has no run with evidence, or does not exist.",
                returncode=COULD_NOT_RUN,
            )
        self.tell(
            {"case": reference, "differences": found},
            options,
            *(
                f"run {run_id}: {'; '.join(differs) or 'all figures the same'}"
                for run_id, differs in found.items()
            ),
        )
        sys.exit(DIFFERENT if any(found.values()) else EQUAL)


def differences(run: selectors.MeasuredRun) -> Iterator[str]:
    """What in the record of a run is not what its rows give, in a few words each."""
    evidence, stored = run.evidence, tables_of(run.row)
    named = evidence.get("tables", {})
    yield from (
        f"the rows of {probe} are not those that the evidence names"
        for probe in sorted(named.keys() | stored.keys())
        if probe not in stored or tables.digest(stored[probe]) != named.get(probe)
    )
    if evidence.get("nothing_measurable"):
        return
    judgement = judged(
        {probe: tables.read(data) for probe, data in stored.items()},
        run.protocol,
        evidence.get("not_measured"),
    )
    again = recorded(judgement)
    yield from (f"evidence: {path}" for path in _unequal(again, evidence))
    if again["verdict"] != run.verdict:
        yield "the run's verdict"
    rows = {
        row["probe"]: {key: value for key, value in row.items() if key != "probe"}
        for row in probe_results(judgement)
    }
    yield from (f"page: {path}" for path in _unequal(rows, run.rows))
    logged = {
        probe: {key: value for key, value in row.items() if key != "question"}
        for probe, row in rows.items()
    }
    yield from (f"log: {path}" for path in _unequal(logged, run.logged_estimates))
    if not run.evidence_is_logged:
        yield "the evidence is not the one whose digest the log holds"


def _unequal(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Paths at which `found` lacks or differs from what is `wanted`."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in wanted:
            yield from _unequal(wanted[key], found.get(key), f"{path}.{key}" if path else str(key))
        if path:
            yield from (f"{path}.{key}" for key in found.keys() - wanted.keys())
    elif wanted != found:
        yield path or "everything"
