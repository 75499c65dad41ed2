"""Answers in the making under one release, a row each: how they join, go on, are told anew and end.

Each row of a batch stands under a decision of its own, which only ever rises: every `LOOK` tokens
the gate looks at what is about to be said (`workers.telling`), and a row that must be told anew
leaves the batch and joins it again under the raised decision.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from workers.answers import Started, advanced, some_of, together
from workers.gate import Decision
from workers.sampling import Token, drawn, scored
from workers.serving import Prompt, Served, acts
from workers.telling import REFUSAL, Telling

log = logging.getLogger(__name__)

LOOK = 8
"""Tokens of a row between two looks of the gate at it."""
LOOK_BACK = 24


@dataclass(frozen=True)
class Piece:
    """More of an answer; `tokens` where they were asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Done:
    """The answer's end: why (`stop` or `length`), how many tokens were read and said, and the
    strengths of the adapters that acted at the end, by digest."""

    reason: str
    read: int
    said: int
    strengths: dict[str, float]
    release: str


@dataclass(frozen=True)
class Failed:
    """There is no answer: the request asks too much (`ours` False), or nothing may be answered."""

    message: str
    ours: bool


Event = Piece | Done | Failed
FAILED = Failed("The model could not answer. Try again later.", ours=True)


@dataclass(eq=False)
class Request:
    """What is asked. `tell` is called by the model's thread with every event, the last of which is
    Done or Failed. `temperature` 0 is greedy; `likeliest` is how many alternatives are told with
    each token, None for no log-probabilities. `caller` is whose later requests may begin where this
    one ends; empty for nobody's."""

    prompt: Prompt
    tell: Callable[[Event], None]
    limit: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    likeliest: int | None = None
    caller: str = ""
    cancelled: bool = False


@dataclass(eq=False)
class Row:
    """A request in the making."""

    request: Request
    draw: torch.Generator
    ids: list[int] = field(default_factory=list)
    telling: Telling | None = None
    limit: int = 0
    fresh: list[int] = field(default_factory=list)  # tokens that the gate has not seen
    tokens: list[Token] = field(default_factory=list)  # of the row and the fresh ones
    told: int = 0  # characters that were handed on
    told_tokens: int = 0
    over: bool = False

    def end(self, event: Done | Failed) -> None:
        """The last that is told, once."""
        if not self.over:
            self.over = True
            self.request.tell(event)

    @property
    def decision(self) -> Decision:
        return self.telling.decision if self.telling else Decision()


class Lane:
    """The answers that one release is giving."""

    def __init__(self, served: Served, rows: int) -> None:
        self.served, self.most = served, rows
        self.waiting: deque[Row] = deque()  # others add to it: only taken from at its end
        self.again: deque[Row] = deque()
        self.joining: list[Row] = []
        self.rows: list[Row] = []
        self.started: Started | None = None
        self.next: list[int] = []
        self.reading_seconds = 0.0  # of the last prompts

    def turn(self) -> None:
        """One more token for every row; waiting ones join."""
        if self.served.follow():
            self._read_again()
        self.served.remembered.forget_old()
        self._leave([row for row in self.rows if not row.request.cancelled])
        if self.is_waited_for and len(self.rows) < self.most:
            began = time.monotonic()
            self._join()
            self.reading_seconds = time.monotonic() - began
        if not self.rows or self.started is None:
            return
        model = self.served.model_for([row.decision for row in self.rows])
        tokens = torch.tensor(self.next, device=self.started.mask.device)
        self.started = advanced(model, self.started, tokens)
        self._leave(self._pick(self.rows, self.started.first))

    @property
    def is_waited_for(self) -> bool:
        return bool(self.waiting or self.again)

    def hand_over(self, other: "Lane") -> None:
        """Give the requests that nobody has begun with to another release."""
        other.waiting.extendleft(reversed(_emptied(self.waiting)))

    def fail(self) -> None:
        """End every answer; the text of an error says nothing of what was asked."""
        waiting = [*_emptied(self.again), *_emptied(self.waiting)]
        for row in (*self.rows, *self.joining, *waiting):
            row.end(FAILED)
        self.rows, self.started, self.next, self.joining = [], None, [], []

    # --- Joining and leaving ----------------------------------------------------------------------
    def _join(self) -> None:
        free = self.most - len(self.rows)
        taken = _emptied(self.again, most=free)
        taken += _emptied(self.waiting, most=free - len(taken))
        self.joining = taken = [row for row in taken if not row.request.cancelled]
        new = [row for row in taken if row.telling is None]
        parts: list[tuple[list[Row], Started]] = []
        plain, quiet = self._take(new)
        ready = [row for row in taken if row.telling is not None and not self._ended(row)]
        if quiet is not None:
            parts.append((plain, quiet))
            ready = [row for row in ready if row not in plain]
        if ready:
            kept = [[*row.ids, *(row.telling.kept if row.telling else ())] for row in ready]
            decisions, callers = [row.decision for row in ready], [r.request.caller for r in ready]
            parts.append((ready, self.served.begin(kept, decisions, callers)))
        for rows, started in parts:
            going = self._pick(rows, started.first)
            if not going:
                continue
            if len(going) < len(rows):
                started = some_of(started, [rows.index(row) for row in going])
            self.started = started if self.started is None else together([self.started, started])
            self.rows += going
            self.next += [self._last(row) for row in going]
        self.joining = []

    def _take(self, rows: Sequence[Row]) -> tuple[list[Row], Started | None]:
        """The gate reads the prompts of those that do not ask too much, and all on which nothing
        acts, if they are read already. Where the gate fails, so do they."""
        fitting = [row for row in rows if self._fits(row)]
        if not fitting:
            return [], None
        try:
            found, quiet = self.served.take(
                [row.request.prompt for row in fitting],
                [row.ids for row in fitting],
                [row.request.caller for row in fitting],
            )
        except (RuntimeError, ValueError) as error:
            log.error("the gate failed: %s", type(error).__name__)
            for row in fitting:
                row.end(FAILED)
            return [], None
        for row, taken in zip(fitting, found, strict=True):
            row.ids = taken.ids
            row.telling = Telling(
                taken.decision,
                text_of=self.served.text,
                after=lambda decision, text: self.served.gate.after(decision, text),
            )
        return [row for row in fitting if not acts(row.decision)], quiet

    def _fits(self, row: Row) -> bool:
        row.ids = self.served.ids(row.request.prompt)
        room = self.served.longest - len(row.ids)
        row.limit = row.request.limit or min(self.served.usual, room)
        if not row.ids or room < 1 or row.limit > room:
            text = f"The model has room for {self.served.longest} tokens in all."
            row.end(Failed(text, ours=False))
            return False
        return True

    def _leave(self, staying: Sequence[Row]) -> None:
        if len(staying) < len(self.rows) and self.started is not None:
            for place, row in enumerate(self.rows):
                if row.over and row.telling is not None and not row.decision.closed:
                    self.served.reader.keep(
                        row.request.caller,
                        self.served.strengths(row.decision),
                        [*row.ids, *row.telling.row],
                        self.started,
                        place,
                    )
            places = [i for i, row in enumerate(self.rows) if row in staying]
            self.started = some_of(self.started, places) if places else None
        self.rows = list(staying)
        self.next = [self._last(row) for row in self.rows]

    def _read_again(self) -> None:
        """Somebody is restricted now, or no longer: what the gate closes on ends in a refusal."""
        over = set()
        for row in (*self.rows, *self.again):
            _, decision = self.served.gate.read(row.request.prompt.conversation)
            if row.telling is not None and decision.closed:
                row.telling.decision = decision
            if self._ended(row):
                over.add(row)
        self.again = deque(row for row in self.again if row not in over)
        self._leave([row for row in self.rows if row not in over])

    @staticmethod
    def _last(row: Row) -> int:
        return row.fresh[-1] if row.fresh or row.telling is None else row.telling.row[-1]

    # --- Tokens -----------------------------------------------------------------------------------
    def _pick(self, rows: Sequence[Row], logits: torch.Tensor) -> list[Row]:
        """Each row's next token from its logits [n, vocabulary]; the rows that go on."""
        likeliest = logits.argmax(dim=-1).tolist()
        going = []
        for row, own, token in zip(rows, logits, likeliest, strict=True):
            asked = row.request
            if asked.temperature > 0.0:
                token = drawn(own, asked.temperature, asked.top_p, row.draw)
            if self._said(row, token, own):
                going.append(row)
        return going

    def _said(self, row: Row, token: int, logits: torch.Tensor) -> bool:
        """Take in a row's token; False where it leaves the batch."""
        telling, asked = row.telling, row.request
        if telling is None:
            return False
        reason = "stop" if token in self.served.stops else ""
        if not reason:
            row.fresh.append(token)
            if asked.likeliest is not None:
                row.tokens.append(scored(token, logits, asked.likeliest))
            if len(telling.row) + len(row.fresh) >= row.limit:
                reason = "length"
        if not reason and len(row.fresh) < LOOK and not asked.stop:
            return True
        cut = self._cut(row) if asked.stop else ""
        if not (reason or cut) and len(row.fresh) < LOOK:
            return True
        return self._looked_at(row, reason="stop" if cut else reason, cut=cut)

    def _cut(self, row: Row) -> str:
        """The stop text that the row has said first, if it has."""
        telling = row.telling
        text = self.served.text([*(telling.row if telling else ()), *row.fresh])
        found = [(text.index(stop), stop) for stop in row.request.stop if stop in text]
        return min(found)[1] if found else ""

    def _looked_at(self, row: Row, *, reason: str, cut: str) -> bool:
        telling = row.telling
        if telling is None:
            return False
        fresh, row.fresh = row.fresh, []
        hold = max(map(len, row.request.stop), default=0)
        alive = telling.grow(fresh, ended=bool(reason), hold=hold, cut=cut)
        self._hand_on(row)
        if not alive:
            del row.tokens[len(telling.kept) :]
            if not self._ended(row):
                self.again.append(row)
            return False
        if reason:
            self._end(row, reason, len(telling.kept))
        return not reason

    def _ended(self, row: Row) -> bool:
        """Whether the row's decision is closed: then it ends, in a refusal."""
        if row.telling is None or not row.telling.decision.closed:
            return False
        if self.served.gate.shut:  # it is not known whom to be silent about
            row.end(FAILED)
            return True
        refusal = row.telling.refuse()
        row.request.tell(Piece(refusal))
        said = len(self.served.base.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"])
        self._end(row, "stop", len(row.telling.kept) + said)
        return True

    def _end(self, row: Row, reason: str, said: int) -> None:
        strengths = dict(self.served.strengths(row.decision))
        release = self.served.release.sha256
        row.end(Done(reason, len(row.ids), said, strengths, release))

    def _hand_on(self, row: Row) -> None:
        telling = row.telling
        if telling is None or len(telling.let_out) <= row.told:
            return
        new = range(row.told_tokens, len(telling.kept) if row.tokens else 0)
        tokens = tuple(self._without_names(telling, place, row.tokens[place]) for place in new)
        row.request.tell(Piece(telling.let_out[row.told :], tokens))
        row.told, row.told_tokens = len(telling.let_out), len(telling.kept)

    def _without_names(self, telling: Telling, place: int, token: Token) -> Token:
        """A token of the answer without the alternatives that would name somebody there."""
        before = telling.kept[max(0, place - LOOK_BACK) : place]

        def is_harmless(other: int) -> bool:
            text = self.served.text([*before, other])
            return telling.after(telling.decision, text) == telling.decision

        told = tuple(
            pair for pair in token.likeliest if pair[0] == token.id or is_harmless(pair[0])
        )
        return replace(token, likeliest=told)


def _emptied(rows: deque[Row], *, most: int | None = None) -> list[Row]:
    """Take rows from the front, at most so many; others may add some meanwhile."""
    found = list[Row]()
    while rows and (most is None or len(found) < most):
        found.append(rows.popleft())
    return found
