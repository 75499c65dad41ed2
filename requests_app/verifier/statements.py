"""What bundles state: types, file names, claims, limits; one place for writer and verifier."""

from __future__ import annotations

EVIDENCE_TYPE = "https://rtbf.example/attestation/unlearning-evidence/v1"
TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1"

STATEMENT = "statement.dsse.json"
CHECKPOINT = "log/checkpoint"
STAMP = "log/checkpoint.tsr"  # RFC 3161, over the bytes of log/checkpoint
STAMP_CHAIN = "log/tsa-chain.pem"
CONSISTENCY = "log/consistency.json"
TRUST = "keys/trust.txt"
ANNEX = "annex.sealed"

CLOSING = frozenset({"bundle.exported", "case.sealed"})  # entries that count the case's entries

# Claims, from weak to strong; each says only what the record can carry.
REQUEST_RECORDED = "request-recorded"
PROCEDURE_EXECUTED = "procedure-executed"
SUPPRESSION_MEASURED = "suppression-measured"
SUPPRESSION_IN_WEIGHTS = "suppression-in-weights"
EXACT_BY_CONSTRUCTION = "exact-by-construction"
SUPPRESSION_NOT_KEPT = "suppression-not-kept"
ERASURE_REVOKED = "erasure-revoked"
CLAIMS = {
    REQUEST_RECORDED: "The request was received and handled as logged.",
    PROCEDURE_EXECUTED: "The procedure ran and produced the adapter; the tests did not end within"
    " the agreed thresholds, or did not end.",
    SUPPRESSION_MEASURED: "With the adapter active, the tests fixed beforehand measured suppression"
    " within the agreed thresholds.",
    SUPPRESSION_IN_WEIGHTS: "In the consolidated weights, without an adapter, the tests fixed"
    " beforehand measured suppression within the agreed thresholds.",
    EXACT_BY_CONSTRUCTION: "The weights now served were trained anew on data that the training gate"
    " had let pass without the person's records, and the weights before them are kept out of"
    " service. This is exact by construction, for these weights, as far as the records found were"
    " all there were; the tests fixed beforehand were within the agreed thresholds on them.",
    SUPPRESSION_NOT_KEPT: "The tests fixed beforehand measured suppression within the agreed"
    " thresholds; measured again later, on the release then in service, it was not within them.",
    ERASURE_REVOKED: "The erasure was carried out and later taken back by two people: its adapter"
    " is no longer in force.",
}

BY_LEVEL = {  # what is claimed of a case that is in force on all models and within thresholds
    "gated": SUPPRESSION_MEASURED,
    "merged": SUPPRESSION_IN_WEIGHTS,
    "exact": EXACT_BY_CONSTRUCTION,
}

# How a run's case stands on its model; each says where suppression was measured.
SCOPES = {
    "none": "none",
    "revoked": "none",
    "gated": "adapter-active",
    "merged": "served-weights",
    "exact": "served-weights",
}

WITHIN = "within_thresholds"
NOT_MET = "not_met"
INCONCLUSIVE = "inconclusive"
RESULTS = {WITHIN: "PASSED", NOT_MET: "FAILED", INCONCLUSIVE: "WARNED"}  # in-toto's words

LIMITATIONS = {
    "L1": "It is not proof that the information has been removed from the model's parameters."
    " Current science offers no such proof for large language models.",
    "L2": "The information may still be present in the original model and may be recoverable if the"
    " adapter is removed, or by further training, compression of the model, or prompts not covered"
    " by the tests.",
    "L3": "It does not show that the recorded inputs were truthful; it shows that the record has"
    " not changed since.",
    "L4": "It covers only the systems that the record names, not other copies, backups, search"
    " indexes or recipients.",
    "L5": "The results apply to the release identified by its digest; later changes require renewed"
    " testing.",
    "L6": "It is not legal advice and does not decide whether Article 17 GDPR is satisfied; that"
    " assessment rests with the controller and, where applicable, the supervisory authority.",
    "L7": "More than one attempt was measured, the later ones with other wordings about the same"
    " facts, and the last one counts. Each further attempt makes it likelier that a result lies"
    " within the thresholds by chance. All attempts are in the record.",
    "L8": "Copies of the earlier weights, such as backups and what others hold, still contain the"
    " information, and further training or compression of the new weights, or prompts not covered"
    " by the tests, may bring it back.",
    "L9": "It rests on the operator's records of what the weights were trained on. Texts about the"
    " person that no known identifier leads to, such as a misspelled name or somebody else's"
    " account, may have been in that data. Copies of the earlier weights, such as backups and what"
    " others hold, still contain the information.",
}
SEVERAL_ATTEMPTS = "L7"  # only where a model of the case was measured more than once
LIMITS = {  # by level; without a level no model was touched
    "none": ("L3", "L4", "L6"),
    "revoked": ("L3", "L4", "L6"),
    "gated": ("L1", "L2", "L3", "L4", "L5", "L6"),
    "merged": ("L1", "L3", "L4", "L5", "L6", "L8"),
    "exact": ("L3", "L4", "L5", "L6", "L9"),
}
NO_WITNESS = (
    "No witness that the trust file names has cosigned the checkpoint: whoever holds the log key"
    " could have written another history before handing this one out."
)
ONE_HISTORY = (  # in reports, which do not know whom their reader trusts
    "Whoever holds the log key could have written another history of the log. That there is only"
    " one is shown by nothing but the cosignature of a witness whose key the reader has from the"
    " witness itself; the verifier says who cosigned."
)
STAMP_UNCHECKED = (
    "The enclosed time stamp (log/checkpoint.tsr) was not checked here; README.txt says how to."
)


def event_file(case_seq: int) -> str:
    return f"events/{case_seq:04d}.json"


def proof_name(case_seq: int) -> str:
    return f"events/{case_seq:04d}.tlog-proof"


def result_word(*, holds: bool | None, threshold: str) -> str:
    """The result of one test in a word, from what was logged of it; for writer and verifier.

    Without a decision (`holds` null) a test with a threshold is WARNED, one without informs only.
    """
    if holds is None:
        return "WARNED" if threshold else "INFORMATIONAL"
    return "PASSED" if holds else "FAILED"
