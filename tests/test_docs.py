"""The documents name places that exist."""

import re
from pathlib import Path

import pytest

from rtbf.stack import BASE_DIR

ROW = re.compile(r"`((?:requests_app|workers|rtbf|tests)/[\w/.]+\.py)(?::(\w+))?`")
DOCS = sorted(path.name for path in (BASE_DIR / "docs").glob("*.md"))


@pytest.mark.parametrize("name", DOCS)
def test_every_file_and_function_that_a_document_names_exists(name: str) -> None:
    for file, symbol in ROW.findall((BASE_DIR / "docs" / name).read_text()):
        path = BASE_DIR / file
        assert path.exists(), f"{name} names {file}"
        if symbol:
            assert re.search(rf"^(def|class) {symbol}\b", path.read_text(), re.M), (
                f"{file}:{symbol}"
            )


def test_each_row_of_the_legal_map_names_code_and_test() -> None:
    rows = [
        line
        for line in (BASE_DIR / "docs" / "legal-map.md").read_text().splitlines()
        if line.startswith("| ") and "---" not in line and "| rule |" not in line
    ]
    assert len(rows) > 10
    for row in rows:
        files = [file for file, _ in ROW.findall(row)]
        assert len(files) == 2, row
        assert files[1].startswith("tests/"), row


def test_every_setting_of_ours_is_in_the_operations_guide() -> None:
    settings = (BASE_DIR / "rtbf" / "settings.py").read_text()
    guide = (BASE_DIR / "docs" / "operations.md").read_text()
    names = set(re.findall(r'"(RTBF_[A-Z_]+|REDIS_URL|DATABASE_URL)"', settings))
    families = ("RTBF_CONTROLLER_", "RTBF_AUTHORITY_")
    missing = {n for n in names if n not in guide and not n.startswith(families)}
    assert missing == set()


def test_every_command_of_the_readme_is_a_target_of_the_makefile() -> None:
    readme = (BASE_DIR / "README.md").read_text()
    makefile = (BASE_DIR / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z][a-z0-9-]+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_no_python_file_unpickles() -> None:
    folders = ("rtbf", "requests_app", "workers", "benchmarks")
    paths = [p for folder in folders for p in (BASE_DIR / folder).rglob("*.py")]
    unpickling = r"^\s*(import|from) (pickle|shelve|dill|joblib)\b|(?<!safetensors\.)torch\.load\("
    imports = re.compile(unpickling, re.M)
    assert [str(p) for p in paths if imports.search(Path(p).read_text())] == []
