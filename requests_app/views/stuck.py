"""Work that used up its attempts, for those who run the installation."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_POST

from requests_app.permissions import member, staff_page
from requests_app.services import stuck
from requests_app.views.common import refusals_in_words

KINDS = {
    "run": gettext_lazy("Erasure run"),
    "recheck": gettext_lazy("Measuring again"),
    "export": gettext_lazy("Export"),
    "letter": gettext_lazy("Letter"),
    "notice": gettext_lazy("Notice to a recipient"),
    "callback": gettext_lazy("Call to an API client"),
}


@staff_page("stuck")
@require_GET
def stuck_page(request: HttpRequest) -> HttpResponse:
    """What nothing takes up again by itself; neither a case nor a person is named."""
    rows = [(work, KINDS[work.kind]) for work in stuck.list_stuck()]
    return render(request, "staff/stuck.html", {"rows": rows})


@staff_page("stuck_retry")
@require_POST
@refusals_in_words
def retry(request: HttpRequest) -> HttpResponse:
    stuck.retry_work(
        kind=request.POST.get("kind", ""),
        row_id=request.POST.get("id", ""),
        actor_member=member(request),
    )
    messages.success(request, _("It is tried again, with all its attempts."))
    return redirect("stuck")
