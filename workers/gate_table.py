"""What the gates of a release look up together: digests of identifiers, and prototypes.

A table is only ever added to, so that a next release costs what it adds and not what is in force.
Each gate, and each person who is not to be spoken of, has a slot of its own. Whoever asks says
which slots count (`workers.gate.GateBank`) and passes over the others: a later release's, while
answers still end on an earlier one, and those of cases that left. What is found for the slots that
count is bit by bit what a table of them alone would give.

The search is exact: rows whose score could not reach their case's ramp are left out by a bound,
never by a guess.
"""

import math
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from workers.identifiers import Identifiers

if TYPE_CHECKING:
    from workers.gate import Gate

HEAD = 64
"""Directions of the first, bounding pass of the search."""
SLACK = 1e-5
FEW_ROWS = 1024
"""Rows up to which every cosine is computed at once: the bounding pass would cost more."""
SPARE = 16
"""Slots that even a small table has room for."""


def ramp(score: float, *, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`, a smooth step between; monotone, and in [0, 1]."""
    x = min(max((score - low) / (high - low), 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


@dataclass(frozen=True)
class DigestTable:
    """Which slots hold a digest, for the many digests of misspellings: the `digests` in order and
    the slot of each, `slots`, in a tenth of a dictionary's memory; those added later in `more`.

    `filled` has a bit for every value that a digest's last bits can have, set if one of the
    digests ends so. With 16 to 32 bits a digest, one look there ends at least 15 of 16 searches
    for what is not held, before they go through the digests. (Digests are as good as random.)
    """

    digests: Sequence[int]
    slots: Sequence[int]
    filled: bytearray
    more: dict[int, list[int]] = field(default_factory=dict)

    def find(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """Each (place in `wanted`, slot) that the table holds."""
        filled, ending = self.filled, len(self.filled) - 1
        found = []
        for place, digest in enumerate(wanted):
            if filled[digest >> 3 & ending] >> (digest & 7) & 1:
                row = bisect_left(self.digests, digest)
                while row < len(self.digests) and self.digests[row] == digest:
                    found.append((place, self.slots[row]))
                    row += 1
                found += [(place, slot) for slot in self.more.get(digest, ())]
        return found

    def add(self, slot: int, digests: Iterable[int]) -> None:
        """Add what a slot later than all others holds."""
        for digest in digests:
            self.more.setdefault(digest, []).append(slot)
            self.filled[digest >> 3 & len(self.filled) - 1] |= 1 << (digest & 7)


def table_of(digests: Sequence[Sequence[int]]) -> DigestTable:
    """A table of each slot's digests, in the order of the slots."""
    flat = torch.tensor([d for each in digests for d in each], dtype=torch.int64)
    lengths = torch.tensor([len(each) for each in digests], dtype=torch.int64)
    slots = torch.arange(len(digests), dtype=torch.int32).repeat_interleave(lengths)
    order = flat.argsort(stable=True)
    filled = torch.zeros(1 << (2 * len(flat)).bit_length(), dtype=torch.uint8)
    for bit in range(8):
        filled[flat[flat & 7 == bit] >> 3 & len(filled) - 1] |= 1 << bit
    return DigestTable(
        digests=array("q", flat[order].numpy().tobytes()),
        slots=array("i", slots[order].numpy().tobytes()),
        filled=bytearray(filled.numpy().tobytes()),
    )


@dataclass(frozen=True)
class Prototypes:
    """The prototypes of many gates in one matrix, for the exact search.

    `rows` [m, d] are the prototypes, `slots` [m] whose each is, `low` and `high` [m] the ends of
    its ramp. `rotation` [d, k + 2] leads to k directions, those in which the rows that the table
    began with differ most, and two places left free; `bounds` [k + 2, m] holds what bounds a cosine
    from above (Cauchy-Schwarz on the directions left out): head(row), |rest(row)| and -low, to be
    multiplied with (head(x), |rest(x)|, 1). Few steps, since every prompt asks this: a call costs
    more than what most of them compute, and a search in numpy's view a quarter of one in torch.
    """

    rows: Tensor
    slots: Tensor
    low: Tensor
    high: Tensor
    rotation: Tensor
    bounds: Tensor

    def strengths(self, features: Tensor) -> dict[int, float]:
        """Each slot's largest strength over unit `features` [n, d], where it is above 0.

        Raises ValueError where a feature is not finite.
        """
        if len(self.rows) <= FEW_ROWS:
            above = torch.addmm(self.bounds[-1], features, self.rows.T)
        else:
            asked = features @ self.rotation
            for part in asked.numpy():  # the same memory
                part[-2:] = math.sqrt(max(0.0, 1.0 - float(part @ part))), 1.0
            above = asked @ self.bounds
        seen = above.numpy()
        largest = float(seen.max())
        if not math.isfinite(largest):
            raise ValueError("a feature is not finite")
        strengths: dict[int, float] = {}
        if largest <= -SLACK:
            return strengths
        low, high, slots = self.low.numpy(), self.high.numpy(), self.slots.numpy()
        for feature, bound in zip(features.numpy(), seen, strict=True):
            near = (bound > -SLACK).nonzero()[0]
            # Row by row: a product of matrices would round a row by what stands beside it.
            scores = (self.rows.numpy()[near] * feature).sum(axis=1)
            fired = scores > low[near]
            for row, score in zip(near[fired].tolist(), scores[fired].tolist(), strict=True):
                slot = int(slots[row])
                strength = ramp(score, low=float(low[row]), high=float(high[row]))
                strengths[slot] = max(strength, strengths.get(slot, 0.0))
        return strengths

    def first(self, count: int) -> "Prototypes":
        """The first rows, in the same memory."""
        return Prototypes(
            rows=self.rows[:count],
            slots=self.slots[:count],
            low=self.low[:count],
            high=self.high[:count],
            rotation=self.rotation,
            bounds=self.bounds[:, :count],
        )

    def put(self, start: int, gates: Sequence[tuple[int, "Gate"]]) -> int:
        """Write gates' prototypes, with the gates' slots, from the row `start` on; returns the row
        after the last."""
        rows = torch.cat([gate.rows for _, gate in gates])
        counts = torch.tensor([len(gate.rows) for _, gate in gates])

        def spread(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values)).repeat_interleave(counts)

        low = spread(gate.low for _, gate in gates)
        head = rows @ self.rotation[:, :-2]
        rest = (rows.square().sum(dim=1) - head.square().sum(dim=1)).clamp(min=0.0).sqrt()
        end = start + len(rows)
        self.rows[start:end], self.low[start:end] = rows, low
        self.slots[start:end] = spread(slot for slot, _ in gates)
        self.high[start:end] = spread(gate.high for _, gate in gates)
        self.bounds[:, start:end] = torch.cat([head, rest[:, None], -low[:, None]], dim=1).T
        return end


def _room_for(gates: Sequence["Gate"]) -> Prototypes | None:
    """Place for half as many rows again as these gates have; None if they have none."""
    held = [gate.rows for gate in gates if len(gate.rows)]
    if not held:
        return None
    rows = torch.cat(held)
    spans = rows.double().T @ rows.double()
    head_first = torch.linalg.eigh(spans).eigenvectors.flip(1)[:, :HEAD].float()
    room = 3 * len(rows) // 2 + SPARE
    return Prototypes(
        rows=torch.zeros(room, rows.shape[1]),
        slots=torch.zeros(room, dtype=torch.int64),
        low=torch.zeros(room),
        high=torch.zeros(room),
        rotation=torch.nn.functional.pad(head_first, (0, 2)).contiguous(),
        bounds=torch.zeros(head_first.shape[1] + 2, room),
    )


Held: TypeAlias = "Gate | Identifiers"
"""What a slot holds: a case's gate, or a person who is not to be spoken of."""
Slots = dict[int, list[int]]
"""Which slots hold a digest."""


class GateTable:
    """The look-ups over all that is `held`, each thing once. Others may ask while one adds."""

    def __init__(self, held: Sequence[Held]) -> None:
        held = list(dict.fromkeys(held))
        self.slots: dict[Held, int] = {}
        self.exact: Slots = {}
        self.written: Slots = {}
        self.words: Slots = {}
        self.others: Slots = {}
        self.near = table_of([names_of(each).near for each in held])
        self.room = 3 * len(held) // 2 + SPARE
        self._prototypes = _room_for(_gates(held))
        self._rows = 0
        self._lock = threading.Lock()
        self._add(held)

    @property
    def width(self) -> int | None:
        """Numbers in a prototype; None while there are none."""
        return None if self._prototypes is None else self._prototypes.rows.shape[1]

    def prototypes(self) -> Prototypes | None:
        """All prototypes so far; whatever is added later is no part of them."""
        return None if self._prototypes is None else self._prototypes.first(self._rows)

    def with_all(self, held: Sequence[Held]) -> "GateTable":
        """This table, with what it lacks of `held` added; another one where it has no room for it,
        or would consist mostly of what is not asked for any more."""
        with self._lock:
            new = list(dict.fromkeys(each for each in held if each not in self.slots))
            size, rows = len(self.slots) + len(new), sum(len(each.rows) for each in _gates(new))
            room = 0 if self._prototypes is None else len(self._prototypes.rows)
            if size > min(self.room, 2 * len(held) + SPARE) or self._rows + rows > room:
                return GateTable(held)
            for slot, each in enumerate(new, start=len(self.slots)):
                self.near.add(slot, names_of(each).near)
            self._add(new)
        return self

    def _add(self, new: Sequence[Held]) -> None:
        """Give each a slot, for all look-ups but `near`."""
        for slot, each in enumerate(new, start=len(self.slots)):
            names = names_of(each)
            for digests, found in (
                (names.exact, self.exact),
                (names.written, self.written),
                (names.words, self.words),
                (names.others, self.others),
            ):
                for digest in digests:
                    found.setdefault(digest, []).append(slot)
            self.slots[each] = slot
        gates = [(self.slots[each], each) for each in _gates(new) if len(each.rows)]
        if gates and self._prototypes is not None:
            self._rows = self._prototypes.put(self._rows, gates)


def names_of(held: Held) -> Identifiers:
    return held if isinstance(held, Identifiers) else held.identifiers


def _gates(held: Sequence[Held]) -> list["Gate"]:
    return [each for each in held if not isinstance(each, Identifiers)]
