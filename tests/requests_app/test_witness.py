"""The witness: one history of each log, whoever asks, over HTTP and after a restart."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import requests_app
from requests_app import witness as witnesses
from requests_app.verifier import merkle, notes
from requests_app.verifier.errors import Invalid
from requests_app.witness import Answer, Request, Witness, add_checkpoint, open_witness
from tests.requests_app.trees import Tree

ORIGIN, NAME = "rtbf.example/log/test", "witness.example/w1"
LOG = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_VKEY = notes.note_key(ORIGIN, LOG).vkey
TREE = Tree([merkle.leaf_hash(b"entry %d" % number) for number in range(40)])
FORK = Tree([merkle.leaf_hash(b"other %d" % number) for number in range(40)])


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return open_witness(tmp_path / "witness", name=NAME, logs=[LOG_VKEY])


def note(
    size: int,
    *,
    tree: Tree = TREE,
    origin: str = ORIGIN,
    private: Ed25519PrivateKey = LOG,
) -> bytes:
    head = notes.TreeHead(origin, size, tree.root(size))
    return notes.sign_note(notes.checkpoint_text(head), name=origin, private=private)


def request(old: int, size: int, *, tree: Tree = TREE) -> bytes:
    proof = tuple(tree.consistency(old, size)) if old <= size else ()
    return witnesses.write_request(Request(old=old, proof=proof, note=note(size, tree=tree)))


def cosigned(witness: Witness, body: bytes, answer: str) -> notes.Cosignature:
    """The one cosignature of an answer, checked as a client does it."""
    key = notes.parse_vkey(witness.vkey, kind=notes.COSIGNATURE)
    signed = body.partition(b"\n\n")[2] + answer.encode()
    (mark,) = notes.cosignatures(signed, [key], file="answer")
    return mark


# --- What it answers ----------------------------------------------------------------------------
def test_a_log_that_only_grows_is_cosigned_at_each_size(witness: Witness) -> None:
    for old, size in ((0, 7), (7, 7), (7, 8), (8, 31), (31, 40)):
        body = request(old, size)
        answer = add_checkpoint(witness, body)
        assert answer.status == 200
        cosigned(witness, body, answer.body)
        assert witnesses.read_state(witness.folder, ORIGIN) == notes.TreeHead(
            ORIGIN, size, TREE.root(size)
        )


def test_the_empty_log_is_a_log_too(witness: Witness) -> None:
    assert add_checkpoint(witness, request(0, 0)).status == 200
    assert add_checkpoint(witness, request(0, 3)).status == 200


def test_who_does_not_know_the_last_size_is_told(witness: Witness) -> None:
    add_checkpoint(witness, request(0, 7))
    for body in (request(0, 12), request(5, 12), request(8, 12)):
        assert add_checkpoint(witness, body) == Answer(409, "7\n", "text/x.tlog.size")


def refused(witness: Witness) -> list[dict[str, str]]:
    folder = witness.folder / "refused"
    return [json.loads(path.read_text()) for path in folder.iterdir()] if folder.exists() else []


def test_a_fork_of_a_larger_size_is_refused_and_kept(witness: Witness) -> None:
    add_checkpoint(witness, request(0, 7))
    body = request(7, 12, tree=FORK)
    answer = add_checkpoint(witness, body)
    assert answer.status == 422
    assert answer.kept is not None
    assert refused(witness) == [{"seen": note(7).decode(), "refused": body.decode()}]
    assert add_checkpoint(witness, request(7, 12)).status == 200


@pytest.mark.parametrize("old", [0, 7])
def test_another_root_for_the_same_size_is_refused_and_kept(witness: Witness, old: int) -> None:
    add_checkpoint(witness, request(0, 7))
    answer = add_checkpoint(witness, request(old, 7, tree=FORK))
    assert (answer.status, answer.body) == (409, "7\n")
    (evidence,) = refused(witness)
    both = [evidence["seen"], evidence["refused"].partition("\n\n")[2]]
    key = notes.parse_vkey(LOG_VKEY)
    heads = [notes.open_checkpoint(each.encode(), [key], file="x")[0] for each in both]
    assert heads[0].size == heads[1].size  # one key, one size, two roots: the proof of a fork
    assert heads[0].root != heads[1].root


def test_the_same_refused_request_is_kept_once_and_not_without_end(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnesses, "MOST_REFUSED", 2)
    add_checkpoint(witness, request(0, 7))
    for size in (9, 9, 10, 11):
        assert add_checkpoint(witness, request(7, size, tree=FORK)).status == 422
    assert len(refused(witness)) == 2


def test_a_proof_that_is_missing_damaged_or_too_long_is_not_cosigned(witness: Witness) -> None:
    add_checkpoint(witness, request(0, 7))
    path = tuple(TREE.consistency(7, 12))
    for proof in ((), path[:-1], (*path, bytes(32)), (bytes(32), *path[1:])):
        body = witnesses.write_request(Request(old=7, proof=proof, note=note(12)))
        assert add_checkpoint(witness, body).status == 422
    assert witnesses.read_state(witness.folder, ORIGIN).size == 7


def test_strangers_are_turned_away(witness: Witness) -> None:
    def status(signed: bytes, old: int = 0) -> int:
        body = witnesses.write_request(Request(old=old, proof=(), note=signed))
        return add_checkpoint(witness, body).status

    assert status(note(7, origin="elsewhere.example")) == 404
    assert status(note(7, private=Ed25519PrivateKey.generate())) == 403
    assert status(note(7), old=8) == 400
    assert not refused(witness)


def test_where_the_logs_key_changes_over_either_key_is_enough(tmp_path: Path) -> None:
    new = Ed25519PrivateKey.generate()
    both = (
        note(7)
        + notes.signature_line(
            notes.read_note(note(7), file="")[0], name=ORIGIN, private=new
        ).encode()
    )
    body = witnesses.write_request(Request(old=0, proof=(), note=both))
    for vkeys in ([LOG_VKEY], [notes.note_key(ORIGIN, new).vkey]):
        knows = open_witness(tmp_path / vkeys[0][-6:].replace("/", "_"), name=NAME, logs=vkeys)
        assert add_checkpoint(knows, body).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 0\n",
        b"new 0\n\n" + note(3),
        b"old 00\n\n" + note(3),
        b"old -1\n\n" + note(3),
        b"old 0\nAAAA\n\n" + note(3),
        b"old 0\n\xff\n\n" + note(3),
        b"old 0\n" + (notes.encode(bytes(32)) + "\n").encode() * 64 + b"\n" + note(3),
        b"old 0\n\n" + note(3)[:-1],
        b"old 0\n\n" + note(3).partition(b"\n\n")[0],
        b"old 0\n\n" + note(3).replace(b"\n3\n", b"\n+3\n"),
    ],
)
def test_a_malformed_request_is_one(witness: Witness, body: bytes) -> None:
    assert add_checkpoint(witness, body).status == 400


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: b"old 0\n\n" + tail))
def test_any_bytes_are_parsed_or_refused_with_our_own_error(data: bytes) -> None:
    try:
        parsed = witnesses.parse_request(data)
    except Invalid:
        return
    assert witnesses.write_request(parsed) == data


@given(
    st.integers(0, 2**62),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.integers(0, 40),
)
def test_a_request_comes_back_as_it_was_written(old: int, proof: list[bytes], size: int) -> None:
    written = Request(old=old, proof=tuple(proof), note=note(size))
    assert witnesses.parse_request(witnesses.write_request(written)) == written


# --- State --------------------------------------------------------------------------------------
def test_after_a_restart_it_has_the_same_key_and_the_same_memory(witness: Witness) -> None:
    add_checkpoint(witness, request(0, 7))
    again = open_witness(witness.folder, name=NAME, logs=[LOG_VKEY])
    assert again.vkey == witness.vkey
    assert add_checkpoint(again, request(0, 12)).body == "7\n"
    assert add_checkpoint(again, request(7, 12, tree=FORK)).status == 422
    assert add_checkpoint(again, request(7, 12)).status == 200


def test_the_state_is_on_disk_before_the_cosignature_exists(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "cosign", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        add_checkpoint(witness, request(0, 7))
    assert witnesses.read_state(witness.folder, ORIGIN).size == 7


def test_with_a_damaged_state_nothing_is_cosigned(witness: Witness) -> None:
    add_checkpoint(witness, request(0, 7))
    (state,) = witness.folder.glob("*.checkpoint")
    state.write_bytes(state.read_bytes()[:20])
    assert add_checkpoint(witness, request(0, 7)).status == 500


def test_its_key_is_for_itself_alone(witness: Witness) -> None:
    assert (witness.folder / "witness.pem").stat().st_mode & 0o777 == 0o600


# --- Over HTTP ----------------------------------------------------------------------------------
@contextmanager
def served(witness: Witness) -> Iterator[str]:
    with witnesses.make_server(witness, ("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def post(url: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{url}/add-checkpoint", content=body, trust_env=False)


def test_the_http_interface_answers_as_the_specification_says(witness: Witness, capfd) -> None:
    with served(witness) as url:
        body = request(0, 7)
        cosigned(witness, body, post(url, body).text)
        conflict = post(url, request(0, 9))
        assert (conflict.status_code, conflict.text) == (409, "7\n")
        assert conflict.headers["Content-Type"] == "text/x.tlog.size"
        assert post(url, request(7, 9, tree=FORK)).status_code == 422
        assert "REFUSED" in capfd.readouterr().err
        assert post(url, b"\xff" * 100).status_code == 400
        assert post(url, b"x" * (witnesses.LARGEST_REQUEST + 1)).status_code == 400
        assert httpx.post(f"{url}/else", content=body, trust_env=False).status_code == 404
        assert httpx.get(url, trust_env=False).status_code == 501


def test_requests_at_the_same_time_never_lead_to_two_histories(witness: Witness) -> None:
    """From one size many successors, half of them of a fork: exactly one wins, of either."""
    add_checkpoint(witness, request(0, 0))
    found: list[tuple[int, bytes]] = []
    start = threading.Barrier(8)

    def ask(url: str, tree: Tree, size: int) -> None:
        body = request(0, size, tree=tree)
        start.wait()
        answer = post(url, body)
        found.append((answer.status_code, tree.root(size)))

    with served(witness) as url:
        threads = [
            threading.Thread(target=ask, args=(url, tree, size))
            for tree in (TREE, FORK)
            for size in (11, 12, 13, 14)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    won = [root for status, root in found if status == 200]
    assert len(won) == 1
    assert witnesses.read_state(witness.folder, ORIGIN).root == won[0]


def test_the_program_needs_only_its_file_the_verifier_and_cryptography(tmp_path: Path) -> None:
    package = Path(requests_app.__file__).parent
    alone = tmp_path / "alone" / "requests_app"
    shutil.copytree(
        package / "verifier", alone / "verifier", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("__init__.py", "witness.py"):
        shutil.copy(package / name, alone / name)
    command = ["--name", NAME, "--folder", str(tmp_path / "state"), "--log", LOG_VKEY]
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "requests_app.witness", *command, *more],
            cwd=tmp_path / "alone",
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with run("--port", "0") as process:
        assert process.stdout is not None
        vkey = process.stdout.readline().split()[1]
        with run("--port", "0") as second:
            assert second.wait() == 2
        process.terminate()
    kept = open_witness(tmp_path / "state", name=NAME, logs=[LOG_VKEY])
    assert kept.vkey == vkey


@pytest.mark.parametrize(
    ("name", "vkey"), [("has a space", LOG_VKEY), (NAME, "no-key"), (NAME, LOG_VKEY + "A")]
)
def test_a_bad_name_or_log_key_ends_with_a_sentence(
    name: str, vkey: str, tmp_path: Path, capsys
) -> None:
    arguments = ["--name", name, "--folder", str(tmp_path / "state"), "--log", vkey]
    assert witnesses.main(arguments) == 2
    assert capsys.readouterr().err.strip()


def test_garbage_in_the_key_file_ends_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "witness.pem").write_bytes(b"no key")
    with pytest.raises(ValueError, match=r"."):
        open_witness(tmp_path, name=NAME, logs=[LOG_VKEY])
