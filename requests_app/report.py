"""What the report of a case tells, as plain JSON values, whatever it is typeset with.

Everything is read from the dossier: its log entries and stored figures, nothing else. The wording
never says more than was measured; figures are rounded for reading, the evidence JSON has them as
they were logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.db.models import TextChoices
from django.utils import timezone, translation

from requests_app import charts
from requests_app.dossier import Dossier, Event, Probe
from requests_app.models import ScopeItem
from requests_app.models.people import Role
from requests_app.models.record import Abuse, Channel, Exemption, ExtensionCause, Ground, Outcome
from requests_app.models.runs import Verdict
from requests_app.services.letter_texts import spell_date
from requests_app.templatetags.rtbf import event_words, figure, percent
from requests_app.verifier import statements
from requests_app.verifier.runs import level_of, limits_of

RESULT_WORDS = {True: "within", False: "not within", None: "no decision"}
POSITIONS = {
    "yes": "a model that learned from personal data holds personal data",
    "case_by_case": "whether a model holds personal data is looked at case by case",
    "no": "a model as such holds no personal data; its inputs and outputs do",
}

# The first page, for readers who are neither lawyers nor engineers.
DONE_IN_SHORT = {
    statements.REQUEST_RECORDED: "No adapter was made for a language model.",
    statements.PROCEDURE_EXECUTED: "For this request alone a small additional component, an"
    " adapter, was trained. The tests did not end within the limits set beforehand, or did not"
    " end.",
    statements.SUPPRESSION_MEASURED: "For this request alone a small additional component, an"
    " adapter, was trained. While it is in force the language model's answers about the person are"
    " suppressed, as far as the tests measured it: within the limits set beforehand.",
    statements.SUPPRESSION_IN_WEIGHTS: "The language model was given new weights, trained no longer"
    " to answer questions about the person. In them its answers are suppressed, as far as the tests"
    " measured it: within the limits set beforehand.",
    statements.EXACT_BY_CONSTRUCTION: "The language model was trained anew, on data from which the"
    " person's records, as far as they were found, had been taken out. The tests ended within the"
    " limits set beforehand.",
    statements.SUPPRESSION_NOT_KEPT: "For this request alone an adapter was trained, and at first"
    " the tests ended within the limits set beforehand. Measured again later, they did not.",
    statements.ERASURE_REVOKED: "An adapter was trained for this request. By a later decision of"
    " two people it is no longer in force.",
}
LIMIT_IN_SHORT = {
    "none": "It does not show that what was recorded was true, only that the record has not been"
    " changed since.",
    "gated": "Suppressed is not removed. The original model was not altered and may still hold the"
    " information; it may come back if the adapter is taken away, after further training, or with"
    " questions that nobody tested. No test proves that information is absent.",
    "merged": "Suppressed is not removed. Copies of the earlier weights may still hold the"
    " information, and further training, or questions that nobody tested, may bring it back. No"
    " test proves that information is absent.",
    "exact": "It holds for these weights, and as far as the records found were all there were:"
    " texts about the person that no known identifier leads to are not found. Copies of the earlier"
    " weights still hold the information. No test proves that information is absent.",
    "revoked": "The information may be told again, since the adapter is no longer in force.",
}
TERMS = (
    ("fingerprint", "A short number (SHA-256) computed from every byte of a file. If the file"
     " changes, its fingerprint changes; the file cannot be read from it."),
    ("suppression", "The model no longer tells something, as far as tests can measure it. It does"
     " not mean that nothing of it is left in the model."),
    ("adapter", "A small component trained for one request, used together with the model."),
    ("gate", "What decides for each question whether an adapter acts."),
    ("base model", "The language model as it was before any request."),
    ("release", "What is served: base model, the adapters in force and their gates."),
    ("control", "A model that never saw the person, or made-up people: what is told anyway."),
    ("test plan", "Tests, limits and questions, fixed and logged before anything was trained."),
    ("n", "How many questions or facts a figure rests on."),
    ("95% bound", "The least favourable value that fits the sample with 95% confidence; it is this"
     " one that is compared with the threshold."),
    ("threshold", "The limit that the test plan set."),
    ("inconclusive", "Not enough was measured to decide, or an error occurred; never counted as"
     " within the limits."),
    ("audit log", "The list of all events. Its signed head changes if any earlier event is changed,"
     " removed or moved."),
)  # fmt: skip


def tell(dossier: Dossier) -> dict[str, Any]:
    """The contents of the report of a case, in English whoever asks for it."""
    with translation.override("en"):
        return _told(dossier)


def _told(dossier: Dossier) -> dict[str, Any]:
    facts = dossier.run_facts
    limits = [f"({name}) {statements.LIMITATIONS[name]}" for name in limits_of(facts)]
    log = dossier.log
    told: dict[str, Any] = {
        "controller": settings.RTBF_CONTROLLER_NAME,
        "contact": settings.RTBF_CONTROLLER_EMAIL,
        "authority": f"{settings.RTBF_AUTHORITY_NAME}, {settings.RTBF_AUTHORITY_URL}",
        "reference": dossier.reference,
        "as_of": _spell(dossier.events[-1].body["at"]),
        "claim": statements.CLAIMS[dossier.claim],
        "asked": _asked(dossier),
        "decided": _decided(dossier),
        "runs": [_run(dossier, fact) for fact in facts],
        "events": [_event(event) for event in dossier.events],
        "limitations": [*limits, statements.ONE_HISTORY] if log else limits,
        "terms": [list(term) for term in TERMS],
        "fingerprints": _fingerprints(facts),
        "log": {"origin": log.origin, "size": str(log.size)} if log else None,
    }
    return told | {"in_short": _in_short(dossier, told)}


def _asked(dossier: Dossier) -> dict[str, Any]:
    received = dossier.events[0].body["data"]
    identity = dossier.last("case.identity_recorded")
    extended = dossier.last("case.extended")
    answered = [event for event in dossier.events if event.body["type"] == "case.completed"]
    return {
        "channel": _label(Channel, received["channel"]).lower(),
        "on_behalf": bool(received.get("on_behalf")),
        "received_on": spell_date(dossier.received_on),
        "law": dossier.law.law,
        "due": spell_date(dossier.due),
        "extended": f"extended once from {spell_date(dossier.base_due)}:"
        f" {_label(ExtensionCause, extended['cause']).lower()}"
        if extended
        else "",
        "answered_on": _spell(answered[0].body["at"]) if answered else "",
        "scope": [_item_name(item) for item in received.get("scope", ())],
        "identity": identity["method"].replace("_", " ") if identity else "",
    }


def _decided(dossier: Dossier) -> dict[str, Any] | None:
    """Of the approved decision who decided what, by article; None before there is one."""
    approved = [e for e in dossier.events if e.body["type"] == "decision.approved"]
    if not approved:
        return None
    entry = approved[-1].body
    proposed = next(
        event.body
        for event in reversed(dossier.events)
        if event.body["type"] == "decision.proposed"
        and event.body["data"]["decision"] == entry["data"]["decision"]
    )
    outcome = entry["data"]["outcome"]
    return {
        "outcome": _label(Outcome, outcome),
        "proposed": f"{_by(proposed['actor'])}, {_spell(proposed['at'])}",
        "approved": f"{_by(entry['actor'])}, {_spell(entry['at'])}",
        "on": _spell(entry["at"]),
        "grounds": [f"Art. 17(1){_label(Ground, each)}" for each in proposed["data"]["grounds"]],
        "basis": _basis(outcome, proposed["data"].get("abuse", "")),
        "position": POSITIONS.get(proposed["data"].get("models_are_personal_data", ""), ""),
        "scope": [_item(item) for item in proposed["data"]["scope"]],
    }


def _basis(outcome: str, abuse: str) -> str:
    """The article of an outcome that says nothing of the data itself; empty for the others."""
    if outcome == Outcome.CANNOT_IDENTIFY:
        return "Art. 11(2) GDPR: the data of the person cannot be told apart"
    if outcome == Outcome.EXCESSIVE:
        why = _label(Abuse, abuse) if abuse else "manifestly unfounded or excessive"
        return f"Art. 12(5) GDPR: {why[:1].lower()}{why[1:]}"
    return ""


def _item(item: Mapping[str, str]) -> dict[str, str]:
    exemption, review_on = item["exemption"], item.get("review_on", "")
    again = f", looked at again on {spell_date(date.fromisoformat(review_on))}" if review_on else ""
    return {
        "name": _item_name(item),
        "result": _label(ScopeItem.Result, item["result"]),
        "exemption": f"Art. 17(3){_label(Exemption, exemption)}{again}" if exemption else "",
    }


def _item_name(item: Mapping[str, str]) -> str:
    return f"{_label(ScopeItem.Kind, item['kind'])} “{item['target']}”"


def _run(dossier: Dossier, fact: dict[str, Any]) -> dict[str, Any]:
    stored = dossier.run(fact["run"])
    probes = stored.probes if fact["figures"] else ()
    evidence = stored.evidence if fact["figures"] and stored.evidence else {}
    drawn = [probe for probe in probes if probe.threshold] or probes  # the others: in the table
    chart = charts.dumbbell(
        [
            charts.Row(p.name, p.before, p.after, p.control, p.bound, p.threshold, p.holds)
            for p in drawn
        ]
    )
    return {
        **fact,
        "verdict": str(Verdict(fact["verdict"]).label),
        "rechecked": str(Verdict(fact["rechecked"]).label) if fact["rechecked"] else "",
        "chart": {"title": chart.title, "svg": chart.svg},
        "tests": [_test(probe) for probe in probes],
        "reasons": [str(reason) for reason in evidence.get("reasons", ())],
        "not_measured": [
            f"{name}: {why}" for name, why in sorted(evidence.get("not_measured", {}).items())
        ],
    }


def _test(probe: Probe) -> dict[str, str]:
    shown = ("before", "after", "control", "bound", "threshold")
    return {
        "name": probe.name,
        "question": probe.question,
        "n": str(probe.n),
        **{name: _rounded(getattr(probe, name)) for name in shown},
        "result": RESULT_WORDS[probe.holds],
    }


def _event(event: Event) -> dict[str, str]:
    body = event.body
    return {
        "seq": str(event.seq),
        "at": body["at"].replace("T", " ").removesuffix("Z"),
        "type": body["type"],
        "words": event_words(body["type"]),
        "by": _by(body["actor"]),
    }


def _in_short(dossier: Dossier, told: Mapping[str, Any]) -> list[list[str]]:
    """Heading and text of each part of the first page; no figures about other people."""
    asked, decided, law = told["asked"], told["decided"], dossier.law
    concerns = f" It concerns: {'; '.join(asked['scope'])}." if asked["scope"] else ""
    answer = (
        f"It was answered on {asked['answered_on']}."
        if asked["answered_on"]
        else "It has not been answered yet."
    )
    decision = (
        f"{decided['outcome']}, on {decided['on']}. One person proposed it and another approved it."
        f" It rests on: {'; '.join(_rests_on(decided))}."
        if decided
        else "Nothing yet."
    )
    latest = {fact["model"]: fact for fact in dossier.run_facts}.values()
    figures = [line for fact in latest for line in _lay_figures(dossier, fact)]
    return [
        [
            "What was asked",
            f"{told['controller']} received a request to erase personal data on"
            f" {asked['received_on']}.{concerns} It was to be answered by {asked['due']}. {answer}",
        ],
        ["What was decided", decision],
        ["What was done", DONE_IN_SHORT[dossier.claim]],
        ["What was measured", " ".join(figures) or "No figures about the person."],
        ["What this does not show", LIMIT_IN_SHORT[level_of(dossier.run_facts)]],
        [
            "Rights of the person",
            f"To the person: {' '.join(law.complaint.split())} {told['authority']}. {law.remedy}"
            f" Questions: {told['contact']}.",
        ],
    ]


def _rests_on(decided: Mapping[str, Any]) -> list[str]:
    """The articles of a decision: grounds, exemptions, or that nothing could be decided."""
    exemptions = [item["exemption"] for item in decided["scope"] if item["exemption"]]
    basis = [decided["basis"]] if decided["basis"] else []
    return list(dict.fromkeys([*decided["grounds"], *exemptions, *basis]))


def _lay_figures(dossier: Dossier, fact: Mapping[str, Any]) -> list[str]:
    """How much the model told of the person, asked in wordings it was not trained on."""
    probes = dossier.run(fact["run"]).probes if fact["figures"] else ()
    return [
        f"Language model “{fact['model']}”: of {p.n} questions in wordings that were not used in"
        f" training it told {percent(p.before)} before and {percent(p.after)} after"
        + (
            f"; where the person was never seen, {percent(p.control)} are told."
            if p.control
            else "."
        )
        for p in probes
        if "unseen" in p.name and p.before and p.after
    ]


def _fingerprints(facts: list[dict[str, Any]]) -> list[list[str]]:
    """Every fingerprint of the report once, with what it is of."""
    found: dict[str, str] = {}
    for fact in facts:
        of = f"run {fact['number']} on “{fact['model']}”"
        adapter = fact["adapter"] or {}
        named = {
            "base model": adapter.get("base_sha256"),
            f"test plan, {of}": (fact["protocol"] or {}).get("sha256"),
            f"adapter, {of}": adapter.get("sha256"),
            f"its configuration, {of}": adapter.get("config_sha256"),
            f"gate, {of}": adapter.get("gate_sha256"),
            f"figures, {of}": (fact["figures"] or {}).get("sha256"),
            f"release, {of}": fact["release"],
        }
        for name, digest in named.items():
            if digest:
                found.setdefault(digest, name)
    return [[name, digest] for digest, name in found.items()]


def _by(actor: str) -> str:
    """Who acted, by role: the report names nobody, not even by pseudonym."""
    kind = actor.partition(":")[0]
    if kind in Role.values:
        return str(Role(kind).label)
    return {"subject": "The person"}.get(kind, kind.capitalize())


def _label(choices: type[TextChoices], value: str) -> str:
    """The word for a logged value; the value itself where this version has none for it."""
    return str(choices(value).label) if value in choices.values else value.replace("_", " ")


def _rounded(value: str) -> str:
    return figure(value) if value else ""


def _spell(at: str) -> str:
    """The day of a logged moment in the controller's time zone, as people write it."""
    return spell_date(timezone.localdate(datetime.fromisoformat(at)))
