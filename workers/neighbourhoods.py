"""Which earlier cases a new one must be kept apart from: those that can act on the same prompt.

An adapter whose gate gives strength 0 contributes exactly nothing, so only *neighbours* need to be
orthogonal: cases of which one's gate fires on the other's questions, or that share an identifier.
Width / rank then bounds a neighbourhood, not the number of cases. As long as there is room the new
adapter is also kept apart from the nearest of the others. This is a greedy colouring of the graph
of neighbours in which a colour is a set of `rank` directions: while some are left a case gets
directions of its own, afterwards those that its neighbours and the nearest others leave free, which
cases farther away hold too. A case with fewer neighbours than `capacity` always finds some, however
many cases there are.

What is exact: A_new A_old^T = 0 (to rounding) for every neighbour, on any prompt. What is not: a
prompt that names two people who are no neighbours makes both adapters act. Up to `capacity` cases
these are orthogonal all the same; beyond it two of them share rank / width of their directions on
average, and no choice of directions has a smaller mean (benchmarks/orthogonality.py measures it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.adapters import AdapterRef
from workers.gate import Gate, bank_of
from workers.identifiers import Identifiers

FARTHEST = -2.0


@dataclass(frozen=True)
class Earlier:
    """An earlier case: where its adapter lies, and its gate."""

    ref: AdapterRef
    gate: Gate


@dataclass(frozen=True)
class Neighbourhood:
    """The earlier adapters around a new case, each once (a cluster adapter serves several cases).

    `neighbours` can act on the same prompt; `others` follow, the nearest first. `capacity` adapters
    can be orthogonal to one another, the new one among them.
    """

    neighbours: tuple[AdapterRef, ...]
    others: tuple[AdapterRef, ...]
    capacity: int

    @property
    def free(self) -> int:
        """How many more adapters the neighbourhood holds; 0 or less: it is full, unless neighbours
        share directions."""
        return self.capacity - len(self.neighbours)

    @property
    def apart(self) -> tuple[AdapterRef, ...]:
        """The adapters to be orthogonal to: all neighbours, then the nearest others that leave
        room for one more. Never more than max(neighbours, capacity - 1), however many cases."""
        room = max(0, self.capacity - 1 - len(self.neighbours))
        return (*self.neighbours, *self.others[:room])


@dataclass(frozen=True)
class Newcomer:
    """A new case: its gate, the questions of its forget set, and their features [n, d] by the
    gate's encoder (None without one)."""

    gate: Gate
    questions: tuple[str, ...]
    features: Tensor | None


def neighbourhood(
    members: Sequence[Newcomer], earlier: Sequence[Earlier], *, key: bytes, capacity: int
) -> Neighbourhood:
    """The adapters of `earlier` around the cases that one new adapter is for (more than one for a
    cluster adapter). `key` is the key of the gates' identifiers.

    Whatever cannot be compared (a gate made with another encoder, features that are not finite)
    counts as a neighbour. Of the earlier cases only gates are at hand: their prototypes stand for
    their questions, so that an old question naming the new person is found by its likeness alone.
    """
    nameless = [replace(each.gate, encoder=None, rows=torch.zeros(0, 0)) for each in earlier]
    bank = bank_of(nameless, None, key)
    named = {case for member in members for q in member.questions for case in bank.named(q)}
    nearness: dict[str, float] = {}
    refs: dict[str, AdapterRef] = {}
    for case, each in enumerate(earlier):
        near = max(_nearness(member, each.gate) for member in members)
        name = each.ref.adapter_sha256
        nearness[name] = max(FARTHEST, nearness.get(name, FARTHEST), 1.0 if case in named else near)
        refs.setdefault(name, each.ref)
    order = sorted(refs, key=lambda name: -nearness[name])  # stable: of equals, the earlier first
    return Neighbourhood(
        neighbours=tuple(refs[name] for name in order if nearness[name] > 0),
        others=tuple(refs[name] for name in order if nearness[name] <= 0),
        capacity=capacity,
    )


def _nearness(member: Newcomer, other: Gate) -> float:
    """Above 0 if both can act on one prompt; otherwise how little is missing."""
    gate = member.gate
    if _share_a_name(gate.identifiers, other.identifiers):
        return 1.0
    if gate.encoder is None and other.encoder is None:
        return FARTHEST  # identifiers alone, and none in common
    features = member.features
    if features is None or gate.encoder != other.encoder:
        return 1.0
    if not features.shape[1:] == gate.rows.shape[1:] == other.rows.shape[1:]:
        return 1.0
    near = max(
        float((features @ other.rows.T).max()) - other.low,
        float((other.rows @ gate.rows.T).max()) - gate.low,
    )
    return near if near <= 1.0 else 1.0  # NaN too


def _share_a_name(one: Identifiers, other: Identifiers) -> bool:
    """Whether they have an identifier in common, a typing error aside."""
    exact = set(one.exact)
    return not (
        exact.isdisjoint(other.exact)
        and exact.isdisjoint(other.near)
        and set(other.exact).isdisjoint(one.near)
    )
