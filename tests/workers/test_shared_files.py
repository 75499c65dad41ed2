"""Adapters on storage that two machines share, each with a folder of its own."""

import json
import shutil
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app.models import Adapter, Case, Release
from requests_app.services import manifests
from tests import factories
from workers import shared_files
from workers.adapters import (
    WEIGHTS_FILE,
    AdapterError,
    AdapterRef,
    adapter_files,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.base_models import load_base_model
from workers.digests import sha256_of
from workers.gate import GATE_FILE, Gate, gate_files
from workers.guarded import load_case
from workers.identifiers import identifier_digests
from workers.restrictions import FILE, Restrictions

KEY = b"a key for the gates of the tests"


@pytest.fixture
def shared(settings: Settings, tmp_path: Path) -> Path:
    """A folder as the shared storage."""
    folder = tmp_path / "shared"
    settings.STORAGES = {
        **settings.STORAGES,
        shared_files.ALIAS: {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": str(folder)},
        },
    }
    return folder


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """An adapter of the demo model, untrained, and a gate that knows a name."""
    model = attach_adapter(load_base_model("demo"), earlier=[], seed=1)
    try:
        found = adapter_files(model)
    finally:
        detach_adapter(model)
    gate = Gate(identifier_digests(["Anna Berger"], KEY), None, torch.zeros(0, 0), 1.0, 2.0, "")
    return found | gate_files(gate, {name: sha256_of(each) for name, each in found.items()})


@pytest.fixture
def ref(files: dict[str, bytes], settings: Settings) -> AdapterRef:
    """The adapter as the first machine has stored it."""
    made = AdapterRef("case", sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE]))
    store_files(made.folder(settings.RTBF_ADAPTER_DIR), files)
    return made


def on_another_machine(settings: Settings, tmp_path: Path) -> Path:
    settings.RTBF_ADAPTER_DIR = tmp_path / "second" / "adapters"
    settings.RTBF_RELEASE_DIR = tmp_path / "second" / "releases"
    return settings.RTBF_ADAPTER_DIR


def test_what_one_machine_put_another_fetches_once_with_the_same_bytes(
    shared: Path, ref: AdapterRef, files: dict[str, bytes], settings: Settings, tmp_path: Path
) -> None:
    shared_files.put([ref])
    shared_files.put([ref])
    second = on_another_machine(settings, tmp_path)
    assert shared_files.fetch([ref, ref]) == 1
    assert shared_files.fetch([ref]) == 0
    assert {each.name: each.read_bytes() for each in ref.folder(second).iterdir()} == files
    assert [each.name for each in second.iterdir()] == [ref.folder(second).name]
    load_case(ref, second)
    lying = {each.name: each.read_bytes() for each in (shared / ref.folder(second).name).iterdir()}
    assert lying.keys() == files.keys()
    assert not any(files[name][:64] in sealed for name, sealed in lying.items())


def test_without_shared_storage_nothing_is_done(ref: AdapterRef, settings: Settings) -> None:
    shared_files.put([ref])
    assert shared_files.fetch([ref]) == 0
    shared_files.put_restrictions()
    shared_files.fetch_restrictions()


@pytest.mark.parametrize("change", ["changed", "swapped", "cut", "gone", "another key"])
def test_what_is_not_what_was_put_is_not_taken(
    change: str, shared: Path, ref: AdapterRef, settings: Settings, tmp_path: Path
) -> None:
    shared_files.put([ref])
    file = shared / ref.folder(shared).name / WEIGHTS_FILE
    sealed = file.read_bytes()
    if change == "changed":
        file.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    elif change == "swapped":
        file.write_bytes((file.parent / GATE_FILE).read_bytes())
    elif change == "cut":
        file.write_bytes(sealed[:5])
    elif change == "gone":
        file.unlink()
    else:
        settings.RTBF_GATE_KEY = "another key altogether, of some length"
    second = on_another_machine(settings, tmp_path)
    with pytest.raises(AdapterError):
        shared_files.fetch([ref])
    assert list(second.iterdir()) == []


def test_a_sealed_file_under_a_digest_that_it_does_not_have_is_not_taken(
    shared: Path, ref: AdapterRef, settings: Settings, tmp_path: Path
) -> None:
    other = AdapterRef("case", "0" * 64, ref.gate_sha256)
    folder = ref.folder(settings.RTBF_ADAPTER_DIR)
    folder.rename(other.folder(settings.RTBF_ADAPTER_DIR))
    shared_files.put([other])
    second = on_another_machine(settings, tmp_path)
    with pytest.raises(AdapterError):
        shared_files.fetch([other])
    assert list(second.iterdir()) == []


def test_half_a_file_of_a_worker_that_died_is_put_again(
    shared: Path, ref: AdapterRef, settings: Settings, tmp_path: Path
) -> None:
    folder = shared / ref.folder(shared).name
    folder.mkdir(parents=True)
    (folder / WEIGHTS_FILE).write_bytes(b"half")
    shared_files.put([ref])
    on_another_machine(settings, tmp_path)
    assert shared_files.fetch([ref]) == 1


def test_a_storage_that_fails_with_errors_of_its_own_is_told_without_their_text(
    shared: Path, ref: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> bool:
        raise RuntimeError("the secret is hunter2")

    monkeypatch.setattr(storages[shared_files.ALIAS], "exists", fail)
    with pytest.raises(shared_files.StorageAway, match="RuntimeError") as caught:
        shared_files.put([ref])
    assert "hunter2" not in str(caught.value)


def test_restrictions_reach_another_machine_with_their_age(
    shared: Path, settings: Settings, tmp_path: Path
) -> None:
    settings.RTBF_RELEASE_DIR.mkdir()
    (settings.RTBF_RELEASE_DIR / FILE).write_text('{"form":1,"people":{}}')
    shared_files.put_restrictions()
    on_another_machine(settings, tmp_path)
    shared_files.fetch_restrictions()
    path = settings.RTBF_RELEASE_DIR / FILE
    assert time.time() - path.stat().st_mtime < 10
    following = Restrictions(settings.RTBF_RELEASE_DIR)
    assert not following.due()
    assert following.seen
    assert not following.closed
    (shared / FILE).write_bytes(b"somebody else's bytes, long enough to be sealed")
    with pytest.raises(AdapterError):
        shared_files.fetch_restrictions()


def put_back() -> int:
    out = StringIO()
    call_command("share_adapters", "--json", stdout=out)
    return int(json.loads(out.getvalue())["put"])


def test_without_shared_storage_nothing_can_be_put_back() -> None:
    with pytest.raises(CommandError, match="RTBF_ADAPTER_STORAGE"):
        call_command("share_adapters")


@pytest.mark.django_db
def test_an_adapter_goes_from_all_places_once_its_case_is_sealed_and_no_release_names_it(
    shared: Path, ref: AdapterRef, settings: Settings
) -> None:
    shared_files.put([ref])
    case = factories.executing_case()
    Adapter.objects.create(
        sha256=ref.adapter_sha256, config_sha256="0" * 64, gate_sha256=ref.gate_sha256,
        run=case.runs.get(), base_sha256="b" * 64, overlap="0", created_at=timezone.now(),
    )  # fmt: skip
    here = ref.folder(settings.RTBF_ADAPTER_DIR)
    there = shared / here.name
    assert shared_files.remove_retired(everywhere=True) == 0  # the case is open
    named = manifests.ManifestAdapter(case.id, ref.adapter_sha256, ref.gate_sha256)
    manifest = factories.manifest_of([named], base="b" * 64, parent=None)
    Case.objects.filter(pk=case.pk).update(sealed_at=timezone.now())
    release = Release.objects.create(
        digest=manifests.read_manifest(manifest).digest, model_name="demo", manifest=manifest,
        is_live=True, created_at=timezone.now(),
    )  # fmt: skip
    assert shared_files.remove_retired(everywhere=True) == 0  # it is in force
    assert put_back() == 0
    shutil.rmtree(there)
    assert put_back() == 1  # the storage had lost it
    assert (here.is_dir(), there.is_dir()) == (True, True)
    release.is_live = False
    release.save()
    assert shared_files.remove_retired() == 1
    assert (here.is_dir(), there.is_dir()) == (False, True)
    assert shared_files.remove_retired(everywhere=True) == 1
    assert not there.exists()
