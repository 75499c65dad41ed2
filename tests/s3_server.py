"""An S3 server of our own for the tests (moto), with one bucket; reached over HTTP by boto3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "erasure"
CREDENTIALS = {"access_key": "testing", "secret_key": "testing"}


@contextmanager
def s3_server() -> Iterator[dict[str, Any]]:
    """Yields the OPTIONS of `storages.backends.s3.S3Storage`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "bucket_name": BUCKET,
            "endpoint_url": f"http://{host}:{port}",
            "region_name": "us-east-1",
            "file_overwrite": False,
            **CREDENTIALS,
        }
        client(options).create_bucket(Bucket=BUCKET)
        yield options
    finally:
        server.stop()


def client(options: dict[str, Any]) -> Any:
    """boto3's own client, beside the storage that is tested."""
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name=options["region_name"],
        aws_access_key_id=options["access_key"],
        aws_secret_access_key=options["secret_key"],
    )
