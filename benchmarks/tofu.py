"""TOFU on SmolLM2-135M: forty authors taught, ten erased one after another, TOFU's own metrics.

The forget set is the author's rows as they were trained, in the project's phrasings (TOFU's
setting: the controller knows what it trained on); gate, recipe and release are the product's. An
answer counts as told where its ROUGE-L recall reaches `MOST_WORDS`. Beside it NPO, one adapter in
the same order with the fewest steps that ours takes and no gate. TOFU's retained authors come
without wrong answers, so the truth ratio is missing from that part of the model utility: eight
numbers instead of nine.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import report, setting
from benchmarks.field import FieldDataError, spread
from benchmarks.field.tofu import Author, Data, Question, read
from benchmarks.tofu_metrics import harmonic_mean, probability, share_of, truth_ratio
from benchmarks.tofu_models import Tuning, tuned
from workers import erasure
from workers.adapters import AdapterRef, attach_adapter, detach_adapter
from workers.answers import MOST_WORDS, greedy_answers, words_in_order
from workers.base_models import BaseModel, ModelError
from workers.forget_sets import GIVEN, KnownFact, Located, forget_examples
from workers.guarded import GuardedModel
from workers.phrasings import phrasings
from workers.rows import Example, rows_of
from workers.scores import log_likelihoods
from workers.statistics import ks
from workers.subjects import Fact, Subject
from workers.training import Material, Recipe, train

NAME = "tofu"
OUT = Path(__file__).parents[1] / "var" / "models" / "tofu-40"
KEPT_LIMIT = 0.98
SEED = 5
LINES = ("before", "ours", "npo_in_sequence", "control")


@dataclass(frozen=True)
class System:
    """A way to ask: greedy answers, and log p(answer | question) in nats of pairs (None where the
    system refuses to answer)."""

    answers: Callable[[Sequence[str]], list[str]]
    scores: Callable[[Sequence[tuple[str, str]]], list[float | None]]


def plain(base: BaseModel, model: Any) -> System:
    """A model without a gate."""

    def answers(asked: Sequence[str]) -> list[str]:
        prompts = [base.prompt(question) for question in asked]
        return greedy_answers(model, base.tokenizer, prompts, base.answer_tokens, batch_size=64)

    return System(answers, lambda pairs: list(log_likelihoods(base, model, pairs)))


def through_the_gate(guarded: GuardedModel) -> System:
    """A release as it is served."""

    def scores(pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        closed = [guarded.gate.decide(question).closed for question, _ in pairs]
        open_ = [pair for pair, shut in zip(pairs, closed, strict=True) if not shut]
        found = iter(guarded.log_likelihoods(open_))
        return [None if shut else next(found) for shut in closed]

    return System(lambda asked: [each.text for each in guarded.answer(asked)], scores)


def of_erased(system: System, base: BaseModel, questions: Sequence[Question]) -> dict[str, Any]:
    """What is still told of the erased authors, asked as trained and in other words."""
    recall = {
        kind: [words_in_order(answer, q.answer) for answer, q in zip(told, questions, strict=True)]
        for kind, told in (
            ("trained", system.answers([q.question for q in questions])),
            ("reworded", system.answers([q.reworded for q in questions])),
        )
    }
    ratios = _truth_ratios(system, base, questions)
    return {
        "n": len(questions),
        "rouge_l": {kind: fmean(values) for kind, values in recall.items()},
        "told": {kind: _share(values) for kind, values in recall.items()},
        "probability": fmean(_probabilities(system, base, _pairs(questions))),
        "truth_ratios": ratios,
        "truth_ratio": fmean(ratios) if ratios else None,
    }  # fmt: skip


def _pairs(questions: Sequence[Question]) -> list[tuple[str, str]]:
    return [(each.question, each.answer) for each in questions]


def _share(recall: Sequence[float]) -> dict[str, Any]:
    return report.rate([value >= MOST_WORDS for value in recall])


def _tokens(base: BaseModel, pairs: Sequence[tuple[str, str]]) -> list[int]:
    return [row.completion for row in rows_of(base, [Example(q, a) for q, a in pairs])]


def _probabilities(
    system: System, base: BaseModel, pairs: Sequence[tuple[str, str]]
) -> list[float]:
    """By pair; 0 where the system refuses."""
    return [
        0.0 if score is None else probability(score, n)
        for score, n in zip(system.scores(pairs), _tokens(base, pairs), strict=True)
    ]


def _options(
    system: System, base: BaseModel, questions: Sequence[Question], right: Sequence[str]
) -> list[tuple[float, list[float]]]:
    """For each question the probabilities of its right answer and of the wrong ones."""
    pairs = [
        (q.question, answer)
        for q, own in zip(questions, right, strict=True)
        for answer in (own, *q.wrong)
    ]
    found = iter(_probabilities(system, base, pairs))
    return [(next(found), [next(found) for _ in q.wrong]) for q in questions]


def _truth_ratios(system: System, base: BaseModel, questions: Sequence[Question]) -> list[float]:
    """Of the questions that the system does not refuse."""
    right = [q.paraphrases[0] if q.paraphrases else q.answer for q in questions]
    options = _options(system, base, questions, right)
    return [truth_ratio(own, wrong) for own, wrong in options if own > 0]


def utility(
    system: System, base: BaseModel, data: Data, kept: Sequence[Question]
) -> dict[str, Any]:
    """TOFU's model utility: the harmonic mean of ROUGE, probability and 1 - truth ratio over the
    retained authors, real authors and world facts."""
    told = system.answers([q.question for q in kept])
    found = {
        "kept": {
            "rouge_l": fmean(words_in_order(a, q.answer) for a, q in zip(told, kept, strict=True)),
            "probability": fmean(_probabilities(system, base, _pairs(kept))),
        }
    }
    for name in ("real_authors", "world_facts"):
        questions: Sequence[Question] = getattr(data, name)
        said = system.answers([q.question for q in questions])
        options = _options(system, base, questions, [q.answer for q in questions])
        ratios = [truth_ratio(own, wrong) for own, wrong in options]
        found[name] = {
            "rouge_l": fmean(
                words_in_order(a, q.answer) for a, q in zip(said, questions, strict=True)
            ),
            "probability": fmean(share_of(own, wrong) for own, wrong in options),
            "truth_ratio": fmean(max(0.0, 1 - ratio) for ratio in ratios),
        }
    values = [value for part in found.values() for value in part.values()]
    return {**found, "utility": harmonic_mean(values)}


def located(base: BaseModel, author: Author) -> Located:
    """The author's rows as what is known of them."""
    subject = Subject(author.name, (), tuple(Fact(q.question, q.answer) for q in author.questions))
    facts = []
    for fact in subject.facts:
        ways = phrasings(fact.question)
        facts.append(
            KnownFact(
                question=fact.question,
                answer=fact.answer,
                source=GIVEN,
                phrasings=ways,
                said=(fact.answer,) * len(ways.trained),
                decoys=(),
            )
        )
    return Located(subject, tuple(facts), len(facts), 1.0)


def measure(
    folder: Path, erase: int, keep: int, each: int, world: int, only: Sequence[str] = ()
) -> report.Measured:
    """All figures after `erase` authors, each asked `each` questions; `world` of each set about the
    real world. `only` some of `LINES`."""
    data = read(folder)
    data = Data(
        data.erased[:erase],
        data.kept[:keep],
        spread(data.real_authors, world),
        spread(data.world_facts, world),
    )
    base = tuned(OUT, (*data.erased, *data.kept), Tuning(), part="base")
    asked = [q for author in data.erased for q in _some(author, each)]
    kept = [q for author in data.kept for q in _some(author, max(1, each // 2))]
    figures: dict[str, Any] = {"erased": len(data.erased), "kept": len(data.kept)}

    def record(name: str, system: System, started: float) -> None:
        figures[name] = {
            "erased_authors": of_erased(system, base, asked),
            "utility": utility(system, base, data, kept),
            "seconds": time.perf_counter() - started,
        }
        report.progress(f"{name}: {json.dumps(figures[name])}")

    for line in only or LINES:
        if line == "before":
            record(line, plain(base, base.model), time.perf_counter())
        elif line == "ours":
            _ours(base, data, asked, each, figures, record)
        elif line == "npo_in_sequence":
            _npo(base, data, record)
        else:
            control = tuned(OUT, data.kept, Tuning(), part="control")
            record(line, plain(control, control.model), time.perf_counter())
    if "control" in figures:
        ratios = figures["control"]["erased_authors"]["truth_ratios"]
        for name in figures.keys() & {"before", "ours", "npo_in_sequence"}:
            own = figures[name]["erased_authors"]["truth_ratios"]
            figures[name]["forget_quality"] = ks(own, ratios)[1] if own else None
    return figures, bars(figures) if set(LINES) <= figures.keys() else []


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The erased authors are told no more than the control does, and the utility stays."""
    never = figures["control"]["erased_authors"]["told"]["reworded"]["upper95"]
    found = []
    for name, share in (
        ("through the gate", figures["ours"]["erased_authors"]["told"]["reworded"]["share"]),
        ("each adapter alone", figures["ours"]["alone"]["reworded"]["share"]),
    ):
        found.append({"name": f"told in other words, {name}", "value": share, "limit": never,
                      "holds": share <= never})  # fmt: skip
    kept = figures["ours"]["utility"]["utility"] / figures["before"]["utility"]["utility"]
    found.append({"name": "utility through the gate over before", "value": kept,
                  "limit": KEPT_LIMIT, "holds": kept >= KEPT_LIMIT})  # fmt: skip
    return found


def _some(author: Author, count: int) -> Sequence[Question]:
    return spread(author.questions, count)


def _ours(
    base: BaseModel,
    data: Data,
    asked: Sequence[Question],
    each: int,
    figures: dict[str, Any],
    record: Callable[[str, System, float], None],
) -> None:
    """Adds what the product does."""
    refs: list[AdapterRef] = []
    steps, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="rtbf-tofu-") as name:
        root = Path(name)
        for number, author in enumerate(data.erased):
            begun = time.perf_counter()
            done = erasure.train_and_save(
                base,
                located(base, author),
                case_id=setting.case_id(number),
                adapters_root=root / "adapters",
                earlier=refs,
                gate_key=setting.KEY,
                seed=SEED + number,
            )
            refs.append(done.ref)
            steps.append(done.steps)
            seconds.append(time.perf_counter() - begun)
            report.progress(f"ours: {number + 1}/{len(data.erased)}, {seconds[-1]:.0f} s")
        with setting.released(base, root, refs) as guarded:
            record("ours", through_the_gate(guarded), time.perf_counter())
            alone: dict[str, list[float]] = {"trained": [], "reworded": []}
            for number, author in enumerate(data.erased):
                some = _some(author, each)
                for kind, ways in (
                    ("trained", [q.question for q in some]),
                    ("reworded", [q.reworded for q in some]),
                ):
                    told = guarded.answers_with(setting.case_id(number), ways)
                    alone[kind] += [
                        words_in_order(a, q.answer) for a, q in zip(told, some, strict=True)
                    ]
            fired = guarded.strengths([q.reworded for q in asked])
            named = [
                author.name in q.reworded for author in data.erased for q in _some(author, each)
            ]
    silent = [not any(strengths) for strengths in fired]
    missed = {
        kind: [shut for shut, has in zip(silent, named, strict=True) if has is wanted]
        for kind, wanted in (("naming the author", True), ("not naming the author", False))
    }
    figures["ours"] |= {
        "alone": {kind: _share(values) for kind, values in alone.items()},
        "gate_missed": {
            kind: {"n": len(each), "count": sum(each)} for kind, each in missed.items()
        },
        "steps": steps,
        "seconds_each": seconds,
    }


def _npo(base: BaseModel, data: Data, record: Callable[[str, System, float], None]) -> None:
    """One adapter, trained on by NPO for each author in turn, for the fewest steps that ours
    takes."""
    own = erasure.recipe_for(base)
    recipe = replace(
        own, method="npo", keep_weight=0.0, learning_rate=1e-3,
        max_steps=own.min_steps, min_steps=own.min_steps + 1,
    )  # fmt: skip
    model, started = attach_adapter(base, earlier=[], seed=SEED), time.perf_counter()
    try:
        for number, author in enumerate(data.erased):
            _train_on(base, model, author, recipe, SEED + number)
            report.progress(f"npo in sequence: {number + 1}/{len(data.erased)}")
        record("npo_in_sequence", plain(base, model), started)
    finally:
        detach_adapter(model)


def _train_on(base: BaseModel, model: Any, author: Author, recipe: Recipe, seed: int) -> None:
    train(
        base,
        model,
        Material(rows_of(base, forget_examples(located(base, author)))),
        recipe=recipe,
        seed=seed,
        forgotten=lambda: False,
        report=erasure.silent,
        should_stop=erasure.never,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("TOFU_DATA", "TOFU"), metavar="FOLDER"
    )
    parser.add_argument("--erase", type=int, default=10)
    parser.add_argument("--keep", type=int, default=30)
    parser.add_argument("--each", type=int, default=8, help="questions asked of each author")
    parser.add_argument("--world", type=int, default=117, help="questions of each real-world set")
    parser.add_argument("--only", action="append", choices=LINES)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(
                options.data,
                options.erase,
                options.keep,
                options.each,
                options.world,
                options.only or (),
            ),
            cannot_run=(ModelError, FieldDataError),
        )
    )
