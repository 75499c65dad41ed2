"""Two workers on two simulated machines erase cases of one model at the same time.

Each machine has folders of its own (adapters, releases, saved steps) and shares PostgreSQL, Redis
and a storage of adapters with the other. Both are woken for every run, as by beat. Afterwards the
chain of releases must be one line without a fork, each case within its thresholds in the release in
force, its adapter orthogonal to those before it, and every case's bundle must verify offline.

Training is real. The shipped control never saw twenty people: for more, one is trained that saw
none of them, and kept in var/models. A run that decided nothing is repeated by an officer, as often
as the product lets one; what the last run of a case says counts. By the rank of 26 values that
nobody knows one case in 25 stays undecided, by that of 12 more than one in three: so all facts of a
person are given.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

from benchmarks import report, setting
from rtbf.stack import Stack, start_redis
from tests.postgres import postgres_url
from workers import corpus
from workers.summaries import bar

NAME = "machines"
OUT = Path(__file__).parents[1] / "var"
CASES = 40
MACHINES = ("one", "two")
FALSE_FAILS = 4 / 34
"""Share of models that hold nothing of a person of which the suite says so, or cannot decide
(`benchmarks.calibration`): so many cases may fall short by chance."""
PATIENCE = 3600.0
"""Seconds without a run's end after which the benchmark gives up."""


def measure(cases: int) -> report.Measured:
    """What the runs ended as, who did them, and what of the record does not hold."""
    people = max(cases, len(corpus.ERASABLE))
    control = None
    if cases > len(corpus.ERASABLE):
        control = setting.control_without(cases, OUT / "models" / f"demo-control-{cases}")
    with setting.scratch() as root, installed(root, control) as stack:
        made = [erase(number) for number in range(cases)]
        report.progress(f"{cases} cases approved")
        for name in MACHINES:
            start_machine(stack, name, people)
        started = time.perf_counter()
        owners = follow(stack)
        seconds = time.perf_counter() - started
        for name in MACHINES:
            stack.kill(name)
        figures = {"cases": cases, "seconds_working": round(seconds, 1), **found(root, owners)}
        figures["bundles_that_do_not_verify"] = unverified(made)
    return figures, bars(figures, cases)


def bars(figures: dict[str, Any], cases: int) -> list[dict[str, Any]]:
    zero = (
        "runs_at_the_same_time_at_most_one", "forks", "off_the_chain", "lost_from_the_release",
        "not_orthogonal", "bundles_that_do_not_verify", "unfinished",
    )  # fmt: skip
    rows = [bar(name.replace("_", " "), figures[name], 0, figures[name] == 0) for name in zero]
    worked = len(figures["runs_by_machine"])
    rows.append(bar("machines that worked", worked, len(MACHINES), worked == len(MACHINES)))
    ended = sum(figures["cases_by_verdict"].values())
    rows.append(bar("cases with a verdict", ended, cases, ended == cases))
    short = ended - figures["cases_by_verdict"].get("within_thresholds", 0)
    return [*rows, bar("cases not within thresholds", short, 0, short == 0)]


def by_chance(cases: int) -> int:
    """At most so many erasures that left nothing fall short, in nineteen of twenty such series."""
    chances = [
        math.comb(cases, k) * FALSE_FAILS**k * (1 - FALSE_FAILS) ** (cases - k)
        for k in range(cases + 1)
    ]
    return next(k for k in range(cases + 1) if sum(chances[: k + 1]) >= 0.95)


# --- The machines -------------------------------------------------------------------------------
@contextmanager
def installed(root: Path, control: Path | None) -> Iterator[Stack]:
    """PostgreSQL, Redis and this process as the web's; the machines are started by hand. `control`:
    in place of the shipped one."""
    with postgres_url() as url:
        (root / "log").mkdir()
        shared = {
            "DJANGO_SETTINGS_MODULE": "rtbf.settings",
            "DATABASE_URL": url,
            "RTBF_KEY_DIR": str(root / "keys"),
            "RTBF_CHECKPOINT_FILE": str(root / "checkpoint"),
            "RTBF_ADAPTER_STORAGE": "django.core.files.storage.FileSystemStorage",
            "RTBF_ADAPTER_OPTIONS": f'{{"location": "{root / "shared"}"}}',
            "RTBF_LOG_LEVEL": "WARNING",
            "RTBF_RECHECK_CAP": "0",
            "RTBF_CODE_MAILS_PER_DAY": str(10 * CASES),  # all are of one address
            "OMP_NUM_THREADS": "1",
            "RTBF_WORKER_NICE": "0",  # no pages are served on these
            **({"RTBF_CONTROLS": f"demo={control}"} if control else {}),
        }
        stack = Stack(url="", var_dir=root, env={**os.environ, **shared})
        try:
            shared["REDIS_URL"] = stack.env["REDIS_URL"] = start_redis(stack)
            os.environ |= {
                **shared,
                "RTBF_VAR_DIR": str(root / "web"),
                "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend",
            }
            (root / "web" / "static").mkdir(parents=True)
            django.setup()
            from django.core.management import call_command
            from django.db import connection

            call_command("migrate", verbosity=0)
            yield stack
            connection.close()
        finally:
            stack.stop()


def start_machine(stack: Stack, name: str, people: int) -> None:
    """A worker with folders of its own, for which so many people may be erased."""
    own = {"RTBF_VAR_DIR": str(stack.var_dir / name)}
    worker = [sys.executable, "-m", "benchmarks.machines_worker", str(people)]
    command = [*worker, "worker", "-Q", "model", "-P", "solo", "-n", f"{name}@%h", "-l", "INFO"]
    with stack.log_path(name).open("ab") as log:
        stack.processes[name] = subprocess.Popen(
            command, env={**stack.env, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def erase(number: int) -> Any:
    """An approved case about the person of this number, by the real services."""
    from requests_app.actors import staff_actor
    from requests_app.services import cases
    from tests import factories
    from workers import corpus

    person = corpus.people()[number]
    held = [(fact.trained[0], fact.answer) for fact in person.facts]
    case = factories.confirmed_case(name=person.name, aliases=())
    officer = staff_actor(factories.make_staff("officer"))
    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=officer)
    case = cases.attach_facts(case_id=case.id, facts=held, aliases=(), actor=officer)
    factories.propose(case)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    return case.pk


def follow(stack: Stack) -> dict[str, set[int]]:
    """Wake whatever waits, as beat does, until all has ended, what decided nothing once more; which
    processes held each run, and under "at once" the most runs that were held at the same time."""
    from requests_app.models import ErasureRun
    from requests_app.tasks import sweep_runs

    owners: dict[str, set[int]] = {"at once": set()}
    ended, since = 0, time.monotonic()
    while True:
        states = dict(Counter(ErasureRun.objects.values_list("state", flat=True)))
        running = ErasureRun.objects.filter(state="running").values_list("id", "lease_owner")
        rows = list(running)
        owners["at once"].add(len(rows))
        for run, owner in rows:
            owners.setdefault(str(run), set()).add(int(owner.rpartition(":")[2]))
        if not {"queued", "running"} & states.keys() and not repeat_undecided():
            return owners
        if (now := sum(states.values()) - states.get("queued", 0) - len(rows)) != ended:
            ended, since = now, time.monotonic()
            report.progress(f"runs: {states}")
        if dead := stack.dead():
            raise OSError(f"{dead} ended:\n{stack.log_tail(dead[0])}")
        if time.monotonic() - since > PATIENCE:
            raise OSError(f"no run ended for {PATIENCE:.0f} s:\n{stack.log_tail('one')}")
        sweep_runs()
        time.sleep(2)


def repeat_undecided() -> int:
    """Have every case run again whose last run was inconclusive, where the product allows it."""
    from requests_app.models import Case
    from requests_app.services import cases
    from tests import factories

    repeated = 0
    for case in Case.objects.filter(status="evidence_review"):
        (run,) = cases.latest_runs(case)
        if run.verdict == "inconclusive" and not cases.why_not_repeat(run):
            officer = factories.make_staff("officer")
            cases.repeat_run(case_id=case.id, run_id=run.id, actor_member=officer)
            repeated += 1
    return repeated


# --- What must hold -----------------------------------------------------------------------------
def found(root: Path, owners: dict[str, set[int]]) -> dict[str, Any]:
    """Counts of the runs, and of what breaks the chain."""
    from requests_app.models import Adapter, ErasureRun, Release
    from requests_app.services.manifests import read_manifest

    runs = list(ErasureRun.objects.select_related("release").order_by("finished_at"))
    within = [run for run in runs if run.verdict == "within_thresholds"]
    live = Release.objects.filter(is_live=True).first()
    chain, at = list[str](), live
    while at is not None:
        chain.append(at.digest)
        at = at.parent
    named = list(read_manifest(bytes(live.manifest)).adapters) if live else []
    parents = Counter(run.release.parent_id for run in within if run.release)
    by_machine = Counter(pid for run, pids in owners.items() if run != "at once" for pid in pids)
    return {
        "runs": len(runs),
        "verdicts": dict(Counter(run.verdict for run in runs)),
        "cases_by_verdict": dict(Counter({run.case_id: run.verdict for run in runs}.values())),
        "as_many_fall_short_by_chance": by_chance(len({run.case_id for run in runs})),
        "why_not_within": dict(Counter(why for run in runs for why in reasons(run))),
        "unfinished": sum(run.state != "succeeded" for run in runs),
        "errors": sorted({run.error for run in runs if run.error}),
        "runs_by_machine": sorted(by_machine.values()),
        "runs_at_the_same_time_at_most_one": max(0, max(owners["at once"]) - 1),
        "seconds_a_run": round(
            sum(
                (run.finished_at - run.started_at).total_seconds()
                for run in runs
                if run.finished_at and run.started_at
            )
            / len(runs),
            1,
        ),
        "forks": sum(count > 1 for count in parents.values()),
        "off_the_chain": len({run.release_id for run in within} ^ set(chain)),
        "lost_from_the_release": len({run.case_id for run in within} ^ {a.case_id for a in named})
        + (len(named) - len(set(named))),
        "not_orthogonal": sum(float(row.overlap) > 1e-6 for row in Adapter.objects.all()),
        "adapters_by_machine": {
            name: len(list((root / name / "adapters").glob("[0-9a-f]*"))) for name in MACHINES
        },
        "adapters_shared": len(list((root / "shared").glob("[0-9a-f]*"))),
    }


def reasons(run: Any) -> list[str]:
    """Why a run was not within its thresholds, as its evidence says."""
    is_within = run.verdict == "within_thresholds"
    return [] if is_within else list((run.evidence or {}).get("reasons", []))


def unverified(made: list[Any]) -> int:
    """Cases whose bundle the offline verifier does not accept."""
    from requests_app import keys
    from requests_app.models import Case
    from requests_app.verifier.checks import verify
    from requests_app.verifier.errors import Invalid
    from requests_app.verifier.trust import parse_trust
    from tests.requests_app import bundles

    keys.attest_key()
    bad = 0
    for pk in made:
        data = bundles.export(Case.objects.get(pk=pk))
        trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
        try:
            verify(data, trust=trust)
        except Invalid as error:
            report.progress(f"case {pk}: {error}")
            bad += 1
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cases", type=int, default=CASES)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(report.run(NAME, str(__doc__), lambda: measure(options.cases), cannot_run=(OSError,)))
