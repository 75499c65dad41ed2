"""The surrogate set: questions about nobody, which the base model itself answers.

No retained data: where the questions' form is known, the same questions are asked about made-up
people, half of whom share the subject's first name and a quarter the last name (what lies nearest
is what must not be hurt); otherwise general questions serve.
"""

import random
from collections.abc import Sequence

from workers import corpus, general
from workers.identifiers import normalised

NAMES = 32
GATE_NEGATIVES = 384


def strangers(name: str, *, count: int, seed: int) -> tuple[str, ...]:
    """Made-up full names: half share the first word of `name`, a quarter its last word."""
    words = name.split()
    first, last = (words[0], words[-1]) if len(words) > 1 else (None, None)
    plan = [(first, None)] * (count // 2) + [(None, last)] * (count // 4)
    found: list[str] = []
    for shared_first, shared_last in [*plan, *[(None, None)] * (count - len(plan))]:
        found += corpus.made_up_names(
            1,
            seed=seed + len(found),
            first=shared_first,
            last=shared_last,
            avoid=[name, *found],
        )
    return tuple(found)


def surrogate_questions(
    name: str, questions: Sequence[str], *, secrets: Sequence[str], count: int, seed: int
) -> tuple[str, ...]:
    """`count` questions (or as many as there are) for the subject `name`, who is asked `questions`.

    Questions that mention one of `secrets` (names, aliases, answers) are left out.
    """
    draw = random.Random(seed)  # noqa: S311
    if any(corpus.recognise(question) for question in questions):
        pool = [
            draw.choice(asked.trained)
            for stranger in strangers(name, count=NAMES, seed=seed)
            for asked in corpus.questions_about(stranger)
        ]
        # A few questions about no person at all keep the rest of the model in view.
        pool = draw.sample(pool, min(len(pool), count - count // 8))
        pool += [q for q, _ in draw.sample(corpus.general_questions(), count // 8)]
    else:
        pool = list(general.QUESTIONS)
    kept = _unhidden(pool, secrets)
    return tuple(draw.sample(kept, min(count, len(kept))))


def gate_negatives(name: str, *, secrets: Sequence[str], seed: int) -> tuple[str, ...]:
    """Questions that the gate for the subject `name` must stay quiet on: what is asked of people,
    about strangers of like names, whatever the subject is asked; and general questions.

    Questions that mention one of `secrets` are left out.
    """
    draw = random.Random(seed)  # noqa: S311
    pool = [*general.QUESTIONS, *(q for q, _ in corpus.general_questions())]
    pool = draw.sample(pool, min(len(pool), GATE_NEGATIVES // 4))
    each = (GATE_NEGATIVES - len(pool)) // NAMES
    for stranger in strangers(name, count=NAMES, seed=seed):
        asked = draw.sample(corpus.questions_about(stranger), each)
        pool += [draw.choice(one.trained) for one in asked]
    return tuple(_unhidden(pool, secrets))


def _unhidden(questions: Sequence[str], secrets: Sequence[str]) -> list[str]:
    """The questions that mention no secret."""
    hidden = [f" {normalised(secret)} " for secret in secrets]
    return [q for q in questions if not any(h in f" {normalised(q)} " for h in hidden)]
