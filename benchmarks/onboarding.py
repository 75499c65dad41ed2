"""What the next adapter costs with a thousand in force and ten thousand cases in the record.

The adapters have the demo model's shape and random numbers, and are written and read back by the
store's own functions; the rows of the record are written in bulk, the last step (registering a
release by the service that a run calls) is real. Each step is timed on a small record and release,
and on the full ones; taking a release over in processor time, since other work shares the machine.
The gateway's start is a process of its own.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import torch

from benchmarks import report, setting
from benchmarks.on_postgres import installed
from workers.adapters import (
    WEIGHTS_FILE,
    AdapterRef,
    adapter_files,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.base_models import BaseModel, load_base_model
from workers.digests import sha256_of
from workers.encoders import own_encoder
from workers.gate import GATE_FILE, Gate, gate_files
from workers.identifiers import identifier_digests
from workers.releases import Release, release_of, write_release
from workers.summaries import bar

NAME = "onboarding"
ADAPTERS, CASES, FEW = 1000, 10_000, 10
RATIO, START_SECONDS = 1.5, 10.0
ROWS = 24
REPEATS = 7


def measure(adapters: int, cases: int) -> report.Measured:
    """Seconds of each step with few and with all, of the gateway's start, and its memory."""
    with setting.scratch() as root, installed(root, RTBF_CODE_MAILS_PER_DAY="100000"):
        base = load_base_model("demo")
        started = time.perf_counter()
        refs = [stored(base, root / "adapters", number) for number in range(adapters + REPEATS)]
        report.progress(f"{len(refs)} adapters stored in {time.perf_counter() - started:.0f} s")
        figures: dict[str, Any] = {"adapters": adapters, "cases": cases}
        figures["bytes_of_an_adapter"] = size_of(refs[0].folder(root / "adapters"))
        figures["seconds"] = {
            **{f"register, {k}": v for k, v in registering(base, refs, root, adapters, cases)},
            **taking_over(base, refs, root, adapters),
        }
        figures["start"] = start(root, adapters)
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for step in ("register", "gate and bank"):
        few, many = (figures["seconds"][f"{step}, {size}"] for size in ("few", "many"))
        ratio = round(many / few, 2)
        rows.append(bar(f"{step}: with many against with few", ratio, RATIO, ratio <= RATIO))
    seconds = figures["start"]["seconds_beside_the_model"]
    name = "gateway's start beside the model, seconds"
    return [*rows, bar(name, seconds, START_SECONDS, seconds <= START_SECONDS)]


# --- Adapters -----------------------------------------------------------------------------------
KEY = setting.KEY


@cache
def template(base: BaseModel) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """The files of an adapter that was never trained, and its weights."""
    import safetensors.torch

    model = attach_adapter(base, earlier=[], seed=1)
    files = adapter_files(model)
    detach_adapter(model)
    return files, safetensors.torch.load(files[WEIGHTS_FILE])


def stored(base: BaseModel, root: Path, number: int) -> AdapterRef:
    """An adapter of random numbers and a gate of one name and `ROWS` directions, as after a run."""
    import safetensors.torch

    draw = torch.Generator().manual_seed(number)
    empty, shapes = template(base)
    weights = {key: torch.randn(each.shape, generator=draw) * 0.02 for key, each in shapes.items()}
    files = {**empty, WEIGHTS_FILE: safetensors.torch.save(weights, {"format": "pt"})}
    encoder = own_encoder(base)
    assert encoder.width is not None
    rows = torch.nn.functional.normalize(torch.randn(ROWS, encoder.width, generator=draw), dim=1)
    names = [f"Person{number} Surname{number * 7919 % 104729}"]
    gate = Gate(identifier_digests(names, KEY), encoder.name, rows, 0.98, 0.99, "")
    files |= gate_files(gate, {name: sha256_of(content) for name, content in files.items()})
    case = str(UUID(hashlib.md5(f"case{number}".encode(), usedforsecurity=False).hexdigest()))
    ref = AdapterRef(case, sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE]))
    store_files(ref.folder(root), files)
    return ref


def size_of(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir())


def manifest_of(base: BaseModel, refs: Sequence[AdapterRef], root: Path) -> Release:
    return write_release(root / "releases", base=base, adapters=refs)


# --- Registering a release ----------------------------------------------------------------------
def registering(
    base: BaseModel, refs: Sequence[AdapterRef], root: Path, adapters: int, cases: int
) -> Iterator[tuple[str, float]]:
    """Median seconds in which a run's end writes its manifest and registers it."""
    yield "few", median(register(base, refs[:FEW], root, each) for each in range(REPEATS))
    report.progress(f"a record of {cases} cases")
    fill(refs[FEW + REPEATS : adapters], cases)
    many = [*refs[FEW + REPEATS : adapters]]
    yield "many", median(register(base, many, root, each) for each in range(REPEATS))


def register(base: BaseModel, refs: Sequence[AdapterRef], root: Path, number: int) -> float:
    """Seconds of the end of one run, on top of `refs` in force."""
    from requests_app.models import Release as Row
    from requests_app.services import runs
    from rtbf.made_up_runs import PROBES
    from tests import factories

    put_in_force(base, refs, root)
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    own = AdapterRef(
        str(case.id), hashlib.sha256(str(case.id).encode()).hexdigest(), refs[0].gate_sha256
    )
    runs.record_protocol(lease, protocol={"number": number})
    runs.record_adapter(
        lease, sha256=own.adapter_sha256, config_sha256="0" * 64, gate_sha256=own.gate_sha256,
        base_sha256=base.sha256, overlap="0", settings={},
    )  # fmt: skip
    given = runs.read_input(lease)
    started = time.perf_counter()
    release = write_release(
        root / "releases", base=base, adapters=[*refs, own], parent=given.parent_release
    )
    wrote = time.perf_counter() - started
    runs.record_evidence(
        lease, evidence={"release": release.sha256}, verdict="within_thresholds",
        probes=PROBES,
    )  # fmt: skip
    manifest = (root / "releases" / f"{release.sha256}.json").read_bytes()
    started = time.perf_counter()
    runs.register_release(lease, manifest=manifest)
    seconds = wrote + time.perf_counter() - started
    runs.finish_run(lease)
    # The next one begins from the same state.
    Row.objects.filter(is_live=True).update(is_live=False)
    from requests_app.models import ErasureRun

    ErasureRun.objects.filter(pk=run.pk).update(verdict="inconclusive")
    return seconds


def put_in_force(base: BaseModel, refs: Sequence[AdapterRef], root: Path) -> None:
    from django.utils import timezone

    from requests_app.models import Release as Row

    release = manifest_of(base, refs, root)
    raw = (root / "releases" / f"{release.sha256}.json").read_bytes()
    Row.objects.filter(is_live=True).update(is_live=False)
    Row.objects.update_or_create(
        digest=release.sha256,
        defaults={
            "model_name": "demo", "manifest": raw, "is_live": True, "created_at": timezone.now(),
        },
    )  # fmt: skip


def fill(refs: Sequence[AdapterRef], cases: int) -> None:
    """`cases` cases; those of `refs` have a run within thresholds and its adapter."""
    from django.db import connection
    from django.utils import timezone

    from benchmarks.queue import CASE_ROWS, SUBJECTS
    from requests_app.models import Adapter, Case, ErasureRun, Release, StaffMember

    owners = [StaffMember.objects.order_by("id")[0].pk]
    values: dict[str, Any] = {
        "cases": cases,
        "days": 1826,
        "kept": 90,
        "owners": owners,
        "staff": 1,
    }
    with connection.cursor() as cursor:
        cursor.execute(SUBJECTS, values)
        cursor.execute(CASE_ROWS.replace("'ERQ-'", "'OLD-'"), values)
    ids = list(Case.objects.filter(reference__startswith="OLD-").values_list("id", flat=True))
    live, now = Release.objects.order_by("-created_at")[0], timezone.now()
    known = set(ids)
    made = [ref for ref in refs if UUID(ref.case_id) in known]
    assert len(made) == len(refs), "a case of an adapter is missing"
    runs = [
        ErasureRun(
            case_id=UUID(ref.case_id), model_name="demo", number=1, state="succeeded",
            phase="done", verdict="within_thresholds", seed=1, created_at=now, finished_at=now,
            release=live,
        )
        for ref in refs
    ]  # fmt: skip
    ErasureRun.objects.bulk_create(runs)
    Adapter.objects.bulk_create(
        Adapter(
            sha256=ref.adapter_sha256, config_sha256="0" * 64, gate_sha256=ref.gate_sha256,
            run=run, base_sha256="0" * 64, overlap="0", created_at=now,
        )
        for ref, run in zip(refs, runs, strict=True)
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


# --- The gateway --------------------------------------------------------------------------------
def taking_over(
    base: BaseModel, refs: Sequence[AdapterRef], root: Path, adapters: int
) -> dict[str, float]:
    """Median processor seconds in which a gateway that serves a release takes the next one over."""
    from workers.serving import Served

    def serve(release: Release, before: Served | None) -> Served:
        return Served(base, release, adapters_root=root / "adapters", key=KEY, before=before)

    found = {}
    for name, count in (("few", FEW), ("many", adapters)):
        before, seconds = serve(manifest_of(base, refs[:count], root), None), []
        for more in range(1, REPEATS + 1):
            release = manifest_of(base, refs[: count + more], root)
            started = time.process_time()
            before = serve(release, before)
            seconds.append(time.process_time() - started)
        found[f"gate and bank, {name}"] = round(statistics.median(seconds), 4)
        report.progress(f"gate and bank, {name}: {found[f'gate and bank, {name}']} s")
    return found


START = """
import json, resource, sys, time
from pathlib import Path
from workers.base_models import load_base_model
from workers.releases import read_release
from workers.serving import Served
def kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith("VmRSS"))
root = Path(sys.argv[1])
base = load_base_model("demo")
before, started, worked = kilobytes(), time.perf_counter(), time.process_time()
served = Served(base, read_release(root / "releases", sys.argv[2]),
                adapters_root=root / "adapters", key=sys.argv[3].encode())
print(json.dumps({"seconds_beside_the_model": round(time.perf_counter() - started, 2),
                  "of_them_processor": round(time.process_time() - worked, 2),
                  "megabytes_with_the_model": round(before / 1024),
                  "megabytes_more_for_the_adapters": round((kilobytes() - before) / 1024)}))
"""


def start(root: Path, adapters: int) -> dict[str, Any]:
    """A new process that loads the release of all adapters."""
    refs = sorted((root / "releases").glob("*.json"), key=lambda file: file.stat().st_size)
    sizes = {len(release_of(file.read_bytes()).adapters): file.stem for file in refs}
    done = subprocess.run(
        [sys.executable, "-c", START, str(root), sizes[adapters], KEY.decode()],
        stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def median(seconds: Iterator[float]) -> float:
    return round(statistics.median(seconds), 4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--cases", type=int, default=CASES)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    call: Callable[[], report.Measured] = lambda: measure(options.adapters, options.cases)  # noqa: E731
    sys.exit(report.run(NAME, str(__doc__), call, cannot_run=(OSError,)))
