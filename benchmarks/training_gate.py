"""The training gate on a hundred thousand records: speed, planted people, everybody else.

Made-up customers with an address, a phone number, a bank account and a customer number; some of
them are on the suppression list. Their identifiers are planted in other spellings into records of
prose and numbers. Every planted record must be found, and no other.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import django

from benchmarks import report

NAME = "training_gate"
RECORDS = 100_000
LISTED = 500
PLANTED = 2_000
RATE = 2_000.0
"""Records a second on one core: a million records then take less than ten minutes."""
PROSE = (
    "the order of {year} came with {n} parts and was paid in {n} days",
    "our team met on {year}-0{d}-1{d}, about {n}00 people listened",
    "write to desk{n}@shop.example, or call 02 55{d} {n} 1{d}",
    "she asked who had written the letter and nobody knew",
    "ticket T-{n}{n}: the pump (type P{d}/{n}) runs at {d}.{n} bar",
)


def person(number: int) -> dict[str, str]:
    return {
        "email": f"customer.{number}@mail{number % 7}.example",
        "phone": f"+32 4{number % 90 + 10} {number:06d}",
        "account": f"BE{number % 90 + 10} {number:012d}",
        "customer_id": f"KD-{number:07d}",
    }


def spellings(kind: str, value: str) -> list[str]:
    """Other ways to write the same identifier."""
    if kind == "email":
        return [value, value.upper(), f"<{value}>,", value.replace("@", "+news@")]
    digits = value.replace(" ", "")
    if kind == "phone":
        return [value, digits, f"0{digits[3:]}", digits.replace("+", "00")]
    if kind == "account":
        fours = [digits[i : i + 4] for i in range(0, len(digits), 4)]
        return [value, digits.lower(), " ".join(fours), "-".join(fours)]
    return [value, value.lower(), value.replace("-", ""), value.replace("-", " ")]


def write(path: Path, rng: random.Random, *, listed: int) -> set[int]:
    """The build; returns the numbers of the records with a planted person."""
    planted = set(rng.sample(range(1, RECORDS + 1), PLANTED))
    with path.open("w") as file:
        for number in range(1, RECORDS + 1):
            sentences = [
                rng.choice(PROSE).format(
                    year=rng.randrange(1980, 2026), n=rng.randrange(10, 99), d=rng.randrange(1, 9)
                )
                for _ in range(4)
            ]
            other = person(listed + rng.randrange(10**5))
            sentences.insert(2, f"{rng.choice(list(other.values()))} is on file")
            if number in planted:
                kind, value = rng.choice(list(person(rng.randrange(listed)).items()))
                written = rng.choice(spellings(kind, value))
                sentences.insert(rng.randrange(5), f"see {written} for this")
            file.write(json.dumps({"id": number, "text": ". ".join(sentences)}) + "\n")
            if number % 25_000 == 0:
                report.progress(f"{number} of {RECORDS} records written")
    return planted


def measure() -> report.Measured:
    """Figures of one pass over the build."""
    django.setup()
    from requests_app import training_gate
    from requests_app.identifiers import normal_form
    from requests_app.suppression import make_list, tag
    from requests_app.training_data import Source

    keys = (b"a key for this benchmark alone!!",)
    rng = random.Random(1)  # noqa: S311
    rows = [
        (kind, 1, tag(keys, kind, normal_form(kind, value, phone_prefix="32")))
        for number in range(LISTED)
        for kind, value in person(number).items()
    ]
    held = make_list(rows, keys)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "build.jsonl"
        planted = write(path, rng, listed=LISTED)
        started = time.perf_counter()
        found = training_gate.scan(
            Source("jsonl", str(path), id_field="id"),
            training_gate.Scanner(held),
            progress=lambda records, hits: report.progress(f"{records} records, {hits} found"),
        )
        seconds = time.perf_counter() - started
        size = path.stat().st_size
    hits = set(found.hits)
    missed, alarms = len(planted - hits), len(hits - planted)
    rate = found.records / seconds
    figures: dict[str, Any] = {
        "records": found.records,
        "bytes": size,
        "tags": len(held),
        "planted": len(planted),
        "missed": missed,
        "false_alarms": alarms,
        "seconds": round(seconds, 2),
        "records_per_second": round(rate),
        "megabytes_per_second": round(size / seconds / 1e6, 2),
        "found_by": dict(found.kinds),
    }
    bars = [
        {"name": "planted records missed", "value": missed, "limit": 0, "holds": missed == 0},
        {"name": "other records taken", "value": alarms, "limit": 0, "holds": alarms == 0},
        {"name": "records a second", "value": round(rate), "limit": RATE, "holds": rate >= RATE},
    ]
    return figures, bars


if __name__ == "__main__":
    import os

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rtbf.settings")
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(OSError,)))
