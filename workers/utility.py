"""What a release costs everybody else, against the original model: the one before any case.

Always the same questions, so that the figures of one release can be held against the next one's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workers import corpus
from workers.answers import is_match
from workers.forget_sets import Located
from workers.guarded import GuardedModel
from workers.protocol import general_texts, others
from workers.subjects import Subject

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
    before = [*map(is_match, original.base_answers(asked), truths)]
    after = [*map(is_match, (each.text for each in guarded.answer(asked)), truths)]
    still = sum(then and now for then, now in zip(before, after, strict=True))
    return {
        "kept": sum(after) / sum(before),
        "still_answered": still / sum(before),
        "others": len(facts),
    }


def _perplexity(guarded: GuardedModel, original: GuardedModel) -> Mapping[str, float | int]:
    texts = general_texts(original.base, seed=corpus.SEED)
    ratio = math.exp(_nats(guarded, texts) - _nats(original, texts))
    return {"perplexity_ratio": ratio, "texts": len(texts)}


def _nats(model: GuardedModel, texts: Sequence[str]) -> float:
    """Nats a token over all texts. Raises ValueError where the gate lets one not be scored."""
    found = [each for each in model.scored_texts(texts) if each is not None]
    if len(found) < len(texts):
        raise ValueError("the gate closed on general text")
    return -sum(each.total for each in found) / sum(len(each.logp) for each in found)
