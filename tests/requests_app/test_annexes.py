"""The sealed annex: two people, a reason, one recipient, and nothing of it in the plain bundle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from requests_app import actors, audit, dossier, keys
from requests_app.dossier import BundleNotReady
from requests_app.exports import bundle
from requests_app.models import Annex, Case, StaffMember
from requests_app.services import annexes, cases
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.verifier import annex as opening
from requests_app.verifier import archive, statements
from requests_app.verifier.checks import verify
from requests_app.verifier.errors import Invalid as Refused
from requests_app.verifier.trust import parse_trust
from tests import factories
from tests.requests_app import bundles
from tests.requests_app.test_by_hand import commands
from tests.staff import as_staff

pytestmark = pytest.mark.django_db

KEY = X25519PrivateKey.from_private_bytes(b"an authority's key, for tests..!")


def pem(key: Any = KEY) -> str:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found.decode()


def given(**changes: str) -> annexes.AnnexInput:
    values = {"reason": "Inquiry 7", "recipient": "The authority", "public_key": pem()}
    return annexes.AnnexInput(**{**values, **changes})


def approved(case: Case) -> bytes:
    annexes.ask_annex(case_id=case.id, given=given(), actor_member=factories.make_staff("officer"))
    annexes.approve_annex(case_id=case.id, actor_member=factories.make_staff("approver"))
    sealed = annexes.sealed_annex(case)
    assert sealed is not None
    return sealed


def checked(data: bytes) -> str:
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    return verify(data, trust=trust).claim


@pytest.mark.database
def test_the_recipient_reads_the_annex_and_others_get_a_bundle_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = factories.completed_case()
    sealed = approved(case)
    plain = bundles.export(case)
    annexed = bundle.render(dossier.gather(case), annex=sealed)
    assert checked(plain) == checked(annexed) == "suppression-measured"
    assert statements.ANNEX not in archive.read_archive(plain)
    for data in (plain, annexed):
        for canary in factories.CANARIES:
            assert canary.lower().encode() not in data.lower()
    (tmp_path / "bundle.zip").write_bytes(annexed)
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    arguments = [str(tmp_path / "bundle.zip"), "--key", str(tmp_path / "key.pem")]
    assert opening.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["case"], told["items"]["name"]) == (str(case.id), factories.NAME)
    assert told["items"]["facts"][0]["answer"] == factories.ANSWER
    assert not [n for n in told["items"] if n.startswith(("annex", "code", "run/"))]


def test_the_lines_in_the_readme_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = factories.completed_case()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/annex.sealed").write_bytes(approved(case))
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    lines = commands("4").splitlines()[2:]
    code = "\n".join(lines).replace('open("key.pem", "rb").read()', 'Path("key.pem").read_bytes()')
    code = code.replace(
        'open("bundle/annex.sealed", "rb").read()', 'Path("bundle/annex.sealed").read_bytes()'
    )  # files left open are errors here
    exec(code, {"CASE": str(case.id), "Path": Path})  # noqa: S102
    assert factories.NAME in capsys.readouterr().out


@pytest.mark.database
def test_each_step_is_an_entry_and_reason_and_recipient_stay_in_the_vault() -> None:
    case = factories.completed_case()
    sealed = approved(case)
    asked, done = audit.case_entries(case.id)[-2:]
    bodies = [json.loads(bytes(entry.body)) for entry in (asked, done)]
    assert [body["type"] for body in bodies] == ["annex.asked", "annex.approved"]
    assert bodies[0]["data"]["reason"]["commitment"]
    assert bodies[1]["data"]["sha256"] == hashlib.sha256(sealed).hexdigest()
    assert "authority" not in str(bodies)
    assert "Inquiry" not in str(bodies)


@pytest.mark.database
def test_one_person_alone_cannot_have_it(approver: StaffMember, officer: StaffMember) -> None:
    case = factories.completed_case()
    with pytest.raises(WrongState, match="no annex waiting"):
        annexes.approve_annex(case_id=case.id, actor_member=approver)
    annexes.ask_annex(case_id=case.id, given=given(), actor_member=approver)
    with pytest.raises(NotAllowed, match="another person"):
        annexes.approve_annex(case_id=case.id, actor_member=approver)
    with pytest.raises(NotAllowed, match="role"):
        annexes.approve_annex(case_id=case.id, actor_member=officer)
    row = Annex.objects.get()
    row.approved_by, row.approved_at = approver, timezone.now()
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save()
    assert annexes.sealed_annex(case) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": " "},
        {"recipient": ""},
        {"public_key": "not a key"},
        {"public_key": pem(Ed25519PrivateKey.generate())},
    ],
)
def test_an_annex_without_reason_recipient_or_key_is_refused(
    changes: dict[str, str], officer: StaffMember
) -> None:
    case = factories.completed_case()
    with pytest.raises(Invalid):
        annexes.ask_annex(case_id=case.id, given=given(**changes), actor_member=officer)
    assert not Annex.objects.exists()


@pytest.mark.database
def test_a_sealed_case_has_no_annex_any_more(officer: StaffMember, approver: StaffMember) -> None:
    case = factories.completed_case()
    sealed = approved(case)
    annexes.ask_annex(case_id=case.id, given=given(), actor_member=officer)
    cases.seal_case(case_id=case.id, actor=actors.SYSTEM)
    case.refresh_from_db()
    for step in (
        lambda: annexes.ask_annex(case_id=case.id, given=given(), actor_member=officer),
        lambda: annexes.approve_annex(case_id=case.id, actor_member=approver),
    ):
        with pytest.raises(WrongState, match="sealed"):
            step()
    assert annexes.sealed_annex(case) is None
    keys.attest_key()
    bundles.sign()
    data = bundle.render(dossier.gather(case))
    assert checked(data) == "suppression-measured"
    assert sealed not in data


def test_an_annex_opens_with_its_key_for_its_case_and_not_otherwise() -> None:
    case = factories.completed_case()
    sealed = approved(case)
    own = {"key": KEY, "case": str(case.id)}
    assert opening.unseal(sealed, **own)
    for changes, data in (
        ({"key": X25519PrivateKey.generate()}, sealed),
        ({"case": "another"}, sealed),
        ({}, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        ({}, b""),
    ):
        with pytest.raises(Refused, match="does not open"):
            opening.unseal(data, **{**own, **changes})


def test_an_annex_that_was_not_approved_is_neither_enclosed_nor_accepted() -> None:
    case = factories.completed_case()
    bundles.export(case)
    sealed = approved(case)
    with pytest.raises(BundleNotReady, match="anew"):
        bundle.render(dossier.gather(case), annex=sealed)
    made = bundles.made_bundle()
    problem = bundles.refused(made, bundles.forge(made, {statements.ANNEX: sealed}))
    assert problem.file == statements.ANNEX


def test_the_pages_lead_from_asking_to_the_bundle(
    officer: StaffMember, approver: StaffMember
) -> None:
    case = factories.completed_case()
    at = {"reference": case.reference}
    client = as_staff(officer)
    assert "Sealed annex" in client.get(reverse("exports", kwargs=at)).content.decode()
    wrong = {"reason": "Inquiry 7", "recipient": "The authority", "public_key": "x"}
    answer = client.post(reverse("case_annex", kwargs=at), wrong)
    assert answer.status_code == 422
    assert "X25519 key" in answer.content.decode()
    assert client.get(reverse("annexed_bundle", kwargs=at)).status_code == 409
    client.post(reverse("case_annex", kwargs=at), {**wrong, "public_key": pem()})
    assert client.post(reverse("case_annex_approve", kwargs=at)).status_code == 403
    client = as_staff(approver)
    assert "Approve and seal" in client.get(reverse("exports", kwargs=at)).content.decode()
    client.post(reverse("case_annex_approve", kwargs=at))
    bundles.export(case)
    answer = client.get(reverse("annexed_bundle", kwargs=at))
    assert answer.status_code == 200
    assert statements.ANNEX in archive.read_archive(answer.content)
