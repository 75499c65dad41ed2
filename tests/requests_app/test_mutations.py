"""Changed bundles by the thousand, drawn with a fixed seed: each refused, none crashes it.

A kind of change is a function of a random source and a bundle; `COUNTS` says how many of each are
tried, and `test_the_walk_is_as_long_as_it_says` how many in all.
"""

import json
import random
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from requests_app.keys import SigningKey
from requests_app.verifier import archive, canonical, dsse, merkle, notes, statements
from requests_app.verifier.checks import verify
from requests_app.verifier.errors import Invalid
from tests.requests_app.bundles import (
    Files,
    Made,
    forge,
    made_bundle,
    operator_bundle,
    statement_of,
)

pytestmark = pytest.mark.django_db

SEED = 20261
Source = random.Random
Change = Callable[[Source, Made], bytes]


# --- Bytes of the archive -----------------------------------------------------------------------
def bit_flipped(source: Source, made: Made) -> bytes:
    changed = bytearray(made.bundle)
    changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def metadata_flipped(source: Source, made: Made) -> bytes:
    """One bit of a header, of the central directory or of the end record."""
    heads = [m.start() for m in re.finditer(rb"PK\x03\x04", made.bundle)]
    central = made.bundle.index(b"PK\x01\x02")
    places = [*(head + i for head in heads for i in range(30)), *range(central, len(made.bundle))]
    changed = bytearray(made.bundle)
    changed[source.choice(places)] ^= 1 << source.randrange(8)
    return bytes(changed)


def cut(source: Source, made: Made) -> bytes:
    return made.bundle[: source.randrange(len(made.bundle))]


def spliced(source: Source, made: Made) -> bytes:
    """Some bytes left out, put in, or said twice."""
    data = made.bundle
    start = source.randrange(len(data))
    end = min(len(data), start + 1 + source.randrange(200))
    put = source.choice([b"", data[start:end] * 2, source.randbytes(end - start)])
    return data[:start] + put + data[end:]


def surrounded(source: Source, made: Made) -> bytes:
    extra = source.choice([b"\x00", b"PK\x05\x06" + bytes(18), source.randbytes(30), made.bundle])
    return extra + made.bundle if source.random() < 0.5 else made.bundle + extra


# --- Members, with good checksums ---------------------------------------------------------------
def member_flipped(source: Source, made: Made) -> bytes:
    name = source.choice(sorted(made.files))
    changed = bytearray(made.files[name])
    changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return archive.write_archive({**made.files, name: bytes(changed)})


def member_resized(source: Source, made: Made) -> bytes:
    name = source.choice(sorted(made.files))
    data = made.files[name]
    changed = source.choice(
        [b"", data[:-1], data + b"\n", data * 2, b"\xef\xbb\xbf" + data, data + bytes(100_000)]
    )
    return archive.write_archive({**made.files, name: changed})


def member_dropped(source: Source, made: Made) -> bytes:
    gone = set(source.sample(sorted(made.files), 1 + source.randrange(3)))
    return archive.write_archive({n: data for n, data in made.files.items() if n not in gone})


def member_added(source: Source, made: Made) -> bytes:
    count = statement_of(made.files)["predicate"]["events"]
    name = source.choice(
        [
            f"events/{count + source.randrange(9):04d}.json",
            f"extra-{source.randrange(10**6)}.txt",
            f"eval/{source.randrange(10**6)}/metrics.json",
            "annex.sealed",
            "0",
        ]
    )
    return archive.write_archive({**made.files, name: source.randbytes(9)})


def members_swapped(source: Source, made: Made) -> bytes:
    one, other = source.sample(sorted(made.files), 2)
    while made.files[one] == made.files[other]:
        one, other = source.sample(sorted(made.files), 2)
    second = made.files[one] if source.random() < 0.5 else made.files[other]
    return archive.write_archive({**made.files, one: made.files[other], other: second})


# --- ZIP tricks ---------------------------------------------------------------------------------
def zipped(entries: list[tuple[str, bytes]], **about: Any) -> bytes:
    """An archive of our own form but for what `about` changes of the entry at `at`, or of the end.

    Keys: at, method, flags, extra, mode, comment, declared, offset, count, twice.
    """
    local, central = bytearray(), bytearray()
    for i, (name, content) in enumerate(entries):
        odd = about if i == about.get("at") else {}
        path, data = name.encode(), content
        if odd.get("method"):
            squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
            data = squeeze.compress(content) + squeeze.flush()
        extra, flags = odd.get("extra", b""), odd.get("flags", 0)
        size = odd.get("declared", len(content))
        head = (20, flags, odd.get("method", 0), 0, 0x21, zlib.crc32(content))
        sizes = (odd.get("declared", len(data)), size, len(path), len(extra))
        start = odd.get("offset", len(local))
        rest = (0, 0, 0, odd.get("mode", 0o100644) << 16, start)
        entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 3 << 8 | 20, *head, *sizes, *rest)
        central += (entry + path + extra) * (2 if odd.get("twice") else 1)
        local += struct.pack("<4s5H3L2H", b"PK\x03\x04", *head, *sizes) + path + extra + data
        if flags & 8:
            local += struct.pack("<4s3L", b"PK\x07\x08", zlib.crc32(content), len(data), size)
    count, comment = about.get("count", len(entries)), about.get("comment", b"")
    end = (0, 0, count, count, len(central), len(local), len(comment))
    return bytes(local + central) + struct.pack("<4s4H2LH", b"PK\x05\x06", *end) + comment


def zip_tricked(source: Source, made: Made) -> bytes:
    entries = sorted(made.files.items())
    at = source.randrange(len(entries))
    zip64 = struct.pack("<HHQQ", 1, 16, len(entries[at][1]), len(entries[at][1]))
    return zipped(
        entries,
        **source.choice(
            [
                {"at": at, "method": 8},
                {"at": at, "flags": 8},
                {"at": at, "flags": source.choice([1, 2, 64, 2048])},
                {"at": at, "extra": zip64},
                {"at": at, "extra": source.randbytes(4)},
                {"at": at, "mode": 0o120777},
                {"at": at, "mode": source.choice([0o040755, 0o104755, 0o100600])},
                {"at": at, "declared": source.choice([2**32 - 1, 2**31, 2**24, 0])},
                {"at": at, "offset": source.choice([1, 2**32 - 1, 0 if at else 7])},
                {"at": at, "twice": True},
                {"count": source.choice([0, 1, len(entries) + 1, 65535])},
                {"comment": source.randbytes(1 + source.randrange(40))},
            ]
        ),
    )


def entries_tricked(source: Source, made: Made) -> bytes:
    """Names that lead elsewhere, twice the same name, another order, an archive within."""
    entries = sorted(made.files.items())
    at = source.randrange(len(entries))
    name, data = entries[at]
    kind = source.randrange(6)
    if kind == 0:
        entries.insert(at, (name, source.choice([data, b"other"])))
    elif kind == 1:
        odd = ["/etc/passwd", f"../{name}", f"./{name}", f"a/../{name}", "C:\\x", "a//b", ".x", "é"]
        entries[at] = (source.choice([*odd, "", "x" * 300, f"{name}/", f"{name}\x00.txt"]), data)
    elif kind == 2:
        entries.append((f"zz/../{name}", data))
    elif kind == 3:
        other = (at + 1 + source.randrange(len(entries) - 1)) % len(entries)
        entries[at], entries[other] = entries[other], entries[at]
    elif kind == 4:
        entries[at] = (name, made.bundle)
    else:
        entries[at] = (name.upper(), data)
    return zipped(entries)


def rewritten_by_a_tool(source: Source, made: Made) -> bytes:
    target, method = BytesIO(), source.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    names = sorted(made.files)
    if source.random() < 0.5:
        source.shuffle(names)
    with zipfile.ZipFile(target, "w", method) as written:
        for name in names:
            about = zipfile.ZipInfo(name, (1980 + source.randrange(40), 1, 1, 0, 0, 0))
            written.writestr(about, made.files[name], method)
    return target.getvalue()


# --- JSON tricks, signed by whoever holds the attest key ----------------------------------------
def misspelled(source: Source, text: bytes) -> bytes:
    """The same or another JSON text that is not the canonical one."""
    key = re.search(rb'"(\w)(\w*)":', text)
    number = re.search(rb":(\d+)", text)
    name = key[1] + key[2] if key else b"x"
    tricks = [
        b"\xef\xbb\xbf" + text,
        text + b"\n",
        b" " + text,
        text.replace(b":", b": ", 1),
        text.replace(b",", b" ,", 1),
        text.decode().encode("utf-16"),
        text[:-1] + b',"' + name + b'":1}',
        b'{"' + name + b'":0,' + text[1:],
        text[:-1] + b',"zz":' + b"[" * 50 + b"]" * 50 + b"}",
        text[:-1] + b',"zz":' + b"[" * 5000 + b"]" * 5000 + b"}",
        text[:-1] + b',"zz":1.5}',
        text[:-1] + b',"zz":1e3}',
        text[:-1] + b',"zz":NaN}',
        text[:-1] + b',"zz":-0}',
        text[:-1] + b',"zz":' + b"9" * source.choice([17, 400, 5000]) + b"}",
        text[:-1] + b',"zz":"\\ud800"}',
        text[:-1] + b',"zz":"\xff"}',
        text[:-1] + b"",
        b"[" + text + b"]",
        b"null",
        b"",
    ]
    if key:
        tricks.append(text.replace(key[0], b'"\\u%04x%s":' % (ord(key[1]), key[2]), 1))
    if number:
        tricks += [text.replace(number[0], number[0] + tail, 1) for tail in (b".0", b"e0", b"0")]
    return source.choice([trick for trick in tricks if trick != text])


def statement_misspelled(source: Source, made: Made) -> bytes:
    """Signed as it stands: only its spelling speaks against it."""
    name = source.choice([statements.STATEMENT, "test-result.dsse.json"])
    payload = misspelled(source, canonical.dumps(statement_of(made.files, name)))
    envelope = canonical.dumps(
        {
            "payload": notes.encode(payload or b"x"),
            "payloadType": dsse.PAYLOAD_TYPE,
            "signatures": [
                {
                    "keyid": dsse.key_id(notes.note_key(made.attest.name, made.attest.private)),
                    "sig": notes.encode(made.attest.private.sign(dsse.pae(payload or b"x"))),
                }
            ],
        }
    )
    if name == statements.STATEMENT:
        return archive.write_archive({**made.files, name: envelope})
    return forge(made, {name: envelope})


def envelope_misspelled(source: Source, made: Made) -> bytes:
    name = statements.STATEMENT
    return archive.write_archive({**made.files, name: misspelled(source, made.files[name])})


def file_misspelled(source: Source, made: Made) -> bytes:
    names = [name for name in sorted(made.files) if name.endswith(".json")]
    checked = [name for name in names if not name.startswith(("schemas/", "statement"))]
    name = source.choice(checked)
    return forge(made, {name: misspelled(source, made.files[name])})


# --- Log tricks, signed by whoever holds the attest key -----------------------------------------
def proof_tricked(source: Source, made: Made) -> bytes:
    """Index, path or checkpoint of a proof."""
    names = sorted(name for name in made.files if name.endswith(".tlog-proof"))
    name = source.choice(names)
    proof = notes.parse_proof(made.files[name], file=name)
    path = list(proof.path)
    place = source.randrange(len(path))
    kind = source.randrange(6)
    if kind == 0:
        index = source.choice([0, proof.index + 1, proof.index ^ 1, 2**62, 10**18])
        proof = replace(proof, index=index if index != proof.index else proof.index + 2)
    elif kind == 1:
        path.insert(place, source.choice([bytes(32), path[place], merkle.EMPTY_ROOT]))
    elif kind == 2:
        del path[place:]
    elif kind == 3:
        path[place] = source.randbytes(32)
    elif kind == 4:
        note = source.choice([made.first_checkpoint, made.later_checkpoint])
        proof = replace(proof, note=note)
    else:
        path += [bytes(32)] * 5000
    return forge(made, {name: notes.proof_file(replace(proof, path=tuple(path)))})


def events_moved(source: Source, made: Made) -> bytes:
    """Entries in each other's places, with or without their proofs."""
    count = statement_of(made.files)["predicate"]["events"]
    one, other = source.sample(range(count), 2)
    files = [statements.event_file] if source.random() < 0.5 else []
    changes: Files = {}
    for name in files or [statements.event_file, statements.proof_name]:
        changes[name(one)] = made.files[name(other)]
        changes[name(other)] = made.files[name(one)]
    return forge(made, changes)


def case_cut_short(source: Source, made: Made) -> bytes:
    """Entries left out from the end, told or not told; the figures follow what is left."""
    count = statement_of(made.files)["predicate"]["events"]
    left = source.randrange(1, count - 1)
    gone = {
        f(i) for i in range(left, count) for f in (statements.event_file, statements.proof_name)
    }
    rest = replace(made, files={n: data for n, data in made.files.items() if n not in gone})
    head = merkle.leaf_hash(made.files[statements.event_file(left - 1)]).hex()
    told = source.random() < 0.7
    return forge(rest, {}, lambda p: p.update(events=left, caseHead=head) if told else None)


def head_tricked(source: Source, made: Made) -> bytes:
    """Another checkpoint: replayed, of another origin or size, by another key of the name."""
    log, size = made.log, source.choice([0, 1, 2, 10**6, 2**62])
    origin = source.choice([log.name, "elsewhere.example", log.name + "2", "r\u00f6ot"])
    signer = source.choice([log.private, _stranger(), made.attest.private])
    root = source.choice([merkle.EMPTY_ROOT, bytes(32), source.randbytes(32)])
    text = notes.checkpoint_text(notes.TreeHead(origin, size, root))
    own = notes.sign_note(text, name=source.choice([log.name, origin]), private=signer)
    note = source.choice(
        [own, own, made.first_checkpoint, made.later_checkpoint, b"", text.encode()]
    )
    changes = {statements.CHECKPOINT: note}
    for name, data in made.files.items():
        if name.endswith(".tlog-proof") and note == own:
            changes[name] = notes.proof_file(
                replace(notes.parse_proof(data, file=name), note=note, path=(), index=0)
            )
    stated = {"origin": origin, "size": min(size, 2**53 - 1), "root": notes.encode(root)}
    return forge(made, changes, lambda p: p.update(log=stated))


def consistency_tricked(source: Source, made: Made) -> bytes:
    value = json.loads(made.files[statements.CONSISTENCY])
    first, path = value["first"], value["path"]
    kind = source.randrange(6)
    if kind == 0:
        first["size"] = source.choice([-1, first["size"] + 1, 10**9, True, "1", None, 2**53 - 1])
    elif kind == 1:
        first["root"] = notes.encode(source.randbytes(source.choice([32, 31, 33])))
    elif kind == 2:
        path.insert(source.randrange(len(path) + 1), notes.encode(source.randbytes(32)))
    elif kind == 3:
        path.pop(source.randrange(len(path)))
    elif kind == 4:
        path[source.randrange(len(path))] = source.choice(["", "A", 7, None, "====", "AA=="])
    else:
        value = source.choice([[], {}, {"first": first}, {**value, "more": 1}, None])
    return forge(made, {statements.CONSISTENCY: canonical.dumps(value)})


def statement_tricked(source: Source, made: Made) -> bytes:
    """Some value anywhere in the signed predicate is another one, or gone."""
    predicate = statement_of(made.files)["predicate"]
    path = source.choice(_paths(predicate))
    odd = source.choice([-1, 2**53 - 1, "x", ["x"], {"x": 1}, "gone"])  # none of them is there

    def edit(stated: Any) -> None:
        for key in path[:-1]:
            stated = stated[key]
        if odd == "gone":
            del stated[path[-1]]
        else:
            stated[path[-1]] = odd

    return forge(made, {}, edit)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    found = [path for key, item in items for path in _paths(item, (*at, key))]
    return [at, *found] if at else found


# --- An attacker's own keys ---------------------------------------------------------------------
def _stranger() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"a stranger's key, not a secret!!")


def signed_by_strangers(source: Source, made: Made) -> bytes:
    """All consistent and all signed, with other keys of the same or of other names."""
    names = source.choice([(made.log.name, made.attest.name), ("evil.example", "evil.example/a")])
    log, attest = (SigningKey(name, _stranger()) for name in names)
    kind = source.randrange(3)
    stranger = replace(
        made, log=made.log if kind == 1 else log, attest=made.attest if kind == 2 else attest
    )
    return operator_bundle(stranger, lambda written: None)


COUNTS: dict[Change, int] = {
    bit_flipped: 1200,
    metadata_flipped: 900,
    cut: 100,
    spliced: 300,
    surrounded: 50,
    member_flipped: 900,
    member_resized: 200,
    member_dropped: 100,
    member_added: 60,
    members_swapped: 150,
    zip_tricked: 250,
    entries_tricked: 150,
    rewritten_by_a_tool: 40,
    statement_misspelled: 120,
    envelope_misspelled: 80,
    file_misspelled: 150,
    proof_tricked: 150,
    events_moved: 80,
    case_cut_short: 30,
    head_tricked: 100,
    consistency_tricked: 80,
    statement_tricked: 200,
    signed_by_strangers: 30,
}


@pytest.mark.parametrize("change", COUNTS, ids=lambda change: change.__name__)
def test_no_changed_bundle_is_accepted_and_none_crashes(change: Change) -> None:
    made = made_bundle()
    source = random.Random(f"{SEED}/{change.__name__}")  # noqa: S311
    for number in range(COUNTS[change]):
        data = change(source, made)
        assert data != made.bundle, number
        try:
            result = verify(data, trust=made.trust)
        except Invalid:
            continue
        # Short of its last entries a case may be shown, never without the warning.
        assert change is case_cut_short, number
        assert any("not closed" in warning for warning in result.warnings)


def test_the_walk_is_as_long_as_it_says() -> None:
    assert sum(COUNTS.values()) == 5420


def test_strangers_are_consistent_with_themselves_and_never_authenticated() -> None:
    """Their bundle is refused for its keys alone: without pinned trust it agrees with itself."""
    made = made_bundle()
    stranger = replace(
        made,
        log=SigningKey(made.log.name, _stranger()),
        attest=SigningKey(made.attest.name, _stranger()),
    )
    told = f"log {stranger.log.vkey}\nattest {stranger.attest.vkey}\n".encode()
    own = replace(stranger, files={**made.files, statements.TRUST: told})
    data = operator_bundle(own, lambda written: None)
    assert not verify(data).authenticated
    with pytest.raises(Invalid, match="not trusted"):
        verify(data, trust=made.trust)


def test_a_bundle_is_verified_in_less_than_half_a_second() -> None:
    made = made_bundle()
    started = time.perf_counter()
    verify(made.bundle, trust=made.trust)
    assert time.perf_counter() - started < 0.5
