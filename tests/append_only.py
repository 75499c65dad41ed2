"""What the owner of the tables can do to the append-only ones, for tests.

During a test the triggers stand. Around Django's own flush, after the test, the owner of the test
database drops them and puts them back, with the very functions of the migrations; a test of
tampering does the same in the role of a superuser.
"""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import connection

from requests_app.models import AuditEntry, LogHead
from requests_app.verifier import canonical, merkle

APPEND_ONLY = importlib.import_module("requests_app.migrations.0002_append_only")
NODES = importlib.import_module("requests_app.migrations.0012_log_nodes")


@contextmanager
def triggers_dropped() -> Iterator[None]:
    """As the owner of the tables: no triggers inside the block."""
    with connection.schema_editor() as editor:
        APPEND_ONLY.allow_changes(apps, editor)
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            APPEND_ONLY.refuse_changes(apps, editor)
            NODES.spare_nodes(apps, editor)


def rewritten_log(change: Callable[[list[dict[str, Any]]], object]) -> None:
    """A careful tamperer: `change` the bodies, then make chains, hashes, nodes and head anew."""
    bodies = [json.loads(bytes(row.body)) for row in AuditEntry.objects.order_by("seq")]
    change(bodies)
    rows: list[AuditEntry] = []
    frontier: list[bytes] = []
    chains: dict[str, tuple[int, str]] = {}
    for seq, body in enumerate(bodies):
        case = body["case"]
        if case:
            number, body["prev"] = chains.get(case, (-1, None))
            body["case_seq"] = number + 1
        raw = canonical.dumps(body)
        nodes = merkle.completed(frontier, seq, merkle.leaf_hash(raw))
        frontier = merkle.extend(frontier, nodes)
        if case:
            chains[case] = (body["case_seq"], nodes[0].hex())
        rows.append(
            AuditEntry(
                seq=seq,
                case_id=case,
                case_seq=body["case_seq"],
                type=body["type"],
                body=raw,
                leaf_hash=nodes[0],
                nodes=b"".join(nodes[1:]),
            )
        )
    with triggers_dropped():
        AuditEntry.objects.all().delete()
        AuditEntry.objects.bulk_create(rows)
        LogHead.objects.update(size=len(rows), frontier=[node.hex() for node in frontier])
