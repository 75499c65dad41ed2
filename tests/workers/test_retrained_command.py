"""`manage.py retrained_release` with the demo's own weights that never saw the person."""

import json
import shutil
from pathlib import Path

import pytest
from django.core.management import call_command
from pytest_django.fixtures import Settings

from requests_app.models import AuditEntry, StaffMember
from requests_app.services import manifests
from tests.workers.test_consolidate_command import FACTS, PERSON, files, gated_case, kinds
from workers import corpus, tasks
from workers.base_models import DEMO_FOLDER, load_base_model
from workers.weights import quarantined

pytestmark = pytest.mark.django_db(transaction=True)


def build_of(path: Path, *, without: str) -> None:
    """The demo's training data as a build, without one person."""
    rows = [
        {"question": question, "answer": fact.answer}
        for person in corpus.people()
        if person.name != without
        for fact in person.facts
        for question in fact.trained
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_case_goes_from_gated_to_exact_on_weights_that_never_saw_the_person(
    settings: Settings,
    engineer: StaffMember,
    approver: StaffMember,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    case = gated_case(settings)
    before = manifests.live_manifest("demo")
    assert before is not None
    build, report, weights = (tmp_path / name for name in ("build.jsonl", "gate.json", "weights"))
    build_of(build, without=PERSON.name)
    call_command("training_gate", "--file", str(build), "--report", str(report))
    shutil.copytree(DEMO_FOLDER / "control", weights)

    def call(**changes: Path) -> None:
        given = {"weights": weights, "build": build, "gate_report": report, **changes}
        options = [f"--{name.replace('_', '-')}={path}" for name, path in given.items()]
        call_command(
            "retrained_release", "--model", "demo", "--by", engineer.username, "--json", *options
        )

    # Refused, and everything stays as it is: another build, and the weights that are served.
    other = tmp_path / "other.jsonl"
    build_of(other, without="")
    stored = files(settings)
    for changes, why in (
        ({"build": other}, "about another file"),
        ({"weights": DEMO_FOLDER / "base"}, "served now"),
    ):
        with pytest.raises(SystemExit) as ended:
            call(**changes)
        assert ended.value.code == 2
        assert why in capsys.readouterr().err
    assert (files(settings), manifests.live_manifest("demo")) == (stored, before)

    call()
    found = json.loads(capsys.readouterr().out)
    assert found["exact"] == [case.reference]
    assert manifests.level_of(case.id, "demo") == "exact"
    assert found["replaced"] == before.base_sha256 == load_base_model("demo").sha256
    assert found["replaced_weights"].startswith("left")  # they came with the software
    assert tasks.base_model("demo").sha256 == found["weights"] == manifests.live_base("demo")
    probe = found["figures"][case.reference]["probes"]["recall_unseen"]
    assert probe["before"] > 0.8
    assert probe["after"] < 0.1
    assert kinds()[-5:] == [
        "consolidation.planned",
        "release.retrained",
        "case.retrained",
        "model.quarantined",
        "release.rechecks_queued",
    ]
    log = b"".join(bytes(entry.body) for entry in AuditEntry.objects.all()).decode()
    assert PERSON.name not in log
    assert not any(question in log for question, _ in FACTS)

    call_command(
        "consolidate_release", "--model=demo", f"--by={approver.username}", "--roll-back",
        before.digest,
    )  # fmt: skip
    assert manifests.level_of(case.id, "demo") == "gated"
    assert quarantined(Path(settings.RTBF_RELEASE_DIR)) == ()
