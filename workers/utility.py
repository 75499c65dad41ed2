"""What a release costs everybody else, against the original model: the one before any case.

Always the same questions, so that the figures of one release can be held against the next one's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers import corpus
from workers.forget_sets import Located
from workers.guarded import GuardedModel
from workers.probes import others_kept, perplexity, recall
from workers.subjects import Subject
from workers.verification import general_texts, others

OTHERS = 240
NOBODY = Located(Subject("", (), (), ()), (), asked=0, accuracy=0.0)


@dataclass(frozen=True)
class Utility:
    """`figures` as far as there are any; `missing` says of the others why they are not there."""

    figures: Mapping[str, float | int]
    missing: tuple[str, ...]


def measure(guarded: GuardedModel, original: GuardedModel) -> Utility:
    """Answers about others and general text, through the gate against `original` bare.

    Figures: `kept`, the accuracy on questions about others over the original's, of `others`
    questions; `still_answered`, the share of what the original answered that still is;
    `perplexity_ratio` on `texts` general texts.
    """
    figures: dict[str, float | int] = {}
    missing = []
    parts: list[tuple[str, Callable[[], Mapping[str, float | int]]]] = [
        ("answers about others", lambda: _others(guarded, original)),
        ("general text", lambda: _perplexity(guarded, original)),
    ]
    for name, part in parts:
        try:
            figures |= part()
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            missing.append(f"{name} could not be measured ({type(error).__name__})")
    return Utility(figures, tuple(missing))


def _others(guarded: GuardedModel, original: GuardedModel) -> Mapping[str, float | int]:
    facts = others(original.base, NOBODY, count=OTHERS, seed=corpus.SEED)
    if not facts:
        raise ValueError("there are no questions about others")
    asked, truths = [fact.question for fact in facts], [fact.answer for fact in facts]
    before = original.base_answers(asked)
    after = [each.text for each in guarded.answer(asked)]
    kept = recall.measure(after, truths).value / recall.measure(before, truths).value
    still = others_kept.measure(before, after, truths).value
    return {"kept": kept, "still_answered": still, "others": len(facts)}


def _perplexity(guarded: GuardedModel, original: GuardedModel) -> Mapping[str, float | int]:
    texts = general_texts(original.base, seed=corpus.SEED)
    before = original.mean_nll(texts, gated=False)
    found = perplexity.measure(before, guarded.mean_nll(texts), texts=len(texts))
    return {"perplexity_ratio": found.value, "texts": found.n}
