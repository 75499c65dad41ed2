"""The settings of a public host: refused until it says in whose name it writes letters."""

import ast
import os
import re
import subprocess
import sys

import pytest

from rtbf.stack import BASE_DIR

CONTROLLER = {
    "RTBF_CONTROLLER_NAME": "Quill and Sons",
    "RTBF_CONTROLLER_EMAIL": "privacy@quill.example",
    "RTBF_AUTHORITY_NAME": "Data Protection Commission",
    "RTBF_BACKUP_DAYS": "14",
}
KEYS = {"RTBF_PRODUCTION": "1", "RTBF_SECRET_KEY": "x" * 50, "RTBF_GATE_KEY": "y" * 50}


def test_a_control_is_named_for_a_model_and_a_slip_is_said() -> None:
    assert read_settings({"RTBF_CONTROLS": "ours=/models/without, demo = x"}).returncode == 0
    told = read_settings({"RTBF_CONTROLS": "/models/without"})
    assert told.returncode == 1
    assert "Write RTBF_CONTROLS as key=value" in told.stderr


def read_settings(env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    code = "from rtbf import settings as s; print(s.EMAIL_BACKEND, s.DEFAULT_FROM_EMAIL)"
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RTBF_", "EMAIL_", "DJANGO_"))
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=BASE_DIR, env=outside | env, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("missing", CONTROLLER)
@pytest.mark.parametrize("value", [None, " "])
def test_a_public_host_signs_no_letter_as_the_example(missing: str, value: str | None) -> None:
    env = {**KEYS, **CONTROLLER}
    del env[missing]
    done = read_settings(env if value is None else env | {missing: value})
    assert done.returncode != 0
    assert f"ImproperlyConfigured: Set {missing}" in done.stderr


@pytest.mark.parametrize("secret", ["RTBF_SECRET_KEY", "RTBF_GATE_KEY"])
def test_a_public_host_makes_no_secret_of_its_own(secret: str) -> None:
    done = read_settings({**KEYS, **CONTROLLER, secret: ""})
    assert done.returncode != 0
    assert f"ImproperlyConfigured: Set {secret}" in done.stderr


def test_no_secret_has_a_default_that_production_could_use() -> None:
    """Of each setting whose name sounds like one, and of each in docker-compose.yml."""
    secret = re.compile(r"(KEY|KEYS|KEK|SECRET|PASSWORD|TOKEN|DSN)$")
    tree = ast.parse((BASE_DIR / "rtbf" / "settings.py").read_text())
    read = {
        call.args[0].value: [ast.literal_eval(each) for each in call.args[1:]]
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("env", "os.environ.get")
        and isinstance(call.args[0], ast.Constant)
        and secret.search(str(call.args[0].value))
    }
    assert {"RTBF_GATEWAY_KEY", "RTBF_METRICS_TOKEN", "EMAIL_HOST_PASSWORD"} <= read.keys()
    assert {name: given for name, given in read.items() if given not in ([""], [])} == {}
    compose = (BASE_DIR / "docker-compose.yml").read_text()
    named = re.findall(r"\$\{(\w+)([^}]*)\}", compose)
    assert {name for name, _ in named} >= {"RTBF_KEK", "POSTGRES_PASSWORD", "REDIS_PASSWORD"}
    assert [name for name, rest in named if not rest.startswith(":?")] == []


def test_a_public_host_shows_no_debug_pages() -> None:
    done = read_settings({**KEYS, **CONTROLLER, "RTBF_DEBUG": "1"})
    assert done.returncode != 0
    assert "ImproperlyConfigured: RTBF_DEBUG" in done.stderr


def test_a_public_host_mails_over_smtp_unless_told_otherwise() -> None:
    done = read_settings(KEYS | CONTROLLER)
    smtp = "django.core.mail.backends.smtp.EmailBackend privacy@quill.example"
    assert done.stdout.strip() == smtp, done.stderr
    other = "django.core.mail.backends.dummy.EmailBackend"
    done = read_settings(KEYS | CONTROLLER | {"EMAIL_BACKEND": other})
    assert done.stdout.split()[0] == other


def test_the_embedded_installation_starts_as_the_example_with_an_outbox() -> None:
    done = read_settings({"RTBF_SECRET_KEY": "x" * 50, "RTBF_GATE_KEY": "y" * 50})
    assert done.stdout.split()[0].endswith("outbox.EmailBackend"), done.stderr
