"""Locating: what does the model really know of a subject, and the examples made of it.

Facts are those given with the subject, and those that the model itself tells when asked everything
its corpus has questions for. Only what it knows is kept: there is nothing to measure, and nothing
to unlearn, in a fact that it never had.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from workers import corpus
from workers.answers import greedy_answers, is_match, normalise
from workers.base_models import BaseModel
from workers.discovery import Unprompted, sample
from workers.phrasings import Phrasings, made_up_questions, phrasings
from workers.rows import Example, Row, rows_of
from workers.scores import log_likelihoods
from workers.subjects import Fact, Subject
from workers.training import Stopped

GIVEN, DISCOVERED = "given", "discovered"
CONSISTENT = 0.75
STRANGERS = 8
BATCH = 64


class NothingMeasurable(RuntimeError):
    """The model knows nothing of the subject that could be measured; `evidence` are the counts that
    show it, without texts."""

    def __init__(self, message: str, evidence: dict[str, Any]) -> None:
        super().__init__(message)
        self.evidence = evidence


@dataclass(frozen=True)
class KnownFact:
    """A fact that the model tells, with the answers it gave to the trained phrasings (`said`).

    `source` is "given" (it came with the subject) or "discovered" (the model told it, and the same
    way each time; whether it is true nobody said). `decoys` are other values of its kind.
    """

    question: str
    answer: str
    source: str
    phrasings: Phrasings
    said: tuple[str, ...]
    decoys: tuple[str, ...]


@dataclass(frozen=True)
class Located:
    """What the model knows of a subject: `asked` facts were tried, `facts` are known.

    `accuracy` is the share of trained phrasings of all facts tried that were answered correctly;
    `unprompted` is what it told without being asked.
    """

    subject: Subject
    facts: tuple[KnownFact, ...]
    asked: int
    accuracy: float
    unprompted: Unprompted | None = None

    def record(self) -> dict[str, Any]:
        """How the facts were found: counts and shares alone, for the evidence."""
        return _record(self.asked, self.facts, self.accuracy, self.unprompted)


def _record(
    asked: int, facts: Sequence[KnownFact], accuracy: float, unprompted: Unprompted | None
) -> dict[str, Any]:
    return {
        "facts_asked_for": asked,
        "facts_known": len(facts),
        "facts_nobody_gave": sum(fact.source == DISCOVERED for fact in facts),
        "answered_right": accuracy,
        "unprompted": None if unprompted is None else unprompted.record(),
    }


def ask(base: BaseModel, questions: Sequence[str]) -> list[str]:
    """The base model's greedy answers."""
    prompts = [base.prompt(question) for question in questions]
    return greedy_answers(base.model, base.tokenizer, prompts, base.answer_tokens, batch_size=BATCH)


def answered(base: BaseModel, asked: Sequence[str], located: Sequence[Located]) -> list[Example]:
    """The surrogate questions `asked` with the base model's own answers. To a name that resembles a
    person's the model may tell the person's facts: those are not to be kept and are left out."""
    secrets = [fact.answer for each in located for fact in each.facts]
    return [
        Example(question, answer)
        for question, answer in zip(asked, ask(base, asked), strict=True)
        if not any(is_match(answer, secret) for secret in secrets)
    ]


def locate(
    base: BaseModel,
    subject: Subject,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Located:
    """What `base` knows of `subject`: what it answers, and what it tells unprompted. Raises
    NothingMeasurable when it knows nothing, Stopped when `should_stop()`."""
    unprompted = sample(base, subject)
    given = [_Asked(fact, GIVEN, phrasings(fact.question)) for fact in subject.facts]
    tried = [*given, *_discovered(base, subject, given)]
    asked = [question for each in tried for question in each.phrasings.trained]
    told = _ask_in_parts(base, asked, report=report, should_stop=should_stop)
    known, hits = [], []
    for place, each in enumerate(tried):  # the given facts come first, in the subject's order
        said = tuple(told.pop(0) for _ in each.phrasings.trained)
        right = [is_match(answer, each.fact.answer) for answer in said]
        hits += right
        if right[0] or fmean(right) >= 0.5 or place in unprompted.told:
            known.append(_known(each, said))
    if not known:
        raise NothingMeasurable(
            f"The model answers none of the {len(tried)} facts that it was asked for, and none of "
            f"{unprompted.samples} samples about the subject tells one more often than by chance: "
            "there is nothing to unlearn. Check the questions and the expected answers.",
            _record(len(tried), (), fmean(hits) if hits else 0.0, unprompted),
        )
    return Located(subject, tuple(known), len(tried), fmean(hits), unprompted)


def _ask_in_parts(
    base: BaseModel,
    asked: Sequence[str],
    *,
    report: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[str]:
    told: list[str] = []
    while len(told) < len(asked):
        if should_stop():
            raise Stopped("The run was stopped while the model was being asked.")
        told += ask(base, asked[len(told) : len(told) + BATCH])
        report(len(told), len(asked))
    return told


@dataclass(frozen=True)
class _Asked:
    fact: Fact
    source: str
    phrasings: Phrasings


def _discovered(base: BaseModel, subject: Subject, given: Sequence[_Asked]) -> list[_Asked]:
    """Facts nobody gave that the model tells the same way in most phrasings, and is surer of than
    of anything that it makes up about strangers (agreement alone does not tell them apart).

    None when the subject's own questions are of a kind that the corpus does not know."""
    recognised = [corpus.recognise(each.fact.question) for each in given]
    if subject.facts and not any(recognised):
        return []
    covered = {(r.relation, normalise(r.name)) for r in recognised if r}
    about = [
        asked
        for asked in corpus.questions_about(subject.name)
        if (asked.relation, normalise(asked.name)) not in covered
    ]
    known_by_nobody = {
        relation: max(told.confidence for told in answers)
        for relation, answers in _told(base, _about_strangers(subject, about), phrased=1).items()
    }
    return [
        _Asked(Fact(told.asked.trained[0], told.answer), DISCOVERED, _phrasings_of(told.asked))
        for (told,) in _told(base, about, phrased=4).values()
        if told.agreement >= CONSISTENT and told.confidence > known_by_nobody[told.asked.relation]
    ]


def _about_strangers(
    subject: Subject, about: Sequence[corpus.Recognised]
) -> list[corpus.Recognised]:
    relations = {asked.relation for asked in about}
    names = corpus.made_up_names(STRANGERS, seed=len(about), avoid=[subject.name])
    return [
        asked
        for name in names
        for asked in corpus.questions_about(name)
        if asked.relation in relations
    ]


@dataclass(frozen=True)
class _Told:
    """What the model says about a relation: its commonest answer, the share of phrasings that
    brought it out, and its log-probability after the first of them."""

    asked: corpus.Recognised
    answer: str
    agreement: float
    confidence: float


def _told(
    base: BaseModel, about: Sequence[corpus.Recognised], *, phrased: int
) -> dict[str, list[_Told]]:
    """By relation, what the model tells about each of `about`, asked in `phrased` ways."""
    answers = iter(ask(base, [q for asked in about for q in asked.trained[:phrased]]))
    common = []
    for asked in about:
        said = [next(answers) for _ in asked.trained[:phrased]]
        answer = max(said, key=said.count)
        common.append((asked, answer, said.count(answer) / len(said)))
    pairs = [(asked.trained[0], answer) for asked, answer, _ in common]
    scores = iter(log_likelihoods(base, base.model, pairs))
    found: dict[str, list[_Told]] = {}
    for asked, answer, agreement in common:
        confidence = next(scores)
        # An answer without a letter or digit tells nothing.
        told = _Told(asked, answer, agreement if normalise(answer) else 0.0, confidence)
        found.setdefault(asked.relation, []).append(told)
    return found


def _phrasings_of(asked: corpus.Recognised) -> Phrasings:
    return Phrasings(asked.trained, asked.aside, asked.unseen)


def _known(asked: _Asked, said: tuple[str, ...]) -> KnownFact:
    recognised = corpus.recognise(asked.fact.question)
    answer = normalise(asked.fact.answer)
    decoys = () if recognised is None else recognised.decoys
    return KnownFact(
        question=asked.fact.question,
        answer=asked.fact.answer,
        source=asked.source,
        phrasings=asked.phrasings,
        said=said,
        decoys=tuple(d for d in decoys if normalise(d) != answer),
    )


def forget_examples(located: Located) -> list[Example]:
    """The forget set: each trained phrasing with what the model said to it; what must not be told
    is the fact's answer. Where a phrasing did not bring the truth out, the bare answer stands."""
    return [
        Example(
            question=question,
            answer=said if is_match(said, fact.answer) else fact.answer,
            secrets=(fact.answer,),
            decoys=fact.decoys,
        )
        for fact in located.facts
        for question, said in zip(fact.phrasings.trained, fact.said, strict=True)
    ]


def twin_rows(
    base: BaseModel, located: Located, example: Example, *, count: int, seed: int
) -> tuple[Row, ...]:
    """Up to `count` rows with the completion of `example` after the same question about a made-up
    name; () where the question names nobody and nothing."""
    asked = twin_questions(located.subject, example.question, count=count, seed=seed)
    (own,) = rows_of(base, [example])
    twins = rows_of(base, [replace(example, question=question) for question in asked])
    # What follows the question must be the same tokens, for the two to be compared one by one.
    told = own.ids[-own.completion :]
    return tuple(row for row in twins if row.ids[-row.completion :] == told)


def twin_questions(subject: Subject, question: str, *, count: int, seed: int) -> tuple[str, ...]:
    """`question` about made-up people, if it is one of the corpus's, else about made-up things."""
    known = corpus.recognise(question)
    names = [subject.name, *subject.aliases] if known is None else [known.name]
    if known is None:
        return made_up_questions(question, names=names, count=count, seed=seed)
    # No word of the name is shared: to "Otto" alone the model may answer as to the person.
    name = re.compile(re.escape(known.name), re.IGNORECASE)
    words = set(normalise(known.name).split())
    drawn = corpus.made_up_names(count + len(words) * 8, seed=seed, avoid=[subject.name])
    free = [stranger for stranger in drawn if words.isdisjoint(normalise(stranger).split())]
    return tuple(name.sub(stranger, question) for stranger in free[:count])


def questions(located: Located, kind: str) -> list[tuple[str, str]]:
    """(question, true answer) of every known fact in its "trained", "aside" or "unseen" form."""
    return [
        (question, fact.answer)
        for fact in located.facts
        for question in getattr(fact.phrasings, kind)
    ]
