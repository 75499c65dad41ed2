"""What a release costs everybody else, against the original model: the one before any case.

Always the same questions, so that the figures of one release can be held against the next one's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from workers import corpus
from workers.forget_sets import Located
from workers.guarded import GuardedModel
from workers.probes import AFTER, BEFORE, Case, load_probe
from workers.protocol import general_texts, others
from workers.sides import Stack
from workers.subjects import Subject
from workers.verification import asked

OTHERS = 240
DRAWS = 2000
NOBODY = Located(Subject("", (), (), ()), (), asked=0, accuracy=0.0)
FIGURES = {"others_kept": "kept", "perplexity": "perplexity_ratio"}
"""The probes, and what their figure is called here."""


@dataclass(frozen=True)
class Utility:
    """`figures` as far as there are any; `missing` says of the others why they are not there."""

    figures: Mapping[str, float | int]
    missing: tuple[str, ...]


def measure(guarded: GuardedModel, original: GuardedModel) -> Utility:
    """Answers about others and general text, through the gate against `original` bare.

    Figures: `kept`, the accuracy on questions about others over the original's;
    `perplexity_ratio` of general text; and of both the 95% bound and the number of questions or
    texts, as `kept_bound`, `kept_n` and so on.
    """
    seed = corpus.SEED
    case = Case(
        located=NOBODY,
        forms=(),
        values=(),
        others=tuple(others(original.base, NOBODY, count=OTHERS, seed=seed)),
        texts=general_texts(original.base, seed=seed),
        has_control=False,
        sizes={},
        seed=seed,
    )
    stack = Stack(guarded, original, None, case_id="", seed=seed)
    figures: dict[str, float | int] = {}
    missing = []
    for probe, name in FIGURES.items():
        try:
            rows = asked(probe, case, stack, sides=(BEFORE, AFTER))
            found = load_probe(probe).measure(rows, draws=DRAWS, seed=seed)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            missing.append(f"{probe} could not be measured ({type(error).__name__})")
            continue
        figures |= {name: found.after, f"{name}_n": found.n}
        if found.bound is not None:
            figures[f"{name}_bound"] = found.bound
    return Utility(figures, tuple(missing))
