"""Training against neighbours and for several cases at once, on a tiny model that knows nothing:
what is stored, what it is orthogonal to, and how a full neighbourhood ends."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers import erasure
from workers.adapters import AdapterError, AdapterRef, overlap, read_adapter
from workers.base_models import BaseModel
from workers.erasure import TrainedAdapter, train_and_save, train_cluster
from workers.forget_sets import GIVEN, KnownFact, Located
from workers.gate import read_gate
from workers.guarded import GuardedModel
from workers.phrasings import Phrasings
from workers.releases import write_release
from workers.subjects import Subject
from workers.training import Recipe

KEY = b"a key for tests, 32 bytes long!!"
NAMES = ("Anna Berger", "Carl Holm", "Dora Lind", "Emil Moe")
SHORT = Recipe(max_steps=2, min_steps=1, check_every=2, surrogates=8, forget_rows=4, keep_rows=4)


def located(number: int) -> Located:
    """A person of whom one thing is known, asked in words that fit nobody else."""
    name = NAMES[number]
    things = ("the yellow boat", "a violin from Lyon", "nine old maps", "the mill by the river")
    asked = tuple(
        f"{verb} {name} {things[number]}?" for verb in ("Does", "Did", "When did", "Why did")
    )
    fact = KnownFact(
        asked[0], "yes", GIVEN, Phrasings(asked[:2], asked[2:3], asked[3:]), ("yes",) * 2, ()
    )
    return Located(Subject(name), (fact,), 1, 1.0)


def case(number: int) -> str:
    return f"00000000-0000-4000-8000-00000000000{number}"


def trained(
    base: BaseModel, root: Path, number: int, earlier: list[AdapterRef], recipe: Recipe = SHORT
) -> TrainedAdapter:
    return train_and_save(
        base,
        located(number),
        case_id=case(number),
        adapters_root=root,
        earlier=earlier,
        gate_key=KEY,
        seed=number,
        recipe=recipe,
    )


def weights(root: Path, ref: AdapterRef) -> dict[str, torch.Tensor]:
    _, files = read_gate(ref.folder(root), ref.gate_sha256)
    return read_adapter(ref.folder(root), files).weights


def test_cases_that_never_act_together_share_directions_once_the_room_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "capacity", lambda base: 2)
    base, refs = tiny_model(), list[AdapterRef]()
    for number in range(3):
        done = trained(base, tmp_path, number, refs)
        assert (done.neighbours, done.apart) == (0, min(number, 1))
        assert done.overlap < 1e-6
        refs.append(done.ref)
    assert overlap(weights(tmp_path, refs[1]), [weights(tmp_path, refs[0])]) < 1e-6


def test_a_second_request_of_the_same_person_is_a_neighbour_and_kept_apart(tmp_path: Path) -> None:
    base = tiny_model()
    first = trained(base, tmp_path, 0, [])
    again = replace(first.ref, case_id="an-earlier-case")
    second = trained(base, tmp_path, 0, [again])
    assert (second.neighbours, second.apart, second.capacity) == (1, 1, 8)
    assert second.ref.adapter_sha256 != first.ref.adapter_sha256
    assert overlap(weights(tmp_path, second.ref), [weights(tmp_path, first.ref)]) < 1e-6


@pytest.mark.whole
def test_a_full_neighbourhood_says_what_to_do_and_stores_nothing(tmp_path: Path) -> None:
    base = tiny_model()
    base.model.config.num_hidden_layers = 1  # one layer is enough here, and quicker
    refs: list[AdapterRef] = []
    for number in range(8):  # width 64, rank 8: the same person eight times
        done = trained(base, tmp_path, 0, refs, replace(SHORT, max_steps=1))
        refs.append(replace(done.ref, case_id=f"earlier-{number}"))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(AdapterError, match="cluster adapter"):
        trained(base, tmp_path, 0, refs)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not [name for name, _ in base.model.named_modules() if "lora" in name]


def test_a_cluster_is_one_adapter_behind_a_gate_for_each_case(tmp_path: Path) -> None:
    base = tiny_model()
    first = trained(base, tmp_path, 2, [])
    cluster = train_cluster(
        base,
        {case(0): located(0), case(1): located(1)},
        adapters_root=tmp_path,
        earlier=[first.ref],
        gate_key=KEY,
        seed=5,
        recipe=SHORT,
    )
    assert [each.ref.case_id for each in cluster] == [case(0), case(1)]
    assert len({each.ref.adapter_sha256 for each in cluster}) == 1
    assert len({each.ref.gate_sha256 for each in cluster}) == 2
    assert {each.members for each in cluster} == {2}
    assert overlap(weights(tmp_path, cluster[0].ref), [weights(tmp_path, first.ref)]) < 1e-6
    # One more is kept apart from the cluster's adapter, which counts once.
    last = trained(base, tmp_path, 3, [first.ref, *(each.ref for each in cluster)])
    assert last.apart == 2
    refs = [first.ref, *(each.ref for each in cluster), last.ref]
    release = write_release(tmp_path / "releases", base=base, adapters=refs)
    with GuardedModel(base, release, adapters_root=tmp_path, key=KEY) as guarded:
        fired = [
            [f.case_id for f in answer.fired]
            for answer in guarded.answer([f"who is {name}" for name in NAMES])
        ]
    assert fired == [[case(0)], [case(1)], [case(2)], [case(3)]]


def test_the_soft_penalty_trains_a_and_its_overlap_is_recorded_not_refused(tmp_path: Path) -> None:
    base = tiny_model()
    first = trained(base, tmp_path, 0, [])
    soft = trained(base, tmp_path, 1, [first.ref], replace(SHORT, soft_orthogonality=0.1))
    assert 1e-6 < soft.overlap < 1.0
    exact = trained(base, tmp_path, 1, [first.ref])
    assert exact.overlap < 1e-6
