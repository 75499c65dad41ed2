"""Adapters and checkpoints on S3, over HTTP against a server of the tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.core import mail
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import publication, tasks
from requests_app.models import Adapter, Case, Checkpoint, CheckpointMark
from tests import factories
from tests.requests_app import bundles
from tests.requests_app.test_signer import append
from tests.s3_server import BUCKET, client, s3_server
from workers import shared_files
from workers.adapters import WEIGHTS_FILE, AdapterError, AdapterRef
from workers.restrictions import FILE

from .test_shared_files import files, on_another_machine, ref  # noqa: F401

S3 = "storages.backends.s3.S3Storage"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    # boto3 would look for credentials and proxies of this machine
    with pytest.MonkeyPatch.context() as patch, s3_server() as options:
        for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield options


@pytest.fixture
def bucket(server: dict[str, Any], settings: Settings) -> Any:
    """boto3's client; the bucket is empty, and holds what the installation shares and publishes."""
    settings.STORAGES = {
        **settings.STORAGES,
        shared_files.ALIAS: {"BACKEND": S3, "OPTIONS": {**server, "location": "adapters"}},
        publication.STORAGE: {"BACKEND": S3, "OPTIONS": {**server, "location": "checkpoints"}},
    }
    s3 = client(server)
    for key in keys(s3):
        s3.delete_object(Bucket=BUCKET, Key=key)
    return s3


def keys(s3: Any) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def content(s3: Any, key: str) -> bytes:
    return bytes(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


# --- Adapters -------------------------------------------------------------------------------------
def test_a_machine_fetches_from_the_bucket_what_another_put_there_sealed(
    bucket: Any,
    ref: AdapterRef,  # noqa: F811
    files: dict[str, bytes],  # noqa: F811
    settings: Settings,
    tmp_path: Path,
) -> None:
    shared_files.put([ref])
    before = {key: content(bucket, key) for key in keys(bucket)}
    shared_files.put([ref])  # the same bytes stay
    assert {key: content(bucket, key) for key in keys(bucket)} == before
    folder = ref.folder(Path()).name
    assert before.keys() == {f"adapters/{folder}/{name}" for name in shared_files.FILES}
    assert not any(files[key.rsplit("/")[-1]][:64] in sealed for key, sealed in before.items())
    second = on_another_machine(settings, tmp_path)
    assert shared_files.fetch([ref]) == 1
    assert {each.name: each.read_bytes() for each in ref.folder(second).iterdir()} == files


def test_what_was_changed_in_the_bucket_is_not_taken_and_half_a_file_is_put_again(
    bucket: Any,
    ref: AdapterRef,  # noqa: F811
    settings: Settings,
    tmp_path: Path,
) -> None:
    shared_files.put([ref])
    key = f"adapters/{ref.folder(Path()).name}/{WEIGHTS_FILE}"
    bucket.put_object(Bucket=BUCKET, Key=key, Body=content(bucket, key)[:-1] + b"x")
    first = settings.RTBF_ADAPTER_DIR
    second = on_another_machine(settings, tmp_path)
    with pytest.raises(AdapterError, match="cannot be opened"):
        shared_files.fetch([ref])
    assert list(second.iterdir()) == []
    settings.RTBF_ADAPTER_DIR = first
    shared_files.put([ref])
    settings.RTBF_ADAPTER_DIR = second
    assert shared_files.fetch([ref]) == 1


def test_restrictions_pass_through_the_bucket_with_their_age(
    bucket: Any, settings: Settings, tmp_path: Path
) -> None:
    settings.RTBF_RELEASE_DIR.mkdir()
    for text in ('{"form":1,"people":{}}', '{"form":1,"people":{"x":[]}}'):  # replaced in its place
        (settings.RTBF_RELEASE_DIR / FILE).write_text(text)
        shared_files.put_restrictions()
    assert keys(bucket) == [f"adapters/{FILE}"]
    on_another_machine(settings, tmp_path)
    shared_files.fetch_restrictions()
    path = settings.RTBF_RELEASE_DIR / FILE
    assert path.read_text() == text
    written = bucket.head_object(Bucket=BUCKET, Key=f"adapters/{FILE}")["LastModified"].timestamp()
    assert path.stat().st_mtime == pytest.approx(written, abs=1)
    assert abs(time.time() - written) < 60


@pytest.mark.django_db
def test_a_retired_adapter_goes_from_the_bucket_and_a_lost_one_comes_back(
    bucket: Any,
    ref: AdapterRef,  # noqa: F811
    settings: Settings,
) -> None:
    shared_files.put([ref])
    case = factories.executing_case()
    Adapter.objects.create(
        sha256=ref.adapter_sha256, config_sha256="0" * 64, gate_sha256=ref.gate_sha256,
        run=case.runs.get(), base_sha256="b" * 64, overlap="0", created_at=timezone.now(),
    )  # fmt: skip
    assert shared_files.remove_retired(everywhere=True) == 0  # the case is open
    Case.objects.filter(pk=case.pk).update(sealed_at=timezone.now())
    assert shared_files.remove_retired(everywhere=True) == 1
    assert keys(bucket) == []
    assert not ref.folder(settings.RTBF_ADAPTER_DIR).exists()


def test_a_bucket_that_is_gone_is_told_without_its_address(
    bucket: Any,
    ref: AdapterRef,  # noqa: F811
    server: dict[str, Any],
    settings: Settings,
) -> None:
    there = {**server, "bucket_name": "nothing"}
    settings.STORAGES = {
        **settings.STORAGES,
        shared_files.ALIAS: {"BACKEND": S3, "OPTIONS": there},
    }
    with pytest.raises(shared_files.StorageAway) as caught:
        shared_files.put([ref])
    assert server["endpoint_url"] not in str(caught.value)


# --- Checkpoints ----------------------------------------------------------------------------------
def signed() -> Checkpoint:
    append()
    checkpoint = bundles.sign()
    assert checkpoint is not None
    return checkpoint


@pytest.mark.django_db
def test_a_checkpoint_is_published_to_the_bucket_byte_for_byte_and_never_replaced(
    bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = signed()
    tasks.publish_checkpoint()
    key = f"checkpoints/{publication.file_name(checkpoint)}"
    assert content(bucket, key) == checkpoint.note.encode()
    bucket.put_object(Bucket=BUCKET, Key=key, Body=b"another note")
    CheckpointMark.objects.filter(kind=CheckpointMark.Kind.PUBLISHED).delete()
    tasks.publish_checkpoint()
    assert content(bucket, key) == b"another note"
    assert "a fork?" in caplog.text
    assert keys(bucket) == [key]


@pytest.mark.django_db
def test_a_bucket_that_refuses_holds_up_no_other_place(
    bucket: Any,
    server: dict[str, Any],
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.RTBF_CHECKPOINT_MAIL = "dpo@controller.example"
    settings.STORAGES = {
        **settings.STORAGES,
        publication.STORAGE: {"BACKEND": S3, "OPTIONS": {**server, "bucket_name": "nothing"}},
    }
    checkpoint = signed()
    with pytest.raises(ClientError):
        storages[publication.STORAGE].save("x", ContentFile(b"x"))
    tasks.publish_checkpoint()
    assert len(mail.outbox) == 1
    assert f"of {checkpoint.size} entries was not published" in caplog.text
    assert server["endpoint_url"] not in caplog.text
    assert [mark.name for mark in checkpoint.marks.filter(kind="published")] == ["mail"]
