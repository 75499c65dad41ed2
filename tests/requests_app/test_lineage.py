"""Lineage: no release rests on quarantined weights, whatever the graph; the record says why."""

import threading
from datetime import date, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from requests_app import audit
from requests_app.models import AuditEntry, ModelNode, Release, StaffMember
from requests_app.models.people import Role
from requests_app.services import lineage, manifests, releases, roll_backs, runs
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from requests_app.verifier import canonical
from tests import factories
from tests.factories import digest, responding_case
from tests.requests_app.test_releases import consolidated
from tests.threads import run_together

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TODAY = date(2026, 11, 25)


def register(
    name: str, engineer: StaffMember, *, parents: list[str] | None = None, kind: str = "quantised"
) -> str:
    sha256 = digest(name)
    lineage.register_model(
        name=name,
        kind=kind if parents else "base",
        sha256=sha256,
        parents=parents or [],
        actor_member=engineer,
    )
    return sha256


def put_live(base: str, *, model_name: str = "demo") -> Release:
    live = manifests.live_manifest(model_name)
    raw = factories.manifest_of([], base=base, parent=live.digest if live else None)
    return manifests.put_live(model_name, manifests.read_manifest(raw))


def data_of(kind: str) -> list[dict[str, Any]]:
    rows = AuditEntry.objects.filter(type=kind).order_by("seq")
    bodies: list[Any] = [canonical.loads(bytes(row.body)) for row in rows]
    return [body["data"] for body in bodies]


def test_a_copy_of_quarantined_weights_cannot_be_served(engineer: StaffMember) -> None:
    base = register("base", engineer)
    copy = register("copy", engineer, parents=[base])
    child = register("child", engineer, parents=[copy], kind="distilled")
    reached = lineage.quarantine_model(
        sha256=base, reason="holds_data", since=TODAY, actor_member=engineer
    )
    assert [node.pk for node in reached] == [copy, child]
    for sha256 in (base, copy, child):
        with pytest.raises(Invalid, match="quarantined weights: base"):
            put_live(sha256)
    lineage.lift_quarantine(sha256=base, actor_member=engineer)
    assert put_live(child).is_live
    (told,) = data_of("model.quarantined")
    told.pop("quarantine")
    assert told == {
        "sha256": base, "reason": "holds_data", "since": "2026-11-25", "descendants": 2,
    }  # fmt: skip
    assert [each["sha256"] for each in data_of("model.quarantine_lifted")] == [base]
    audit.verify_log()


def test_what_is_in_service_cannot_be_put_in_quarantine(engineer: StaffMember) -> None:
    base = register("base", engineer)
    put_live(register("copy", engineer, parents=[base]))
    with pytest.raises(WrongState, match="in service"):
        lineage.quarantine_model(
            sha256=base, reason="holds_data", since=TODAY, actor_member=engineer
        )
    put_live(register("other", engineer))
    lineage.quarantine_model(sha256=base, reason="holds_data", since=TODAY, actor_member=engineer)


def test_parents_are_there_before_their_children(engineer: StaffMember) -> None:
    base = register("base", engineer)
    with pytest.raises(Invalid, match="not registered"):
        register("copy", engineer, parents=[digest("unknown")])
    with pytest.raises(Invalid, match="never change"):
        register("base", engineer)
    for changes in ({"kind": "copy"}, {"sha256": "x"}, {"parents": []}, {"kind": "base"}):
        values: dict[str, Any] = {
            "name": "copy", "kind": "quantised", "sha256": digest("copy"), "parents": [base],
        }  # fmt: skip
        with pytest.raises(Invalid):
            lineage.register_model(**{**values, **changes}, actor_member=engineer)


def test_engineers_and_approvers_alone(officer: StaffMember, engineer: StaffMember) -> None:
    base = register("base", engineer)
    with pytest.raises(NotAllowed):
        register("other", officer)
    with pytest.raises(NotAllowed):
        lineage.quarantine_model(sha256=base, reason="withdrawn", since=TODAY, actor_member=officer)
    with pytest.raises(NotFound):
        lineage.lift_quarantine(sha256=digest("unknown"), actor_member=engineer)
    with pytest.raises(WrongState):
        lineage.lift_quarantine(sha256=base, actor_member=engineer)


# --- Consolidation ------------------------------------------------------------------------------
def test_consolidation_puts_the_earlier_weights_and_their_copies_in_quarantine(
    engineer: StaffMember,
) -> None:
    responding_case()
    copy = register("copy", engineer, parents=[digest("base")])
    release = consolidated(engineer)
    old, new = (ModelNode.objects.get(pk=digest(name)) for name in ("base", "new weights"))
    assert (old.quarantine_reason, old.quarantined_from) == ("replaced", timezone.localdate())
    assert (new.kind, new.replaces, list(new.parents.all())) == ("merged", old, [])
    assert data_of("model.quarantined")[0]["descendants"] == 1
    with pytest.raises(Invalid, match="quarantined"):
        put_live(copy, model_name="other")
    assert Release.objects.get(is_live=True).pk == release.pk
    third = responding_case()  # the new weights go on being served
    assert manifests.level_of(third.id, "demo") == "gated"


def test_a_roll_back_lifts_the_quarantine_of_the_replacement_and_no_other(
    engineer: StaffMember,
) -> None:
    responding_case()
    before = Release.objects.get(is_live=True)
    consolidated(engineer)
    roll_backs.roll_back_release(
        digest=before.pk, reason="fault", actor_member=factories.make_staff("approver")
    )
    assert ModelNode.objects.get(pk=digest("base")).quarantined_from is None
    assert len(data_of("model.quarantine_lifted")) == 1


def test_weights_in_quarantine_for_their_data_do_not_come_back_by_a_roll_back(
    engineer: StaffMember,
) -> None:
    responding_case()
    before = Release.objects.get(is_live=True)
    consolidated(engineer)
    lineage.lift_quarantine(sha256=digest("base"), actor_member=engineer)
    lineage.quarantine_model(
        sha256=digest("base"), reason="holds_data", since=TODAY, actor_member=engineer
    )
    with pytest.raises(Invalid, match="quarantined"):
        roll_backs.roll_back_release(
            digest=before.pk, reason="fault", actor_member=factories.make_staff("approver")
        )


@pytest.mark.django_db(transaction=True)
def test_a_roll_back_and_a_runs_end_on_weights_of_one_line_never_wait_for_each_other(
    engineer: StaffMember,
) -> None:
    """Whoever holds weights waits for the log: who held the log and then waited for weights would
    wait for ever, and PostgreSQL ends one of the two."""
    base, copy = register("base", engineer), digest("copy")
    register("copy", engineer, parents=[base])
    with transaction.atomic():
        before = put_live(copy, model_name="copy")
        put_live(register("other", engineer), model_name="copy")
    away = {"quarantined_from": TODAY, "quarantine_reason": "replaced", "quarantined_by": "x"}
    ModelNode.objects.filter(pk=copy).update(**away)
    run = factories.executing_case().runs.get()
    lease = factories.take_lease(run)
    runs.record_protocol(lease, protocol=factories.protocol(run))
    manifest = factories.manifest(run, factories.record_adapter(lease, run))
    evidence, verdict = factories.evidence(run), "within_thresholds"
    runs.record_evidence(lease, evidence=evidence, verdict=verdict, probes=factories.probes())
    weights_held, log_held = threading.Event(), threading.Event()

    def run_ends() -> None:
        def noted(execute: Any, sql: str, *rest: Any) -> Any:
            found = execute(sql, *rest)
            if "requests_app_modelnode" in sql and "ORDER BY" in sql and not weights_held.is_set():
                weights_held.set()
                log_held.wait(0.5)
            return found

        with connection.execute_wrapper(noted):
            runs.register_release(lease, manifest=manifest)

    def rolls_back() -> None:
        def noted(execute: Any, sql: str, *rest: Any) -> Any:
            found = execute(sql, *rest)
            if "requests_app_loghead" in sql:
                log_held.set()
            return found

        weights_held.wait(10)
        with connection.execute_wrapper(noted):
            roll_backs.roll_back_release(digest=before.pk, reason="fault", actor_member=engineer)

    todo = [run_ends, rolls_back]
    run_together(lambda: todo.pop()(), 2)
    run.refresh_from_db()
    live = Release.objects.filter(is_live=True)
    assert {release.pk for release in live} == {before.pk, run.release_id}
    assert audit.verify_log().entries == AuditEntry.objects.count()


def test_destroyed_weights_stay_in_quarantine(engineer: StaffMember) -> None:
    responding_case()
    consolidated(engineer)
    releases.record_weights(
        model_name="demo", sha256=digest("base"), what="destroyed", actor_member=engineer
    )
    with pytest.raises(WrongState, match="destroyed"):
        lineage.lift_quarantine(sha256=digest("base"), actor_member=engineer)


# --- Any graph ----------------------------------------------------------------------------------
@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """The parents of each node, all of them earlier ones."""
    count = draw(st.integers(1, 7))
    return [
        draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
        for i in range(count)
    ]


STEPS = st.lists(
    st.tuples(st.sampled_from(["quarantine", "lift", "serve"]), st.integers(0, 6)), max_size=12
)


class AnyGraph(TestCase):
    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(parents=graphs(), steps=STEPS)
    def test_no_live_release_ever_has_a_quarantined_ancestor(
        self, parents: list[list[int]], steps: list[tuple[str, int]]
    ) -> None:
        engineer = factories.make_staff(Role.ENGINEER)
        names = [
            register(f"n{i}", engineer, parents=[digest(f"n{p}") for p in above])
            for i, above in enumerate(parents)
        ]

        def line(node: int) -> set[int]:
            return {node}.union(*(line(parent) for parent in parents[node]))

        held: set[int] = set()
        live: int | None = None
        for step, node in ((step, n % len(names)) for step, n in steps):
            if step == "serve":
                allowed = not held & line(node)
            elif step == "quarantine":
                allowed = node not in held and (live is None or node not in line(live))
            else:
                allowed = node in held
            try:
                if step == "serve":
                    put_live(names[node])
                elif step == "lift":
                    lineage.lift_quarantine(sha256=names[node], actor_member=engineer)
                else:
                    since = TODAY + timedelta(days=node)
                    lineage.quarantine_model(
                        sha256=names[node], reason="withdrawn", since=since, actor_member=engineer
                    )
            except (Invalid, WrongState):
                assert not allowed
                continue
            assert allowed
            if step == "serve":
                live = node
            else:
                held ^= {node}
            assert live is None or not held & line(live)
