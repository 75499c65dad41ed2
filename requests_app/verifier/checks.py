"""The checks of a bundle, in this order; the first that fails is reported as `Invalid`.

 1. The archive has the one form that bundles have (archive.py): nothing hidden, nothing twice.
 2. `statement.dsse.json` is signed by a trusted attest key; only then is it read.
 3. The files are exactly those that the statement lists, with the digests it lists.
 4. `log/checkpoint` is signed by a trusted log key of its origin, and is the one stated; the
    cosignatures of pinned witnesses on it are good.
 5. Each event is canonical, of this case and log, continues the chain of the case, and is in the
    checkpointed tree at the index of its proof; the last one is the stated head of the case.
 6. The chain is closed by an entry that counts the case's entries, and no entry is dated long
    before the one it follows; otherwise a warning.
 7. The log at the start of the case is contained in the checkpointed log; with an earlier
    checkpoint of the auditor's own, that one is contained too.
 8. What two people have to decide was proposed by one and approved by another, models were erased
    from only as approved, and a sealed annex is the one approved.
 9. Each run is backed by events in the right order: test plan fixed before the adapter was made,
    adapter before it was tested, release after that; it ends with the verdict that was measured.
    No run is left out; further attempts keep the plan. Plan, settings, figures and environment are
    the files whose digests were logged, of this run; the verdict and the word for each test are
    judged anew by plan and figures. Claim, limits, method and what was not tested follow.
10. Each test-result statement is signed and agrees with its run.
11. A given adapter file is one that the statement names; a given receipt opens the commitments of
    an event here, byte for byte the one it carries.
12. Keys were valid at the size of the log; a key retired or revoked since is a warning. Witnesses
    were pinned, but none has cosigned: a warning.
13. The limits of the claim are part of the result; an unpinned trust file never authenticates.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from . import archive, canonical, dsse, merkle, notes, receipts, statements
from .decisions import check_decisions
from .errors import Invalid
from .evidence import check_runs, test_result_of
from .notes import Cosignature, NoteKey, TreeHead
from .trust import Trust, parse_trust

EVENT_FIELDS = {"v", "log", "case", "case_seq", "prev", "type", "at", "actor", "data"}
PREDICATE_FIELDS = 9
CLOCKS_DIFFER = timedelta(minutes=5)  # at most, between the machines of an installation


@dataclass(frozen=True)
class Event:
    """One entry of the case: its index in the log, its file, its parsed body."""

    seq: int
    file: str
    body: Mapping[str, Any]
    leaf: bytes
    raw: bytes


@dataclass(frozen=True)
class Result:
    """What was checked: `authenticated` only with pinned keys; read `limitations` in any case."""

    case: str
    claim: str
    outcome: str  # of the decision, empty before one was approved
    as_of: str  # when the last entry in here was written, by the log
    head: TreeHead
    events: int
    runs: tuple[Mapping[str, Any], ...]
    authenticated: bool
    warnings: tuple[str, ...]
    limitations: tuple[str, ...]
    cosignatures: tuple[Cosignature, ...] = ()  # of pinned witnesses
    opened: tuple[int, tuple[str, ...]] | None = None  # entry and fields that a receipt opens


def verify(
    bundle: bytes,
    *,
    trust: Trust | None = None,
    adapter_sha256: str | None = None,
    since: bytes | None = None,
    opening: bytes | None = None,
) -> Result:
    """Check a bundle against pinned keys; without `trust`, only whether it agrees with itself.

    `adapter_sha256` is the hex digest of an adapter file to look for, `since` an earlier checkpoint
    note, `opening` a receipt file. Raises Invalid.
    """
    files = archive.read_archive(bundle)  # 1
    if trust is None:
        informative = _file(files, statements.TRUST)
        trust = parse_trust(informative, pinned=False, file=statements.TRUST)
    attest = trust.for_purpose("attest")
    statement, attest_key = dsse.open_statement(  # 2
        _file(files, statements.STATEMENT),
        attest,
        predicate_type=statements.EVIDENCE_TYPE,
        file=statements.STATEMENT,
    )
    predicate = _predicate(statement)
    _check_files(files, predicate)  # 3
    head, log_keys = _check_checkpoint(files, predicate, trust.for_purpose("log"))  # 4
    witnesses = trust.for_purpose("witness") if trust.pinned else []
    cosigned = notes.cosignatures(
        files[statements.CHECKPOINT], witnesses, file=statements.CHECKPOINT
    )
    events = _check_events(files, predicate, head)  # 5
    warnings = [_check_closed(events), _check_dates(events)]  # 6
    _check_consistency(files, events[0], head, since, trust.for_purpose("log"))  # 7
    check_decisions(events)  # 8
    _check_annex(files, events)
    check_runs(files, statement, events)  # 9
    _check_test_results(files, predicate, attest)  # 10
    _check_adapter(statement, adapter_sha256)  # 11
    opened = _check_opening(opening, events)
    for signers, purpose, file in (  # 12
        ([attest_key], "attest", statements.STATEMENT),
        (log_keys, "log", statements.CHECKPOINT),
    ):
        warnings.append(trust.check_size(signers, purpose, head.size, cosigned=cosigned, file=file))
    if witnesses and not cosigned:
        warnings.append("None of the witnesses that the trust file names has cosigned.")
    return Result(  # 13
        case=predicate["case"],
        claim=predicate["claim"]["name"],
        outcome=predicate["outcome"] or "",
        as_of=events[-1].body["at"],
        head=head,
        events=len(events),
        runs=tuple(predicate["runs"]),
        authenticated=trust.pinned,
        warnings=tuple(warning for warning in warnings if warning),
        limitations=(
            *(f"{name}: {statements.LIMITATIONS[name]}" for name in predicate["limitations"]),
            *(() if cosigned else (statements.NO_WITNESS,)),
            *((statements.STAMP_UNCHECKED,) if statements.STAMP in files else ()),
        ),
        cosignatures=cosigned,
        opened=opened,
    )


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise Invalid("The file is missing from the bundle.", file=name)
    return files[name]


def _predicate(statement: Mapping[str, Any]) -> Mapping[str, Any]:
    """The predicate, once its shape is what the later checks rely on."""
    match statement["predicate"]:
        case {
            "case": str(),
            "caseHead": str(),
            "events": int(),
            "log": {"origin": str(), "size": int(), "root": str()},
            "claim": dict(),
            "outcome": _,
            "runs": list(runs),
            "limitations": list(),
            "files": dict(),
        } as predicate if len(predicate) == PREDICATE_FIELDS:
            if all(isinstance(run, dict) for run in runs):
                return dict(predicate)
    raise Invalid("The statement does not have the form of its type.", file=statements.STATEMENT)


def _check_files(files: Mapping[str, bytes], predicate: Mapping[str, Any]) -> None:
    listed = predicate["files"]
    for name in sorted(set(files) - {statements.STATEMENT} - set(listed)):
        raise Invalid("The file is not listed in the statement.", file=name)
    for name, digest in listed.items():
        if hashlib.sha256(_file(files, name)).hexdigest() != digest:
            raise Invalid("The content is not what the statement lists.", file=name)


def _check_checkpoint(
    files: Mapping[str, bytes], predicate: Mapping[str, Any], keys: list[NoteKey]
) -> tuple[TreeHead, tuple[NoteKey, ...]]:
    file = statements.CHECKPOINT
    head, signers = notes.open_checkpoint(_file(files, file), keys, file=file)
    stated = {"origin": head.origin, "size": head.size, "root": notes.encode(head.root)}
    if predicate["log"] != stated:
        raise Invalid("The checkpoint is not the one that the statement names.", file=file)
    return head, signers


def _check_events(
    files: Mapping[str, bytes], predicate: Mapping[str, Any], head: TreeHead
) -> list[Event]:
    count = predicate["events"]
    names = {name for name in files if name.startswith("events/")}
    expected = {f(i) for i in range(count) for f in (statements.event_file, statements.proof_name)}
    if count < 1 or names != expected:
        raise Invalid(f"The bundle does not hold exactly the {count} events stated.", file="events")
    events: list[Event] = []
    for number in range(count):
        events.append(_check_event(files, number, events, predicate["case"], head))
    if events[-1].leaf.hex() != predicate["caseHead"]:
        raise Invalid("The last event is not the stated head of the case.", file=events[-1].file)
    return events


def _check_event(
    files: Mapping[str, bytes], number: int, earlier: list[Event], case: str, head: TreeHead
) -> Event:
    file, proof_file = statements.event_file(number), statements.proof_name(number)
    data = files[file]
    proof = notes.parse_proof(files[proof_file], file=proof_file)
    if proof.note != files[statements.CHECKPOINT]:
        raise Invalid("The proof is for another checkpoint than log/checkpoint.", file=proof_file)
    leaf = merkle.leaf_hash(data)
    try:
        merkle.verify_inclusion(
            leaf, index=proof.index, size=head.size, path=proof.path, root=head.root
        )
    except merkle.ProofError as problem:
        raise Invalid(f"The event is not in the log: {problem}.", file=proof_file) from None
    body = canonical.loads(data, file=file)
    prev = earlier[-1].leaf.hex() if earlier else None
    stated = {"v": 1, "log": head.origin, "case": case, "case_seq": number, "prev": prev}
    if not isinstance(body, dict) or set(body) != EVENT_FIELDS:
        raise Invalid("The event does not have the fields of version 1.", file=file)
    for field, value in stated.items():
        if body[field] != value:
            raise Invalid(f"“{field}” is not what this place in the chain asks for.", file=file)
    texts = (body["type"], body["at"], body["actor"])
    well_formed = all(isinstance(text, str) for text in texts) and _time(body["at"]) is not None
    if not well_formed or not isinstance(body["data"], dict):
        raise Invalid("The event does not have the form of version 1.", file=file)
    if earlier and proof.index <= earlier[-1].seq:
        raise Invalid("The event is in the log before the one it follows.", file=proof_file)
    return Event(seq=proof.index, file=file, body=body, leaf=leaf, raw=data)


def _check_annex(files: Mapping[str, bytes], events: list[Event]) -> None:
    """A sealed annex is the one that two people approved last; a bundle need not enclose it."""
    if statements.ANNEX in files:
        found = [e.body["data"] for e in events if e.body["type"] == "annex.approved"]
        digest = hashlib.sha256(files[statements.ANNEX]).hexdigest()
        if not found or found[-1].get("sha256") != digest:
            raise Invalid("The annex is not the one that was approved.", file=statements.ANNEX)


def _check_closed(events: list[Event]) -> str:
    last = events[-1].body
    if last["type"] not in statements.CLOSING:
        return "The chain of the case is not closed: later entries may have been left out."
    if last["data"].get("events") != len(events):
        return "The entry that closes the chain counts another number of entries."
    return ""


def _check_dates(events: list[Event]) -> str:
    for earlier, later in itertools.pairwise(events):
        before, after = _time(earlier.body["at"]), _time(later.body["at"])
        if before and after and after < before - CLOCKS_DIFFER:
            return f"{later.file} is dated before the entry that it follows: {later.body['at']}."
    return ""


def _time(text: str) -> datetime | None:
    """A time of the log, in UTC; None for another spelling."""
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text, re.ASCII) is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _check_consistency(
    files: Mapping[str, bytes],
    first_event: Event,
    head: TreeHead,
    since: bytes | None,
    keys: list[NoteKey],
) -> None:
    file = statements.CONSISTENCY
    match canonical.loads(_file(files, file), file=file):
        case {"first": {"size": int(size), "root": str(root)}, "path": list(path), **rest} if (
            not rest and not isinstance(size, bool)
        ):
            first_root = notes.decode(root, file=file)
        case _:
            raise Invalid("The file is not a consistency proof.", file=file)
    try:
        merkle.verify_consistency(
            first=size,
            second=head.size,
            path=notes.hashes(path, file=file),
            first_root=first_root,
            second_root=head.root,
        )
    except merkle.ProofError as problem:
        raise Invalid(f"The log was not only appended to: {problem}.", file=file) from None
    if since is None:
        if size > first_event.seq:
            raise Invalid("The proof does not begin before the case does.", file=file)
        return
    seen, _ = notes.open_checkpoint(since, keys, file="--since")
    if seen.origin != head.origin:
        raise Invalid(f"The earlier checkpoint is of another log, {seen.origin}.", file="--since")
    if seen.size != size:
        raise Invalid(
            f"The proof begins at {size} entries, the earlier checkpoint at {seen.size}. Ask for a"
            f" bundle made with --since {seen.size}.",
            file=file,
        )
    if seen.root != first_root:
        raise Invalid(
            "The log does not contain the earlier checkpoint: the history was rewritten.", file=file
        )


def _check_test_results(
    files: Mapping[str, bytes], predicate: Mapping[str, Any], keys: list[NoteKey]
) -> None:
    for run in predicate["runs"]:
        file = run["files"].get("testResult")
        if file is None:
            continue
        statement, _ = dsse.open_statement(
            _file(files, file), keys, predicate_type=statements.TEST_RESULT_TYPE, file=file
        )
        subject, expected = test_result_of(run)
        for stated, value in ((statement["subject"], subject), (statement["predicate"], expected)):
            if canonical.dumps(stated) != canonical.dumps(value):
                raise Invalid("The test result does not agree with the statement.", file=file)


def _check_adapter(statement: Mapping[str, Any], sha256: str | None) -> None:
    if sha256 is None:
        return
    runs = statement["predicate"]["runs"]
    digests = [run["adapter"]["sha256"] for run in runs if run["adapter"]]
    digests += [run["served"]["adapter_sha256"] for run in runs if run["served"]]
    if sha256 not in digests:
        raise Invalid(
            f"The adapter file has the digest {sha256}; the statement names another.",
            file=statements.STATEMENT,
        )


def _check_opening(
    opening: bytes | None, events: list[Event]
) -> tuple[int, tuple[str, ...]] | None:
    if opening is None:
        return None
    receipt = receipts.parse_receipt(opening)
    fields = receipts.check_openings(receipt)
    if (receipt.entry, receipt.body) not in ((event.seq, event.raw) for event in events):
        raise Invalid("The receipt is not of a case in this bundle.", file="receipt")
    return receipt.entry, fields
