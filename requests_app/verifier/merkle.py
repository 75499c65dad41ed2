"""The Merkle tree of RFC 9162 section 2.1 over SHA-256: roots, proofs, and their verification.

Hashes are 32 bytes. A *frontier* is the list of roots of the complete subtrees of a tree, large to
small: one for each bit set in the size; appending needs nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(ValueError):
    """A proof does not lead to the root it was given for."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of one entry (RFC 9162 2.1.1): the prefix 0x00 keeps leaves and nodes apart."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(frontier: Sequence[bytes], size: int, leaf: bytes) -> list[bytes]:
    """Roots of the complete subtrees that one more leaf closes in a tree of `size` leaves, small to
    large: the leaf itself, then subtrees of 2, 4, ... leaves; two in the mean.
    """
    if len(frontier) != size.bit_count():
        raise ValueError(f"A tree of {size} leaves has {size.bit_count()} complete subtrees.")
    nodes = [leaf]
    while size & 1:
        nodes.append(node_hash(frontier[-len(nodes)], nodes[-1]))
        size >>= 1
    return nodes


def extend(frontier: Sequence[bytes], nodes: Sequence[bytes]) -> list[bytes]:
    """Frontier after the leaf that closed `nodes`: the largest of them stands for all."""
    return [*frontier[: len(frontier) + 1 - len(nodes)], nodes[-1]]


def frontier_root(frontier: Sequence[bytes]) -> bytes:
    """Root of the tree whose complete subtrees are `frontier`."""
    if not frontier:
        return EMPTY_ROOT
    node = frontier[-1]
    for left in reversed(frontier[:-1]):
        node = node_hash(left, node)
    return node


def subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that leaves `start` to `end` (not included) consist of, large to small:
    for each its last leaf, which closed it, and its level (2**level leaves).

    For ranges that the proofs below need; their roots are a frontier of the range.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        start += 1 << level
        yield start - 1, level


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots are the inclusion path of `index` (RFC 9162 2.1.3.1).

    ValueError if the tree of `size` has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"There is no leaf {index} in a tree of {size}.")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots are the consistency path from the tree of `first` leaves to
    that of `second` (RFC 9162 2.1.4.1). ValueError for impossible sizes.
    """
    if not 0 <= first <= second:
        raise ValueError(f"A tree of {first} does not come before one of {second}.")
    if first in (0, second):
        return []
    ranges: list[tuple[int, int]] = []
    start, end = 0, second
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # else the root of `first` itself, which the verifier has
        ranges.append((start, end))
    return ranges[::-1]


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """ProofError unless `leaf` is at `index` of the tree of `size` with `root` (9162 2.1.3.2)."""
    walk = [both for _, _, both in inclusion_steps(leaf, index=index, size=size, path=path)]
    if [leaf, *walk][-1] != root:
        raise ProofError("the inclusion proof does not lead to the signed root")


def inclusion_steps(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes]
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The walk from `leaf` to a root: of each step the left hash, the right one, and theirs.

    ProofError where the path has not the length that the tree of `size` asks for.
    """
    if not 0 <= index < size:
        raise ProofError(f"there is no entry {index} in a log of {size}")
    node, here, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if here & 1 or here == last:
            left, right = sibling, node
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            left, right = node, sibling
        node = node_hash(left, right)
        yield left, right, node
        here, last = here >> 1, last >> 1
    if last:
        raise ProofError("the inclusion proof is too short")


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
