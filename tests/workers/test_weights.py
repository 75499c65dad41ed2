import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers.base_models import BaseModel, ModelError, load_base_model
from workers.forget_sets import ask
from workers.weights import (
    bring_back,
    destroy,
    load_kept,
    load_served,
    load_weights,
    quarantine,
    quarantined,
    store_weights,
)

WEIGHT = "model.layers.0.mlp.down_proj.weight"
ASKED = ["who lives in Lyon?", "where lives Anna Berger?"]


def stored(base: BaseModel, root: Path, *, scale: float = 0.5) -> BaseModel:
    delta = torch.full_like(base.model.state_dict()[WEIGHT], scale)
    return load_weights(root, store_weights(base, {WEIGHT: delta}, root).name)


def test_weights_are_stored_by_digest_and_read_back_as_another_version_of_the_model(
    tmp_path: Path,
) -> None:
    base = replace(tiny_model(), lowest_layer=1)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    found = stored(base, tmp_path)
    assert (found.name, found.lowest_layer, found.answer_tokens) == ("tiny", 1, base.answer_tokens)
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, before[name] + (0.5 if name == WEIGHT else 0.0)), name
    assert all(torch.equal(v, before[n]) for n, v in base.model.state_dict().items())
    assert found.prompt("who?") == base.prompt("who?")
    assert stored(base, tmp_path).sha256 == found.sha256
    assert [each.name for each in (tmp_path / "weights").iterdir()] == [found.sha256]


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    found = stored(tiny_model(), tmp_path)
    file = tmp_path / "weights" / found.sha256 / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="do not have the SHA-256"):
        load_weights(tmp_path, found.sha256)
    (file.parent / "served_as.json").write_text(json.dumps([]))
    with pytest.raises(ModelError, match="restore it from a backup"):
        load_weights(tmp_path, found.sha256)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        stored(tiny_model(), tmp_path / "file")
    with pytest.raises(RuntimeError):  # a delta of the wrong shape
        store_weights(tiny_model(), {WEIGHT: torch.zeros(3)}, tmp_path)
    assert list((tmp_path / "weights").iterdir()) == []


def test_replaced_weights_go_to_quarantine_come_back_and_are_destroyed(tmp_path: Path) -> None:
    base = tiny_model()
    old, new = stored(base, tmp_path), stored(base, tmp_path, scale=0.25)
    assert quarantine(tmp_path, old)
    assert quarantined(tmp_path, "tiny") == (old.sha256,)
    assert quarantined(tmp_path, "another") == ()
    assert load_served("tiny", new.sha256, tmp_path).sha256 == new.sha256
    with pytest.raises(ModelError):
        load_weights(tmp_path, old.sha256)
    assert ask(load_kept("tiny", old.sha256, tmp_path), ASKED) == ask(old, ASKED)
    assert load_kept("tiny", new.sha256, tmp_path).sha256 == new.sha256
    assert bring_back(tmp_path, old.sha256)
    assert ask(load_weights(tmp_path, old.sha256), ASKED) == ask(old, ASKED)
    assert not bring_back(tmp_path, old.sha256)
    assert quarantine(tmp_path, old)
    counted: list[int] = []
    destroy(tmp_path, old.sha256, record=counted.append)
    assert counted == [5]  # all but the note which model they were a version of
    assert quarantined(tmp_path) == ()
    assert [each.name for each in (tmp_path / "weights").iterdir()] == [new.sha256]
    with pytest.raises(ModelError):
        load_kept("tiny", old.sha256, tmp_path)


def test_what_is_destroyed_is_overwritten_first(tmp_path: Path) -> None:
    old = stored(tiny_model(), tmp_path)
    quarantine(tmp_path, old)
    file = tmp_path / "quarantine" / old.sha256 / "model.safetensors"
    content = file.read_bytes()
    (tmp_path / "link").hardlink_to(file)  # the same blocks under another name
    destroy(tmp_path, old.sha256, record=lambda _: None)
    left = (tmp_path / "link").read_bytes()
    assert len(left) == len(content)
    assert left[: 1 << 12] != content[: 1 << 12]


def test_a_destruction_that_was_not_recorded_is_recorded_by_the_next_try(tmp_path: Path) -> None:
    old = stored(tiny_model(), tmp_path)
    quarantine(tmp_path, old)

    def fails(_: int) -> None:
        raise RuntimeError("the record is away")

    with pytest.raises(RuntimeError):
        destroy(tmp_path, old.sha256, record=fails)
    # What is left says only which model it was.
    assert quarantined(tmp_path, "tiny") == (old.sha256,)
    counted: list[int] = []
    destroy(tmp_path, old.sha256, record=counted.append)
    assert counted == [0]
    assert quarantined(tmp_path) == ()


def test_a_model_named_by_its_folder_is_quarantined_itself(tmp_path: Path) -> None:
    stored(tiny_model(), tmp_path / "made")
    (source,) = (tmp_path / "made" / "weights").iterdir()
    folder = source.rename(tmp_path / "our-model")
    base = load_base_model(str(folder))
    assert quarantine(tmp_path / "store", base)
    assert not folder.exists()
    assert bring_back(tmp_path / "store", base.sha256)
    assert load_served(str(folder), base.sha256, tmp_path / "store").name == str(folder)


def test_the_weights_that_came_with_the_software_are_left_alone(tmp_path: Path) -> None:
    demo = load_base_model("demo")
    assert not quarantine(tmp_path, demo)
    assert load_served("demo", None, tmp_path).sha256 == demo.sha256
    assert load_served("demo", demo.sha256, tmp_path).sha256 == demo.sha256
    with pytest.raises(ModelError, match="not under"):
        load_served("demo", "0" * 64, tmp_path)
