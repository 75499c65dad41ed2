"""The systemd units run the very commands of docker-compose.yml, hardened alike."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.core.management import get_commands

from requests_app import durable_files
from rtbf.stack import BASE_DIR

UNITS = sorted((BASE_DIR / "docs" / "systemd").glob("*.service"))
SHARED = BASE_DIR / "docs" / "systemd" / "rtbf-.service.d" / "common.conf"
SERVICES = yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text())["services"]
IN_COMPOSE = {"legal": "worker-legal", "model": "worker-model"}
ALL = "0.0.0.0"  # noqa: S104  (in a container; a port of it is published on loopback)
PYTHON = "/srv/rtbf/app/.venv/bin/python"


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def command_of(unit: Path) -> list[str]:
    return shlex.split(read(unit)["Service"]["ExecStart"].replace("%%", "%"))


def short(unit: Path) -> str:
    return unit.stem.removeprefix("rtbf-")


def test_each_process_has_its_unit() -> None:
    ours = {each for each in SERVICES if each not in {"postgres", "redis", "migrate"}}
    assert {IN_COMPOSE.get(short(unit), short(unit)) for unit in UNITS} == ours


@pytest.mark.parametrize("unit", UNITS, ids=short)
def test_a_unit_runs_the_command_of_its_service_on_this_machine_alone(unit: Path) -> None:
    wanted = [PYTHON, *SERVICES[IN_COMPOSE.get(short(unit), short(unit))]["command"][1:]]
    local = ["127.0.0.1" if word == ALL else word for word in wanted]
    assert command_of(unit) == local
    words = command_of(unit)
    if words[1] == "manage.py":
        assert words[2] in get_commands()
    else:
        done = subprocess.run(
            [sys.executable, "-c", f"import importlib; importlib.import_module({words[2]!r})"],
            check=False,
        )
        assert done.returncode == 0


def test_what_all_share_is_hardened() -> None:
    service = read(SHARED)["Service"]
    assert service["User"] == "rtbf"
    assert service["UMask"] == "0077"
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["EnvironmentFile"] == "/etc/rtbf/env"
    signer = read(BASE_DIR / "docs" / "systemd" / "rtbf-signer.service")["Service"]
    assert signer["User"] not in {service["User"], "root"}


def test_the_checkpoint_is_read_by_another_user_than_the_signer(tmp_path: Path) -> None:
    """Under the umask of the units and of manage.py."""
    before = os.umask(0o077)
    try:
        durable_files.replace(tmp_path / "open", [b"x"], mode=0o644)
        durable_files.replace(tmp_path / "private", [b"x"])
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "private")]
    assert modes == [0o644, 0o600]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_finds_no_fault_in_them(tmp_path: Path) -> None:
    """With the paths of this machine in place of those of the guide."""
    shutil.copytree(BASE_DIR / "docs" / "systemd", tmp_path / "units")
    for path in (tmp_path / "units").rglob("*.*"):
        if path.is_file():
            path.write_text(path.read_text().replace(PYTHON, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", *[str(tmp_path / "units" / each.name) for each in UNITS]],
        capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"},
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "rtbf-" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
