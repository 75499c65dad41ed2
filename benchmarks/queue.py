"""The queue of a million cases on PostgreSQL: pages, filters, tabs, search and notice, by Django's
test client, with all that a request does (session, middleware, templates).

The cases are spread over five years up to today, as they would be: most sealed, their keys
destroyed; those answered within the last ninety days readable; open ones received lately, a few of
them late. They are written by SQL in bulk, with runs, scope and letters; vault items are those that
a page can show. The model `newer` has the cases of the last year alone. Deep pages are held against
Django's Paginator (COUNT and OFFSET) in interleaved pairs that must show the same cases.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import django

from benchmarks import report, setting
from benchmarks.on_postgres import installed
from workers.summaries import bar

NAME = "queue"
CASES = 1_000_000
MILLISECONDS, QUERIES, GROWTH_KB, TIMES_FASTER = 100.0, 12, 2048, 50.0
REPEATS, PAIRS, LONG, WARM = 15, 9, 200, 40
YEARS_OF_DAYS = 1826
KEPT_DAYS = 90
DEEP = (0.1, 0.5, 0.9)
CUT = 1000
ADDRESS = "person0@mailbox0.example"

SUBJECTS = """
INSERT INTO requests_app_datasubject (id, created_at)
SELECT md5('subject' || n)::uuid, now() FROM generate_series(1, %(cases)s) n
"""

# `draw` in [0, 1) is another one for each use; `age` in days falls evenly over five years.
CASE_ROWS = """
INSERT INTO requests_app_case (
    id, reference, subject_id, status, channel, language, on_behalf, owner_id, jurisdiction,
    calendar, calendar_version, received_at, received_on, base_due_raw, base_due, extension_due,
    internal_due, due, extended_on, extension_cause, code_digest, code_attempts, access_digest,
    contact_digest, identity_method, completed_at, withdrawn_at, sealed_at, updated_at)
WITH numbered AS (
    SELECT n, random() AS draw, random() AS outcome, random() AS whose, random() AS extended,
           (%(cases)s - n) * %(days)s / %(cases)s AS age
    FROM generate_series(1, %(cases)s) n
), dated AS (
    SELECT *, current_date - age::int AS received FROM numbered
), due AS (
    SELECT *, (received + interval '1 month')::date AS raw,
           (received + interval '1 month')::date
           + CASE extract(isodow FROM received + interval '1 month')
             WHEN 6 THEN 2 WHEN 7 THEN 1 ELSE 0 END AS base,
           (received + interval '3 months')::date + 2 AS later
    FROM dated
), state AS (
    SELECT *, CASE
        WHEN age < 35 AND draw < 0.62 OR age BETWEEN 35 AND 120 AND draw < 0.02 THEN
            (ARRAY['awaiting_confirmation', 'identity_check', 'identity_check', 'in_review',
                   'in_review', 'in_review', 'awaiting_approval', 'executing', 'evidence_review',
                   'responding'])[1 + floor(outcome * 10)::int]
        WHEN age < %(kept)s + 35 THEN CASE WHEN outcome < 0.1 THEN 'withdrawn' ELSE 'completed' END
        ELSE 'sealed' END AS status
    FROM due
)
SELECT md5('case' || n)::uuid,
       'ERQ-' || extract(year FROM received) || '-'
           || lpad(n::text, greatest(6, length(n::text)), '0'),
       md5('subject' || n)::uuid, status,
       (ARRAY['form', 'form', 'form', 'form', 'post', 'phone', 'api'])[1 + floor(draw * 7)::int],
       (ARRAY['en', 'en', 'en', 'en', 'de', 'de', 'fr', 'fr', 'es', 'it', 'pl', 'mt'])
           [1 + floor(whose * whose * 12)::int],
       false, CASE WHEN whose < 0.8 THEN (%(owners)s)[1 + floor(whose / 0.8 * %(staff)s)::int] END,
       'EU/2026-1', 'BE', '2026', received + time '10:00', received, raw, base, later, base,
       CASE WHEN extended < 0.05 THEN later ELSE base END,
       CASE WHEN extended < 0.05 THEN base END,
       CASE WHEN extended < 0.05 THEN 'complexity' ELSE '' END,
       '', 0, '', CASE WHEN status = 'sealed' THEN '' ELSE md5('contact' || n %% 900000) END,
       '', CASE WHEN status IN ('completed', 'sealed')
               THEN received + time '12:00' + interval '20 days' END,
       CASE WHEN status = 'withdrawn' THEN received + time '12:00' END,
       CASE WHEN status = 'sealed' THEN received + time '12:00' + interval '110 days' END,
       CASE WHEN status IN ('completed', 'withdrawn', 'sealed')
            THEN received + time '12:00' + interval '20 days'
            ELSE now() - interval '1 minute' - outcome * interval '20 days' END
FROM state
"""

AROUND = (
    # a model for each, and for a third their records too
    "INSERT INTO requests_app_scopeitem (case_id, kind, target, result, exemption) "
    "SELECT id, 'model', CASE WHEN received_on > current_date - 365"
    " AND hashtext(reference) %% 2 = 0 THEN 'newer' ELSE 'demo' END, 'erase', ''"
    " FROM requests_app_case",
    "INSERT INTO requests_app_scopeitem (case_id, kind, target, result, exemption) "
    "SELECT id, 'data_store', 'customer-records', 'erase', '' FROM requests_app_case "
    "WHERE hashtext(reference) %% 3 = 0",
    # a run for each that was granted; one in a hundred failed
    "INSERT INTO requests_app_erasurerun (id, case_id, model_name, number, state, phase, verdict,"
    " seed, protocol_sha256, seconds, error, created_at, leases, lease_owner, fence) "
    "SELECT md5('run' || id)::uuid, id, 'demo', 1, CASE WHEN hashtext(reference) %% 100 = 0"
    " THEN 'failed' WHEN status = 'executing' THEN 'queued' ELSE 'succeeded' END, 'done', '', 0,"
    " '', '{}', '', received_at + interval '9 days', 1, '', 1 FROM requests_app_case "
    "WHERE status IN ('executing', 'evidence_review', 'responding', 'completed', 'sealed')",
    # the answer of each that was completed; one in ten thousand came back
    "INSERT INTO requests_app_letter (case_id, kind, language, template_version, sha256,"
    " created_at, sent_at, tries, bounced_at) SELECT id, 'erasure', language, '1', '',"
    " completed_at, completed_at, 1, CASE WHEN hashtext(reference) %% 10000 = 0 THEN completed_at"
    " END FROM requests_app_case WHERE completed_at IS NOT NULL",
    "INSERT INTO requests_app_casekey (case_id, destroyed_at) "
    "SELECT id, sealed_at FROM requests_app_case WHERE status = 'sealed'",
    "VACUUM ANALYZE",
)


def measure(cases: int) -> report.Measured:
    """Milliseconds and queries of each page, growth of the process, and pairs at deep pages."""
    with setting.scratch() as root, installed(root, RTBF_MODELS="demo,newer,unused"):
        seconds = fill(cases)
        client = staff_client()
        addresses = pages(client)
        figures: dict[str, Any] = {"cases": cases, "seconds_to_fill": seconds, "by_state": states()}
        figures["pages"] = {name: page(ask) for name, ask in addresses.items()}
        figures["kilobytes_grown"] = growth(addresses)
        figures["deep"] = {str(share): deep(share) for share in DEEP}
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    pages = figures["pages"]
    slowest = max(pages, key=lambda name: pages[name]["median_ms"])
    busiest = max(pages, key=lambda name: pages[name]["queries"])
    for name, value, limit in (
        (f"slowest page ({slowest}), milliseconds", pages[slowest]["median_ms"], MILLISECONDS),
        (f"queries of a page ({busiest})", pages[busiest]["queries"], QUERIES),
        (f"kilobytes grown in {LONG} requests", figures["kilobytes_grown"], GROWTH_KB),
    ):
        found.append(bar(name, value, limit, value <= limit))
    faster = figures["deep"][str(DEEP[1])]["times faster"]
    name = "page in the middle, times faster than Paginator"
    return [*found, bar(name, faster, TIMES_FASTER, faster >= TIMES_FASTER)]


def fill(cases: int) -> float:
    """Write the cases and what belongs to them; seconds."""
    from django.db import connection

    from requests_app.models import StaffMember
    from tests.factories import make_staff

    started = time.perf_counter()
    for role in ("officer", "approver", "intake"):
        for _ in range(10):
            make_staff(role)
    owners = list(StaffMember.objects.order_by("pk").values_list("pk", flat=True))
    values: dict[str, Any] = {
        "cases": cases, "days": YEARS_OF_DAYS, "kept": KEPT_DAYS, "owners": owners,
        "staff": len(owners),
    }  # fmt: skip
    with connection.cursor() as cursor:
        for statement in (SUBJECTS, CASE_ROWS, *AROUND):
            cursor.execute(statement, values)
            report.progress(
                f"{time.perf_counter() - started:.0f} s: {statement.split('(')[0][:60]}"
            )
    write_vault()
    return round(time.perf_counter() - started, 1)


def write_vault() -> None:
    """Keys and e-mail addresses of the cases that are not sealed, as the vault makes them."""
    from django.db import connection

    from requests_app import vault
    from requests_app.models import Case, VaultItem
    from requests_app.models.vault import CaseKey
    from requests_app.services.duplicates import contact_digest

    kek, keys, items = vault._kek(), [], []
    for number, case in enumerate(Case.objects.exclude(status="sealed").only("pk").iterator()):
        of, key = str(case.pk), os.urandom(vault.KEY_BYTES)
        address = vault._encode(f"person{number}@mailbox{number % 50}.example")
        ciphertext = vault._seal(key, address, vault._aad(of, "email", 1))
        keys.append(CaseKey(case=case, wrapped=vault._seal(kek, key, vault._aad("key", of))))
        items.append(VaultItem(case=case, name="email", ciphertext=ciphertext))
    CaseKey.objects.bulk_create(keys, batch_size=5000)
    VaultItem.objects.bulk_create(items, batch_size=5000)
    Case.objects.filter(pk=items[0].case_id).update(contact_digest=contact_digest(ADDRESS))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def states() -> dict[str, int]:
    from django.db.models import Count

    from requests_app.models import Case

    found = Case.objects.values_list("status").annotate(Count("pk")).order_by("status")
    return dict(found)


def staff_client() -> Any:
    """A browser of an officer who owns cases."""
    from requests_app.models import StaffMember
    from tests.staff import as_staff

    return as_staff(StaffMember.objects.filter(role="officer").order_by("pk")[0])


def pages(client: Any) -> dict[str, Callable[[], Any]]:
    """What is asked for, by name: tabs, filters, orders, deep pages, the notice, searches."""
    from requests_app.models import Case, ErasureRun, StaffMember
    from requests_app.queue_selectors import VIEWS

    today = django.utils.timezone.localdate()
    owner = StaffMember.objects.order_by("pk")[5].pk
    queries = {f"tab {name}": f"view={name}" for name in VIEWS}
    for view in ("open", "closed", "all"):
        queries |= {
            f"{view}, {name}": f"view={view}&{query}"
            for name, query in {
                "owner": f"owner={owner}",
                "nobody's": "owner=none",
                "language common": "language=en",
                "language rare": "language=mt",
                "language of nobody": "language=ga",
                "model": "model=demo",
                "model newer": "model=newer",
                "model of nobody": "model=unused",
                "due in a week": f"due_from={today}&due_to={today + timedelta(days=7)}",
                "due a year long": f"due_from={today - timedelta(days=900)}"
                f"&due_to={today - timedelta(days=535)}&sort=-due",
                "owner, language and model": f"owner={owner}&language=fr&model=newer",
                "latest due first": "sort=-due",
                "earliest received first": "sort=received",
                "latest received first": "sort=-received",
            }.items()
        }
    queries |= {
        "reference": f"reference={Case.objects.order_by('due')[CUT].reference}",
        "beginning of a reference": f"reference=ERQ-{today.year - 1}",
        "number": "reference=4711",
        "state sealed": "status=sealed",
        "state executing, latest received": "status=executing&sort=-received",
    }
    for view in ("open", "all"):
        for share in DEEP:
            queries[f"{view}, at {share:.0%}"] = f"view={view}&at={key_at(view, share)}"
    run = ErasureRun.objects.order_by("pk")[0]
    found: dict[str, Callable[[], Any]] = {
        name: partial(client.get, f"/app/cases?{query}") for name, query in queries.items()
    }
    first = client.get("/app/cases").content.decode()
    notice = first.split('hx-get="')[1].split('"')[0].replace("&amp;", "&")
    return found | {
        "today": partial(client.get, "/app/"),
        "notice": partial(client.get, notice),
        "search by reference": partial(client.post, "/app/search", {"q": f"ERQ-{today.year}"}),
        "search by run": partial(client.post, "/app/search", {"q": str(run.pk)[:8]}),
        "search by address": partial(client.post, "/app/search", {"q": ADDRESS}),
    }


def key_at(view: str, share: float) -> str:
    """The signed key of the page that begins after this share of a view."""
    from requests_app import queue_selectors
    from requests_app.models import Case

    found, order = listing(view)
    at = int(found.count() * share)
    sign = "-" if order.startswith("-") else ""
    case: Case = found.order_by(order, f"{sign}pk")[at]
    return queue_selectors._key(case, order, back=False)


def listing(view: str) -> tuple[Any, str]:
    from requests_app.models import Case, StaffMember
    from requests_app.queue_selectors import Wanted, condition

    wanted = Wanted(StaffMember.objects.order_by("pk")[0], view=view)
    return Case.objects.filter(condition(wanted)).select_related("owner"), wanted.order


def page(ask: Callable[[], Any]) -> dict[str, Any]:
    """Median and largest milliseconds of the whole request, of them the processor time of this
    process; its queries, and the milliseconds that those of a first request took."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        answer = ask()
    queries = list(captured)
    assert answer.status_code in (200, 204), answer.status_code
    taken, worked = [], []
    for _ in range(REPEATS):
        started, busy = time.perf_counter(), time.process_time()
        ask()
        taken.append(1000 * (time.perf_counter() - started))
        worked.append(1000 * (time.process_time() - busy))
    return {
        "median_ms": round(statistics.median(taken), 1),
        "most_ms": round(max(taken), 1),
        "of_them_python_ms": round(statistics.median(worked), 1),
        "queries": len(queries),
        "database_ms": round(1000 * sum(float(each["time"]) for each in queries), 1),
        "shown": answer.content.count(b"data-reference="),
    }


def growth(addresses: dict[str, Callable[[], Any]]) -> int:
    """Kilobytes by which this process grows over `LONG` requests, after some to warm up."""
    asks = list(addresses.values())
    for number in range(WARM):
        asks[number % len(asks)]()
    before = resident()
    for number in range(LONG):
        asks[number % len(asks)]()
    return resident() - before


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def deep(share: float) -> dict[str, Any]:
    """The page after this share of all cases: ours by key, Paginator's by number, in turn."""
    from django.core.paginator import Paginator

    from requests_app import queue_selectors

    found, order = listing("all")
    sign = "-" if order.startswith("-") else ""
    size = queue_selectors.PAGE
    ordered = found.order_by(order, f"{sign}pk")
    number = int(found.count() * share) // size  # pages before it
    at = queue_selectors._key(ordered[number * size - 1], order, back=False)
    ways: dict[str, Callable[[], list[Any]]] = {
        "ours": lambda: list(queue_selectors.page(found, order=order, at=at).cases),
        "theirs": lambda: list(Paginator(ordered, size).get_page(number + 1)),
    }
    pairs = []
    for turn in range(PAIRS):
        answers, seconds = {}, {}
        for way in sorted(ways, reverse=bool(turn % 2)):
            started = time.perf_counter()
            answers[way] = ways[way]()
            seconds[way] = time.perf_counter() - started
        assert answers["ours"] == answers["theirs"]
        pairs.append((seconds["ours"], seconds["theirs"]))
    faster = [theirs / ours for ours, theirs in pairs]
    return {
        "ours_ms": round(1000 * statistics.median(ours for ours, _ in pairs), 2),
        "theirs_ms": round(1000 * statistics.median(theirs for _, theirs in pairs), 2),
        "times faster": round(statistics.median(faster), 1),
        "range": [round(min(faster), 1), round(max(faster), 1)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cases", type=int, default=CASES)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(report.run(NAME, str(__doc__), lambda: measure(options.cases), cannot_run=(OSError,)))
