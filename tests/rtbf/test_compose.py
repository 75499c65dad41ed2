"""docker-compose.yml cannot be built everywhere, so each service's very command is run here."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from rtbf.stack import BASE_DIR, COMMANDS, free_port, redis_binary
from tests.postgres import postgres_url

pytestmark = pytest.mark.stack
COMPOSE = yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
WORDS = frozenset({
    "build", "command", "depends_on", "env_file", "environment", "healthcheck", "image", "ports",
    "restart", "volumes",
})  # fmt: skip
SECRETS = {
    "RTBF_SECRET_KEY": "a-long-enough-key-for-this-test-only-0123456789abcdefghijklmnop",
    "RTBF_KEK": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "RTBF_GATE_KEY": "another-key-for-this-test-only-0123456789abcdef",
    "RTBF_SUPPRESSION_KEYS": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "RTBF_ALLOWED_HOSTS": "127.0.0.1",
    "RTBF_PUBLIC_URL": "https://erasure.example",
    "RTBF_LOG_ORIGIN": "erasure.example/log",
    "RTBF_CONTROLLER_NAME": "Quill and Sons",
    "RTBF_CONTROLLER_EMAIL": "privacy@quill.example",
    "RTBF_AUTHORITY_NAME": "Data Protection Commission",
    "RTBF_BACKUP_DAYS": "14",
    "POSTGRES_PASSWORD": "postgres-password",
    "POSTGRES_APP_PASSWORD": "application-password",
    "REDIS_PASSWORD": "redis-password",
}


def substituted(text: str) -> str:
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS[found[1]], text)


def command_of(service: str) -> list[str]:
    """The service's command with our interpreter in place of the image's."""
    words = [substituted(word) for word in SERVICES[service]["command"]]
    return [sys.executable if word == "python" else word for word in words]


def as_embedded(service: str) -> list[str]:
    return [sys.executable if word == "python" else word for word in SERVICES[service]["command"]]


def as_application(database_url: str) -> str:
    """The same database, as the role that docker-compose.yml names for the application."""
    role = re.search(r"//([^@]+)@", web_environment()["DATABASE_URL"])
    assert role
    return re.sub(r"//[^@/]*@", f"//{substituted(role[1])}@", database_url)


def wait_for(condition: Callable[[], bool], log: Path, *, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.2)


def test_the_file_has_the_services_that_the_design_names() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "migrate", "web", "worker-legal", "worker-model", "beat", "signer",
        "gateway",
    }  # fmt: skip


def test_every_service_of_ours_runs_the_image_that_the_dockerfile_builds() -> None:
    ours = set(SERVICES) - {"postgres", "redis"}
    assert all(SERVICES[name]["build"] == "." for name in ours)
    assert (BASE_DIR / "Dockerfile").exists()


def test_every_service_of_ours_reads_all_of_the_file_with_the_settings() -> None:
    ours = set(SERVICES) - {"postgres", "redis"}
    assert all(SERVICES[name]["env_file"] == ".env" for name in ours)


def test_the_file_keeps_to_the_compose_specification() -> None:
    """As far as can be read off: known words, services and volumes that are there, health."""
    assert {each for each in COMPOSE if not each.startswith("x-")} == {"services", "volumes"}
    for name, service in SERVICES.items():
        assert service.keys() <= WORDS, name
        assert {"image", "build"} & service.keys(), name
        assert all(isinstance(word, str) for word in service.get("command", [])), name
        assert all(isinstance(each, str) for each in service.get("environment", {}).values()), name
        assert service["restart"] in {"no", "unless-stopped"}, name
        for other, how in service.get("depends_on", {}).items():
            healthy = how == {"condition": "service_healthy"}
            assert healthy or how == {"condition": "service_completed_successfully"}, name
            assert "healthcheck" in SERVICES[other] if healthy else other == "migrate", name
        mounted = {each.partition(":")[0] for each in service.get("volumes", [])}
        assert mounted <= COMPOSE["volumes"].keys(), name


def test_the_web_server_believes_the_proxy_because_nobody_else_reaches_it() -> None:
    assert web_environment()["FORWARDED_ALLOW_IPS"] == "*"
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["web"]["ports"])


def test_only_the_migration_knows_the_owner_of_the_tables() -> None:
    owner = ("postgres", "migrate")
    for name, service in SERVICES.items():
        values = substituted(str(service.get("environment", {})))
        assert (SECRETS["POSTGRES_PASSWORD"] in values) is (name in owner)
        if name not in {"postgres", "redis"}:  # what stands in .env is theirs too, but for this
            assert service["environment"]["POSTGRES_PASSWORD"] == ""
            assert "://rtbf_app:" in service["environment"]["DATABASE_URL"]


def test_only_the_signer_mounts_the_log_key() -> None:
    mounting = [n for n, s in SERVICES.items() if any("signer:" in v for v in s.get("volumes", []))]
    assert mounting == ["signer"]


@pytest.mark.parametrize(
    ("service", "name"),
    [("worker-legal", "legal"), ("worker-model", "model"), ("beat", "beat"), ("signer", "signer")],
)
def test_compose_and_the_embedded_stack_run_the_same_commands(service: str, name: str) -> None:
    assert as_embedded(service) == COMMANDS[name]


def test_each_command_serves_against_local_services(tmp_path: Path) -> None:
    redis_port, web_port, gateway_port = free_port(), free_port(), free_port()
    running: dict[str, subprocess.Popen[bytes]] = {}
    log = {name: tmp_path / f"{name}.log" for name in SERVICES}

    def start(name: str, command: list[str], env: dict[str, str]) -> None:
        with log[name].open("wb") as output:
            running[name] = subprocess.Popen(
                command, cwd=BASE_DIR, env=env, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    with postgres_url() as database_url:
        env = {**os.environ, **{k: substituted(v) for k, v in web_environment().items()}}
        env |= {
            "DATABASE_URL": as_application(database_url),
            "REDIS_URL": f"redis://:{SECRETS['REDIS_PASSWORD']}@127.0.0.1:{redis_port}/0",
            "RTBF_VAR_DIR": str(tmp_path / "var"),
            "RTBF_KEY_DIR": str(tmp_path / "keys"),
            "RTBF_SIGNER_DIR": str(tmp_path / "signer"),
            "RTBF_STATIC_ROOT": str(tmp_path / "static"),
            "RTBF_WORKER_NICE": "5",
        }
        (tmp_path / "static").mkdir()
        try:
            redis_command = command_of("redis")
            assert redis_command[0] == "redis-server"
            redis_command[0] = redis_binary()
            start("redis", [*redis_command, "--port", str(redis_port)], env)
            client = redis.Redis.from_url(env["REDIS_URL"])
            wait_for(lambda: answers(client), log["redis"])

            migrated = subprocess.run(
                command_of("migrate"), cwd=BASE_DIR, capture_output=True, check=False,
                env={**env, "DATABASE_MIGRATION_URL": database_url},
            )  # fmt: skip
            assert migrated.returncode == 0, migrated.stderr.decode()[-3000:]

            web = [str(web_port) if word == "8000" else word for word in command_of("web")]
            start("web", web, env)
            for name in ("worker-legal", "worker-model", "beat", "signer"):
                start(name, command_of(name), env)
            words = command_of("gateway")
            start("gateway", [str(gateway_port) if each == "8010" else each for each in words], env)
            headers = {"X-Forwarded-Proto": "https"}
            url = f"http://127.0.0.1:{web_port}"
            wait_for(lambda: serves(f"{url}/healthz", headers), log["web"])
            assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
            assert httpx.get(url, trust_env=False).status_code == 301  # to https
            wait_for(lambda: b"legal@" in tail(log, "worker-legal"), log["worker-legal"])
            wait_for(lambda: b"ready." in tail(log, "worker-model"), log["worker-model"])
            nice = {
                name: os.getpriority(os.PRIO_PROCESS, running[name].pid)
                for name in ("web", "worker-legal", "worker-model")
            }
            assert nice["web"] == nice["worker-legal"] < nice["worker-model"]
            wait_for(lambda: b"beat: Starting" in tail(log, "beat"), log["beat"])
            wait_for(lambda: (tmp_path / "signer").exists(), log["signer"])
            wait_for(lambda: serves(f"http://127.0.0.1:{gateway_port}/healthz", {}), log["gateway"])
            time.sleep(2)
            assert b"HTTP/1.1" not in tail(log, "web")  # no line for each request
            dead = {n: tail(log, n)[-2000:].decode() for n, p in running.items() if p.poll()}
            assert not dead, dead
        finally:
            for process in running.values():
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def web_environment() -> dict[str, str]:
    environment: dict[str, str] = SERVICES["web"]["environment"]
    return environment


def tail(log: dict[str, Path], name: str) -> bytes:
    return log[name].read_bytes()


def answers(client: "redis.Redis[bytes]") -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def serves(url: str, headers: dict[str, str]) -> bool:
    try:
        return httpx.get(url, headers=headers, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
