"""Adapters in memory: read when they first act, checked then, no more than so many bytes."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import workers.guarded
from tests.workers.test_guarded import KEY, NAMES, served
from tests.workers.tiny import tiny_model
from workers.adapters import WEIGHTS_FILE, AdapterError
from workers.base_models import BaseModel
from workers.gate import Decision
from workers.releases import Release, ReleaseError, write_release
from workers.serving import Served

IDS = [[7, 20, 31, 9], [11, 4]]
PLENTY = 2**30


@dataclass
class Stored:
    """A release of three cases on disk."""

    base: BaseModel
    root: Path
    release: Release

    def served(self, **more: int | Served) -> Served:
        return Served(self.base, self.release, adapters_root=self.root, key=KEY, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    root = tmp_path_factory.mktemp("bank")
    base = tiny_model()
    guarded, _ = served(base, root, cases=3)
    guarded.close()
    return Stored(base, root, guarded.release)


def logits(own: Served, *cases: int) -> Tensor:
    """What a model says after `IDS` on which these cases' adapters act, the last at a half."""
    acting = tuple((case, 0.5 if case == cases[-1] else 1.0) for case in cases)
    return own.begin(IDS, [Decision(acting), Decision(acting[-1:])]).first


def test_no_more_than_so_many_bytes_of_adapters_stay_in_memory(stored: Stored) -> None:
    plenty = stored.served(adapter_bytes=PLENTY)
    assert len(plenty.bank.resident._held) == 1, "one of each config, to know what they are like"
    size = plenty.bank.resident.bytes
    assert size == sum(t.nbytes for t in stored_weights(stored, 0).values())
    for room in (0, size - 1, 2 * size):
        own = stored.served(adapter_bytes=room)
        for cases in ((0,), (1,), (2, 0), (0, 1), (1, 2), (0,)):
            assert torch.equal(logits(own, *cases), logits(plenty, *cases))
            held = own.bank.resident._held
            assert own.bank.resident.bytes == sum(each.size for each in held.values()) <= room
    assert plenty.bank.resident.bytes == 3 * size


def test_adapters_are_read_ahead_while_there_is_room(stored: Stored) -> None:
    size = stored.served().bank.resident.bytes
    for room, count in ((PLENTY, 3), (3 * size, 3), (3 * size - 1, 2), (0, 0)):
        own = stored.served(adapter_bytes=room)
        own.bank.read_ahead()
        assert len(own.bank.resident._held) == count


def stored_weights(stored: Stored, case: int) -> dict[str, Tensor]:
    files, _ = workers.guarded.case_files(stored.release.adapters[case], stored.root)
    return files.read().weights


def test_an_adapter_that_differs_when_it_first_acts_is_an_error_and_no_answer(
    stored: Stored,
) -> None:
    own = stored.served()
    file = stored.release.adapters[2].folder(stored.root) / WEIGHTS_FILE
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        expected = logits(own, 0)
        for _ in range(2):
            with pytest.raises(AdapterError, match="SHA-256 differs"):
                logits(own, 0, 2)
        assert torch.equal(logits(own, 0), expected)
        file.unlink()
        with pytest.raises(ReleaseError, match="cannot be read"):
            stored.served()
    finally:
        file.write_bytes(content)
    assert not torch.equal(logits(own, 0, 2), expected)


def test_the_next_release_reads_its_new_case_alone(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = stored.release.adapters
    first, second = (
        write_release(stored.root / "releases", base=stored.base, adapters=refs[:count])
        for count in (2, 3)
    )
    before = Served(stored.base, first, adapters_root=stored.root, key=KEY)
    held = logits(before, 0, 1)
    read: list[Path] = []
    real = workers.guarded.read_gate
    monkeypatch.setattr(
        workers.guarded, "read_gate", lambda folder, sha: read.append(folder) or real(folder, sha)
    )
    after = Served(stored.base, second, adapters_root=stored.root, key=KEY, before=before)
    assert read == [refs[2].folder(stored.root)]
    assert after.bank.resident is before.bank.resident
    assert after.gate.table is before.gate.table
    for case, name in enumerate(NAMES):
        assert after.gate.decide(f"where lives {name}") == Decision(((case, 1.0),))
    assert torch.equal(logits(after, 0, 1), held)
    assert torch.equal(logits(after, 2), logits(stored.served(), 2))
    assert before.gate.decide(f"where lives {NAMES[2]}") == Decision()
