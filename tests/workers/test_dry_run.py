"""What a dry run states: exact where it counts, and nothing loaded."""

import json
from pathlib import Path

import pytest
import torch
from django.core.management import call_command

from tests.workers.tiny import tiny_model
from workers.adapters import adapter_weights, attach_adapter, detach_adapter
from workers.base_models import ModelError, Placement, load_base_model, load_without_weights
from workers.dry_run import estimate, shape_of
from workers.subjects import Fact, Subject

SUBJECT = Subject("Anna Berger", (), (Fact("Where does Anna Berger live?", "Lyon"),))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tiny = tiny_model()
    tiny.model.save_pretrained(tmp_path / "m")
    tiny.tokenizer.save_pretrained(tmp_path / "m")
    return str(tmp_path / "m")


def test_the_parameters_are_those_of_the_loaded_model_and_of_its_adapter(folder: str) -> None:
    shape = shape_of(load_without_weights(folder))
    base = load_base_model(folder)
    assert shape.parameters == sum(p.numel() for p in base.model.parameters())
    model = attach_adapter(base, earlier=[], seed=1)
    weights = adapter_weights(model)
    detach_adapter(model)
    assert shape.adapter == sum(tensor.numel() for tensor in weights.values())
    assert shape.trained == sum(t.numel() for name, t in weights.items() if "lora_B" in name)
    assert (shape.layers, shape.adapted) == (2, 1)


def test_nothing_is_loaded(folder: str) -> None:
    base = load_without_weights(folder)
    assert {p.device.type for p in base.model.parameters()} == {"meta"}
    (Path(folder) / "model.safetensors").unlink()
    load_without_weights(folder)  # the weights need not even be there
    with pytest.raises(ModelError):
        load_base_model(folder)


def test_half_the_bytes_of_a_weight_halve_the_weights_and_not_what_is_trained(folder: str) -> None:
    found = [
        estimate(load_without_weights(folder, place), SUBJECT, place)["bytes"]
        for place in (Placement("float32"), Placement("bfloat16"))
    ]
    assert found[0]["weights"] == 2 * found[1]["weights"]
    assert found[0]["optimiser"] == found[1]["optimiser"]
    assert found[0]["peak"] > found[1]["peak"]


def test_more_facts_take_longer_and_every_phase_takes_time(folder: str) -> None:
    base = load_without_weights(folder)
    torch.set_num_threads(1)
    many = Subject("Anna Berger", (), SUBJECT.facts * 40)
    few_work, many_work = (estimate(base, s, Placement())["work"] for s in (SUBJECT, many))
    assert many_work["forget_rows"] == 40 * few_work["forget_rows"]
    assert many_work["generations"]["verify"] > few_work["generations"]["verify"]
    seconds = estimate(base, SUBJECT, Placement())["seconds_of_arithmetic"]
    assert set(seconds) == {"locate", "train", "verify", "total"}
    assert all(value > 0 for value in seconds.values())


def test_the_command_states_it_as_json_and_writes_nothing(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "subject.json"
    file.write_text(json.dumps({"name": "Anna", "facts": [{"question": "Who?", "answer": "Anna"}]}))
    call_command(
        "erase", model=folder, subject=file, out=tmp_path / "out", dry_run=True, dtype="bfloat16"
    )
    found = json.loads(capsys.readouterr().out)
    assert found["placement"] == {"dtype": "bfloat16", "device_map": "cpu"}
    assert found["bytes"]["weights"] == 2 * found["model"]["parameters"]
    assert not (tmp_path / "out").exists()
