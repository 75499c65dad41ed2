from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tests.workers.tiny import tiny_model
from workers.adapters import (
    WEIGHTS_FILE,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.base_models import BaseModel
from workers.digests import sha256_of
from workers.gate import GATE_FILE, ROWS_FILE, fit_gate, gate_files
from workers.guarded import GuardedModel
from workers.releases import ReleaseError, write_release

KEY = b"a key for tests, 32 bytes long!!"
NAMES = ("Anna Berger", "Carl Holm")


def stored_case(
    base: BaseModel, root: Path, *, number: int, earlier: list[dict[str, Tensor]]
) -> tuple[AdapterRef, dict[str, Tensor]]:
    """An adapter with random B, as training would leave it, and a gate by name alone."""
    model = attach_adapter(base, earlier=earlier, seed=number)
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    files, weights = adapter_files(model), adapter_weights(model)
    detach_adapter(model)
    gate = fit_gate(names=[NAMES[number]], key=KEY, encoder=None, forget=[], aside=[], others=[])
    files |= gate_files(gate, {name: sha256_of(content) for name, content in files.items()})
    case = f"00000000-0000-4000-8000-00000000000{number}"
    ref = AdapterRef(case, sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE]))
    store_files(ref.folder(root), files)
    return ref, weights


def served(base: BaseModel, tmp_path: Path) -> tuple[GuardedModel, list[dict[str, Tensor]]]:
    refs, weights = [], []
    for number in range(2):
        ref, new = stored_case(base, tmp_path, number=number, earlier=weights)
        refs.append(ref)
        weights.append(new)
    release = write_release(tmp_path / "releases", base=base, adapters=refs)
    return GuardedModel(base, release, adapters_root=tmp_path, key=KEY), weights


def merged(base: BaseModel, weights: list[dict[str, Tensor]], strengths: tuple[float, ...]) -> None:
    """Add sum_i s_i (alpha / r) B_i A_i to the base's own weights, by hand."""
    linears = dict(base.model.named_modules())
    for each, strength in zip(weights, strengths, strict=True):
        for key in (key for key in each if ".lora_A." in key):
            path = key.removeprefix("base_model.model.").split(".lora_A.")[0]
            b = each[key.replace(".lora_A.", ".lora_B.")]
            with torch.no_grad():
                linears[path].weight += strength * (16 / 8) * (b @ each[key])


def lora_layers(guarded: GuardedModel) -> list[LoraLayer]:
    return [m for m in guarded._served.modules() if isinstance(m, LoraLayer)]


@pytest.mark.parametrize("strengths", [(1.0, 0.0), (0.0, 0.35), (0.6, 0.8)])
def test_strengths_are_exactly_the_weighted_sum_of_the_adapters(
    tmp_path: Path, strengths: tuple[float, ...]
) -> None:
    base = tiny_model()
    ids = torch.tensor([[7, 20, 31, 9]])
    guarded, weights = served(base, tmp_path)
    with guarded, torch.no_grad():
        plain = base.model(ids).logits
        with guarded._acting(strengths):
            found = guarded._served(ids).logits
        with guarded._acting((0.0, 0.0)):
            assert torch.equal(guarded._served(ids).logits, base.model(ids).logits)
    by_hand = tiny_model()
    merged(by_hand, weights, strengths)
    with torch.no_grad():
        expected = by_hand.model(ids).logits
    assert (found - plain).abs().max() > 1e-2
    assert (found - expected).abs().max() < 1e-4


def test_strengths_are_restored_after_use(tmp_path: Path) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    with guarded:
        with guarded._acting((0.2, 0.7)):
            pass
        scales = {scale for layer in lora_layers(guarded) for scale in layer.scaling.values()}
    assert scales == {16 / 8}


def test_only_prompts_that_fire_are_changed_and_the_answers_keep_their_order(
    tmp_path: Path,
) -> None:
    base = tiny_model()
    asked = ["where is Oslo", f"where lives {NAMES[0]}", "who in the town", f"who is {NAMES[1]}"]
    guarded, _ = served(base, tmp_path)
    with guarded:
        answers = guarded.answer(asked)
        alone = [guarded.answer([question])[0] for question in asked]
        bare = guarded.base_answers(asked)
    ids = [ref.case_id for ref in guarded.release.adapters]
    assert [[f.case_id for f in a.fired] for a in answers] == [[], [ids[0]], [], [ids[1]]]
    assert [a.text for a in answers] == [a.text for a in alone]
    assert (answers[0].text, answers[2].text) == (bare[0], bare[2])
    assert [f.strength for f in answers[1].fired] == [1.0]


def test_an_answer_that_names_an_erased_person_is_generated_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    acting: list[tuple[float, ...]] = []

    def tell(questions: list[str], chosen: list[int], *, limit: int) -> list[str]:
        layer = lora_layers(guarded)[0]
        names = () if layer.disable_adapters else layer.active_adapters
        on = tuple(layer.scaling[n] if n in names else 0.0 for n in ("case0", "case1"))
        acting.append(on)
        return [f"It was {NAMES[0]}." if on == (0.0, 0.0) else "I cannot say." for _ in chosen]

    monkeypatch.setattr(guarded, "_generate", tell)
    with guarded:
        answer = guarded.answer(["who made the tea"])[0]
    assert answer.rescored
    assert answer.text == "I cannot say."
    assert [f.case_id for f in answer.fired] == [guarded.release.adapters[0].case_id]
    assert acting == [(0.0, 0.0), (2.0, 0.0)]


def test_scores_and_perplexity_go_through_the_gate(tmp_path: Path) -> None:
    base = tiny_model()
    guarded, _ = served(base, tmp_path)
    pairs = [("where is Oslo", "Lyon"), (f"where lives {NAMES[0]}", "Lyon")]
    with guarded:
        through, bare = guarded.log_likelihoods(pairs), guarded.base_log_likelihoods(pairs)
        assert guarded.mean_nll(["the town of Oslo"]) == guarded.mean_nll(
            ["the town of Oslo"], gated=False
        )
        assert guarded.mean_nll([f"{NAMES[0]} lives"]) != guarded.mean_nll(
            [f"{NAMES[0]} lives"], gated=False
        )
    assert through[0] == pytest.approx(bare[0], abs=1e-5)
    assert through[1] != pytest.approx(bare[1], abs=1e-3)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, "adapter_config.json", GATE_FILE, ROWS_FILE])
def test_a_flipped_byte_in_any_file_stops_the_release_and_leaves_the_base_bare(
    tmp_path: Path, name: str
) -> None:
    base = tiny_model()
    ref, _ = stored_case(base, tmp_path, number=0, earlier=[])
    release = write_release(tmp_path / "releases", base=base, adapters=[ref])
    content = bytearray((ref.folder(tmp_path) / name).read_bytes())
    content[len(content) // 2] ^= 1
    (ref.folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(ReleaseError, match=name):
        GuardedModel(base, release, adapters_root=tmp_path, key=KEY)
    assert not [path for path, _ in base.model.named_modules() if "lora" in path]


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path, base=tiny_model(seed=1), adapters=[])
    with pytest.raises(ReleaseError, match="another base model"):
        GuardedModel(tiny_model(seed=2), release, adapters_root=tmp_path, key=KEY)


def test_two_cases_of_one_cluster_adapter_act_once_at_the_larger_strength(tmp_path: Path) -> None:
    base = tiny_model()
    alone, weights = stored_case(base, tmp_path, number=0, earlier=[])
    files = {
        path.name: path.read_bytes()
        for path in alone.folder(tmp_path).iterdir()
        if path.name in (WEIGHTS_FILE, "adapter_config.json")
    }
    gate = fit_gate(names=[NAMES[1]], key=KEY, encoder=None, forget=[], aside=[], others=[])
    own = files | gate_files(gate, {name: sha256_of(content) for name, content in files.items()})
    other = AdapterRef("case-of-the-same-adapter", alone.adapter_sha256, sha256_of(own[GATE_FILE]))
    store_files(other.folder(tmp_path), own)
    release = write_release(tmp_path / "releases", base=base, adapters=[alone, other])
    ids = torch.tensor([[7, 20, 31, 9]])
    by_hand = tiny_model()
    merged(by_hand, [weights], (0.8,))
    with GuardedModel(base, release, adapters_root=tmp_path, key=KEY) as guarded, torch.no_grad():
        assert {name for layer in lora_layers(guarded) for name in layer.scaling} == {"case0"}
        for strengths in ((0.8, 0.3), (0.3, 0.8), (0.0, 0.8)):
            with guarded._acting(strengths):
                found = guarded._served(ids).logits
            assert (found - by_hand.model(ids).logits).abs().max() < 1e-4
        answers = guarded.answer([f"who is {NAMES[0]}", f"who is {NAMES[1]}", "where is Oslo"])
        fired = [[f.case_id for f in answer.fired] for answer in answers]
        assert fired == [[alone.case_id], [other.case_id], []]
        assert answers[2].text == guarded.base_answers(["where is Oslo"])[0]
