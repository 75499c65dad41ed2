"""The queue: pages by key, views, filters, counts, changes, owners, search, preferences."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date, timedelta

import pytest
from django.db import connection
from django.http import HttpResponse
from django.template import Context, Template
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from pytest_django.fixtures import Settings

from requests_app import queue_selectors
from requests_app.lifecycle import CLOSED, CaseStatus
from requests_app.models import AuditEntry, Case, DataSubject, Release, StaffMember
from requests_app.models.people import Role
from requests_app.queue_selectors import VIEWS, Wanted
from requests_app.services import owners, runs, wake
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from tests import factories
from tests.staff import as_staff

pytestmark = [pytest.mark.django_db, pytest.mark.database]

FIRST = date(2026, 1, 5)


def text(response: HttpResponse) -> str:
    return response.content.decode()


def listed(response: HttpResponse) -> list[str]:
    return re.findall(r'data-reference="([\w-]+)"', text(response))


def make_cases(days: Sequence[tuple[int, int]], status: str = "in_review") -> list[Case]:
    """Cases without more, each received and due so many days after `FIRST`."""
    subject = DataSubject.objects.create()
    cases = []
    for number, (received, due) in enumerate(days, start=1):
        dates = dict.fromkeys(("base_due_raw", "base_due", "internal_due", "due"), _day(due))
        cases.append(
            Case(
                reference=f"ERQ-2026-{number:06d}",
                subject=subject,
                status=status,
                channel="post",
                jurisdiction="EU/2026-1",
                calendar="BE",
                received_at=timezone.now(),
                received_on=_day(received),
                extension_due=_day(due + 60),
                updated_at=timezone.now(),
                **dates,
            )
        )
    return list(Case.objects.bulk_create(cases))


def _day(number: int) -> date:
    return FIRST + timedelta(days=number)


class PagesByKey(TestCase):
    """Dates are few, so that most cases share theirs with others across the bounds of pages."""

    @property_settings(max_examples=25)
    @given(
        days=st.lists(st.tuples(st.integers(0, 2), st.integers(3, 5)), max_size=12),
        order=st.sampled_from([*queue_selectors.SORTS, "reference"]),
        size=st.integers(1, 4),
    )
    def test_every_case_is_on_one_page_in_the_order_of_a_full_list(
        self, days: list[tuple[int, int]], order: str, size: int
    ) -> None:
        make_cases(days)
        name = order.lstrip("-")
        sign = "-" if order.startswith("-") else ""
        field = queue_selectors.FIELDS[name]
        whole = list(Case.objects.order_by(f"{sign}{field}", f"{sign}pk"))
        found = Case.objects.all()
        pages = [queue_selectors.page(found, order=order, size=size)]
        while pages[-1].after:
            pages.append(queue_selectors.page(found, order=order, at=pages[-1].after, size=size))
        assert [case for page in pages for case in page.cases] == whole
        assert all(len(page.cases) == size for page in pages[:-1])
        back = [pages[-1]]
        while back[-1].before:
            back.append(queue_selectors.page(found, order=order, at=back[-1].before, size=size))
        assert [case for page in reversed(back) for case in page.cases] == whole


def test_a_key_that_we_did_not_make_is_refused_in_words(officer: StaffMember) -> None:
    make_cases([(0, 3), (1, 4)])
    found = Case.objects.all()
    key = queue_selectors.page(found, order="due", size=1).after
    for at, order in (("nonsense", "due"), (key[:-2] + "AA", "due"), (key, "-due")):
        with pytest.raises(Invalid):
            queue_selectors.page(found, order=order, at=at)
    page = as_staff(officer).get("/app/cases?at=nonsense")
    assert "This is the first one" in text(page)
    assert len(listed(page)) == 2


def test_the_queue_needs_few_queries_however_many_cases_it_shows(
    officer: StaffMember, settings: Settings
) -> None:
    settings.RTBF_REQUIRE_MFA = False
    client = as_staff(officer)
    factories.executing_case()
    client.get("/app/cases")
    asked = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            page = client.get("/app/cases")
        asked.append((len(listed(page)), len(queries)))
        for _more in range(3):
            factories.confirmed_case()
    assert [shown for shown, _ in asked] == [1, 4]
    assert asked[0][1] == asked[1][1] <= 9  # and one for the second factor
    with CaptureQueriesContext(connection) as queries:
        client.get("/app/")
    assert len(queries) <= 11
    assert "z***@m***.example" in text(page)


def test_each_view_holds_the_cases_of_its_name(officer: StaffMember) -> None:
    for number, status in enumerate(CaseStatus):
        make = make_cases([(0, 3)], status=status)[0]
        Case.objects.filter(pk=make.pk).update(reference=f"ERQ-2025-{number:06d}", owner=officer)
    found = {
        name: set(
            Case.objects.filter(queue_selectors.condition(Wanted(officer, view=name))).values_list(
                "status", flat=True
            )
        )
        for name in VIEWS
    }
    open_ones = set(CaseStatus.values) - set(CLOSED)
    assert found["open"] == found["mine"] == found["overdue"] == open_ones
    assert found["verifying"] == {"awaiting_confirmation", "identity_check"}
    assert found["closed"] == set(CLOSED)
    assert found["all"] == set(CaseStatus.values)
    single = ("decision", "second", "erasing", "evidence", "answer")
    assert set.union(*(found[name] for name in single)) == open_ones - found["verifying"]
    counted = queue_selectors.counts(officer, list(VIEWS))
    assert counted == {name: len(found[name]) for name in VIEWS}


def test_a_count_stops(officer: StaffMember, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_selectors, "COUNTED", 2)
    make_cases([(0, 3)] * 4)
    counted = queue_selectors.counts(officer, ["open", "erasing"])
    assert counted == {"open": 3, "erasing": 0}
    assert [queue_selectors.spell_count(count) for count in (2, 3)] == ["2", "2+"]


def test_overdue_is_open_after_its_day_and_was_never_answered(officer: StaffMember) -> None:
    late, reopened, today = make_cases([(0, 3)] * 3)
    Case.objects.filter(pk=reopened.pk).update(completed_at=timezone.now())
    days = dict.fromkeys(("base_due_raw", "base_due", "due", "extension_due"), timezone.localdate())
    Case.objects.filter(pk=today.pk).update(**days)
    found = Case.objects.filter(queue_selectors.condition(Wanted(officer, view="overdue")))
    assert list(found) == [late]


def test_filters_narrow_a_view_and_are_taken_off_one_by_one(officer: StaffMember) -> None:
    cases = make_cases([(0, 3), (0, 4), (0, 5), (0, 6)])
    Case.objects.filter(pk=cases[0].pk).update(owner=officer)
    Case.objects.filter(pk=cases[1].pk).update(language="de")
    cases[2].scope_items.create(kind="model", target="demo")
    client = as_staff(officer)

    def numbers(query: str) -> list[int]:
        return [int(each[-1]) for each in listed(client.get(f"/app/cases?{query}"))]

    assert numbers(f"owner={officer.pk}") == [1]
    assert numbers("owner=none") == [2, 3, 4]
    assert numbers("language=de") == [2]
    assert numbers("model=demo") == [3]
    assert numbers(f"due_from={_day(4)}&due_to={_day(5)}") == [2, 3]
    assert numbers("sort=-due") == [4, 3, 2, 1]
    assert numbers("reference=erq-2026-00000") == [1, 2, 3, 4]
    assert numbers("reference=3") == [3]
    page = text(client.get(f"/app/cases?language=de&due_from={_day(4)}&view=decision"))
    assert 'aria-sort="ascending"' in page
    chips = re.findall(r'class="chip" href="/app/cases\?([^"]*)"', page)
    assert sorted(chips) == [
        f"view=decision&amp;due_from={_day(4)}",
        "view=decision&amp;language=de",
    ]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("due_from=2026-02-01&due_to=2026-01-01", "The last day is before the first."),
        ("reference=Quillfeather", "A reference looks like ERQ-2026-000123."),
        ("due_from=soon", "Enter a valid date."),
        ("owner=999999", "Select one of the answers given"),
    ],
)
def test_a_filter_that_cannot_be_is_said_and_filters_nothing(
    officer: StaffMember, query: str, words: str
) -> None:
    make_cases([(0, 3)])
    page = as_staff(officer).get(f"/app/cases?{query}")
    assert words in text(page)
    assert "There is a problem" in text(page)
    assert len(listed(page)) == 1


def test_every_order_of_a_range_of_due_dates_is_by_due_date(officer: StaffMember) -> None:
    wanted = {"sort": "received", "due_from": FIRST}
    assert Wanted(officer, **wanted).order == "due"  # type: ignore[arg-type]
    assert Wanted(officer, view="closed", **wanted).order == "-due"  # type: ignore[arg-type]
    assert Wanted(officer, sort="-received").order == "-received"
    assert Wanted(officer, sort="name; DROP").order == "due"
    assert Wanted(officer, status="sealed").order == "-due"
    assert Wanted(officer, reference="1", sort="due").order == "reference"


def test_a_row_is_filled_in_escaped_and_nothing_of_it_is_filled_in_again() -> None:
    made = Template(
        '{% load rtbf i18n %}{% repeat rows %}<td title="{{ title }}">{word} {mark} {}</td>'
        "{% endrepeat %}"
    )
    rows = [{"word": "<b> {mark}", "mark": mark_safe("<i>"), "title": "x"}]
    filled = '<td title="a &lt;">&lt;b&gt; {mark} <i> {}</td>'
    assert made.render(Context({"rows": rows, "title": "a <"})) == filled
    assert made.render(Context({"rows": [], "title": ""})) == ""
    with pytest.raises(KeyError):
        made.render(Context({"rows": [{}], "title": ""}))


def test_the_queue_speaks_the_language_of_each_reader(officer: StaffMember) -> None:
    make_cases([(0, 3)])
    client = as_staff(officer)
    for language, words in (("en", "Needs decision"), ("de", "Braucht Entscheidung")):
        client.cookies["django_language"] = language
        assert words in text(client.get("/app/cases"))


# --- What changed ---------------------------------------------------------------------------------
def test_the_notice_tells_changes_of_the_view_and_of_what_was_shown(officer: StaffMember) -> None:
    shown, other = make_cases([(0, 3), (0, 4)])
    client = as_staff(officer)
    page = text(client.get("/app/cases?view=decision"))
    address = re.findall(r'hx-get="([^"]+)"', page)[0].replace("&amp;", "&")
    assert client.get(address).status_code == 204
    Case.objects.filter(pk=other.pk).update(status="executing", updated_at=timezone.now())
    answer = text(client.get(address))  # it left the view, but was shown
    assert "1 case changed." in answer
    again = re.findall(r'hx-get="([^"]+)"', answer)[0].replace("&amp;", "&")
    assert client.get(again).status_code == 204
    shown.save()
    assert "2 cases changed." in text(client.get(again))
    closed = make_cases([], status="sealed")
    assert closed == []
    assert client.get("/app/cases/changes?since=x").status_code == 404


# --- Owners ---------------------------------------------------------------------------------------
def test_chosen_cases_are_given_to_somebody_and_each_is_logged(
    officer: StaffMember, approver: StaffMember
) -> None:
    cases = make_cases([(0, 3), (0, 4), (0, 5)])
    Case.objects.filter(pk=cases[2].pk).update(status="completed")
    client = as_staff(officer)
    fields = {"case": [case.reference for case in cases], "query": "view=decision"}
    answer = client.post("/app/cases/assign", {**fields, "owner": str(approver.pk)}, follow=True)
    assert answer.redirect_chain == [("/app/cases?view=decision", 302)]
    assert "2 cases were given to" in text(answer)
    assert "ERQ-2026-000003 is closed" in text(answer)
    assert [case.owner for case in Case.objects.order_by("due")] == [approver, approver, None]
    entries = AuditEntry.objects.filter(type="case.assigned")
    assert entries.count() == 2
    data = json.loads(bytes(entries[0].body))
    assert data["data"] == {"owner": str(approver.pseudonym)}
    assert data["actor"] == f"officer:{officer.pseudonym}"
    assert listed(as_staff(approver).get("/app/cases?view=mine")) == fields["case"][:2]
    assert "My cases" in text(as_staff(approver).get("/app/"))
    client.post("/app/cases/assign", {**fields, "owner": "none"})
    assert not Case.objects.exclude(owner=None).exists()


def test_the_page_of_a_case_names_its_owner_and_gives_it_to_another(
    officer: StaffMember, engineer: StaffMember
) -> None:
    case = factories.confirmed_case()
    client, path = as_staff(officer), f"/app/cases/{case.reference}"
    fields = {"of": case.reference, "owner": str(officer.pk)}
    page = text(client.post("/app/cases/assign", fields, follow=True))
    assert f"1 case was given to {officer.username}." in page
    assert f'<option value="{officer.pk}" selected>' in page
    assert Case.objects.get().owner == officer
    seen = text(as_staff(engineer).get(path))
    assert f'<dd id="owner">{officer.username}</dd>' in seen
    client.post("/app/cases/assign", {**fields, "owner": "none"})
    assert Case.objects.get().owner is None
    assert client.post("/app/cases/assign", {**fields, "of": "ERQ-2026-999999"}).status_code == 404


@pytest.mark.parametrize("fields", [{"owner": "none"}, {"case": "ERQ-2026-000001", "owner": "x"}])
def test_nothing_is_assigned_without_cases_or_somebody(
    officer: StaffMember, fields: dict[str, str]
) -> None:
    make_cases([(0, 3)])
    answer = as_staff(officer).post("/app/cases/assign", fields, follow=True)
    assert "Choose " in text(answer)
    assert not AuditEntry.objects.filter(type="case.assigned").exists()


def test_only_those_who_work_on_cases_own_or_assign_them(
    officer: StaffMember, engineer: StaffMember
) -> None:
    (case,) = make_cases([(0, 3)])
    with pytest.raises(Invalid):
        owners.assign_case(case_id=case.id, owner=engineer, actor_member=officer)
    with pytest.raises(NotAllowed):
        owners.assign_case(case_id=case.id, owner=officer, actor_member=engineer)
    owners.assign_case(case_id=case.id, owner=officer, actor_member=officer)
    owners.assign_case(case_id=case.id, owner=officer, actor_member=officer)
    assert AuditEntry.objects.filter(type="case.assigned").count() == 1
    Case.objects.update(status="withdrawn")
    with pytest.raises(WrongState):
        owners.assign_case(case_id=case.id, owner=None, actor_member=officer)


# --- Search and preferences -----------------------------------------------------------------------
def test_search_finds_cases_runs_releases_pages_and_verified_addresses(
    officer: StaffMember, engineer: StaffMember
) -> None:
    case = factories.responding_case()
    run = case.runs.get()
    release = Release.objects.get()
    unverified = factories.open_case().case
    client = as_staff(officer)

    def hits(q: str) -> str:
        return text(client.post("/app/search", {"q": q}, headers={"HX-Request": "true"}))

    assert client.post("/app/search", {"q": case.reference.lower()}).status_code == 302
    assert f"/app/cases/{case.reference}" in hits(case.reference)
    assert f"/app/runs/{run.pk}" in hits(str(run.pk)[:8])
    assert f"/app/runs/{run.pk}" in hits(run.pk.hex)
    assert release.digest[:12] in hits(release.digest[:10])
    assert "/app/audit" in hits("audit")
    assert "/app/exports" not in text(
        as_staff(engineer).post("/app/search", {"q": "reports"}, headers={"HX-Request": "true"})
    )
    found = hits(f" {factories.EMAIL.upper()} ")
    assert case.reference in found
    assert unverified.reference not in found
    assert factories.EMAIL not in found
    assert "Nothing was found" in hits("nobody@mailbox.example")
    refused = as_staff(engineer).post("/app/search", {"q": factories.EMAIL})
    assert "does not search by address" in text(refused)
    assert case.reference not in text(refused)
    assert client.post("/app/search", {"q": ""}).status_code == 422
    assert client.get(f"/app/search?q={factories.EMAIL}").content.count(b"ERQ-") == 0


def test_colours_and_shortcuts_are_kept_by_the_server(officer: StaffMember) -> None:
    client = as_staff(officer)
    page = text(client.get("/app/cases"))
    assert "data-theme" not in page
    assert "data-off" not in page
    client.post("/app/preferences", {"theme": "dark"})
    page = text(client.get("/app/cases"))
    assert 'data-theme="dark"' in page
    assert "data-off" in page
    assert client.cookies["rtbf_theme"]["httponly"]
    client.post("/app/preferences", {"theme": "", "shortcuts": "on"})
    page = text(client.get("/app/cases"))
    assert "data-theme" not in page
    assert "data-off" not in page
    client.cookies["rtbf_theme"] = '"><script>'
    assert "data-theme" not in text(client.get("/app/cases"))


def test_today_says_what_works_in_the_background(officer: StaffMember) -> None:
    client = as_staff(officer)
    assert "not seen" in text(client.get("/app/"))
    wake.note_seen("legal")
    factories.responding_case()
    page = re.sub(r"\s+", " ", text(client.get("/app/")))
    assert "last seen 0 minutes ago" in page
    assert re.search(r"Letters not sent</dt><dd>\d", page)


def test_what_the_tiles_count_is_what_their_links_show() -> None:
    case = factories.executing_case()
    run = case.runs.get()
    runs.fail_run(factories.take_lease(run), error="It did not work.")
    approver = factories.make_staff(Role.APPROVER)
    client = as_staff(approver)
    page = text(client.get("/app/"))
    for name, link, count in re.findall(r'href="([^"]+)" id="count-([\w-]+)"><b>(\d+)', page):
        assert len(listed(client.get(name))) == int(count), link
    assert listed(client.get("/app/cases?view=failed")) == [case.reference]
