"""A stranger's way: the verifier alone in an isolated interpreter, and README.txt word for word."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import requests_app.verifier
from requests_app.verifier import archive, statements
from tests.requests_app.bundles import Made, made_bundle

pytestmark = pytest.mark.django_db
FOLDER = Path(requests_app.verifier.__file__).parent


@pytest.fixture
def made() -> Made:
    return made_bundle()


@pytest.fixture
def on_disk(made: Made, tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "bundle.zip").write_bytes(made.bundle)
    (folder / "trust.txt").write_text(made.trust_text)
    return folder


def commands(section: str) -> str:
    """The commands of a numbered section of README.txt: what is indented by eight."""
    text = (FOLDER / "README.txt").read_text()
    part = text[text.index(f"\n{section}. ") :]
    following = f"\n{int(section) + 1}. "
    part = part[: part.index(following)] if following in part else part[: part.index("\nWHAT IS")]
    return "\n".join(line[8:] for line in part.split("\n") if line.startswith(" " * 8))


def by_hand(folder: Path) -> subprocess.CompletedProcess[str]:
    needed = ("bash", "openssl", "sha256sum", "base64", "od")
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    script = commands("3")
    if shutil.which("unzip") is None:
        unpack = f"{sys.executable} -m zipfile -e bundle.zip bundle"
        script = script.replace("unzip -q bundle.zip -d bundle", unpack)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_by_hand_a_good_bundle_is_found_good(on_disk: Path) -> None:
    done = by_hand(on_disk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Signature Verified Successfully") == 2
    assert '"type":"run.verified"' in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        statements.event_file(2),
        statements.proof_name(2),
        statements.CHECKPOINT,
        statements.STATEMENT,
        "eval/metrics.json",
        "added.txt",
    ],
)
def test_by_hand_a_changed_bundle_is_found_out(made: Made, on_disk: Path, name: str) -> None:
    data = made.files.get(name, b"x")
    changed = re.sub(rb"[b-y2-8]", lambda m: bytes([m[0][0] + 1]), data, count=1)
    files = {**made.files, name: changed}
    (on_disk / "bundle.zip").write_bytes(archive.write_archive(files))
    assert by_hand(on_disk).returncode != 0


def test_by_hand_another_key_is_found_out(made: Made, on_disk: Path) -> None:
    for purpose in ("attest", "log"):
        lines = made.trust_text.splitlines()
        text = "\n".join(line for line in lines if not line.startswith(f"{purpose} "))
        (on_disk / "trust.txt").write_text(text + "\n")
        assert by_hand(on_disk).returncode != 0
        for left in ("bundle", "steps"):
            shutil.rmtree(on_disk / left)


def isolated(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """README's command for the folder alone, in an interpreter that knows of nothing else here."""
    command = commands("2").splitlines()[-1]
    assert command.startswith("python -I -c '")
    code = command.split("'")[1]
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", code, *arguments],
        cwd=folder,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_folder_alone_gives_every_exit_status(made: Made, on_disk: Path) -> None:
    shutil.copytree(FOLDER, on_disk / "verifier", ignore=shutil.ignore_patterns("__pycache__"))
    done = isolated(on_disk, "bundle.zip", "--trust", "trust.txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("VERIFIED")
    assert "L1: It is not proof" in done.stdout
    assert isolated(on_disk, "bundle.zip").returncode == 3
    assert isolated(on_disk, "nothing.zip", "--trust", "trust.txt").returncode == 2
    retired = made.trust_text.replace("\n", " to=9999\n", 2).replace(" to=9999", "", 1)
    (on_disk / "retired.txt").write_text(retired)
    assert isolated(on_disk, "bundle.zip", "--trust", "retired.txt").returncode == 4
    (on_disk / "bundle.zip").write_bytes(made.bundle[:-1])
    done = isolated(on_disk, "bundle.zip", "--trust", "trust.txt")
    assert (done.returncode, done.stdout.startswith("INVALID: ")) == (1, True)
