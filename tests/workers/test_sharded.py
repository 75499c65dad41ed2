"""A model split over two processes by FSDP gives the very adapter that the whole model gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.tiny import tiny_model
from workers.base_models import ModelError, Placement, load_base_model

ROOT = Path(__file__).parents[2]


def saved(folder: Path) -> Path:
    tiny = tiny_model()
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def test_two_processes_train_the_same_adapter_and_hold_less_each(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp"]
    launch += ["--fsdp_version", "2", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*launch, "-m", "tests.workers.sharded", str(saved(tmp_path / "m")), str(result)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        timeout=300,
        text=True,
        check=False,
    )
    assert result.exists(), done.stderr[-3000:]
    found = json.loads(result.read_text())
    assert found["same_answers"]
    assert found["trained"]
    assert found["difference"] == 0.0
    assert found["held"] < 0.75 * found["whole"]


def test_one_process_alone_is_told_how_to_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ModelError, match="accelerate launch"):
        load_base_model(str(saved(tmp_path / "m")), Placement(device_map="fsdp"))
