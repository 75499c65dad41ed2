"""The processes of the fault benchmark's installation, and what is done to them."""

import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks import report
from rtbf.stack import Stack, redis_binary
from tests.mail_server import REFUSES, SLOW, TAKES, MailServer
from tests.postgres import crash

LEASE_SECONDS, SWEEP_SECONDS = 4, 2
GAP_SECONDS = (1.0, 4.0)  # between two faults
LASTS_SECONDS = 3.0  # of a fault that passes: a full disk, a mail server that refuses


@dataclass
class Installation:
    """What runs, by name, and what can be done to it."""

    stack: Stack
    postgres: Any
    mail: MailServer
    commands: dict[str, list[str]]
    processes: dict[str, Any] = field(default_factory=dict)
    ended_by_themselves: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)  # no more faults, nobody waits

    def start(self, name: str) -> None:
        from benchmarks import faults_worker

        process = multiprocessing.get_context("forkserver").Process(
            target=faults_worker.run_command,
            args=(self.commands[name], str(self.stack.log_path(name))),
            kwargs={"is_model": name.startswith("model")},
            daemon=True,
        )
        process.start()
        self.processes[name] = process

    def kill(self, name: str) -> None:
        os.kill(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].join()

    def revive(self) -> None:
        """Start again whatever has ended, as a supervisor does."""
        for name, process in list(self.processes.items()):
            if not process.is_alive():
                if process.exitcode != -signal.SIGKILL:
                    self.ended_by_themselves[name] += 1
                self.start(name)

    def start_redis_again(self) -> None:
        config = self.stack.var_dir / "redis" / "redis.conf"
        self.stack.start("redis", [redis_binary(), str(config)])

    def redis(self) -> Any:
        import redis

        return redis.Redis.from_url(self.stack.env["REDIS_URL"])


def killed(name: str) -> Callable[[Installation, random.Random], None]:
    return lambda installation, draw: installation.kill(name)


def paused(installation: Installation, draw: random.Random) -> None:
    """A worker that stands still for longer than its lease, then goes on as if nothing was."""
    pid = installation.processes[draw.choice(("model 1", "model 2"))].pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5 * LEASE_SECONDS)
    os.kill(pid, signal.SIGCONT)


def disk_full(name: str) -> Callable[[Installation, random.Random], None]:
    """Every write of one process to a file fails for a while (RLIMIT_FSIZE)."""

    def fault(installation: Installation, draw: random.Random) -> None:
        pid = installation.processes[name].pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        time.sleep(LASTS_SECONDS)
        with suppress(ProcessLookupError):  # it may have ended of it
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    return fault


def mail_is(manner: str) -> Callable[[Installation, random.Random], None]:
    def fault(installation: Installation, draw: random.Random) -> None:
        installation.mail.manner = manner
        time.sleep(LASTS_SECONDS)
        installation.mail.manner = TAKES

    return fault


def redis_restarted(installation: Installation, draw: random.Random) -> None:
    installation.stack.kill("redis")
    time.sleep(draw.uniform(0, 2))
    installation.start_redis_again()


def redis_flushed(installation: Installation, draw: random.Random) -> None:
    installation.redis().flushall()


def postgres_restarted(installation: Installation, draw: random.Random) -> None:
    crash(installation.postgres, down=draw.uniform(0, 1))


def delivered_again(installation: Installation, draw: random.Random) -> None:
    """Wake-ups of runs that wait, work or ended long ago, each three times, in any order."""
    from requests_app.models import ErasureRun
    from requests_app.services import wake
    from requests_app.services.run_rows import RUN_TASK

    ids = list(ErasureRun.objects.order_by("-created_at").values_list("id", flat=True)[:200])
    again = draw.sample(ids, min(10, len(ids))) * 3
    draw.shuffle(again)
    for run_id in again:
        wake.send(RUN_TASK, run_id, queue="model")


def reordered(installation: Installation, draw: random.Random) -> None:
    """What waits in the queues, in another order."""
    client = installation.redis()
    for queue in ("model", "legal"):
        with client.pipeline() as pipe:
            waiting = pipe.lrange(queue, 0, -1).delete(queue).execute()[0]
        draw.shuffle(waiting)
        if waiting:
            client.rpush(queue, *waiting)


FAULTS: dict[str, Callable[[Installation, random.Random], None]] = {
    "SIGKILL of a model worker": killed("model 1"),
    "SIGKILL of the other model worker": killed("model 2"),
    "SIGKILL of the legal worker": killed("legal"),
    "SIGKILL of beat": killed("beat"),
    "SIGKILL of the web server": killed("web"),
    "SIGKILL of the signer": killed("signer"),
    "model worker stands still beyond its lease": paused,
    "disk full for a model worker": disk_full("model 1"),
    "disk full for the signer": disk_full("signer"),
    "disk full for the legal worker": disk_full("legal"),
    "mail server refuses": mail_is(REFUSES),
    "mail server is slow": mail_is(SLOW),
    "Redis killed and restarted": redis_restarted,
    "Redis flushed": redis_flushed,
    "PostgreSQL stopped at once and restarted": postgres_restarted,
    "wake-ups delivered three times": delivered_again,
    "queues reordered": reordered,
}


def inject(installation: Installation, seed: int) -> Counter[str]:
    """One fault after the other until it is over, each kind once before any comes again."""
    from django.db import Error, connection
    from redis.exceptions import RedisError

    draw, done = random.Random(seed), Counter[str]()  # noqa: S311
    waiting: list[str] = []
    while not installation.over.wait(draw.uniform(*GAP_SECONDS)):
        waiting = waiting or draw.sample(sorted(FAULTS), len(FAULTS))
        kind = waiting.pop()
        try:
            FAULTS[kind](installation, draw)
        except (Error, RedisError, ProcessLookupError) as problem:  # still down of the one before
            report.progress(f"{kind}: {type(problem).__name__}")
            connection.close()
        else:
            done[kind] += 1
        installation.revive()
    return done
