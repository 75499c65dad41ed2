"""What the machine gives at the moment: a square product of matrices, and memory.

`python -m benchmarks.probes` prints them. Every benchmark asks before and after it measures, in a
process of its own, so that neither the memory nor the threads of what is measured are touched.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SIZE = 2048
BYTES = 2**30
REPEATS = 5
DRIFT, STEAL = 0.05, 0.01
"""Beyond these the machine was not quiet, and seconds are to be read with care."""


def asked() -> dict[str, Any]:
    """The figures of `measured`, from a process with this one's number of threads."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.probes"],
        cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured() -> dict[str, Any]:
    """GFLOP/s of a float32 product of 2048 x 2048 matrices (the median of five), and GB/s of
    copying and of a = b + 3 c (the best of five) over three arrays of 1 GiB together, or of an
    eighth of the free memory if that is less."""
    import torch

    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    torch.mm(left, right)
    product = statistics.median(_seconds(lambda: torch.mm(left, right)))
    count = min(BYTES, _free() // 8) // 12
    a, b, c = (torch.full((count,), value) for value in (1.0, 2.0, 3.0))
    copy = min(_seconds(lambda: a.copy_(b)))
    triad = min(_seconds(lambda: torch.add(b, c, alpha=3.0, out=a)))
    return {
        "threads": torch.get_num_threads(),
        "gemm_gflops": round(2 * SIZE**3 / product / 1e9, 1),
        "copy_gb_per_second": round(2 * 4 * count / copy / 1e9, 2),
        "triad_gb_per_second": round(3 * 4 * count / triad / 1e9, 2),
        "array_mib": 4 * count // 2**20,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _seconds(work: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def _free() -> int:
    """Bytes of memory that can be had, 1 GiB where the system does not tell."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return found[0] if found else BYTES


def ticks() -> tuple[int, int]:
    """The processors' ticks so far, and those of them that other guests of the host took; (0, 0)
    where the system does not tell."""
    file = Path("/proc/stat")
    if not file.is_file():
        return 0, 0
    numbers = [int(each) for each in file.read_text().splitlines()[0].split()[1:9]]
    return sum(numbers), numbers[7]


def around(
    before: Mapping[str, Any], after: Mapping[str, Any], *, since: tuple[int, int]
) -> dict[str, Any]:
    """Both probes, how far the product's rate drifted between them, the share of processor time
    that was stolen since `since` (as of `ticks`), and why the machine was not quiet, if so."""
    then, now = since, ticks()
    drift = abs(after["gemm_gflops"] / before["gemm_gflops"] - 1)
    steal = (now[1] - then[1]) / max(1, now[0] - then[0])
    busy = before["load_average"] > (os.cpu_count() or 1)
    reasons = [
        f"the product's rate moved by {drift:.0%}" * (drift > DRIFT),
        f"{steal:.0%} of the processor time was stolen" * (steal > STEAL),
        f"a load of {before['load_average']} before it began" * busy,
    ]
    return {
        "before": dict(before),
        "after": dict(after),
        "drift": round(drift, 3),
        "steal": round(steal, 4),
        "not_quiet": [reason for reason in reasons if reason],
    }


if __name__ == "__main__":
    print(json.dumps(measured()))
