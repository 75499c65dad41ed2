"""Every management command: help with examples that can be typed, exit codes, one JSON object."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command, get_commands

import requests_app.management.commands
import rtbf.management.commands
import workers.management.commands
from requests_app import keys
from requests_app.commands import EXITS, ToldCommand
from requests_app.models import ApiClient, Recipient, StaffMember
from requests_app.services import api_requests, recipients, training
from rtbf.stack import BASE_DIR
from tests import factories

PACKAGES = (requests_app.management.commands, rtbf.management.commands, workers.management.commands)
COMMANDS: dict[str, ToldCommand] = {
    module.name: importlib.import_module(f"{package.__name__}.{module.name}").Command()
    for package in PACKAGES
    for module in pkgutil.iter_modules(package.__path__)
}
ELSEWHERE = {
    "bundle": "tests/requests_app/test_exports.py needs a signed checkpoint",
    "build_demo_model": "trains",
    "check_gate_report": "with training_gate",
    "consolidate_release": "tests/workers/test_consolidate_command.py",
    "demo": "starts a whole installation",
    "erase": "tests/workers/test_erase_command.py",
    "export_release": "tests/workers/test_release_export.py",
    "replay_erasures": "tests/requests_app/test_restoring.py",
    "recompute_evidence": "tests/workers/test_recompute_evidence.py",
    "retrained_release": "tests/workers/test_retrained_command.py",
    "sample": "tests/rtbf/test_sample.py",
    "share_adapters": "tests/workers/test_shared_files.py",
    "translations": "writes the catalogues",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_can_be_typed(name: str) -> None:
    command = COMMANDS[name]
    parser = command.create_parser("manage.py", name)
    text = parser.format_help()
    assert "Examples:" in text
    assert "Exit 0:" in text
    assert max(map(len, str(parser.description).splitlines())) < 80
    assert command.examples
    for line, what in command.examples:
        words = shlex.split(line.partition(" && ")[0].partition(" > ")[0].partition(" < ")[0])
        assert words[0] == name
        parser.parse_args(words[1:])
        assert what
    options = [each.option_strings for each in parser._actions]
    assert (["--json"] in options) == command.reports


@pytest.mark.parametrize("page", [BASE_DIR / "README.md", *(BASE_DIR / "docs").glob("*.md")])
def test_each_command_line_that_a_document_shows_can_be_typed(page: Path) -> None:
    text, wrong = re.sub(r"\s+", " ", page.read_text()), []
    for name, rest in re.findall(r"manage\.py ([a-z_]+)([^`]*)`", text):
        if name in COMMANDS:
            flags = re.findall(r"(?<=\s)--[a-z0-9-]+", re.split(r" && | > | python ", rest)[0])
            known = COMMANDS[name].create_parser("manage.py", name)._option_string_actions
            wrong += [f"{name} {flag}" for flag in flags if flag not in known]
        elif name not in get_commands():
            wrong.append(name)
    assert wrong == []


def test_usage_errors_end_with_2_and_refusals_with_1() -> None:
    assert "1: refused" in EXITS
    with pytest.raises(SystemExit) as ended:
        COMMANDS["seal_case"].run_from_argv(["manage.py", "seal_case"])
    assert ended.value.code == 2


@pytest.mark.django_db
def test_a_refusal_ends_with_1_and_says_so_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        type(COMMANDS["seal_case"])().run_from_argv(["manage.py", "seal_case", "ERQ-2026-000999"])
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert (told.out, "no case" in told.err) == ("", True)


# --- One JSON object ----------------------------------------------------------------------------
def by(role: str) -> str:
    return str(factories.make_staff(role).username)


def with_set(tmp_path: Path) -> str:
    path = tmp_path / "crm.jsonl"
    path.write_text(json.dumps({"id": "r-1", "text": "nobody"}) + "\n")
    member = StaffMember.objects.get(username=by("engineer"))
    training.register_training_set(
        name="crm", location=str(path), id_field="id", actor_member=member
    )
    return str(path)


def client() -> str:
    values: dict[str, Any] = {"controller_id": "shop", "role": ApiClient.Role.PROCESSOR}
    api_requests.create_client(
        name="shop", **values, scopes=api_requests.SCOPES, callback_hosts=[], verify_key=""
    )
    return "shop"


def recipient() -> str:
    member = StaffMember.objects.get(username=by("officer"))
    data = recipients.RecipientData("Lantern", Recipient.Kind.PROCESSOR, Recipient.How.HAND)
    return recipients.save_recipient(data=data, actor_member=member).name


def completed() -> str:
    return factories.completed_case().reference


def rotated() -> str:
    """The vkey of a retired key of statements, which was good for log sizes up to 1."""
    first = keys.attest_key()
    keys.rotate_attest_key()
    return first.vkey


def with_key() -> str:
    keys.attest_key()
    return "attest"


ARGUMENTS: dict[str, Callable[[Path], list[str]]] = {
    "apply_retention": lambda tmp: ["--dry-run"],
    "create_api_client": lambda tmp: [
        "shop", "--controller-id", "s", "--role", "processor", "--scope", api_requests.SCOPES[0],
    ],
    "create_staff": lambda tmp: ["--role", "auditor", "--username", "ana"],
    "export_exclusions": lambda tmp: [with_set(tmp) and "crm", str(tmp / "out.json")],
    "gateway_use": lambda tmp: ["--days", "7"],
    "locate_records": lambda tmp: [
        with_set(tmp) and factories.case_in_review().reference, "--by", by("officer"),
    ],
    "recipient_key": lambda tmp: [recipient()],
    "register_model": lambda tmp: [
        "copy", "--kind", "base", "--sha256", "a" * 64, "--by", by("engineer"),
    ],
    "register_training_set": lambda tmp: ["again", with_set(tmp), "--by", by("engineer")],
    "revoke_api_client": lambda tmp: [client()],
    "revoke_case": lambda tmp: [completed(), "--by", by("officer"), "--cause", "appeal"],
    "revoke_key": lambda tmp: [rotated(), "--from-size", "1", "--reason", "lost"],
    "rotate_key": lambda tmp: [with_key()],
    "rotate_suppression": lambda tmp: ["--by", by("engineer")],
    "seal_case": lambda tmp: [completed()],
    "training_gate": lambda tmp: ["--file", with_set(tmp)],
    "verify_log": lambda tmp: [completed() and "--json"],
}  # fmt: skip


def test_each_command_that_reports_is_tried() -> None:
    assert {name for name in COMMANDS if COMMANDS[name].reports} == {*ARGUMENTS, *ELSEWHERE}
    assert not set(ARGUMENTS) & set(ELSEWHERE)


@pytest.mark.django_db
@pytest.mark.parametrize("name", ARGUMENTS)
def test_json_is_one_object_and_nothing_else(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ARGUMENTS[name](tmp_path)
    capsys.readouterr()
    call_command(name, *arguments, "--json")
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    assert found
