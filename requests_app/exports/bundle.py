"""The evidence bundle: one ZIP that verifies offline (`python -m requests_app.verifier`).

Made as of the case's last `bundle.exported` or `case.sealed` entry, against the first signed
checkpoint that covers it and gets no more marks of others: asked for again, it has the same bytes.
It never holds adapter weights or personal data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.utils.translation import gettext_lazy as _

from requests_app import attestations, keys
from requests_app.dossier import BundleNotReady, Dossier, LogProofs, as_exported
from requests_app.exports import report_html
from requests_app.verifier import archive, canonical, notes, statements
from requests_app.verifier.errors import Invalid
from requests_app.verifier.evidence import run_files

OF = "case"
TITLE = _("Evidence bundle (signed, verifies offline)")
CONTENT_TYPE = "application/zip"
EXTENSION = "zip"

SCHEMAS = Path(statements.__file__).parent / "schemas"


def render(dossier: Dossier, *, since: int | None = None, annex: bytes = b"") -> bytes:
    """ZIP bytes; dossier.BundleNotReady until a signed checkpoint covers the export.

    `since`: size of a checkpoint that the auditor already holds (see dossier.as_exported). `annex`:
    the sealed annex to enclose, for its recipient (services.annexes).
    """
    exported = as_exported(dossier, since=since)
    approved = exported.last("annex.approved") or {}
    if annex and approved.get("sha256") != hashlib.sha256(annex).hexdigest():
        raise BundleNotReady(
            _("Prepare the bundle anew: the annex was approved after this export.")
        )
    log = exported.log
    if log is None:
        raise ValueError("An exported dossier has its log proofs.")
    key = keys.attest_key()
    files: dict[str, bytes] = {
        "README.txt": (SCHEMAS.parent / "README.txt").read_bytes(),
        "report.html": report_html.render(exported),
        statements.TRUST: log.trust.encode(),
        **({statements.ANNEX: annex} if annex else {}),
        **{f"schemas/{path.name}": path.read_bytes() for path in sorted(SCHEMAS.glob("*.json"))},
        **_log_files(exported, log),
    }
    facts = exported.run_facts
    paths = run_files(facts)
    for fact in facts:
        named = paths[fact["run"]]
        files.update({named[role]: data for role, data in _run_files(exported, fact, key).items()})
    try:
        statement = attestations.evidence_statement(exported, log=log, files=files, key=key)
    except Invalid as problem:
        raise BundleNotReady(
            _(
                "No statement can be signed about this case: its record does not back one."
                " %(problem)s"
            )
            % {"problem": problem}
        ) from None
    return archive.write_archive({**files, statements.STATEMENT: statement})


def _log_files(dossier: Dossier, log: LogProofs) -> dict[str, bytes]:
    """Events, their proofs, the checkpoint, and the consistency proof."""
    files = {
        statements.CHECKPOINT: log.note,
        statements.CONSISTENCY: canonical.dumps(
            {
                "first": {"size": log.first, "root": notes.encode(log.first_root)},
                "path": [notes.encode(node) for node in log.consistency],
            }
        ),
    }
    if log.stamp is not None:
        files[statements.STAMP] = log.stamp.response
        if log.stamp.chain:
            files[statements.STAMP_CHAIN] = log.stamp.chain
    for event, path in zip(dossier.events, log.inclusion, strict=True):
        files[event.file] = event.raw
        files[statements.proof_name(event.case_seq)] = notes.proof_file(
            notes.InclusionProof(index=event.seq, path=path, note=log.note)
        )
    return files


def _run_files(dossier: Dossier, fact: Mapping[str, Any], key: keys.SigningKey) -> dict[str, bytes]:
    """What a run stored, as of its logged events: nothing that was not logged by then."""
    run = dossier.run(fact["run"])
    files: dict[str, bytes] = {}
    if fact["protocol"] and run.protocol is not None:
        files["protocol"] = run.protocol
    if fact["adapter"]:
        files["config"] = canonical.dumps(run.settings)
    if fact["figures"] and run.evidence is not None:
        files["metrics"] = canonical.dumps(run.evidence)
        files["environment"] = canonical.dumps(run.evidence.get("environment"))
    if fact["figures"] and fact["adapter"]:
        files["testResult"] = attestations.test_result_statement(fact, key=key)
    return files
