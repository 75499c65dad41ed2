"""Erasures one after another on the demo model: does each still hold when the last is done?

One adapter a request, the default recipe, the release re-loaded from disk at the end. `kept_after`
is the accuracy about others through the gate after so many requests (MUSE's sustainability, arXiv
2407.06460). Beside it, on the same order and with as many training steps: O3 as released (at the
rates `O3_RATES`, its own and a larger one; after a hundred requests at the larger one alone), and
one adapter that NPO goes on training (no gate).
`--requests 100` needs more people than the shipped model knows and trains a larger pair first, with
fewer facts a person; that pair is kept.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from benchmarks import report, setting
from requests_app import charts
from workers import erasure
from workers.adapters import AdapterRef, attach_adapter, detach_adapter
from workers.answers import greedy_answers
from workers.base_models import ModelError
from workers.forget_sets import Located, NothingMeasurable, ask, forget_examples
from workers.guarded import GuardedModel
from workers.methods import o3_reference
from workers.rows import rows_of
from workers.training import Material, Recipe, train

NAME = "continual"
OUT = Path(__file__).parents[1] / "var"
SEED = 11
SHIPPED_ERASABLE = 20
KEPT_LIMIT, FORCED_LIMIT = 0.98, 0.90
OURS, NPO, O3 = "ours", "npo_in_sequence", "o3_as_released, rate "
STEPS = Recipe().min_steps
"""A request's, for the others: as many as ours takes (its figures tell)."""
O3_RATES = (2e-4, 1e-3)
"""As released, for a model of seven billion weights; and five times that."""


def measure(requests: int, only: Sequence[str] = ()) -> report.Measured:
    """Figures and bars after `requests` erasures, of all `lines` or some."""
    if requests <= SHIPPED_ERASABLE:
        population = setting.shipped()
    else:
        folder = OUT / "models" / "demo-130x12"
        population = setting.larger(folder, people=130, erasable=100, facts=12, steps=1500)
    order = list(range(min(requests, population.erasable)))
    located = {i: population.located(i) for i in order}
    limits = {i: population.unseen_by_control(located[i]) for i in order}
    kept = setting.kept_questions(population, each=max(4, 240 // len(population.kept)))
    before = setting.share(ask(population.base, [q for q, _ in kept]), kept)
    common = {
        "requests": len(order),
        "kept_people": len(population.kept),
        "kept_questions": len(kept),
        "base_on_kept": before,
        "control_upper95": {i: limits[i].upper for i in order},
        "control": {i: limits[i].value for i in order},
    }
    table: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for line in only or lines(len(order)):
        if line == OURS:
            table[line] = _ours(population, order, located, kept, before)
            found = bars(table[line], limits, order)
            (OUT / "bench").mkdir(parents=True, exist_ok=True)
            picture = OUT / "bench" / f"continual-{len(order)}.svg"
            chart = chart_of(table[line], limits, order)
            picture.write_text(f"{chart.svg}\n", encoding="utf-8")
            report.progress(f"{chart.title}: {picture.name}")
        elif line == NPO:
            table[line] = _npo(population, order, located, kept, before, steps=STEPS)
        else:
            rate = float(line.removeprefix(O3))
            table[line] = _o3(population, order, located, kept, before, steps=STEPS, rate=rate)
        report.progress(f"{line}: {json.dumps(table[line])}")  # minutes of work
    return {**common, **table}, found


def lines(requests: int) -> list[str]:
    """The lines of the table, ours first."""
    rates = O3_RATES if requests <= SHIPPED_ERASABLE else O3_RATES[-1:]
    return [OURS, NPO, *(f"{O3}{rate:g}" for rate in rates)]


def bars(
    ours: dict[str, Any], limits: dict[int, Any], order: Sequence[int]
) -> list[dict[str, Any]]:
    """What must hold after the last request."""
    found = []
    for way in ("gated", "alone"):
        over = [i for i in order if ours[way][i] > limits[i].upper]
        found.append(
            {"name": f"people above the control's bound, {way}", "value": len(over), "limit": 0,
             "holds": not over}
        )  # fmt: skip
    found += [
        {"name": "kept accuracy through the gate", "value": ours["kept_gated"],
         "limit": KEPT_LIMIT, "holds": ours["kept_gated"] >= KEPT_LIMIT},
        {"name": "kept accuracy, worst single adapter forced on everything",
         "value": ours["kept_forced_min"], "limit": FORCED_LIMIT,
         "holds": ours["kept_forced_min"] >= FORCED_LIMIT},
    ]  # fmt: skip
    return found


def _ours(
    population: setting.Population,
    order: Sequence[int],
    located: dict[int, Located],
    kept: Sequence[tuple[str, str]],
    before: float,
) -> dict[str, Any]:
    base, started = population.base, time.perf_counter()
    refs: list[AdapterRef] = []
    steps, seconds, overlaps = 0, [], []
    asked = {i: setting.asked(located[i], "unseen") for i in order}
    asked_kept = [q for q, _ in kept]
    every = max(1, len(order) // 20)
    matrix: list[list[float]] = []
    kept_after: dict[int, float] = {}
    known: dict[tuple[str, tuple[str, ...]], str] = {}
    with setting.scratch() as root:
        for number, i in enumerate(order, start=1):
            begun = time.perf_counter()
            done = erasure.train_and_save(
                base,
                located[i],
                case_id=setting.case_id(i),
                adapters_root=root / "adapters",
                earlier=refs,
                gate_key=setting.KEY,
                seed=SEED + i,
            )
            refs.append(done.ref)
            seconds.append(time.perf_counter() - begun)
            steps += done.steps
            overlaps.append(done.overlap)
            if number % every == 0:
                with setting.released(base, root, refs) as guarded:
                    matrix.append([_recall(guarded, located[j], asked[j], known) for j in order])
                    told_of_others = _texts(guarded, asked_kept)
                    kept_after[number] = setting.share(told_of_others, kept) / before
            report.progress(f"ours: {number}/{len(order)}, {seconds[-1]:.1f} s")
        with setting.released(base, root, refs) as guarded:
            gated = {
                i: setting.told(_texts(guarded, asked[i]), located[i], "unseen").value
                for i in order
            }
            alone = {
                i: setting.told(
                    guarded.answers_with(setting.case_id(i), asked[i]), located[i], "unseen"
                ).value
                for i in order
            }
            kept_gated = setting.share(_texts(guarded, asked_kept), kept) / before
            forced = {
                i: setting.share(guarded.answers_with(setting.case_id(i), asked_kept), kept)
                / before
                for i in order
            }
    return {
        "gated": gated,
        "alone": alone,
        "kept_gated": kept_gated,
        "kept_after": kept_after,
        "kept_forced": forced,
        "kept_forced_min": min(forced.values()),
        "kept_forced_mean": sum(forced.values()) / len(forced),
        "steps": steps // len(order),
        "seconds_each": seconds,
        "overlap_max": max(overlaps),
        "matrix": matrix,
        "matrix_every": every,
        "seconds": time.perf_counter() - started,
    }


def _texts(guarded: GuardedModel, asked: Sequence[str]) -> list[str]:
    return [each.text for each in guarded.answer(asked)]


def _recall(
    guarded: GuardedModel,
    located: Located,
    asked: Sequence[str],
    known: dict[tuple[str, tuple[str, ...]], str],
) -> float:
    """Recall through the gate. An answer depends on the question and on the adapters that act
    alone, so one that was given under the same adapters is not asked for again."""
    cases = [ref.case_id for ref in guarded.release.adapters]
    acting = [
        tuple(f"{case} {s}" for case, s in zip(cases, strengths, strict=True) if s > 0)
        for strengths in guarded.strengths(asked)
    ]
    new = [i for i, key in enumerate(zip(asked, acting, strict=True)) if key not in known]
    answers = _texts(guarded, [asked[i] for i in new]) if new else []
    known.update({(asked[i], acting[i]): text for i, text in zip(new, answers, strict=True)})
    told = [known[key] for key in zip(asked, acting, strict=True)]
    return setting.told(told, located, "unseen").value


def _npo(
    population: setting.Population,
    order: Sequence[int],
    located: dict[int, Located],
    kept: Sequence[tuple[str, str]],
    before: float,
    *,
    steps: int,
) -> dict[str, Any]:
    """One adapter, trained on by NPO for each request in turn, with no gate and no early stop."""
    base, started = population.base, time.perf_counter()
    recipe = Recipe(
        method="npo", keep_weight=0.0, learning_rate=1e-3, max_steps=steps, min_steps=steps + 1
    )
    model = attach_adapter(base, earlier=[], seed=SEED)
    try:
        for number, i in enumerate(order, start=1):
            train(
                base,
                model,
                Material(rows_of(base, forget_examples(located[i]))),
                recipe=recipe,
                seed=SEED + i,
                forgotten=lambda: False,
                report=erasure.silent,
                should_stop=erasure.never,
            )
            report.progress(f"npo in sequence: {number}/{len(order)}")

        def answers(asked: Sequence[str]) -> list[str]:
            prompts = [base.prompt(question) for question in asked]
            return greedy_answers(model, base.tokenizer, prompts, base.answer_tokens, batch_size=64)

        return _after(answers, order, located, kept, before, started)
    finally:
        detach_adapter(model)


def _o3(
    population: setting.Population,
    order: Sequence[int],
    located: dict[int, Located],
    kept: Sequence[tuple[str, str]],
    before: float,
    *,
    steps: int,
    rate: float,
) -> dict[str, Any]:
    """O3 as released: its own gate, and its adapter forced on everything."""
    started = time.perf_counter()
    settings = o3_reference.Settings(learning_rate=rate)
    with o3_reference.sequence(population.base, seed=SEED, settings=settings) as o3:
        for number, i in enumerate(order, start=1):
            o3.erase(forget_examples(located[i]), steps=steps)
            report.progress(f"o3 as released, rate {rate:g}: {number}/{len(order)}")
        found = _after(o3.answers, order, located, kept, before, started)
        forced = _after(o3.answers_forced, order, located, kept, before, started)
        asked = [question for i in order for question in setting.asked(located[i], "unseen")]
        return {
            **found,
            "alone": forced["gated"],
            "kept_forced": forced["kept_gated"],
            "erased_people_prompts_at_strength_0": o3.strengths(asked).count(0.0) / len(asked),
            "steps": steps,
            "seconds": time.perf_counter() - started,
        }


def _after(
    answers: Any,
    order: Sequence[int],
    located: dict[int, Located],
    kept: Sequence[tuple[str, str]],
    before: float,
    started: float,
) -> dict[str, Any]:
    return {
        "gated": {
            i: setting.told(
                answers(setting.asked(located[i], "unseen")), located[i], "unseen"
            ).value
            for i in order
        },
        "kept_gated": setting.share(answers([q for q, _ in kept]), kept) / before,
        "seconds": time.perf_counter() - started,
    }


def chart_of(ours: dict[str, Any], limits: dict[int, Any], order: Sequence[int]) -> charts.Chart:
    """The matrix request x person; people are numbered as in the figures."""
    every = ours["matrix_every"]
    requests = [(i + 1) * every for i in range(len(ours["matrix"]))]
    if not settings.configured:
        settings.configure(USE_I18N=False)  # its words are in English
    return charts.matrix(order, requests, ours["matrix"], limits=[limits[i].upper for i in order])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", choices=["demo"], default="demo")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--only", action="append", metavar="LINE", help="of the table")
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.requests, options.only or ()),
            cannot_run=(ModelError, NothingMeasurable),
        )
    )
