"""One whole case with planted personal data; after sealing none of it is anywhere.

On the way the mail server refuses, queue and cache are lost, a worker is killed, messages come
twice and a sealing is rolled back: what faults leave behind has to go as well. Searched: every
table and the files they lie in, Redis, the log output, every export, everything under the
installation's folder, the outbox; for what the person gave and what staff wrote, for the codes, and
for the keys and salts without which nothing can be opened.
"""

from __future__ import annotations

import hashlib
import json
import logging
import smtplib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, dossier, exports, extract, keys, receipts, vault
from requests_app.actors import SYSTEM, staff_actor
from requests_app.models import (
    AuditEntry,
    AuditOpening,
    Case,
    CaseKey,
    Checkpoint,
    ErasureRun,
    ExportJob,
    Letter,
    RecordMatch,
    Release,
    TrainingSet,
    VaultItem,
)
from requests_app.services import cases, evidence_tables, holds, letters, runs
from requests_app.services.decisions import ScopeResult
from requests_app.services.errors import LeaseLost, WrongState
from requests_app.verifier import canonical, notes
from requests_app.verifier import receipts as formats
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from rtbf import celery_app
from rtbf.stack import Stack, start_redis
from tests import canaries
from tests.factories import expire_lease, make_staff, take_lease, work_off
from tests.requests_app.bundles import prepare, sign
from tests.staff import as_staff

pytestmark = [pytest.mark.database, pytest.mark.stack, pytest.mark.django_db(transaction=True)]

DEAD_ROWS = "ciphertext"  # may stay in PostgreSQL's dead rows for a while: nothing without the key

PLANTED = {
    "name": "Zoë Quäntchenfeld-Ångström",
    "surname in ASCII": "Quaentchenfeld",
    "e-mail address": "zoe.quaentchenfeld@mailbox.example",
    "alias": "Zoë Ørsted née Quäntchen",
    "message": "I lived in Kummerspeckgasse ninety-one",
    "question": "Which instrument does she collect?",
    "answer": "Glasharmonikas",
    "identity note": "Showed a passport with a torn Eselsohr",
    "reasoning": "Her contract with Drehorgelbau ended",
    "probe rows": "nats of the Nasenflöte",
    "sample probe": "She said Dudelsackpfeifer",
    "saved step": "moments of the Maultrommel",
    "hold": "The claim about the Rübezahl",
    "staff note": "Called about the Zwiebelturm",
    "excerpt": "Record of the Wolpertinger",
    "staff message": "Her cousin said Weltschmerz",
}


@pytest.fixture
def private_redis(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis.Redis[bytes]]:
    """A real server for queue and cache, as an installation has it."""
    folder = tmp_path_factory.mktemp("redis")
    (folder / "log").mkdir()
    running = Stack(url="", var_dir=folder, env={})
    before = celery_app.conf.broker_url
    try:
        url = start_redis(running)
        settings.CACHES = {
            "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}
        }
        celery_app.conf.broker_url = url
        monkeypatch.setattr(celery_app, "_pool", None)
        monkeypatch.setattr(celery_app.amqp, "_producer_pool", None)
        assert celery_app.connection_for_write().as_uri().startswith(url.partition(":")[0])
        client = redis.Redis.from_url(url)
        yield client
        client.close()
        celery_app.pool.force_close_all()
    finally:
        celery_app.conf.broker_url = before
        cache.close()
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
        running.stop()


class RefusingBackend(BaseEmailBackend):
    """A mail server that names in its refusal whom the mail is for, as they do."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        (message,) = email_messages
        text = f"<{message.to[0]}>: {message.body}".encode()
        raise smtplib.SMTPRecipientsRefused({message.to[0]: (451, text)})


@contextmanager
def refused_mail(settings: Settings) -> Iterator[None]:
    accepting = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = f"{__name__}.RefusingBackend"
    yield
    settings.EMAIL_BACKEND = accepting


@dataclass(frozen=True)
class Walked:
    """A case at its end, with what was taken from it on the way."""

    case: Case
    secrets: dict[str, bytes | str]  # keys, salts, codes, ciphertext: gone after sealing
    values: dict[tuple[int, str], Any]  # what each commitment was made of
    receipt: bytes
    bundle: bytes
    trust: str


@pytest.mark.alone
def test_after_sealing_nothing_planted_is_anywhere(
    private_redis: redis.Redis[bytes],
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.EMAIL_BACKEND = "requests_app.outbox.EmailBackend"
    settings.EMAIL_FILE_PATH = str(tmp_path / "outbox")
    caplog.set_level(logging.DEBUG)
    keys.attest_key()
    early = sign()
    assert early is not None
    walked = walk(settings, private_redis)
    case, planted = walked.case, {**PLANTED, "reference": walked.case.reference}

    # Before sealing it is all there, where it belongs: this test can find things.
    outbox = canaries.files((tmp_path / "outbox").iterdir())
    assert canaries.leaks(outbox, {"e-mail address": PLANTED["e-mail address"]})
    assert canaries.leaks(canaries.database_files(), {"salt": walked.secrets["salt 0"]})
    assert canaries.leaks(canaries.stored_rows(), {"reference": planted["reference"]})
    in_clear = {what: value for what, value in PLANTED.items() if what != "e-mail address"}
    assert not canaries.leaks(canaries.stored_rows() | outbox, in_clear)
    assert not canaries.leaks(exported(case), PLANTED)

    with transaction.atomic():  # a process that ends before the commit
        cases.seal_case(case_id=case.id, actor=SYSTEM)
        transaction.set_rollback(True)
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    with pytest.raises(WrongState):
        cases.seal_case(case_id=case.id, actor=SYSTEM)
    late = sign()
    places = {
        **canaries.stored_rows(),
        **exported(case),
        **canaries.files(path for path in tmp_path.rglob("*") if path.is_file()),
        **in_redis(private_redis),
        "log output": caplog.text.encode(),
    }
    assert len(private_redis.keys("*")) > 0
    assert caplog.records
    assert canaries.leaks(places, PLANTED | walked.secrets) == []
    in_files = {
        what: value
        for what, value in walked.secrets.items()
        if connection.vendor == "sqlite" or not what.startswith(DEAD_ROWS)
    }
    assert canaries.leaks(canaries.database_files(), PLANTED | in_files) == []
    check_columns(Case.objects.get(pk=case.pk))
    check_still_valid(walked, early, late)


def walk(settings: Settings, server: redis.Redis[bytes]) -> Walked:
    """From the public form to the answer, through the pages and services, a worker's rows too, with
    a fault wherever one can strike."""
    client = Client()
    client.post("/erasure/new/who", {"who": "myself"})
    client.post("/erasure/new/name", {"name": PLANTED["name"], "aliases": PLANTED["alias"]})
    client.post("/erasure/new/email", {"email": PLANTED["e-mail address"]})
    message = f"{PLANTED['message']}, {PLANTED['surname in ASCII']}"
    client.post("/erasure/new/what", {"systems": ["model"]})
    client.post("/erasure/new/message", {"message": message})
    client.post("/erasure/new/check")
    case = Case.objects.get()
    access_code = client.get(f"/erasure/sent/{case.reference}").context["access_code"]
    code = vault.get(case, "code")
    digests = [case.code_digest, case.access_digest]
    with refused_mail(settings):
        assert letters.send_pending_codes() == 0
    server.flushall()
    assert letters.send_pending_codes() == 1
    for _ in range(2):
        client.post("/erasure/confirm", {"reference": case.reference, "code": code})
    officer = make_staff("officer")
    staff = staff_actor(officer)
    cases.record_identity(
        case_id=case.id, method="document_seen", note=PLANTED["identity note"], actor=staff
    )
    facts = [(PLANTED["question"], PLANTED["answer"])]
    cases.attach_facts(case_id=case.id, facts=facts, aliases=[], actor=staff)
    staff_client = as_staff(officer, case)
    staff_client.post(f"/app/cases/{case.reference}/notes", {"text": PLANTED["staff note"]})
    assert (
        PLANTED["staff note"] in staff_client.get(f"/app/cases/{case.reference}").content.decode()
    )
    holds.place_hold(
        case_id=case.id,
        reason=PLANTED["hold"],
        until=timezone.localdate(),
        actor_member=officer,
    )
    holds.release_hold(case_id=case.id, actor_member=officer)
    cases.propose_decision(
        case_id=case.id,
        outcome="granted",
        grounds=["17-1-a"],
        reasoning=f"{PLANTED['reasoning']}. {PLANTED['staff message']}.",
        scope_results={item.pk: ScopeResult("erase") for item in case.scope_items.all()},
        actor_member=officer,
    )
    cases.approve_decision(case_id=case.id, actor_member=make_staff("approver"))
    find_record(case)
    run = case.runs.get()
    work_with_faults(run, server)
    cases.send_answer(case_id=case.id, actor_member=officer)
    with refused_mail(settings):
        assert letters.send_pending_letters() == 0
    Letter.objects.update(next_try_at=None)  # the pause after a refusal is over
    assert letters.send_pending_letters() == 2
    assert letters.send_pending_letters() == 0
    prepare(case)
    assert sign() is not None
    client.post("/status", {"reference": case.reference, "access_code": access_code})
    receipt = client.get(f"/status/{case.reference}/receipt.json").content
    assert Client().post("/transparency", {"text": receipt.decode()}).context["opened"]
    case.refresh_from_db()
    return Walked(
        case=case,
        secrets={
            "access code": access_code,
            "confirmation code": code,
            **{
                f"keyed digest {i}": digest
                for i, digest in enumerate([*digests, case.contact_digest])
            },
            **stored_secrets(case),
        },
        values=committed(case),
        receipt=receipt,
        bundle=exports.load("bundle").render(dossier.gather(case)),
        trust=keys.trust_text(),
    )


def work_with_faults(run: ErasureRun, server: redis.Redis[bytes]) -> None:
    """A worker is killed after a saved step and a table; the next one goes on, the message of the
    first comes once more, and what the killed one still sends is refused."""
    killed = take_lease(run)
    runs.save_step(killed, PLANTED["saved step"].encode())
    evidence_tables.save_table(killed, probe="unseen", table=sealed_rows())
    expire_lease(run.id)
    server.flushall()
    lease = take_lease(run, "worker-2")
    assert runs.saved_step(lease) == PLANTED["saved step"].encode()
    with pytest.raises(LeaseLost):
        runs.save_step(killed, PLANTED["saved step"].encode())
    runs.save_step(lease, PLANTED["saved step"].encode())
    evidence_tables.save_table(lease, probe="unseen", table=sealed_rows())
    work_off(run, lease=lease)
    assert runs.lease_run(run_id=run.id, owner="worker-3") is None


def sealed_rows() -> bytes:
    """A probe's rows with a sample of what a model said, as a worker seals them."""
    rows = [{"item": 0, "role": PLANTED["probe rows"]}]
    sample = {"item": 0, "form": 0, "question": PLANTED["question"], "answer": PLANTED["answer"]}
    sample["said"] = {"before": PLANTED["sample probe"]}
    return json.dumps({"form": 1, "sides": {"before": rows}, "samples": [sample]}).encode()


def find_record(case: Case) -> None:
    """A record of a training set that a search found, as it is stored."""
    crm = TrainingSet.objects.create(
        name="crm", kind="jsonl", location="crm.jsonl", created_at=timezone.now()
    )
    digest = hashlib.sha256(b"the digest of record 4711").hexdigest()
    match = RecordMatch.objects.create(case=case, training_set=crm, record=digest, count=1)
    vault.put(case, f"match/{match.pk}", {"record_id": "4711", "excerpt": PLANTED["excerpt"]})


def stored_secrets(case: Case) -> dict[str, bytes | str]:
    """Wrapped key, data key, salts and ciphertext, while they exist."""
    found: dict[str, bytes | str] = {
        "wrapped key": bytes(CaseKey.objects.get(case=case).wrapped),
        "data key": vault._case_key(case),
        "digest of a record": case.matches.get().record,
    }
    for number, opening in enumerate(AuditOpening.objects.filter(case=case)):
        found[f"salt {number}"] = bytes(opening.salt)
    for item in VaultItem.objects.filter(case=case, name__in=["name", "email", "facts"]):
        found[f"ciphertext of {item.name}"] = bytes(item.ciphertext)[:48]  # not over two pages
    for letter in case.letters.all():
        found[f"digest of letter {letter.pk}"] = letter.sha256
    return found


def committed(case: Case) -> dict[tuple[int, str], Any]:
    """Each commitment's entry and field, with the value that opens it today."""
    texts = [vault.get(case, f"letter/{letter.pk}") for letter in case.letters.all()]
    known = [
        *(PLANTED[what] for what in ("name", "e-mail address", "identity note")),
        *texts,
        {"facts": vault.get(case, "facts"), "aliases": vault.get(case, "aliases")},
        vault.get(case, f"hold/{case.holds.get().pk}/reason"),
        *vault.get_all(case, "note/").values(),
        vault.get(case, f"decision/{case.decisions.get().pk}/reasoning"),
    ]
    found = {}
    for opening in AuditOpening.objects.filter(case=case):
        stored = commitment_of(opening.entry_seq, opening.field)
        for value in known:
            if stored == formats.commitment(
                salt=bytes(opening.salt),
                case_id=case.id,
                seq=opening.entry_seq,
                field=opening.field,
                value=value,
            ):
                found[opening.entry_seq, opening.field] = value
    assert len(found) == AuditOpening.objects.filter(case=case).count() >= 8
    return found


def commitment_of(seq: int, field: str) -> str:
    body: Any = canonical.loads(bytes(AuditEntry.objects.get(seq=seq).body))
    return str(body["data"][field]["commitment"])


def exported(case: Case) -> dict[str, bytes]:
    """Every export of the case, of the record and of its release, at the level that leaves least
    out."""
    gathered = dossier.gather(case)
    found = {
        f"export {name}": exports.load(name).render(gathered)
        + exports.file_name(name, gathered).encode()
        for name in exports.names(exports.CASE)
    }
    today = timezone.localdate()
    for name in exports.names(exports.RECORD, exports.RELEASE):
        made = exports.load_job(name)
        job = ExportJob(
            export=name,
            level=made.LEVELS[-1],
            first=today,
            last=today,
            release=Release.objects.first() if made.OF == exports.RELEASE else None,
        )
        found[f"export {name}"] = b"".join(made.render(extract.gather(job)))
    return found


def in_redis(client: redis.Redis[bytes]) -> dict[str, bytes]:
    """Keys and values as the server holds them; DUMP compresses long strings, so lists are read."""
    found = {}
    for key in client.keys("*"):
        content = client.dump(key) or b""
        if client.type(key) == b"list":
            content += b"\0".join(client.lrange(key, 0, -1))
        if client.type(key) == b"string":
            content += client.get(key) or b""
        found[f"redis {key.decode()}"] = key + content
    return found


def check_columns(case: Case) -> None:
    """What is left of the case's row: a random id, a number of the year, dates, and choices from
    lists that many share."""
    left = {
        field.attname: getattr(case, field.attname)
        for field in Case._meta.concrete_fields
        if getattr(case, field.attname) not in ("", None)
    }
    dates = {name for name in left if name.endswith(("_at", "_on", "due", "due_raw"))}
    assert set(left) - dates == {
        "id",
        "reference",
        "subject_id",
        "status",
        "channel",
        "jurisdiction",
        "language",
        "calendar",
        "calendar_version",
        "code_attempts",
        "identity_method",
        "identity_checked_by_id",
        "on_behalf",
    }
    assert CaseKey.objects.get(case=case).wrapped is None
    assert set(case.letters.values_list("sha256", flat=True)) == {""}


def check_still_valid(walked: Walked, early: Checkpoint, late: Checkpoint | None) -> None:
    """Log, checkpoints and a bundle given out before verify; only the receipt opens anything."""
    audit.verify_log()
    assert late is not None
    log_keys = audit.log_keys()
    for checkpoint in Checkpoint.objects.all():
        head, _ = notes.open_checkpoint(checkpoint.note.encode(), log_keys, file="checkpoint")
        assert head.root == audit.root(head.size)
    trust = parse_trust(walked.trust.encode(), pinned=True, file="trust.txt")
    result = verify(walked.bundle, trust=trust, opening=walked.receipt)
    assert result.authenticated
    assert result.opened is not None
    assert not AuditOpening.objects.filter(case=walked.case).exists()
    with pytest.raises(vault.VaultSealed):
        receipts.make_receipt(walked.case)
    receipt = formats.parse_receipt(walked.receipt)
    opened = receipts.open_receipt(receipt)
    assert opened is not None
    assert opened.sealed_at is not None
    for each in receipt.openings:
        assert walked.values[receipt.entry, each.field] == each.value
    assert canaries.leaks({"receipt": walked.receipt}, {"name": PLANTED["name"]})
    assert receipt.log == django_settings.RTBF_LOG_ORIGIN
