"""Bundles for tests: real cases through the real services, a real signer; and forgeries."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings

from requests_app import attestations, dossier, keys
from requests_app.actors import staff_actor
from requests_app.exports import bundle
from requests_app.keys import SigningKey
from requests_app.models import Case, Checkpoint
from requests_app.services import cases
from requests_app.signer import open_signer, sign_next
from requests_app.verifier import archive, canonical, dsse, evidence, merkle, notes, statements
from requests_app.verifier.checks import verify
from requests_app.verifier.errors import Invalid
from requests_app.verifier.runs import conclusions, run_facts, subject_of
from requests_app.verifier.trust import Trust, parse_trust
from tests.factories import completed_case, make_staff
from tests.requests_app.trees import Tree

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


BEFORE = 500  # entries of other cases in a made-up log: more than when the keys became known


@dataclass
class Written:
    """What an operator who holds every key writes anew: entries of the case, files of its run."""

    bodies: list[dict[str, Any]]
    plan: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, Any]
    environment: dict[str, Any]

    def data(self, kind: str) -> dict[str, Any]:
        """What the last entry of that type says."""
        found: dict[str, Any] = [b["data"] for b in self.bodies if b["type"] == kind][-1]
        return found

    def place(self, kind: str) -> int:
        return max(i for i, body in enumerate(self.bodies) if body["type"] == kind)


def operator_bundle(made: Made, edit: Callable[[Written], object]) -> bytes:
    """A whole new log and bundle, signed with the true keys, consistent but for what `edit` does:
    digests are logged of the files as they are; the statement says what entries and files say."""
    files = {name: data for name, data in made.files.items() if not name.startswith("events/")}
    names = [name for name in sorted(made.files) if re.fullmatch(r"events/\d+\.json", name)]
    roles = ("protocol", "config", "metrics", "environment")
    parts = [json.loads(files[f"eval/{role}.json"]) for role in roles]
    written = Written([json.loads(made.files[name]) for name in names], *parts)
    written.figures["environment"] = written.environment
    edit(written)
    parts = [written.plan, written.settings, written.figures, written.environment]
    files |= {f"eval/{r}.json": canonical.dumps(part) for r, part in zip(roles, parts, strict=True)}
    _log_digests(written, files)
    events = _chained(made, written.bodies)
    leaves = [bytes(32)] * BEFORE + [*(merkle.leaf_hash(event.raw) for event in events), bytes(32)]
    tree = Tree(leaves)
    head = notes.TreeHead(made.log.name, tree.size, tree.root())
    note = notes.sign_note(
        notes.checkpoint_text(head), name=made.log.name, private=made.log.private
    )
    for event in events:
        files[event.file] = event.raw
        files[statements.proof_name(event.case_seq)] = notes.proof_file(
            notes.InclusionProof(event.seq, tuple(tree.inclusion(event.seq)), note)
        )
    first = {"size": BEFORE, "root": notes.encode(tree.root(BEFORE))}
    path = [notes.encode(node) for node in tree.consistency(BEFORE)]
    files[statements.CONSISTENCY] = canonical.dumps({"first": first, "path": path})
    files[statements.CHECKPOINT] = note
    files[statements.STATEMENT] = _stated(made, events, head, files)
    return archive.write_archive(files)


def _log_digests(written: Written, files: Files) -> None:
    logged = (
        ("run.protocol_fixed", "sha256", "protocol"),
        ("adapter.created", "settings_sha256", "config"),
        ("run.verified", "figures_sha256", "metrics"),
    )
    for kind, key, role in logged:
        for body in written.bodies:
            if body["type"] == kind:
                body["data"][key] = hashlib.sha256(files[f"eval/{role}.json"]).hexdigest()


def _chained(made: Made, bodies: list[dict[str, Any]]) -> list[dossier.Event]:
    events: list[dossier.Event] = []
    bodies[-1]["data"]["events"] = len(bodies)
    for i, body in enumerate(bodies):
        body |= {"case_seq": i, "prev": events[-1].leaf.hex() if events else None}
        body["log"] = made.log.name
        events.append(dossier.Event(seq=BEFORE + i, case_seq=i, raw=canonical.dumps(body)))
    return events


def _stated(made: Made, events: list[dossier.Event], head: notes.TreeHead, files: Files) -> bytes:
    facts = run_facts(events)
    paths = evidence.run_files(facts)
    unchecked = lambda *args, **kwargs: None  # noqa: E731 (a forger leaves the checks out)
    with patch.multiple(evidence, check_attempt=unchecked, _check_figures=unchecked):
        stated = [
            {**fact, **evidence.run_details(files, paths[fact["run"]], fact)} for fact in facts
        ]
    for fact in facts:
        if "testResult" in paths[fact["run"]]:
            name = paths[fact["run"]]["testResult"]
            files[name] = attestations.test_result_statement(fact, key=made.attest)
    files.pop(statements.STATEMENT)
    predicate = {
        "case": events[0].body["case"],
        "caseHead": events[-1].leaf.hex(),
        "events": len(events),
        "log": {"origin": head.origin, "size": head.size, "root": notes.encode(head.root)},
        **conclusions(facts, events),
        "runs": [{**run, "files": paths[run["run"]]} for run in stated],
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return dsse.sign_statement(
        subject=[*subject_of(facts, events)],
        predicate_type=statements.EVIDENCE_TYPE,
        predicate=predicate,
        name=made.attest.name,
        private=made.attest.private,
    )


def refused(made: Made, data: bytes) -> Invalid:
    with pytest.raises(Invalid) as problem:
        verify(data, trust=made.trust)
    assert str(problem.value)
    return problem.value
