"""The peers' own environment, var/bench/peers (`make bench-peers`), asked over a pipe.

None of them is imported by this project: a peer runs in its interpreter as a subprocess, answers
one JSON line for each that it gets, and takes its time itself, so that the pipe costs it nothing.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / "var" / "bench" / "peers" / "bin" / "python"


class NotInstalled(RuntimeError):
    """A peer is not there; nothing can be said of it."""


class Peer:
    """A running peer."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def ask(self, **question: Any) -> Mapping[str, Any]:
        """The peer's answer. Raises NotInstalled if it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and there is no line either
        line = self.process.stdout.readline()
        if not line:
            raise NotInstalled("peer not installed, or broken: run `make bench-peers`")
        found: Mapping[str, Any] = json.loads(line)
        return found


@contextmanager
def started(script: str, *, threads: int) -> Iterator[Peer]:
    """The peer `script` of this folder. Raises NotInstalled without the environment."""
    if not PYTHON.exists():
        raise NotInstalled("peer not installed: run `make bench-peers`")
    process = subprocess.Popen(
        [str(PYTHON), "-P", str(Path(__file__).parent / script)],  # -P: not our own queue.py
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Peer(process)
    finally:
        process.kill()
        process.communicate()
