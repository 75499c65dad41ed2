"""Each requirement is pinned and has its line in docs/dependencies.md; nothing else is imported."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rtbf.stack import BASE_DIR

FILES = sorted(path.name for path in BASE_DIR.glob("requirements*.txt"))
PAGE = (BASE_DIR / "docs" / "dependencies.md").read_text()
OURS = ("rtbf", "requests_app", "workers")
NAMED = {  # packages that are imported by another name than they are installed by
    "allauth": "django-allauth",
    "csp": "django-csp",
    "dj_database_url": "dj-database-url",
    "ninja": "django-ninja",
    "opentelemetry": "opentelemetry-sdk",
    "rfc3161_client": "rfc3161-client",
    "sentry_sdk": "sentry-sdk",
}
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(\[[a-z,0-9]+\])?==[0-9][0-9a-z.+]*( +#.*)?")


def requirements(name: str) -> list[str]:
    """Names of the packages a file asks for itself."""
    lines = [line.strip() for line in (BASE_DIR / name).read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith(("#", "-r "))]
    matches = [REQUIREMENT.fullmatch(line) for line in found]
    assert all(matches), f"{name} does not pin each line exactly: {found}"
    return [match[1] for match in matches if match]


def described() -> set[str]:
    """Names in the first column of the tables."""
    rows = re.findall(r"^\| ([^|]+) \|", PAGE, re.M)
    return {name.strip() for row in rows for name in row.split(",")} - {"package", "---"}


@pytest.mark.parametrize("name", FILES)
def test_each_requirement_is_pinned_and_described(name: str) -> None:
    assert set(requirements(name)) - described() == set()


def test_what_is_described_is_required() -> None:
    required = {each for name in FILES for each in requirements(name)}
    assert described() - required == set()


def test_the_product_imports_nothing_that_is_not_described() -> None:
    through = re.search(r"^Imported too[^:]*: (.*?)\n\n", PAGE, re.M | re.S)
    assert through
    known = {each.lower() for each in described()} | set(re.findall(r"(\w+) \(", through[1]))
    assert {each for each in imported() if NAMED.get(each, each).lower() not in known} == set()


def package(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "version": "1", "vulns": [], **more}


HOLE = {"id": "CVE-1", "fix_versions": ["2"]}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("", 3),  # no service
        ("[]", 3),
        (json.dumps({"dependencies": []}), 3),
        (json.dumps({"dependencies": [package("a", skip_reason="?") for _ in range(9)]}), 3),
        (json.dumps({"dependencies": [package("a"), package("b", skip_reason="ours")]}), 0),
        (json.dumps({"dependencies": [package("a"), package("b", vulns=[HOLE])]}), 1),
    ],
)
def test_an_audit_that_asked_nobody_is_not_taken_for_a_clean_one(answer: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, BASE_DIR / ".ci" / "audit_result.py", "osv"],
        input=answer, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("CVE-1" in done.stdout) is (code == 1)


def imported() -> Iterator[str]:
    for path in [path for folder in OURS for path in (BASE_DIR / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top not in OURS:
                    yield top
