from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.adapters import AdapterRef, free_rows
from workers.gate import Gate, fit_gate
from workers.identifiers import identifier_digests
from workers.neighbourhoods import Earlier, Neighbourhood, Newcomer, neighbourhood

KEY = b"a key for tests, 32 bytes long!!"
FEATURES = 6


def gate(name: str, *directions: int, low: float = 0.5) -> Gate:
    """A gate whose prototypes are unit vectors along `directions`."""
    rows = torch.eye(FEATURES)[list(directions)]
    return Gate(identifier_digests([name], KEY), "axes", rows, low, low + 0.1, "")


WEAK = replace(gate("Emil Moe", 3), rows=torch.tensor([[0.4, 0, 0, 0.9165, 0, 0]]))


def newcomer(
    name: str, *directions: int, question: str = "who is it", low: float = 0.5
) -> Newcomer:
    return Newcomer(
        gate(name, *directions, low=low), (question,), torch.eye(FEATURES)[list(directions)]
    )


def earlier(number: int, gate: Gate, adapter: int | None = None) -> Earlier:
    digest = f"{number if adapter is None else adapter:064x}"
    return Earlier(AdapterRef(f"case-{number}", digest, f"{number:064x}"), gate)


def found(member: Newcomer, *others: Earlier, capacity: int = 4) -> tuple[list[str], list[str]]:
    near = neighbourhood([member], others, key=KEY, capacity=capacity)
    return [r.case_id for r in near.neighbours], [r.case_id for r in near.others]


def test_who_can_act_on_the_same_prompt_is_a_neighbour_and_the_rest_follow_by_nearness() -> None:
    others = [
        earlier(0, gate("Carl Holm", 1)),
        earlier(1, gate("Dora Lind", 0, 2)),
        earlier(2, WEAK),
        earlier(3, gate("Anna Berger", 4)),
    ]
    assert found(newcomer("Anna Berger", 0), *others) == (
        ["case-3", "case-1"],
        ["case-2", "case-0"],
    )


def test_either_gate_firing_on_the_other_is_enough() -> None:
    assert found(newcomer("Anna Berger", 0), earlier(0, WEAK)) == ([], ["case-0"])
    assert found(newcomer("Anna Berger", 0, low=0.3), earlier(0, WEAK)) == (["case-0"], [])
    keen = replace(WEAK, low=0.3, high=0.4)
    assert found(newcomer("Anna Berger", 0), earlier(0, keen)) == (["case-0"], [])


def test_a_question_that_names_an_earlier_person_makes_a_neighbour() -> None:
    member = newcomer("Anna Berger", 0, question="Is Anna the sister of Carl Holm?")
    assert found(member, earlier(0, gate("Carl Holm", 1))) == (["case-0"], [])
    wrong = newcomer("Anna Berger", 0, question="Is Anna the sister of Carl Hollm?")
    assert found(wrong, earlier(0, gate("Carl Holm", 1))) == (["case-0"], [])


def test_names_one_typing_error_apart_are_neighbours_and_a_shared_first_name_is_not() -> None:
    others = [earlier(0, gate("Ana Berger", 1)), earlier(1, gate("Anna Holm", 2))]
    assert found(newcomer("Anna Berger", 0), *others) == (["case-0"], ["case-1"])


@pytest.mark.parametrize(
    "other",
    [
        replace(gate("Carl Holm", 1), encoder="another"),
        replace(gate("Carl Holm", 1), rows=torch.full((1, FEATURES), float("nan"))),
        replace(gate("Carl Holm", 1), rows=torch.eye(9)[:1]),
        fit_gate(names=["Carl Holm"], key=KEY, encoder=None, forget=[], aside=[], others=[]),
    ],
    ids=["another encoder", "no number", "another width", "no encoder"],
)
def test_what_cannot_be_compared_counts_as_a_neighbour(other: Gate) -> None:
    assert found(newcomer("Anna Berger", 0), earlier(0, other)) == (["case-0"], [])


def test_gates_by_identifiers_alone_are_neighbours_only_by_an_identifier() -> None:
    bare = [
        fit_gate(names=[name], key=KEY, encoder=None, forget=[], aside=[], others=[])
        for name in ("Anna Berger", "Carl Holm")
    ]
    member = Newcomer(bare[0], ("who is it",), None)
    assert found(member, earlier(0, bare[0]), earlier(1, bare[1])) == (["case-0"], ["case-1"])


def test_an_adapter_of_several_cases_counts_once_and_as_near_as_its_nearest_case() -> None:
    cluster = [earlier(0, gate("Carl Holm", 1), adapter=9), earlier(1, gate("Dora", 0), adapter=9)]
    assert found(newcomer("Anna Berger", 0), *cluster) == (["case-0"], [])


def test_a_cluster_has_the_neighbours_of_all_its_members() -> None:
    others = [earlier(i, gate(f"Person {i}", i)) for i in range(4)]
    near = neighbourhood(
        [newcomer("Anna Berger", 0), newcomer("Carl Holm", 2)], others, key=KEY, capacity=8
    )
    assert {r.case_id for r in near.neighbours} == {"case-0", "case-2"}


def refs(numbers: list[int]) -> tuple[AdapterRef, ...]:
    return tuple(AdapterRef(str(n), f"{n:064x}", f"{n:064x}") for n in numbers)


@given(st.integers(0, 12), st.integers(0, 40), st.integers(1, 9))
def test_all_neighbours_are_kept_apart_and_others_only_where_there_is_room(
    neighbours: int, others: int, capacity: int
) -> None:
    near = Neighbourhood(
        refs(list(range(neighbours))), refs(list(range(100, 100 + others))), capacity
    )
    assert near.apart[:neighbours] == near.neighbours
    assert len(near.apart) == max(neighbours, min(neighbours + others, capacity - 1))
    assert near.free == capacity - neighbours


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_number_of_cases_fits_where_each_has_fewer_neighbours_than_the_capacity(
    data: st.DataObject,
) -> None:
    """A graph of 40 cases, each with at most 7 neighbours, in 32 dimensions at rank 4: all pairs
    would end at the ninth case."""
    width, rank, capacity = 32, 4, 8
    edges: dict[int, set[int]] = {}
    placed: list[Tensor] = []
    for case in range(40):
        open_for = [other for other in range(case) if len(edges[other]) < capacity - 1]
        chosen = data.draw(
            st.lists(st.sampled_from(open_for), max_size=7) if open_for else st.just([])
        )
        edges[case] = set(chosen)
        for other in edges[case]:
            edges[other].add(case)
        order = data.draw(st.permutations([n for n in range(case) if n not in edges[case]]))
        near = Neighbourhood(refs(sorted(edges[case])), refs(order), capacity)
        apart = [placed[int(ref.case_id)] for ref in near.apart]
        placed.append(free_rows(apart, rank=rank, width=width, seed=case).float())
    for case, neighbours in edges.items():
        for other in neighbours:
            assert (placed[case] @ placed[other].T).abs().max() < 1e-6
    assert (placed[1] @ placed[0].T).abs().max() < 1e-6  # while there is room, neighbours or not
