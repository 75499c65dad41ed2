"""A Merkle tree in memory, by the functions that the stored log uses too."""

from requests_app.verifier import merkle


class Tree:
    """What each leaf closed, in memory: the log of the product keeps the same with its entries."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.size = len(leaves)
        self.frontiers: list[list[bytes]] = [[]]  # by size
        self.nodes: list[list[bytes]] = []
        for number, leaf in enumerate(leaves):
            self.nodes.append(merkle.completed(self.frontiers[-1], number, leaf))
            self.frontiers.append(merkle.extend(self.frontiers[-1], self.nodes[-1]))

    def range_root(self, start: int, end: int) -> bytes:
        parts = merkle.subtrees(start, end)
        return merkle.frontier_root([self.nodes[last][level] for last, level in parts])

    def root(self, size: int | None = None) -> bytes:
        return self.range_root(0, self.size if size is None else size)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        ranges = merkle.inclusion_ranges(index, self.size if size is None else size)
        return [self.range_root(*each) for each in ranges]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        ranges = merkle.consistency_ranges(first, self.size if second is None else second)
        return [self.range_root(*each) for each in ranges]
