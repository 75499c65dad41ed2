"""The common form of a benchmark's result, and its exit code."""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import probes
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
    """Parse the command line, measure, print {"benchmark", "command", "date", "machine",
    "probes", "seconds", "figures", "bars"} on standard output, and return the exit code: 0 if all
    bars hold (or it never `has_bars`), 1 if one does not or there is none, 2 if `measure` raised
    one of `cannot_run` (its text goes to standard error; nothing is printed), or figures tell under
    "could not run" what part of it could not.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--json", action="store_true", help="the JSON object on one line")
    parser.add_argument("--no-probes", action="store_true", help="without probing the machine")
    options = parser.parse_args()
    end_on_sigterm()
    before, since = {} if options.no_probes else probed(), probes.ticks()
    started = time.perf_counter()
    try:
        figures, bars = measure()
    except cannot_run as error:
        print(f"{name} could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    seconds = round(time.perf_counter() - started, 3)
    found = {
        "benchmark": name,
        "command": command(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "probes": probes.around(before, probed(), since=since) if before else {},
        "seconds": seconds,
        "figures": dict(figures),
        "bars": [dict(bar) for bar in bars],
    }
    print(json.dumps(found, indent=None if options.json else 1))
    if missing := figures.get("could not run"):
        print(f"{name} could not run in part: {dict(missing)}", file=sys.stderr)
        return COULD_NOT_RUN
    held = all(bar["holds"] for bar in bars) and bool(bars) is has_bars
    return HOLD if held else DO_NOT_HOLD


def probed() -> dict[str, Any]:
    """The machine's rates, asked in a thread that ends: what one keeps that has computed slows what
    others compute (`workers.batching.apart`)."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(probes.asked).result()


def command() -> str:
    """The command line of this process, without the interpreter's place and how to print."""
    given = [each for each in sys.orig_argv[1:] if each not in ("--json", "--no-probes")]
    return " ".join(["python", *given])


def end_on_sigterm() -> None:
    """SIGTERM ends this process as `sys.exit` does: servers, databases and workers that it started
    are stopped on the way out."""

    def end(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut that short
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def compared(ours: Sequence[float], theirs: Sequence[float], /, **more: Any) -> dict[str, Any]:
    """Interleaved pairs of seconds: both medians, the median of the ratios and their range."""
    faster = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "pairs": len(faster),
        "ours_seconds": statistics.median(ours),
        "theirs_seconds": statistics.median(theirs),
        "times faster": statistics.median(faster),
        "range": [min(faster), max(faster)],
        **more,
    }


def in_turn(
    ours: Callable[[], Any], theirs: Callable[[], Any], *, pairs: int
) -> tuple[list[float], list[float], Any, Any]:
    """Seconds of both ways in `pairs` interleaved pairs whose order changes, after one that warms
    up, and what each returned last."""
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    last: dict[str, Any] = {}
    for turn in range(-1, pairs):
        ways = [("ours", ours), ("theirs", theirs)]
        for way, work in ways if turn % 2 else reversed(ways):
            started = time.perf_counter()
            last[way] = work()
            if turn >= 0:
                spent[way].append(time.perf_counter() - started)
    return spent["ours"], spent["theirs"], last["ours"], last["theirs"]


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
