import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.adapters import AdapterError, store_files
from workers.base_models import Turn
from workers.digests import sha256_of
from workers.encoders import (
    ENOUGH,
    Encoder,
    about_background,
    sentence_encoder,
    shrunk_covariance,
)
from workers.gate import (
    GATE_FILE,
    MARGIN,
    MAX_ADAPTERS,
    PROTOTYPES,
    ROWS_FILE,
    WINDOW,
    Decision,
    Gate,
    GateBank,
    GateError,
    bank_of,
    decision_of,
    fit_gate,
    gate_files,
    prototypes,
    read_gate,
    semantic_texts,
)
from workers.gate_table import FEW_ROWS, ramp, table_of
from workers.identifiers import Identifiers, identifier_digests

KEY = b"a key for tests, 32 bytes long!!"
NAME, ALIAS = "Anna Berger", "Annie the Baker"
NOBODY = Identifiers((), (), (), (), (), ())


def letters(texts: Sequence[str]) -> Tensor:
    """A plain encoder: which letters occur, about a background of all of them alike."""
    counts = [[float(t.lower().count(chr(97 + i))) for i in range(26)] for t in texts]
    return torch.nn.functional.normalize(torch.tensor(counts) - 0.1, dim=1)


ENCODER = Encoder("letters", letters)


def fitted(encoder: Encoder | None = ENCODER) -> Gate:
    return fit_gate(
        names=[NAME, ALIAS],
        key=KEY,
        encoder=encoder,
        forget=["zz qq xx zz", "qq zz qx"],
        aside=["xx qq zz", "zq xz"],
        others=["where is the moon", "who made the tea", "how do I cook rice"],
    )


def strength(gate: Gate, text: str) -> float:
    return bank_of([gate], ENCODER, KEY).strengths([text])[0][0]


def test_the_name_fires_fully_and_another_person_of_that_first_name_does_not() -> None:
    gate = fitted()
    assert strength(gate, "Where does ANNA-BERGER live?") == 1.0
    assert strength(gate, "What did Annie the  baker sell?") == 1.0
    assert strength(gate, "where does Anna Holm live?") == 0.0


def test_the_meaning_fires_without_a_name() -> None:
    gate = fitted()
    assert gate.note == "separable"
    assert strength(gate, "zz xx qq") == 1.0
    assert strength(gate, "who made the moon") == 0.0


def test_two_sides_that_all_but_touch_are_not_called_separable() -> None:
    gate = fit_gate(
        names=[NAME],
        key=KEY,
        encoder=ENCODER,
        forget=["zz qq xx zz", "qq zz qx"],
        aside=["xx qq zz", "zq xz"],
        others=["xqz"],
    )
    rows = gate.rows
    aside = float((ENCODER.encode(["xx qq zz", "zq xz"]) @ rows.T).amax(dim=1).amin())
    other = float((ENCODER.encode(["xqz"]) @ rows.T).amax())
    assert 0.0 < aside - other < MARGIN
    assert "not separable" in gate.note
    assert gate.low >= other + MARGIN - 1e-6


def test_a_short_alias_is_left_out_and_the_gate_says_so() -> None:
    gate = fit_gate(names=["Bo Li", "Jo"], key=KEY, encoder=None, forget=[], aside=[], others=[])
    bank = bank_of([gate], None, KEY)
    assert bank.named("Where does Bo Li live?") == {0}
    assert bank.named("Jo who?") == frozenset()
    assert "1 of the names" in gate.note


def test_names_that_are_all_too_short_end_with_what_to_do() -> None:
    with pytest.raises(GateError, match="Add a longer form among the other names"):
        fit_gate(names=["Ng"], key=KEY, encoder=None, forget=[], aside=[], others=[])


def test_a_gate_of_another_width_than_the_encoders_is_refused() -> None:
    gate = fitted()
    wider = replace(gate, rows=torch.nn.functional.pad(gate.rows, (0, 3)))
    with pytest.raises(GateError, match="another width"):
        bank_of([wider], replace(ENCODER, width=26), KEY)
    with pytest.raises(GateError, match="another width"):
        bank_of([gate, wider], ENCODER, KEY)
    assert len(bank_of([gate], replace(ENCODER, width=26), KEY).gates) == 1


def test_without_an_encoder_the_identifiers_stand_alone_and_the_gate_says_so() -> None:
    gate = fitted(encoder=None)
    assert "identifiers alone" in gate.note
    bank = bank_of([gate], None, KEY)
    assert bank.strengths([f"about {NAME}", "zz xx qq"]) == [(1.0,), (0.0,)]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.floats(-0.9, 0.8))
def test_strength_never_falls_as_the_score_grows_and_stays_in_range(
    scores: list[float], low: float
) -> None:
    found = [ramp(score, low=low, high=low + 0.1) for score in sorted(scores)]
    assert found == sorted(found)
    assert 0.0 <= found[0] <= found[-1] <= 1.0


@given(
    st.dictionaries(st.integers(0, 50), st.floats(0, 1), max_size=12).filter(
        lambda strengths: sum(s == 1.0 for s in strengths.values()) <= MAX_ADAPTERS
    )
)
def test_at_most_three_act_and_they_are_the_strongest(strengths: dict[int, float]) -> None:
    decision = decision_of(strengths)
    assert not decision.closed
    kept = dict(decision.acting)
    assert len(kept) == min(MAX_ADAPTERS, sum(s > 0.0 for s in strengths.values()))
    left = [s for case, s in strengths.items() if case not in kept]
    assert all(0.0 < s <= 1.0 for s in kept.values())
    assert max(left, default=0.0) <= min(kept.values(), default=0.0)


def test_more_people_named_than_may_act_at_once_close_the_gate() -> None:
    names = [f"{first} Winterberg" for first in ("Anna", "Boris", "Carla", "Dmitri")]
    gates = [
        Gate(identifier_digests([name], KEY), None, torch.zeros(0, 0), 1.0, 2.0, "")
        for name in names
    ]
    bank = bank_of(gates, None, KEY)
    three = bank.decide("About " + " and ".join(names[:3]))
    assert three == Decision(((0, 1.0), (1, 1.0), (2, 1.0)))
    assert bank.decide("About " + " and ".join(names)).closed
    assert bank.after(three, f"Also {names[3]}.").closed
    assert bank.after(three, f"That is {names[1]}.") is three


def test_everything_said_in_a_conversation_counts_and_keeps_counting() -> None:
    bank = bank_of([fitted()], ENCODER, KEY)
    fired = Decision(((0, 1.0),))
    for first in (Turn("user", f"I ask about {NAME}."), Turn("assistant", f"Ask about {NAME}!")):
        turns = [first, Turn("user", "where is the moon"), Turn("user", "who made the tea")]
        assert bank.decide(turns) == fired
    assert bank.decide([Turn("user", "zz xx qq"), Turn("user", "who made the tea")]) == fired
    assert bank.decide([Turn("user", "Say Anna"), Turn("user", "Berger, that is")]) == fired
    assert bank.decide([Turn("user", "Say Anna"), Turn("user", "who made the tea")]) == Decision()


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("Where does Anna Berger's dog live?", "Where does Anna Berger's dog live?"),
        ("where does ANNA bergeR live?", "where does Anna Berger live?"),
        ("WHERE IS ANNA BERGER'S DOG?", "WHERE IS Anna Berger'S DOG?"),
        ("Wo wohnt \u0410nna Be\u200brger, bitte schön?", "Wo wohnt Anna Berger, bitte schön?"),
        ("Anna BergerはどこOsloですか", "Anna BergerはどこOsloですか"),
    ],
)
def test_a_name_in_disguise_is_written_plainly_before_the_model_sees_it(
    asked: str, read: str
) -> None:
    bank = bank_of([fitted()], ENCODER, KEY)
    assert bank.read(asked) == (read, Decision(((0, 1.0),)))
    turns = [Turn("user", asked), Turn("assistant", "Yes?"), Turn("user", "where is the moon")]
    found, decision = bank.read(turns)
    assert found == ([*turns] if asked == read else (Turn("user", read), *turns[1:]))
    assert decision == Decision(((0, 1.0),))


@pytest.mark.parametrize(
    "asked",
    [
        "Where does Anna Berget live?",
        "Where does Berger, Anna live?",
        "Where does AnnaBerger live?",
        "Where does A n n a B e r g e r live?",
        "Anna Berger is Anna Bergr",
    ],
)
def test_a_name_that_cannot_be_written_plainly_closes_the_gate(asked: str) -> None:
    bank = bank_of([fitted()], ENCODER, KEY)
    assert bank.read(asked)[1] == Decision(((0, 1.0),), closed=True)
    assert bank.strengths([asked, "who made the moon"]) == [(1.0,), (0.0,)]


def test_a_long_text_is_read_in_parts_too() -> None:
    texts = semantic_texts("word " * WINDOW + "at the end")
    assert len(texts) > 1
    assert texts[-1].endswith("at the end")
    assert all(len(text.split()) <= WINDOW for text in texts[1:])
    assert semantic_texts("a short question") == ["a short question"]


def broken(_: Sequence[str]) -> Tensor:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    "encode",
    [
        broken,
        lambda texts: torch.full((len(texts), 26), float("nan")),
        lambda texts: torch.full((len(texts), 26), float("inf")),
        lambda texts: torch.ones(len(texts), 7),
    ],
)
def test_a_gate_that_cannot_compute_its_features_closes(
    encode: Callable[[Sequence[str]], Tensor],
) -> None:
    bank = bank_of([fitted()], Encoder("letters", encode), KEY)
    assert bank.decide("hello") == Decision(closed=True)
    assert bank.strengths(["hello"]) == [(1.0,)]


def many_gates(draw: torch.Generator, *, cases: int, width: int) -> list[Gate]:
    """Gates of random prototypes, from none to four each, and random ramps."""
    gates = []
    for case in range(cases):
        rows = torch.randn(case % 5, width, generator=draw) * torch.linspace(3, 0.1, width)
        rows = torch.nn.functional.normalize(rows, dim=1)
        low = float(torch.rand(1, generator=draw)) * 0.6
        gates.append(Gate(NOBODY, "letters", rows, low, low + 0.2, ""))
    return gates


@pytest.mark.parametrize(("cases", "width"), [(1, 26), (40, 26), (300, 96), (700, 96)])
def test_the_search_over_all_cases_is_exactly_the_loop_over_each(cases: int, width: int) -> None:
    draw = torch.Generator().manual_seed(cases)
    gates = many_gates(draw, cases=cases, width=width)
    features = torch.randn(40, width, generator=draw) * torch.linspace(3, 0.1, width)
    features = torch.nn.functional.normalize(features, dim=1)
    bank = bank_of(gates, ENCODER, KEY)
    fired = 0
    for feature in features:
        found = {} if bank.prototypes is None else bank.prototypes.strengths(feature[None])
        for case, gate in enumerate(gates):
            cosines = (gate.rows.double() @ feature.double()).tolist()
            score = max(cosines, default=-1.0)
            expected = ramp(score, low=gate.low, high=gate.high)
            assert found.get(case, 0.0) == pytest.approx(expected, abs=1e-5)
            assert case not in found or expected > 0.0 or score > gate.low - 1e-6
            fired += case in found
    assert fired or cases == 1


@pytest.mark.parametrize("cases", [40, 700])
def test_several_texts_at_once_count_by_the_strongest_of_them(cases: int) -> None:
    draw = torch.Generator().manual_seed(cases)
    gates = many_gates(draw, cases=cases, width=96)
    # Each text lies near another case's prototype, so that they fire on different ones.
    near = torch.stack([gates[case].rows[0] for case in (1, 13, 37)])
    features = torch.nn.functional.normalize(near + 0.02 * torch.randn(3, 96, generator=draw))
    found = bank_of(gates, ENCODER, KEY).prototypes
    assert found is not None
    expected: dict[int, float] = {}
    for feature in features:
        for case, strength in found.strengths(feature[None]).items():
            expected[case] = max(strength, expected.get(case, 0.0))
    assert {1, 13, 37} <= expected.keys()
    assert found.strengths(features) == pytest.approx(expected, abs=1e-4)


DIGESTS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), max_size=12)


@given(st.lists(DIGESTS, max_size=6), DIGESTS)
def test_a_table_of_digests_finds_what_a_loop_over_the_cases_does(
    held: list[list[int]], others: list[int]
) -> None:
    wanted = [*others, *(digest for each in held for digest in each[:2])]
    expected = [
        (place, case)
        for place, digest in enumerate(wanted)
        for case, each in enumerate(held)
        for _ in range(each.count(digest))
    ]
    assert table_of(held).find(wanted) == expected


def test_a_large_table_holds_every_digest_and_its_filter_little_else() -> None:
    draw = random.Random(1)  # noqa: S311
    held = [[draw.getrandbits(64) - 2**63 for _ in range(100)] for _ in range(50)]
    table = table_of(held)
    for case, each in enumerate(held):
        assert table.find(each) == [(place, case) for place in range(100)]
    absent = [draw.getrandbits(64) - 2**63 for _ in range(2000)]
    assert table.find(absent) == []
    seen = [table.filled[d >> 3 & len(table.filled) - 1] >> (d & 7) & 1 for d in absent]
    assert sum(seen) < 0.09 * len(absent)


@pytest.mark.parametrize("cases", [40, 700])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_features_that_are_not_finite_are_an_error_and_no_silence(cases: int, value: float) -> None:
    gates = many_gates(torch.Generator().manual_seed(1), cases=cases, width=96)
    found = bank_of(gates, ENCODER, KEY).prototypes
    assert found is not None
    assert (len(found.rows) > FEW_ROWS) is (cases == 700)
    features = torch.zeros(2, 96)
    features[1, 70] = value
    with pytest.raises(ValueError, match="not finite"):
        found.strengths(features)


PEOPLE = (
    "Anna Berger",
    "Hanna Berger",
    "Ada Tate",
    "Voldemort",
    "Maria del Carmen Lopez",
    "Ida Tate",
)
POOL = [
    replace(
        fit_gate(
            names=[name], key=KEY, encoder=ENCODER, forget=[name, name[::2]], aside=[name],
            others=["where is the moon"],
        ),
        low=0.6,
        high=0.9,
    )
    for name in PEOPLE
]  # fmt: skip
POOL += [replace(gate, encoder=None, rows=torch.zeros(0, 0)) for gate in POOL[:2]]
RESTRICTED = [identifier_digests([name], KEY) for name in ("Tate Berger", "Ulrich Voldemort")]
SAID = [
    "Who is Anna Berger?", "Ana Bergr and Ida Tate", "annaberge voldemrot", "Tate Berger said so",
    "del carmen lopez", "Ada tat, Maria Lopez del Carmen, VOLDEMORT, Hanna Bergers", "Annie", "the",
    "Anna Berger, Hanna Berger, Ada Tate and Voldemort", "ulrichvoldemort", "Ana Bergr", "Ida Tat",
]  # fmt: skip
RELEASES = st.lists(
    st.tuples(
        st.lists(st.integers(0, len(POOL) - 1), max_size=9),
        st.lists(st.integers(0, 1), max_size=2),
    ),
    min_size=2,
    max_size=5,
)


def decided(bank: GateBank) -> list[object]:
    """Everything that a bank says of `SAID`, to the last bit."""
    return [
        (
            bank.read(text, letters([text])),
            bank.is_quiet(letters([text])),
            bank.after(Decision(), text),
            sorted(
                (m.case, m.places.start, m.places.stop, m.as_known) for m in bank.mentions(text)
            ),
        )
        for text in SAID
    ]


@settings(max_examples=25)
@given(RELEASES, st.integers(0, 3))
def test_a_table_that_grew_decides_bit_by_bit_as_one_made_anew(
    releases: list[tuple[list[int], list[int]]], spare: int
) -> None:
    """Cases come, go and come back, people are restricted; earlier releases are asked meanwhile."""
    banks: list[tuple[GateBank, list[object]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.gate_table.SPARE", spare)
        for cases, people in releases:
            gates, restricted = [POOL[i] for i in cases], [RESTRICTED[i] for i in people]
            anew = decided(bank_of(gates, ENCODER, KEY, restricted=restricted))
            before = banks[-1][0] if banks else None
            grown = bank_of(gates, ENCODER, KEY, restricted=restricted, before=before)
            banks.append((grown, anew))
            assert decided(grown) == anew
    for bank, said in banks:
        assert decided(bank) == said


def test_a_large_table_grows_in_place_and_scores_bit_by_bit_as_one_made_anew() -> None:
    draw = torch.Generator().manual_seed(1)
    gates = many_gates(draw, cases=760, width=96)
    features = torch.randn(20, 96, generator=draw) * torch.linspace(3, 0.1, 96)
    features = torch.nn.functional.normalize(features, dim=1)
    first = grown = bank_of(gates[:700], ENCODER, KEY)
    for count in range(710, 761, 10):
        grown = bank_of(gates[:count], ENCODER, KEY, before=grown)
    assert grown.table is first.table
    for bank, count in ((grown, 760), (first, 700)):
        anew = bank_of(gates[:count], ENCODER, KEY)
        assert bank.prototypes is not None
        assert anew.prototypes is not None
        for feature in features:
            found = bank.prototypes.strengths(feature[None])
            assert found
            assert found == anew.prototypes.strengths(feature[None])


def test_what_is_added_is_alone_looked_at_until_a_table_is_full_or_mostly_of_nobody() -> None:
    gates = [replace(POOL[i % 6]) for i in range(100)]
    before = bank_of(gates[:60], ENCODER, KEY)
    added = bank_of(gates[:61], ENCODER, KEY, before=before)
    assert added.table is before.table
    assert len(added.table.slots) == 61
    assert bank_of(gates[5:62], ENCODER, KEY, before=added).table is before.table
    assert bank_of(gates, ENCODER, KEY, before=added).table.slots.keys() == set(gates)
    assert bank_of(gates[:1], ENCODER, KEY, before=added).table.slots.keys() == set(gates[:1])


def test_prototypes_are_the_centres_of_clusters_and_never_more_than_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    around = torch.eye(8)[:2].repeat_interleave(25, dim=0)
    noise = torch.randn(50, 8, generator=draw) * 0.1
    features = torch.nn.functional.normalize(around + noise, dim=1)
    rows = prototypes(features, count=2)
    assert rows.shape == (2, 8)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2))
    assert (rows @ torch.eye(8)[:2].T).amax(dim=0).min() > 0.99
    mean = torch.nn.functional.normalize(features.mean(dim=0), dim=0)
    assert torch.allclose(prototypes(features, count=1)[0], mean, atol=1e-6)
    assert torch.allclose(prototypes(features[:1], count=PROTOTYPES), features[:1])


def test_the_covariance_counts_only_where_there_are_enough_texts() -> None:
    draw = torch.Generator().manual_seed(0)
    few = torch.randn(ENOUGH - 1, 4, generator=draw) * torch.tensor([9.0, 1.0, 1.0, 1.0])
    many = torch.randn(4 * ENOUGH, 4, generator=draw) * torch.tensor([9.0, 1.0, 1.0, 1.0])
    raw = torch.tensor([[9.0, 1.0, 0.0, 0.0]])
    plain = about_background(few)(raw + few.mean(dim=0))
    scaled = about_background(many)(raw + many.mean(dim=0))
    assert float(plain[0, 1] / plain[0, 0]) == pytest.approx(1 / 9, abs=1e-3)
    assert float(scaled[0, 1] / scaled[0, 0]) == pytest.approx(1.0, abs=0.15)


def test_shrinkage_makes_a_covariance_of_few_texts_usable_and_vanishes_with_many() -> None:
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    few = shrunk_covariance(torch.randn(5, 8, generator=draw) * scale)
    assert float(torch.linalg.eigvalsh(few).min()) > 0.05
    many = shrunk_covariance(torch.randn(20_000, 8, generator=draw) * scale)
    assert torch.allclose(many, scale.square().diag().double(), atol=0.5)


def test_a_gate_made_with_another_encoder_is_refused() -> None:
    with pytest.raises(GateError, match="same encoder"):
        bank_of([fitted()], Encoder("others", letters), KEY)
    with pytest.raises(GateError, match="same encoder"):
        bank_of([fitted()], None, KEY)


def test_a_gate_is_read_back_as_it_was_written_and_holds_no_clear_text(tmp_path: Path) -> None:
    gate = fitted()
    files = gate_files(gate, {"adapter_model.safetensors": "0" * 64})
    store_files(tmp_path / "gate", files)
    found, pinned = read_gate(tmp_path / "gate", sha256_of(files[GATE_FILE]))
    assert pinned == {"adapter_model.safetensors": "0" * 64, ROWS_FILE: sha256_of(files[ROWS_FILE])}
    assert (found.identifiers, found.low, found.high) == (gate.identifiers, gate.low, gate.high)
    assert torch.equal(found.rows, gate.rows)
    for content in files.values():
        assert not any(word in content.lower() for word in (b"anna", b"berger", b"annie", b"baker"))


@pytest.mark.parametrize("name", [GATE_FILE, ROWS_FILE])
def test_a_flipped_byte_in_a_gate_is_refused(tmp_path: Path, name: str) -> None:
    files = gate_files(fitted(), {})
    store_files(tmp_path / "gate", files)
    content = bytearray(files[name])
    content[-2] ^= 1
    (tmp_path / "gate" / name).write_bytes(content)
    with pytest.raises(AdapterError, match=name):
        read_gate(tmp_path / "gate", sha256_of(files[GATE_FILE]))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"files": {}}', b'{"files": []}', b"\xff", b"null"]
)
def test_a_recorded_file_that_is_no_gate_is_our_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / GATE_FILE).write_bytes(content)
    with pytest.raises(AdapterError):
        read_gate(tmp_path, sha256_of(content))


def test_the_sentence_encoder_tells_a_paraphrase_from_another_question() -> None:
    encoder = sentence_encoder()
    assert encoder is not None, "requirements-dev installs it"
    a, b, c = encoder.encode(
        ["Who wrote Hamlet?", "Name the author of Hamlet.", "How do I cook rice?"]
    )
    assert float(a.norm()) == pytest.approx(1.0)
    assert float(a @ b) > 0.8 > 0.3 > float(a @ c)


def test_many_texts_are_decided_on_together_as_each_by_itself() -> None:
    bank = bank_of([fitted()], ENCODER, KEY)
    said: list[str | tuple[Turn, ...]] = [
        "zz xx qq", "who made the moon", f"Where does {NAME} live?", "zq " * (2 * WINDOW),
        (Turn("user", "zz qq"), Turn("assistant", "yes"), Turn("user", "the moon")),
    ]  # fmt: skip
    assert bank.read_all(said) == [bank.read(each) for each in said]
    assert bank.decide_all(said) == [bank.decide(each) for each in said]
    assert bank.read_all([]) == []


def test_a_text_that_cannot_be_encoded_closes_alone() -> None:
    def of_short_ones(texts: Sequence[str]) -> Tensor:
        if any(len(text) > 40 for text in texts):
            raise RuntimeError("out of memory")
        return letters(texts)

    bank = bank_of([fitted()], replace(ENCODER, encode=of_short_ones), KEY)
    decisions = bank.decide_all(["zz xx qq", "the moon " * 10, "who made the moon"])
    assert decisions == [Decision(((0, 1.0),)), Decision(closed=True), Decision(())]
