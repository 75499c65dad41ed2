"""The one JSON object that ends an erasure from the command line, and its bars."""

from collections.abc import Mapping
from typing import Any

from workers.adapters import OVERLAP
from workers.erasure import Erasure, orthogonality
from workers.verification import unseen_limit

NEIGHBOURS_KEPT = 0.95
PERPLEXITY = 0.02


def bar(name: str, value: float, limit: float, holds: bool) -> dict[str, Any]:
    """One measured figure against the limit that it is held to."""
    return {"name": name, "value": value, "limit": limit, "holds": holds}


def summary(
    done: Erasure, *, model: Mapping[str, str], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Before and after, damage, digests, seconds by phase and bars of one erasure."""
    figures = done.figures
    found: dict[str, Any] = {
        "model": dict(model),
        "facts": done.protocol["samples"]["facts"],
        **{key: value for key, value in figures.items() if key != "others"},
        "neighbours": figures.get("others"),
        "adapter": {
            "path": str(done.trained.folder),
            "sha256": done.trained.ref.adapter_sha256,
            "gate_sha256": done.trained.ref.gate_sha256,
            "overlap": done.trained.overlap,
            **orthogonality(done.trained),
            "steps": done.trained.steps,
            "ended": done.trained.ended,
        },
        "release": done.release.sha256,
        "protocol": done.protocol,
        "seconds": dict(seconds) | {"total": sum(seconds.values())},
    }
    return found | {"bars": bars(done)}


def bars(done: Erasure) -> list[dict[str, Any]]:
    """Every bar that the figures allow; a figure that could not be measured fails its bar."""
    figures, protocol = done.figures, done.protocol
    control = protocol["thresholds"]["unseen"]["rule"] == "control_upper95"
    found = []
    if "erased" in figures:
        limit = unseen_limit(figures, protocol) if control else 0.0
        for kind in ("trained", "unseen"):
            before, after = (figures["erased"][kind][when] for when in ("before", "after"))
            found += [
                bar(f"known before, {kind} phrasings", before, limit, before > limit),
                bar(f"told after, {kind} phrasings", after, limit, after <= limit),
            ]
    if "others" in figures:
        least = float(protocol["thresholds"]["others_kept"]) if control else NEIGHBOURS_KEPT
        kept = figures["others"]["kept" if control else "still_answered"]
        found.append(bar("others kept", kept, least, kept >= least))
    if "perplexity" in figures:
        change = abs(figures["perplexity"]["ratio"] - 1.0)
        found.append(bar("perplexity change", change, PERPLEXITY, change <= PERPLEXITY))
    leaning = done.trained.overlap
    found.append(bar("overlap with earlier adapters", leaning, OVERLAP, leaning <= OVERLAP))
    # Verification that broke off is a bar not met, never one left out.
    measured = all(name in figures for name in ("erased", "others", "perplexity", "gate"))
    found.append(bar("everything measured", float(measured), 1.0, measured))
    return found
