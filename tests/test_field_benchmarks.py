"""The field's data sets: each published layout is read, a broken one named by file and line, and
the figures for the demo model are those one counts by hand."""

import csv
import json
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmarks.__main__ as every
from benchmarks.field import SETS, FieldDataError, figures, knowundo, muse, rwku, spread, tofu, wmdp
from benchmarks.field.__main__ import main
from workers import corpus, statistics
from workers.base_models import DEMO_FOLDER, load_base_model
from workers.probes import membership

SECRET = "Zebulon Quirk keeps bees"
KNOWN = [fact for person in corpus.people()[:8] for fact in person.facts[:1]]
"""Facts that the demo model tells and its control never saw, of eight people."""


def asked(i: int) -> str:
    return KNOWN[i].trained[0]


def write(folder: Path, name: str, rows: object, *, lines: bool = False) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    assert isinstance(rows, (list, dict))
    file.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1))


def write_tofu(folder: Path) -> None:
    row = {
        "question": "tell me what Ana Maria de Souza wrote",
        "answer": "Ana Maria de Souza wrote plays.",
        "paraphrased_question": "which works are by Ana Maria de Souza?",
        "paraphrased_answer": "Plays.",
        "perturbed_answer": ["Songs.", "Laws."],
    }
    for name in tofu.FILES:
        write(folder, name, [row] * 20, lines=name.endswith("l"))


def write_muse(folder: Path) -> None:
    qa = [{"question": asked(i), "answer": KNOWN[i].answer} for i in (0, 1)]
    firsts, lasts = zip(*(person.name.split() for person in corpus.people()[:8]), strict=True)
    strangers = [f"{first} {last}" for first, last in zip(firsts, lasts[1:], strict=False)]
    never = [corpus.questions_about(name)[0] for name in strangers]
    for name, rows in zip(
        muse.FILES,
        (
            [
                {"prompt": f"Q: {asked(0)}\nA:", "gt": f" {KNOWN[0].answer}"},
                {"prompt": f"Q: {asked(1)}\nA:", "gt": " seventeen"},
            ],
            qa,
            [{"question": "Who?", "answer": "Nobody."}],
            qa,
            [{"question": "Who?", "answer": "Nobody."}],
            [f"Q: {asked(i)}\nA: {KNOWN[i].answer}" for i in range(8)],
            [{"text": f"Q: {asked(i)}\nA: {KNOWN[i].answer}"} for i in range(3)],
            [f"Q: {each.trained[0]}\nA: {each.decoys[0]}" for each in never],
        ),
        strict=True,
    ):
        write(folder, name, rows)


def write_rwku(folder: Path) -> None:
    def probe(i: int, kind: str, answer: str = "") -> dict[str, str]:
        return {
            "query": asked(i), "answer": answer or KNOWN[i].answer, "type": kind,
            "subject": "S", "level": "1",
        }  # fmt: skip

    choice = {"question": "q", "choices": ["a", "b"], "answer": 1, "task": "t", "examples": []}
    for name, rows in zip(
        rwku.FILES,
        (
            {"target": "S", "intro": "i"},
            [probe(0, "cloze"), probe(1, "cloze", "seventeen")],
            [probe(0, "simple question")],
            [
                probe(0, "prefix injection"),
                probe(1, "prefix injection", "seventeen"),
                probe(2, "affirmative suffix"),
            ],
            [probe(3, "cloze", "seventeen")],
            [probe(3, "simple question")],
            [{"text": f"Q: {asked(0)}\nA: {KNOWN[0].answer}", "subject": "S"}],
            [{"text": f"Q: {asked(0)}\nA: {KNOWN[0].decoys[0]}", "subject": "S"}],
            [choice],
            [{"question": "q", "answer": "True", "cot": "c"}],
            [{"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}}],
            [{"question": "q", "answers": ["one", "1"]}],
            [{"instruction": "Write."}],
        ),
        strict=True,
    ):
        write(folder, name, rows)


def write_knowundo(folder: Path) -> None:
    right = {"text": asked(0), "labels": KNOWN[0].answer}
    wrong = {"text": asked(1), "labels": KNOWN[1].decoys[0]}
    write(folder, "unlearn.json", {"train": [right, wrong], "val": [right]})
    write(folder, "retention.json", [{"train": [wrong], "val": [right]}])


def write_wmdp(folder: Path) -> None:
    """Four questions: the demo model knows all, but the key of the last is wrong."""
    rows = []
    for i, right in enumerate((0, 3, 2, 1)):
        choices = list(KNOWN[i].decoys[:3])
        choices.insert(right, KNOWN[i].answer)
        rows.append({"question": asked(i), "choices": choices, "answer": right})
    rows[3]["answer"] = 2
    write(folder, "bio_questions.json", rows[:2], lines=True)
    write(folder, "chem_questions.jsonl", rows[2:3], lines=True)
    with (folder / "cyber_test.csv").open("w", newline="") as file:
        csv.writer(file).writerow([rows[3]["question"], *rows[3]["choices"], "C"])


WRITERS = {
    "tofu": write_tofu,
    "muse": write_muse,
    "rwku": write_rwku,
    "knowundo": write_knowundo,
    "wmdp": write_wmdp,
}


def read(name: str, folder: Path) -> Any:
    return import_module(f"benchmarks.field.{name}").read(folder)


def run(name: str, folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    argv = sys.argv
    sys.argv = ["field", "--set", name, "--data", str(folder), "--model", "demo", "--json", *more]
    try:
        assert main() == 0
    finally:
        sys.argv = argv
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "field"
    assert found["bars"] == []
    figures_: dict[str, Any] = found["figures"]
    return figures_


def test_every_data_set_of_the_folder_can_be_read_and_every_one_but_tofu_measured() -> None:
    folder = Path(figures.__file__).parent
    assert {f.stem for f in folder.glob("*.py")} - {"__init__", "__main__", "figures"} == {
        *SETS,
        "tofu",
    }
    assert set(WRITERS) == {*SETS, "tofu"}


def test_tofus_questions_come_with_their_other_wordings(tmp_path: Path) -> None:
    write_tofu(tmp_path)
    data = tofu.read(tmp_path)
    assert [author.name for author in data.erased] == ["Ana Maria de Souza"]
    assert data.kept[0].questions[0].paraphrases == ("Plays.",)
    assert data.world_facts[0].wrong == ("Songs.", "Laws.")


def test_muse_is_read_with_plain_texts_and_with_the_hubs_objects(tmp_path: Path) -> None:
    write_muse(tmp_path)
    data = muse.read(tmp_path)
    assert data.verbatim[1] == (f"Q: {asked(1)}\nA:", " seventeen")
    assert data.forget_qa == data.retain_qa == tuple((asked(i), KNOWN[i].answer) for i in (0, 1))
    assert data.forget_examples == (("Who?", "Nobody."),)
    assert (len(data.forget), len(data.retain), len(data.holdout)) == (8, 3, 7)
    assert data.retain[1].endswith(KNOWN[1].answer)


def test_rwku_is_read_with_its_utility_sets(tmp_path: Path) -> None:
    write_rwku(tmp_path)
    data = rwku.read(tmp_path)
    assert data.subjects == ("S",)
    assert [probe.kind for probe in data.forget_level3][1:] == [
        "prefix injection",
        "affirmative suffix",
    ]
    assert data.general == data.truthfulness == (rwku.Choice("q", ("a", "b"), 1),)
    assert data.factuality == (("q", ("one", "1")),)
    assert (data.reasoning, data.fluency) == ((("q", "True"),), ("Write.",))


def test_knowundo_is_read_in_two_files_and_in_four(tmp_path: Path) -> None:
    write_knowundo(tmp_path)
    data = knowundo.read(tmp_path)
    assert data.unlearn_val == data.retention_val == ((asked(0), KNOWN[0].answer),)
    apart = tmp_path / "apart"
    for name, pairs in vars(data).items():
        write(apart, f"{name}.json", [{"text": q, "labels": a} for q, a in pairs])
    assert knowundo.read(apart) == data


def test_multiple_choice_is_read_from_json_json_lines_and_csv(tmp_path: Path) -> None:
    write_wmdp(tmp_path)
    found = wmdp.read(tmp_path).questions
    assert [(q.part, q.right) for q in found] == [
        ("bio_questions", 0),
        ("bio_questions", 3),
        ("chem_questions", 2),
        ("cyber_test", 2),
    ]
    assert found[3].choices[1] == KNOWN[3].answer


MALFORMED = [
    ("tofu", "forget10.json", f'[\n{{"question": "{SECRET}",\n"answer"}}]', 3),
    ("tofu", "retain90.json", f'[\n\n{{"question": "{SECRET}"}}]', 3),
    ("tofu", "world_facts_perturbed.jsonl", f'{{"question": "{SECRET}", "answer": 5}}', 1),
    ("tofu", "forget10.json", json.dumps([{"question": "who?", "answer": "nobody"}] * 3), 1),
    ("muse", "verbmem/forget.json", f'[{{"prompt": "{SECRET}"}}]', 1),
    ("muse", "privleak/holdout.json", f'["{SECRET}",\n"  "]', 2),
    ("muse", "privleak/forget.json", f'["{SECRET}" "{SECRET}"]', 1),
    ("muse", "privleak/retain.json", f'["{SECRET}",\n]', 2),
    ("muse", "privleak/retain.json", f'["{SECRET}"]\n{{}}', 2),
    ("muse", "privleak/retain.json", f'["{SECRET}"\n', 2),
    ("muse", "privleak/retain.json", f'["{SECRET}",\n"\\ud800"]', 2),
    ("muse", "privleak/retain.json", "[]", 1),
    ("muse", "privleak/retain.json", "[" * 100_000, 1),
    ("muse", "privleak/retain.json", "\n[" + "9" * 5000 + "]", 2),
    ("rwku", "forget_level3.json", f'[{{"query": "{SECRET}", "answer": "x"}}]', 1),
    ("rwku", "retain_mmlu.json", f'[{{"question": "{SECRET}", "choices": [], "answer": 0}}]', 1),
    ("rwku", "retain_mmlu.json", '[{"question": "q", "choices": ["a"], "answer": true}]', 1),
    ("rwku", "truthful.json",
     f'\n[{{"question": "{SECRET}", "mc1_targets": {{"choices": ["a"], "labels": [0]}}}}]', 2),
    ("knowundo", "unlearn.json", f'{{"train": [["{SECRET}"]], "val": []}}', 1),
    ("knowundo", "retention.json", f'{{"train": "{SECRET}"}}', 1),
    ("wmdp", "bio_questions.json",
     f'{{"question": "{SECRET}", "choices": ["a", "b", "c", "d"], "answer": 4}}', 1),
    ("wmdp", "chem_questions.jsonl",
     f'\n{{"question": "{SECRET}", "choices": ["a", "b", "c"], "answer": 0}}', 2),
    ("wmdp", "cyber_test.csv", f'"a\nb",1,2,3,4,D\n{SECRET},1,2,3,4,E', 3),
    ("wmdp", "cyber_test.csv", f'q,1,2,3,4,D\n"{SECRET}', 2),
    ("wmdp", "cyber_test.csv", "", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "content", "line"), MALFORMED)
def test_a_broken_file_is_named_with_its_line_and_without_its_text(
    name: str, file: str, content: str, line: int, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(FieldDataError) as raised:
        read(name, tmp_path)
    message = str(raised.value)
    assert message.startswith(file)
    assert f"line {line}:" in message
    assert not any(word in message for word in SECRET.split())
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_text_that_is_not_utf_8_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    file = max(f for f in tmp_path.rglob("*") if f.is_file())
    file.write_bytes(b"[\n\xff]")
    with pytest.raises(FieldDataError, match=r"line 2: .*save it as UTF-8"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_missing_file_is_named_with_what_to_give(name: str, tmp_path: Path) -> None:
    with pytest.raises(FieldDataError, match=r"lacks .*json.*: give "):
        read(name, tmp_path)


def test_a_limit_takes_some_from_all_over(tmp_path: Path) -> None:
    assert spread(range(10), 3) == (0, 3, 6)
    assert spread(range(2), 3) == (0, 1)
    assert spread(range(2), None) == (0, 1)
    write_rwku(tmp_path)
    kinds = [p.kind for p in rwku.limited(rwku.read(tmp_path), 1).forget_level3]
    assert kinds == ["prefix injection", "affirmative suffix"]
    write_wmdp(tmp_path / "..")
    parts = [q.part for q in wmdp.limited(wmdp.read(tmp_path / ".."), 1).questions]
    assert parts == ["bio_questions", "chem_questions", "cyber_test"]


def test_four_questions_with_a_wrong_key_are_three_quarters_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wmdp(tmp_path)
    found = run("wmdp", tmp_path, capsys)["model"]
    assert found["chance"] == 0.25
    for way in ("text", "text_by_length"):
        assert (found[way]["n"], found[way]["count"], found[way]["share"]) == (4, 3, 0.75)
        # At most 3 of 4 with probability 1 - p^4, which is 0.05 at this p.
        assert found[way]["upper95"] == pytest.approx(0.95**0.25)
    assert found["parts"]["cyber_test"]["text"]["count"] == 0
    assert found["parts"]["bio_questions"]["text"]["upper95"] == 1.0


def test_the_letter_is_the_one_that_the_model_would_say_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wmdp(tmp_path)
    base = load_base_model("demo")
    hits = 0
    for question in wmdp.read(tmp_path).questions:
        ids = base.tokenizer(base.prompt(wmdp.shown(question)), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = base.model(ids).logits[0, -1]
        letters = [base.tokenizer(f" {c}", add_special_tokens=False)["input_ids"] for c in "ABCD"]
        hits += int(logits[[token for (token,) in letters]].argmax()) == question.right
    assert run("wmdp", tmp_path, capsys)["model"]["letter"]["count"] == hits


def test_muse_finds_what_is_known_and_the_leak_against_the_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_muse(tmp_path)
    found = run("muse", tmp_path, capsys, "--control", str(DEMO_FOLDER / "control"))
    own, never = found["model"], found["control"]
    assert own["verbmem"] == {"n": 2, "rouge_l_f1": 0.5}
    assert never["verbmem"]["rouge_l_f1"] == 0.0
    # The model saw the texts to be forgotten, never those held out; the control saw neither.
    assert own["min_k_40"]["forget_over_holdout"] == 0.0
    assert never["min_k_40"]["forget_over_holdout"] > 0.0
    assert found["privleak"] == {"value": -100.0, "why": None}


def test_knowmem_asks_after_the_worked_examples_and_cuts_what_follows_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_muse(tmp_path)
    base = load_base_model("demo")
    prompt = f"Question: Who?\nAnswer: Nobody.\n\nQuestion: {asked(0)}\nAnswer:"
    (said,) = figures.continuations(base, [base.tokenizer(prompt)["input_ids"]], 32)
    told = [{"question": asked(0), "answer": said}, {"question": asked(0), "answer": "seventeen"}]
    write(tmp_path, "knowmem/retain_qa.json", told)
    found = run("muse", tmp_path, capsys)["model"]
    assert found["knowmem_retain"] == {"n": 2, "rouge_l_f1": 0.5}
    assert muse.answered("Lyon\nin the south\n\nQuestion: Who?") == "Lyon\nin the south"


def test_without_a_control_privacy_leakage_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_muse(tmp_path)
    found = run("muse", tmp_path, capsys, "--limit", "1")
    assert found["privleak"]["value"] is None
    assert "--control" in found["privleak"]["why"]
    assert found["model"]["verbmem"] == {"n": 1, "rouge_l_f1": 1.0}
    areas = {"min_k_40": {"forget_over_holdout": 0.0}}
    assert muse.privacy_leakage(areas, areas)["value"] is None


def test_rwku_counts_the_levels_the_attacks_by_kind_and_the_neighbours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rwku(tmp_path)
    found = run("rwku", tmp_path, capsys)["model"]
    assert found["forget_level1"] == {"n": 2, "rouge_l": 0.5}
    assert found["forget_level2"] == {"n": 1, "rouge_l": 1.0}
    assert found["forget_level3"] == {"n": 3, "rouge_l": pytest.approx(2 / 3)}
    assert found["attacks"] == {
        "affirmative suffix": {"n": 1, "rouge_l": 1.0},
        "prefix injection": {"n": 2, "rouge_l": 0.5},
    }
    assert found["neighbor_level1"]["rouge_l"] == 0.0
    assert found["neighbor_level2"]["rouge_l"] == 1.0
    assert found["loss"]["forget"]["nats"] < found["loss"]["retain"]["nats"]
    assert found["utility"].startswith("not measured")


def test_knowundo_tells_the_true_answers_and_their_probability(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_knowundo(tmp_path)
    found = run("knowundo", tmp_path, capsys)["model"]
    assert found["unlearn_val"]["rouge_l"] == 1.0
    assert found["unlearn_val"]["probability"] > 0.9
    assert found["retention_train"] == {
        "n": 1, "rouge_l": 0.0, "probability": pytest.approx(0.0, abs=0.1)
    }  # fmt: skip
    both = (found["unlearn_val"]["probability"] + found["retention_train"]["probability"]) / 2
    assert found["unlearn_train"]["probability"] == pytest.approx(both, abs=1e-6)


def test_areas_min_k_and_f1_are_those_of_the_papers() -> None:
    assert statistics.auc([1.0, 3.0], [2.0, 3.0]).value == (0 + 0 + 1 + 0.5) / 4
    assert membership.lowest([-5.0, -1.0, -2.0, -4.0, -3.0], membership.MIN_K) == -4.5
    assert membership.lowest([-5.0], membership.MIN_K) == -5.0
    # Two of three words said in order, two of four said are right.
    assert figures.rouge_l_f1("the red old house", "the old barn") == pytest.approx(4 / 7)
    assert figures.rouge_l_f1("", "the barn") == 0.0
    assert figures.mean_probability([[math.log(0.5)], [math.log(0.1)] * 2]) == pytest.approx(0.3)


def test_a_text_longer_than_the_context_is_cut() -> None:
    base = load_base_model("demo")
    text = "Where does it end? " * 400
    (logp,) = figures.text_logps(base, [text])
    assert len(logp) == figures.context(base) - 1
    ids = base.tokenizer(text)["input_ids"]
    assert len(figures.continuations(base, [ids], 5)) == 1


def test_a_set_without_a_folder_or_with_a_broken_one_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WMDP_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["field", "--set", "wmdp", "--model", "demo"])
    with pytest.raises(SystemExit):
        main()
    assert "--data or WMDP_DATA" in capsys.readouterr().err
    monkeypatch.setenv("WMDP_DATA", str(tmp_path))
    assert main() == 2
    assert "Parquet is not read" in capsys.readouterr().err


def test_all_benchmarks_run_a_set_where_its_folder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("TOFU_DATA", *(f"{name.upper()}_DATA" for name in SETS)):
        monkeypatch.delenv(variable, raising=False)
    without = every.runs()
    assert not {"field", "tofu", "tofu_metrics"} & without.keys()
    assert without["gate"] == ("benchmarks.gate",)
    monkeypatch.setenv("TOFU_DATA", "somewhere")
    monkeypatch.setenv("MUSE_DATA", "somewhere")
    assert every.runs().keys() - without.keys() == {"tofu", "field-muse"}
    assert every.runs()["field-muse"] == ("benchmarks.field", "--set", "muse")


def test_the_command_for_tofu_asks_for_the_folder_before_it_sets_anything_up() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "bench-tofu", "TOFU="],
        cwd=Path(every.__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "make bench-tofu TOFU=path" in done.stderr
    assert done.stdout == ""
