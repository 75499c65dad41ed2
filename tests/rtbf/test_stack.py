"""The processes of an installation, and the clear words when they cannot start."""

import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import redis

from rtbf import stack
from rtbf.stack import BASE_DIR, StackError

Usage = namedtuple("Usage", "total used free")


def test_a_taken_port_is_named_with_a_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"Port {port} is already in use.*PORT={port + 1}"):
            stack.check_port(port)


def test_a_full_disk_is_named_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 5 * 2**20))
    with pytest.raises(StackError, match=r"Only 5 MB of disk are free.*RTBF_VAR_DIR"):
        stack.check_disk(tmp_path)


def test_an_old_python_is_told_so_before_anything_is_installed(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    pretend = "import sys; sys.version_info = (3, 10, 1); sys.version = '3.10.1'; exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "preflight", f"PYTHON={old}"], cwd=BASE_DIR, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed; this is 3.10.1" in done.stderr


def test_what_a_stack_writes_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "start_web", lambda running, **_: None)
    before = os.umask(0o022)
    try:
        env = {"REDIS_URL": "redis://127.0.0.1:1/0"}
        with stack.start_stack(tmp_path / "var", env=env, only=()) as running:
            running.start("probe", [sys.executable, "-c", "open('%s', 'w')" % (tmp_path / "made")])
            running.processes["probe"].wait()
            written = [tmp_path / "made", tmp_path / "var", *(tmp_path / "var").rglob("*")]
    finally:
        os.umask(before)
    assert running.log_path("probe") in written
    assert tmp_path / "var" / "rtbf.sqlite3" in written
    assert [path for path in written if path.exists() and path.stat().st_mode & 0o077] == []


def test_the_command_line_writes_for_its_owner_alone() -> None:
    code = "import os, sys, manage; sys.argv = ['manage.py', 'help']; manage.main();"
    done = subprocess.run(
        [sys.executable, "-c", f"{code} print('umask', oct(os.umask(0)))"],
        cwd=BASE_DIR, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.rstrip().endswith("umask 0o77"), done.stderr


@pytest.mark.stack
def test_the_private_redis_wants_its_password_and_ends_with_the_stack(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    running = stack.Stack(url="", var_dir=tmp_path, env={})
    try:
        url = stack.start_redis(running)
        assert redis.Redis.from_url(url).ping()
        stranger = redis.Redis.from_url(url.replace(url.split(":")[2].split("@")[0], "wrong"))
        with pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()
        assert (tmp_path / "redis").stat().st_mode & 0o077 == 0
        assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o077 == 0
    finally:
        running.stop()
    with pytest.raises(redis.exceptions.ConnectionError):
        redis.Redis.from_url(url).ping()
