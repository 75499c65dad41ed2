"""Made-up cases for looking around: a year and a half of requests, through the real services.

Each case is a story: a generator that does one step after another and says how long passes between
them. The steps of all cases are played in the order of their times, with the clock set to each, and
whatever would lie after now is not played: so recent cases are under way, and the log is in order.
People, addresses, facts and figures are invented, and no model is touched.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from requests_app import vault
from requests_app.actors import SUBJECT, staff_actor
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import (
    AuditEntry,
    Case,
    Letter,
    Recipient,
    ScopeItem,
    StaffMember,
)
from requests_app.models.people import Role
from requests_app.models.record import Channel
from requests_app.models.runs import Verdict
from requests_app.services import (
    bounces,
    cases,
    clock,
    duplicates,
    holds,
    intake,
    letters,
    mandates,
    recipients,
    restrictions,
    retention,
)
from requests_app.services.decisions import ScopeResult
from rtbf import sample_people
from rtbf.pretended import clock_at, no_mail, no_waking, setting
from rtbf.sample_runs import MODEL, SampleError, measure_release, show_one_at_work, work_off

SPAN = timedelta(days=548)
CLOSE_EVERY = timedelta(days=14)  # how often retention runs
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Story = Iterator[timedelta]
Report = Callable[[int, int], object]


@dataclass(frozen=True)
class Ending:
    """How a kind of case goes: how many of a hundred are so, how many days ago it was received at
    most (None: any time), and what happens to it that is not usual."""

    weight: int
    within_days: tuple[int, int] | None = None
    stops: str = ""  # before this step
    outcome: str = "granted"
    verdicts: tuple[str, ...] = (Verdict.WITHIN,)
    also: frozenset[str] = frozenset()


ENDINGS: Mapping[str, Ending] = {
    "answered": Ending(40),
    "partly": Ending(6, outcome="partly_granted"),
    "refused": Ending(5, outcome="refused"),
    "not_identified": Ending(3, outcome="cannot_identify"),
    "excessive": Ending(1, outcome="excessive"),
    "withdrawn": Ending(3, (5, 80), stops="identity", also=frozenset({"withdrawn"})),
    "extended": Ending(4, (45, 85), stops="propose", also=frozenset({"extended"})),
    "answered_late": Ending(3, (40, 400), also=frozenset({"slow"})),
    "second_attempt": Ending(4, verdicts=(Verdict.NOT_MET, Verdict.WITHIN)),
    "failed_once": Ending(2, (5, 500), verdicts=("failed", Verdict.WITHIN)),
    "cancelled_once": Ending(1, (5, 300), verdicts=("cancelled", Verdict.WITHIN)),
    "evidence_review": Ending(3, (10, 28), verdicts=(Verdict.NOT_MET,) * 3),
    "inconclusive": Ending(1, (12, 26), verdicts=(Verdict.INCONCLUSIVE,)),
    "accepted": Ending(1, verdicts=(Verdict.INCONCLUSIVE,), also=frozenset({"accepted"})),
    "unconfirmed": Ending(4, (0, 6), stops="confirm"),
    "identity_check": Ending(4, (1, 20), stops="identity"),
    "overdue": Ending(3, (36, 58), stops="identity"),
    "overdue_in_review": Ending(2, (34, 45), stops="propose"),
    "in_review": Ending(4, (2, 25), stops="propose"),
    "proposed": Ending(4, (6, 28), stops="approve"),
    "to_answer": Ending(3, (9, 27), stops="answer"),
    "queued": Ending(2, (5, 20), stops="run"),
    "at_work": Ending(1, (4, 15), stops="run"),
    "suspended": Ending(2, (4, 20), stops="identity", also=frozenset({"suspended"})),
    "resumed": Ending(1, (20, 120), also=frozenset({"suspended", "resumed"})),
    "bounced": Ending(2, (12, 60), also=frozenset({"bounced"})),
    "held": Ending(1, (20, 75), stops="approve", also=frozenset({"held"})),
    "restricted": Ending(1, (10, 60), stops="propose", also=frozenset({"restricted"})),
    "for_somebody": Ending(3, also=frozenset({"mandate"})),
    "no_mandate_yet": Ending(1, (1, 15), stops="mandate", also=frozenset({"mandate"})),
    "again": Ending(2, (8, 60), also=frozenset({"duplicate"})),
}  # fmt: skip


def make_sample(*, count: int, seed: int = 1, report: Report = lambda done, of: None) -> int:
    """Make `count` cases in an empty installation; returns how many audit entries there are then.

    Raises SampleError on a production installation, without demonstration data, and where there are
    cases: the log is append-only, so what is in it can never be taken out again.
    """
    if settings.RTBF_PRODUCTION or not settings.RTBF_DEMO_DATA:
        raise SampleError("This installation is not for made-up cases (RTBF_DEMO_DATA is off).")
    if Case.objects.exists():
        raise SampleError(
            "There are cases here already, and the log is append-only: they stay for good. Make a"
            " sample in an installation of its own, such as: RTBF_VAR_DIR=var/sample make sample"
        )
    if count < 1:
        raise SampleError("Name how many cases to make, at least one.")
    chance = random.Random(seed)  # noqa: S311  (nothing here is secret)
    now = timezone.now()
    begin = now - SPAN - DAY
    with no_waking(), setting(RTBF_MODELS=[*settings.RTBF_MODELS, MODEL]), no_mail():
        staff = _staff()
        with clock_at(begin):
            _recipients(staff)
        plans = sample_plans(count, chance, now)
        events: list[tuple[datetime, int, Story]] = [
            (at, number, _Case(ending, person, staff, chance).story())
            for number, (at, ending, person) in enumerate(plans)
        ]
        events.append((begin + CLOSE_EVERY, -1, _retention()))
        heapq.heapify(events)
        started = 0
        while events and events[0][0] <= now:
            at, number, story = heapq.heappop(events)
            with clock_at(at):
                pause = next(story, None)
                letters.send_pending_letters()
            if pause is not None:
                heapq.heappush(events, (at + pause, number, story))
            if number >= started:
                started = number + 1
                report(started, count)
        show_one_at_work()
    return AuditEntry.objects.count()


def sample_plans(
    count: int, chance: random.Random, now: datetime
) -> list[tuple[datetime, Ending, sample_people.Person]]:
    """When each case is received, how it goes and whose it is, in the order of receipt. Each kind
    of ending occurs once where there are enough cases, then as often as its weight says."""
    names = list(ENDINGS)
    weights = [ENDINGS[name].weight for name in names]
    drawn = [*names, *chance.choices(names, weights, k=count)][:count]
    found = []
    for name in drawn:
        ending = ENDINGS[name]
        low, high = ending.within_days or (12, SPAN.days)
        # more of the recent ones: their pages still show something, older ones are sealed
        days = low + (high - low) * chance.random() ** (1 if ending.within_days else 2)
        at = now - timedelta(days=days, minutes=chance.randrange(1, 600))
        found.append((at, ending))
    found.sort(key=lambda row: row[0])
    people = sample_people.people(count, chance)
    return [(at, ending, person) for (at, ending), person in zip(found, people, strict=True)]


# --- A case -------------------------------------------------------------------------------------
class _Case:
    """One case and those who work on it."""

    def __init__(
        self,
        ending: Ending,
        person: sample_people.Person,
        staff: Mapping[str, StaffMember],
        chance: random.Random,
    ) -> None:
        self.ending, self.person, self.staff, self.chance = ending, person, staff, chance
        self.slow = 3.0 if "slow" in ending.also else 1.0

    def story(self) -> Story:
        """Every step up to the answer, or to where this case stands."""
        also, stops = self.ending.also, self.ending.stops
        case = self.open()
        if case.channel == Channel.FORM:
            yield self.days(0.001, 0.006)  # the code is good for a quarter of an hour
            if stops == "confirm":
                return
            intake.confirm_email(reference=case.reference, code=vault.get(case, "code"))
        yield self.days(0.2, 2)
        if "withdrawn" in also:
            intake.withdraw_case(case_id=case.id, actor=SUBJECT)
            return
        if "mandate" in also:
            if stops == "mandate":
                return
            self.record_mandate(case)
            yield self.days(0.1, 1)
        if "suspended" in also:
            self.suspend(case)
            if "resumed" not in also:
                return
            yield self.days(3, 7)
            clock.resume_case(
                case_id=case.id, answered_on=timezone.localdate(), actor_member=self.officer
            )
        if stops == "identity":
            return
        yield from self.prepare(case)
        if stops == "propose":
            return
        yield self.days(0.5, 4)
        self.propose(case)
        yield self.days(0.1, 1.5)
        if stops == "approve":
            return
        cases.approve_decision(case_id=case.id, actor_member=self.staff["approver"])
        if stops == "run":
            return
        yield from self.erase(case)
        if not self.may_answer(case) or stops == "answer":
            return
        yield self.days(0.3, 3)
        self.tell_recipients(case)
        cases.send_answer(case_id=case.id, actor_member=self.officer)
        if "bounced" in also:
            yield self.days(0.05, 0.3)
            sent = Letter.objects.filter(case=case).latest("pk")
            bounces.record_bounce(bounces.Bounce(letters.message_id(sent), "5.1.1"))

    @property
    def officer(self) -> StaffMember:
        return self.staff["officer"]

    def days(self, low: float, high: float) -> timedelta:
        """A pause between two numbers of days; of a slow case three times as long."""
        factor = 1.0 if high < 0.01 else self.slow  # a code does not wait
        return timedelta(days=self.chance.uniform(low, high) * factor)

    def open(self) -> Case:
        """The request arrives."""
        person, also = self.person, self.ending.also
        by_form = self.ending.stops == "confirm" or self.chance.random() < 0.7
        others = (Channel.POST, Channel.PHONE, Channel.PERSON)
        channel = Channel.FORM if by_form else self.chance.choice(others)
        stores = ("data_store:customer-records",) if self.ending.outcome != "granted" else ()
        extra = ("data_store:newsletter",) if self.chance.random() < 0.3 else ()
        region = self.chance.choices(("EU", "UK", "CA"), (8, 1, 1))[0]
        earlier = self.duplicated() if "duplicate" in also else None
        region = "EU" if also & {"suspended"} else region
        return intake.open_case(
            intake=intake.Intake(
                name=person.name if earlier is None else vault.get(earlier, "name"),
                email=person.email if earlier is None else vault.get(earlier, "email"),
                message=person.message,
                language=person.language,
                scope=(f"model:{MODEL}", *stores, *extra),
                on_behalf="mandate" in also,
            ),
            received_at=timezone.now(),
            channel=channel,
            actor=SUBJECT if by_form else staff_actor(self.staff["intake"]),
            region=region,
        ).case

    def duplicated(self) -> Case | None:
        """An earlier case of the same person, which this one repeats."""
        known = Case.objects.exclude(contact_digest="").exclude(status=CaseStatus.SEALED)
        return known.filter(on_behalf=False).order_by("-received_at").first()

    def record_mandate(self, case: Case) -> None:
        mandates.record_mandate(
            case_id=case.id,
            kind=self.chance.choice(("agent", "parent", "guardian")),
            sender=f"{self.person.name.split()[0]} Sampleton",
            note="A signed letter was seen; the signatures are alike.",
            covers_answers=True,
            actor=staff_actor(self.officer),
        )

    def suspend(self, case: Case) -> None:
        clock.suspend_case(
            case_id=case.id,
            reason="identity",
            asked_on=timezone.localdate(),
            text="The name is held twice, so we asked which of the two accounts it is.",
            actor_member=self.officer,
        )

    def prepare(self, case: Case) -> Story:
        """Identity, facts, and what else comes before a decision."""
        also, officer = self.ending.also, staff_actor(self.officer)
        method = self.chance.choice(("mailbox", "held_attributes", "logged_in", "document_seen"))
        cases.record_identity(case_id=case.id, method=method, note="", actor=officer)
        if "duplicate" in also:
            case.refresh_from_db()
            others = duplicates.same_contact(case)
            if others.exists():
                other = others[0].reference
                duplicates.join_cases(case_id=case.id, reference=other, actor=officer)
        yield self.days(0.1, 1)
        cases.attach_facts(case_id=case.id, facts=self.person.facts, aliases=(), actor=officer)
        yield self.days(0.1, 1)
        if "restricted" in also:
            restrictions.restrict_case(case_id=case.id, ground="18-1-a", actor_member=self.officer)
        if "held" in also:
            holds.place_hold(
                case_id=case.id,
                reason="The invoice of last spring is before the court.",
                until=timezone.localdate() + timedelta(days=240),
                actor_member=self.officer,
            )
        if "extended" in also:
            yield self.days(6, 14)
            clock.extend_case(
                case_id=case.id,
                cause="complexity",
                reasons="The records lie in three systems, one of which is being moved now.",
                done="Two of the three systems have been searched, with what was found listed.",
                actor_member=self.officer,
            )

    def propose(self, case: Case) -> None:
        outcome = self.ending.outcome
        items = list(case.scope_items.order_by("id"))
        kept = ScopeResult(
            "keep",
            "17-3-b",
            "Invoices are kept for the period that tax law sets.",
            timezone.localdate() + timedelta(days=300),
        )
        results = {"granted": ScopeResult("erase"), "refused": kept}

        def result(item: ScopeItem) -> ScopeResult:
            if outcome == "partly_granted":
                return results["granted" if item.kind == ScopeItem.Kind.MODEL else "refused"]
            return results.get(outcome, ScopeResult("open"))

        refused = {"abuse": "excessive", "proof": "The ninth request of the same kind this week."}
        cases.propose_decision(
            case_id=case.id,
            outcome=outcome,
            grounds=[self.chance.choice(("17-1-a", "17-1-b", "17-1-c"))]
            if outcome in ("granted", "partly_granted")
            else [],
            reasoning="The contract has ended and the data is no longer needed for it.",
            scope_results={item.pk: result(item) for item in items},
            actor_member=self.officer,
            **(refused if outcome == "excessive" else {}),
        )

    def erase(self, case: Case) -> Story:
        """The runs of the case, one verdict each; a failed or cancelled one is repeated."""
        if not case.runs.exists():
            return
        for verdict in self.ending.verdicts:
            yield timedelta(minutes=self.chance.uniform(2, 9))
            run = case.runs.filter(state=RunState.QUEUED).first()
            if run is None:  # the last one failed: an officer has looked
                yield self.days(0.1, 0.8)
                last = case.runs.latest("number")
                run = cases.repeat_run(case_id=case.id, run_id=last.pk, actor_member=self.officer)
            work_off(run, verdict, chance=self.chance, officer=self.officer)
        measure_release(self.chance)

    def may_answer(self, case: Case) -> bool:
        case.refresh_from_db()
        if case.status == CaseStatus.EVIDENCE_REVIEW and "accepted" in self.ending.also:
            cases.accept_evidence(case_id=case.id, actor_member=self.officer)
            case.refresh_from_db()
        return case.status == CaseStatus.RESPONDING

    def tell_recipients(self, case: Case) -> None:
        recipients.send_pending_notices()
        for notice in case.notices.filter(state="to_send"):
            recipients.record_notice_sent(notice_id=notice.pk, actor_member=self.officer)


# --- Around the cases ---------------------------------------------------------------------------
def _retention() -> Story:
    while True:
        retention.apply_retention()
        yield CLOSE_EVERY


def _staff() -> dict[str, StaffMember]:
    """The demonstration accounts that `create_staff --demo` makes, and one for the intake."""
    found = {}
    for role in (Role.INTAKE, Role.OFFICER, Role.APPROVER):
        found[role.value], _ = StaffMember.objects.get_or_create(
            username=role.value,
            defaults={"role": role, "email": f"{role.value}@controller.example"},
        )
    return found


def _recipients(staff: Mapping[str, StaffMember]) -> None:
    """Who got data of the model: told before any case is answered."""
    if Recipient.objects.exists():
        return
    for name, kind, how, address in (
        ("Lantern Hosting (sample)", "model_host", "mail", "privacy@lantern.example"),
        ("Inkwell Annotators (sample)", "annotator", "hand", ""),
    ):
        data = recipients.RecipientData(name, kind, how, address, systems=(f"model:{MODEL}",))
        recipients.save_recipient(data=data, actor_member=staff["officer"])
