"""Verification of what is stored and served, by a protocol fixed before training.

The null hypothesis is "the model still knows": never passed for lack of power, and an error is
inconclusive. What is measured is a release re-loaded from disk, through its gate, against a
control that never saw the subject, or where there is none against made-up people. The verdict is an
intersection-union test (Berger 1982): every deciding probe must hold, so no correction is due.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import stdev
from typing import Any

from workers import samples, statistics
from workers.base_models import BaseModel
from workers.forget_sets import Located
from workers.guarded import GuardedModel
from workers.probes import (
    BEFORE,
    TWIN,
    Case,
    Measured,
    NotMeasurable,
    Row,
    Tables,
    load_probe,
)
from workers.protocol import CONTROL_UPPER, OF_GATES, PRIMARY, Rule, case_of, in_order
from workers.samples import Sample
from workers.sides import Memory, Stack, observe, opened
from workers.training import Stopped

WITHIN, NOT_MET, INCONCLUSIVE = "within_thresholds", "not_met", "inconclusive"
HOLDS, SHORT, UNDECIDED = "holds", "short", "undecided"


def verify(
    guarded: GuardedModel,
    located: Located,
    protocol: Mapping[str, Any],
    *,
    control: BaseModel | None,
    case_id: str,
    before: GuardedModel | None = None,
    attempt: int = 1,
    probes: Sequence[str] | None = None,
    tables: dict[str, Tables] | None = None,
    keep: Callable[[str, Tables, Sequence[Sample]], None] = lambda probe, rows, samples: None,
    report: Callable[[str, int, int], None] = lambda probe, step, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Figures and verdict for one case on a served release, by `protocol`.

    The probes of the protocol in order (or those of `probes`), then the verdict. Where the release
    has new weights, `before` is the model that they replace. `tables` receives the rows of each
    probe, and what it holds already is not measured again; `keep` gets them after each, with a few
    samples of what was said (`workers.samples`). The result
    is plain and holds no personal data. An error in a probe makes the verdict inconclusive and is
    named in "reasons"; Stopped is raised when `should_stop()`.
    """
    before = before or GuardedModel.without_adapters(guarded.base)
    stack = Stack(guarded, before, control, case_id, protocol["seed"])
    found: dict[str, Tables] = {} if tables is None else tables
    names = [
        name
        for name in (in_order(protocol) if probes is None else probes)
        if name not in OF_GATES or case_id not in guarded.release.merged
    ]
    case: Case | None = None
    failed: dict[str, str] = {}
    for i, name in enumerate(names):
        if should_stop():
            raise Stopped("The run was stopped during verification.")
        report(name, i, len(names))
        if name in found:
            continue
        try:
            if case is None:
                case = case_of(before.base, located, protocol, attempt=attempt)
            found[name] = asked(name, case, stack, sides=protocol["probes"][name]["sides"])
        except NotMeasurable as error:
            failed[name] = str(error)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            # Only the kind of error: its text may quote what was asked.
            failed[name] = f"could not be measured ({type(error).__name__})"
        else:
            keep(name, found[name], samples.drawn(case, stack) if name == samples.OF else ())
    report("verdict", len(names), len(names))
    return judged(found, protocol, failed, names=names)


def asked(name: str, case: Case, stack: Stack, *, sides: Sequence[str]) -> Tables:
    """The rows of one probe, by side. Made-up people are asked about where the probe reads them:
    before erasure, and on the sides of its `TWINS`."""
    probe = load_probe(name)
    found: dict[str, list[Row]] = {}
    everything = probe.asks(case) if hasattr(probe, "asks") else ()
    for side in sides:
        with_twins = side == BEFORE or side in getattr(probe, "TWINS", ())
        asks = [ask for ask in everything if with_twins or not ask.role.startswith(TWIN)]
        with opened(side, stack) as model:
            if hasattr(probe, "look"):
                found[side] = probe.look(model, case, stack)
            else:
                memory = stack.memory.setdefault(_alike(side, stack), Memory())
                found[side] = observe(model, asks, case_id=stack.case_id, memory=memory)
    return found


def _alike(side: str, stack: Stack) -> str:
    """The side that says the same: with its adapters off, a gated stack is the model before."""
    same = side == "ablated" and stack.after.base is stack.before.base
    return BEFORE if same else side


def judged(
    tables: Mapping[str, Tables],
    protocol: Mapping[str, Any],
    failed: Mapping[str, str] | None = None,
    *,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Figures, outcomes, verdict and reasons: a pure function of rows and protocol. `names` are the
    probes that were to be run, by default all of the protocol."""
    failed = dict(failed or {})
    figures: dict[str, Any] = {}
    for name in in_order(protocol) if names is None else names:
        if name not in tables:
            failed.setdefault(name, "could not be measured (no rows)")
            continue
        try:
            found = load_probe(name).measure(
                tables[name], draws=protocol["samples"]["draws"], seed=protocol["seed"]
            )
            figures[name] = figures_of(found, protocol["probes"][name]["rules"])
        except NotMeasurable as error:
            failed[name] = str(error)
        except (ValueError, RuntimeError, ZeroDivisionError, KeyError) as error:
            failed[name] = f"could not be measured ({type(error).__name__})"
    verdict, reasons = judge(figures, protocol, failed)
    return {"probes": figures, "not_measured": failed, "verdict": verdict, "reasons": reasons}


def figures_of(found: Measured, rules: Sequence[Rule]) -> dict[str, Any]:
    """What was measured, plainly, with the outcome of each rule and what the sample could show.

    Judged is what is recorded, to the last digit (`decimal`), so that whoever judges the record
    again, without a model, comes to the same verdict.
    """
    figures: dict[str, Any] = {
        "n": found.n,
        "before": _as_recorded(found.before),
        "after": _as_recorded(found.after),
        "control": _as_recorded(found.control),
        "bound": _as_recorded(found.bound),
        CONTROL_UPPER: _as_recorded(found.control_upper),
        **({"more": dict(found.more)} if found.more else {}),
    }
    if not rules:
        return figures
    limits = [limit_of(rule, figures) for rule in rules]
    outcomes = [_outcome(rule, limit, figures) for rule, limit in zip(rules, limits, strict=True)]
    figures["limits"] = limits
    figures["outcome"] = (
        SHORT if SHORT in outcomes else UNDECIDED if UNDECIDED in outcomes else HOLDS
    )
    spread = stdev(found.items) if len(found.items) > 1 else 0.0
    if spread > 0.0:
        figures["sd"] = spread
        figures["achieved_margin"] = statistics.achieved_margin(n=len(found.items), sd=spread)
        figures |= _power(found, rules, limits, sd=spread)
        if figures["outcome"] == UNDECIDED:
            room = abs(limits[outcomes.index(UNDECIDED)] - found.after)
            if room > 0.0:
                figures["enough_items"] = statistics.needed(margin=room, sd=spread)
    return figures


def _power(
    found: Measured, rules: Sequence[Rule], limits: Sequence[float], *, sd: float
) -> dict[str, float]:
    """How likely so many items show the limit of a bound where the truth is the control's value."""
    for rule, limit in zip(rules, limits, strict=True):
        if rule["figure"] == "bound" and found.control is not None:
            margin = limit - found.control if rule["is"] == "at_most" else found.control - limit
            if margin > 0.0:
                n = len(found.items)
                return {"power": statistics.power(n=n, margin=margin, sd=sd)}
    return {}


def limit_of(rule: Rule, figures: Mapping[str, Any]) -> float:
    """A rule's limit. Where it is the control's bound and nothing could be asked that stands for
    the control, nothing may be told."""
    if rule["limit"] == CONTROL_UPPER:
        return float(figures[CONTROL_UPPER] or 0.0)
    return float(rule["limit"])


def _outcome(rule: Rule, limit: float, figures: Mapping[str, Any]) -> str:
    sign = 1.0 if rule["is"] == "at_most" else -1.0
    value, after = figures[rule["figure"]], figures["after"]
    if value is None or not all(map(math.isfinite, (value, after, limit))):
        return UNDECIDED
    if sign * value <= sign * limit:
        return HOLDS
    return UNDECIDED if rule["figure"] == "bound" and sign * after <= sign * limit else SHORT


SAYS = {
    "recall_unseen": "unseen phrasings are still answered above the limit",
    "knowledge_rank": "the true values are still found likelier than others of their kind",
    "others_kept": "others are answered worse than the threshold allows",
    "perplexity": "general text has become harder than the threshold allows",
    "leak": "sampled answers would tell the true values more often than the control's",
    "verbatim": "the true values are completed word for word more often than by the control",
    "refusals": "others are refused an answer more often than before",
}


def judge(
    figures: Mapping[str, Any], protocol: Mapping[str, Any], failed: Mapping[str, str] | None = None
) -> tuple[str, list[str]]:
    """The verdict and its reasons, a pure function of figures and protocol.

    Inconclusive: a probe with an error, a deciding one that was not measured, a model that knew no
    more than chance before, or a sample too small. Not met: a figure beyond its limit.
    """
    failed = failed or {}
    deciding = [name for name in in_order(protocol) if protocol["probes"][name]["rules"]]
    wanted = [name for name in deciding if name in figures]
    broken = [
        f"{name}: {why}"
        for name, why in sorted(failed.items())
        if name in deciding or why.startswith("could not be measured")
    ]
    if broken or not wanted:
        return INCONCLUSIVE, broken or ["nothing that decides was measured"]
    for name in PRIMARY:
        # Also where that is no number: what was not measured was not known.
        if name in figures and not (figures[name]["before"] or 0.0) > max(figures[name]["limits"]):
            return INCONCLUSIVE, [
                f"{name}: the model before erasure knows no more than chance: nothing to show"
            ]
    short = [name for name in wanted if figures[name]["outcome"] == SHORT]
    if short:
        return NOT_MET, [SAYS.get(name, f"{name} is beyond its threshold") for name in short]
    undecided = [name for name in wanted if figures[name]["outcome"] == UNDECIDED]
    if undecided:
        return INCONCLUSIVE, [_too_few(name, figures[name]) for name in undecided]
    return WITHIN, ["every threshold of the protocol is met"]


def _too_few(name: str, figures: Mapping[str, Any]) -> str:
    enough = figures.get("enough_items")
    more = f"; about {enough} facts or questions like these would be" if enough else ""
    return f"{name}: {figures['n']} are too few to decide{more}"


def decimal(value: float) -> str:
    """A number as a decimal string of at most nine significant digits, for hashed records."""
    return f"{value:.9g}"


def _as_recorded(value: float | None) -> float | None:
    return None if value is None else float(decimal(value))


def recorded(figures: Any) -> Any:
    """The same figures with every float as a decimal string, ready to be hashed."""
    if isinstance(figures, float):
        return decimal(figures)
    if isinstance(figures, Mapping):
        return {key: recorded(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [recorded(value) for value in figures]
    return figures
