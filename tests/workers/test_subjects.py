import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.json_values import json_values
from workers.subjects import SubjectError, read_subject, subject_from

GOOD = {
    "name": "A Work",
    "aliases": ["The Work"],
    "facts": [{"question": "Who wrote it?", "answer": "Nobody"}],
    "neighbours": [],
}
SHIPPED = sorted((Path(__file__).parents[2] / "workers" / "subject_files").glob("*.json"))


def test_a_written_subject_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "subject.json"
    file.write_text(json.dumps(GOOD))
    subject = read_subject(file)
    assert (subject.name, subject.aliases) == ("A Work", ("The Work",))
    assert [(fact.question, fact.answer) for fact in subject.facts] == [("Who wrote it?", "Nobody")]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"name": ""}',
        '{"name": 3}',
        '{"name": "A", "facts": [{}]}',
        "[" * 9000,
    ],
)
def test_a_malformed_file_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    file = tmp_path / "subject.json"
    file.write_text(content)
    with pytest.raises(SubjectError, match=r"subject\.json"):
        read_subject(file)


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="cannot be read"):
        read_subject(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SubjectError, match="not UTF-8"):
        read_subject(tmp_path / "binary.json")


CRAFTED = {
    "a key twice": b'{"name": "Anna Berger", "name": "Carl Holm"}',
    "no number": b'{"name": NaN}',
    "nested": b'{"name": ' + b"[" * 50_000,
    "many digits": b'{"name": ' + b"7" * 5000 + b"}",
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "half a surrogate pair": b'{"name": "Anna \\ud800 Berger"}',
    "a null character": b'{"name": "Anna\\u0000Berger"}',
    "an invisible name": b'{"name": "\\u200b\\u2060\\ufeff"}',
    "punctuation": b'{"name": "?!..."}',
    "a name of one letter": b'{"name": "A"}',
    "an alias of one letter": b'{"name": "Anna Berger", "aliases": ["B."]}',
    "a long name": json.dumps({"name": "x" * 3000}).encode(),
    "an empty fact": json.dumps({**GOOD, "facts": [{"question": " ", "answer": ""}]}).encode(),
    "a fact of nothing": json.dumps({**GOOD, "facts": [{}]}).encode(),
    "facts in a text": json.dumps({**GOOD, "facts": "none"}).encode(),
    "too many facts": json.dumps({**GOOD, "facts": [GOOD["facts"]] * 1001}).encode(),
    "too many aliases": json.dumps({**GOOD, "aliases": ["Anna"] * 1001}).encode(),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_and_never_quoted(tmp_path: Path, name: str) -> None:
    file = tmp_path / "subject.json"
    file.write_bytes(CRAFTED[name])
    with pytest.raises(SubjectError, match=r"subject\.json") as raised:
        read_subject(file)
    assert not any(word in str(raised.value) for word in ("Anna", "Berger", "Holm", "xxx", "777"))


def test_a_gigabyte_a_pipe_a_folder_and_a_link_are_refused_at_once(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(2**30)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "good").write_text(json.dumps(GOOD))
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert read_subject(tmp_path / "good").name == "A Work"
    for name in ("large", "pipe", "folder", "link"):
        with pytest.raises(SubjectError, match=f"{name} cannot be read"):
            read_subject(tmp_path / name)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_a_mutated_file_is_a_subject_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, new: bytes, place: int
) -> None:
    content = bytearray(json.dumps(GOOD).encode())
    content[place : place + len(new)] = new
    file = tmp_path_factory.mktemp("subject") / "subject.json"
    file.write_bytes(content)
    try:
        subject = read_subject(file)
    except SubjectError:
        return
    assert subject.name


def test_the_message_names_the_place_and_never_the_content() -> None:
    wrong = {**GOOD, "facts": [{"question": "Secret question?", "answer": 7}]}
    with pytest.raises(SubjectError, match=r'"facts"\[0\]\["answer"\]') as raised:
        subject_from(wrong)
    assert "Secret" not in str(raised.value)


JSON = json_values(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    st.sampled_from(["name", "aliases", "facts", "neighbours", "question", "answer"]),
    longest=3,
    most_keys=4,
)


@given(JSON)
def test_any_json_is_a_subject_or_our_error(described: object) -> None:
    try:
        name = subject_from(described).name
    except SubjectError:
        return
    assert name


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_subjects_have_enough_neighbours_to_mean_something(file: Path) -> None:
    subject = read_subject(file)
    assert len(subject.neighbours) >= 20
    assert {f.question for f in subject.facts}.isdisjoint(f.question for f in subject.neighbours)


def test_two_subjects_are_shipped() -> None:
    assert len(SHIPPED) == 2
