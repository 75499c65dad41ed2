"""Who owns the database can change everything in it, and is found out: by what was signed, or by
the signer, whose memory lies elsewhere."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import transaction

from requests_app import audit
from requests_app.audit import LogError
from requests_app.models import AuditEntry, Checkpoint, CheckpointMark, LogHead
from requests_app.signer import SignerRefused, open_signer, sign_next
from tests.append_only import rewritten_log, triggers_dropped
from tests.factories import open_case
from tests.requests_app.bundles import sign

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

Bodies = list[dict[str, Any]]
Change = Callable[[Bodies], object]
SIZE = 13
TABLES = (LogHead, AuditEntry, Checkpoint, CheckpointMark)


@pytest.fixture(autouse=True)
def log(transactional_db: None) -> None:
    """Two cases and what belongs to none, signed at three sizes; an owner who keeps a copy."""
    for step in range(3):
        case = open_case().case if step < 2 else None
        for number in range(3):
            append(f"{step}.{number}", case=case)
        sign()
    assert LogHead.objects.get().size == SIZE
    assert list(Checkpoint.objects.order_by("size").values_list("size", flat=True))[-1] == SIZE


def append(note: str, **of: Any) -> None:
    with transaction.atomic():
        audit.append_entry(type="test.happened", actor="system:test", data={"note": note}, **of)


def edit(place: int) -> Change:
    return lambda bodies: bodies[place]["data"].update(note="never")


def back_date(place: int) -> Change:
    return lambda bodies: bodies[place].update(at="2020-01-01T00:00:00Z")


def delete(place: int) -> Change:
    return lambda bodies: bodies.pop(place)


def swap(place: int) -> Change:
    def swapped(bodies: Bodies) -> None:
        bodies[place], bodies[place - 1] = bodies[place - 1], bodies[place]

    return swapped


def cut(place: int) -> Change:
    return lambda bodies: bodies.__delitem__(slice(place, None))


def insert(place: int) -> Change:
    extra = {"type": "test.inserted", "data": {"note": "never"}, "case": None, "case_seq": None}
    return lambda bodies: bodies.insert(place, {**bodies[0], **extra})


PLACES = (1, 4, 7, 8, SIZE - 1)  # inside subtrees and at their borders


@pytest.mark.parametrize("change", [edit, back_date, delete, swap, cut, insert])
def test_a_log_rewritten_with_care_is_found_out(change: Callable[[int], Change]) -> None:
    checkpoints = list(Checkpoint.objects.all())
    for place in PLACES:
        with restored():
            rewritten_log(change(place))
            with pytest.raises(LogError, match="signed"):
                audit.verify_log()
            assert_nothing_is_signed(checkpoints)
            drop_checkpoints()
            assert_nothing_is_signed([])
            append("grown since")
            assert_nothing_is_signed([])


CARELESS = {
    "body": lambda rows, at: rows.filter(seq=at).update(body=b"{}"),
    "type": lambda rows, at: rows.filter(seq=at).update(type="test.never"),
    "leaf hash": lambda rows, at: rows.filter(seq=at).update(leaf_hash=b"\x01" * 32),
    "case": lambda rows, at: rows.filter(seq=at).update(case_id=UUID(int=7), case_seq=0),
    "missing": lambda rows, at: rows.filter(seq=at).delete(),
    "number": lambda rows, at: rows.filter(seq=at).update(seq=SIZE + 1),
    "head": lambda _, at: LogHead.objects.update(size=at),
    "frontier": lambda _, at: LogHead.objects.update(frontier=["01" * 32] * SIZE.bit_count()),
}  # fmt: skip


def test_a_change_without_care_is_found_without_any_signature() -> None:
    unnoticed = []
    for (name, change), place in itertools.product(CARELESS.items(), (2, 5, SIZE - 2)):
        with restored():
            drop_checkpoints()
            with triggers_dropped():
                change(AuditEntry.objects, place)
            try:
                audit.verify_log()
            except LogError:
                continue
            unnoticed.append((name, place))
    assert unnoticed == []


@pytest.mark.parametrize("grown", [0, 3, 9])
def test_a_fork_from_an_earlier_backup_is_signed_by_no_signer(grown: int) -> None:
    """Shorter than what was signed, as long, and longer."""
    with open_signer(settings.RTBF_SIGNER_DIR) as running:
        with restored():
            rewritten_log(cut(10))
            drop_checkpoints(beyond=10)
            for number in range(grown):
                append(f"other {number}")
            audit.verify_log()  # the fork is in order by itself
            with pytest.raises(SignerRefused):
                sign_next(running)
        assert sign_next(running)[1] is None
    with restored():
        rewritten_log(cut(10))
        for number in range(grown):
            append(f"other {number}")
        assert_nothing_is_signed(list(Checkpoint.objects.all()))


def test_nodes_changed_with_care_make_no_proof_that_verifies() -> None:
    """They are never trusted: an export says so instead of carrying a proof that is none."""
    AuditEntry.objects.filter(seq=7).update(nodes=b"\x01" * 96)
    with pytest.raises(audit.NodesDiffer):
        audit.verify_log()
    assert audit.root(SIZE) != audit.read_log().root
    append("grown")
    checkpoint = sign()  # the signer reads bodies alone
    assert checkpoint is not None
    assert bytes(checkpoint.root) == audit.read_log().root


def assert_nothing_is_signed(checkpoints: list[Checkpoint]) -> None:
    with pytest.raises(SignerRefused):
        sign()
    assert list(Checkpoint.objects.all()) == checkpoints


def drop_checkpoints(*, beyond: int = 0) -> None:
    with triggers_dropped():
        CheckpointMark.objects.filter(checkpoint__size__gt=beyond).delete()
        Checkpoint.objects.filter(size__gt=beyond).delete()


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards log, head and checkpoints are again what they were.

    The checkpoint outside the database is gone: with it nothing could be appended to a log that is
    behind, and what is found out here is found out without it.
    """
    settings.RTBF_CHECKPOINT_FILE.unlink(missing_ok=True)
    kept = {model: list(model.objects.all()) for model in TABLES}
    yield
    with triggers_dropped():
        for model in reversed(TABLES):
            model.objects.all().delete()
        for model in TABLES:
            model.objects.bulk_create(kept[model])
    audit.verify_log()
