"""What a caller's last requests left behind, so that the same is not computed twice.

Kept are keys and values of token rows, and features of texts for the gate: in memory alone, for one
release, for minutes. Each is found by a digest of its content: of a row's first tokens in blocks,
chained (after vLLM's prefix caching), on top of the weights and of the adapters and strengths that
it was computed under, so that nothing serves a row under another decision. No caller is served what
another one left, and each has a budget of its own: neither a hit nor an eviction tells a caller
what others ask.
"""

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 16
"""Tokens of which a row's beginning is known in multiples."""
CALLERS = 8
"""Callers of whom something is kept at once; of others nothing is, until one's time is over."""
SECONDS = 600.0
"""So long after its last use is anything kept."""
FEATURES = 512
"""Texts of a caller whose features are kept."""
SWEEP_SECONDS = 5.0

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [1, heads, n, d] of each layer."""


@dataclass(eq=False)
class _Kept:
    layers: Layers
    blocks: list[bytes]
    used: float

    @property
    def size(self) -> int:
        return sum(half.nbytes for each in self.layers for half in each)


@dataclass
class _Own:
    """Of one caller: rows by their longest block, the least used first; the row of each block; and
    features with the time of their last use."""

    rows: OrderedDict[bytes, _Kept] = field(default_factory=OrderedDict)
    by_block: dict[bytes, _Kept] = field(default_factory=dict)
    features: OrderedDict[bytes, tuple[Tensor, float]] = field(default_factory=OrderedDict)

    def drop(self, row: _Kept) -> None:
        del self.rows[row.blocks[-1]]
        for block in row.blocks:
            if self.by_block.get(block) is row:
                del self.by_block[block]


class Remembered:
    """For one release and one thread; at most `most_bytes` of rows a caller, none where it is 0."""

    def __init__(self, *, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes, self.clock = most_bytes, clock
        self._callers: dict[str, _Own] = {}
        self._swept = clock()

    def longest(self, caller: str, under: bytes, ids: Sequence[int]) -> tuple[int, Layers] | None:
        """How many of the first tokens are kept of this caller, and their keys and values; at
        least one token is left to be read. `under` is the digest of what computes them."""
        own = self._callers.get(caller)
        blocks = _blocks(under, ids[:-1]) if own is not None and own.rows else []
        for count in range(len(blocks), 0, -1):
            row = own.by_block.get(blocks[count - 1]) if own else None
            if own is not None and row is not None:
                row.used = self.clock()
                own.rows.move_to_end(row.blocks[-1])
                size = count * BLOCK
                return size, [(k[:, :, :size], v[:, :, :size]) for k, v in row.layers]
        return None

    def keep(self, caller: str, under: bytes, ids: Sequence[int], layers: Layers) -> None:
        """Keep a row's keys and values. A row that it begins with is not kept beside it."""
        blocks, own = _blocks(under, ids), self._own(caller)
        row = _Kept(layers, blocks, self.clock())
        if own is None or not blocks or row.size > self.most_bytes:
            return
        for block in blocks:
            if block in own.rows:
                own.drop(own.rows[block])
        own.rows[blocks[-1]] = row
        own.by_block |= dict.fromkeys(blocks, row)
        while sum(each.size for each in own.rows.values()) > self.most_bytes:
            own.drop(next(iter(own.rows.values())))

    def features(
        self, asked: Sequence[tuple[str, str]], encode: Callable[[Sequence[str]], Tensor]
    ) -> Tensor:
        """The features [n, d] of texts, each with its caller; what is not kept of the caller is
        encoded, all in one pass."""
        keys = [(caller, hashlib.sha256(text.encode()).digest()) for caller, text in asked]
        found: dict[tuple[str, bytes], Tensor] = {}
        for caller, digest in keys:
            own = self._callers.get(caller)
            if own is not None and digest in own.features:
                found[caller, digest] = own.features[digest][0]
        texts = {key: text for key, (_, text) in zip(keys, asked, strict=True) if key not in found}
        if texts:
            found |= dict(zip(texts, encode(list(texts.values())), strict=True))
        for caller, digest in dict.fromkeys(keys):
            self._keep_features(caller, digest, found[caller, digest])
        return torch.stack([found[key] for key in keys])

    def _keep_features(self, caller: str, digest: bytes, row: Tensor) -> None:
        own = self._own(caller)
        if own is None or not row.isfinite().all():
            return
        own.features[digest] = row, self.clock()
        own.features.move_to_end(digest)
        while len(own.features) > FEATURES:
            own.features.popitem(last=False)

    def _own(self, caller: str) -> _Own | None:
        """Where this caller's is kept; None where nothing is."""
        if not caller or not self.most_bytes:
            return None
        if caller not in self._callers and len(self._callers) >= CALLERS:
            return None
        return self._callers.setdefault(caller, _Own())

    def forget_old(self) -> None:
        """Let go of what was not used for `SECONDS`; cheap, to be called often."""
        now = self.clock()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for caller, own in list(self._callers.items()):
            for row in [row for row in own.rows.values() if now - row.used > SECONDS]:
                own.drop(row)
            old = [key for key, (_, used) in own.features.items() if now - used > SECONDS]
            for key in old:
                del own.features[key]
            if not own.rows and not own.features:
                del self._callers[caller]


def _blocks(under: bytes, ids: Sequence[int]) -> list[bytes]:
    """The digests of a row's first 16, 32, … tokens."""
    digest, found = under, list[bytes]()
    for first in range(0, len(ids) - BLOCK + 1, BLOCK):
        part = array("q", ids[first : first + BLOCK]).tobytes()
        digest = hashlib.sha256(digest + part).digest()
        found.append(digest)
    return found
