"""What the next adapter costs with a thousand in force and ten thousand cases in the record.

The adapters have the demo model's shape and random numbers, and are written and read back by the
store's own functions; the rows of the record are written in bulk, the last step (registering a
release by the service that a run calls) is real. Each step is timed in turn beside a small release
in a record of its own and beside the full one, on the wall and in processor time of this process,
and the ratio is that of the medians. "Whole" is all that the next adapter takes: a person of the
demo model located, trained, verified through the release with all adapters in force (against the
control, which must end within the thresholds), registered, and taken over by a gateway. The
gateway's start is a process of its own, which lets every adapter act once with room for a fraction
of them.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
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
from workers.base_models import BaseModel
from workers.digests import sha256_of
from workers.encoders import own_encoder
from workers.erasure import erase
from workers.gate import GATE_FILE, PROTOTYPES, Gate, gate_files
from workers.identifiers import identifier_digests
from workers.packed import packed
from workers.releases import Release, release_of, write_release
from workers.serving import Served
from workers.summaries import bar
from workers.verification import WITHIN

NAME = "onboarding"
ADAPTERS, CASES, FEW = 1000, 10_000, 10
RATIO, START_SECONDS = 1.5, 10.0
REPEATS, WHOLE_REPEATS = 15, 3
ROOM = 32 * 2**20
"""Bytes of adapters that the gateway may keep in memory here: a quarter of all."""
KINDS = ("wall", "processor")
Seconds = tuple[float, float]
"""On the wall, and of this process's processor time."""


def measure(adapters: int, cases: int) -> report.Measured:
    """Seconds of each step with few and with many, of the gateway's start, and its memory."""
    with setting.scratch() as root, installed(root, RTBF_CODE_MAILS_PER_DAY="100000"):
        population = setting.shipped()
        base = population.base
        started = time.perf_counter()
        refs = [stored(base, root / "adapters", number) for number in range(adapters + REPEATS)]
        report.progress(f"{len(refs)} adapters stored in {time.perf_counter() - started:.0f} s")
        figures: dict[str, Any] = {"adapters": adapters, "cases": cases}
        figures["bytes_of_an_adapter"] = size_of(refs[0].folder(root / "adapters"))
        records = filled(base, refs, root, adapters, cases)
        verdicts: list[str] = []
        figures["seconds"] = {
            "register": registering(base, records, root),
            "gate and bank": taking_over(base, refs, root, adapters),
            "whole": whole(population, records, root, verdicts),
        }
        figures["verdicts of the whole"] = verdicts
        figures["start"] = start(root, adapters)
    return figures, bars(figures)


def bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for step, sizes in figures["seconds"].items():
        for kind in KINDS:
            ratio = round(sizes["many"][kind] / sizes["few"][kind], 2)
            name = f"{step}: with many against with few, {kind}"
            rows.append(bar(name, ratio, RATIO, ratio <= RATIO))
    missed = [each for each in figures["verdicts of the whole"] if each != WITHIN]
    rows.append(bar("whole: erasures not within thresholds", len(missed), 0, not missed))
    began = figures["start"]
    seconds = began["seconds_beside_the_model"]
    name = "gateway's start beside the model, seconds"
    rows.append(bar(name, seconds, START_SECONDS, seconds <= START_SECONDS))
    kept = began["bytes_of_adapters_kept"]
    return [*rows, bar("bytes of adapters kept once all have acted", kept, ROOM, kept <= ROOM)]


def timed(began: Seconds | None = None) -> Seconds:
    """The clocks now, or what went by since they were at `began`."""
    now = time.perf_counter(), time.process_time()
    return now if began is None else (now[0] - began[0], now[1] - began[1])


def in_turn(
    steps: dict[str, Callable[[int], Seconds]], repeats: int = REPEATS
) -> dict[str, dict[str, float]]:
    """Median seconds of each step by kind of clock: one of each, then one of each again."""
    found: dict[str, list[Seconds]] = {name: [] for name in steps}
    for number in range(repeats):
        for name, step in steps.items():
            found[name].append(step(number))
    medians = {
        name: {
            kind: round(statistics.median(each[i] for each in seconds), 4)
            for i, kind in enumerate(KINDS)
        }
        for name, seconds in found.items()
    }
    report.progress(json.dumps(medians))
    return medians


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
    """An adapter of random numbers and a gate of one name and as many prototypes as a run makes."""
    import safetensors.torch

    draw = torch.Generator().manual_seed(number)
    empty, shapes = template(base)
    weights = {key: torch.randn(each.shape, generator=draw) * 0.02 for key, each in shapes.items()}
    files = {**empty, WEIGHTS_FILE: safetensors.torch.save(weights, {"format": "pt"})}
    encoder = own_encoder(base)
    assert encoder.width is not None
    rows = torch.nn.functional.normalize(
        torch.randn(PROTOTYPES, encoder.width, generator=draw), dim=1
    )
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
Records = dict[str, tuple[str, Sequence[AdapterRef]]]
"""By size: the schema that a record lies in, and the adapters in force there."""


def use(schema: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        cursor.execute(f"SET search_path TO {schema}")


def filled(
    base: BaseModel, refs: Sequence[AdapterRef], root: Path, adapters: int, cases: int
) -> Records:
    """Few adapters in a record of their own, and all in one of `cases` cases."""
    from django.core.management import call_command

    records: Records = {
        "few": ("small", refs[1 : FEW + 1]), "many": ("public", refs[1 : adapters + 1]),
    }  # fmt: skip
    for (schema, own), size in zip(records.values(), (2 * FEW, cases), strict=True):
        use(schema)
        call_command("migrate", verbosity=0)
        fill(base, own, root, size)
        report.progress(f"a record of {size} cases with {len(own)} adapters")
    return records


def registering(base: BaseModel, records: Records, root: Path) -> dict[str, dict[str, float]]:
    """Seconds in which a run's end writes its manifest and registers it."""

    def step(name: str, number: int) -> Seconds:
        schema, refs = records[name]
        use(schema)
        lease = next_run(base, refs, root)
        case = case_of(lease)
        own = AdapterRef(case, hashlib.sha256(case.encode()).hexdigest(), refs[0].gate_sha256)
        return register(lease, base, refs, own, root)[0]

    return in_turn({name: partial(step, name) for name in records})


def next_run(base: BaseModel, refs: Sequence[AdapterRef], root: Path) -> Any:
    """The lease of a new case's run, with `refs` in force: every one begins from that state."""
    from requests_app.models import ErasureRun
    from tests import factories

    known = [UUID(ref.case_id) for ref in refs]
    within = ErasureRun.objects.filter(verdict=WITHIN).exclude(case_id__in=known)
    within.update(verdict="inconclusive")
    put_in_force(base, refs, root)
    return factories.take_lease(factories.executing_case().runs.get())


def case_of(lease: Any) -> str:
    from requests_app.models import ErasureRun

    return str(ErasureRun.objects.get(pk=lease.run_id).case_id)


def register(
    lease: Any, base: BaseModel, refs: Sequence[AdapterRef], own: AdapterRef, root: Path
) -> tuple[Seconds, Release]:
    """What the end of one run takes, on top of `refs` in force."""
    from requests_app.services import runs
    from rtbf.made_up_runs import PROBES

    runs.record_protocol(lease, protocol={"number": 1})
    runs.record_adapter(
        lease, sha256=own.adapter_sha256, config_sha256="0" * 64, gate_sha256=own.gate_sha256,
        base_sha256=base.sha256, overlap="0", settings={},
    )  # fmt: skip
    given = runs.read_input(lease)
    started = timed()
    release = write_release(
        root / "releases", base=base, adapters=[*refs, own], parent=given.parent_release
    )
    wrote = timed(started)
    runs.record_evidence(
        lease, evidence={"release": release.sha256}, verdict=WITHIN, probes=PROBES
    )  # fmt: skip
    manifest = (root / "releases" / f"{release.sha256}.json").read_bytes()
    started = timed()
    runs.register_release(lease, manifest=manifest)
    registered = timed(started)
    runs.finish_run(lease)
    return (wrote[0] + registered[0], wrote[1] + registered[1]), release


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


def fill(base: BaseModel, refs: Sequence[AdapterRef], root: Path, cases: int) -> None:
    """`cases` cases; those of `refs` have a run within thresholds and its adapter in force."""
    from django.db import connection
    from django.utils import timezone

    from benchmarks.queue import CASE_ROWS, SUBJECTS
    from requests_app.models import Adapter, Case, ErasureRun, Release, StaffMember
    from tests import factories

    factories.executing_case()
    put_in_force(base, refs, root)
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


# --- All of it ----------------------------------------------------------------------------------
def whole(
    population: setting.Population, records: Records, root: Path, verdicts: list[str]
) -> dict[str, dict[str, float]]:
    """Seconds from the lease of a run to the gateway that serves its release; the verdicts that the
    erasures ended with are added to `verdicts`."""
    base, before = population.base, dict[str, Served]()
    serving = packed(base)

    def serve(name: str, release: Release) -> Served:
        return Served(
            serving, release, adapters_root=root / "adapters", key=KEY, before=before.get(name)
        )

    def step(name: str, number: int) -> Seconds:
        schema, refs = records[name]
        use(schema)
        lease = next_run(base, refs, root)
        case = case_of(lease)
        before[name] = serve(name, manifest_of(base, refs, root))
        started = timed()
        made = erase(
            base,
            setting.subject_of(population.people[setting.NEVER_LOOKED_AT[number]]),
            case_id=case, root=root, gate_key=KEY, seed=1, control=population.control, earlier=refs,
        )  # fmt: skip
        _, release = register(lease, base, refs, made.trained.ref, root)
        serve(name, release)
        spent = timed(started)
        verdicts.append(made.figures["verdict"])
        report.progress(f"{name}: {made.figures['verdict']}, {made.seconds}, {spent}")
        return spent

    return in_turn({name: partial(step, name) for name in records}, WHOLE_REPEATS)


# --- The gateway --------------------------------------------------------------------------------
def taking_over(
    base: BaseModel, refs: Sequence[AdapterRef], root: Path, adapters: int
) -> dict[str, dict[str, float]]:
    """Seconds in which a gateway that serves a release takes the next one over."""
    counts = {"few": FEW, "many": adapters}
    before: dict[str, Served] = {}

    def serve(name: str, more: int) -> Seconds:
        release = manifest_of(base, refs[: counts[name] + more + 1], root)
        started = timed()
        before[name] = Served(
            serving, release, adapters_root=root / "adapters", key=KEY, before=before.get(name)
        )
        return timed(started)

    serving = packed(base)
    for name in counts:
        serve(name, -1)
    return in_turn({name: partial(serve, name) for name in counts})


START = """
import json, resource, sys, time
from pathlib import Path
from workers.base_models import load_base_model
from workers.packed import packed
from workers.releases import read_release
from workers.serving import Served
def kilobytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) for each in lines if each.startswith("VmRSS"))
root = Path(sys.argv[1])
base = packed(load_base_model("demo"))
before, started, worked = kilobytes(), time.perf_counter(), time.process_time()
served = Served(base, read_release(root / "releases", sys.argv[2]),
                adapters_root=root / "adapters", key=sys.argv[3].encode(),
                adapter_bytes=int(sys.argv[4]))
found = {"seconds_beside_the_model": round(time.perf_counter() - started, 2),
         "of_them_processor": round(time.process_time() - worked, 2),
         "megabytes_with_the_model": round(before / 1024),
         "megabytes_more_for_the_gates": round((kilobytes() - before) / 1024)}
acted = time.process_time()
for name in served.bank.ranks:
    served.bank.act([{name: 1.0}])
print(json.dumps({**found,
                  "processor_milliseconds_of_an_adapters_first_act": round(
                      (time.process_time() - acted) / len(served.bank.ranks) * 1000, 2),
                  "megabytes_more_once_all_have_acted": round((kilobytes() - before) / 1024),
                  "bytes_of_adapters_kept": served.bank.resident.bytes}))
"""


def start(root: Path, adapters: int) -> dict[str, Any]:
    """A new process that loads the release of all adapters."""
    refs = sorted((root / "releases").glob("*.json"), key=lambda file: file.stat().st_size)
    sizes = {len(release_of(file.read_bytes()).adapters): file.stem for file in refs}
    done = subprocess.run(
        [sys.executable, "-c", START, str(root), sizes[adapters], KEY.decode(), str(ROOM)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--cases", type=int, default=CASES)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    call: Callable[[], report.Measured] = lambda: measure(options.adapters, options.cases)  # noqa: E731
    sys.exit(report.run(NAME, str(__doc__), call, cannot_run=(OSError,)))
