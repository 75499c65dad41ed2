"""Consolidate 5 and 20 people of the demo model into new weights, with and without retained data.

One joint LoRA, merged, stored, read back and verified without a gate against the control. The bars
are for retained data; what the base itself says in its place does is printed beside them. The
others that are asked about were in the retained data, in other phrasings (`unseen`) than those
asked. General text begins without the space that the demo model saw before every sentence, so that
its first tokens cost most; `perplexity_ratio_spaced` is the same with the space.
"""

import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import report, setting
from workers import corpus
from workers.answers import is_match, recalled
from workers.base_models import BaseModel, ModelError, load_base_model, load_control
from workers.consolidation import registered_data, without_mentions
from workers.forget_sets import Located, ask, locate, questions
from workers.joint_training import JointRecipe, joint_deltas
from workers.protocol import general_texts
from workers.rows import text_row
from workers.scores import scored_rows
from workers.statistics import Interval
from workers.summaries import bar
from workers.weights import load_weights, store_weights

NAME = "consolidation"
PEOPLE = (5, 20)
OTHERS = 600
OTHERS_KEPT = 0.98
PERPLEXITY = 1.02
SEED = 1


def measure() -> report.Measured:
    """One row for each number of people and kind of data, and the bars of those with data."""
    base, control = load_base_model("demo"), load_control("demo")
    if control is None:
        raise ModelError("The demo model's control is missing: run manage.py build_demo_model.")
    everyone = [
        locate(base, setting.subject_of(person)) for person in corpus.people()[: max(PEOPLE)]
    ]
    figures: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    for count in PEOPLE:
        for kind in ("retained", "surrogates"):
            label = f"{count} people, {kind}"
            report.progress(label)
            figures[label] = found = row(base, control, everyone[:count], kind, label=label)
            if kind == "retained":
                short = found["unseen"]["above_limit"]
                kept = found["others"]["kept"]
                general = found["perplexity_ratio"]
                bars += [
                    bar(f"{label}: people above the control's upper bound", short, 0, short == 0),
                    bar(f"{label}: others kept", kept, OTHERS_KEPT, kept >= OTHERS_KEPT),
                    bar(f"{label}: perplexity", general, PERPLEXITY, general <= PERPLEXITY),
                ]
    return figures, bars


def row(
    base: BaseModel, control: BaseModel, located: Sequence[Located], kind: str, *, label: str
) -> dict[str, Any]:
    """Train; what the new weights tell of the erased and of the others."""
    rows = registered_data(base) if kind == "retained" else ()
    started = time.perf_counter()
    deltas = joint_deltas(
        base,
        located,
        retained=without_mentions(rows, [each.subject.name for each in located]),
        recipe=JointRecipe(),
        seed=SEED,
        report=report.phases(label),
        should_stop=lambda: False,
    )
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), **told_after(base, control, located, deltas)}


def told_after(
    base: BaseModel, control: BaseModel, located: Sequence[Located], deltas: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Store the weights with `deltas` added and read them back: what they tell of the erased, held
    against the control, and of the others."""
    with tempfile.TemporaryDirectory() as root:
        after = load_weights(Path(root), store_weights(base, deltas, Path(root)).name)
        found: dict[str, Any] = {}
        for phrased in ("trained", "unseen"):
            asked = [questions(each, phrased) for each in located]
            told = [share(after, pairs) for pairs in asked]
            limits = [recall_of(control, pairs).upper for pairs in asked]
            found[phrased] = {
                "before": share(base, [pair for pairs in asked for pair in pairs]),
                "after": sum(told) / len(told),
                "worst": max(told),
                "control": share(control, [pair for pairs in asked for pair in pairs]),
                "above_limit": sum(t > limit for t, limit in zip(told, limits, strict=True)),
            }
        found["others"] = {
            **others(base, after, ("trained", "unseen"), "kept"),
            **others(base, after, ("unseen",), "kept_unseen"),
        }
        texts = general_texts(base, seed=SEED)
        found["perplexity_ratio"] = ratio(base, after, texts)
        found["perplexity_ratio_spaced"] = ratio(base, after, [f" {text}" for text in texts])
    return found


def ratio(base: BaseModel, after: BaseModel, texts: Sequence[str]) -> float:
    """Perplexity of `after` on the texts as a multiple of the base's."""
    return math.exp(nats(after, texts) - nats(base, texts))


def others(base: BaseModel, after: BaseModel, kinds: Sequence[str], name: str) -> dict[str, float]:
    """Accuracy about people who are never erased, as a share of the base's, and kept answers."""
    pool = [
        (question, fact.answer)
        for person in corpus.people()
        if person.index not in corpus.ERASABLE
        for fact in person.facts
        for kind in kinds
        for question in getattr(fact, kind)
    ]
    pairs = random.Random(SEED).sample(pool, OTHERS)  # noqa: S311
    asked, truths = [q for q, _ in pairs], [a for _, a in pairs]
    before, now = ask(base, asked), ask(after, asked)
    answered = [
        is_match(new, truth)
        for old, new, truth in zip(before, now, truths, strict=True)
        if is_match(old, truth)
    ]
    return {
        name: recalled(now, truths).value / recalled(before, truths).value,
        f"{name}_answers": sum(answered) / len(answered),
    }


def nats(model: BaseModel, texts: Sequence[str]) -> float:
    """Mean nats a token of the texts."""
    rows = [text_row(model, text, ends=False) for text in texts]
    found = [each for row in scored_rows(model.model, rows) for each in row.logp]
    return -sum(found) / len(found)


def share(model: BaseModel, pairs: Sequence[tuple[str, str]]) -> float:
    return recall_of(model, pairs).value


def recall_of(model: BaseModel, pairs: Sequence[tuple[str, str]]) -> Interval:
    return recalled(ask(model, [q for q, _ in pairs]), [a for _, a in pairs])


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError,)))
