"""Where a newcomer begins: the page that `make run` ends on, in a demonstration alone."""

import json
from ipaddress import ip_address
from pathlib import Path

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from requests_app.models import Case
from requests_app.models.people import Role
from rtbf.sample_runs import MODEL

TASKS = {
    Role.OFFICER: "checks who asks, prepares a decision, sends the answer",
    Role.APPROVER: "approves what another person proposed",
    Role.ENGINEER: "looks after runs, models and releases",
    Role.AUDITOR: "reads everything but personal data, exports evidence",
    Role.ADMINISTRATOR: "invites staff and sees no case",
}


@require_GET
def welcome(request: HttpRequest) -> HttpResponse:
    """Log-ins and links. 404 on a production installation, without demonstration data, and for
    whoever is not on this machine: the page shows passwords."""
    if settings.RTBF_PRODUCTION or not settings.RTBF_DEMO_DATA or not _is_here(request):
        raise Http404
    passwords = _passwords()
    logins = [
        {"role": role.label, "username": role.value, "does": does, "password": passwords[role]}
        for role, does in TASKS.items()
        if role in passwords
    ]
    context = {
        "logins": logins,
        "cases": Case.objects.count(),
        "has_sample": Case.objects.filter(scope_items__target=MODEL).exists(),
        "outbox": settings.EMAIL_FILE_PATH,
    }
    return render(request, "staff/welcome.html", context)


def _is_here(request: HttpRequest) -> bool:
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _passwords() -> dict[str, str]:
    """What `create_staff --demo` keeps for the demonstration accounts; empty before it ran."""
    path = Path(settings.RTBF_KEY_DIR) / "demo_staff.json"
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found
