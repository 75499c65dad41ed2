"""A case told as stages, for the person's status page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import CaseStatus as S
from requests_app.models import Case, Decision, ScopeItem

Standing = Literal["done", "now", "next", "skipped"]
GLYPHS: dict[Standing, str] = {"done": "✓", "now": "●", "next": "", "skipped": "∅"}
WORDS = {
    "done": _("Done"),
    "now": _("We are here"),
    "next": _("Still to come"),
    "skipped": _("Not part of this request"),
}


@dataclass(frozen=True)
class Stage:
    """One stage: its name, where the case stands, what it means; when reached, or by when."""

    name: str
    standing: Standing
    text: str
    at: datetime | None = None
    by: date | None = None

    @property
    def glyph(self) -> str:
        return GLYPHS[self.standing]

    @property
    def word(self) -> str:
        return str(WORDS[self.standing])


NAMES = (
    _("Received"),
    _("Identity"),
    _("Decision"),
    _("Erasure"),
    _("Evidence"),
    _("Answer sent"),
)
IDENTITY, ERASURE, EVIDENCE = 1, 3, 4  # places in NAMES
POSITION = {
    S.AWAITING_CONFIRMATION: 1,
    S.IDENTITY_CHECK: 1,
    S.IN_REVIEW: 2,
    S.AWAITING_APPROVAL: 2,
    S.EXECUTING: 3,
    S.EVIDENCE_REVIEW: 4,
    S.RESPONDING: 5,
    S.COMPLETED: 6,
    S.WITHDRAWN: 6,
    S.SEALED: 6,
}
TEXTS = (
    _("Your request arrived. The period for our answer runs from this day."),
    _("We check, as far as needed, that the request is yours."),
    _("One person proposes what is erased, another approves it."),
    _("Your data is erased where the decision says so, and suppressed in the models."),
    _("The result is measured against a model that never saw you."),
    _("You receive our answer with reasons, figures and remedies."),
)


def stages(case: Case) -> list[Stage]:
    """The six stages of a case in their order; a withdrawn case has two."""
    decision = case.decisions.filter(state=Decision.State.APPROVED).first()
    ended = case.runs.exclude(finished_at=None).order_by("-finished_at").first()
    reached = [
        case.received_at,
        case.identity_checked_at,
        decision.approved_at if decision else None,
        *[ended.finished_at if ended else None] * 2,
        case.completed_at,
    ]
    if case.withdrawn_at:
        return [
            Stage(str(NAMES[0]), "done", str(TEXTS[0]), case.received_at),
            Stage(
                str(_("Withdrawn")),
                "done",
                str(_("Nothing is erased under this request.")),
                case.withdrawn_at,
            ),
        ]
    position = POSITION[S(case.status)]
    without_run = (
        decision is not None
        and not case.scope_items.filter(
            kind=ScopeItem.Kind.MODEL, result=ScopeItem.Result.ERASE
        ).exists()
    )
    found = []
    for index, name in enumerate(NAMES):
        standing: Standing = "done" if index < position else "now" if index == position else "next"
        if without_run and index in (ERASURE, EVIDENCE):
            standing = "skipped"
        text = TEXTS[index]
        if index == IDENTITY and standing == "now":
            text = (
                _("Your e-mail address is confirmed. We check the rest as far as needed.")
                if case.email_confirmed_at
                else _("We wait for the code that we sent to your e-mail address.")
            )
        at = reached[index] if standing == "done" else None
        by = case.due if standing in ("now", "next") else None
        found.append(Stage(str(name), standing, str(text), at, by))
    return found
