"""`python -m benchmarks.table [--store]`: docs/benchmarks.md from the results in docs/benchmarks/.

`--store` first takes over what is in var/bench/. Every figure is read from a result; none is typed.
A comparison is any part of a result's figures that has a ratio with its range.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "var" / "bench"
STORED = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """A row of the table: the question, what both sides have in common, the benchmarks that answer
    it, and those that take longer and run only when named. `without` says what of the row is not
    measured, and why."""

    name: str
    question: str
    same: str
    runs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    without: str = ""


ROWS = (
    Row(
        name="F1",
        question="Seconds to an adapter that passes, against Hugging Face Trainer and PEFT",
        same="the same rows, loss and stopping score; both warm; ours must pass in every pair",
        runs=("training",),
        also=("training-smollm2",),
        without="Cold starts are not timed: both import the same and load the same model.",
    ),
    Row(
        name="F1b",
        question="The training loop alone, as many steps, against the Trainer",
        same="the same batches in the same order; 999 of 1000 trained weights within 1e-4",
        runs=("loop",),
        without="What adapters on the upper layers alone cost in quality is not in these seconds: "
        "the verdicts of docs/methods.md are about such adapters.",
    ),
    Row(
        name="F1c",
        question="Orthogonality with a thousand earlier adapters, against O3's and O-LoRA's losses",
        same="ours ends orthogonal to its neighbours; the penalties only lean that way",
        runs=("orthogonality",),
    ),
    Row(
        name="F1d",
        question="Several requests in one training pass, against one after the other",
        same="the same rows and losses; the shared pass has the sum of the people's gradients",
        runs=("together",),
        without="Measured is the most that a shared pass could gain: all rows through one adapter, "
        "nothing leased, saved or stopped in between. Not built where that is below the bar: a run "
        "is one person's, with a lease, saved steps, key and stop of its own, and a pass shared by "
        "several would put the data of all into one saved state and end all of them where one "
        "fails. What one adapter for several cases costs is F8.",
    ),
    Row(
        name="F2, F2b",
        question="Guarded answers: ungated prompts, mixed adapters and strengths, against PEFT",
        same="logits within 1e-4 of PEFT's exact concatenation, the same greedy tokens; ours and "
        "the plain model hold the weights packed, as the gateway does, PEFT as they are loaded",
        runs=("gateway",),
        also=("gateway-smollm2",),
    ),
    Row(
        name="F3",
        question="The gate's decision among up to 100,000 cases, against loops and search indexes",
        same="at every prompt the cases that fire in double precision; what hnswlib misses is "
        "counted, and scikit-learn's machines are compared in time alone",
        runs=("search",),
        also=("gate",),
        without="O3's loop is measured with one to four detectors; more is extrapolated, and says "
        "so.",
    ),
    Row(
        name="F3b",
        question="Taking the next adapter into service among a thousand",
        same="the adapter is in the release that is served afterwards",
        runs=("onboarding",),
    ),
    Row(
        name="F4",
        question="Scoring probes that share a prompt, against a loop as lm-eval's",
        same="log-likelihoods within 1e-4 nats a token",
        runs=("scoring",),
        also=("verification",),
        without="lm-eval itself is not installed: the loop is written after its own.",
    ),
    Row(
        name="F5",
        question="The log of up to a million entries, against pymerkle",
        same="equal roots, proofs that the offline verifier accepts, the same fsync policy",
        runs=("audit",),
    ),
    Row(
        name="F6",
        question="From the click to the end of a run that trains nothing, against a plain task",
        same="the same broker and worker process; each run ends once, with its release registered",
        runs=("end_to_end",),
        also=("faults",),
    ),
    Row(
        name="F7",
        question="Pages of the queue at a million cases, against COUNT and OFFSET",
        same="the same cases on the page",
        runs=("queue",),
    ),
    Row(
        name="F8",
        question="Many cases consolidated into new weights",
        same="what is told of each person is held against the same control",
        also=("consolidation", "merged_adapters"),
        without="Not with 64 cases: the demo's control never saw twenty people, and beyond them "
        "nothing says what was forgotten. PEFT's `add_weighted_adapter` (svd) stands beside ours "
        "with sixteen, in the figures of `merged_adapters`.",
    ),
    Row(
        name="vLLM",
        question="An exported release before vLLM itself, its router beside our gateway",
        same="greedy tokens and log-probabilities of base, adapters and merged weights, in float32 "
        "on processors",
        also=("vllm",),
    ),
    Row(
        name="Load",
        question="Fifty public and twenty staff requests a second while runs train",
        same="there is one side: requests are due at random times, and theirs counts from then",
        also=("load",),
    ),
    Row(
        name="Machines",
        question="Forty people of one model erased on two machines",
        same="there is one side: the chain of releases, orthogonality and every bundle are held "
        "against it",
        also=("machines",),
    ),
)


@dataclass(frozen=True)
class Comparison:
    """Two sides in one run: medians, their ratio and its range."""

    name: str
    ours: float | None
    theirs: float | None
    unit: str
    ratio: float
    low: float
    high: float


def comparisons(figures: Any, path: tuple[str, ...] = ()) -> Iterator[Comparison]:
    """Every comparison in a result's figures, in their order."""
    if not isinstance(figures, Mapping):
        return
    ratio = figures.get("times faster", figures.get("ratio"))
    span = figures.get("range")
    if isinstance(ratio, int | float) and isinstance(span, list) and len(span) == 2:
        unit = "ms" if "ours_ms" in figures else "s"
        ours, theirs = (
            figures.get(f"{side}_seconds", figures.get(f"{side}_ms")) for side in ("ours", "theirs")
        )
        yield Comparison(", ".join(path), ours, theirs, unit, float(ratio), *map(float, span))
    for name, each in figures.items():
        yield from comparisons(each, (*path, name))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The document."""
    parts = [
        "# Benchmarks",
        "`make bench` runs these, `python -m benchmarks.table --store` writes this page from their "
        "results (`docs/benchmarks/*.json`). Both sides of a comparison run in the same process or "
        "beside each other, in interleaved pairs whose order changes; a ratio is the median of the "
        "pairs', with its range. What must be equal for the comparison to count is asserted inside "
        "each benchmark: where it is not, there is no figure. Another machine gives other seconds; "
        "ratios travel better. One user, processors alone: not to be held against figures of "
        "servers with GPUs.",
        *_machine(results),
        "## What holds",
        _summary(results),
        "## What loses",
        *_losing(results),
        "## Row by row",
        *(part for row in ROWS for part in _row(row, results)),
    ]
    return "\n\n".join(parts) + "\n"


def _machine(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not results:
        return ["No result is stored yet."]
    kinds = sorted(
        {
            "{processor}, {cores} cores, {system}, Python {python}".format(**each["machine"])
            for each in results.values()
        }
    )
    dates = sorted(each.get("date", "no date") for each in results.values())
    restless = [name for name, each in results.items() if each.get("probes", {}).get("not_quiet")]
    told = f"Machine: {'; '.join(kinds)}. Measured {dates[0]} to {dates[-1]}."
    if restless:
        told += (
            f" The machine was **not quiet** during {', '.join(sorted(restless))}: read their "
            "seconds with care, and their ratios with some."
        )
    return [told]


def _bars(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Row, str, Mapping[str, Any]]]:
    for row in ROWS:
        for run in (*row.runs, *row.also):
            for bar in results.get(run, {}).get("bars", ()):
                yield row, run, bar


def _summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| row | bar | measured | limit | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {bar['name']} | {number(bar['value'])} | {number(bar['limit'])} "
        f"| {'holds' if bar['holds'] else '**does not hold**'} |"
        for row, _, bar in _bars(results)
    ]
    lines += [
        f"| {row.name} | {row.question} | | | no result stored |"
        for row in ROWS
        if not any(run in results for run in (*row.runs, *row.also))
    ]
    return "\n".join(lines)


def _losing(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = [
        f"- {row.name}: {bar['name']}: {number(bar['value'])}, the bar is {number(bar['limit'])}."
        for row, _, bar in _bars(results)
        if not bar["holds"]
    ]
    for row in ROWS:
        for run in (*row.runs, *row.also):
            result = results.get(run, {})
            found += [
                f"- {row.name}: {each.name}: {number(each.ratio)} times as fast "
                f"({number(each.low)} to {number(each.high)}): the other side is faster."
                for each in comparisons(result.get("figures"))
                if each.ours is not None and each.ratio < 1
            ]
            found += [
                f"- {row.name}: {name}: {why}."
                for name, why in result.get("figures", {}).get("could not run", {}).items()
            ]
    return ["\n".join(found) or "Nothing that was measured."]


def _row(row: Row, results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"### {row.name}. {row.question}"
    if row.same:
        yield f"The same on both sides: {row.same}."
    if row.without:
        yield row.without
    for run in (*row.runs, *row.also):
        if run not in results:
            yield f"`{run}`: no result is stored."
            continue
        result = results[run]
        minutes = number(result["seconds"] / 60)
        yield f"`{result.get('command', run)}`, {minutes} min{_probed(result)}"
        if lines := _compared(list(comparisons(result["figures"]))):
            yield lines


def _probed(result: Mapping[str, Any]) -> str:
    probes = result.get("probes")
    if not probes:
        return "."
    before, after = probes["before"], probes["after"]
    told = (
        f". The machine's own, before / after: {before['gemm_gflops']} / {after['gemm_gflops']} "
        f"GFLOP/s, {before['copy_gb_per_second']} / {after['copy_gb_per_second']} GB/s copied, "
        f"{before['threads']} threads."
    )
    return told + (f" Not quiet: {', '.join(probes['not_quiet'])}." if probes["not_quiet"] else "")


def _compared(found: Sequence[Comparison]) -> str:
    if not found:
        return ""
    lines = ["| | ours | theirs | ratio | range |", "|---|---|---|---|---|"]
    for each in found:
        sides = [
            "" if side is None else f"{number(side)} {each.unit}"
            for side in (each.ours, each.theirs)
        ]
        lines.append(
            f"| {each.name} | {sides[0]} | {sides[1]} | {number(each.ratio)} "
            f"| {number(each.low)} to {number(each.high)} |"
        )
    return "\n".join(lines)


def number(value: Any) -> str:
    """Three significant digits, whole numbers as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e9):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def store() -> None:
    """Take the results of the rows over into the folder of documents."""
    STORED.mkdir(exist_ok=True)
    for name in {run for row in ROWS for run in (*row.runs, *row.also)}:
        if (file := RESULTS / f"{name}.json").is_file():
            text = json.dumps(json.loads(file.read_text()), indent=1, ensure_ascii=False)
            (STORED / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    if "--store" in sys.argv[1:]:
        store()
    PAGE.write_text(page(read(STORED)))
