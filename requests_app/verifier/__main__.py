"""`python -m requests_app.verifier bundle.zip --trust trust.txt`: check a bundle, offline.

Exit status: 0 verified; 1 invalid; 2 could not run; 3 consistent with itself, but not authenticated
(no trust file given); 4 verified with warnings.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .checks import Result, verify
from .errors import Invalid
from .statements import CLAIMS
from .trust import TIME, parse_trust

VERIFIED, INVALID, COULD_NOT_RUN, NOT_AUTHENTICATED, WARNED = 0, 1, 2, 3, 4
FIGURES = ("n", "before", "after", "control", "bound", "threshold")
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
        started = time.perf_counter()
        result = verify(bundle, trust=trust, adapter_sha256=adapter, since=since, opening=opening)
        seconds = time.perf_counter() - started
    except Invalid as problem:
        _print_invalid(problem, as_json=options.json)
        return INVALID
    code = (
        NOT_AUTHENTICATED if not result.authenticated else WARNED if result.warnings else VERIFIED
    )
    _print_result(result, code, seconds=seconds, as_json=options.json)
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
        sys.stdout.write(f"{VERDICTS[INVALID]}: {_printable(str(problem))}\n")


def _print_result(result: Result, code: int, *, seconds: float, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "verdict": VERDICTS[code],
                "exit": code,
                "case": result.case,
                "claim": result.claim,
                "outcome": result.outcome,
                "as_of": result.as_of,
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
        f"As of {result.as_of}, the time of the last entry in here. Later entries are not in here.",
        f"Decision: {result.outcome or 'none'}.",
        f"Claim ({result.claim}): {CLAIMS[result.claim]}",
    ]
    for run in result.runs:
        lines += _run_lines(run)
    if not result.runs:
        lines.append("No erasure run: no model was touched, and nothing was measured.")
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
    lines.append("report.html is the signer's prose; what was checked is printed here.")
    lines.append(f"Checked in {seconds:.3f} s.")
    sys.stdout.write("".join(f"{_printable(line)}\n" for line in lines))


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME)


def _summary(run: Any) -> dict[str, Any]:
    keys = ("model", "number", "attempt", "state", "verdict", "error", "level", "served")
    adapter = run["adapter"]["sha256"] if run["adapter"] else ""
    return {
        **{key: run[key] for key in keys},
        "adapter": adapter,
        "tests": run["tests"],
        "evaluation": run["evaluation"],
    }


def _opened(result: Result) -> dict[str, Any] | None:
    """Entry and fields that the receipt opened; its values are for nobody's screen."""
    return {"entry": result.opened[0], "fields": result.opened[1]} if result.opened else None


def _run_lines(run: Any) -> list[str]:
    """A run with its figures, one test a line, and what was not tested."""
    adapter = run["adapter"]["sha256"] if run["adapter"] else "none"
    lines = [
        f"Run {run['number']} on {run['model']}: {run['state']}, verdict"
        f" {run['verdict'] or 'none'}, level {run['level']}, adapter {adapter}"
    ]
    if run["served"]:
        lines.append(
            f"  in force: release {run['served']['release']},"
            f" adapter {run['served']['adapter_sha256'] or 'none, the weights themselves'}"
        )
    if run["error"]:
        lines.append(f"  ended with: {run['error']}")
    for test in run["tests"]:
        told = [f"{key} {test[key]}" for key in FIGURES if test[key] != ""]
        lines.append(f"  {test['result']}: {test['question']} ({test['name']}; {', '.join(told)})")
    lines += [f"  not tested: {text}" for text in run["evaluation"]["notTested"].values()]
    lines += [f"  {name}: {why}" for name, why in run["evaluation"]["notMeasured"].items()]
    return lines


def _printable(text: str) -> str:
    """A bundle is not to write anything to a terminal but text."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # wherever it is run
    sys.exit(main())
