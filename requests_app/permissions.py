"""Who may open which staff page. Services check once more; this decides what a page shows."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from requests_app.models import StaffMember
from requests_app.models.people import Role

View = Callable[..., HttpResponse]

SEE_PERSONAL_DATA = frozenset({Role.INTAKE, Role.OFFICER, Role.APPROVER})
DECIDE = frozenset({Role.OFFICER, Role.APPROVER})


def role_required(*roles: str) -> Callable[[View], View]:
    """Let in staff of one of `roles`; without any role named, every member of staff.

    Strangers go to the log-in page; with `RTBF_REQUIRE_MFA`, staff without a second factor go to
    set one up; the wrong role gets the 403 page, which names the role that is needed.
    """
    labels = " or ".join(str(Role(role).label) for role in roles)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not isinstance(request.user, StaffMember):
                return redirect_to_login(request.get_full_path())
            if settings.RTBF_REQUIRE_MFA and not is_mfa_enabled(request.user):
                return redirect("mfa_activate_totp")
            if roles and request.user.role not in roles:
                raise PermissionDenied(
                    f"This page needs the role {labels}. "
                    f"Your role is {Role(request.user.role).label}."
                )
            return view(request, *args, **kwargs)

        return guarded

    return decorate


def member(request: HttpRequest) -> StaffMember:
    """The logged-in member of staff behind a `role_required` page."""
    if not isinstance(request.user, StaffMember):
        raise PermissionDenied("This page is for staff.")
    return request.user


def sees_personal_data(staff: StaffMember) -> bool:
    """Intake, case officers and approvers read the vault; engineers and auditors never need it."""
    return staff.role in SEE_PERSONAL_DATA
