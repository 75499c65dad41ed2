"""Signed notes, checkpoints, proof files, envelopes and canonical JSON: vectors and round trips."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from requests_app.verifier import canonical, dsse, notes
from requests_app.verifier.errors import Invalid
from requests_app.verifier.notes import InclusionProof, TreeHead
from requests_app.verifier.trust import parse_trust
from tests.json_values import json_values

# The example of c2sp.org/signed-note.
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SIGNATURE = (
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
)
NOTE = f"This is an example message.\n\n— example.com/foo {SIGNATURE}\n".encode()
# A checkpoint of a public log (Certificate Transparency, staging) with cosignatures of others.
PUBLIC_NOTE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
""".encode()  # noqa: E501
PUBLIC_LOG = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
PUBLIC_WITNESS = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "rtbf.example/log/test"
KEY = notes.note_key(ORIGIN, PRIVATE)
HEAD = TreeHead(ORIGIN, 5, b"\x07" * 32)

plain_values = json_values(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    st.text(),
    longest=4,
    most_keys=4,
    max_leaves=12,
)


def checkpoint(head: TreeHead = HEAD) -> bytes:
    return notes.sign_note(notes.checkpoint_text(head), name=ORIGIN, private=PRIVATE)


def test_the_example_key_and_note_of_the_specification_verify() -> None:
    key = notes.parse_vkey(VKEY)
    assert (key.name, key.key_id.hex(), key.vkey) == ("example.com/foo", "530d903a", VKEY)
    assert notes.open_note(NOTE, [key], file="note") == ("This is an example message.\n", (key,))


def test_the_example_of_the_checkpoint_specification_is_read() -> None:
    """c2sp.org/tlog-checkpoint; it names no key, so the whole note is trusted by nobody."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    line = (
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
        "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    head = notes.parse_checkpoint(text, file="example")
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.root.hex().startswith("0ac5186a91863e8e")
    assert notes.checkpoint_text(head) == text
    with pytest.raises(Invalid, match="No trusted key"):
        notes.open_note(f"{text}\n{line}".encode(), [KEY], file="example")


def test_a_signed_checkpoint_comes_back_as_it_was_signed() -> None:
    assert notes.open_checkpoint(checkpoint(), [KEY], file="x") == (HEAD, (KEY,))


def test_lines_of_unknown_signers_are_passed_over_but_one_known_must_have_signed() -> None:
    stranger = notes.note_key("witness.example", Ed25519PrivateKey.generate())
    both = checkpoint() + b"\xe2\x80\x94 witness.example " + notes.encode(b"\x01" * 68).encode()
    assert notes.open_note(both + b"\n", [KEY], file="x")[1] == (KEY,)
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


# --- Cosignatures -------------------------------------------------------------------------------
WITNESS = notes.note_key("witness.example/w1", PRIVATE, kind=notes.COSIGNATURE)


def cosigned(at: int = 1679315147, head: TreeHead = HEAD) -> bytes:
    text = notes.checkpoint_text(head)
    line = notes.cosign(text, name=WITNESS.name, private=PRIVATE, at=at)
    return checkpoint(head) + line.encode()


def test_a_public_checkpoint_and_the_cosignature_of_a_public_witness_verify() -> None:
    log = notes.parse_vkey(PUBLIC_LOG)
    witness = notes.parse_vkey(PUBLIC_WITNESS, kind=notes.COSIGNATURE)
    assert (witness.vkey, witness.key_id.hex()) == (PUBLIC_WITNESS, "da77ade7")
    head, signers = notes.open_checkpoint(PUBLIC_NOTE, [log], file="note")
    assert (head.size, signers) == (1_432_088_532, (log,))
    (mark,) = notes.cosignatures(PUBLIC_NOTE, [witness], file="note")
    assert (mark.key, mark.at) == (witness, 0x6A122120)
    with pytest.raises(Invalid, match="cosignature of remora"):
        notes.cosignatures(PUBLIC_NOTE.replace(b"1432088532", b"1432088533"), [witness], file="x")


def test_a_cosignature_is_spelled_as_c2sp_specifies_it() -> None:
    """Key id and message recomputed here: SHA-256 over name and 0x04, time, then the whole text."""
    line = cosigned().decode().splitlines()[-1]
    dash, name, encoded = line.split(" ")
    material = base64.b64decode(encoded)
    public = PRIVATE.public_key().public_bytes_raw()
    assert (dash, name) == ("\u2014", "witness.example/w1")
    assert material[:4] == hashlib.sha256(b"witness.example/w1\n\x04" + public).digest()[:4]
    assert material[4:12] == (1679315147).to_bytes(8, "big")
    text = f"{ORIGIN}\n5\n{base64.b64encode(HEAD.root).decode()}\n"
    message = f"cosignature/v1\ntime 1679315147\n{text}".encode()
    PRIVATE.public_key().verify(material[12:], message)
    assert len(material) == 76


@given(st.integers(0, notes.LATEST), st.integers(0, 2**40), st.binary(min_size=32, max_size=32))
def test_a_cosignature_comes_back_as_it_was_given(at: int, size: int, root: bytes) -> None:
    note = cosigned(at, TreeHead(ORIGIN, size, root))
    assert notes.cosignatures(note, [WITNESS], file="x") == (notes.Cosignature(WITNESS, at),)
    assert notes.open_checkpoint(note, [KEY], file="x")[1] == (KEY,)


def test_cosignatures_of_others_are_passed_over_and_none_is_no_error() -> None:
    stranger = notes.note_key(WITNESS.name, Ed25519PrivateKey.generate(), kind=notes.COSIGNATURE)
    assert notes.cosignatures(cosigned(), [stranger], file="x") == ()
    assert notes.cosignatures(checkpoint(), [WITNESS], file="x") == ()


def test_no_flipped_bit_keeps_a_cosignature_of_a_pinned_witness() -> None:
    note = cosigned()
    for bit in range(len(note) * 8):
        changed = bytearray(note)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = notes.cosignatures(bytes(changed), [WITNESS], file="x")
        except Invalid:
            continue
        # Only where the line became that of somebody else, or the log's own line changed.
        if found:
            with pytest.raises(Invalid):
                notes.open_checkpoint(bytes(changed), [KEY], file="x")


def test_a_signature_of_one_type_is_none_of_the_other() -> None:
    """The log's key under type 4, and the witness's under type 1: other key ids, other messages."""
    text = notes.checkpoint_text(HEAD)
    as_witness = notes.note_key(ORIGIN, PRIVATE, kind=notes.COSIGNATURE)
    assert notes.cosignatures(checkpoint(), [as_witness], file="x") == ()
    plain = notes.signature_line(text, name=WITNESS.name, private=PRIVATE).encode()
    assert notes.cosignatures(checkpoint() + plain, [WITNESS], file="x") == ()
    for vkey, kind in ((WITNESS.vkey, notes.ED25519), (KEY.vkey, notes.COSIGNATURE)):
        with pytest.raises(Invalid, match="not an Ed25519 key of type"):
            notes.parse_vkey(vkey, kind=kind)


def test_a_time_that_no_clock_shows_is_refused() -> None:
    with pytest.raises(Invalid, match="does not fit"):
        notes.cosignatures(cosigned(at=notes.LATEST + 1), [WITNESS], file="x")


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
        lambda: notes.cosignatures(data, [WITNESS], file="x"),
        lambda: notes.parse_vkey(data.decode("latin-1")),
    ):
        with pytest.raises(Invalid):
            parse()


def decided(parse: Callable[[], object]) -> None:
    """Whatever it says, it is a result or our own error."""
    with contextlib.suppress(Invalid):
        parse()


@given(st.data())
def test_what_looks_almost_right_never_ends_in_another_error_than_ours(data: st.DataObject) -> None:
    note, text = cosigned(), f"log {KEY.vkey} from=1 to=9 revoked=5@2026-01-01T00:00:00Z\n"
    whole = text.encode() + f"attest {VKEY}\nwitness {WITNESS.vkey}\n".encode()
    for good, parse in (
        (note, lambda x: notes.cosignatures(x, [WITNESS], file="x")),
        (note, lambda x: notes.open_checkpoint(x, [KEY], file="x")),
        (whole, lambda x: parse_trust(x, pinned=True, file="x")),
    ):
        start = data.draw(st.integers(0, len(good)))
        end = data.draw(st.integers(start, min(len(good), start + 4)))
        changed = good[:start] + data.draw(st.binary(max_size=4)) + good[end:]
        decided(lambda parse=parse, changed=changed: parse(changed))


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


# From the test data that RFC 8785 appendix A refers to; its floats have no place in a log entry.
RFC_8785_SAMPLES = {
    "arrays": ('[56,{"d":true,"10":null,"1":[ ]}]', '[56,{"1":[],"10":null,"d":true}]'),
    "french": (
        '{"peach":"This sorting order","péché":"is wrong according to French",'
        '"pêche":"but canonicalization MUST","sin":"ignore locale"}',
        '{"peach":"This sorting order","péché":"is wrong according to French",'
        '"pêche":"but canonicalization MUST","sin":"ignore locale"}',
    ),
    "structures": (
        '{"1":{"f":{"f":"hi","F":5},"\\n":56},"10":{},"":"empty","a":{},'
        '"111":[{"e":"yes","E":"no"}],"A":{}}',
        '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],'
        '"A":{},"a":{}}',
    ),
    "unicode": (
        '{"Unnormalized Unicode":"A\\u030a"}', '{"Unnormalized Unicode":"A\u030a"}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RFC_8785_SAMPLES)
def test_the_samples_of_rfc_8785(name: str) -> None:
    given_text, expected = RFC_8785_SAMPLES[name]
    assert canonical.dumps(json.loads(given_text)) == expected.encode()


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


def test_the_pre_authentication_encoding_of_the_specification(monkeypatch) -> None:
    monkeypatch.setattr(dsse, "PAYLOAD_TYPE", "http://example.com/HelloWorld")
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae(b"hello world") == expected


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
    assert trust.check_size([notes.parse_vkey(VKEY)], "attest", 7, file="x") == ""
    assert "retired" in trust.check_size([KEY], "log", 9, file="x")
    for size in (2, 10):
        with pytest.raises(Invalid, match="not trusted for a log"):
            trust.check_size([KEY], "log", size, file="x")


def test_a_revoked_key_counts_above_the_size_only_where_a_witness_was_earlier() -> None:
    text = f"log {KEY.vkey} from=2 to=9 revoked=5@2026-01-01T00:00:00Z\nattest {VKEY}\n"
    trust = parse_trust(text.encode(), pinned=True, file="x")
    revoked_at = 1_767_225_600
    assert "revoked for log sizes above 5" in trust.check_size([KEY], "log", 5, file="x")
    for marks, counts in (
        ((), False),
        ((notes.Cosignature(WITNESS, revoked_at),), False),
        ((notes.Cosignature(WITNESS, revoked_at - 1),), True),
    ):
        if counts:
            warning = trust.check_size([KEY], "log", 6, cosigned=marks, file="x")
            assert "before the revocation" in warning
        else:
            with pytest.raises(Invalid, match="not trusted for a log"):
                trust.check_size([KEY], "log", 6, cosigned=marks, file="x")
    early = (notes.Cosignature(WITNESS, 1),)
    with pytest.raises(Invalid, match="not trusted for a log"):  # beyond its retirement as well
        trust.check_size([KEY], "log", 10, cosigned=early, file="x")


def test_of_several_signers_the_one_in_use_is_what_counts() -> None:
    new = notes.note_key(ORIGIN, Ed25519PrivateKey.generate())
    text = f"log {KEY.vkey} to=9\nlog {new.vkey} from=9\nattest {VKEY}\n"
    trust = parse_trust(text.encode(), pinned=True, file="x")
    for signers in ([KEY, new], [new, KEY]):
        assert trust.check_size(signers, "log", 10, file="x") == ""
        assert "retired" in trust.check_size(signers, "log", 9, file="x")


def test_witnesses_are_trusted_for_cosignatures_alone() -> None:
    text = f"log {KEY.vkey}\nattest {VKEY}\nwitness {WITNESS.vkey}\n"
    trust = parse_trust(text.encode(), pinned=True, file="x")
    assert trust.for_purpose("witness") == [WITNESS]
    assert WITNESS not in trust.for_purpose("log")


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"log {VKEY}\n",
        f"attest {VKEY}\n",
        f"sign {VKEY}\n",
        f"log {VKEY} from=x\nattest {VKEY}",
        f"log {VKEY} from=\u0665\nattest {VKEY}",
        f"log {VKEY} revoked=5\nattest {VKEY}",
        f"log {VKEY} revoked=5@2026-13-01T00:00:00Z\nattest {VKEY}",
        f"log {VKEY} revoked=5@2026-01-01\nattest {VKEY}",
        f"log {VKEY}\nattest {VKEY}\nwitness {VKEY}",
        f"log {WITNESS.vkey}\nattest {VKEY}",
        f"log {VKEY}\nattest {VKEY}\nwitness {WITNESS.vkey} from=1",
    ],
)
def test_a_trust_file_without_both_purposes_or_with_odd_lines_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_trust(text.encode(), pinned=True, file="x")
