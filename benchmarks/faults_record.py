"""What the record says after the fault benchmark: who was lost, what was done twice."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

ONCE_A_CASE = (
    "case.received", "case.email_confirmed", "case.identity_recorded", "case.facts_attached",
    "decision.proposed", "decision.approved", "case.completed",
)  # fmt: skip
AT_MOST_ONCE_A_RUN = (
    "run.protocol_fixed", "adapter.created", "run.verified", "release.registered",
)  # fmt: skip
ENDS_OF_A_RUN = ("run.finished", "run.failed", "run.cancelled")


def outcomes() -> dict[str, int]:
    """Cases by what their answer rests on: the verdict or the error of their last run."""
    from requests_app.models import Case
    from requests_app.services.cases import latest_runs

    found: Counter[str] = Counter()
    for case in Case.objects.order_by("pk"):
        runs = latest_runs(case)
        last = (runs[0].error or runs[0].verdict) if runs else "no run"
        found[f"{case.status}, {last}"] += 1
    return dict(sorted(found.items()))


def lost(references: Iterable[str], adapters_root: Path) -> list[str]:
    """What is missing, a line each: cases without an end, runs without one, letters that were not
    sent, erasures that are not in force, adapters without files."""
    from requests_app.lifecycle import CaseStatus
    from requests_app.models import Adapter, Case, ErasureRun, Letter
    from workers.adapters import AdapterRef

    cases = {case.reference: case for case in Case.objects.all()}
    found = [f"{each} is not in the record" for each in references if each not in cases]
    found += [
        f"{case.reference} is {case.status}"
        for case in cases.values()
        if case.status != CaseStatus.COMPLETED
    ]
    open_runs = ErasureRun.objects.exclude(state__in=("succeeded", "failed", "cancelled"))
    found += [f"run {run.pk} is {run.state}" for run in open_runs]
    found += [f"letter {each.pk} was not sent" for each in Letter.objects.filter(sent_at=None)]
    of_cases, _ = entries()
    found += [
        f"{case.reference} has no {kind}"
        for case in cases.values()
        for kind in ONCE_A_CASE
        if not of_cases[case.id][kind]
    ]
    in_force = set(cases_in_force())
    found += [f"{case} is not in force" for case in within() - in_force]
    for adapter in Adapter.objects.select_related("run"):
        ref = AdapterRef(str(adapter.run.case_id), adapter.sha256, adapter.gate_sha256)
        if not (ref.folder(adapters_root) / "gate.json").is_file():
            found.append(f"adapter {adapter.sha256} has no files")
    return found


def doubled(references: Iterable[str]) -> list[str]:
    """What is there more often than once, a line each: cases that nobody knows of, decisions,
    letters, completions, effects of a run, places in the live release."""
    from requests_app.models import Case, Decision, Letter

    known = set(references)
    found = [
        f"{case.reference} is nobody's"
        for case in Case.objects.all()
        if case.reference not in known
    ]
    of_cases, of_runs = entries()
    for ids, kinds in ((of_cases, ONCE_A_CASE), (of_runs, AT_MOST_ONCE_A_RUN)):
        found += [
            f"{which}: {count[kind]} times {kind}"
            for which, count in ids.items()
            for kind in kinds
            if count[kind] > 1
        ]
    found += [
        f"run {run} ended {ends} times"
        for run, count in of_runs.items()
        if (ends := sum(count[kind] for kind in ENDS_OF_A_RUN)) != 1
    ]
    approved = Counter(Decision.objects.filter(state="approved").values_list("case_id", flat=True))
    letters = Counter(Letter.objects.values_list("case_id", "kind"))
    answers: Counter[UUID] = Counter()
    for (case_id, kind), count in letters.items():
        answers[case_id] += count if kind != "acknowledgement" else 0
        if kind == "acknowledgement" and count > 1:
            found.append(f"{case_id}: {count} acknowledgements")
    for what, counts in (
        ("approved decisions", approved),
        ("answers", answers),
        ("places in the release", Counter(cases_in_force())),
    ):
        found += [f"{which}: {count} {what}" for which, count in counts.items() if count > 1]
    found += [f"{case} is in force without a verdict" for case in set(cases_in_force()) - within()]
    return found


def wrong_deadlines() -> list[str]:
    """References whose stored dates are not those counted afresh from the day of receipt."""
    from django.utils import timezone

    from requests_app.deadlines import deadlines
    from requests_app.jurisdictions import profile
    from requests_app.models import Case

    found = []
    for case in Case.objects.all():
        day = timezone.localtime(case.received_at, timezone.get_default_timezone()).date()
        due = deadlines(day, profile=profile(case.jurisdiction), calendar=case.calendar)
        counted = (day, due.base_due_raw, due.base_due, due.extension_due, due.internal_due)
        stored = (
            case.received_on, case.base_due_raw, case.base_due, case.extension_due,
            case.internal_due,
        )  # fmt: skip
        if counted != stored or case.due != due.base_due:
            found.append(case.reference)
    return found


def entries() -> tuple[dict[UUID, Counter[str]], dict[str, Counter[str]]]:
    """How many entries of each type there are of each case, and of each run."""
    import json

    from requests_app.models import AuditEntry

    of_cases: dict[UUID, Counter[str]] = {}
    of_runs: dict[str, Counter[str]] = {}
    rows = AuditEntry.objects.order_by("seq").values_list("case_id", "type", "body")
    for case_id, kind, body in rows.iterator():
        if case_id is None:
            continue
        of_cases.setdefault(case_id, Counter())[kind] += 1
        if kind in (*AT_MOST_ONCE_A_RUN, *ENDS_OF_A_RUN, "run.queued"):
            of_runs.setdefault(json.loads(bytes(body))["data"]["run"], Counter())[kind] += 1
    return of_cases, of_runs


def cases_in_force() -> list[UUID]:
    """The cases that the live release names, as often as it names them."""
    from requests_app.services.manifests import live_manifest

    live = live_manifest("demo")
    return [each.case_id for each in live.adapters] if live else []


def within() -> set[UUID]:
    """The cases with a run that ended within its thresholds."""
    from requests_app.models import ErasureRun

    rows: Any = ErasureRun.objects.filter(state="succeeded", verdict="within_thresholds")
    return set(rows.values_list("case_id", flat=True))
