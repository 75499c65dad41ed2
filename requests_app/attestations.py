"""Signed statements about a case: unlearning evidence, and the test result in in-toto's own words.

In-toto Statement v1 in a DSSE envelope, signed by the attest key. They say what was run and what
was measured, never more; `verifier.evidence` recomputes each fact from events and files, and what
it would refuse is not signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from requests_app.dossier import Dossier, LogProofs
from requests_app.keys import SigningKey
from requests_app.verifier import dsse, notes, statements
from requests_app.verifier.canonical import JSON
from requests_app.verifier.evidence import run_details, run_files, test_result_of
from requests_app.verifier.runs import conclusions, subject_of


def evidence_statement(
    dossier: Dossier, *, log: LogProofs, files: Mapping[str, bytes], key: SigningKey
) -> bytes:
    """Envelope of the statement about `dossier`; `files` are all the other files of the bundle.

    Deterministic. Raises verifier.errors.Invalid if the record does not back a statement.
    """
    facts, paths = dossier.run_facts, run_files(dossier.run_facts)
    predicate: dict[str, JSON] = {
        "case": str(dossier.case_id),
        "caseHead": dossier.events[-1].leaf.hex(),
        "events": len(dossier.events),
        "log": {"origin": log.origin, "size": log.size, "root": notes.encode(log.root)},
        **conclusions(facts, dossier.events),
        "runs": [
            {
                **fact,
                **run_details(files, paths[fact["run"]], fact),
                "files": paths[fact["run"]],
            }
            for fact in facts
        ],
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return dsse.sign_statement(
        subject=[*subject_of(facts, dossier.events)],
        predicate_type=statements.EVIDENCE_TYPE,
        predicate=predicate,
        name=key.name,
        private=key.private,
    )


def test_result_statement(fact: Mapping[str, Any], *, key: SigningKey) -> bytes:
    """Envelope of in-toto test-result/v0.1 for one verified run; its verdict in in-toto's words."""
    subject, predicate = test_result_of(fact)
    return dsse.sign_statement(
        subject=subject,
        predicate_type=statements.TEST_RESULT_TYPE,
        predicate=predicate,
        name=key.name,
        private=key.private,
    )
