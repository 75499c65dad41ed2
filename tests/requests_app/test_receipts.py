"""The subject's receipt: they, and nobody else, can show that a sealed case was theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from requests_app import audit, keys, receipts, selectors, vault
from requests_app.actors import SYSTEM
from requests_app.models import AuditEntry, AuditOpening, Case, Checkpoint
from requests_app.services import cases
from requests_app.verifier import canonical, merkle
from requests_app.verifier import receipts as formats
from requests_app.verifier.__main__ import main
from requests_app.verifier.errors import Invalid
from requests_app.verifier.receipts import Opening, Receipt
from tests import factories
from tests.append_only import triggers_dropped
from tests.factories import completed_case, confirmed_case
from tests.requests_app.bundles import export, sign

FITS, OPENS_NOTHING = "This receipt fits", "This receipt opens nothing in our log"


@pytest.fixture(autouse=True)
def _fresh_limits() -> None:
    cache.clear()


def seal(case: Case) -> None:
    cases.seal_case(case_id=case.id, actor=SYSTEM)


def text(response: HttpResponse) -> str:
    return response.content.decode()


def ask(data: bytes) -> HttpResponse:
    return Client().post("/transparency", {"file": SimpleUploadedFile("r.json", data)})


def answer(page: str) -> str:
    return page.partition('id="answer"')[2].partition("</div>")[0]


# --- Making it ----------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_receipt_opens_name_and_address_in_the_entry_of_its_case() -> None:
    case = confirmed_case()
    sign()
    made = receipts.make_receipt(case)
    read = formats.parse_receipt(receipts.receipt_file(made))
    assert read == made
    assert formats.check_openings(read) == ("name", "email")
    assert [each.value for each in read.openings] == [factories.NAME, factories.EMAIL]
    head = formats.check_proof(read, audit.log_keys())
    assert head.size == Checkpoint.objects.latest("size").size


@pytest.mark.django_db
def test_a_receipt_without_a_signature_yet_says_so() -> None:
    made = receipts.make_receipt(confirmed_case())
    assert made.proof is None
    with pytest.raises(Invalid, match="before its entry was signed"):
        formats.check_proof(made, [])


@pytest.mark.django_db
def test_after_sealing_no_receipt_can_be_made_and_the_old_one_still_opens() -> None:
    case = completed_case()
    sign()
    made = receipts.make_receipt(case)
    seal(case)
    assert not AuditOpening.objects.filter(case=case).exists()
    with pytest.raises(vault.VaultSealed):
        receipts.make_receipt(case)
    opened = receipts.open_receipt(made)
    assert opened is not None
    assert opened.fields == ("name", "email")
    assert opened.sealed_at is not None


@pytest.mark.django_db
def test_the_receipt_is_offered_on_the_status_page_of_a_confirmed_case_only() -> None:
    opened = factories.open_case()
    address = f"/status/{opened.case.reference}"
    client = Client()
    client.post("/status", {"reference": opened.case.reference, "access_code": opened.access_code})
    assert "Get your receipt" not in text(client.get(address))
    assert client.get(f"{address}/receipt.json").status_code == 302
    factories.intake.confirm_email(reference=opened.case.reference, code=factories.mailed_code())
    assert "Get your receipt" in text(client.get(address))
    assert factories.EMAIL in text(client.get(f"{address}/receipt"))
    download = client.get(f"{address}/receipt.json")
    assert download.headers["Content-Disposition"].endswith('-receipt.json"')
    assert download.headers["Cache-Control"] == "no-store"
    assert formats.check_openings(formats.parse_receipt(download.content))
    for stranger in (f"{address}/receipt", f"{address}/receipt.json"):
        assert Client().get(stranger).status_code == 302


@pytest.mark.django_db
def test_an_address_that_took_the_place_of_the_senders_is_not_in_the_receipt() -> None:
    case = confirmed_case()
    vault.put(case, "email", "own.canary@mailbox.example")
    made = receipts.make_receipt(case)
    assert formats.check_openings(made) == ("name",)
    assert factories.EMAIL.encode() not in receipts.receipt_file(made)


# --- Reading it ---------------------------------------------------------------------------------
@pytest.mark.django_db
@pytest.mark.parametrize(
    "changes",
    [
        {"openings": (Opening("email", b"\0" * 32, factories.EMAIL),)},
        {"entry": 2},
        {"case": "7f8d1a5e-0000-4000-8000-000000000000"},
        {"log": "rtbf.example/log/other"},
        {"body": b'{"data":{}}'},
        {"body": b"not json"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_receipt_opens_nothing(changes: dict[str, Any]) -> None:
    changed = replace(receipts.make_receipt(confirmed_case()), **changes)
    with pytest.raises(Invalid):
        formats.check_openings(changed)
    assert receipts.open_receipt(changed) is None


@pytest.mark.django_db
def test_a_receipt_of_an_entry_that_the_log_does_not_hold_opens_nothing() -> None:
    """Self-consistent, made by somebody who can write commitments of their own."""
    real = receipts.make_receipt(confirmed_case())
    mine = Opening("email", b"\7" * 32, "mallory@example.org")
    digest = formats.commitment(
        salt=mine.salt, case_id=real.case, seq=real.entry, field="email", value=mine.value
    )
    body = json.loads(real.body)
    body["data"]["email"] = {"commitment": digest}
    forged = replace(real, body=canonical.dumps(body), openings=(mine,))
    assert formats.check_openings(forged) == ("email",)
    assert receipts.open_receipt(forged) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"type":"rtbf-receipt/v1"}',
        b"9" * 5000,
        b"[" * 5000,
        b" " * (formats.LONGEST + 1),
    ],
)
def test_what_is_no_receipt_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        formats.parse_receipt(data)


PLAIN = {
    "type": formats.TYPE,
    "log": "log",
    "case": "case",
    "entry": 1,
    "body": "{}",
    "openings": [{"field": "email", "salt": "00" * 32, "value": "a"}],
    "proof": None,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": True},
        {"entry": "1"},
        {"more": 1},
        {"openings": []},
        {"openings": [PLAIN["openings"][0]] * 2},  # type: ignore[index]
        {"openings": [{"field": "email", "salt": "0", "value": "a"}]},
        {"openings": [{"field": "E mail", "salt": "00" * 32, "value": "a"}]},
        {"openings": [{"field": "email", "salt": "00" * 32, "value": 1}]},
        {"openings": [{"field": "email", "salt": "00" * 32, "value": "a", "x": 1}]},
        {"proof": 1},
        {"type": "rtbf-receipt/v2"},
    ],
)
def test_a_receipt_has_one_form(changes: dict[str, Any]) -> None:
    assert formats.parse_receipt(canonical.dumps(PLAIN)).entry == 1
    with pytest.raises(Invalid):
        formats.parse_receipt(canonical.dumps({**PLAIN, **changes}))


@given(
    field=st.from_regex(r"[a-z_]{1,48}", fullmatch=True),
    salt=st.binary(min_size=32, max_size=32),
    value=st.text(st.characters(codec="utf-8"), max_size=300),
    entry=st.integers(0, 2**53 - 1),
    proof=st.none() | st.just(b"proof"),
)
def test_what_is_written_is_read_again(
    field: str, salt: bytes, value: str, entry: int, proof: bytes | None
) -> None:
    made = Receipt("log", "case", entry, b"{}", (Opening(field, salt, value),), proof)
    assert formats.parse_receipt(formats.receipt_file(made)) == made


# --- Offline ------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_verifier_says_which_entry_a_receipt_opens_also_after_sealing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.attest_key()
    case, other = completed_case(), completed_case()
    receipt, strange = (receipts.make_receipt(each) for each in (case, other))
    seal(case)
    files = {
        "bundle.zip": export(case, prepared=True),
        "trust.txt": keys.trust_text().encode(),
        "receipt.json": receipts.receipt_file(receipt),
        "other.json": receipts.receipt_file(strange),
        "wrong.json": receipts.receipt_file(
            replace(receipt, openings=(replace(receipt.openings[0], value="Somebody Else"),))
        ),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def verified(name: str) -> int:
        paths = [str(tmp_path / each) for each in ("bundle.zip", "trust.txt", name)]
        return main([paths[0], "--trust", paths[1], "--opening", paths[2]])

    assert verified("receipt.json") == 0
    out = capsys.readouterr().out
    assert f"opens the commitment to name and email of entry {receipt.entry}" in out
    assert factories.NAME not in out
    assert verified("other.json") == 1
    assert "not of a case in this bundle" in capsys.readouterr().out
    assert verified("wrong.json") == 1
    assert "does not open the commitment “name”" in capsys.readouterr().out
    assert verified("missing.json") == 2


# --- In public ----------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_holder_of_a_receipt_learns_that_the_case_was_handled_and_nothing_else() -> None:
    case = completed_case()
    data = receipts.receipt_file(receipts.make_receipt(case))
    assert "not sealed yet" in answer(text(ask(data)))
    assert "No signed checkpoint" in answer(text(ask(data)))
    seal(case)
    sign()
    for response in (ask(data), Client().post("/transparency", {"text": data.decode() + "\r\n"})):
        said = answer(text(response))
        assert FITS in said
        assert f"sealed in {timezone.localdate():%B %Y}" in said
        assert "signed checkpoint of" in said
        assert case.reference not in text(response)
        assert str(case.id) not in said
    assert not any(canary in text(ask(data)) for canary in factories.CANARIES)


@pytest.mark.django_db
def test_whoever_has_no_valid_receipt_gets_one_answer() -> None:
    """For a case that exists, one that does not, another log, and an entry beyond the end."""
    case = confirmed_case()
    sign()
    real = receipts.make_receipt(case)
    guess = replace(real, openings=(Opening("email", b"\1" * 32, factories.EMAIL),))
    wrong = [
        guess,
        replace(guess, case="7f8d1a5e-0000-4000-8000-000000000000"),
        replace(guess, entry=10**9),
        replace(real, log="rtbf.example/log/other"),
    ]
    answers = {answer(text(ask(receipts.receipt_file(each)))) for each in wrong}
    assert len(answers) == 1
    assert OPENS_NOTHING in answers.pop()


@pytest.mark.django_db
@pytest.mark.parametrize("data", [b"{}", b"\xff\xfe", b"x" * 40_000, b"x" * 3_000_000])
def test_a_file_that_is_no_receipt_is_named_as_the_problem(data: bytes) -> None:
    response = ask(data)
    assert response.status_code == 422
    assert 'href="#id_file"' in text(response)


@pytest.mark.django_db
def test_file_and_text_at_once_and_neither_are_refused() -> None:
    both = {"file": SimpleUploadedFile("r.json", b"{}"), "text": "{}"}
    for fields in ({}, both, {"text": "{}"}, {"text": "x" * 40_000}):
        assert Client().post("/transparency", fields).status_code == 422


@pytest.mark.django_db
def test_nothing_of_a_receipt_is_stored_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    made = receipts.make_receipt(confirmed_case())
    wrong = replace(made, openings=(Opening("email", b"\1" * 32, "kept.canary@example.org"),))
    before = {model: model.objects.count() for model in (Case, AuditOpening, Checkpoint)}
    ask(receipts.receipt_file(wrong))
    assert {model: model.objects.count() for model in before} == before
    assert "canary" not in caplog.text


@pytest.mark.django_db
def test_checkpoints_and_keys_are_there_for_machines() -> None:
    client = Client()
    assert client.get("/transparency/checkpoint").status_code == 404
    first, _, second = sign_twice()
    assert client.get("/transparency/checkpoint").content.decode() == second.note
    assert client.get(f"/transparency/checkpoint/{first.size}").content.decode() == first.note
    assert client.get("/transparency/checkpoint/999999").status_code == 404
    response = client.get("/transparency/trust.txt")
    assert response.content.decode() == keys.trust_text()
    assert response.headers["Content-Type"].startswith("text/plain")
    page = text(client.get("/transparency"))
    assert str(second.size) in page
    assert second.note.splitlines()[2] in page


def sign_twice() -> tuple[Checkpoint, Case, Checkpoint]:
    keys.attest_key()
    first = sign()
    case = confirmed_case()
    second = sign()
    assert first is not None
    assert second is not None
    return first, case, second


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("count", "shown"), [(0, "fewer than 5"), (4, "fewer than 5"), (5, "about 5"), (8, "about 10")]
)
def test_small_counts_are_not_told_apart(count: int, shown: str) -> None:
    case = confirmed_case()
    for number in range(count):
        Case.objects.create(
            **{
                field.attname: getattr(case, field.attname)
                for field in Case._meta.concrete_fields
                if field.name not in ("id", "reference", "received_at")
            },
            reference=f"ERQ-2000-{number:06d}",
            received_at=timezone.now() - timedelta(days=timezone.localdate().day + 2),
        )
    months = selectors.months_in_round_numbers()
    assert len(months) == 12
    assert months[0].received == shown
    assert {month.received for month in months[1:]} == {"fewer than 5"}
    assert timezone.localdate().replace(day=1) not in {month.first for month in months}


# --- Step by step -------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_page_shows_every_step_from_the_entry_to_the_signed_root() -> None:
    made = receipts.make_receipt(confirmed_case())
    completed_case()
    sign()
    opened = receipts.open_receipt(made)
    assert opened is not None
    assert opened.checkpoint is not None
    assert opened.leaf == merkle.leaf_hash(made.body).hex()
    node = opened.leaf
    for step in opened.walk:
        assert node in (step.left, step.right)
        left, right = bytes.fromhex(step.left), bytes.fromhex(step.right)
        node = merkle.node_hash(left, right).hex()
        assert node == step.both
    assert node == bytes(opened.checkpoint.root).hex()
    page = text(ask(receipts.receipt_file(made)))
    walk = page.partition('id="walk"')[2].partition("</ol>")[0]
    assert walk.count("<li>") == len(opened.walk) > 1
    assert all(step.both in walk for step in opened.walk)
    assert factories.NAME not in page


@pytest.mark.django_db(transaction=True)
def test_a_log_that_does_not_lead_to_its_signed_root_is_not_hidden() -> None:
    confirmed_case()
    sign()
    assert 'id="broken"' not in text(Client().get("/transparency"))
    with triggers_dropped():
        last = AuditEntry.objects.latest("seq")
        AuditEntry.objects.filter(pk=last.pk).update(leaf_hash=b"\0" * 32, nodes=b"\0" * 320)
    page = text(Client().get("/transparency"))
    size = Checkpoint.objects.latest("size").size
    assert f"does not lead to the signed root of {size} entries" in page


@pytest.mark.django_db
def test_releases_are_public_in_whole_groups_of_five_without_place_or_day() -> None:
    for _ in range(4):
        factories.responding_case()
    assert selectors.releases_in_fives() == []
    assert "No group of five is complete yet" in text(Client().get("/transparency"))
    for _ in range(2):
        factories.responding_case()
    listed = selectors.releases_in_fives()
    entries = AuditEntry.objects.filter(type="release.registered").order_by("seq")
    assert {each.leaf for each in listed} == {bytes(e.leaf_hash).hex() for e in entries[:5]}
    page = text(Client().get("/transparency"))
    table = page.partition('id="releases"')[2].partition("</table>")[0]
    assert table.count("<tr>") == 6
    assert all(each.release in table for each in listed)
    assert str(timezone.localdate().year) in table
    assert not [e for e in entries if f">{e.seq}<" in table or str(e.case_id) in table]
