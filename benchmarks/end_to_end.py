"""From an approver's click to the end of a run that trains nothing, against a plain Celery task.

PostgreSQL, Redis and one model worker, whose engine is replaced by a stand-in that takes no time
(`faults_worker`): what is left is all that the record asks for: lease, test plan, adapter,
evidence, release, log. The plain task goes through the same broker to the same worker and does
nothing at all: no row, no log, no second try. Pairs in turn; every run must end within thresholds,
once, with its release registered. A real training of some seconds is not in these times.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import django

from benchmarks import report, setting
from benchmarks.on_postgres import installed
from rtbf.stack import COMMANDS, Stack, StackError, start_redis, wait_until
from workers.summaries import bar

NAME = "end_to_end"
PAIRS, START_MS, OVERHEAD, PATIENCE = 40, 100.0, 1.2, 60.0
HEARD = "benchmark:plain"
WORKER = """
import json, os, runpy, sys, time
import celery, redis
from benchmarks import faults_worker
faults_worker.STEP_SECONDS = 0.0
faults_worker.verdict_of = lambda run: faults_worker.Verdict.WITHIN
faults_worker.without_engine()
from rtbf import celery_app
client, heard = redis.Redis.from_url(os.environ["REDIS_URL"]), sys.argv[1]
@celery_app.task(name="benchmark.plain", base=celery.Task)
def plain():
    started = time.time()
    client.rpush(heard, json.dumps([started, time.time()]))
sys.argv = sys.argv[2:]
runpy.run_module("celery", run_name="__main__", alter_sys=True)
"""


def measure(pairs: int) -> report.Measured:
    """Milliseconds from the click to start and end, of both."""
    with setting.scratch() as root, worker(root):
        from tests import factories

        made = [factories.propose(factories.case_in_review()) for _ in range(pairs + 2)]
        approver = factories.make_staff("approver")
        spent: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
        for number, case in enumerate(made):
            ways: dict[str, Callable[[], tuple[float, float]]] = {
                "ours": partial(run, case, approver),
                "theirs": plain,
            }
            for way in sorted(ways, reverse=bool(number % 2)):
                found = ways[way]()
                if number >= 2:  # the first ones warm up
                    spent[way].append(found)
        figures: dict[str, Any] = {
            name: report.compared(
                [each[place] for each in spent["ours"]],
                [each[place] for each in spent["theirs"]],
            )
            for place, name in ((0, "click to start"), (1, "click to end"))
        }
        figures["record"] = once(made)
    ends = [each[1] for each in spent["ours"]]
    figures["ours, 90th percentile of the end, seconds"] = statistics.quantiles(ends, n=10)[-1]
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    start = 1e3 * figures["click to start"]["ours_seconds"]
    overhead = 1 / figures["click to end"]["times faster"]
    doubled = figures["record"]["not exactly once"]
    return [
        bar("click to start, median ms", start, START_MS, start < START_MS),
        bar("click to end, times a plain task", overhead, OVERHEAD, overhead <= OVERHEAD),
        bar("runs not done exactly once", doubled, 0, doubled == 0),
    ]


@contextmanager
def worker(root: Path) -> Iterator[Stack]:
    """The installation, with one model worker that answers."""
    (root / "log").mkdir()
    stack = Stack(url="", var_dir=root, env={})
    try:
        stack.env = {**os.environ}
        os.environ["REDIS_URL"] = start_redis(stack)
        with installed(root, RTBF_CODE_MAILS_PER_DAY="100000"):
            stack.env = {**os.environ}
            stack.start("model", [sys.executable, "-c", WORKER, HEARD, *COMMANDS["model"][2:]])
            wait_until(stack, "model", lambda: b"ready" in stack.log_path("model").read_bytes())
            yield stack
    finally:
        stack.stop()


def run(case: Any, approver: Any) -> tuple[float, float]:
    """Seconds from the click to the run's start and its end."""
    from requests_app.models import ErasureRun
    from requests_app.services import cases

    clicked = django.utils.timezone.now()
    cases.approve_decision(case_id=case.pk, actor_member=approver)
    until = time.monotonic() + PATIENCE
    while True:
        found = ErasureRun.objects.get(case=case)
        if found.finished_at is not None and found.started_at is not None:
            break
        if time.monotonic() > until:
            raise OSError(f"a run did not end: it is {found.state}")
        time.sleep(0.005)  # the times are the record's own
    assert (found.state, found.verdict) == ("succeeded", "within_thresholds"), found.state
    return tuple(  # type: ignore[return-value]
        (moment - clicked).total_seconds() for moment in (found.started_at, found.finished_at)
    )


def plain() -> tuple[float, float]:
    """The same of a task that does nothing."""
    import redis

    from rtbf import celery_app

    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    sent = time.time()
    celery_app.send_task("benchmark.plain", queue="model")
    answer: Any = client.blpop([HEARD], timeout=int(PATIENCE))
    if answer is None:
        raise OSError("the plain task was not done")
    started, ended = json.loads(answer[1])
    return started - sent, ended - sent


def once(made: list[Any]) -> dict[str, int]:
    """Of the record: cases whose run, evidence or release is not there exactly once."""
    from requests_app.models import AuditEntry, ErasureRun

    wrong = 0
    for case in made:
        runs = ErasureRun.objects.filter(case=case)
        counts = [runs.count(), runs.exclude(release=None).count()]
        for kind in ("run.protocol_fixed", "run.verified", "release.registered"):
            counts.append(AuditEntry.objects.filter(case_id=case.pk, type=kind).count())
        wrong += counts != [1] * len(counts)
    return {"cases": len(made), "not exactly once": wrong}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME, str(__doc__), lambda: measure(options.pairs), cannot_run=(OSError, StackError)
        )
    )
