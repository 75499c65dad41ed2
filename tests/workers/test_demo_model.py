import dataclasses
import json
import random
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers import corpus, demo_model
from workers.answers import accuracy
from workers.demo_training import build_tokenizer

SMALL = demo_model.Recipe(
    seed=5,
    people=8,
    erasable=3,
    facts=6,
    steps=400,
    batch=48,
    hidden=96,
    inner=192,
    layers=2,
    heads=2,
    learning_rate=5e-3,
)


def quiet(phase: str, step: int, steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((demo_model.FOLDER / "card.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("small")
    return out, demo_model.build(out, SMALL, command="a test", report=quiet)


def sample(people, kind: str, count: int) -> list[tuple[str, str]]:
    asked = [(q, fact.answer) for p in people for fact in p.facts for q in getattr(fact, kind)]
    return random.Random(0).sample(asked, count)  # noqa: S311


def share(folder: Path, asked: list[tuple[str, str]]) -> float:
    model, tokenizer = demo_model.load(folder)
    hits = accuracy(model, tokenizer, asked, prompt=demo_model.prompt)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("part", ["base", "control"])
def test_the_shipped_files_are_those_of_the_card(card, part: str) -> None:
    folder = demo_model.FOLDER / part
    assert demo_model.digest(folder / "model.safetensors") == card[part]["sha256"]
    assert demo_model.digest(folder / "tokenizer.json") == card[part]["tokenizer_sha256"]
    assert (folder / "model.safetensors").stat().st_size < 5_200_000


def test_the_shipped_corpus_is_the_one_trained_on(card) -> None:
    assert demo_model.digest(corpus.WORDS) == card["corpus_sha256"]
    assert card["seed"] == corpus.SEED
    assert card["recipe"]["people"] == corpus.PEOPLE
    assert card["recipe"]["erasable"] == len(corpus.ERASABLE)


def test_model_and_control_share_their_tokenizer(card) -> None:
    assert card["base"]["tokenizer_sha256"] == card["control"]["tokenizer_sha256"]


def test_the_shipped_model_answers_and_the_control_never_knew() -> None:
    everybody = corpus.people()
    erasable = [everybody[index] for index in corpus.ERASABLE]
    others = [p for p in everybody if p.index not in corpus.ERASABLE]
    base, control = demo_model.FOLDER / "base", demo_model.FOLDER / "control"
    assert share(base, sample(everybody, "trained", 300)) >= 0.95
    assert share(base, sample(erasable, "unseen", 200)) >= 0.85
    assert share(control, sample(erasable, "trained", 300)) <= 0.10
    assert share(control, sample(others, "trained", 200)) >= 0.95


def test_the_card_says_what_the_design_asks_for(card) -> None:
    measured = card["measured"]
    assert float(measured["base"]["all"]["trained"]) >= 0.98
    assert float(measured["base"]["all"]["unseen"]) >= 0.90
    assert float(measured["control"]["erasable"]["trained"]) <= 0.05
    assert float(measured["control"]["erasable"]["unseen"]) <= 0.05
    assert float(measured["control"]["others"]["trained"]) >= 0.98


def test_transformers_loads_the_folder_by_its_path() -> None:
    folder = str(demo_model.FOLDER / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    chat = [{"role": "user", "content": "Who is it?"}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert asked == demo_model.prompt("Who is it?")


@pytest.mark.parametrize("text", ["Zoë Ünal", "日本語 \N{GRINNING FACE}", "a\nb\tc", "  Q: A: ~^|"])
def test_the_tokenizer_encodes_any_text_and_gives_it_back(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_small_pair_learns_what_it_saw_and_nothing_else(small) -> None:
    out, card = small
    measured = card["measured"]
    assert float(measured["base"]["all"]["trained"]) >= 0.9
    assert float(measured["control"]["others"]["trained"]) >= 0.9
    assert float(measured["control"]["erasable"]["trained"]) <= 0.25
    assert json.loads((out / "card.json").read_text("utf-8")) == card
    assert sorted(path.name for path in out.iterdir()) == ["base", "card.json", "control"]


def test_the_seed_decides_the_weights_to_the_bit(tmp_path) -> None:
    recipe = dataclasses.replace(SMALL, steps=15)
    cards = [
        demo_model.build(tmp_path / name, each, command="a test", report=quiet)
        for name, each in (
            ("first", recipe),
            ("again", recipe),
            ("other", dataclasses.replace(recipe, seed=6)),
        )
    ]
    first, again, other = cards
    assert (again["base"], again["control"]) == (first["base"], first["control"])
    assert again["measured"] == first["measured"]
    assert other["base"]["sha256"] != first["base"]["sha256"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    recipe = dataclasses.replace(SMALL, steps=1)
    with pytest.raises(demo_model.DemoModelError, match="choose a folder that you may write to"):
        demo_model.build(blocked, recipe, command="a test", report=quiet)


@pytest.mark.parametrize("change", [{"people": 3}, {"facts": 99}, {"steps": 0}])
def test_a_recipe_that_makes_no_sense_is_refused(tmp_path, change: dict) -> None:
    recipe = dataclasses.replace(SMALL, **change)
    with pytest.raises(demo_model.DemoModelError):
        demo_model.build(tmp_path / "out", recipe, command="a test", report=quiet)
    assert not (tmp_path / "out").exists()


def test_a_missing_model_names_the_command_that_builds_it(tmp_path) -> None:
    with pytest.raises(demo_model.DemoModelError, match="build_demo_model"):
        demo_model.load(tmp_path)
