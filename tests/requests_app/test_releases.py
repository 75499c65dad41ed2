"""What is in force: revoking one case, rolling back, consolidating; nobody's erasure is lost."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.models import AuditEntry, Case, Release, Revocation, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import cases, manifests, releases, roll_backs, runs
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from requests_app.services.manifests import ManifestAdapter
from requests_app.services.releases import CaseFigures
from requests_app.verifier import canonical
from tests import factories
from tests.factories import PROBES, completed_case, executing_case, responding_case

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]
WITHIN = CaseFigures(Verdict.WITHIN, PROBES)


ADAPTERS = [
    ManifestAdapter(UUID(int=i), factories.digest("a", i), factories.digest("g", i))
    for i in range(5)
]


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=4),
    st.sampled_from(["", " ", "},", '{"case":"x"}', "]", ",", '"', "\\u0061", '"a":1,']),
    st.integers(-300, 0),
)
def test_a_manifest_that_begins_as_a_known_one_is_read_as_one_that_does_not(
    counts: list[int], junk: str, place: int
) -> None:
    """Whatever else was read before, and whatever is wrong with what follows the same beginning."""
    manifests._last_read.clear()
    for count in counts:
        right = factories.manifest_of(
            ADAPTERS[:count], base=factories.digest("base"), parent=factories.digest("parent")
        )
        wrong = right[:place] + junk.encode() + right[place:]
        more = b"," + right.removeprefix(manifests.FIRST)
        for raw in (right, wrong, right + more, more, right):
            known = tuple(manifests._last_read)
            manifests._last_read.clear()
            anew = read_or_refused(raw)
            manifests._last_read.extend(known)
            assert read_or_refused(raw) == anew
            assert (raw == right) <= (anew is not None) <= (raw in {right, wrong})


def read_or_refused(raw: bytes) -> manifests.Manifest | None:
    try:
        return manifests.read_manifest(raw)
    except Invalid:
        return None


def live() -> manifests.Manifest:
    found = manifests.live_manifest("demo")
    assert found is not None
    return found


def last_entry(case: Case | None = None) -> dict[str, Any]:
    rows = audit.case_entries(case.id) if case else list(AuditEntry.objects.order_by("seq"))
    body: Any = canonical.loads(bytes(rows[-1].body))
    return {"type": body["type"], **body["data"]}


def revoke(case: Case, *, by: StaffMember | None = None) -> list[Release]:
    releases.propose_revocation(
        case_id=case.id, cause="wrong_person", actor_member=by or factories.make_staff("officer")
    )
    return releases.revoke_case(case_id=case.id, actor_member=factories.make_staff("approver"))


def consolidated(engineer: StaffMember, **changes: Any) -> Release:
    """All cases in force merged but those of `gated`, on weights called `base`."""
    before = live()
    gated = changes.pop("gated", ())
    values: dict[str, Any] = {
        "model_name": "demo",
        "manifest": factories.manifest_of(
            [a for a in before.adapters if a.case_id in gated],
            merged=[each for each in before.cases if each not in gated],
            base=changes.pop("base", factories.digest("new weights")),
            parent=before.digest,
        ),
        "plan_sha256": factories.digest("plan"),
        "retained": "registered",
        "cases": dict.fromkeys(before.cases, WITHIN),
        "actor_member": engineer,
    }
    return releases.register_consolidation(**{**values, **changes})


# --- Revoking -----------------------------------------------------------------------------------
def test_a_revoked_case_leaves_and_all_others_stay_as_they_are() -> None:
    first, second, third = (responding_case() for _ in range(3))
    before = live()
    (release,) = revoke(second)
    after = live()
    assert release.digest == after.digest
    assert after.parent == before.digest
    assert after.adapters == (before.adapters[0], before.adapters[2])
    assert {each.case_id for each in after.adapters} == {first.id, third.id}
    told, new = (canonical.loads(each.raw) for each in (before, after))
    assert isinstance(told, dict)
    assert isinstance(new, dict)
    assert {key for key in told if told[key] != new[key]} == {"adapters", "parent"}
    assert last_entry(second)["type"] == "case.revoked"
    assert last_entry(second)["releases"] == {"demo": release.digest}
    assert manifests.level_of(second.id, "demo") == ""
    assert [row.case_id for row in runs.adapters_in_force("demo")] == [first.id, third.id]


def test_the_next_run_goes_on_after_a_revocation() -> None:
    first, second = (responding_case() for _ in range(2))
    revoke(first)
    third = responding_case()
    assert [each.case_id for each in live().adapters] == [second.id, third.id]


def test_a_revocation_needs_two_people_and_a_known_cause(
    officer: StaffMember, approver: StaffMember, auditor: StaffMember
) -> None:
    case = responding_case()
    before = live()
    with pytest.raises(NotAllowed):
        releases.propose_revocation(case_id=case.id, cause="appeal", actor_member=auditor)
    with pytest.raises(Invalid, match="wrong_person"):
        releases.propose_revocation(case_id=case.id, cause="whim", actor_member=officer)
    with pytest.raises(WrongState, match="no revocation"):
        releases.revoke_case(case_id=case.id, actor_member=approver)
    releases.propose_revocation(case_id=case.id, cause="appeal", actor_member=approver)
    with pytest.raises(WrongState, match="proposed already"):
        releases.propose_revocation(case_id=case.id, cause="appeal", actor_member=officer)
    with pytest.raises(NotAllowed, match="another person"):
        releases.revoke_case(case_id=case.id, actor_member=approver)
    with pytest.raises(NotAllowed):
        releases.revoke_case(case_id=case.id, actor_member=officer)
    assert live() == before
    with pytest.raises(IntegrityError), transaction.atomic():
        Revocation.objects.update(approved_by=approver, approved_at=timezone.now())


def test_a_case_that_is_not_in_force_cannot_be_revoked(officer: StaffMember) -> None:
    case = responding_case(verdict=Verdict.NOT_MET)
    with pytest.raises(WrongState, match="No adapter"):
        releases.propose_revocation(case_id=case.id, cause="appeal", actor_member=officer)
    with pytest.raises(NotFound):
        releases.propose_revocation(case_id=uuid4(), cause="appeal", actor_member=officer)


def test_nothing_is_revoked_while_a_run_works_on_the_model() -> None:
    case = responding_case()
    before = live()
    working = executing_case()
    factories.take_lease(working.runs.get())
    with pytest.raises(WrongState, match=working.reference):
        revoke(case)
    assert live() == before


# --- Rolling back -------------------------------------------------------------------------------
def test_a_roll_back_that_would_bring_erased_data_back_names_the_cases(
    engineer: StaffMember,
) -> None:
    responding_case()
    first = live()
    second, third = (responding_case() for _ in range(2))
    now = live()
    with pytest.raises(Invalid, match=f"{second.reference}, {third.reference}") as refused:
        roll_backs.roll_back_release(digest=first.digest, reason="fault", actor_member=engineer)
    assert not any(word in str(refused.value) for word in factories.CANARIES)
    assert live() == now


def test_a_roll_back_does_not_erase_again_what_was_taken_back(engineer: StaffMember) -> None:
    responding_case()
    case = responding_case()
    before = live()
    revoke(case)
    with pytest.raises(Invalid, match=f"taken back: {case.reference}"):
        roll_backs.roll_back_release(digest=before.digest, reason="fault", actor_member=engineer)


def test_only_a_release_that_was_in_force_is_rolled_back_to(
    engineer: StaffMember, officer: StaffMember
) -> None:
    responding_case()
    short = responding_case(verdict=Verdict.NOT_MET)
    never = short.runs.order_by("-number")[0].release  # the last of three attempts
    assert never is not None
    for digest, why in (
        (never.digest, "never in force"),
        (live().digest, "in force already"),
    ):
        with pytest.raises(Invalid, match=why):
            roll_backs.roll_back_release(digest=digest, reason="fault", actor_member=engineer)
    with pytest.raises(NotFound):
        roll_backs.roll_back_release(digest="0" * 64, reason="fault", actor_member=engineer)
    with pytest.raises(NotAllowed):
        roll_backs.roll_back_release(digest=live().digest, reason="fault", actor_member=officer)


# --- Consolidating ------------------------------------------------------------------------------
def test_consolidated_cases_are_merged_and_their_logs_say_what_was_measured(
    engineer: StaffMember,
) -> None:
    first, second = (completed_case() for _ in range(2))
    before = live()
    release = consolidated(engineer, gated=(first.id,))
    assert (release.is_live, release.parent_id) == (True, before.digest)
    assert manifests.level_of(first.id, "demo") == "gated"
    assert manifests.level_of(second.id, "demo") == "merged"
    assert manifests.live_base("demo") == factories.digest("new weights")
    entry = last_entry(second)
    assert (entry["type"], entry["level"], entry["retained"]) == (
        "case.merged",
        "merged",
        "registered",
    )
    assert entry["estimates"]["unseen"]["after"] == "0.0208"
    assert (entry["release"], entry["plan_sha256"]) == (release.digest, factories.digest("plan"))
    assert last_entry(first)["type"] == "case.reverified"
    kinds = [row.type for row in AuditEntry.objects.order_by("seq")]
    assert "release.consolidated" in kinds


def test_the_next_run_keeps_the_merged_cases_and_the_new_weights(engineer: StaffMember) -> None:
    first = responding_case()
    consolidated(engineer)
    working = executing_case()
    lease = factories.take_lease(working.runs.get())
    given = runs.read_input(lease)
    assert (given.merged, given.adapters_in_force) == ((first.id,), ())
    factories.work_off(working.runs.get(), lease=lease)
    assert live().merged == (first.id,)
    assert live().base_sha256 == factories.digest("new weights")
    assert [each.case_id for each in live().adapters] == [working.id]


def test_a_consolidation_loses_no_case_and_changes_no_adapter(engineer: StaffMember) -> None:
    first, second = (responding_case() for _ in range(2))
    before = live()

    def offered(
        adapters: list[ManifestAdapter], merged: list[UUID], **values: str | None
    ) -> dict[str, Any]:
        named = [*(each.case_id for each in adapters), *merged]
        given: dict[str, Any] = {"base": factories.digest("new"), "parent": before.digest, **values}
        return {
            "manifest": factories.manifest_of(adapters, merged=merged, **given),
            "cases": dict.fromkeys(named, WITHIN),
        }

    other = ManifestAdapter(first.id, factories.digest("other"), factories.digest("gate"))
    short = dict.fromkeys(before.cases, CaseFigures(Verdict.NOT_MET, PROBES))
    all_merged = offered([], [first.id, second.id])
    for wrong, why in (
        (offered([], [first.id]), second.reference),
        (offered([other], [second.id]), "its own adapter"),
        (offered([], [first.id, second.id, uuid4()]), "exactly the cases"),
        (all_merged | {"cases": {first.id: WITHIN}}, "exactly the cases"),
        (all_merged | {"cases": short}, "fell short"),
        (offered([], [first.id, second.id], base=before.base_sha256), "new weights"),
        (offered([], [first.id, second.id], parent=None), "meanwhile"),
    ):
        with pytest.raises(Invalid, match=why):
            consolidated(engineer, **wrong)
    assert live() == before
    assert consolidated(engineer, **all_merged).is_live


def test_a_cluster_adapter_changes_its_own_cases_alone(engineer: StaffMember) -> None:
    first, second, third = (responding_case() for _ in range(3))
    before = live()
    one, two, three = before.adapters

    def offered(adapters: list[ManifestAdapter], measured: list[UUID]) -> dict[str, Any]:
        given: dict[str, Any] = {"base": before.base_sha256, "parent": before.digest}
        return {
            "manifest": factories.manifest_of(adapters, merged=[], **given),
            "cases": dict.fromkeys(measured, WITHIN),
        }

    def shared(case: ManifestAdapter, adapter: str = "shared") -> ManifestAdapter:
        return ManifestAdapter(case.case_id, factories.digest(adapter), factories.digest("gate"))

    both = [first.id, second.id]
    for wrong, why in (
        (offered([shared(one), shared(two, "another"), three], both), "several cases share"),
        (offered([shared(one), shared(two)], both), "several cases share"),
        (offered([one, two, three], both), "several cases share"),
        (offered([shared(one), two, three], [first.id]), "exactly the cases"),
        (offered([shared(one), shared(two), shared(three)], both), "exactly the cases"),
        (offered([shared(one), shared(two), three], [*both, third.id]), "exactly the cases"),
    ):
        with pytest.raises(Invalid, match=why):
            consolidated(engineer, **wrong)
    assert live() == before
    assert consolidated(engineer, **offered([shared(one), shared(two), three], both)).is_live
    assert last_entry(second)["adapter_sha256"] == factories.digest("shared")
    assert last_entry(third)["type"] != "case.reverified"
    # The shared adapter was made by no run, and has no row of its own.
    assert [(each.case_id, each.sha256) for each in runs.adapters_in_force("demo")] == [
        (one.case_id, factories.digest("shared")),
        (two.case_id, factories.digest("shared")),
        (three.case_id, three.sha256),
    ]
    # Rolled back, each has its own adapter again, and its log says which.
    roll_backs.roll_back_release(digest=before.digest, reason="fault", actor_member=engineer)
    assert last_entry(second)["type"] == "case.regated"
    assert last_entry(second)["adapter_sha256"] == two.sha256
    assert last_entry(third)["type"] != "case.regated"


def test_what_was_merged_cannot_be_revoked(engineer: StaffMember, officer: StaffMember) -> None:
    case = responding_case()
    consolidated(engineer)
    with pytest.raises(Invalid, match="cannot be given back"):
        releases.propose_revocation(case_id=case.id, cause="appeal", actor_member=officer)


def test_a_consolidation_is_rolled_back_while_the_old_weights_are_there(
    engineer: StaffMember,
) -> None:
    case = responding_case()
    before = live()
    consolidated(engineer)
    after = live()
    roll_backs.roll_back_release(
        digest=before.digest, reason="fault", actor_member=factories.make_staff("approver")
    )
    assert manifests.level_of(case.id, "demo") == "gated"
    assert last_entry(case)["type"] == "case.regated"
    roll_backs.roll_back_release(digest=after.digest, reason="fault", actor_member=engineer)
    releases.record_weights(
        model_name="demo",
        sha256=before.base_sha256,
        what="destroyed",
        files=5,
        actor_member=engineer,
    )
    assert last_entry()["type"] == "weights.destroyed"
    with pytest.raises(Invalid, match="were destroyed"):
        roll_backs.roll_back_release(
            digest=before.digest, reason="fault", actor_member=factories.make_staff("approver")
        )
    assert live() == after


def test_the_data_of_cases_in_force_is_read_as_long_as_there_is_any(officer: StaffMember) -> None:
    first, second = (completed_case() for _ in range(2))
    cases.seal_case(case_id=first.id, actor=staff_actor(officer))
    manifest, found = releases.cases_in_force("demo")
    assert manifest == live()
    assert [each.reference for each in found] == [first.reference, second.reference]
    assert found[0].facts is None
    assert found[1].facts == factories.FACTS
    assert not any(word in repr(found) for word in factories.CANARIES)
    with pytest.raises(NotFound, match="nothing to consolidate"):
        releases.cases_in_force("other")


def test_the_plan_is_logged_by_its_digest(engineer: StaffMember, officer: StaffMember) -> None:
    responding_case()
    plan = {"protocols": {"a": {"v": 1}}, "retained": {"kind": "surrogates", "rows": 0}}
    parent = live().digest
    digest = releases.plan_consolidation(
        model_name="demo", parent=parent, plan=plan, actor_member=engineer
    )
    entry = last_entry()
    assert (entry["type"], entry["sha256"], entry["cases"]) == ("consolidation.planned", digest, 1)
    with pytest.raises(NotAllowed):
        releases.plan_consolidation(
            model_name="demo", parent=parent, plan=plan, actor_member=officer
        )


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"adapters":[]}', b"\xff", b'{"a": 1}'])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid, match="not the manifest"):
        manifests.read_manifest(raw)
