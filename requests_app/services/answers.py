"""What the answer to the data subject says, from the decision and the recorded figures alone.

Required contents: GDPR Art. 12(3) and 12(4). The words follow the claim level: an adapter with a
gate gives *measured suppression*; what could not be measured is said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.conf import settings
from django.utils import timezone

from requests_app import vault
from requests_app.lifecycle import RunState
from requests_app.models import Adapter, Case, Decision, ErasureRun, ProbeResult, ScopeItem
from requests_app.models.record import Exemption, Ground, Outcome
from requests_app.models.runs import Verdict
from requests_app.services.letters import spell_date
from requests_app.services.manifests import MERGED, level_of
from requests_app.services.recipients import told_words
from requests_app.services.run_rows import fell_back, not_met_runs

LETTERS = {
    Outcome.GRANTED: "completion",
    Outcome.PARTLY_GRANTED: "partial",
    Outcome.REFUSED: "refusal",
    Outcome.CANNOT_IDENTIFY: "refusal",
    Outcome.EXCESSIVE: "refusal",
}

METHOD = (
    "For a language model we train a small additional component, an adapter, for your request"
    " alone. It works together with a gate that recognises questions about you. The original model"
    " was not altered. Level of this measure: gated."
)
METHOD_MERGED = (
    "For a language model we trained a small additional component, an adapter, for your request"
    " alone. Since then we replaced the weights of the model by new ones, trained no longer to"
    " answer questions about you, and repeated the tests on them. The figures below are those of"
    " the adapter. Level of this measure: merged."
)
NO_ADAPTER = "No adapter was made. The original model was not altered."
NO_MODEL = "No language model was part of this decision."
LIMITS = (
    "These tests are no proof that the information was removed from the model's parameters; today"
    " no method offers that. It may still be present in the original model and may be recoverable"
    " if the adapter is taken away, by further training or compression of the model, or by"
    " questions that the tests did not cover. The results hold for the release that was tested and"
    " cover only the systems named above, not other copies or recipients."
)
LEGAL_BASIS = {
    Outcome.CANNOT_IDENTIFY: "Art. 11(2) and 12(2) GDPR, we cannot tell which data are yours",
    Outcome.EXCESSIVE: "Art. 12(5) GDPR, the request is manifestly unfounded or excessive",
}
NEXT_STEP = {
    Outcome.REFUSED: (
        "If your situation or ours changes, you may ask again. You may also object to the use of"
        " your data (Art. 21 GDPR) or ask us to restrict it (Art. 18 GDPR)."
    ),
    Outcome.CANNOT_IDENTIFY: (
        "You can help us to find your data: tell us names or identifiers under which we may hold"
        " them, addresses of pages, or questions to which our system answers with your data. We"
        " then take the request up again."
    ),
    Outcome.EXCESSIVE: (
        "If you think that we misunderstood your request, tell us why, and we look at it again."
    ),
}


def answer_letter(
    case: Case, decision: Decision, runs: Sequence[ErasureRun]
) -> tuple[str, dict[str, object]]:
    """The kind of letter and its slots; `runs` are the last runs of each model."""
    outcome = Outcome(decision.outcome)
    slots: dict[str, object] = {
        "received_on": spell_date(case.received_on),
        "decided_on": spell_date(timezone.localdate(decision.approved_at)),
    }
    reasoning = vault.get(case, f"decision/{decision.pk}/reasoning")
    items = list(case.scope_items.order_by("id"))
    if LETTERS[outcome] == "refusal":
        return "refusal", slots | {
            "legal_basis": LEGAL_BASIS.get(outcome) or _exemptions(items),
            "concerned": [_item_name(item) for item in items],
            "reasoning": reasoning,
            "next_step": NEXT_STEP[outcome],
        }
    slots |= {
        "grounds": "; ".join(f"Art. 17(1){Ground(g).label}" for g in decision.grounds),
        "erased": [_data_store_line(item) for item in items if _is_data_store_erased(item)]
        + [_run_line(run) for run in runs],
        "method": _method(case, runs),
        "measured": [line for run in runs for line in _figure_lines(run)]
        or ["Nothing was measured, because no language model was part of this decision."],
        "limits": LIMITS,
        "recipients": told_words(case),
    }
    if outcome == Outcome.PARTLY_GRANTED:
        kept = [item for item in items if item.result == ScopeItem.Result.KEEP]
        slots |= {
            "kept": [f"{_item_name(item)}: {_exemptions([item])}" for item in kept],
            "reasoning": reasoning,
        }
    return LETTERS[outcome], slots


def _method(case: Case, runs: Sequence[ErasureRun]) -> str:
    if not _has_adapter(runs):
        return NO_ADAPTER if runs else NO_MODEL
    levels = {level_of(case.id, run.model_name) for run in runs}
    return METHOD_MERGED if levels == {MERGED} else METHOD


def _run_line(run: ErasureRun) -> str:
    name = f"Language model “{run.model_name}”"
    if run.verdict == Verdict.WITHIN and fell_back(run):
        return (
            f"{name}: measured again after the erasure, answers about you are no longer suppressed"
            " as far as they should be."
        )
    if run.verdict == Verdict.WITHIN and run.release is not None:
        return (
            f"{name}: answers about you are suppressed by an adapter with the fingerprint"
            f" {run.adapter.sha256}, part of the release registered on"
            f" {spell_date(run.release.created_at.date())}. It acts where that release is served."
        )
    if run.state == RunState.SUCCEEDED and _has_adapter([run]):
        return f"{name}: an adapter was trained and tested, but no release in force contains it."
    if run.state == RunState.SUCCEEDED:
        return f"{name}: asked about what we hold of you, it gave no answer that could be measured."
    return f"{name}: the erasure run did not finish, and no new release came of it."


def _has_adapter(runs: Sequence[ErasureRun]) -> bool:
    return Adapter.objects.filter(run__in=[run.pk for run in runs]).exists()


def _figure_lines(run: ErasureRun) -> list[str]:
    """The result in words, then every probe that decides, with exactly the figures of the evidence,
    and how many others were run for information."""
    verdict = Verdict(run.verdict).label
    tested = f", tested on {spell_date(run.finished_at.date())}" if run.finished_at else ""
    head = f"Language model “{run.model_name}”{tested}: {verdict}."
    if before := len(not_met_runs(run.case, run.model_name, before=run.number)):
        head += (
            f" {before} earlier attempt{'s' if before > 1 else ''} did not meet the thresholds; the"
            " last one was tested with questions in other words about the same facts."
        )
    probes = list(run.probe_results.order_by("id"))
    deciding = [probe for probe in probes if probe.threshold]
    others = len(probes) - len(deciding)
    more = [f"{others} further tests were run for information; the evidence has their figures."]
    again = [_fell_back_line(run)] if fell_back(run) else []
    return [head, *map(_probe_line, deciding), *(more if others else []), *again]


def _fell_back_line(run: ErasureRun) -> str:
    """That the figures before no longer hold, and since when that is known."""
    last = run.rechecks.filter(verdict=Verdict.NOT_MET).order_by("finished_at").last()
    found = f" on {spell_date(last.finished_at.date())}" if last and last.finished_at else ""
    return (
        f"Language model “{run.model_name}”, measured again{found} on the release then in service:"
        f" {Verdict.NOT_MET.label}. The figures above are of the first test and no longer hold."
    )


def _probe_line(probe: ProbeResult) -> str:
    named = {
        "before": probe.before,
        "after": probe.after,
        "in a control that never saw you": probe.control,
        "95% bound": probe.bound,
        "threshold": probe.threshold,
    }
    figures = ", ".join(f"{name} {value}" for name, value in named.items() if value)
    return f"{probe.question} {figures or 'not measured'} ({probe.n} questions)"


def _is_data_store_erased(item: ScopeItem) -> bool:
    return item.kind != ScopeItem.Kind.MODEL and item.result == ScopeItem.Result.ERASE


def _data_store_line(item: ScopeItem) -> str:
    return (
        f"{_item_name(item)}: erased by the staff of {settings.RTBF_CONTROLLER_NAME} outside this"
        " system; not measured here."
    )


def _item_name(item: ScopeItem) -> str:
    return f"{item.get_kind_display()} “{item.target}”"


def _exemptions(items: Sequence[ScopeItem]) -> str:
    codes = dict.fromkeys(item.exemption for item in items if item.exemption)
    return "; ".join(f"Art. 17(3){Exemption(code).label}" for code in codes)
