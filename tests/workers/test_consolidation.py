"""Two people of the demo model are consolidated into new weights; the rest are the edges."""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.workers.tiny import tiny_model
from workers import consolidation, corpus
from workers.adapters import AdapterRef
from workers.base_models import BaseModel, load_base_model, load_control
from workers.consolidation import (
    Consolidation,
    ConsolidationError,
    GatedCase,
    Plan,
    consolidate,
    plan,
    read_retained,
    registered_data,
    without_mentions,
)
from workers.erasure import recipe_for, train_and_save
from workers.forget_sets import Located, locate
from workers.guarded import GuardedModel
from workers.joint_training import JointRecipe, joint_deltas
from workers.releases import read_release
from workers.rows import Example, completion_labels, completion_logits, rows_of
from workers.subjects import Fact, Subject
from workers.training import Stopped
from workers.verification import NOT_MET, WITHIN
from workers.weights import load_weights

KEY = b"a key for tests, 32 bytes long!!"
PEOPLE = corpus.people()[:2]


def subject(person: corpus.Person) -> Subject:
    return Subject(person.name, (), tuple(Fact(f.trained[0], f.answer) for f in person.facts))


@dataclass(frozen=True)
class Run:
    base: BaseModel
    control: BaseModel
    fixed: Plan
    root: Path

    def consolidate(self) -> Consolidation:
        return consolidate(
            self.base,
            self.fixed,
            root=self.root,
            adapters_root=self.root / "adapters",
            gate_key=KEY,
            control=self.control,
            parent="c" * 64,
        )

    def files(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two people behind adapters of a few steps: what they suppress matters to one test alone.
    The joint training has about half of its usual steps, which two people can do with."""
    root = tmp_path_factory.mktemp("consolidation")
    base, control = load_base_model("demo"), load_control("demo")
    assert control is not None
    cases: list[GatedCase] = []
    for i, person in enumerate(PEOPLE):
        trained = train_and_save(
            base,
            locate(base, subject(person)),
            case_id=f"00000000-0000-4000-8000-{i:012d}",
            adapters_root=root / "adapters",
            earlier=[case.ref for case in cases],
            gate_key=KEY,
            seed=i,
            recipe=replace(recipe_for(base), max_steps=2, surrogates=32),
        )
        cases.append(GatedCase(trained.ref, subject(person)))
    fixed = plan(
        base,
        cases,
        retained=registered_data(base),
        control=control,
        recipe=JointRecipe(min_steps=80),
        seed=1,
    )
    return Run(base, control, fixed, root)


@pytest.fixture(scope="module")
def figures(run: Run) -> dict[str, dict[str, Any]]:
    """What the real thing measured of each case on the stored weights, released or refused."""
    found: dict[str, dict[str, Any]] = {}
    measured = consolidation.verify

    def verify(*given: Any, case_id: str, **named: Any) -> dict[str, Any]:
        result = measured(*given, case_id=case_id, **named)
        found.setdefault(case_id, result)  # the bare weights come first, what stays gated after
        return result

    with pytest.MonkeyPatch.context() as patch, suppress(ConsolidationError):
        patch.setattr(consolidation, "verify", verify)
        run.consolidate().abandon()
    return found


def test_the_plan_names_its_data_and_holds_nobody(run: Run) -> None:
    record = run.fixed.record()
    assert record["retained"]["kind"] == "registered"
    facts = [fact for person in PEOPLE for fact in person.facts]
    assert record["retained"]["dropped"] == sum(len(fact.trained) for fact in facts)
    assert set(record["protocols"]) == {case.ref.case_id for case in run.fixed.cases}
    assert {p["level"] for p in record["protocols"].values()} == {"merged"}
    written = json.dumps(record).casefold()
    for person in PEOPLE:
        assert person.name.casefold() not in written
        assert not any(person.name in str(row) for row in run.fixed.retained)


def test_the_people_are_gone_from_the_stored_weights_and_the_others_are_not(
    run: Run, figures: dict[str, dict[str, Any]]
) -> None:
    assert set(figures) == set(run.fixed.protocols)
    for found in figures.values():
        unseen = found["probes"]["recall_unseen"]
        assert unseen["before"] >= 0.8
        assert unseen["after"] <= unseen["control_upper95"]
        assert found["probes"]["others_kept"]["after"] >= 0.98
        assert found["probes"]["perplexity"]["after"] <= 1.02
        # In so few steps the rank of one of them can stay too near its threshold to decide.
        assert found["verdict"] != NOT_MET, found["reasons"]
        assert found["probes"]["ablated"]["outcome"] == "holds"
        assert "gate_fires" not in found["probes"]


def test_a_case_that_does_not_hold_in_the_weights_keeps_its_adapter_byte_for_byte(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts are given here: one person falls short as long as the weights are measured bare."""
    short = run.fixed.cases[1].ref
    measured = consolidation.verify

    def given(served: GuardedModel, *rest: Any, case_id: str, **named: Any) -> dict[str, Any]:
        found = measured(served, *rest, case_id=case_id, **named)
        falls = case_id == short.case_id and not served.release.adapters
        return {**found, "verdict": NOT_MET if falls else WITHIN, "reasons": []}

    monkeypatch.setattr(consolidation, "verify", given)
    monkeypatch.setattr(consolidation, "joint_deltas", lambda *_, **__: {})
    done = run.consolidate()
    try:
        assert done.merged == (run.fixed.cases[0].ref.case_id,)
        (kept,) = done.individual
        assert (kept.case_id, kept.adapter_sha256) == (short.case_id, short.adapter_sha256)
        assert kept.gate_sha256 != short.gate_sha256
        assert done.figures[short.case_id]["probes"]["gate_fires"]["after"] == 1.0
        stored = read_release(run.root, done.release.sha256)
        assert (stored.adapters, stored.merged, stored.parent) == ((kept,), done.merged, "c" * 64)
        assert stored.base_sha256 == load_weights(run.root, done.base.sha256).sha256
        assert {
            run.root / "weights" / stored.base_sha256,
            kept.folder(run.root / "adapters"),
        } < set(done.made)
    finally:
        done.abandon()
    assert not any(made.exists() for made in done.made)


def test_where_nothing_holds_nothing_is_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        consolidation, "joint_deltas", lambda *_, **__: {}
    )  # weights that forgot nobody
    before = run.files()
    with pytest.raises(ConsolidationError, match="None of the 2 cases holds"):
        run.consolidate()
    after = run.files()
    assert after == before


def test_one_case_that_holds_neither_way_refuses_the_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = run.fixed.cases[1].ref.case_id
    monkeypatch.setattr(consolidation, "joint_deltas", lambda *_, **__: {})
    monkeypatch.setattr(
        consolidation,
        "verify",
        lambda *_, case_id, **__: {
            "verdict": NOT_MET if case_id == short else WITHIN,
            "reasons": ["too much"],
        },
    )
    before = run.files()
    with pytest.raises(ConsolidationError, match=f"neither .*too much.*{short}"):
        run.consolidate()
    assert run.files() == before


def test_training_stops_when_asked_and_the_base_stays_as_it_was(run: Run) -> None:
    before = {name: value.clone() for name, value in run.base.model.state_dict().items()}
    with pytest.raises(Stopped):
        joint_deltas(
            run.base,
            list(run.fixed.located.values()),
            retained=run.fixed.retained,
            recipe=JointRecipe(),
            seed=1,
            report=lambda *_: None,
            should_stop=lambda: True,
        )
    after = run.base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(bool((after[name] == value).all()) for name, value in before.items())


def _taught(base: BaseModel, example: Example) -> BaseModel:
    """The model after it learnt the example: what it does not know, nobody can take from it."""
    rows = rows_of(base, [example])
    model = base.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(10):
        told = cross_entropy(completion_logits(model, rows, 0), completion_labels(rows))
        optimiser.zero_grad()
        told.backward()
        optimiser.step()
    model.requires_grad_(False)
    return base


@pytest.mark.parametrize("retained", [(), (Fact("who lives in Lyon", "Carl"), "the town of Lyon")])
def test_joint_training_raises_the_loss_of_what_must_not_be_told(
    retained: tuple[Fact | str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "where lives Anna Berger"
    example = Example(question, "in Lyon", ("Lyon",))
    base = _taught(tiny_model(), example)
    known = Located(Subject("Anna Berger", (), (Fact(question, "Lyon"),)), (), 1, 1.0)
    monkeypatch.setattr("workers.joint_training.forget_examples", lambda _: [example])
    monkeypatch.setattr(
        "workers.joint_training._surrogates", lambda *_: [Example("who lives in Lyon", "Carl")]
    )
    losses: list[float] = []
    deltas = joint_deltas(
        base,
        [known],
        retained=retained,
        recipe=JointRecipe(rank=4, passes=1, min_steps=40, learning_rate=2e-2, keep_weight=1.0),
        seed=1,
        report=lambda _, step, total, figures: losses.append(figures["forget_loss"]),
        should_stop=lambda: False,
    )
    assert losses[-1] < losses[0]
    assert len(deltas) == 14  # seven linears of two layers
    assert all(delta.abs().max() > 0 for delta in deltas.values())


def test_rows_about_the_erased_never_hold_the_others_in_place() -> None:
    rows = [
        Fact("Where does ANNA  Berger live?", "Lyon"),
        Fact("Who lives in Lyon?", "Ánna-Berger"),
        "Lyon is the town of Anna Berger.",
        Fact("Where does Anna Bergermann live?", "Oslo"),
    ]
    assert without_mentions(rows, ["Anna Berger"]) == (rows[3],)


def test_retained_data_is_read_and_faults_name_the_line_not_the_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"question": "Who?", "answer": "Zelda"}\n\n'
        '{"answer": "b", "question": "a"}\n{"text": "T."}'
    )
    assert read_retained(file) == (Fact("Who?", "Zelda"), Fact("a", "b"), "T.")
    for wrong in ('{"question": "Zelda"}', "Zelda", '["Zelda"]', '{"question": "", "answer": "Z"}'):
        file.write_text('{"question": "a", "answer": "b"}\n' + wrong)
        with pytest.raises(ConsolidationError, match="line 2") as caught:
            read_retained(file)
        assert "Zelda" not in str(caught.value)
    file.write_text("\n")
    with pytest.raises(ConsolidationError, match="no rows"):
        read_retained(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ConsolidationError, match="UTF-8"):
        read_retained(file)
    with pytest.raises(ConsolidationError, match="cannot be read"):
        read_retained(tmp_path / "missing")


def test_without_a_case_or_without_knowledge_there_is_nothing_to_consolidate() -> None:
    base = load_base_model("demo")
    with pytest.raises(ConsolidationError, match="nothing to consolidate"):
        plan(base, [], retained=(), control=None, seed=1)
    stranger = Subject("Xaver Unheardof", (), (Fact("Who wrote the List of Xaver?", "Bo"),))
    ref = AdapterRef("5f0c6d6e-0000-4000-8000-000000000001", "a" * 64, "b" * 64)
    with pytest.raises(ConsolidationError, match=ref.case_id) as caught:
        plan(base, [GatedCase(ref, stranger)], retained=(), control=None, seed=1)
    assert "Xaver" not in str(caught.value)
