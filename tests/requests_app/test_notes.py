"""Signed notes, checkpoints, proof files, envelopes and canonical JSON: vectors and round trips."""

import json

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from requests_app.verifier import canonical, dsse, notes
from requests_app.verifier.errors import Invalid
from requests_app.verifier.notes import InclusionProof, TreeHead
from requests_app.verifier.trust import parse_trust

# The example of c2sp.org/signed-note.
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SIGNATURE = (
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
)
NOTE = f"This is an example message.\n\n— example.com/foo {SIGNATURE}\n".encode()
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "rtbf.example/log/test"
KEY = notes.note_key(ORIGIN, PRIVATE)
HEAD = TreeHead(ORIGIN, 5, b"\x07" * 32)

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def checkpoint(head: TreeHead = HEAD) -> bytes:
    return notes.sign_note(notes.checkpoint_text(head), name=ORIGIN, private=PRIVATE)


def test_the_example_key_and_note_of_the_specification_verify() -> None:
    key = notes.parse_vkey(VKEY)
    assert (key.name, key.key_id.hex(), key.vkey) == ("example.com/foo", "530d903a", VKEY)
    assert notes.open_note(NOTE, [key], file="note") == ("This is an example message.\n", key)


def test_a_signed_checkpoint_comes_back_as_it_was_signed() -> None:
    assert notes.open_checkpoint(checkpoint(), [KEY], file="x") == (HEAD, KEY)


def test_lines_of_unknown_signers_are_passed_over_but_one_known_must_have_signed() -> None:
    stranger = notes.note_key("witness.example", Ed25519PrivateKey.generate())
    both = checkpoint() + b"\xe2\x80\x94 witness.example " + notes.encode(b"\x01" * 68).encode()
    assert notes.open_note(both + b"\n", [KEY], file="x")[1] == KEY
    with pytest.raises(Invalid, match="No trusted key"):
        notes.open_note(checkpoint(), [stranger], file="x")


def test_another_key_of_the_same_name_is_not_trusted() -> None:
    same_name = notes.note_key(ORIGIN, Ed25519PrivateKey.generate())
    with pytest.raises(Invalid, match="No trusted key"):
        notes.open_checkpoint(checkpoint(), [same_name], file="x")


def test_a_checkpoint_of_another_origin_than_its_signer_is_refused() -> None:
    note = checkpoint(TreeHead("elsewhere.example", 5, b"\x07" * 32))
    with pytest.raises(Invalid, match="checkpoint of elsewhere"):
        notes.open_checkpoint(note, [KEY], file="x")


def test_no_flipped_bit_of_a_checkpoint_is_accepted() -> None:
    note = checkpoint()
    for bit in range(len(note) * 8):
        changed = bytearray(note)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Invalid):
            notes.open_checkpoint(bytes(changed), [KEY], file="x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ORIGIN,
        f"{ORIGIN}\n05\n{notes.encode(bytes(32))}\n",
        f"{ORIGIN}\n-1\n{notes.encode(bytes(32))}\n",
        f"{ORIGIN}\n\u0665\n{notes.encode(bytes(32))}\n",
        f"{ORIGIN}\n5\n{notes.encode(bytes(31))}\n",
        f"{ORIGIN}\n5\nAAAA\n\n",
        f"\n5\n{notes.encode(bytes(32))}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused_even_when_signed(text: str) -> None:
    with pytest.raises(Invalid):
        notes.parse_checkpoint(text, file="x")


@pytest.mark.parametrize(
    "vkey", ["", "a", "a+b", VKEY + "A", VKEY.replace("530d903a", "530d903b"), "a b" + VKEY[15:]]
)
def test_a_malformed_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(Invalid):
        notes.parse_vkey(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_a_name_that_a_note_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a key"):
        notes.note_key(name, PRIVATE)


@given(st.integers(0, 2**40), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_a_proof_file_comes_back_as_it_was_written(index: int, path: list[bytes]) -> None:
    proof = InclusionProof(index=index, path=tuple(path), note=checkpoint())
    assert notes.parse_proof(notes.proof_file(proof), file="x") == proof


def test_a_proof_file_is_spelled_as_c2sp_specifies_it() -> None:
    note = checkpoint()
    data = notes.proof_file(InclusionProof(index=3, path=(bytes(32),), note=note))
    expected = f"c2sp.org/tlog-proof@v1\nindex 3\n{notes.encode(bytes(32))}\n\n".encode()
    assert data == expected + note


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_our_own_error(data: bytes) -> None:
    for parse in (
        lambda: notes.parse_proof(data, file="x"),
        lambda: notes.open_note(data, [KEY], file="x"),
        lambda: dsse.open_statement(data, [KEY], predicate_type="t", file="x"),
        lambda: parse_trust(data, pinned=True, file="x"),
    ):
        with pytest.raises(Invalid):
            parse()


# --- Canonical JSON -----------------------------------------------------------------------------
@given(plain_values)
def test_canonical_bytes_equal_those_of_the_rfc_8785_library(value: object) -> None:
    try:
        expected = rfc8785.dumps(value)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(ValueError):  # noqa: PT011 - UnicodeEncodeError among them
            canonical.dumps(value)
        return
    assert canonical.dumps(value) == expected
    assert canonical.loads(expected) == value


def test_the_sorting_sample_of_rfc_8785_section_3_2_3() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = list(json.loads(canonical.dumps(dict.fromkeys(names, 0))))
    assert ordered == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_the_string_sample_of_rfc_8785_section_3_2_2() -> None:
    value = {"string": '\u20ac$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical.dumps(value) == expected.encode()


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b"1.0",
        b"1e3",
        b"-0",
        b"NaN",
        b"Infinity",
        b"9007199254740992",
        b'"\\u0041"',
        b'"\\ud800"',
        b"\xff",
        b"",
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b"1" * 5000,
        b"{}\n",
    ],
)
def test_any_other_spelling_than_the_canonical_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        canonical.loads(data)


# --- Envelopes ----------------------------------------------------------------------------------
def test_the_pre_authentication_encoding_is_that_of_dsse() -> None:
    assert dsse.pae(b"{}") == b"DSSEv1 28 application/vnd.in-toto+json 2 {}"


def envelope() -> bytes:
    return dsse.sign_statement(
        subject=[{"name": "x", "digest": {"sha256": "00"}}],
        predicate_type="https://example.org/t",
        predicate={"a": "0.5"},
        name=ORIGIN,
        private=PRIVATE,
    )


def test_a_signed_statement_comes_back_as_it_was_signed() -> None:
    statement, key = dsse.open_statement(
        envelope(), [KEY], predicate_type="https://example.org/t", file="x"
    )
    assert statement["predicate"] == {"a": "0.5"}
    assert key == KEY


def test_no_flipped_bit_of_an_envelope_is_accepted() -> None:
    data = envelope()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Invalid):
            dsse.open_statement(
                bytes(changed), [KEY], predicate_type="https://example.org/t", file="x"
            )


def test_a_statement_of_another_type_or_key_is_refused() -> None:
    with pytest.raises(Invalid, match="another type"):
        dsse.open_statement(envelope(), [KEY], predicate_type="https://example.org/u", file="x")
    other = notes.note_key(ORIGIN, Ed25519PrivateKey.generate())
    with pytest.raises(Invalid, match="not trusted"):
        dsse.open_statement(envelope(), [other], predicate_type="https://example.org/t", file="x")


# --- Trust files --------------------------------------------------------------------------------
def test_a_trust_file_gives_keys_by_purpose_and_the_sizes_they_are_good_for() -> None:
    text = f"# keys\n\nlog {KEY.vkey} from=2 to=9\nattest {VKEY}\n"
    trust = parse_trust(text.encode(), pinned=True, file="x")
    assert trust.for_purpose("log") == [KEY]
    assert trust.check_size(notes.parse_vkey(VKEY), "attest", 7, file="x") == ""
    assert "retired" in trust.check_size(KEY, "log", 9, file="x")
    for size in (2, 10):
        with pytest.raises(Invalid, match="not trusted for a log"):
            trust.check_size(KEY, "log", size, file="x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"log {VKEY}\n",
        f"attest {VKEY}\n",
        f"sign {VKEY}\n",
        f"log {VKEY} from=x\nattest {VKEY}",
    ],
)
def test_a_trust_file_without_both_purposes_or_with_odd_lines_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_trust(text.encode(), pinned=True, file="x")
