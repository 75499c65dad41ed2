"""Staff pages: who may open what, two people, and the whole path of a case by its buttons."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from uuid import UUID

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import keys, urls, vault
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import AuditEntry, Case, ErasureRun, StaffMember
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import cases, runs
from requests_app.templatetags import rtbf
from requests_app.views import record
from tests import factories
from tests.requests_app import bundles
from tests.staff import as_staff

pytestmark = pytest.mark.django_db

NOBODY = UUID(int=0)
FACTS = "\n".join(f"{question} | {answer}" for question, answer in factories.FACTS)


def text(response: HttpResponse) -> str:
    return response.content.decode()


def decision_fields(case: Case, *, step: str, **changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "outcome": "granted",
        "grounds": ["17-1-a"],
        "reasoning": "No purpose is left.",
        "step": step,
    }
    for item in case.scope_items.all():
        fields[f"item_{item.pk}"] = "erase"
        fields[f"exemption_{item.pk}"] = ""
    return {**fields, **changes}


def addresses(case: Case, run: ErasureRun) -> list[str]:
    """Every staff address there is, filled in with this case and run."""
    known = {
        "reference": case.reference,
        "run_id": run.pk,
        "letter_id": case.letters.order_by("pk")[0].pk,
        "name": "bundle",
        "kind": "svg",
        "notice_id": 1,
        "item_id": 1,
        "recipient_id": 1,
        "digest": "0" * 64,
        "job_id": run.pk,
        "consolidation_id": run.pk,
        "pseudonym": NOBODY,
    }
    found = []
    for pattern in urls.urlpatterns:
        if str(pattern.pattern).startswith("app/"):
            wanted = pattern.pattern.converters
            found.append(reverse(str(pattern.name), kwargs={name: known[name] for name in wanted}))
    return found


# --- Who may ------------------------------------------------------------------------------------
def test_strangers_are_led_to_the_log_in_page_from_every_staff_address(client: Client) -> None:
    case = factories.executing_case()
    paths = addresses(case, case.runs.get())
    assert len(paths) > 15
    for path in paths:
        for response in (client.get(path), client.post(path)):
            assert response.status_code == 302, path
            assert response.url.startswith("/accounts/login/"), path  # type: ignore[attr-defined]


def test_log_in_leads_to_the_page_that_was_asked_for(officer: StaffMember, client: Client) -> None:
    login = client.get("/app/audit").url  # type: ignore[attr-defined]
    fields = {"login": officer.username, "password": "password-for-tests", "next": "/app/audit"}
    assert client.post(login, fields).url == "/app/audit"  # type: ignore[attr-defined]
    wrong = Client().post("/accounts/login/", {**fields, "password": "wrong"})
    assert "There is a problem" in text(wrong)


def test_there_is_no_sign_up(client: Client) -> None:
    fields = {"email": "a@b.example", "username": "a", "password1": "a-long-password-1"}
    client.post("/accounts/signup/", fields)
    assert not StaffMember.objects.exists()


def test_every_page_opens_for_the_role_that_needs_it(
    officer: StaffMember, engineer: StaffMember, auditor: StaffMember
) -> None:
    case = factories.completed_case()
    run = case.runs.get()
    common = [
        "/app/",
        "/app/cases",
        f"/app/cases/{case.reference}",
        f"/app/runs/{run.pk}",
        f"/app/runs/{run.pk}/progress",
        f"/app/runs/{run.pk}/evidence",
        "/app/releases",
        "/app/audit",
    ]
    for member in (officer, engineer, auditor):
        for path in common:
            response = as_staff(member).get(path)
            assert response.status_code == 200, (member.role, path)
            if "progress" not in path:
                assert len(re.findall(r"<h1[ >]", text(response))) == 1, path


@pytest.mark.parametrize(
    ("role", "name", "needed"),
    [
        (Role.ENGINEER, "case_identity", "Intake or Case officer or Approver"),
        (Role.AUDITOR, "case_identity", "Intake or Case officer or Approver"),
        (Role.INTAKE, "case_facts", "Case officer or Approver"),
        (Role.ENGINEER, "case_facts", "Case officer or Approver"),
        (Role.INTAKE, "case_decision", "Case officer or Approver"),
        (Role.AUDITOR, "case_decision", "Case officer or Approver"),
        (Role.ENGINEER, "case_approval", "Case officer or Approver"),
        (Role.AUDITOR, "case_answer", "Case officer or Approver"),
        (Role.INTAKE, "case_evidence_review", "Case officer or Approver"),
        (Role.ENGINEER, "exports", "Case officer or Approver or Auditor"),
        (Role.INTAKE, "exports", "Case officer or Approver or Auditor"),
    ],
)
def test_wrong_role_gets_a_page_that_names_the_role_needed(
    role: Role, name: str, needed: str
) -> None:
    case = factories.case_in_review()
    before = AuditEntry.objects.count()
    client = as_staff(factories.make_staff(role))
    for response in (
        client.get(reverse(name, args=[case.reference])),
        client.post(reverse(name, args=[case.reference])),
    ):
        assert response.status_code == 403
        assert f"needs the role {needed}" in text(response)
    assert AuditEntry.objects.count() == before


def test_second_factor_is_asked_for_when_the_installation_demands_it(
    officer: StaffMember, settings: Settings
) -> None:
    client = as_staff(officer)
    assert client.get("/app/").status_code == 200
    settings.RTBF_REQUIRE_MFA = True
    response = client.get("/app/")
    assert response.url == reverse("mfa_index")  # type: ignore[attr-defined]


def test_personal_data_is_shown_to_those_who_decide_only(
    officer: StaffMember, engineer: StaffMember, auditor: StaffMember
) -> None:
    case = factories.completed_case()
    run = case.runs.get()
    path = f"/app/cases/{case.reference}"
    assert factories.NAME in text(as_staff(officer, case).get(path))
    assert factories.ANSWER in text(as_staff(officer, case).get(path))
    pages = [path, "/app/cases", f"/app/runs/{run.pk}", f"/app/runs/{run.pk}/evidence"]
    pages += ["/app/", "/app/cases?view=all", "/app/releases", "/app/audit"]
    for member in (engineer, auditor):
        for page in pages:
            shown = text(as_staff(member).get(page))
            assert not [canary for canary in factories.CANARIES if canary in shown], page
        letter = f"{path}/letters/{case.letters.order_by('pk')[0].pk}"
        assert as_staff(member).get(letter).status_code == 403


# --- Queue --------------------------------------------------------------------------------------
def test_queue_lists_open_cases_by_due_date_with_the_subject_masked(officer: StaffMember) -> None:
    late = factories.confirmed_case()
    early = factories.confirmed_case(received_at=timezone.now() - timedelta(days=20))
    page = text(as_staff(officer).get("/app/cases"))
    assert re.findall(r'data-reference="([\w-]+)"', page) == [early.reference, late.reference]
    assert "z***@m***.example" in page
    assert not [canary for canary in factories.CANARIES if canary in page]


def test_queue_filters_by_address(officer: StaffMember) -> None:
    overdue = factories.confirmed_case(received_at=timezone.now() - timedelta(days=60))
    fresh = factories.case_in_review()
    client = as_staff(officer)

    def listed(query: str) -> list[str]:
        return re.findall(r'data-reference="([\w-]+)"', text(client.get(f"/app/cases?{query}")))

    assert listed("view=overdue") == [overdue.reference]
    assert listed("status=in_review") == [fresh.reference]
    assert listed(f"reference={fresh.reference.lower()}") == [fresh.reference]
    assert listed("status=sealed") == []
    assert "No case matches" in text(client.get("/app/cases?status=sealed"))
    assert client.get("/app/cases?status=nonsense").status_code == 200
    assert "days overdue" in text(client.get("/app/cases?view=overdue"))


def test_today_counts_what_waits(officer: StaffMember) -> None:
    assert "Nothing needs you" in text(as_staff(officer).get("/app/"))
    factories.confirmed_case(received_at=timezone.now() - timedelta(days=60))
    soon = factories.confirmed_case()
    factories.due_on(soon, timezone.localdate() + timedelta(days=3))
    factories.case_in_review()
    page = text(as_staff(officer).get("/app/"))
    assert re.search(r'id="count-overdue"><b>1</b>', page)
    assert re.search(r'id="count-soon"><b>1</b>', page)
    assert re.search(r'id="count-decide"><b>1</b>', page)


# --- The path of a case -------------------------------------------------------------------------
def test_case_goes_from_identity_to_a_queued_run_by_its_pages(
    officer: StaffMember,
    approver: StaffMember,
    queue_messages: Callable[[str], list[dict[str, object]]],
) -> None:
    case = factories.confirmed_case()
    base = f"/app/cases/{case.reference}"
    client = as_staff(officer, case)
    assert f'href="{base}/identity"' in text(client.get(base))
    client.post(f"{base}/identity", {"method": "held_attributes", "note": ""})
    client.post(f"{base}/facts", {"facts": FACTS, "aliases": "Zed"})
    assert vault.get(case, "facts")[0] == {
        "question": factories.FACTS[0][0],
        "answer": factories.FACTS[0][1],
    }
    assert "Zed" in vault.get(case, "aliases")
    check = client.post(f"{base}/decision", decision_fields(case, step="check"))
    assert "an erasure run starts on demo" in text(check)
    assert not case.decisions.exists()
    client.post(f"{base}/decision", decision_fields(case, step="propose"))
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL
    queue_messages("model")
    with factories.on_commit():
        as_staff(approver, case).post(f"{base}/approval", {"action": "approve"})
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING
    run = case.runs.get()
    assert [m["args"] for m in queue_messages("model")] == [[str(run.id)]]
    page = text(client.get(base))
    assert "Decision approved" in page
    assert f"/app/runs/{run.pk}" in page


def test_check_page_carries_every_answer_to_the_proposal(officer: StaffMember) -> None:
    case = factories.case_in_review(scope=("model", "data_store"))
    base = f"/app/cases/{case.reference}"
    store = case.scope_items.get(kind="data_store")
    fields = decision_fields(
        case,
        step="check",
        outcome="partly_granted",
        grounds=["17-1-a", "17-1-b"],
        **{
            f"item_{store.pk}": "keep",
            f"exemption_{store.pk}": "17-3-b",
            f"necessity_{store.pk}": "Tax law asks for it.",
            f"review_{store.pk}": factories.KEPT.review_on,
        },
    )
    page = text(as_staff(officer).post(f"{base}/decision", fields))
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page)
    sent: dict[str, list[str]] = {}
    for name, value in hidden:
        sent.setdefault(name, []).append(value)
    as_staff(officer).post(f"{base}/decision", {**sent, "step": "propose"})
    decision = case.decisions.get()
    assert decision.outcome == "partly_granted"
    assert decision.grounds == ["17-1-a", "17-1-b"]
    store.refresh_from_db()
    assert (store.result, store.exemption) == ("keep", "17-3-b")
    assert store.review_on == factories.KEPT.review_on
    assert vault.get(case, f"scope/{store.pk}/reasoning") == "Tax law asks for it."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grounds": []}, "Select at least one ground"),
        ({"reasoning": ""}, "Enter the reasoning"),
        ({"outcome": ""}, "Select an outcome"),
        ({"outcome": "refused"}, "needs the results"),
    ],
)
def test_incomplete_decision_is_refused_in_words(
    officer: StaffMember, changes: dict[str, object], words: str
) -> None:
    case = factories.case_in_review()
    path = f"/app/cases/{case.reference}/decision"
    response = as_staff(officer).post(path, decision_fields(case, step="propose", **changes))
    assert response.status_code == 422
    assert words in text(response)
    assert not case.decisions.exists()


def test_facts_line_without_a_bar_is_named_by_its_number(officer: StaffMember) -> None:
    case = factories.confirmed_case()
    path = f"/app/cases/{case.reference}/facts"
    response = as_staff(officer, case).post(path, {"facts": "A question? | yes\n\nno bar here"})
    assert response.status_code == 422
    assert "Line 3 is not a question" in text(response)
    assert not vault.has(case, "facts")


def test_saved_facts_are_offered_for_correction(officer: StaffMember) -> None:
    case = factories.case_in_review()
    page = text(as_staff(officer, case).get(f"/app/cases/{case.reference}/facts"))
    assert f"{factories.FACTS[0][0]} | {factories.FACTS[0][1]}" in page


# --- Two people ---------------------------------------------------------------------------------
def test_same_person_sees_a_disabled_button_with_the_reason_and_cannot_approve(
    approver: StaffMember,
) -> None:
    case = factories.propose(factories.case_in_review(), by=approver)
    path = f"/app/cases/{case.reference}/approval"
    page = text(as_staff(approver, case).get(path))
    assert re.search(r"<button[^>]*disabled[^>]*>Approve decision", page)
    assert "another approver has to approve it" in page
    response = as_staff(approver, case).post(path, {"action": "approve"})
    assert response.status_code == 403
    case.refresh_from_db()
    assert case.status == CaseStatus.AWAITING_APPROVAL


def test_officer_sees_that_approving_needs_an_approver(officer: StaffMember) -> None:
    case = factories.propose(factories.case_in_review())
    path = f"/app/cases/{case.reference}/approval"
    page = text(as_staff(officer, case).get(path))
    assert "Approving needs the role Approver" in page
    assert as_staff(officer, case).post(path, {"action": "approve"}).status_code == 403


def test_second_person_returns_a_proposal_with_a_reason(
    approver: StaffMember, officer: StaffMember
) -> None:
    case = factories.propose(factories.case_in_review())
    path = f"/app/cases/{case.reference}/approval"
    empty = as_staff(approver, case).post(path, {"action": "return", "reason": ""})
    assert empty.status_code == 422
    as_staff(approver, case).post(path, {"action": "return", "reason": "Name the purpose."})
    case.refresh_from_db()
    assert case.status == CaseStatus.IN_REVIEW
    assert "Name the purpose." in text(as_staff(officer, case).get(f"/app/cases/{case.reference}"))


def test_step_out_of_its_time_gives_a_page_that_says_where_the_case_is(
    officer: StaffMember,
) -> None:
    case = factories.confirmed_case()
    client = as_staff(officer)
    for name in ("case_decision", "case_approval", "case_answer", "case_evidence_review"):
        path = reverse(name, args=[case.reference])
        for response in (client.get(path), client.post(path)):
            assert response.status_code == 409, name
            assert "Identity check" in text(response)
    assert client.get("/app/cases/ERQ-2026-999999").status_code == 404


# --- Runs and evidence --------------------------------------------------------------------------
def test_run_page_is_polled_while_the_run_goes_on_and_reloads_at_its_end(
    officer: StaffMember,
) -> None:
    case = factories.executing_case()
    run = case.runs.get()
    client = as_staff(officer)
    page = text(client.get(f"/app/runs/{run.pk}"))
    assert f'hx-get="/app/runs/{run.pk}/progress"' in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert "Waiting for a worker" in page
    lease = factories.take_lease(run)
    runs.add_event(lease, phase="train", step=3, total=12, figures={"loss": 0.5})
    part = client.get(f"/app/runs/{run.pk}/progress")
    assert 'max="12" value="3"' in text(part)
    assert "loss 0.5" in text(part)
    assert "<html" not in text(part)
    assert "HX-Refresh" not in part.headers
    factories.work_off(run, lease=lease)
    assert client.get(f"/app/runs/{run.pk}/progress").headers["HX-Refresh"] == "true"
    ended = text(client.get(f"/app/runs/{run.pk}"))
    assert "hx-get" not in ended
    assert f"/app/runs/{run.pk}/evidence" in ended


def test_engineer_cancels_a_queued_run(engineer: StaffMember, auditor: StaffMember) -> None:
    run = factories.executing_case().runs.get()
    path = f"/app/runs/{run.pk}/cancel"
    assert as_staff(auditor).post(path).status_code == 403
    as_staff(engineer).post(path)
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED
    assert as_staff(engineer).post(path).status_code == 409


def test_evidence_page_states_figures_verdict_digests_and_limits(auditor: StaffMember) -> None:
    case = factories.responding_case()
    run = case.runs.get()
    page = text(as_staff(auditor).get(f"/app/runs/{run.pk}/evidence"))
    for figure in ("0.9375", "0.0208", "0.0417", "0.1253", "48"):
        assert figure in page
    assert "Measured suppression within thresholds" in page
    assert run.adapter.sha256 in page
    assert run.protocol_sha256 in page
    assert str(run.seed) in page
    assert "What this does not show" in page


def test_evidence_page_shows_the_probes_as_a_figure_with_its_finding(auditor: StaffMember) -> None:
    run = factories.responding_case().runs.get()
    page = text(as_staff(auditor).get(f"/app/runs/{run.pk}/evidence"))
    figure = page[page.index("<figure") : page.index("</figure>")]
    assert "<figcaption>The one value with a threshold is within it</figcaption>" in figure
    assert '<svg xmlns="http://www.w3.org/2000/svg" viewBox=' in figure
    assert re.findall(r'data-probe="(\w+)"', figure) == ["trained", "unseen"]
    assert "<details>" in figure
    assert "style=" not in page
    assert len(page.encode()) < 100_000


@pytest.mark.parametrize(
    ("value", "figure", "percent"),
    [
        ("", "not measured", "not measured"),
        ("0", "0", "0\u00a0%"),
        ("0.9375", "0.9375", "93.8\u00a0%"),
        ("1", "1", "100\u00a0%"),
        ("1.00421", "1.0042", "1.0042"),
        ("0.00001", "0.00001", "below 0.1\u00a0%"),
        ("0.9996", "0.9996", "above 99.9\u00a0%"),
        ("NaN", "NaN", "NaN"),
        ("many", "many", "many"),
    ],
)
def test_recorded_figures_are_spelled_out_and_never_made_up(
    value: str, figure: str, percent: str
) -> None:
    assert rtbf.figure(value) == figure
    assert rtbf.percent(value) == percent


def test_evidence_page_of_a_run_that_measured_nothing_says_so(auditor: StaffMember) -> None:
    run = factories.executing_case().runs.get()
    page = text(as_staff(auditor).get(f"/app/runs/{run.pk}/evidence"))
    assert "no evidence" in page
    assert "within thresholds" not in page


def test_evidence_outside_thresholds_is_repeated_or_accepted(officer: StaffMember) -> None:
    case = factories.responding_case(verdict=Verdict.INCONCLUSIVE)
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    path = f"/app/cases/{case.reference}/evidence-review"
    client = as_staff(officer)
    run = case.runs.get()
    assert client.post(path, {"action": "repeat", "run": "nonsense"}).status_code == 409
    client.post(path, {"action": "repeat", "run": str(run.pk)})
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING
    factories.work_off(case.runs.get(number=2), verdict=Verdict.INCONCLUSIVE)
    client.post(path, {"action": "accept"})
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING


def test_releases_page_names_what_is_live_by_digest(engineer: StaffMember) -> None:
    assert "No release is live" in text(as_staff(engineer).get("/app/releases"))
    run = factories.responding_case().runs.get()
    page = text(as_staff(engineer).get("/app/releases"))
    assert run.release is not None
    assert run.release.digest in page
    assert run.adapter.sha256 in page


# --- Answer, exports, audit ---------------------------------------------------------------------
def test_answer_is_sent_once_and_can_be_read(officer: StaffMember) -> None:
    case = factories.responding_case()
    base = f"/app/cases/{case.reference}"
    client = as_staff(officer, case)
    preview = re.search(r'id="letter"[^>]*>(.*?)</pre>', text(client.get(f"{base}/answer")), re.S)
    assert preview is not None
    client.post(f"{base}/answer")
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED
    assert client.post(f"{base}/answer").status_code == 409
    letter = case.letters.get(kind="completion")
    download = client.get(f"{base}/letters/{letter.pk}")
    assert "0.0208" in text(download)
    assert unescape(preview[1]) == text(download)  # what was read is what was sent
    assert "attachment" in download.headers["Content-Disposition"]
    assert not [c for c in factories.CANARIES if c in download.headers["Content-Disposition"]]


def test_bundle_is_prepared_waits_for_the_signer_and_is_then_downloaded(
    auditor: StaffMember,
) -> None:
    case = factories.completed_case()
    path = f"/app/cases/{case.reference}/exports"
    client = as_staff(auditor)
    keys.attest_key()
    assert 'data-state="none"' in text(client.get(path))
    assert client.get(f"{path}/bundle").status_code == 409
    waiting = text(client.post(path, follow=True))
    assert 'data-state="waiting"' in waiting
    assert 'http-equiv="refresh"' in waiting
    assert "signer" in text(client.get(f"{path}/bundle")).lower()
    bundles.sign()
    ready = text(client.get(path))
    assert 'data-state="ready"' in ready
    assert 'http-equiv="refresh"' not in ready
    for name in re.findall(r'data-export="(\w+)"', ready):
        response = client.get(f"{path}/{name}")
        assert response.status_code == 200
        assert response.headers["Content-Disposition"].startswith("attachment")
        assert case.reference in response.headers["Content-Disposition"]
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"{path}/bundle").content))
    assert "statement.dsse.json" in archive.namelist()
    assert client.get(f"{path}/unknown").status_code == 404


def test_a_missing_attestation_key_is_told_on_the_exports_pages(
    auditor: StaffMember, settings: Settings
) -> None:
    case = factories.completed_case()
    path = f"/app/cases/{case.reference}/exports"
    client = as_staff(auditor)
    client.post(path)
    bundles.sign()
    (settings.RTBF_KEY_DIR / keys.ATTEST_FILE).unlink()
    settings.RTBF_PRODUCTION = True
    for response in (client.post(path), client.get(f"{path}/bundle")):
        assert response.status_code == 409
        assert "openssl genpkey -algorithm ed25519" in text(response)


def test_audit_page_shows_entries_exactly_and_what_is_not_signed_yet(auditor: StaffMember) -> None:
    case = factories.confirmed_case()
    client = as_staff(auditor)
    page = text(client.get("/app/audit"))
    assert "not signed yet" in page
    assert 'data-type="case.email_confirmed"' in page
    assert str(case.pk) in page
    bundles.sign()
    signed = text(client.get("/app/audit"))
    assert 'id="checkpoint"' in signed
    assert "rtbf.example/log/test" in signed
    assert 'data-type="case.received"' not in text(client.get("/app/audit?before=1"))


def test_the_audit_log_is_read_by_case_and_by_kind(
    auditor: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = factories.confirmed_case(), factories.confirmed_case()
    client = as_staff(auditor)

    def kinds(query: str) -> list[tuple[int, str]]:
        rows = r'data-type="([^"]+)"><th scope="row">(\d+)<'
        page = text(client.get(f"/app/audit?{query}"))
        return [(int(seq), kind) for kind, seq in re.findall(rows, page)]

    of_first = kinds(f"case={first.reference.lower()}")
    assert [kind for _, kind in of_first][-2:] == ["case.email_confirmed", "case.received"]
    received = [seq for seq, _ in kinds("type=case.received")]
    assert received == sorted(received, reverse=True)
    assert len(received) == 2
    assert kinds(f"case={second.reference}&type=case.received") == [(received[0], "case.received")]
    assert kinds("case=ERQ-2026-999999") == []
    monkeypatch.setattr(record, "LOOKED_AT", 1)
    page = text(client.get("/app/audit?type=case.received"))
    assert "No entries of this kind." in page
    before = AuditEntry.objects.count() - 1  # where the next page goes on
    assert f'href="?type=case.received&amp;before={before}"' in page


# --- Requests that come another way -------------------------------------------------------------
def test_request_by_post_is_entered_with_its_true_date_of_receipt(officer: StaffMember) -> None:
    day = timezone.localdate() - timedelta(days=3)
    fields = {
        "channel": "post",
        "received_on": day.isoformat(),
        "name": factories.NAME,
        "email": "",
        "language": "pl",
        "aliases": "",
        "systems": ["model"],
        "message": "",
    }
    response = as_staff(officer).post("/app/cases/new", fields)
    assert response.status_code == 201
    case = Case.objects.get()
    assert (case.language, case.letters.get().language) == ("pl", "pl")
    assert case.received_on == day
    assert case.status == CaseStatus.IDENTITY_CHECK
    assert case.reference in text(response)
    assert 'id="access-code"' in text(response)
    late = {**fields, "received_on": (timezone.localdate() + timedelta(days=2)).isoformat()}
    assert as_staff(officer).post("/app/cases/new", late).status_code == 422


def test_sealed_case_shows_no_personal_data_to_anybody(officer: StaffMember) -> None:
    case = factories.completed_case()
    cases.seal_case(case_id=case.id, actor=factories.staff_actor(officer))
    response = as_staff(officer).get(f"/app/cases/{case.reference}")
    assert response.status_code == 200
    assert not [canary for canary in factories.CANARIES if canary in text(response)]
    assert "its key was destroyed" in text(response)
    assert as_staff(officer).get("/app/cases?status=sealed").status_code == 200
