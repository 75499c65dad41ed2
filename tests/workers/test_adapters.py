from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.tiny import tiny_model
from workers.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterError,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    capacity,
    detach_adapter,
    free_rows,
    overlap,
    read_adapter,
    soft_penalty,
    store_files,
)
from workers.digests import sha256_of


def test_five_adapters_are_orthogonal_to_one_another_to_one_in_a_million() -> None:
    base, earlier = tiny_model(), []
    for seed in range(5):
        model = attach_adapter(base, earlier=earlier, seed=seed)
        weights = adapter_weights(model)
        detach_adapter(model)
        assert overlap(weights, earlier) < 1e-6
        earlier.append(weights)
    assert overlap(earlier[0], [earlier[0]]) == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 8), st.integers(0, 1000))
def test_free_rows_are_orthonormal_and_free_or_refused(taken: int, rank: int, seed: int) -> None:
    width = 32
    earlier = [torch.randn(taken, width, generator=torch.Generator().manual_seed(seed))]
    if min(taken, width) + rank > width:
        with pytest.raises(AdapterError, match="No free directions"):
            free_rows(earlier if taken else [], rank=rank, width=width, seed=seed)
        return
    rows = free_rows(earlier if taken else [], rank=rank, width=width, seed=seed)
    assert torch.allclose(rows @ rows.T, torch.eye(rank, dtype=torch.float64), atol=1e-12)
    if taken:
        assert (rows @ earlier[0].double().T).abs().max() < 1e-9


def test_earlier_adapters_that_share_directions_take_their_room_only_once() -> None:
    shared = free_rows([], rank=8, width=32, seed=1)
    rows = free_rows([shared] * 9, rank=8, width=32, seed=2)
    assert (rows @ shared.T).abs().max() < 1e-12
    with pytest.raises(AdapterError, match="cluster adapter"):
        free_rows([torch.eye(32)[:25]], rank=8, width=32, seed=3)


def test_capacity_is_the_narrowest_adapted_input_by_the_rank() -> None:
    base = tiny_model()
    assert (capacity(base), capacity(base, rank=4)) == (8, 16)
    assert capacity(replace(base, target_modules=("down_proj",))) == 96 // 8
    with pytest.raises(AdapterError, match="lowest layer"):
        capacity(replace(base, lowest_layer=2))


def test_the_soft_penalty_is_the_mean_squared_cosine_and_pulls_the_overlap_down() -> None:
    base = tiny_model()
    earlier = []
    for seed in range(3):
        model = attach_adapter(base, earlier=[], seed=seed)
        earlier.append(adapter_weights(model))
        detach_adapter(model)
    model = attach_adapter(base, earlier=[], seed=9)
    try:
        trained = [p for n, p in model.named_parameters() if ".lora_A." in n]
        for parameter in trained:
            parameter.requires_grad_(True)
        penalty = soft_penalty(model, earlier)
        mine = adapter_weights(model)
        keys = [key for key in mine if ".lora_A." in key]
        by_hand = sum(
            float((old[key].double() @ mine[key].double().T).square().sum())
            / float(old[key].double().square().sum() * mine[key].double().square().sum())
            for old in earlier
            for key in keys
        ) / (len(earlier) * len(keys))
        before = float(penalty().detach())
        assert before == pytest.approx(by_hand, rel=1e-4)
        with torch.no_grad():
            for parameter in trained:
                parameter.mul_(7.0)
        assert float(penalty().detach()) == pytest.approx(before, rel=1e-4)  # scale-free
        step = torch.optim.Adam(trained, lr=0.01)
        for _ in range(50):
            step.zero_grad()
            penalty().backward()
            step.step()
        assert float(penalty().detach()) < before / 2
    finally:
        detach_adapter(model)


def test_a_fresh_adapter_changes_nothing_and_detaching_restores_the_base() -> None:
    base = tiny_model()
    ids = torch.tensor([[5, 6, 7]])
    before = base.model(ids).logits
    names = [name for name, _ in base.model.named_modules()]
    model = attach_adapter(base, earlier=[], seed=1)
    assert torch.equal(model(ids).logits, before)
    detach_adapter(model)
    assert torch.equal(base.model(ids).logits, before)
    assert [name for name, _ in base.model.named_modules()] == names


def test_no_free_directions_leaves_the_base_model_bare() -> None:
    base, earlier = tiny_model(), []
    for seed in range(8):  # width 64, rank 8
        model = attach_adapter(base, earlier=earlier, seed=seed)
        earlier.append(adapter_weights(model))
        detach_adapter(model)
    with pytest.raises(AdapterError, match="share one cluster adapter"):
        attach_adapter(base, earlier=earlier, seed=8)
    assert not [name for name, _ in base.model.named_modules() if "lora" in name]


def stored(tmp_path: Path) -> tuple[Path, dict[str, str], dict[str, torch.Tensor]]:
    model = attach_adapter(tiny_model(), earlier=[], seed=3)
    files = adapter_files(model)
    store_files(tmp_path / "adapter", files)
    return (
        tmp_path / "adapter",
        {name: sha256_of(content) for name, content in files.items()},
        adapter_weights(model),
    )


def test_an_adapter_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder, digests, weights = stored(tmp_path)
    found = read_adapter(folder, digests)
    assert found.weights.keys() == weights.keys()
    assert all(torch.equal(found.weights[key], weights[key]) for key in weights)
    assert (found.config.r, found.config.lora_alpha) == (8, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_flipped_byte_is_refused_by_the_files_name(tmp_path: Path, name: str) -> None:
    folder, digests, _ = stored(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(AdapterError, match=name):
        read_adapter(folder, digests)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\x00" * 40, b'{"peft_type": "LORA"}'])
def test_a_recorded_file_that_is_no_adapter_is_our_error(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder, digests, _ = stored(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(AdapterError, match="does not hold"):
        read_adapter(folder, digests | {name: sha256_of(content)})


def test_a_missing_file_is_our_error(tmp_path: Path) -> None:
    folder, digests, _ = stored(tmp_path)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(folder, digests)


def test_storing_twice_is_one_folder_and_other_bytes_are_refused(tmp_path: Path) -> None:
    store_files(tmp_path / "x", {"a": b"1"})
    store_files(tmp_path / "x", {"a": b"1"})
    with pytest.raises(AdapterError, match="other bytes"):
        store_files(tmp_path / "x", {"a": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match="cannot be written"):
        store_files(tmp_path / "file" / "x", {"a": b"1"})


def test_a_reference_that_is_no_digest_never_becomes_a_path(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="64 hexadecimal digits"):
        AdapterRef("case", "../../etc", "0" * 64).folder(tmp_path)


def test_the_config_names_nobody_and_no_path(tmp_path: Path) -> None:
    folder, _, _ = stored(tmp_path)
    config = (folder / CONFIG_FILE).read_text()
    assert '"base_model_name_or_path": null' in config
    assert str(tmp_path) not in config
