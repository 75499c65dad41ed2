"""The Merkle tree of RFC 9162 section 2.1 over SHA-256: roots, proofs, and their verification.

Hashes are 32 bytes. A *frontier* is the list of roots of the complete subtrees of a tree, large to
small: one for each bit set in the size; appending needs nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(ValueError):
    """A proof does not lead to the root it was given for."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of one entry (RFC 9162 2.1.1): the prefix 0x00 keeps leaves and nodes apart."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def extend(frontier: Sequence[bytes], size: int, leaf: bytes) -> list[bytes]:
    """Frontier of the tree of `size` leaves after one more leaf; at most log2(size) hashes."""
    if len(frontier) != size.bit_count():
        raise ValueError(f"A tree of {size} leaves has {size.bit_count()} complete subtrees.")
    rest, node = list(frontier), leaf
    while size & 1:
        node = node_hash(rest.pop(), node)
        size >>= 1
    return [*rest, node]


def frontier_root(frontier: Sequence[bytes]) -> bytes:
    """Root of the tree whose complete subtrees are `frontier`."""
    if not frontier:
        return EMPTY_ROOT
    node = frontier[-1]
    for left in reversed(frontier[:-1]):
        node = node_hash(left, node)
    return node


class Tree:
    """All complete subtrees of a list of leaf hashes: built in O(n), proofs in O(log² n)."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = list(leaves)
        self.size = len(level)
        self._levels = [level]
        while len(level) > 1:
            level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            self._levels.append(level)

    def root(self, size: int | None = None) -> bytes:
        """Root of the first `size` leaves (all when None); ValueError beyond the tree."""
        size = self.size if size is None else self._checked(size)
        return self._node(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Inclusion path of leaf `index` in the tree of `size` (RFC 9162 2.1.3.1)."""
        size = self.size if size is None else self._checked(size)
        if not 0 <= index < size:
            raise ValueError(f"There is no leaf {index} in a tree of {size}.")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._node(middle, end))
                end = middle
            else:
                path.append(self._node(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """Consistency path between the trees of `first` and `second` leaves (RFC 9162 2.1.4.1)."""
        second = self.size if second is None else self._checked(second)
        if not 0 <= first <= second:
            raise ValueError(f"A tree of {first} does not come before one of {second}.")
        if first in (0, second):
            return []
        path: list[bytes] = []
        start, end, whole = 0, second, True
        while first != end:
            middle = start + _split(end - start)
            if first <= middle:
                path.append(self._node(middle, end))
                end = middle
            else:
                path.append(self._node(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._node(start, end))
        return path[::-1]

    def _checked(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ValueError(f"The tree has {self.size} leaves, not {size}.")
        return size

    def _node(self, start: int, end: int) -> bytes:
        width = end - start
        if width & (width - 1) == 0:  # complete, and aligned since every split is
            return self._levels[width.bit_length() - 1][start // width]
        middle = start + _split(width)
        return node_hash(self._node(start, middle), self._node(middle, end))


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """ProofError unless `leaf` is at `index` of the tree of `size` with `root` (9162 2.1.3.2)."""
    if not 0 <= index < size:
        raise ProofError(f"there is no entry {index} in a log of {size}")
    node, here, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if here & 1 or here == last:
            node = node_hash(sibling, node)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        here, last = here >> 1, last >> 1
    if last:
        raise ProofError("the inclusion proof is too short")
    if node != root:
        raise ProofError("the inclusion proof does not lead to the signed root")


def verify_consistency(
    *, first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """ProofError unless the tree of `second` extends the tree of `first` (RFC 9162 2.1.4.2)."""
    if not 0 <= first <= second:
        raise ProofError(f"a log of {second} cannot extend one of {first}")
    if first in (0, second):
        if path:
            raise ProofError("the consistency proof is too long")
        if first_root != (second_root if first else EMPTY_ROOT):
            raise ProofError("the two roots are not of the same log")
        return
    nodes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not nodes:
        raise ProofError("the consistency proof is too short")
    here, last = first - 1, second - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if here & 1 or here == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        here, last = here >> 1, last >> 1
    if last:
        raise ProofError("the consistency proof is too short")
    if old != first_root or new != second_root:
        raise ProofError("the later log does not contain the earlier one unchanged")


def _split(width: int) -> int:
    """Largest power of two smaller than `width` (at least 2)."""
    return 1 << ((width - 1).bit_length() - 1)
