"""Everything that a bundle signs or encloses has a schema, and real bundles are valid by them."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from requests_app.exports.bundle import SCHEMAS
from requests_app.verifier import archive, statements
from requests_app.verifier.figures import FORM
from tests import factories
from tests.requests_app import bundles, test_exports

pytestmark = pytest.mark.django_db

FILES = {
    "statement.dsse.json": "dsse-envelope.v1",
    "test-result.dsse.json": "dsse-envelope.v1",
    "consistency.json": "consistency.v1",
    "protocol.json": f"protocol.v{FORM}",
    "config.json": "config.v1",
    "metrics.json": "metrics.v1",
    "environment.json": "environment.v1",
}
PREDICATES = {
    statements.EVIDENCE_TYPE: "unlearning-evidence.v1",
    statements.TEST_RESULT_TYPE: "test-result.v0.1",
}


EXPORT = "evidence-export.v1"  # of the evidence JSON, which is no part of a bundle
NAMES = sorted({path.stem for path in SCHEMAS.glob("*.json")} - {EXPORT})


def checker(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def described(data: bytes) -> Iterator[tuple[str, Any]]:
    """Each JSON of a bundle with the name of its schema; what lies inside envelopes too."""
    for name, content in archive.read_archive(data).items():
        if not name.endswith(".json") or name.startswith("schemas/"):
            continue
        value = json.loads(content)
        base = name.rpartition("/")[2]
        yield "audit-entry.v1" if name.startswith("events/") else FILES[base], value
        if "payload" in value:
            statement = json.loads(base64.b64decode(value["payload"]))
            yield "in-toto-statement.v1", statement
            yield PREDICATES[statement["predicateType"]], statement["predicate"]


def check(data: bytes) -> set[str]:
    """The schemas that a bundle was found valid by."""
    used = set()
    for name, value in described(data):
        checker(name).validate(value)
        used.add(name)
    return used


@pytest.mark.parametrize("kind", test_exports.CASES)
def test_all_that_a_bundle_holds_is_as_its_schema_says(kind: str) -> None:
    used = check(bundles.export(test_exports.CASES[kind]()))
    assert {"dsse-envelope.v1", "unlearning-evidence.v1", "audit-entry.v1"} <= used
    if kind == "succeeded":
        assert used == set(NAMES)


def test_further_attempts_are_as_the_schema_says() -> None:
    case = factories.responding_case(verdict="not_met")
    check(bundles.export(case))


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_refuses_what_lacks_a_field_or_has_another_type(name: str) -> None:
    made = bundles.made_bundle()
    checked = checker(name)
    (value, *_) = [value for found, value in described(made.bundle) if found == name]
    for wrong in ([], None, "x", *([{}] if checked.schema.get("required") else ())):
        assert not checked.is_valid(wrong)
    for field in checked.schema.get("required", ()):
        assert not checked.is_valid({k: v for k, v in value.items() if k != field})
        assert not checked.is_valid({**value, field: {"an": ["odd", "thing"]}}) or field in (
            "data",
            "predicate",
        )
