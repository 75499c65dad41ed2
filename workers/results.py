"""One row for each probe, as the record and its reports print it: decimal strings, no texts."""

from collections.abc import Mapping
from typing import Any

from workers.probes import gate_fires, knowledge_rank, others_kept, perplexity, recall
from workers.verification import decimal, unseen_limit

Row = dict[str, Any]


def probe_results(figures: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[Row]:
    """Rows with probe, question, n, before, after, control, bound, threshold, holds.

    A value that was not measured is an empty string; `holds` is None where nothing is decided. A
    probe that could not be measured has no row.
    """
    rows: list[Row] = []
    if "erased" in figures:
        rows += [_recall("trained", figures, limit=None)]
        rows += [_recall("unseen", figures, limit=unseen_limit(figures, protocol))]
    if found := figures.get("others"):
        least = float(protocol["thresholds"]["others_kept"])
        rows.append(
            _row("others_kept", others_kept.QUESTION, found["n"], found)
            | {"bound": decimal(found["kept"]), "threshold": decimal(least)}
            | {"holds": found["kept"] >= least}
        )
    if found := figures.get("perplexity"):
        most = float(protocol["thresholds"]["perplexity_ratio"])
        rows.append(
            _row("perplexity", perplexity.QUESTION, found["n"], found)
            | {"bound": decimal(found["ratio"]), "threshold": decimal(most)}
            | {"holds": found["ratio"] <= most}
        )
    if "after" in (found := figures.get("knowledge_rank", {})):
        values = {name: each["value"] for name, each in found.items()}
        rows.append(
            _row("knowledge_rank", knowledge_rank.QUESTION, found["after"]["n"], values)
            | {"bound": _text(found["after"]["upper95"])}
        )
    if found := figures.get("gate"):
        fired = {"after": found["fired_on_erased"], "control": found["fired_on_others"]}
        rows.append(_row("gate_fires", gate_fires.QUESTION, protocol["samples"]["unseen"], fired))
    return rows


def _recall(kind: str, figures: Mapping[str, Any], *, limit: float | None) -> Row:
    found = figures["erased"][kind]
    return _row(f"recall_{kind}", f"{recall.QUESTION} ({kind} phrasings)", found["n"], found) | {
        "bound": _text(found["after_upper95"]),
        "threshold": _text(limit),
        "holds": None if limit is None else found["after"] <= limit,
    }


def _row(probe: str, question: str, n: int, values: Mapping[str, float | None]) -> Row:
    return {
        "probe": probe,
        "question": question,
        "n": n,
        **{name: _text(values.get(name)) for name in ("before", "after", "control")},
        "bound": "",
        "threshold": "",
        "holds": None,
    }


def _text(value: float | None) -> str:
    return "" if value is None else decimal(value)
