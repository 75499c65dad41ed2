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
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.adapters import AdapterRef
from workers.gate import Gate
from workers.identifiers import mentioned


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
    counts as a neighbour. Of the earlier cases only gates are at hand, so that an old question
    naming the new person is found by its likeness alone.
    """
    named = [frozenset[str]().union(*(mentioned(q, key) for q in m.questions)) for m in members]
    nearness: dict[str, float] = {}
    refs: dict[str, AdapterRef] = {}
    for each in earlier:
        near = max(
            _nearness(member, digests, each.gate)
            for member, digests in zip(members, named, strict=True)
        )
        name = each.ref.adapter_sha256
        nearness[name] = max(near, nearness.get(name, near))
        refs.setdefault(name, each.ref)
    order = sorted(refs, key=lambda name: -nearness[name])  # stable: of equals, the earlier first
    return Neighbourhood(
        neighbours=tuple(refs[name] for name in order if nearness[name] > 0),
        others=tuple(refs[name] for name in order if nearness[name] <= 0),
        capacity=capacity,
    )


def _nearness(member: Newcomer, named: frozenset[str], other: Gate) -> float:
    """Above 0 if both can act on one prompt; otherwise how little is missing."""
    gate = member.gate
    if other.names(named) or not set(gate.identifiers).isdisjoint(other.identifiers):
        return 2.0
    if gate.encoder is None and other.encoder is None:
        return -2.0  # identifiers alone, and none in common
    if (
        member.features is None
        or gate.encoder != other.encoder
        or member.features.shape[1:] != other.background.shape
    ):
        return 2.0
    unit = torch.nn.functional.normalize(member.features - other.background, dim=1)
    # Either gate may fire on the other's question: the lower of their two limits counts.
    near = float((unit @ other.rows.T).max()) - min(gate.low, other.low)
    return near if near <= 2.0 else 2.0  # NaN too
