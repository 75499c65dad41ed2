"""A witness: `python -m requests_app.witness --name w.example --folder state --log VKEY`.

For a second party, with a key and a state of its own. It cosigns only one history of each log: a
checkpoint counts if a consistency proof leads to it from the one it cosigned last. What it refuses
although the log has signed it, it keeps under `refused/`: two histories under one key are the proof
of a fork. Speaks c2sp.org/tlog-witness (add-checkpoint) and c2sp.org/tlog-cosignature (Ed25519);
TLS is the business of a proxy in front. Needs this file, the verifier and `cryptography`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from requests_app.verifier import merkle, notes
from requests_app.verifier.errors import Invalid
from requests_app.verifier.notes import NoteKey, TreeHead

LARGEST_REQUEST = 64 * 1024  # bytes; the longest proof has 63 lines of 45
MOST_HASHES = 63
MOST_REFUSED = 1000  # requests kept as evidence
SECONDS = 10  # a client may stay silent that long


@dataclass(frozen=True)
class Request:
    """Body of add-checkpoint: size it is proven from, consistency path, signed note."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes


@dataclass(frozen=True)
class Answer:
    """Status, body, and the file in which the request was kept as evidence, if it was."""

    status: int
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"
    kept: Path | None = None


@dataclass(frozen=True)
class Witness:
    """A witness at work: its name and key, its folder, and the keys of the logs it watches."""

    name: str
    private: Ed25519PrivateKey
    folder: Path
    logs: tuple[NoteKey, ...]
    lock: Lock = field(default_factory=Lock)

    @property
    def vkey(self) -> str:
        return notes.note_key(self.name, self.private, kind=notes.COSIGNATURE).vkey


def write_request(request: Request) -> bytes:
    lines = [f"old {request.old}", *map(notes.encode, request.proof), ""]
    return "\n".join(lines).encode() + b"\n" + request.note


def parse_request(body: bytes) -> Request:
    """Parts of an add-checkpoint body; Invalid unless spelled as specified. Nothing is verified."""
    head, separator, note = body.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Invalid("The request is not text.") from None
    word, _, number = lines[0].partition(" ")
    if not separator or word != "old" or len(lines) > MOST_HASHES + 1:
        raise Invalid("The request is not that of add-checkpoint.")
    proof = notes.hashes(lines[1:], file="")
    return Request(old=notes.number(number, file=""), proof=proof, note=note)


def add_checkpoint(witness: Witness, body: bytes) -> Answer:
    """Cosign the checkpoint of a request, or say why not, in the words of c2sp.org/tlog-witness.

    The state on disk is the new one before the cosignature exists.
    """
    try:
        request = parse_request(body)
        text, _ = notes.read_note(request.note, file="")
        head = notes.parse_checkpoint(text, file="")
    except Invalid as problem:
        return Answer(400, f"{problem}\n")
    keys = [key for key in witness.logs if key.name == head.origin]
    if not keys:
        return Answer(404, "This witness does not watch that log.\n")
    try:
        notes.open_checkpoint(request.note, keys, file="")
    except Invalid as problem:
        return Answer(403, f"{problem}\n")
    if request.old > head.size:
        return Answer(400, "The old size is larger than the checkpoint.\n")
    with witness.lock:
        return _judge(witness, request, text, head)


def _judge(witness: Witness, request: Request, text: str, head: TreeHead) -> Answer:
    """The answer to a request whose signature is good; alone at the witness's state."""
    try:
        seen = read_state(witness.folder, head.origin)
    except Invalid as problem:
        sys.stderr.write(f"{problem}\n")
        return Answer(500, "The state of the witness is damaged; it cosigns nothing.\n")
    if seen.size == head.size and seen.root != head.root:
        return _conflict(seen, kept=_keep(witness, request, seen))
    if request.old != seen.size:
        return _conflict(seen)
    try:
        merkle.verify_consistency(
            first=seen.size,
            second=head.size,
            path=request.proof,
            first_root=seen.root,
            second_root=head.root,
        )
    except merkle.ProofError as problem:
        return Answer(422, f"{problem}\n", kept=_keep(witness, request, seen))
    if head != seen:
        _write(_state_file(witness.folder, head.origin), request.note)
    line = notes.cosign(text, name=witness.name, private=witness.private, at=int(time.time()))
    return Answer(200, line)


def _conflict(seen: TreeHead, *, kept: Path | None = None) -> Answer:
    return Answer(409, f"{seen.size}\n", "text/x.tlog.size", kept)


# --- State --------------------------------------------------------------------------------------
def read_state(folder: Path, origin: str) -> TreeHead:
    """What was cosigned last of a log; the empty tree before the first. Invalid if damaged."""
    path = _state_file(folder, origin)
    if not path.exists():
        return TreeHead(origin=origin, size=0, root=merkle.EMPTY_ROOT)
    text, _ = notes.read_note(path.read_bytes(), file=str(path))
    head = notes.parse_checkpoint(text, file=str(path))
    if head.origin != origin:
        raise Invalid("The state is of another log.", file=str(path))
    return head


def _state_file(folder: Path, origin: str) -> Path:
    return folder / f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"


def _keep(witness: Witness, request: Request, seen: TreeHead) -> Path | None:
    """Keep what the log signed although it does not continue what was cosigned; its file."""
    folder = witness.folder / "refused"
    folder.mkdir(mode=0o700, exist_ok=True)
    evidence = {
        "seen": _state_file(witness.folder, seen.origin).read_text() if seen.size else "",
        "refused": write_request(request).decode(),
    }
    data = json.dumps(evidence, indent=1, ensure_ascii=False).encode()
    path = folder / f"{hashlib.sha256(data).hexdigest()}.json"
    if len(list(folder.iterdir())) < MOST_REFUSED:
        _write(path, data)
    return path if path.exists() else None


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step that survives a power cut."""
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Process ------------------------------------------------------------------------------------
def open_witness(folder: Path, *, name: str, logs: Sequence[str]) -> Witness:
    """The witness of a folder, with a key made on first use. Invalid for a bad log key.

    ValueError for a name that notes cannot carry or a damaged key file.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "witness.pem"
    if not path.exists():
        made = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        _write(path, made)
    private = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError(f"{path} holds a key of another kind; Ed25519 is needed.")
    keys = tuple(notes.parse_vkey(vkey, file="--log") for vkey in logs)
    notes.note_key(name, private)  # refuses the name now rather than at the first request
    return Witness(name=name, private=private, folder=folder, logs=keys)


def make_server(witness: Witness, address: tuple[str, int]) -> ThreadingHTTPServer:
    """An HTTP server for add-checkpoint; the caller starts and closes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SECONDS

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()) or int(length) > LARGEST_REQUEST:
                self.close_connection = True
                self._answer(Answer(400, "A request has a length, of at most 64 KiB.\n"))
                return
            body = self.rfile.read(int(length))
            if self.path.rstrip("/").rpartition("/")[2] != "add-checkpoint":
                self._answer(Answer(404, "Nothing is here but add-checkpoint.\n"))
                return
            self._answer(add_checkpoint(witness, body))

        def _answer(self, answer: Answer) -> None:
            if answer.kept is not None:
                sys.stderr.write(f"REFUSED what the log has signed; kept as {answer.kept}\n")
            data = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: what matters is printed where it happens."""

    return ThreadingHTTPServer(address, Handler)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="witness", description=__doc__.partition("\n")[0])
    parser.add_argument("--name", required=True, help="name of the key, e.g. witness.example/w1")
    parser.add_argument("--folder", type=Path, required=True, help="key and state; back it up")
    parser.add_argument(
        "--log", action="append", required=True, metavar="VKEY", help="log key; may be repeated"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8087)
    options = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        witness = open_witness(options.folder, name=options.name, logs=options.log)
    except (Invalid, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    with (options.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"Another witness is at work in {options.folder}.\n")
            return 2
        with make_server(witness, (options.host, options.port)) as server:
            sys.stdout.write(f"Witness {witness.vkey}\n")
            sys.stdout.flush()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
