"""The models that a probe asks, and how an ask becomes a row of figures.

`before` (nothing erased), `after` (the release as it is served, through its gate) and `control`
(never saw the person) are the usual three; the others are made of them when a probe wants them.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from workers.answers import is_match, is_refusal, repeated_pairs
from workers.base_models import BaseModel, Conversation
from workers.copies import GROUP, round_weights
from workers.guarded import Guarded, GuardedModel
from workers.probes import AFTER, BEFORE, CONTROL, Ask, Row
from workers.scores import Scored
from workers.telling import REFUSAL

Key = TypeVar("Key")


@dataclass
class Memory:
    """What a model has said in this verification: nothing is asked of it twice."""

    said: dict[Conversation, Guarded] = field(default_factory=dict)
    scored: dict[tuple[Conversation, str], Scored | None] = field(default_factory=dict)
    texts: dict[str, Scored | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """The models at hand: `after` is what is served, `before` the model without any case's
    erasure (through no gate), `control` None where there is none. `case_id` is the case judged;
    `memory` what each model said so far, by its name."""

    after: GuardedModel
    before: GuardedModel
    control: BaseModel | None
    case_id: str
    seed: int
    memory: dict[str, Memory] = field(default_factory=dict)


@contextmanager
def opened(name: str, stack: Stack) -> Iterator[GuardedModel]:
    """The model of this name for as long as the block lasts. Raises ValueError for an unknown name,
    and for the control where there is none."""
    if name == AFTER:
        yield stack.after
    elif name == BEFORE:
        yield stack.before
    elif name == CONTROL and stack.control is not None:
        with GuardedModel.without_adapters(stack.control) as side:
            yield side
    elif name in MADE:
        with MADE[name](stack) as side:
            yield side
    else:
        raise ValueError(f"There is no model {name!r} to ask.")


def ablated(stack: Stack) -> GuardedModel:
    """The served artefact with every adapter unloaded: what one switch brings back."""
    return GuardedModel.without_adapters(stack.after.base)


def int8(stack: Stack) -> GuardedModel:
    """The served stack, its base rounded to 8 bits, a scale an output channel."""
    return stack.after.with_changed_base(partial(round_weights, bits=8))


def int4(stack: Stack) -> GuardedModel:
    """The served stack, its base rounded to 4 bits, a scale for every few inputs."""
    return stack.after.with_changed_base(partial(round_weights, bits=4, group=GROUP))


MADE: dict[str, Callable[[Stack], GuardedModel]] = {"ablated": ablated, "int8": int8, "int4": int4}


def observe(
    side: GuardedModel, asks: Sequence[Ask], *, case_id: str, memory: Memory | None = None
) -> list[Row]:
    """A row for each ask, in order; what was asked before, of this `memory`, is not asked again."""
    known = Memory() if memory is None else memory
    prompts = _new((ask.prompt for ask in asks if ask.completion is None), known.said)
    if prompts:
        known.said.update(zip(prompts, side.answer(prompts), strict=True))
    texts = _new((str(ask.completion) for ask in asks if ask.text), known.texts)
    known.texts.update(zip(texts, side.scored_texts(texts), strict=True))
    pairs = _new(
        ((ask.prompt, str(ask.completion)) for ask in asks if ask.completion and not ask.text),
        known.scored,
    )
    known.scored.update(zip(pairs, side.scored(pairs), strict=True))

    def row(ask: Ask) -> Row:
        if ask.completion is None:
            return _answer_row(ask, known.said[ask.prompt], case_id)
        if ask.text:
            return _score_row(ask, known.texts[ask.completion])
        return _score_row(ask, known.scored[ask.prompt, ask.completion])

    return [row(ask) for ask in asks]


def _new(asked: Iterable[Key], known: Container[Key]) -> list[Key]:
    """Each of `asked` that is not known yet, once."""
    return [each for each in dict.fromkeys(asked) if each not in known]


def _score_row(ask: Ask, scored: Scored | None) -> Row:
    row = Row(ask.item, ask.role, ask.form)
    if scored is None:
        return replace(row, closed=True)
    return replace(row, logp=tuple(map(rounded, scored.logp)), top=scored.top)


def _answer_row(ask: Ask, said: Guarded, case_id: str) -> Row:
    acted = [fired.strength for fired in said.fired if fired.case_id == case_id]
    return Row(
        ask.item,
        ask.role,
        ask.form,
        told=bool(ask.truth) and is_match(said.text, ask.truth),
        refused=is_refusal(said.text),
        closed=said.text.endswith(REFUSAL),
        strength=rounded(max(acted, default=0.0)),
        words=len(said.text.split()),
        repeats=rounded(repeated_pairs(said.text)),
    )


def rounded(value: float) -> float:
    """Nine significant digits: what is stored is what is judged."""
    return float(f"{value:.9g}")
