"""Signed statements about a case: unlearning evidence, and the test result in in-toto's own words.

In-toto Statement v1 in a DSSE envelope, signed by the attest key. They say what was run and what
was measured, never more; `verifier.runs` recomputes each fact from the events of the case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from requests_app.dossier import Dossier, LogProofs
from requests_app.keys import SigningKey
from requests_app.verifier import dsse, notes, statements
from requests_app.verifier.canonical import JSON
from requests_app.verifier.runs import conclusions, subject_of, tests_of


def evidence_statement(
    dossier: Dossier,
    *,
    log: LogProofs,
    files: Mapping[str, bytes],
    run_files: Mapping[str, Mapping[str, str]],
    key: SigningKey,
) -> bytes:
    """Envelope of the statement about `dossier`; `files` are all the other files of the bundle.

    `run_files` maps a run to its files by role (protocol, config, metrics, environment,
    testResult). Deterministic.
    """
    predicate: dict[str, JSON] = {
        "case": str(dossier.case_id),
        "caseHead": dossier.events[-1].leaf.hex(),
        "events": len(dossier.events),
        "log": {"origin": log.origin, "size": log.size, "root": notes.encode(log.root)},
        **conclusions(dossier.run_facts, dossier.events),
        "runs": [
            {**fact, "tests": _tests(dossier, fact), "files": dict(run_files[fact["run"]])}
            for fact in dossier.run_facts
        ],
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return dsse.sign_statement(
        subject=[*subject_of(dossier.run_facts, dossier.events)],
        predicate_type=statements.EVIDENCE_TYPE,
        predicate=predicate,
        name=key.name,
        private=key.private,
    )


def test_result_statement(dossier: Dossier, fact: Mapping[str, Any], *, key: SigningKey) -> bytes:
    """Envelope of in-toto test-result/v0.1 for one verified run; its verdict in in-toto's words.

    PASSED: within thresholds; FAILED: not met; WARNED: inconclusive.
    """
    by_result: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "WARNED": []}
    for name, test in tests_of(fact).items():
        if test["result"] in by_result:
            by_result[test["result"]].append(name)
    protocol: JSON = {"name": "protocol.json", "digest": {"sha256": fact["protocol"]["sha256"]}}
    predicate: dict[str, JSON] = {
        "result": statements.RESULTS[fact["verdict"]],
        "configuration": [protocol],
        "passedTests": by_result["PASSED"],
        "warnedTests": by_result["WARNED"],
        "failedTests": by_result["FAILED"],
    }
    adapter = fact["adapter"]["sha256"]
    return dsse.sign_statement(
        subject=[{"name": "adapter_model.safetensors", "digest": {"sha256": adapter}}],
        predicate_type=statements.TEST_RESULT_TYPE,
        predicate=predicate,
        name=key.name,
        private=key.private,
    )


def _tests(dossier: Dossier, fact: Mapping[str, Any]) -> list[JSON]:
    """The logged estimates of a run's probes, each with its question and its result in a word."""
    questions = {probe.name: probe.question for probe in dossier.run(fact["run"]).probes}
    return [
        {"name": name, "question": questions[name], **test} for name, test in tests_of(fact).items()
    ]
