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
    detach_adapter,
    free_rows,
    overlap,
    read_adapter,
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
    with pytest.raises(AdapterError, match="Consolidate"):
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
    if (name, content) == (CONFIG_FILE, b'{"peft_type": "LORA"}'):
        return  # PEFT's own defaults are a valid config
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
