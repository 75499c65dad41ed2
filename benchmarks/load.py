"""Fifty public and twenty staff requests a second while runs train, on PostgreSQL and Redis.

The product is started as `make run` does it, with DATABASE_URL and REDIS_URL set and a second
factor required of staff; the record is filled as by `benchmarks.queue`. Members of the public read
pages, send the whole form, confirm the mailed code and follow their request; staff look at today,
tabs, filters, deep pages and cases and search; somebody asks the gateway now and then; and one
approved case after another keeps the model worker training. `load_people` makes the requests, each
due at its time whatever happened to those before. Staff come with sessions made beforehand; limits
of the forms are in force, each person has an address of their own.

Bars: no error, and 95 of 100 answers of each group within 300 ms of when they were due.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import django

from benchmarks import report, setting
from benchmarks.load_people import Plan
from rtbf.stack import BASE_DIR, Stack, StackError, free_port, start_redis, start_stack
from tests.postgres import own_server
from workers.summaries import bar

NAME = "load"
MINUTES, PUBLIC, STAFF, CASES = 5.0, 50.0, 20.0, 20_000
WARM_SECONDS = 20.0
MILLISECONDS = 300.0
TRAINING_SHARE = 0.9
MEMBERS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def measure(minutes: float, public: float, staff: float, cases: int) -> report.Measured:
    """Milliseconds by group and kind, errors by kind, processor time by process, runs."""
    with (
        setting.scratch() as root,
        own_server() as postgres,
        installed(root, postgres, cases) as env,
        start_stack(root, env=env, gateway_port=free_port()) as stack,
    ):
        plan = plan_of(stack, seconds=60 * minutes, public=public, staff=staff)
        parts = {**{name: each.pid for name, each in stack.processes.items()},
                 "postgres": postgres.get_pid()}  # fmt: skip
        with Training() as training:
            found = live(plan, parts)
        if dead := stack.dead():
            raise OSError(f"{dead[0]} stopped:\n{stack.log_tail(dead[0])}")
    times = found.pop("times")
    seconds = {int(second): some for second, some in found.pop("seconds").items()}
    groups: dict[str, list[float]] = {"public": [], "staff": [], "gateway": []}
    for kind, some in times.items():
        groups[kind.partition(":")[0]] += some
    figures = {
        "cases": cases,
        "asked_a_second": {"public": public, "staff": staff},
        "seconds": plan.seconds,
        "requests": {group: len(some) for group, some in groups.items()},
        "milliseconds": {group: spread(some) for group, some in groups.items()},
        "milliseconds_sent_late": spread(found.pop("late")),
        "milliseconds_by_kind": {kind: spread(some) for kind, some in sorted(times.items())},
        "slow_seconds": slow_seconds(seconds),
        **found,
        **training.figures(),
    }
    return figures, bars(figures)


def bars(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    errors = sum(figures["errors"].values())
    found = [bar("errors", errors, 0, errors == 0)]
    for group in ("public", "staff"):
        p95 = figures["milliseconds"][group]["p95"]
        found.append(
            bar(f"{group}, 95 of 100, milliseconds", p95, MILLISECONDS, p95 < MILLISECONDS)
        )
    share = figures["share_of_time_with_a_run"]
    return [
        *found,
        bar("share of the time with a run", share, TRAINING_SHARE, share > TRAINING_SHARE),
    ]


def spread(times: Sequence[float]) -> dict[str, float]:
    """Percentiles of milliseconds; empty for none."""
    ordered = sorted(times)
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)], 1) for name, share in at.items() if ordered}


def slow_seconds(seconds: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """The seconds in which half of the answers came too late, with their median milliseconds: what
    stalls everybody at once shows here."""
    medians = {second: spread(some)["p50"] for second, some in sorted(seconds.items())}
    return {second: median for second, median in medians.items() if median > MILLISECONDS}


# --- The installation -----------------------------------------------------------------------------
@contextmanager
def installed(root: Path, postgres: Any, cases: int) -> Iterator[dict[str, str]]:
    """A filled record and its Redis; the environment of the processes, which this one has too."""
    (root / "log").mkdir()
    (root / "static").mkdir()
    beside = Stack(url="", var_dir=root, env={**os.environ})
    env = {
        "DJANGO_SETTINGS_MODULE": "rtbf.settings",
        "DATABASE_URL": postgres.get_uri(),
        "RTBF_VAR_DIR": str(root),
        "RTBF_LOG_LEVEL": "WARNING",
        "RTBF_REQUIRE_MFA": "1",
    }
    try:
        env["REDIS_URL"] = start_redis(beside)
        os.environ |= env
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        from benchmarks import queue
        from requests_app.models import ErasureRun

        with connection.cursor() as cursor:  # tests do without: here commits wait for the disk
            cursor.execute("ALTER SYSTEM SET fsync = on")
            cursor.execute("SELECT pg_reload_conf()")
        call_command("migrate", verbosity=0)
        queue.fill(cases)
        ErasureRun.objects.filter(state="queued").update(state="succeeded")  # nobody approved them
        yield env
        connection.close()
    finally:
        beside.stop()


def plan_of(stack: Stack, *, seconds: float, public: float, staff: float) -> Plan:
    """Whom `load_people` visits, and what its staff look at."""
    from benchmarks import queue
    from requests_app.models import Case, StaffMember
    from requests_app.queue_selectors import VIEWS

    owners = StaffMember.objects.order_by("pk").values_list("pk", flat=True)
    filters = ["owner=none", "language=fr", "model=demo", "sort=-due", "sort=-received",
               "status=identity_check", *(f"owner={owner}" for owner in owners)]  # fmt: skip
    references = [
        reference
        for state in ("open", "closed")
        for reference in queue.listing(state)[0].order_by("-received_at")
        .values_list("reference", flat=True)[:100]
    ]  # fmt: skip
    deep = [(view, queue.key_at(view, share / 10))
            for view in ("open", "all") for share in range(1, 10)]  # fmt: skip
    made = stack.manage("create_api_client", "load", "--controller-id", "load",
                        "--role", "controller", "--scope", "gateway", "--json")  # fmt: skip
    year = Case.objects.order_by("-received_on")[0].received_on.year
    return Plan(
        url=stack.url,
        gateway=stack.env["RTBF_GATEWAY_URL"],
        gateway_key=json.loads(made)["key"],
        outbox=str(stack.var_dir / "outbox"),
        warm=WARM_SECONDS,
        seconds=seconds,
        public=public,
        staff=staff,
        sessions=[session() for _ in range(MEMBERS)],
        pages={
            "today": ["/app/"],
            "tab": [f"/app/cases?view={view}" for view in VIEWS],
            "filter": [
                f"/app/cases?view={view}&{each}" for view in ("open", "all") for each in filters
            ],
            "deep page": [f"/app/cases?view={view}&at={key}" for view, key in deep],
            "case": [f"/app/cases/{reference}" for reference in references],
        },
        searches=[queue.ADDRESS, f"ERQ-{year}", *references[:20]],
    )  # fmt: skip


def session() -> str:
    """The session of an officer who has a second factor."""
    from allauth.mfa.models import Authenticator
    from django.conf import settings

    from tests.factories import make_staff
    from tests.staff import as_staff

    member = make_staff("officer")
    Authenticator.objects.create(user=member, type=Authenticator.Type.TOTP, data={})
    return str(as_staff(member).cookies[settings.SESSION_COOKIE_NAME].value)


class Training(threading.Thread):
    """Keeps one approved case waiting behind the run that is under way, and counts the time with
    and without one."""

    PAUSE = 1.0

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.approved = self.looks = self.with_a_run = 0

    def __enter__(self) -> "Training":
        from requests_app.models import ErasureRun

        self.approve()
        until = time.monotonic() + 120
        while not ErasureRun.objects.filter(state="running").exists():
            if time.monotonic() > until:
                raise OSError("no run began within two minutes")
            time.sleep(0.5)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        from django.db import connection

        from requests_app.models import ErasureRun

        while not self.over.wait(self.PAUSE):
            states = set(
                ErasureRun.objects.filter(state__in=("queued", "running")).values_list(
                    "state", flat=True
                )
            )
            self.looks += 1
            self.with_a_run += "running" in states
            if "queued" not in states:
                self.approve()
        connection.close()

    def approve(self) -> None:
        """An approved case about the next person of the demo model, by the real services."""
        from requests_app.actors import staff_actor
        from requests_app.services import cases
        from tests import factories
        from workers import corpus

        person = corpus.people()[self.approved % len(corpus.ERASABLE)]
        self.approved += 1
        case = factories.open_case(channel="post", name=person.name, aliases=()).case
        facts = [(fact.trained[0], fact.answer) for fact in person.facts]
        officer = staff_actor(factories.make_staff("officer"))
        cases.record_identity(case_id=case.id, method="held_attributes", note="", actor=officer)
        cases.attach_facts(case_id=case.id, facts=facts, aliases=(), actor=officer)
        factories.propose(case)
        cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))

    def figures(self) -> dict[str, Any]:
        return {
            "runs_approved": self.approved,
            "share_of_time_with_a_run": round(self.with_a_run / max(1, self.looks), 3),
        }


# --- While they live ------------------------------------------------------------------------------
def live(plan: Plan, parts: Mapping[str, int]) -> dict[str, Any]:
    """What `load_people` found, and the share of a core that each part took meanwhile."""
    with (
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load_people"],
            cwd=BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a fair share of the processor, as from another machine
        ) as people,
        ending(people),
    ):
        assert people.stdin is not None
        assert people.stdout is not None
        people.stdin.write(json.dumps(asdict(plan)))
        people.stdin.close()
        parts = {**parts, "people": people.pid}
        if people.stdout.readline() != "measuring\n":
            raise OSError("load_people ended before it began")
        before, began = worked(parts), time.monotonic()
        time.sleep(plan.seconds)
        after, seconds = worked(parts), time.monotonic() - began
        if not (told := people.stdout.readline()):
            raise OSError("load_people ended before its time")
    found: dict[str, Any] = json.loads(told)
    shares = {name: round((after[name] - before[name]) / seconds, 3) for name in parts}
    return {**found, "cores_taken": shares}


@contextmanager
def ending(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Without it an error waits for a process that goes on for minutes."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


def worked(parts: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds of each part so far: its process, its children, and those that ended."""
    parent, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(stat.parent.name)
        parent[pid] = int(after_name[1])
        ticks[pid] = sum(int(each) for each in after_name[11:15])  # user, system, of ended children
    found = {}
    for name, root in parts.items():
        pids = {root}
        while more := {pid for pid, of in parent.items() if of in pids} - pids:
            pids |= more
        found[name] = sum(ticks.get(pid, 0) for pid in pids) / TICKS
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--public", type=float, default=PUBLIC)
    parser.add_argument("--staff", type=float, default=STAFF)
    parser.add_argument("--cases", type=int, default=CASES)
    given, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(given.minutes, given.public, given.staff, given.cases),
            cannot_run=(OSError, StackError),
        )
    )
