"""Prompts read in parts and in groups are read as if at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.workers.test_batching import Three, asked
from tests.workers.test_guarded import KEY, NAMES, acting, served
from tests.workers.tiny import tiny_model
from workers.answers import advanced, begin, stop_tokens
from workers.bank import AdapterBank
from workers.base_models import BaseModel, Turn
from workers.batching import Batcher
from workers.gate import Decision
from workers.reading import PADDING, Reader, as_they_are
from workers.serving import Prompt, Served

TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<s>system: answer well"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


def with_template(base: BaseModel) -> BaseModel:
    base.tokenizer.chat_template = TEMPLATE
    return base


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    root = tmp_path_factory.mktemp("three")
    base = replace(with_template(tiny_model()), lowest_layer=1)
    guarded, _ = served(base, root, cases=3)
    own = Served(base, guarded.release, adapters_root=root, key=KEY)
    assert own.reader._opening is not None
    with guarded:
        yield Three(guarded, own, root)


ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(1, 2 * PADDING),
        st.dictionaries(st.integers(0, 2), st.floats(0.01, 1.0), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25)
@given(ROWS, st.integers(0, 2**31))
def test_rows_in_parts_are_pefts_exact_concatenation_and_go_on_as_it_does(
    three: Three, rows: list[tuple[bool, int, dict[int, float]]], seed: int
) -> None:
    opening = three.served.reader._opening
    assert opening is not None
    before = [half.clone() for each in opening.layers for half in each]
    draw = torch.Generator().manual_seed(seed)
    ids = [
        (opening.ids if opens else []) + torch.randint(200, (size,), generator=draw).tolist()
        for opens, size, _ in rows
    ]
    decisions = [Decision(tuple(strengths.items())) for *_, strengths in rows]
    started = three.served.begin(ids, decisions)
    found = [started.first]
    next_ = torch.randint(200, (len(rows),), generator=draw)
    model = three.served.model_for(decisions)
    found.append(advanced(model, started, next_).first)
    for place, ((*_, strengths), own, token) in enumerate(zip(rows, ids, next_, strict=True)):
        with acting(three.guarded, strengths) as reference, torch.no_grad():
            expected = reference(torch.tensor([[*own, int(token)]])).logits[0, -2:]
        for logits, exact in zip(found, expected, strict=True):
            assert (logits[place] - exact).abs().max() < 1e-4
    after = [half for each in opening.layers for half in each]
    assert all(map(torch.equal, before, after)), "nothing of a prompt stays behind"


def test_the_layers_below_the_adapters_read_an_opening_once(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    first = three.served.base.model.model.layers[0]
    own = first.forward
    monkeypatch.setattr(
        first, "forward", lambda x, **given: read.append(x.shape[1]) or own(x, **given)
    )
    ids = three.served.ids(Prompt("where is Oslo"))
    opening = three.served.reader._opening
    assert opening is not None
    assert ids[: len(opening.ids)] == opening.ids
    for decision in (Decision(), Decision(((1, 0.5),))):
        three.served.begin([ids], [decision])
    assert read == [len(ids) - len(opening.ids)] * 2


def test_a_long_prompt_pads_no_short_ones(three: Three) -> None:
    short, long = [5] * 3, [5] * (4 + PADDING)
    groups = three.served.reader._groups([short, long, short], [{}, {}, {}])
    assert groups == [[1], [0, 2]]


def test_answers_with_a_template_are_the_answers_one_by_one(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The guarded model ends an answer at a line break, with a template too.
    monkeypatch.setattr(three.served, "stops", stop_tokens(three.served.base.tokenizer))
    batcher = Batcher(rows=4)
    batcher.serve(three.served)
    questions: list[Any] = [
        "where is Oslo", f"where lives {NAMES[0]}", "who", f"{NAMES[0]} or {NAMES[2]}",
        (Turn("system", "be brief"), Turn("user", f"who is {NAMES[1]}")),
        (Turn("user", f"who is {NAMES[2]}"), Turn("assistant", "the"), Turn("user", "where")),
    ]  # fmt: skip
    expected = [three.guarded.answer([each], 24)[0].text for each in questions]
    heard = [each.text for each in asked(batcher, questions)]
    batcher.close()
    assert heard == expected


def gemma(base: BaseModel) -> Any:
    config = GemmaConfig(
        vocab_size=len(base.tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    return GemmaForCausalLM(config)


def gpt2(base: BaseModel) -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(base.tokenizer), n_embd=64, n_layer=2, n_head=4)
    )


@pytest.mark.parametrize("kind", [gemma, gpt2])
def test_a_model_of_another_build_is_read_as_it_is(kind: Any) -> None:
    base = with_template(tiny_model())
    torch.manual_seed(0)
    base = replace(base, model=kind(base).eval().requires_grad_(False))
    bank = AdapterBank(base, {})
    bank.lowest = 1
    prompts = [base.tokenizer(base.prompt(text))["input_ids"] for text in ("who", "in the town")]
    found = Reader(base, bank).read(prompts, [{}, {}]).first
    expected = begin(base.model, prompts, pick=as_they_are).first
    assert (found - expected).abs().max() < 1e-4


def test_a_model_that_cannot_be_read_in_parts_is_read_whole(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.reading.DIFFERENCE", 0.0)
    assert Reader(three.served.base, three.served.bank)._opening is None
