"""`python -m requests_app.verifier bundle.zip --trust trust.txt`: check a bundle, offline.

Exit status: 0 verified; 1 invalid; 2 could not run; 3 consistent with itself, but not authenticated
(no trust file given); 4 verified with warnings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .checks import Result, verify
from .errors import Invalid
from .statements import CLAIMS
from .trust import TIME, parse_trust

VERIFIED, INVALID, COULD_NOT_RUN, NOT_AUTHENTICATED, WARNED = 0, 1, 2, 3, 4
VERDICTS = {
    VERIFIED: "VERIFIED",
    INVALID: "INVALID",
    NOT_AUTHENTICATED: "SELF-CONSISTENT, NOT AUTHENTICATED",
    WARNED: "VERIFIED WITH WARNINGS",
}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        bundle = options.bundle.read_bytes()
        trust_bytes = options.trust.read_bytes() if options.trust else None
        since = options.since.read_bytes() if options.since else None
        opening = options.opening.read_bytes() if options.opening else None
        adapter = _sha256(options.adapter) if options.adapter else None
    except OSError as problem:
        sys.stderr.write(f"Cannot read {problem.filename}: {problem.strerror}.\n")
        return COULD_NOT_RUN
    try:
        trust = (
            parse_trust(trust_bytes, pinned=True, file=str(options.trust))
            if trust_bytes is not None
            else None
        )
        result = verify(bundle, trust=trust, adapter_sha256=adapter, since=since, opening=opening)
    except Invalid as problem:
        _print_invalid(problem, as_json=options.json)
        return INVALID
    code = (
        NOT_AUTHENTICATED if not result.authenticated else WARNED if result.warnings else VERIFIED
    )
    _print_result(result, code, as_json=options.json)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verifier", description="Check an evidence bundle offline.", epilog=__doc__
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trust", type=Path, help="public keys, obtained by another way")
    parser.add_argument("--adapter", type=Path, help="adapter_model.safetensors to compare")
    parser.add_argument("--since", type=Path, help="an earlier checkpoint of the same log")
    parser.add_argument("--opening", type=Path, help="a data subject's receipt of this case")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print_invalid(problem: Invalid, *, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "verdict": VERDICTS[INVALID],
                "exit": INVALID,
                "problem": problem.sentence,
                "file": problem.file,
            }
        )
    else:
        sys.stdout.write(f"{VERDICTS[INVALID]}: {problem}\n")


def _print_result(result: Result, code: int, *, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "verdict": VERDICTS[code],
                "exit": code,
                "case": result.case,
                "claim": result.claim,
                "log": {"origin": result.head.origin, "size": result.head.size},
                "events": result.events,
                "runs": [_summary(run) for run in result.runs],
                "cosignatures": [
                    {"witness": mark.key.name, "at": _time(mark.at)} for mark in result.cosignatures
                ],
                "opened": _opened(result),
                "warnings": result.warnings,
                "limitations": result.limitations,
            }
        )
        return
    lines = [
        f"{VERDICTS[code]}: case {result.case}, {result.events} events,"
        f" log {result.head.origin} at {result.head.size} entries.",
        f"Claim ({result.claim}): {CLAIMS[result.claim]}",
    ]
    for run in map(_summary, result.runs):
        lines.append(
            f"Run {run['number']} on {run['model']}: {run['state']}, verdict"
            f" {run['verdict'] or 'none'}, adapter {run['adapter'] or 'none'}"
        )
    lines += [
        f"Cosigned by {mark.key.name} at {_time(mark.at)}: the witness had seen no other history."
        for mark in result.cosignatures
    ]
    if opened := _opened(result):
        lines.append(
            f"The receipt opens the commitment to {' and '.join(opened['fields'])} of entry"
            f" {opened['entry']}: whoever has it shows that this case is theirs."
        )
    if code == NOT_AUTHENTICATED:
        lines.append(
            "The keys were taken from the bundle itself. Get the trust file from the controller and"
            " give it with --trust."
        )
    lines += [f"Warning: {warning}" for warning in result.warnings]
    lines += ["What this does not show:", *(f"- {limit}" for limit in result.limitations)]
    sys.stdout.write("\n".join(lines) + "\n")


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME)


def _summary(run: Any) -> dict[str, Any]:
    adapter = run["adapter"]["sha256"] if run["adapter"] else ""
    return {
        **{key: run[key] for key in ("model", "number", "state", "verdict")},
        "adapter": adapter,
    }


def _opened(result: Result) -> dict[str, Any] | None:
    """Entry and fields that the receipt opened; its values are for nobody's screen."""
    return {"entry": result.opened[0], "fields": result.opened[1]} if result.opened else None


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
