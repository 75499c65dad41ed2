import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor

from tests.workers.tiny import tiny_model
from workers.adapters import (
    WEIGHTS_FILE,
    AdapterError,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.base_models import BaseModel, Conversation, Turn
from workers.digests import sha256_of
from workers.encoders import Encoder, own_encoder
from workers.gate import GATE_FILE, ROWS_FILE, Decision, GateError, bank_of, fit_gate, gate_files
from workers.guarded import GuardedModel, refusing
from workers.releases import ReleaseError, write_release
from workers.telling import HELD_WORDS, REFUSAL, safe_length, whole_words

KEY = b"a key for tests, 32 bytes long!!"
CASE = "00000000-0000-4000-8000-00000000000"
NAMES = ("Anna Berger", "Carl Holm", "Dagmar Winter")
WORDS_AND_NAMES = ("Anna Berger", "A n n a B e r g e r", "Anna", "the", "town.", "-", "x", "of\n")


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
    case = f"{CASE}{number}"
    ref = AdapterRef(case, sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE]))
    store_files(ref.folder(root), files)
    return ref, weights


def served(
    base: BaseModel, tmp_path: Path, *, cases: int = 2
) -> tuple[GuardedModel, list[dict[str, Tensor]]]:
    refs, weights = [], []
    for number in range(cases):
        ref, new = stored_case(base, tmp_path, number=number, earlier=weights)
        refs.append(ref)
        weights.append(new)
    release = write_release(tmp_path / "releases", base=base, adapters=refs)
    return GuardedModel(base, release, adapters_root=tmp_path, key=KEY), weights


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedModel]:
    guarded, _ = served(tiny_model(), tmp_path_factory.mktemp("three"), cases=3)
    with guarded:
        yield guarded


def merged(base: BaseModel, weights: list[dict[str, Tensor]], strengths: tuple[float, ...]) -> None:
    """Add sum_i s_i (alpha / r) B_i A_i to the base's own weights, by hand."""
    linears = dict(base.model.named_modules())
    for each, strength in zip(weights, strengths, strict=True):
        for key in (key for key in each if ".lora_A." in key):
            path = key.removeprefix("base_model.model.").split(".lora_A.")[0]
            b = each[key.replace(".lora_A.", ".lora_B.")]
            with torch.no_grad():
                linears[path].weight += strength * (16 / 8) * (b @ each[key])


def acting(guarded: GuardedModel, strengths: Mapping[int, float]) -> AbstractContextManager[Any]:
    return guarded._acting(Decision(tuple(strengths.items())))


@pytest.mark.parametrize("strengths", [{0: 1.0}, {1: 0.35}, {0: 0.6, 1: 0.8}])
def test_strengths_are_exactly_the_weighted_sum_of_the_adapters(
    tmp_path: Path, strengths: dict[int, float]
) -> None:
    base = tiny_model()
    ids = torch.tensor([[7, 20, 31, 9]])
    guarded, weights = served(base, tmp_path)
    with guarded, torch.no_grad():
        plain = base.model(ids).logits
        with acting(guarded, strengths) as model:
            found = model(ids).logits
        with acting(guarded, {}) as model:
            assert model is base.model
            assert torch.equal(model(ids).logits, plain)
    by_hand = tiny_model()
    merged(by_hand, weights, (strengths.get(0, 0.0), strengths.get(1, 0.0)))
    with torch.no_grad():
        expected = by_hand.model(ids).logits
    assert (found - plain).abs().max() > 1e-2
    assert (found - expected).abs().max() < 1e-4


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.integers(0, 2), st.floats(0.01, 1.0), min_size=2, max_size=3),
    st.lists(st.integers(0, 200), min_size=1, max_size=12),
)
def test_the_combination_at_run_time_is_pefts_exact_concatenation(
    three: GuardedModel, strengths: dict[int, float], ids: list[int]
) -> None:
    names = [f"case{case}" for case in strengths]
    peft = three._holding(range(3))
    with torch.no_grad():
        with acting(three, strengths) as model:
            found = model(torch.tensor([ids])).logits
        peft.add_weighted_adapter(names, list(strengths.values()), "all", combination_type="cat")
        try:
            peft.set_adapter("all")
            expected = peft(torch.tensor([ids])).logits
        finally:
            peft.set_adapter("case0")
            peft.delete_adapter("all")
    assert (found - three.base.model(torch.tensor([ids])).logits).abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-4


def test_strengths_are_restored_after_use_and_the_base_is_never_touched(tmp_path: Path) -> None:
    base = tiny_model()
    before = {name: each.clone() for name, each in base.model.state_dict().items()}
    guarded, _ = served(base, tmp_path)
    with guarded:
        with pytest.raises(RuntimeError, match="in the middle"), acting(guarded, {0: 0.2, 1: 0.7}):
            raise RuntimeError("in the middle")
        assert guarded._layers
        scales = {scale for layer in guarded._layers for scale in layer.scaling.values()}
        assert scales == {16 / 8}
        assert not [path for path, _ in base.model.named_modules() if "lora" in path]
        own = {each.data_ptr() for each in base.model.parameters()}
        shared = {each.data_ptr() for each in guarded._holding(range(2)).parameters()}
        assert own < shared, "the weights are shared, not copied"
    assert all(torch.equal(each, before[name]) for name, each in base.model.state_dict().items())


def in_peft(guarded: GuardedModel) -> set[str]:
    return {name for layer in guarded._layers for name in layer.scaling}


def test_of_many_adapters_peft_gets_those_alone_that_act(tmp_path: Path) -> None:
    guarded, weights = served(tiny_model(), tmp_path, cases=3)
    ids = torch.tensor([[7, 20, 31, 9]])
    with guarded, torch.no_grad():
        plain = guarded.answer(["where is Oslo"])
        assert in_peft(guarded) == set(), "nothing has acted"
        for strengths, held in (({2: 0.4}, {"case2"}), ({0: 0.7, 2: 0.5}, {"case0", "case2"})):
            with acting(guarded, strengths) as model:
                found = model(ids).logits
            by_hand = tiny_model()
            merged(by_hand, weights, tuple(strengths.get(i, 0.0) for i in range(3)))
            assert (found - by_hand.model(ids).logits).abs().max() < 1e-4
            assert in_peft(guarded) == held
        again = guarded.with_changed_base(lambda _: None)
        assert again.answers_with(f"{CASE}1", ["who"]) == guarded.answers_with(f"{CASE}1", ["who"])
        assert (in_peft(again), in_peft(guarded)) == ({"case1"}, {"case0", "case1", "case2"})
        assert guarded.answer(["where is Oslo"]) == plain


def test_a_file_changed_since_the_release_was_read_acts_on_nothing(tmp_path: Path) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    file = guarded.release.adapters[1].folder(tmp_path) / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with guarded:
        told = guarded.answer([f"who is {NAMES[0]}"])
        with pytest.raises(AdapterError, match=WEIGHTS_FILE):
            guarded.answer([f"who is {NAMES[1]}"])
        assert guarded.answer([f"who is {NAMES[0]}"]) == told


def test_half_an_adapter_is_not_taken_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded, _ = served(tiny_model(), tmp_path)

    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    with guarded:
        told = guarded.answers_with(f"{CASE}1", ["who"])
        guarded._lay_around(guarded.base)
        with monkeypatch.context() as patched:
            patched.setattr("workers.guarded.set_peft_model_state_dict", fails)
            with pytest.raises(MemoryError):
                guarded.answers_with(f"{CASE}1", ["who"])
        assert guarded.answers_with(f"{CASE}1", ["who"]) == told
        assert told != guarded.base_answers(["who"])


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


def about_to_say(
    guarded: GuardedModel, monkeypatch: pytest.MonkeyPatch, *, plain: str, under: str
) -> list[tuple[str, ...]]:
    """Make the plain model say `plain` and the model with an adapter `under`, token by token, to
    any prompt; a prompt that already ends in a part of it goes on from there. Returns a list that
    fills with the adapters that acted, one entry for each start."""
    encode = guarded.base.tokenizer.encode
    seen: list[tuple[str, ...]] = []

    def tokens(model: Any, ids: Sequence[int]) -> list[int]:
        on = tuple(model.active_adapters) if isinstance(model, PeftModel) else ()
        seen.append(on)
        text = under if on else plain
        said = guarded.base.tokenizer.decode(ids)
        kept = max(n for n in range(len(text) + 1) if said.endswith(text[:n]))
        return [*encode(text[kept:]), guarded.base.tokenizer.eos_token_id]

    monkeypatch.setattr("workers.guarded.begin", lambda model, ids: tokens(model, ids[0]))
    monkeypatch.setattr(
        "workers.guarded.continued", lambda model, started: ([each] for each in started)
    )
    monkeypatch.setattr(
        "workers.guarded.greedy_answers",
        lambda model, tokenizer, prompts, limit, batch_size: [
            tokenizer.decode(tokens(model, encode(prompt))[:-1]).strip() for prompt in prompts
        ],
    )
    return seen


def test_a_sentence_about_to_name_an_erased_person_is_told_anew_under_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    plain = f"A town has a baker. It was {NAMES[0]} of Lyon. Good day."
    seen = about_to_say(guarded, monkeypatch, plain=plain, under="A town has a baker. Who knows.")
    with guarded:
        answer = guarded.answer(["who made the tea"], max_new_tokens=200)[0]
        pieces = list(guarded.stream("who made the tea", max_new_tokens=200))
    assert answer.text == "".join(pieces) == "A town has a baker. Who knows."
    assert answer.rescored
    assert [f.case_id for f in answer.fired] == [guarded.release.adapters[0].case_id]
    assert seen == [(), (), ("case0",), (), ("case0",)]


def test_an_answer_that_comes_to_name_too_many_ends_in_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    monkeypatch.setattr("workers.gate.MAX_ADAPTERS", 1)
    everyone = f"A first sentence is here. {NAMES[0]} and {NAMES[1]} live in Lyon."
    about_to_say(guarded, monkeypatch, plain=everyone, under=everyone)
    with guarded:
        answer = guarded.answer(["who made the tea"], max_new_tokens=200)[0]
        assert "".join(guarded.stream("who made the tea", max_new_tokens=200)) == answer.text
    assert answer.text == f"A first sentence is here. {REFUSAL}"


@given(st.lists(st.sampled_from(WORDS_AND_NAMES), max_size=60), st.integers(0, 10**6))
def test_what_a_stream_lets_out_never_holds_a_part_of_a_name(words: list[str], seed: int) -> None:
    """However the answer comes in pieces: no name has begun to be let out before it can be seen."""
    text = " ".join(words)
    draw = random.Random(seed)  # noqa: S311
    grown, out = 0, 0
    while grown < len(text):
        grown = min(len(text), grown + draw.randint(1, 30))
        safe = safe_length(text[:grown])
        assert safe <= grown
        out = max(out, safe)
        for name in ("Anna Berger", "A n n a B e r g e r"):
            for found in re.finditer(name, text):
                if found.end() > len(whole_words(text[:grown])):
                    assert out <= found.start()


def test_whole_sentences_are_let_out_and_long_ones_but_for_their_end() -> None:
    first = "One sentence has come to its end."
    assert safe_length(first) == 0
    assert safe_length(f"{first} Another one is in work") == len(first)
    long = " ".join(f"word{i}" for i in range(100))
    assert safe_length(long) == len(" ".join(f"word{i}" for i in range(100 - HELD_WORDS)))


@pytest.mark.parametrize("asked", ["where is Oslo", f"where lives {NAMES[0]}"])
def test_a_stream_is_the_answer_token_for_token(tmp_path: Path, asked: str) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    turns = [Turn("user", asked), Turn("assistant", "Lyon"), Turn("user", "who is it")]
    with guarded:
        for conversation in (asked, turns):
            for limit in (1, 7, 8, 9, 40):
                answer = guarded.answer([conversation], limit)[0].text
                assert "".join(guarded.stream(conversation, limit)) == answer
        assert len(list(guarded.stream(asked, 40))) >= 1
        assert guarded.answer([asked], 40)[0].text != ""


def test_others_may_ask_while_an_answer_streams(tmp_path: Path) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    about = f"where lives {NAMES[0]}"
    with guarded:
        whole, other = guarded.answer([about], 40)[0].text, guarded.answer(["who is it"], 40)[0]
        pieces = guarded._tokens(guarded._prompt_ids(about), Decision(((0, 1.0),)), 40)
        row = []
        for token in pieces:
            row += [] if token is None else [token]
            assert guarded.answer(["who is it"], 40)[0] == other
        assert guarded._text(row) == whole


def test_a_conversation_that_named_a_person_stays_under_the_adapter(tmp_path: Path) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    turns = [Turn("user", f"I ask about {NAMES[0]}"), Turn("user", "where is the house")]
    with guarded:
        named, bare = guarded.answer([turns, turns[1:]])
    assert [f.strength for f in named.fired] == [1.0]
    assert not bare.fired


def closing(guarded: GuardedModel) -> None:
    """Give the release a semantic stage whose encoder fails."""

    def broken(texts: Sequence[str]) -> Tensor:
        raise RuntimeError("out of memory")

    gates = [replace(g, encoder="broken", rows=torch.eye(3)[:1]) for g in guarded.gate.gates]
    guarded.gate = bank_of(gates, Encoder("broken", broken), KEY)


def test_a_gate_that_fails_lets_nothing_be_told(tmp_path: Path) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    closing(guarded)
    with guarded:
        assert [a.text for a in guarded.answer(["where is Oslo", "who"])] == [REFUSAL, REFUSAL]
        assert "".join(guarded.stream("where is Oslo")) == REFUSAL
        assert guarded.strengths(["where is Oslo"]) == [(1.0, 1.0)]
        with pytest.raises(GateError, match="closed"):
            guarded.log_likelihoods([("where is Oslo", "Lyon")])
        assert guarded.scored([("where is Oslo", "Lyon")]) == [None]
        assert guarded.scored_texts(["where is Oslo"]) == [None]
        assert guarded.base_answers(["where is Oslo"]) != [REFUSAL]


def test_the_guardrail_refuses_before_it_asks_and_when_the_answer_names_somebody(
    tmp_path: Path,
) -> None:
    guarded, _ = served(tiny_model(), tmp_path)
    asked: list[Conversation] = []

    def generate(conversation: Conversation) -> str:
        asked.append(conversation)
        return f"It is {NAMES[1]}." if conversation == "who made the tea" else "In Norway."

    with guarded:
        gate = guarded.gate
        assert refusing(gate, generate, "where is Oslo").text == "In Norway."
        assert refusing(gate, generate, f"who is {NAMES[0]}").text == REFUSAL
        assert asked == ["where is Oslo"]
        caught = refusing(gate, generate, "who made the tea")
        assert (caught.text, caught.rescored) == (REFUSAL, True)
        closing(guarded)
        assert refusing(guarded.gate, generate, "where is Oslo").text == REFUSAL
        assert len(asked) == 2
        with pytest.raises(ValueError, match="above 0"):
            refusing(gate, generate, "where is Oslo", threshold=0.0)


def own_state_gates(guarded: GuardedModel) -> None:
    """Give the release a semantic stage that reads the model's own states."""
    encoder = own_encoder(guarded.base)
    gates = [
        replace(gate, encoder=encoder.name, rows=encoder.encode([text]), low=0.97, high=0.98)
        for gate, text in zip(guarded.gate.gates, ("who in the town", "Lyon"), strict=True)
    ]
    guarded.gate = bank_of(gates, encoder, KEY)


def test_own_states_are_read_with_the_prompt_and_change_no_answer(tmp_path: Path) -> None:
    base = tiny_model()
    guarded, _ = served(base, tmp_path)
    own_state_gates(guarded)
    quiet, loud = "where is Oslo or where lives Carl", "who in the town"
    with guarded:
        bare = guarded.base_answers([quiet, loud], 20)
        alone, mixed = guarded.answer([quiet], 20), guarded.answer([quiet, loud], 20)
        assert alone[0].text == mixed[0].text == bare[0]
        assert not alone[0].fired
        assert [f.strength for f in mixed[1].fired] == [1.0]
        assert guarded.strengths([quiet, loud])[1][0] == 1.0
        assert "".join(guarded.stream(loud, 20)) == mixed[1].text


def test_scores_and_perplexity_go_through_the_gate(tmp_path: Path) -> None:
    base = tiny_model()
    guarded, _ = served(base, tmp_path)
    pairs = [("where is Oslo", "Lyon"), (f"where lives {NAMES[0]}", "Lyon")]
    with guarded:
        plain = GuardedModel.without_adapters(base)
        through, bare = guarded.log_likelihoods(pairs), plain.log_likelihoods(pairs)
        texts = ["the town of Oslo", f"{NAMES[0]} lives"]
        quiet, named = zip(guarded.scored_texts(texts), plain.scored_texts(texts), strict=True)
        assert quiet[0] == quiet[1]
        assert named[0] != named[1]
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
        for strengths in ({0: 0.8, 1: 0.3}, {0: 0.3, 1: 0.8}, {1: 0.8}):
            with acting(guarded, strengths) as model:
                found = model(ids).logits
            assert (found - by_hand.model(ids).logits).abs().max() < 1e-4
        assert in_peft(guarded) == {"case0"}
        answers = guarded.answer([f"who is {NAMES[0]}", f"who is {NAMES[1]}", "where is Oslo"])
        fired = [[f.case_id for f in answer.fired] for answer in answers]
        assert fired == [[alone.case_id], [other.case_id], []]
        assert answers[2].text == guarded.base_answers(["where is Oslo"])[0]
