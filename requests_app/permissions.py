"""Who may open which staff page, what has to be revealed first, and what needs a fresh log-in.

`PAGES` is the one table of roles. Services check the role of each change once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

from allauth.account.decorators import reauthentication_required
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app.accounts import LOGGED_IN
from requests_app.models import Case, StaffMember
from requests_app.models.people import Role
from requests_app.services.locking import spell_roles

View = Callable[..., HttpResponse]

SEE_PERSONAL_DATA = frozenset({Role.INTAKE, Role.OFFICER, Role.APPROVER})
DECIDE = frozenset({Role.OFFICER, Role.APPROVER})
EXPORT = DECIDE | {Role.AUDITOR}
CANCEL = DECIDE | {Role.ENGINEER}
CASES = frozenset(Role) - {Role.ADMINISTRATOR}
OPERATE = frozenset({Role.ENGINEER, Role.APPROVER})  # models and releases
RUN_IT = frozenset({Role.ENGINEER, Role.ADMINISTRATOR})  # the installation
ACCOUNTS = frozenset({Role.ADMINISTRATOR})

PAGES: dict[str, frozenset[Role]] = {
    "today": frozenset(Role),
    "queue": CASES,
    "queue_changes": CASES,
    "queue_assign": SEE_PERSONAL_DATA,
    "search": CASES,
    "preferences": frozenset(Role),
    "new_case": SEE_PERSONAL_DATA,
    "case": CASES,
    "case_note": SEE_PERSONAL_DATA,
    "case_reveal": SEE_PERSONAL_DATA,
    "case_hide": SEE_PERSONAL_DATA,
    "case_letter": SEE_PERSONAL_DATA,
    "case_letter_sent": SEE_PERSONAL_DATA,
    "case_identity_question": SEE_PERSONAL_DATA,
    "case_identity": SEE_PERSONAL_DATA,
    "case_mandate": SEE_PERSONAL_DATA,
    "case_join": SEE_PERSONAL_DATA,
    "case_facts": DECIDE,
    "case_decision": DECIDE,
    "case_approval": DECIDE,
    "case_evidence_review": DECIDE,
    "case_answer": DECIDE,
    "case_hold": DECIDE,
    "case_hold_release": DECIDE,
    "case_exemption": DECIDE,
    "case_extension": DECIDE,
    "case_suspension": SEE_PERSONAL_DATA,
    "case_records": SEE_PERSONAL_DATA,
    "case_restriction": DECIDE,
    "case_annex": DECIDE,
    "case_annex_approve": frozenset({Role.APPROVER}),
    "annexed_bundle": DECIDE,
    "exports": EXPORT,
    "export": EXPORT,
    "run": CASES,
    "run_progress": CASES,
    "run_stream": CASES,
    "run_log": CASES,
    "run_cancel": CANCEL,
    "run_evidence": CASES,
    "run_figure": CASES,
    "releases": CASES,
    "release": CASES,
    "release_roll_back": OPERATE,
    "consolidation": CASES,
    "consolidation_propose": OPERATE,
    "models": CASES,
    "playground": frozenset({Role.ENGINEER}),
    "training": CASES,
    "audit": CASES,
    "recipients": CASES,
    "recipient": frozenset({Role.OFFICER}),
    "recipient_new": frozenset({Role.OFFICER}),
    "recipient_retire": frozenset({Role.OFFICER}),
    "notice_step": DECIDE,
    "notice_waive": DECIDE,
    "notice_text": DECIDE,
    "case_disclose": DECIDE,
    "reports": EXPORT,
    "report_jobs": EXPORT,
    "report_file": EXPORT,
    "settings": frozenset(Role),
    "settings_letters": frozenset(Role),
    "settings_letter": frozenset(Role),
    "settings_retention": CASES,
    "settings_deadlines": frozenset(Role),
    "settings_roles": frozenset(Role),
    "settings_system": frozenset(Role),
    "stuck": RUN_IT,
    "stuck_retry": RUN_IT,
    "staff": ACCOUNTS,
    "staff_invite": ACCOUNTS,
    "staff_withdraw": ACCOUNTS,
    "staff_role": ACCOUNTS,
    "staff_deactivate": ACCOUNTS,
}
"""Name of a page under /app/ to the roles that may open it; a page without a row cannot be made."""

REVEAL_TIME = timedelta(minutes=15)
REVEALED = "revealed"  # in the session: reference of a case to the Unix time at which it ends


def staff_page(name: str) -> Callable[[View], View]:
    """Let in staff of the roles that `PAGES` names for this page.

    Strangers go to the log-in page; the wrong role gets the 403 page, which names the role that is
    needed. Age of the session and second factor: `middleware.staff_sessions`.
    """
    roles = PAGES[name]

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not isinstance(request.user, StaffMember):
                return redirect_to_login(request.get_full_path())
            if request.user.role not in roles:
                raise PermissionDenied(
                    _("This page needs the role %(roles)s. Your role is %(role)s.")
                    % {
                        "roles": spell_roles(role for role in Role if role in roles),
                        "role": Role(request.user.role).label,
                    }
                )
            return view(request, *args, **kwargs)

        return guarded

    return decorate


def member(request: HttpRequest) -> StaffMember:
    """The logged-in member of staff behind a `staff_page`."""
    if not isinstance(request.user, StaffMember):
        raise PermissionDenied(_("This page is for staff."))
    return request.user


def fresh_log_in(*, when: Callable[[HttpRequest], bool]) -> Callable[[View], View]:
    """Ask for the password or the second factor again (allauth, at most five minutes old).

    What was posted waits in the session meanwhile: only for posts that hold no personal data.
    """
    decorate: Callable[[View], View] = reauthentication_required(enabled=when)
    return decorate


def is_over(session: SessionBase) -> bool:
    """Whether a session of staff has had its hours, or was idle for too long."""
    now = int(time.time())
    known = session.get(LOGGED_IN) or {"since": now, "seen": now}
    return bool(
        now - known["since"] >= settings.RTBF_SESSION_HOURS * 3600
        or now - known["seen"] >= settings.RTBF_SESSION_IDLE_MINUTES * 60
    )


def is_post(request: HttpRequest) -> bool:
    return request.method == "POST"


def sees_personal_data(staff: StaffMember) -> bool:
    """Intake, case officers and approvers read the vault; the others never need it."""
    return staff.role in SEE_PERSONAL_DATA


# --- Masked until it is revealed, for one case and session ----------------------------------------
def revealed_until(request: HttpRequest, case: Case) -> datetime | None:
    """When this session's view of the person ends; None while personal data is masked."""
    end = request.session.get(REVEALED, {}).get(case.reference)
    if end is None or end <= timezone.now().timestamp() or not sees_personal_data(member(request)):
        return None
    return datetime.fromtimestamp(end, tz=timezone.get_current_timezone())


def was_revealed(request: HttpRequest, case: Case) -> bool:
    """It was, in this session, and was not hidden again: what was typed meanwhile may be sent."""
    return case.reference in request.session.get(REVEALED, {})


def note_reveal(request: HttpRequest, case: Case) -> None:
    end = int((timezone.now() + REVEAL_TIME).timestamp())
    request.session[REVEALED] = {**request.session.get(REVEALED, {}), case.reference: end}


def forget_reveal(request: HttpRequest, case: Case) -> None:
    kept = request.session.get(REVEALED, {})
    request.session[REVEALED] = {name: end for name, end in kept.items() if name != case.reference}
