import json
from pathlib import Path

import pytest
from django.core.management import call_command

from workers import corpus, erasure
from workers.training import Recipe


def subject_file(folder: Path, *, facts: int) -> Path:
    person = corpus.people()[2]
    file = folder / "subject.json"
    file.write_text(
        json.dumps(
            {
                "name": person.name,
                "aliases": [],
                "facts": [
                    {"question": fact.trained[0], "answer": fact.answer}
                    for fact in person.facts[:facts]
                ],
                "neighbours": [
                    {"question": fact.trained[0], "answer": fact.answer}
                    for fact in corpus.people()[40].facts
                ],
            }
        )
    )
    return file


def test_it_ends_with_one_json_object_whose_bars_decide_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Too short a training to suppress anything: the bar must fail, and stay in the result.
    monkeypatch.setattr(
        erasure, "recipe_for", lambda base: Recipe(max_steps=1, learning_rate=1e-9, surrogates=16)
    )
    with pytest.raises(SystemExit) as ended:
        call_command(
            "erase",
            model="demo",
            subject=subject_file(tmp_path, facts=3),
            out=tmp_path,
            json=True,
            lowest_layer=2,
            method="demote",
            modifier="half",
        )
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert len(out.splitlines()) == 1
    assert ended.value.code == 1
    assert {bar["name"]: bar["holds"] for bar in found["bars"]} | {
        "told after, unseen phrasings": False,
        "others kept": True,
    } == {bar["name"]: bar["holds"] for bar in found["bars"]}
    assert set(found["seconds"]) == {"load", "locate", "train", "verify", "total"}
    folder = Path(found["adapter"]["path"])
    assert (folder / "adapter_model.safetensors").is_file()
    assert json.loads((folder / "adapter_config.json").read_text())["layers_to_transform"] == [2, 3]
    assert found["protocol"]["model"]["lowest_layer"] == 2
    (recipe,) = found["protocol"]["attempts"]
    assert (recipe["method"], recipe["modifier"]) == ("demote", "half")
    assert "train" in err
    assert corpus.people()[2].name not in out


def test_what_cannot_run_exits_with_two_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("erase", model="demo", subject=tmp_path / "none.json", out=tmp_path)
    assert ended.value.code == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_layer_that_is_not_there_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = subject_file(tmp_path, facts=1)
    with pytest.raises(SystemExit) as ended:
        call_command("erase", model="demo", subject=file, out=tmp_path / "out", lowest_layer=4)
    assert ended.value.code == 2
    assert "the layers 0 to 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_modifier_that_does_not_suit_the_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = subject_file(tmp_path, facts=1)
    with pytest.raises(SystemExit) as ended:
        call_command(
            "erase", model="demo", subject=file, out=tmp_path / "out", modifier="single_expert"
        )
    assert ended.value.code == 2
    assert "no mixture of experts" in capsys.readouterr().err
