"""The audit log against pymerkle 7.0.0 (SqliteTree with its cache): the same entries in both, on
the same disk, in interleaved pairs.

Proofs and roots at 10,000, 100,000 and 1,000,000 entries: as pymerkle's cache fills from one proof
to the next, with the cache empty (the first proof of a process), and after two thousand proofs.
Then durable appends, SQLite with synchronous=FULL: ours with everything that an append does (lock,
chain of the case, nodes, head), pymerkle's with the journal it ships with and with ours (WAL):
there both wait for one fsync, and neither can be much faster. Last, the bundle of one case out of
the log of a million. Every proof is verified with the functions of the offline verifier, and every
root must equal pymerkle's.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import django
import pymerkle

from benchmarks import report, setting
from requests_app.verifier import canonical, merkle
from workers.summaries import bar

NAME = "audit"
SIZES = (10_000, 100_000, 1_000_000)
TIMES_FASTER, APPENDS_FASTER, BUNDLE_SECONDS = 50.0, 3.0, 0.5
PAIRS, COLD_PAIRS, WARMED_BY = 25, 3, 2000
APPENDS, TOGETHER = 100, 64
OF_A_CASE = 10  # entries
BATCH = 10_000
KINDS = ("inclusion", "consistency", "root")


def measure() -> report.Measured:
    """Seconds and ratios by size; the log is filled outside of the clock."""
    with setting.scratch() as root:
        install(root)
        figures: dict[str, Any] = {"seconds_of_an_fsync": fsync_seconds(root), "proofs": {}}
        file = str(root / "pymerkle.sqlite3")
        for size in SIZES:
            fill(file, size)
            report.progress(f"filled to {size}")
            figures["proofs"][str(size)] = proofs(file, size)
        figures["appends"] = appends(file)
        figures["bundle"] = bundle(root)
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    largest = max(figures["proofs"], key=int)
    found = []
    for kind in ("inclusion", "consistency"):
        faster = figures["proofs"][largest][kind]["as the cache fills"]["times faster"]
        name = f"{kind} proof of {largest}, times faster"
        found.append(bar(name, faster, TIMES_FASTER, faster >= TIMES_FASTER))
    for journal, each in figures["appends"]["one by one"].items():
        faster = each["times faster"]
        name = f"durable append, times faster, pymerkle's journal {journal}"
        found.append(bar(name, faster, APPENDS_FASTER, faster >= APPENDS_FASTER))
    seconds = figures["bundle"]["seconds"]
    return [
        *found,
        bar("bundle verified, seconds", seconds, BUNDLE_SECONDS, seconds < BUNDLE_SECONDS),
    ]


def install(root: Path) -> None:
    """An embedded installation of its own under `root`, migrated."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "rtbf.settings",
        "DATABASE_URL": f"sqlite:///{root / 'log.sqlite3'}",
        "RTBF_VAR_DIR": str(root),
        "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend",
        "RTBF_LOG_LEVEL": "ERROR",
    }
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from rtbf import celery_app

    celery_app.conf.broker_url = "memory://"  # nobody is there to be woken up
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    call_command("migrate", verbosity=0)


def fsync_seconds(root: Path) -> float:
    """What the disk makes every durable append wait: one page written and synced, the median."""
    found = []
    with (root / "page").open("wb", buffering=0) as file:
        for _ in range(50):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def fill(file: str, size: int) -> None:
    """Grow both logs to `size` entries, in bulk: cases of ten, chained as the product does it."""
    from django.db import connection, transaction

    from requests_app import audit
    from requests_app.models import AuditEntry, LogHead

    if not LogHead.objects.exists():
        with transaction.atomic():
            audit.append_entry(type="test.happened", actor="system:benchmark", data={})
        theirs_take(file, [bytes(row.body) for row in AuditEntry.objects.order_by("seq")])
    head = LogHead.objects.get()
    frontier = [bytes.fromhex(node) for node in head.frontier]
    case, number, prev = "", 0, None
    for start in range(head.size, size, BATCH):
        rows = []
        for seq in range(start, min(start + BATCH, size)):
            if not case or number == OF_A_CASE:
                case, number, prev = str(uuid4()), 0, None
            body = canonical.dumps(
                {
                    "v": 1,
                    "log": head.origin,
                    "case": case,
                    "case_seq": number,
                    "prev": prev,
                    "type": "test.filled",
                    "at": "2026-11-25T12:00:00Z",
                    "actor": "system:benchmark",
                    "data": {"number": seq, "digest": f"{seq:064x}"},
                }
            )
            nodes = merkle.completed(frontier, seq, merkle.leaf_hash(body))
            frontier = merkle.extend(frontier, nodes)
            stored = UUID(case).hex, number, "test.filled", body, nodes[0], b"".join(nodes[1:])
            rows.append((seq, *stored))
            number, prev = number + 1, nodes[0].hex()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO requests_app_auditentry"
                " (seq, case_id, case_seq, type, body, leaf_hash, nodes)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                rows,
            )
        theirs_take(file, [row[4] for row in rows])
    LogHead.objects.update(size=size, frontier=[node.hex() for node in frontier])


def theirs_take(file: str, bodies: list[bytes]) -> None:
    with pymerkle.SqliteTree(file) as tree:
        tree.append_entries(bodies)


def proofs(file: str, size: int) -> dict[str, Any]:
    """By kind and state of pymerkle's cache: median seconds of both, median and range of ratios."""
    draw = random.Random(size)  # noqa: S311
    found: dict[str, Any] = {}
    for kind in KINDS:
        with pymerkle.SqliteTree(file) as tree:
            filling = [pair(tree, kind, size, draw, turn) for turn in range(PAIRS)]
            for _ in range(WARMED_BY):
                tree.prove_inclusion(draw.randrange(size) + 1, size)
            warm = [pair(tree, kind, size, draw, turn) for turn in range(PAIRS)]
        found[kind] = {
            "as the cache fills": ratios(filling),
            "cache empty": ratios([cold(file, kind, size, draw, n) for n in range(COLD_PAIRS)]),
            f"after {WARMED_BY} proofs": ratios(warm),
        }
        faster = found[kind]["as the cache fills"]["times faster"]
        report.progress(f"{size}: {kind} {faster:.1f} times faster")
    return found


def cold(file: str, kind: str, size: int, draw: random.Random, turn: int) -> tuple[float, float]:
    """A pair as of two new processes; ours opens its connection within its time."""
    from django.db import connection

    with pymerkle.SqliteTree(file) as tree:
        connection.close()
        return pair(tree, kind, size, draw, turn)


def pair(
    tree: pymerkle.SqliteTree, kind: str, size: int, draw: random.Random, turn: int
) -> tuple[float, float]:
    """Seconds of ours and theirs for the same question, in turn; the answers are held together."""
    from requests_app import audit

    at = draw.randrange(size)
    first = draw.randrange(1, size)
    ways: dict[str, dict[str, Callable[[], Any]]] = {
        "inclusion": {
            "ours": partial(audit.inclusion_proof, at, size),
            "theirs": partial(tree.prove_inclusion, at + 1, size),
        },
        "consistency": {
            "ours": partial(audit.consistency_proof, first, size),
            "theirs": partial(tree.prove_consistency, first, size),
        },
        "root": {"ours": partial(audit.root, size), "theirs": partial(tree.get_root, size)},
    }
    answers, seconds = timed(ways[kind], turn)
    ours, theirs = answers["ours"], answers["theirs"]
    root = audit.root(size)
    if kind == "inclusion":
        leaf = tree.get_leaf(at + 1)
        merkle.verify_inclusion(leaf, index=at, size=size, path=ours, root=root)
        assert [leaf, *ours] == theirs.path
    elif kind == "consistency":
        old = audit.root(first)
        merkle.verify_consistency(
            first=first, second=size, path=ours, first_root=old, second_root=root
        )
        pymerkle.verify_consistency(old, root, theirs)
    else:
        assert ours == theirs
    return seconds["ours"], seconds["theirs"]


def timed(ways: dict[str, Callable[[], Any]], turn: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Answers and seconds of both ways, the first one being another every turn."""
    answers, seconds = {}, {}
    for way in sorted(ways, reverse=bool(turn % 2)):
        started = time.perf_counter()
        answers[way] = ways[way]()
        seconds[way] = time.perf_counter() - started
    return answers, seconds


def ratios(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    faster = [theirs / ours for ours, theirs in pairs]
    return {
        "ours_seconds": statistics.median(ours for ours, _ in pairs),
        "theirs_seconds": statistics.median(theirs for _, theirs in pairs),
        "times faster": statistics.median(faster),
        "range": [min(faster), max(faster)],
    }


def appends(file: str) -> dict[str, Any]:
    """Durable appends to the filled logs, with pymerkle's journal as it ships and as ours is."""
    from django.db import connection

    from requests_app import audit

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)
    found: dict[str, Any] = {"one by one": {}, f"{TOGETHER} in a transaction": {}}
    with pymerkle.SqliteTree(file) as tree:
        assert tree.con.execute("PRAGMA synchronous").fetchone() == 2  # FULL, as it ships
        for journal in ("delete", "wal"):
            assert tree.con.execute(f"PRAGMA journal_mode={journal}").fetchone() == journal
            for name, count, times in (
                ("one by one", 1, APPENDS),
                (f"{TOGETHER} in a transaction", TOGETHER, PAIRS),
            ):
                found[name][journal] = ratios(append_pairs(tree, count, times))
                faster = found[name][journal]["times faster"]
                report.progress(f"appends {name}, {journal}: {faster:.2f} times faster")
        size = tree.get_size()
        assert audit.root(size) == tree.get_root() == audit.read_log(size=size).root
    return found


def append_pairs(tree: pymerkle.SqliteTree, count: int, times: int) -> list[tuple[float, float]]:
    """Seconds of transactions with `count` entries of a case, ours and theirs.

    Theirs takes the bytes of our transactions one after the other, so that both logs stay the same.
    """
    waiting = [append_ours(count)]

    def theirs() -> None:
        bodies = waiting.pop(0)
        if count == 1:
            tree.append_entry(bodies[0])
        else:
            tree.append_entries(bodies)

    ways = {"ours": lambda: waiting.append(append_ours(count)), "theirs": theirs}
    pairs = []
    for turn in range(times):
        _, seconds = timed(ways, turn)
        pairs.append((seconds["ours"], seconds["theirs"]))
    theirs()
    return pairs


def append_ours(count: int) -> list[bytes]:
    """Bytes of `count` entries that a new case got in one transaction."""
    from django.db import transaction

    from requests_app import audit
    from requests_app.models import Case

    case = Case(id=uuid4())
    entries = []
    with transaction.atomic():
        for number in range(count):
            entry = audit.append_entry(
                type="test.happened",
                actor="system:benchmark",
                case=case,
                data={"number": number, "digest": f"{number:064x}"},
            )
            entries.append(bytes(entry.body))
    return entries


def bundle(root: Path) -> dict[str, Any]:
    """A whole case on the filled log, exported, signed, and verified by the command of auditors."""
    from django.conf import settings

    from requests_app import audit, dossier, keys
    from requests_app.actors import staff_actor
    from requests_app.exports import bundle as export
    from requests_app.services import cases
    from requests_app.signer import open_signer, sign_next
    from tests.factories import completed_case, make_staff

    keys.attest_key()
    case, actor = completed_case(), staff_actor(make_staff("auditor"))
    cases.export_case(case_id=case.id, actor=actor)
    started = time.perf_counter()
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        signer, checkpoint = sign_next(signer)
        first_signature = time.perf_counter() - started
        assert checkpoint is not None
        cases.export_case(case_id=case.id, actor=actor)
        started = time.perf_counter()
        assert sign_next(signer)[1] is not None
        next_signature = time.perf_counter() - started
    started = time.perf_counter()
    data = export.render(dossier.gather(case))
    rendered = time.perf_counter() - started
    (root / "bundle.zip").write_bytes(data)
    (root / "trust.txt").write_text(keys.trust_text())
    command = [sys.executable, "-m", "requests_app.verifier", str(root / "bundle.zip")]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [*command, "--trust", str(root / "trust.txt")], check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - started)
    return {
        "entries_of_the_log": checkpoint.size,
        "entries_of_the_case": len(audit.case_entries(case.id)),
        "bytes": len(data),
        "seconds": statistics.median(seconds),
        "rendered_seconds": rendered,
        "first_signature_seconds": first_signature,
        "next_signature_seconds": next_signature,
    }


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(OSError,)))
