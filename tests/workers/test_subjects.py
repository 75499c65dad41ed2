import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_the_message_names_the_place_and_never_the_content() -> None:
    wrong = {**GOOD, "facts": [{"question": "Secret question?", "answer": 7}]}
    with pytest.raises(SubjectError, match=r'"facts"\[0\]\["answer"\]') as raised:
        subject_from(wrong)
    assert "Secret" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "aliases", "facts", "neighbours", "question", "answer"]),
            inner,
            max_size=4,
        )
    ),
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
