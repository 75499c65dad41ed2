"""The common form of a benchmark's result, and its exit code."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.statistics import share

HOLD, DO_NOT_HOLD, COULD_NOT_RUN = 0, 1, 2

Measured = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]


def run(
    name: str,
    about: str,
    measure: Callable[[], Measured],
    *,
    cannot_run: tuple[type[Exception], ...],
    has_bars: bool = True,
) -> int:
    """Parse the command line, measure, print {"benchmark", "machine", "seconds", "figures",
    "bars"} on standard output, and return the exit code: 0 if all bars hold (or it never
    `has_bars`), 1 if one does not or there is none, 2 if `measure` raised one of `cannot_run` (its
    text goes to standard error).
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--json", action="store_true", help="the JSON object on one line")
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        figures, bars = measure()
    except cannot_run as error:
        print(f"{name} could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    found = {
        "benchmark": name,
        "machine": machine(),
        "seconds": round(time.perf_counter() - started, 3),
        "figures": dict(figures),
        "bars": [dict(bar) for bar in bars],
    }
    print(json.dumps(found, indent=None if options.json else 1))
    held = all(bar["holds"] for bar in bars) and bool(bars) is has_bars
    return HOLD if held else DO_NOT_HOLD


def rate(found: Sequence[bool]) -> dict[str, Any]:
    """A share with its upper 95% bound (Clopper and Pearson). Raises ValueError for none."""
    bounds = share(sum(found), len(found))
    return {"n": len(found), "count": sum(found), "share": bounds.value, "upper95": bounds.upper}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def progress(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def phases(label: str) -> Callable[[str, int, int, Mapping[str, float]], None]:
    """A report for the engine that prints each step of each phase on standard error."""
    return lambda phase, step, total, _: progress(f"{label}: {phase} {step}/{total}")
