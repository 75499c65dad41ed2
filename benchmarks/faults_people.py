"""The people of the fault benchmark: they send the form, read their mails; staff work on the cases.

Each does what one does who meets an error page: wait a little and try again.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from benchmarks import report
from benchmarks.faults_injected import Installation
from rtbf.visitor import VisitError, Visitor

CODE_SECONDS = 62  # then the person asks for another code
GIVE_UP_SECONDS = 900  # of one step; on a busy machine a killed server takes minutes to start
FACTS = (("Where does this person live?", "in a town"),)

Found = TypeVar("Found")


class GaveUp(RuntimeError):
    """A step did not succeed: the case is lost."""


def persist(step: Callable[[], Found | None], *, over: threading.Event | None = None) -> Found:
    """Try one step until it gives something; GaveUp after a very long time, or once it is over."""
    import httpx
    from django.db import Error, connection

    until = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until and not (over and over.is_set()):
        try:
            if (found := step()) is not None:
                return found
        except (httpx.TransportError, VisitError, Error):
            connection.close()
        time.sleep(0.5)
    raise GaveUp(f"{step} did not succeed")


@dataclass
class Person:
    """Somebody whose case goes from form to answer, and the staff who work on it."""

    number: int
    installation: Installation
    staff: dict[str, Any]
    reference: str = ""
    access_code: str = ""
    codes_asked: int = 1
    approvals: int = 0  # that were taken, of those made at once

    @property
    def address(self) -> str:
        return f"person-{self.number}@mailbox.example"

    def persist(self, step: Callable[[], Found | None]) -> Found:
        return persist(step, over=self.installation.over)

    def go(self) -> None:
        with closing(Visitor(self.installation.stack.url)) as window:
            n = self.number
            window.http.headers["X-Forwarded-For"] = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
            self.file_request(window)
            self.confirm(window)
        while not self.persist(self.worked_on):
            time.sleep(0.5)

    def file_request(self, window: Visitor) -> None:
        def filled_in() -> bool:
            for step, answers in self.answers().items():
                window.open(f"/erasure/new/{step}")
                again = "Save and continue"  # all was answered by an earlier try
                window.press(again if again in window.page else "Continue", answers)
            window.open("/erasure/new/check")
            return True

        self.persist(filled_in)
        last_page = window.response

        def sent() -> str:
            window.response = last_page
            window.press("Send erasure request")
            return window.find(r'id="reference">([^<]+)<')

        self.reference = self.persist(sent)
        with suppress(VisitError):
            self.access_code = window.find(r'id="access-code">([^<]+)<')

    def answers(self) -> dict[str, dict[str, str | list[str]]]:
        return {
            "who": {"who": "myself"},
            "name": {"name": f"Person {self.number}"},
            "email": {"email": self.address},
            "what": {"systems": ["model"]},
            "message": {},
        }

    def confirm(self, window: Visitor) -> None:
        """Enter the code that came by mail; ask for another if none comes."""
        asked = time.monotonic()

        def confirmed() -> bool | None:
            nonlocal asked
            if time.monotonic() - asked > CODE_SECONDS:
                window.open("/erasure/confirm")
                window.press("Send a new code", {"reference": self.reference})
                asked, self.codes_asked = time.monotonic(), self.codes_asked + 1
            code = self.mailed_code()
            if not code:
                return None
            window.open("/erasure/confirm")
            window.press("Confirm", {"reference": self.reference, "code": code})
            return True

        self.persist(confirmed)

    def mailed_code(self) -> str:
        for mail in reversed(self.installation.mail.to(self.address)):
            body = mail.get_body()
            text = body.get_content() if body is not None else ""
            _, found, rest = text.partition("code is ")
            if found:
                return str(rest.split()[0])
        return ""

    def worked_on(self) -> bool:
        """What staff do next where the case stands; True once it was answered."""
        from requests_app.actors import staff_actor
        from requests_app.lifecycle import CaseStatus
        from requests_app.models import Case
        from requests_app.services import cases
        from requests_app.services.decisions import ScopeResult
        from requests_app.services.errors import ServiceError

        case = Case.objects.get(reference=self.reference)
        officer = self.staff["officer"]
        actor = staff_actor(officer)
        with suppress(ServiceError):  # done by the try that ended in an error
            match case.status:
                case CaseStatus.IDENTITY_CHECK:
                    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=actor)
                case CaseStatus.IN_REVIEW:
                    if not self.has_facts(case):
                        cases.attach_facts(case_id=case.id, facts=FACTS, aliases=(), actor=actor)
                    cases.propose_decision(
                        case_id=case.id,
                        outcome="granted",
                        grounds=["17-1-a"],
                        reasoning="The contract has ended.",
                        scope_results={
                            item.pk: ScopeResult("erase") for item in case.scope_items.all()
                        },
                        actor_member=officer,
                    )
                case CaseStatus.AWAITING_APPROVAL:
                    self.approve_twice(case.id)
                case CaseStatus.EVIDENCE_REVIEW:
                    self.review(case)
                case CaseStatus.RESPONDING:
                    cases.send_answer(case_id=case.id, actor_member=officer)
        return bool(case.status == CaseStatus.COMPLETED)

    def has_facts(self, case: Any) -> bool:
        from requests_app import vault

        return vault.has(case, "facts")

    def approve_twice(self, case_id: UUID) -> None:
        """Two approvers press at the same moment; one of them is told that it is done."""
        from django.db import Error, connection

        from requests_app.services import cases
        from requests_app.services.errors import ServiceError

        gate = threading.Barrier(2)

        def approve(member: Any) -> bool:
            gate.wait()
            try:
                cases.approve_decision(case_id=case_id, actor_member=member)
            except (ServiceError, Error):
                return False
            finally:
                connection.close()
            return True

        with ThreadPoolExecutor(2) as both:
            self.approvals += sum(both.map(approve, self.staff["approvers"]))

    def review(self, case: Any) -> None:
        """Run again where that is possible, else accept what was measured."""
        from requests_app.services import cases
        from requests_app.services.cases import latest_runs

        (run,) = latest_runs(case)
        officer = self.staff["officer"]
        if cases.why_not_repeat(run):
            cases.accept_evidence(case_id=case.id, actor_member=officer)
        else:
            cases.repeat_run(case_id=case.id, run_id=run.id, actor_member=officer)


def accompany(person: Person, done: list[Person], *, until: float) -> None:
    """Follow one case to its end, if it begins in time; who gives up is not among `done`."""
    from django.db import connection

    if time.monotonic() > until:
        return
    try:
        person.go()
    except GaveUp as problem:
        report.progress(f"case {person.number}: {problem}")
    else:
        done.append(person)
        if len(done) % 25 == 0:
            report.progress(f"{len(done)} cases answered")
    finally:
        connection.close()
