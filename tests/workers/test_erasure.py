"""One person is erased from the demo model, end to end; the rest are the phases' edges."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from workers import corpus
from workers.base_models import BaseModel, load_base_model, load_control
from workers.erasure import Erasure, erase, load_release, recipe_for, share_told, train_and_save
from workers.forget_sets import DISCOVERED, GIVEN, NothingMeasurable, locate
from workers.gate import GATE_FILE
from workers.guarded import GuardedModel
from workers.protocol import make_protocol
from workers.subjects import Fact, Subject
from workers.summaries import summary
from workers.training import Stopped
from workers.verification import INCONCLUSIVE, WITHIN, verify

KEY = b"a key for tests, 32 bytes long!!"
CASE = "00000000-0000-4000-8000-000000000001"
PERSON = corpus.people()[0]
SUBJECT = Subject(
    PERSON.name, (), tuple(Fact(fact.trained[0], fact.answer) for fact in PERSON.facts)
)


@dataclass(frozen=True)
class Run:
    base: BaseModel
    control: BaseModel
    done: Erasure
    root: Path
    reported: list[str]

    def served(self) -> GuardedModel:
        return load_release(
            self.base,
            releases_root=self.root / "releases",
            sha256=self.done.release.sha256,
            adapters_root=self.root / "adapters",
            gate_key=KEY,
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("erasure")
    base, control = load_base_model("demo"), load_control("demo")
    assert control is not None
    reported: list[str] = []

    def report(phase: str, step: int, total: int, figures: Mapping[str, float]) -> None:
        assert 0 <= step <= total
        reported.append(phase)

    done = erase(
        base,
        SUBJECT,
        case_id=CASE,
        root=root,
        gate_key=KEY,
        seed=1,
        control=control,
        report=report,
    )
    return Run(base, control, done, root, reported)


def test_the_erased_person_is_told_no_more_than_the_control_knows(run: Run) -> None:
    probes = run.done.figures["probes"]
    unseen = probes["recall_unseen"]
    assert unseen["before"] >= 0.8
    assert unseen["after"] <= unseen["control_upper95"]
    assert probes["recall_trained"]["after"] <= unseen["control_upper95"]
    assert run.done.figures["verdict"] == WITHIN


def test_the_others_and_general_text_stay_as_they_were(run: Run) -> None:
    probes = run.done.figures["probes"]
    assert probes["others_kept"]["n"] >= 200
    assert probes["others_kept"]["after"] >= 0.98
    assert probes["perplexity"]["after"] <= 1.02
    assert probes["gate_fires"]["after"] == 1.0


def test_the_rank_of_the_true_values_is_reported_for_all_three_models(run: Run) -> None:
    rank = run.done.figures["probes"]["knowledge_rank"]
    assert rank["before"] > 0.95
    assert rank["after"] < rank["bound"] <= 0.7
    assert 0.2 < rank["control"] < 0.8
    assert rank["n"] == run.done.protocol["samples"]["facts"]


def test_the_summary_has_every_bar_and_they_hold(run: Run) -> None:
    found = summary(run.done, model={"name": "demo", "sha256": run.base.sha256}, seconds={})
    assert {"told after, unseen phrasings", "others kept", "perplexity change"} <= {
        bar["name"] for bar in found["bars"]
    }
    assert all(bar["holds"] for bar in found["bars"])
    broken = replace(
        run.done,
        figures={"verdict": INCONCLUSIVE, "probes": {}, "not_measured": {"perplexity": "an error"}},
    )
    assert not all(b["holds"] for b in summary(broken, model={}, seconds={})["bars"])


def test_every_phase_reports(run: Run) -> None:
    assert list(dict.fromkeys(run.reported)) == ["locate", "train", "verify"]


def test_protocol_and_figures_hold_no_personal_data_and_the_protocol_no_float(run: Run) -> None:
    written = json.dumps([run.done.protocol, run.done.figures]).casefold()
    private = [PERSON.name, *PERSON.name.split(), *(fact.answer for fact in PERSON.facts)]
    assert not [word for word in private if len(word) > 3 and word.casefold() in written]

    def floats(value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(floats, value.values()))
        return isinstance(value, float) or (isinstance(value, list) and any(map(floats, value)))

    assert not floats(run.done.protocol)


def test_stored_files_hold_no_clear_name_and_no_answer(run: Run) -> None:
    files = [path for path in run.root.rglob("*") if path.is_file()]
    assert len(files) == 5  # adapter and its config, gate and its rows, manifest
    for path in files:
        content = path.read_bytes().lower()
        assert PERSON.name.lower().encode() not in content
        assert not any(
            fact.answer.lower().encode() in content for fact in PERSON.facts if len(fact.answer) > 5
        )


def test_another_person_of_the_same_first_name_is_answered_by_the_plain_base(run: Run) -> None:
    first = PERSON.name.split()[0]
    alike = [p for p in corpus.people() if p.name.split()[0] == first and p != PERSON]
    asked = [fact.trained[0] for person in alike for fact in person.facts] or [
        text.trained[0] for text in corpus.questions_about(f"{first} Unheardof")
    ]
    with run.served() as guarded:
        answers = guarded.answer(asked)
        assert [answer.text for answer in answers] == guarded.base_answers(asked)


def test_the_same_inputs_and_seed_give_the_same_adapter_and_training_stops_when_asked(
    run: Run, tmp_path: Path
) -> None:
    located = locate(run.base, SUBJECT)
    short = replace(recipe_for(run.base), max_steps=2)

    def trained(root: Path) -> str:
        return train_and_save(
            run.base,
            located,
            case_id=CASE,
            adapters_root=root,
            earlier=[],
            gate_key=KEY,
            seed=1,
            recipe=short,
        ).ref.adapter_sha256

    assert trained(tmp_path / "a") == trained(tmp_path / "b")
    with pytest.raises(Stopped):
        train_and_save(
            run.base,
            located,
            case_id=CASE,
            adapters_root=tmp_path / "c",
            earlier=[],
            gate_key=KEY,
            seed=1,
            should_stop=lambda: True,
        )
    assert not (tmp_path / "c").exists()
    assert not [name for name, _ in run.base.model.named_modules() if "lora" in name]


def test_a_second_case_leans_on_the_first_by_nothing_and_never_changes_its_files(
    run: Run, tmp_path: Path
) -> None:
    folder = run.done.trained.folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    person = corpus.people()[1]
    located = locate(
        run.base,
        Subject(person.name, (), (Fact(person.facts[0].trained[0], person.facts[0].answer),)),
    )
    second = train_and_save(
        run.base,
        located,
        case_id="00000000-0000-4000-8000-000000000002",
        adapters_root=run.root / "adapters",
        earlier=[run.done.trained.ref],
        gate_key=KEY,
        seed=2,
        recipe=replace(recipe_for(run.base), max_steps=2, surrogates=32),
    )
    assert second.overlap < 1e-6
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (second.folder / GATE_FILE).is_file()


def test_what_only_the_taught_phrasing_brings_out_counts_as_told(run: Run) -> None:
    located = locate(run.base, SUBJECT)
    unanswerable = tuple(
        replace(fact, phrasings=replace(fact.phrasings, aside=("Is it raining?",)))
        for fact in located.facts
    )
    silent_aside = replace(located, facts=unanswerable)
    assert share_told(run.base, run.base.model, silent_aside) > 0.9


def test_an_unknown_person_is_nothing_measurable() -> None:
    stranger = Subject("Xaver Unheardof", (), (Fact("Who wrote the Grocery List of Xaver?", "Bo"),))
    with pytest.raises(NothingMeasurable, match="nothing to unlearn"):
        locate(load_base_model("demo"), stranger)


def test_facts_that_nobody_gave_are_discovered_by_asking(run: Run) -> None:
    given = SUBJECT.facts[:2]
    located = locate(run.base, replace(SUBJECT, facts=given))
    sources = [fact.source for fact in located.facts]
    assert sources.count(GIVEN) == 2
    assert sources.count(DISCOVERED) >= 5
    truths = {fact.trained[0]: fact.answer.casefold() for fact in PERSON.facts}
    found = [fact for fact in located.facts if fact.source == DISCOVERED]
    right = [fact.answer.casefold() == truths[fact.question] for fact in found]
    assert sum(right) >= 0.9 * len(right)


def test_an_error_while_measuring_is_inconclusive_and_quotes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    located = locate(run.base, SUBJECT)
    protocol = make_protocol(run.base, located, control=run.control, recipes=[], seed=1)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"out of memory while asking {PERSON.name}")

    with run.served() as guarded:
        monkeypatch.setattr(guarded, "scored_texts", broken)
        found = verify(guarded, located, protocol, control=run.control, case_id=CASE)
    assert found["verdict"] == INCONCLUSIVE
    assert "perplexity: could not be measured (RuntimeError)" in found["reasons"]
    assert "perplexity" not in found["probes"]
