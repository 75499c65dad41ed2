"""What the answer to the data subject says, from the decision and the recorded figures alone.

Required contents: GDPR Art. 12(3) and 12(4). The words follow the claim level: an adapter with a
gate gives *measured suppression*; what could not be measured is said to be so. Every sentence is
made in the language in force, which is the letter's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from requests_app import vault
from requests_app.lifecycle import RunState
from requests_app.models import Adapter, Case, Decision, ErasureRun, ProbeResult, ScopeItem
from requests_app.models.record import Abuse, Exemption, Ground, Outcome
from requests_app.models.runs import Verdict
from requests_app.services.letter_texts import Fill, spell_date
from requests_app.services.manifests import EXACT, GATED, MERGED, level_of
from requests_app.services.recipients import told_words
from requests_app.services.run_rows import fell_back, not_met_runs

LETTERS = {
    Outcome.GRANTED: "completion",
    Outcome.PARTLY_GRANTED: "partial",
    Outcome.REFUSED: "refusal",
    Outcome.CANNOT_IDENTIFY: "cannot_identify",
    Outcome.EXCESSIVE: "excessive",
}
GRANTING = frozenset({Outcome.GRANTED, Outcome.PARTLY_GRANTED})

METHOD = gettext_noop(
    "For a language model we train a small additional component, an adapter, for your request"
    " alone. It works together with a gate that recognises questions about you. The original model"
    " was not altered and still holds what it learned; the measure keeps it from being told where"
    " the release is served. Level of this measure: gated."
)
METHOD_MERGED = gettext_noop(
    "For a language model we trained a small additional component, an adapter, for your request"
    " alone. Since then we replaced the weights of the model by new ones, trained no longer to"
    " answer questions about you, and repeated the tests on them. The figures below are those of"
    " the adapter. Level of this measure: merged."
)
METHOD_EXACT = gettext_noop(
    "For a language model we trained a small additional component, an adapter, for your request"
    " alone. Since then we trained the model anew, on data from which your records had been taken"
    " out, and repeated the tests on the new weights. The weights of before are out of service. The"
    " figures below are those of the adapter. This is exact for the new weights, as far as the"
    " records that we found were all there were. Level of this measure: exact."
)
METHODS = {GATED: METHOD, MERGED: METHOD_MERGED, EXACT: METHOD_EXACT}
WEAKEST_FIRST = (GATED, MERGED, EXACT)
NO_ADAPTER = gettext_noop("No adapter was made. The original model was not altered.")
NO_MODEL = gettext_noop("No language model was part of this decision.")
NOTHING_MEASURED = gettext_noop(
    "Nothing was measured, because no language model was part of this decision."
)
LIMITS = gettext_noop(
    "These tests are no proof that the information was removed from the model's parameters; today"
    " no method offers that. It may still be present in the original model and may be recoverable"
    " if the adapter is taken away, by further training or compression of the model, or by"
    " questions that the tests did not cover. The results hold for the release that was tested and"
    " cover only the systems named above, not other copies or recipients."
)
LEGAL_BASIS = {
    Outcome.CANNOT_IDENTIFY: gettext_noop("Art. 11(2) and 12(2) GDPR"),
    Outcome.EXCESSIVE: gettext_noop("Art. 12(5) GDPR"),
}
ABUSES = {
    Abuse.UNFOUNDED: gettext_noop("manifestly unfounded"),
    Abuse.EXCESSIVE: gettext_noop("excessive, in particular because of its repetitive character"),
}
FIGURES = {
    "before": gettext_noop("before %(value)s"),
    "after": gettext_noop("after %(value)s"),
    "control": gettext_noop("in a control that never saw you %(value)s"),
    "bound": gettext_noop("95%% bound %(value)s"),
    "threshold": gettext_noop("threshold %(value)s"),
}


def answer_letter(case: Case, decision: Decision, runs: Sequence[ErasureRun]) -> tuple[str, Fill]:
    """The kind of letter and what fills its slots; `runs` are the last runs of each model."""
    outcome = Outcome(decision.outcome)
    slots = _granting_slots if outcome in GRANTING else _refusing_slots
    return LETTERS[outcome], lambda: slots(case, decision, runs)


def _refusing_slots(
    case: Case, decision: Decision, runs: Sequence[ErasureRun]
) -> dict[str, object]:
    items = list(case.scope_items.order_by("id"))
    slots: dict[str, object] = {
        "decided_on": spell_date(timezone.localdate(decision.approved_at)),
        "reasoning": vault.get(case, f"decision/{decision.pk}/reasoning"),
    }
    if decision.outcome == Outcome.REFUSED:
        return slots | {"kept": [_kept_line(case, item) for item in items]}
    slots |= {
        "legal_basis": _(LEGAL_BASIS[Outcome(decision.outcome)]),
        "concerned": [_item_name(item) for item in items],
    }
    if decision.outcome == Outcome.EXCESSIVE:
        slots |= {
            "abuse": _(ABUSES[Abuse(decision.abuse)]),
            "proof": vault.get(case, f"decision/{decision.pk}/proof"),
        }
    return slots


def _granting_slots(
    case: Case, decision: Decision, runs: Sequence[ErasureRun]
) -> dict[str, object]:
    items = list(case.scope_items.order_by("id"))
    slots: dict[str, object] = {
        "decided_on": spell_date(timezone.localdate(decision.approved_at)),
        "grounds": "; ".join(
            _("Art. 17(1)%(ground)s") % {"ground": Ground(g).label} for g in decision.grounds
        ),
        "erased": [_data_store_line(item) for item in items if _is_data_store_erased(item)]
        + [_run_line(run) for run in runs],
        "method": _method(case, runs),
        "measured": [line for run in runs for line in _figure_lines(run)] or [_(NOTHING_MEASURED)],
        "limits": _(LIMITS),
        "timetable": _timetable(case, items, runs),
        "recipients": told_words(case),
    }
    if decision.outcome == Outcome.PARTLY_GRANTED:
        kept = [item for item in items if item.result == ScopeItem.Result.KEEP]
        slots |= {
            "kept": [_kept_line(case, item) for item in kept],
            "reasoning": vault.get(case, f"decision/{decision.pk}/reasoning"),
        }
    return slots


def _method(case: Case, runs: Sequence[ErasureRun]) -> str:
    if not _has_adapter(runs):
        return _(NO_ADAPTER) if runs else _(NO_MODEL)
    levels = {level_of(case.id, run.model_name) for run in runs}
    return _(METHODS[next((each for each in WEAKEST_FIRST if each in levels), GATED)])


def _run_line(run: ErasureRun) -> str:
    name = {"model": run.model_name}
    if run.verdict == Verdict.WITHIN and fell_back(run):
        return (
            _(
                "Language model “%(model)s”: measured again after the erasure, answers about you"
                " are no longer suppressed as far as they should be."
            )
            % name
        )
    if run.verdict == Verdict.WITHIN and run.release is not None:
        return _(
            "Language model “%(model)s”: answers about you are suppressed by an adapter with the"
            " fingerprint %(sha256)s, part of the release registered on %(date)s. It acts where"
            " that release is served."
        ) % {
            **name,
            "sha256": run.adapter.sha256,
            "date": spell_date(run.release.created_at.date()),
        }
    if run.state == RunState.SUCCEEDED and _has_adapter([run]):
        return (
            _(
                "Language model “%(model)s”: an adapter was trained and tested, but no release in"
                " force contains it."
            )
            % name
        )
    if run.state == RunState.SUCCEEDED:
        return (
            _(
                "Language model “%(model)s”: asked about what we hold of you, it gave no answer"
                " that could be measured."
            )
            % name
        )
    return (
        _(
            "Language model “%(model)s”: the erasure run did not finish, and no new release came of"
            " it."
        )
        % name
    )


def _has_adapter(runs: Sequence[ErasureRun]) -> bool:
    return Adapter.objects.filter(run__in=[run.pk for run in runs]).exists()


def _figure_lines(run: ErasureRun) -> list[str]:
    """The result in words, then every probe that decides, with exactly the figures of the evidence,
    and how many others were run for information."""
    named = {"model": run.model_name, "verdict": Verdict(run.verdict).label}
    if run.finished_at:
        head = _("Language model “%(model)s”, tested on %(date)s: %(verdict)s.") % {
            **named,
            "date": spell_date(run.finished_at.date()),
        }
    else:
        head = _("Language model “%(model)s”: %(verdict)s.") % named
    if before := len(not_met_runs(run.case, run.model_name, before=run.number)):
        head += " " + ngettext(
            "%(count)d earlier attempt did not meet the thresholds; the last one was tested with"
            " questions in other words about the same facts.",
            "%(count)d earlier attempts did not meet the thresholds; the last one was tested with"
            " questions in other words about the same facts.",
            before,
        ) % {"count": before}
    probes = list(run.probe_results.order_by("id"))
    deciding = [probe for probe in probes if probe.threshold]
    others = len(probes) - len(deciding)
    more = ngettext(
        "%(count)d further test was run for information; the evidence has its figures.",
        "%(count)d further tests were run for information; the evidence has their figures.",
        others,
    ) % {"count": others}
    again = [_fell_back_line(run)] if fell_back(run) else []
    return [head, *map(_probe_line, deciding), *([more] if others else []), *again]


def _fell_back_line(run: ErasureRun) -> str:
    """That the figures before no longer hold, and since when that is known."""
    last = run.rechecks.filter(verdict=Verdict.NOT_MET).order_by("finished_at").last()
    named = {"model": run.model_name, "verdict": Verdict.NOT_MET.label}
    if last and last.finished_at:
        return _(
            "Language model “%(model)s”, measured again on %(date)s on the release then in service:"
            " %(verdict)s. The figures above are of the first test and no longer hold."
        ) % {**named, "date": spell_date(last.finished_at.date())}
    return (
        _(
            "Language model “%(model)s”, measured again on the release then in service:"
            " %(verdict)s. The figures above are of the first test and no longer hold."
        )
        % named
    )


def _probe_line(probe: ProbeResult) -> str:
    """Question and figures; a question without a translation stays as the evidence has it."""
    values = {name: getattr(probe, name) for name in FIGURES}
    figures = ", ".join(
        _(FIGURES[name]) % {"value": value} for name, value in values.items() if value
    )
    asked = ngettext("%(count)d question", "%(count)d questions", probe.n) % {"count": probe.n}
    return f"{_(probe.question)} {figures or _('not measured')} ({asked})"


def _timetable(case: Case, items: Sequence[ScopeItem], runs: Sequence[ErasureRun]) -> list[str]:
    """From when the measures act, when back-ups follow, how long they are measured again."""
    lines = []
    if any(_is_data_store_erased(item) for item in items):
        gone = timezone.localdate() + timedelta(days=settings.RTBF_BACKUP_DAYS)
        lines.append(
            _(
                "Our records: back-ups from before the erasure are overwritten by %(date)s. Until"
                " then they are not used; if one has to be restored, the erasure is repeated."
            )
            % {"date": spell_date(gone)}
        )
    days = settings.RTBF_RECHECK_DAYS
    again = ngettext(
        "We measure again after every later release and every %(days)d day, until the file of your"
        " request is destroyed; if the measure no longer holds, we act again and tell you.",
        "We measure again after every later release and every %(days)d days, until the file of your"
        " request is destroyed; if the measure no longer holds, we act again and tell you.",
        days,
    ) % {"days": days}
    for run in runs:
        if level_of(case.id, run.model_name) and not fell_back(run):
            served = _("Language model “%(model)s”: wherever the release is served.")
            lines.append(f"{served % {'model': run.model_name}} {again}")
    return lines or [_("Nothing is in force yet that could be dated.")]


def _is_data_store_erased(item: ScopeItem) -> bool:
    return item.kind != ScopeItem.Kind.MODEL and item.result == ScopeItem.Result.ERASE


def _data_store_line(item: ScopeItem) -> str:
    return _(
        "%(item)s: erased by the staff of %(name)s outside this system; not measured here."
    ) % {
        "item": _item_name(item),
        "name": settings.RTBF_CONTROLLER_NAME,
    }


def _item_name(item: ScopeItem) -> str:
    return _("%(kind)s “%(target)s”") % {"kind": item.get_kind_display(), "target": item.target}


def _kept_line(case: Case, item: ScopeItem) -> str:
    """One thing that is kept: the exemption, why it applies, when that is looked at again."""
    exemption = _("Art. 17(3)%(exemption)s") % {"exemption": Exemption(item.exemption).label}
    line = f"{_item_name(item)}: {exemption}. {vault.get(case, f'scope/{item.pk}/reasoning')}"
    if item.review_on is None:
        return line
    again = _("We look at this again by %(date)s.") % {"date": spell_date(item.review_on)}
    return f"{line} {again}"
