"""Bundles for tests: real cases through the real services, a real signer; and forgeries."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from requests_app import dossier, keys
from requests_app.actors import staff_actor
from requests_app.exports import bundle
from requests_app.keys import SigningKey
from requests_app.models import Case, Checkpoint
from requests_app.services import cases
from requests_app.signer import open_signer, sign_next
from requests_app.verifier import archive, dsse, statements
from requests_app.verifier.checks import verify
from requests_app.verifier.errors import Invalid
from requests_app.verifier.trust import Trust, parse_trust
from tests.factories import completed_case, make_staff

Files = dict[str, bytes]


@dataclass(frozen=True)
class Made:
    """A bundle with everything around it: what an insider would have."""

    bundle: bytes
    files: Files
    trust_text: str
    attest: SigningKey
    log: SigningKey
    first_checkpoint: bytes
    later_checkpoint: bytes

    @property
    def trust(self) -> Trust:
        return parse_trust(self.trust_text.encode(), pinned=True, file="trust.txt")


def sign() -> Checkpoint | None:
    """One look of a signer that was started for it."""
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        return sign_next(signer)[1]


def export(case: Case, *, prepared: bool = False) -> bytes:
    """Export entry (a sealed case has its own), checkpoint, bundle: as page and signer do it."""
    if not prepared:
        prepare(case)
    sign()
    return bundle.render(dossier.gather(case))


def prepare(case: Case) -> None:
    """The export entry alone; no checkpoint covers it yet."""
    cases.export_case(case_id=case.id, actor=staff_actor(make_staff("auditor")))


_made: list[Made] = []


def made_bundle() -> Made:
    """The bundle of a completed case; built once, since no test changes it."""
    if not _made:
        keys.attest_key()
        first = sign()
        case = completed_case()
        data = export(case)
        prepare(case)
        later = sign()
        assert first is not None
        assert later is not None
        _made.append(
            Made(
                bundle=data,
                files=archive.read_archive(data),
                trust_text=keys.trust_text(),
                attest=keys.attest_key(),
                log=keys.log_key(Path(settings.RTBF_SIGNER_DIR)),
                first_checkpoint=first.note.encode(),
                later_checkpoint=later.note.encode(),
            )
        )
    return _made[0]


def statement_of(files: Files, name: str = statements.STATEMENT) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.b64decode(json.loads(files[name])["payload"]))
    return payload


def forge(
    made: Made, changes: Files, edit: Callable[[dict[str, Any]], object] = lambda predicate: None
) -> bytes:
    """What the holder of the attest key, but not of the log key, can write."""
    files = {**made.files, **changes}
    statement = statement_of(files)
    predicate = statement["predicate"]
    predicate["files"] = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name != statements.STATEMENT
    }
    edit(predicate)
    files[statements.STATEMENT] = dsse.sign_statement(
        subject=statement["subject"],
        predicate_type=statement["predicateType"],
        predicate=predicate,
        name=made.attest.name,
        private=made.attest.private,
    )
    return archive.write_archive(files)


def refused(made: Made, data: bytes) -> Invalid:
    with pytest.raises(Invalid) as problem:
        verify(data, trust=made.trust)
    assert str(problem.value)
    return problem.value
