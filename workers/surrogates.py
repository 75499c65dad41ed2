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
    hidden = [f" {normalised(secret)} " for secret in secrets]
    kept = [q for q in pool if not any(h in f" {normalised(q)} " for h in hidden)]
    return tuple(draw.sample(kept, min(count, len(kept))))
