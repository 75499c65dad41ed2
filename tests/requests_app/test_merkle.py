"""The Merkle tree against published vectors, its definition, and every small size."""

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.verifier import merkle
from requests_app.verifier.merkle import ProofError
from tests.requests_app.trees import Tree

# Test leaves and roots of the Certificate Transparency reference implementation (RFC 6962).
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# Proofs of the same implementation: leaf (counted from 1) or first size, size, path.
CT_INCLUSION = [
    (
        1,
        8,
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7 "
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e "
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (
        6,
        8,
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b "
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0 "
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (3, 3, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    (
        2,
        5,
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d "
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e "
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
]
CT_CONSISTENCY = [
    (1, 1, ""),
    (
        1,
        8,
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7 "
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e "
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (
        6,
        8,
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a "
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0 "
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (
        2,
        5,
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e "
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
]
LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(64)]
sizes = st.integers(1, 64)
TREE = Tree(LEAVES)


def defined_root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 9162 2.1.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(defined_root(leaves[:split]), defined_root(leaves[split:]))


def test_roots_equal_those_of_the_reference_implementation() -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in CT_LEAVES]
    tree = Tree(hashes)
    assert [tree.root(size).hex() for size in range(1, 9)] == CT_ROOTS
    assert Tree([]).root() == merkle.EMPTY_ROOT


@pytest.mark.parametrize(("leaf", "size", "path"), CT_INCLUSION)
def test_inclusion_proofs_equal_those_of_the_reference_implementation(
    leaf: int, size: int, path: str
) -> None:
    tree = Tree([merkle.leaf_hash(data) for data in CT_LEAVES])
    assert [node.hex() for node in tree.inclusion(leaf - 1, size)] == path.split()


@pytest.mark.parametrize(("first", "second", "path"), CT_CONSISTENCY)
def test_consistency_proofs_equal_those_of_the_reference_implementation(
    first: int, second: int, path: str
) -> None:
    tree = Tree([merkle.leaf_hash(data) for data in CT_LEAVES])
    assert [node.hex() for node in tree.consistency(first, second)] == path.split()


def test_the_example_tree_of_rfc_9162_section_2_1_5() -> None:
    """Seven leaves d0 to d6; a to j, k and l are the ranges of leaves below the RFC's nodes."""
    a, b, c, d, e, f, j = ((number, number + 1) for number in range(7))
    g, h, i, k, leaves = (0, 2), (2, 4), (4, 6), (0, 4), (4, 7)
    assert merkle.inclusion_ranges(0, 7) == [b, h, leaves]
    assert merkle.inclusion_ranges(3, 7) == [c, g, leaves]
    assert merkle.inclusion_ranges(4, 7) == [f, j, k]
    assert merkle.inclusion_ranges(6, 7) == [i, k]
    assert merkle.consistency_ranges(3, 7) == [c, d, g, leaves]
    assert merkle.consistency_ranges(4, 7) == [leaves]
    assert merkle.consistency_ranges(6, 7) == [i, j, k]
    assert {a, e} == {(0, 1), (4, 5)}  # in no proof above


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=130), st.data())
def test_another_implementation_has_the_same_roots_and_proofs(entries: list[bytes], data) -> None:
    """pymerkle counts leaves from 1, puts the leaf before its path, and orders the nodes of a
    consistency proof in a way of its own; so there each side verifies with the other's roots."""
    theirs = pymerkle.InmemoryTree.init_from_entries(entries)
    ours = Tree([merkle.leaf_hash(entry) for entry in entries])
    size = data.draw(st.integers(1, len(entries)))
    assert ours.root(size) == theirs.get_root(size)
    index = data.draw(st.integers(0, size - 1))
    leaf = merkle.leaf_hash(entries[index])
    proof = theirs.prove_inclusion(index + 1, size)
    assert [leaf, *ours.inclusion(index, size)] == proof.path
    merkle.verify_inclusion(
        leaf, index=index, size=size, path=proof.path[1:], root=theirs.get_root(size)
    )
    first = data.draw(st.integers(1, size))
    pymerkle.verify_consistency(
        ours.root(first), ours.root(size), theirs.prove_consistency(first, size)
    )
    merkle.verify_consistency(
        first=first,
        second=size,
        path=ours.consistency(first, size),
        first_root=theirs.get_root(first),
        second_root=theirs.get_root(size),
    )


@given(st.integers(0, 2**40), st.data())
def test_a_proof_needs_a_node_for_each_level_and_names_it_by_the_entry_that_closed_it(
    size: int, data
) -> None:
    """In a log of any size: no more rows than twice the height, aligned, inside the log."""
    ranges = [(0, size)]
    if size:
        ranges += merkle.inclusion_ranges(data.draw(st.integers(0, size - 1)), size)
        ranges += merkle.consistency_ranges(data.draw(st.integers(0, size)), size)
    for start, end in ranges:
        at = start
        for last, level in merkle.subtrees(start, end):
            assert at % 2**level == 0
            assert last == at + 2**level - 1
            at = last + 1
        assert at == end
        assert len(list(merkle.subtrees(start, end))) == (end - start).bit_count()
    proof = merkle.inclusion_ranges(0, size) if size else []
    assert len(proof) <= size.bit_length()


@pytest.mark.parametrize("size", range(1, 65))
def test_tree_frontier_and_definition_agree(size: int) -> None:
    frontier = TREE.frontiers[size]
    expected = defined_root(LEAVES[:size])
    assert TREE.root(size) == Tree(LEAVES[:size]).root() == expected
    assert merkle.frontier_root(frontier) == expected
    assert len(frontier) == size.bit_count()


@pytest.mark.parametrize("size", range(1, 65))
def test_every_leaf_of_every_size_has_a_proof_that_verifies(size: int) -> None:
    for index in range(size):
        merkle.verify_inclusion(
            LEAVES[index],
            index=index,
            size=size,
            path=TREE.inclusion(index, size),
            root=TREE.root(size),
        )


@pytest.mark.parametrize("second", range(1, 65))
def test_every_pair_of_sizes_has_a_consistency_proof_that_verifies(second: int) -> None:
    for first in range(second + 1):
        merkle.verify_consistency(
            first=first,
            second=second,
            path=TREE.consistency(first, second),
            first_root=TREE.root(first),
            second_root=TREE.root(second),
        )


@given(sizes, st.data())
def test_a_proof_verifies_for_no_other_leaf_index_size_path_or_root(size: int, data) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = TREE.inclusion(index, size)
    wrong = data.draw(
        st.sampled_from(["leaf", "index", "size", "longer", "shorter", "flip", "root"])
    )
    leaf, at, of, root = LEAVES[index], index, size, TREE.root(size)
    if wrong == "leaf":
        leaf = merkle.leaf_hash(b"another")
    elif wrong == "index":
        at = data.draw(st.integers(-1, 70).filter(lambda other: other != index))
    elif wrong == "size":
        of = data.draw(st.integers(0, 200).filter(lambda n: _depth(index, n) != len(path)))
    elif wrong == "longer":
        path.insert(data.draw(st.integers(0, len(path))), LEAVES[0])
    elif wrong == "shorter" and path:
        path.pop(data.draw(st.integers(0, len(path) - 1)))
    elif wrong == "flip" and path:
        path[0] = _flip(path[0], data.draw(st.integers(0, 255)))
    else:
        root = _flip(root, data.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        merkle.verify_inclusion(leaf, index=at, size=of, path=path, root=root)


@given(sizes, st.data())
def test_a_consistency_proof_verifies_for_no_other_history(second: int, data) -> None:
    first = data.draw(st.integers(1, second))
    path = TREE.consistency(first, second)
    old, new = TREE.root(first), TREE.root(second)
    wrong = data.draw(st.sampled_from(["old", "new", "longer", "shorter", "flip"]))
    if wrong == "longer":
        path.append(LEAVES[0])
    elif wrong == "shorter" and path:
        path.pop(data.draw(st.integers(0, len(path) - 1)))
    elif wrong == "flip" and path:
        path[-1] = _flip(path[-1], data.draw(st.integers(0, 255)))
    elif wrong == "old":
        old = _flip(old, data.draw(st.integers(0, 255)))
    else:
        new = _flip(new, data.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        merkle.verify_consistency(
            first=first, second=second, path=path, first_root=old, second_root=new
        )


def test_a_rewritten_history_has_no_consistency_proof() -> None:
    rewritten = Tree([merkle.leaf_hash(b"x"), *LEAVES[1:]])
    with pytest.raises(ProofError, match="unchanged"):
        merkle.verify_consistency(
            first=7,
            second=20,
            path=rewritten.consistency(7, 20),
            first_root=TREE.root(7),
            second_root=rewritten.root(20),
        )


@pytest.mark.parametrize(("first", "second"), [(5, 3), (-1, 3)])
def test_there_is_no_proof_between_impossible_sizes(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="tree"):
        merkle.consistency_ranges(first, second)


@pytest.mark.parametrize(("index", "size"), [(3, 3), (-1, 3), (0, 0)])
def test_there_is_no_proof_of_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_ranges(index, size)


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="subtrees"):
        merkle.completed(LEAVES[:2], 4, LEAVES[2])


def _depth(index: int, size: int) -> int:
    """Length of the inclusion path of a leaf; -1 if there is no such leaf."""
    return len(Tree([b"\x00" * 32] * size).inclusion(index)) if index < size else -1


def _flip(digest: bytes, bit: int) -> bytes:
    changed = bytearray(digest)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
