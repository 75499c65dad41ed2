"""Statistics of a period: counted right, and coarse enough where everybody may read them."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from io import StringIO
from statistics import mean, median
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from requests_app import exports, period_statistics
from requests_app.actors import SUBJECT
from requests_app.extract import CaseRow, Extract, ScopeRow
from requests_app.models import Case
from requests_app.models.exports import Level
from requests_app.models.people import Role
from requests_app.services import cases, intake
from tests import factories

FIRST, LAST, ON = date(2026, 1, 1), date(2026, 3, 31), date(2026, 6, 15)


@dataclass(frozen=True)
class Given(Extract):
    """An extract of rows that were made by hand."""

    rows: tuple[CaseRow, ...] = ()

    def cases(self) -> Iterator[CaseRow]:
        yield from self.rows


def row(received_on: date = FIRST, *, days: int | None = None, **changes: Any) -> CaseRow:
    values: dict[str, Any] = {
        "reference": "",
        "status": "completed",
        "channel": "form",
        "jurisdiction": "EU",
        "received_on": received_on,
        "due": received_on + timedelta(days=30),
        "is_extended": False,
        "is_on_behalf": False,
        "identity_method": "mailbox",
        "outcome": "granted",
        "grounds": ("17-1-a",),
        "scope": (),
        "decided_on": None,
        "proposed_by": "",
        "approved_by": "",
        "verdicts": {},
        "answered_on": None if days is None else received_on + timedelta(days=days),
        "withdrawn_on": None,
        "sealed_on": None,
    }
    return CaseRow(**{**values, **changes})


def refused(exemption: str = "17-3-e", **changes: Any) -> CaseRow:
    scope = (ScopeRow("model", "demo", "keep", exemption, ""),)
    return row(outcome="refused", grounds=(), scope=scope, **changes)


def told(rows: list[CaseRow], level: Level = Level.AUTHORITY) -> dict[str, Any]:
    return period_statistics.count(Given(level, FIRST, LAST, ON, rows=tuple(rows)))


def test_requests_are_counted_by_month_channel_and_outcome() -> None:
    found = told(
        [
            row(date(2026, 1, 31), days=1),
            row(date(2026, 3, 1), days=2, channel="post", outcome="partly_granted"),
            row(date(2026, 3, 2), outcome="", is_extended=True),
            row(date(2026, 3, 3), outcome="", withdrawn_on=date(2026, 3, 4)),
        ]
    )["requests"]
    assert found["received"] == 4
    assert found["by_month"] == {"2026-01": 1, "2026-02": 0, "2026-03": 3}
    assert found["by_channel"] == {"form": 3, "api": 0, "post": 1, "phone": 0, "person": 0}
    assert {key: n for key, n in found["by_outcome"].items() if n} == {
        "granted": 1,
        "partly_granted": 1,
        "withdrawn": 1,
        "undecided": 1,
    }
    assert found["extended"] == 1


def test_answers_are_late_after_the_last_day_and_open_ones_overdue_on_the_day_of_counting() -> None:
    found = told(
        [
            row(days=30),
            row(days=31),
            row(),
            row(due=ON),
            row(outcome="", withdrawn_on=FIRST),
            row(outcome="", sealed_on=FIRST, status="sealed"),
        ]
    )["answers"]
    assert (found["answered"], found["in_time"], found["late"]) == (2, 1, 1)
    assert (found["unanswered_in_time"], found["unanswered_overdue"]) == (1, 1)


def test_a_request_that_nobody_confirmed_is_counted_as_such_and_not_as_overdue() -> None:
    found = told([row(outcome="", sealed_on=ON, status="sealed"), row(days=1, sealed_on=ON)])
    assert found["requests"]["by_outcome"]["never_confirmed"] == 1
    assert found["answers"]["unanswered_overdue"] == 0
    assert found["answers"]["answered"] == 1


def test_refusals_are_counted_once_a_case_by_article() -> None:
    twice = (
        ScopeRow("model", "a", "keep", "17-3-a", ""),
        ScopeRow("model", "b", "keep", "17-3-a", ""),
    )
    both = (
        ScopeRow("model", "a", "keep", "17-3-a", ""),
        ScopeRow("data_store", "b", "keep", "17-3-e", ""),
    )
    found = told(
        [
            refused(),
            row(outcome="partly_granted", scope=both),
            row(outcome="refused", scope=twice, grounds=()),
            row(outcome="excessive", grounds=()),
            row(outcome="cannot_identify", grounds=()),
            row(outcome="", scope=twice, grounds=()),  # proposed only: not decided
        ]
    )
    assert {key: n for key, n in found["refusals"].items() if n} == {
        "Art. 17(3)(a)": 2,
        "Art. 17(3)(e)": 2,
        "Art. 11(2)": 1,
        "Art. 12(5)": 1,
    }
    assert found["grounds"]["Art. 17(1)(a)"] == 1


def test_the_californian_metrics() -> None:
    found = told([row(days=4), row(days=7, outcome="partly_granted"), refused(days=10), row()])
    california = found["california"]
    assert california["received"] == 4
    assert california["complied_with_in_whole_or_in_part"] == 3
    assert california["denied"] == 1
    assert (california["days_median"], california["days_mean"]) == ("7", "7")
    assert california["denied_in_whole_or_in_part_because"]["information_exempt"] == 1


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40))
def test_median_percentile_and_mean_are_those_of_the_days(days: list[int]) -> None:
    found = told([row(days=each) for each in days])["answers"]
    assert float(found["days_median"]) == pytest.approx(median(days))
    assert float(found["days_mean"]) == pytest.approx(mean(days), abs=0.0501)
    within = [day for day in days if day <= float(found["days_90th_percentile"])]
    assert len(within) >= 0.9 * len(days)
    below = [day for day in days if day < float(found["days_90th_percentile"])]
    assert len(below) < 0.9 * len(days)


def test_without_an_answer_there_are_no_days() -> None:
    found = told([row()])["answers"]
    assert found["days_median"] is found["days_mean"] is found["days_90th_percentile"] is None


def counts_of(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [n for each in value.values() for n in counts_of(each)]
    return [value] if isinstance(value, int) else []


@given(
    st.lists(
        st.builds(
            row,
            st.dates(FIRST, LAST),
            days=st.none() | st.integers(0, 90),
            channel=st.sampled_from(["form", "post"]),
            outcome=st.sampled_from(["granted", "refused", ""]),
        ),
        max_size=40,
    )
)
def test_the_public_is_told_no_count_below_five_nor_one_to_subtract(rows: list[CaseRow]) -> None:
    exact, public = told(rows), told(rows, Level.PUBLIC)
    assert all(n >= 5 and n % 5 == 0 for n in counts_of(public))
    assert public["requests"]["received"] == (len(rows) // 5 * 5 or None)
    if exact["answers"]["answered"] < 5:
        assert public["answers"]["days_median"] is None
    else:
        assert public["answers"]["days_median"] == exact["answers"]["days_median"]


def test_the_public_is_told_months_and_no_days() -> None:
    public = told([row(days=3)] * 6, Level.PUBLIC)
    assert public["period"]["first"] == "2026-01"
    assert public["made_on"] == "2026-06"
    assert "multiples of 5" in public["rounding"]
    assert told([row()])["period"]["first"] == "2026-01-01"


def test_the_table_has_a_line_for_each_figure() -> None:
    source = Given(Level.PUBLIC, FIRST, LAST, ON, rows=(row(days=3),) * 12)
    data = b"".join(exports.load_job("statistics_csv").render(source))
    lines = list(csv.reader(StringIO(data.decode(), newline="")))
    assert lines[0] == ["part", "figure", "value"]
    assert ["requests", "received", "10"] in lines
    assert ["requests", "by_month / 2026-01", "10"] in lines
    assert ["requests", "by_month / 2026-02", ""] in lines
    assert ["answers", "days_median", "3"] in lines


@pytest.mark.django_db
@pytest.mark.database
def test_real_cases_are_counted_as_the_record_has_them() -> None:
    factories.completed_case()
    late = factories.case_in_review(received_at=timezone.now() - timedelta(days=60))
    refusal = factories.propose(factories.case_in_review(), outcome="refused")
    cases.approve_decision(case_id=refusal.id, actor_member=factories.make_staff(Role.APPROVER))
    withdrawn = factories.confirmed_case()
    intake.withdraw_case(case_id=withdrawn.id, actor=SUBJECT)
    today = timezone.localdate()
    source = Extract(Level.AUTHORITY, late.received_on, today, today)
    found = json.loads(b"".join(exports.load_job("statistics_json").render(source)))
    assert found["requests"]["received"] == Case.objects.count() == 4
    assert {key: n for key, n in found["requests"]["by_outcome"].items() if n} == {
        "granted": 1,
        "refused": 1,
        "withdrawn": 1,
        "undecided": 1,
    }
    assert found["answers"]["answered"] == 1
    assert found["answers"]["unanswered_overdue"] == 1
    assert found["refusals"]["Art. 17(3)(e)"] == 1
    assert found["models"]["last_run_by_verdict"]["within_thresholds"] == 1
