from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workers.adapters import AdapterError, store_files
from workers.digests import sha256_of
from workers.encoders import Encoder, sentence_encoder
from workers.gate import (
    GATE_FILE,
    ROWS_FILE,
    Gate,
    GateBank,
    GateError,
    bank_of,
    fit_gate,
    gate_files,
    ramp,
    read_gate,
)

KEY = b"a key for tests, 32 bytes long!!"
NAME, ALIAS = "Anna Berger", "Annie the Baker"


def letters(texts: Sequence[str]) -> Tensor:
    """A plain encoder: how often each letter occurs."""
    return torch.tensor([[float(t.lower().count(chr(97 + i))) for i in range(26)] for t in texts])


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


def test_without_an_encoder_the_identifiers_stand_alone_and_the_gate_says_so() -> None:
    gate = fitted(encoder=None)
    assert "identifiers alone" in gate.note
    bank = bank_of([gate], None, KEY)
    assert bank.strengths([f"about {NAME}", "zz xx qq"]) == [(1.0,), (0.0,)]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.floats(-0.9, 0.8))
def test_strength_never_falls_as_the_score_grows_and_stays_in_range(
    scores: list[float], low: float
) -> None:
    found = ramp(torch.tensor(sorted(scores)), low=low, high=low + 0.1)
    assert bool((found.diff() >= 0).all())
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0


def test_a_gate_that_cannot_compute_its_features_fails_closed() -> None:
    def broken(_: Sequence[str]) -> Tensor:
        raise RuntimeError("out of memory")

    gate = fitted()
    assert GateBank((gate,), Encoder("letters", broken), KEY).strengths(["hello"]) == [(1.0,)]
    blind = Encoder("letters", lambda texts: torch.full((len(texts), 26), float("nan")))
    assert GateBank((gate,), blind, KEY).strengths(["hello"]) == [(1.0,)]


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
    a, b, c = torch.nn.functional.normalize(
        encoder.encode(["Who wrote Hamlet?", "Name the author of Hamlet.", "How do I cook rice?"])
    )
    assert float(a @ b) > 0.8 > 0.3 > float(a @ c)
