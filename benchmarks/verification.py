"""What a verification costs: the fast profile on both models, and shared scoring against separate.

The fast profile of one case of twenty facts on the demo model, and of one work on SmolLM2-135M,
each on a release read back from disk. Then every completion that the demo's probes score, in one
run and in interleaved pairs: by the shared scorer (each prompt read once, nothing twice) and probe
by probe in padded batches; the likelihoods must agree.
"""

import itertools
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import report, setting
from workers import erasure
from workers.base_models import BaseModel, ModelError, load_base_model
from workers.forget_sets import Located, NothingMeasurable, locate
from workers.probes import load_probe
from workers.protocol import case_of, in_order, make_protocol
from workers.rows import Row, completion_labels, completion_logits, rows_after
from workers.scores import scored_rows
from workers.subjects import read_subject
from workers.summaries import bar
from workers.verification import verify

NAME = "verification"
SUBJECT = Path(__file__).parents[1] / "workers" / "subject_files" / "harry_potter.json"
FACTS = 20
DEMO_SECONDS, SMOLLM2_SECONDS, TIMES_FASTER, EQUAL = 60.0, 360.0, 3.0, 1e-4
PAIRS = 5
BATCH = 64


def measure() -> report.Measured:
    """Seconds of the fast profile on both models, and the ratio of the two ways of scoring."""
    population = setting.shipped()
    located = population.located(7)
    located = replace(located, facts=located.facts[:FACTS])
    demo, seconds = fast_profile(population.base, located, control=population.control)
    report.progress(f"demo: {seconds:.1f} s")
    bars = [bar("demo, 20 facts: seconds", seconds, DEMO_SECONDS, seconds <= DEMO_SECONDS)]
    figures: dict[str, Any] = {"demo": demo, "scoring": scoring(population, located)}
    faster, apart = figures["scoring"]["times faster"], figures["scoring"]["largest difference"]
    bars += [
        bar("shared scoring, times faster", faster, TIMES_FASTER, faster >= TIMES_FASTER),
        bar("shared scoring, largest difference in nats", apart, EQUAL, apart <= EQUAL),
    ]
    base = load_base_model("smollm2-135m")
    figures["smollm2-135m"], seconds = fast_profile(base, locate(base, read_subject(SUBJECT)))
    bars.append(bar("smollm2-135m: seconds", seconds, SMOLLM2_SECONDS, seconds <= SMOLLM2_SECONDS))
    return figures, bars


def fast_profile(
    base: BaseModel, located: Located, *, control: BaseModel | None = None
) -> tuple[dict[str, Any], float]:
    """Seconds by probe of one verification of a stored release; its adapter is trained a little,
    since what it suppresses changes no cost."""
    recipe = replace(erasure.recipe_for(base), max_steps=2, surrogates=16)
    protocol = make_protocol(base, located, control=control, recipes=[], seed=1)
    marks: list[tuple[str, float]] = []
    with setting.scratch() as root:
        trained = erasure.train_and_save(
            base,
            located,
            case_id=setting.case_id(0),
            adapters_root=root / "adapters",
            earlier=[],
            gate_key=setting.KEY,
            seed=1,
            recipe=recipe,
        )
        with setting.released(base, root, [trained.ref]) as served:
            started = time.perf_counter()
            verify(
                served,
                located,
                protocol,
                control=control,
                case_id=setting.case_id(0),
                report=lambda name, *_: marks.append((name, time.perf_counter())),
            )
            seconds = time.perf_counter() - started
    spent = {name: round(later - then, 2) for (name, then), (_, later) in itertools.pairwise(marks)}
    return {"facts": len(located.facts), "seconds": seconds, "by probe": spent}, seconds


def scoring(population: setting.Population, located: Located) -> dict[str, Any]:
    """Every completion of the fast profile's probes, scored in both ways in turn."""
    base = population.base
    protocol = make_protocol(base, located, control=population.control, recipes=[], seed=1)
    case = case_of(base, located, protocol)
    asks = {
        name: [ask for ask in probe.asks(case) if ask.completion and not ask.text]
        for name in in_order(protocol)
        if hasattr(probe := load_probe(name), "asks")
    }
    # Turning texts into tokens is the same in both ways, and is done before the clock starts.
    rows = {
        name: rows_after(base, [(ask.prompt, str(ask.completion)) for ask in some])
        for name, some in asks.items()
    }
    ratios, apart = [], 0.0
    for turn in range(PAIRS + 1):
        ways = {"shared": shared, "separate": separate}
        found, seconds = {}, {}
        for way in sorted(ways, reverse=bool(turn % 2)):
            started = time.perf_counter()
            found[way] = ways[way](base, rows)
            seconds[way] = time.perf_counter() - started
        apart = max(apart, max(map(abs, map(float.__sub__, found["shared"], found["separate"]))))
        if turn:  # the first one warms up
            ratios.append(seconds["separate"] / seconds["shared"])
            report.progress(f"scoring: {ratios[-1]:.2f} times faster")
    return {
        "completions": sum(map(len, asks.values())),
        "times faster": statistics.median(ratios),
        "all pairs": ratios,
        "largest difference": apart,
    }


def shared(base: BaseModel, rows: dict[str, list[Row]]) -> list[float]:
    """Each different row once, each prompt read once."""
    once = list(dict.fromkeys(row for some in rows.values() for row in some))
    found = dict(zip(once, scored_rows(base.model, once), strict=True))
    return [found[row].total for some in rows.values() for row in some]


@torch.no_grad()
def separate(base: BaseModel, rows: dict[str, list[Row]]) -> list[float]:
    """Each probe by itself: whole rows, padded, in batches of the same size."""
    found: list[float] = []
    pad = int(base.tokenizer.pad_token_id)
    for some in rows.values():
        for start in range(0, len(some), BATCH):
            part = some[start : start + BATCH]
            logits = completion_logits(base.model, part, pad)
            labels = completion_labels(part)
            tokens = -torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            found += [float(p.sum()) for p in tokens.split([row.completion for row in part])]
    return found


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError, NothingMeasurable)))
