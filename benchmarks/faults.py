"""A thousand cases from form to answer while processes are killed, on PostgreSQL and Redis.

Web server, Celery workers, beat and signer are the real ones; the engine of the model worker is
replaced by a quick stand-in (`faults_worker`), since nobody trains a thousand adapters in one
benchmark: what is measured is that no case is lost and nothing is done twice, and nothing about
models. People fill in the public form over HTTP and read their code in the mails that arrive; staff
act through the services, two approvers always at once. Meanwhile, by a seed, one fault follows the
other (`faults_injected.FAULTS`), and whatever ended is started again, as a supervisor would.

At the end every case must be answered, every effect be there exactly once, the log verify, and
every deadline be the one that is counted afresh. `--minutes`: no further case begins after that
time; those that never began fail the first bar.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

from benchmarks import faults_record, report, setting
from benchmarks.faults_injected import FAULTS, LEASE_SECONDS, SWEEP_SECONDS, Installation, inject
from benchmarks.faults_people import GaveUp, Person, accompany, persist
from rtbf.stack import COMMANDS, Stack, free_port, start_redis, web_answers
from tests.mail_server import MailServer, mail_server
from tests.postgres import own_server
from workers.summaries import bar

NAME = "faults"
CASES, SEED, MINUTES = 1000, 7, 60.0
PEOPLE_AT_ONCE = 24
START_SECONDS = 300


def measure(cases: int, seed: int, minutes: float) -> report.Measured:
    """Outcomes, faults by kind, and what was lost, doubled or counted wrongly."""
    with (
        setting.scratch() as root,
        own_server() as postgres,
        mail_server() as mail,
        installed(root, postgres, mail) as installation,
    ):
        started = time.perf_counter()
        people, done, faults = run_cases(installation, cases, seed=seed, minutes=minutes)
        seconds = time.perf_counter() - started
        settled = settle(installation)
        figures = {
            "cases": cases,
            "seed": seed,
            "engine": "a quick stand-in: nothing was trained, verdicts are made up",
            "seconds_with_faults": round(seconds, 1),
            "cases_begun": sum(bool(person.reference) for person in people),
            "cases_answered": len(done),
            "faults": dict(sorted(faults.items())),
            "faults_in_all": faults.total(),
            "ended_by_themselves": dict(installation.ended_by_themselves),
            "settled": settled,
            **of_the_record(people, root),
            **of_the_mails(mail),
            "two_approvers_at_once": sum(person.approvals > 0 for person in people),
            "approved_twice": sum(person.approvals > 1 for person in people),
            "codes_asked_again": sum(person.codes_asked - 1 for person in people),
            "access_code_not_shown": sum(not person.access_code for person in done),
        }
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    missing = figures["cases"] - figures["cases_answered"]
    found = [bar("cases not answered", missing, 0, missing == 0)]
    for name in ("lost", "doubled", "wrong_deadlines", "log_problems"):
        count = len(figures[name])
        found.append(bar(name.replace("_", " "), count, 0, count == 0))
    kinds = len(FAULTS) - len(figures["faults"])
    return [*found, bar("kinds of fault that never happened", kinds, 0, kinds == 0)]


@contextmanager
def installed(root: Path, postgres: Any, mail: MailServer) -> Iterator[Installation]:
    """All processes of an installation under `root`, in whose settings this one is too."""
    port = free_port()
    stack = Stack(url=f"http://127.0.0.1:{port}", var_dir=root, env={**os.environ})
    (root / "log").mkdir()
    (root / "static").mkdir()
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "rtbf.settings",
        "DATABASE_URL": postgres.get_uri(),
        "REDIS_URL": start_redis(stack),
        "RTBF_VAR_DIR": str(root),
        "RTBF_PUBLIC_URL": stack.url,
        "RTBF_LEASE_SECONDS": str(LEASE_SECONDS),
        "RTBF_SWEEP_SECONDS": str(SWEEP_SECONDS),
        "RTBF_RECHECK_CAP": "2",
        "RTBF_WORKER_NICE": "0",  # nothing trains, and its leases are short
        "RTBF_LOG_LEVEL": "WARNING",
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": "127.0.0.1",
        "EMAIL_PORT": str(mail.port),
    }
    stack.env |= os.environ
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    connection.close()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["benchmarks.faults_worker"])
    uvicorn = ["-m", "uvicorn", "rtbf.asgi:application", "--no-access-log", "--port", str(port)]
    model = [each.replace("model@", "model1@") for each in COMMANDS["model"]]
    commands = {
        **{name: COMMANDS[name] for name in ("legal", "beat", "signer")},
        "model 1": model,
        "model 2": [each.replace("model1@", "model2@") for each in model],
        "web": [sys.executable, *uvicorn],
    }
    installation = Installation(stack, postgres, mail, commands)
    try:
        for name in commands:
            installation.start(name)
        report.progress("starting the processes …")
        until = time.monotonic() + START_SECONDS
        while not web_answers(stack.url):
            if time.monotonic() > until:
                raise OSError(f"the web server did not start:\n{stack.log_tail('web')}")
            time.sleep(0.5)
        yield installation
    finally:
        for process in installation.processes.values():
            process.kill()
            process.join()
        stack.stop()


def run_cases(
    installation: Installation, cases: int, *, seed: int, minutes: float
) -> tuple[list[Person], list[Person], Counter[str]]:
    """All people, those who were answered, and how often each fault happened meanwhile."""
    from requests_app.models.people import Role
    from tests.factories import make_staff

    staff = {
        "officer": make_staff(Role.OFFICER),
        "approvers": [make_staff(Role.APPROVER), make_staff(Role.APPROVER)],
    }
    people = [Person(number, installation, staff) for number in range(cases)]
    done: list[Person] = []
    until = time.monotonic() + 60 * minutes
    with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(PEOPLE_AT_ONCE) as pool:
        faults = beside.submit(inject, installation, seed)
        try:
            for each in [pool.submit(accompany, person, done, until=until) for person in people]:
                each.result()
        finally:  # also where somebody interrupts it
            installation.over.set()
        return people, done, faults.result()


def settle(installation: Installation) -> bool:
    """Without faults, until letters are sent, runs ended and the whole log is signed."""
    from requests_app.models import Checkpoint, ErasureRun, Letter, LogHead

    def is_quiet() -> bool | None:
        installation.revive()
        waiting = Letter.objects.filter(sent_at=None).exists()
        working = ErasureRun.objects.filter(state__in=("queued", "running")).exists()
        signed = Checkpoint.objects.filter(size=LogHead.objects.get().size).exists()
        return True if signed and not waiting and not working else None

    try:
        return persist(is_quiet)
    except GaveUp:
        return False


def of_the_record(people: list[Person], root: Path) -> dict[str, Any]:
    from requests_app import audit
    from requests_app.services import restoring

    references = [person.reference for person in people if person.reference]
    problems, size = [], 0
    try:
        size = audit.verify_log().entries
    except audit.LogError as problem:
        problems.append(str(problem))
    if why := restoring.why_not_served():
        problems.append(why)
    return {
        "outcomes": faults_record.outcomes(),
        "lost": faults_record.lost(references, root / "adapters"),
        "doubled": faults_record.doubled(references),
        "wrong_deadlines": faults_record.wrong_deadlines(),
        "log_entries": size,
        "log_problems": problems,
    }


def of_the_mails(mail: MailServer) -> dict[str, int]:
    """Announcements may come twice, under the same Message-ID, where a worker died between the
    mail server's yes and its note of it."""
    ids = Counter(str(each["Message-ID"]) for each in mail.mails)
    return {"mails": len(mail.mails), "mails_delivered_again": sum(ids.values()) - len(ids)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.cases, options.seed, options.minutes),
            cannot_run=(OSError,),
        )
    )
