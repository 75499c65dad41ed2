"""The one JSON object that ends an erasure from the command line, and its bars."""

from collections.abc import Mapping
from typing import Any

from workers.adapters import OVERLAP
from workers.erasure import Erasure, orthogonality

NEIGHBOURS_KEPT = 0.95
PERPLEXITY = 0.02


def bar(name: str, value: float, limit: float, holds: bool) -> dict[str, Any]:
    """One measured figure against the limit that it is held to."""
    return {"name": name, "value": value, "limit": limit, "holds": holds}


def summary(
    done: Erasure, *, model: Mapping[str, str], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Before and after, damage, digests, seconds by phase and bars of one erasure."""
    found: dict[str, Any] = {
        "model": dict(model),
        "facts": done.protocol["samples"]["facts"],
        **done.figures,
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
    probes, protocol = done.figures["probes"], done.protocol
    control = "sha256" in protocol["control"]
    found = []
    for kind in ("trained", "unseen"):
        if told := probes.get(f"recall_{kind}"):
            limit = told["control_upper95"] if control else 0.0
            found += [
                bar(
                    f"known before, {kind} phrasings",
                    told["before"], limit, told["before"] > limit,
                ),
                bar(f"told after, {kind} phrasings", told["after"], limit, told["after"] <= limit),
            ]  # fmt: skip
    if others := probes.get("others_kept"):
        least = others["limits"][0] if control else NEIGHBOURS_KEPT
        kept = others["after"] if control else others["more"]["still_answered"]
        found.append(bar("others kept", kept, least, kept >= least))
    if text := probes.get("perplexity"):
        change = abs(text["after"] - 1.0)
        found.append(bar("perplexity change", change, PERPLEXITY, change <= PERPLEXITY))
    leaning = done.trained.overlap
    found.append(bar("overlap with earlier adapters", leaning, OVERLAP, leaning <= OVERLAP))
    # Verification that broke off is a bar not met, never one left out.
    measured = not any(
        name in protocol["probes"] and protocol["probes"][name]["rules"]
        for name in done.figures["not_measured"]
    )
    found.append(bar("everything that decides measured", float(measured), 1.0, measured))
    return found
