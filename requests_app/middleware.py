"""No page from a database that is behind its log; headers that keep pages out of caches; the
language of staff pages."""

import logging
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils import translation

from requests_app.context import controller
from requests_app.services.restoring import why_not_served

logger = logging.getLogger(__name__)
OPEN = "/healthz"  # answers for itself
STAFF_PATHS = ("/app/", "/accounts/")


def current_record(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Answer 503 while the database does not hold what was signed last: after a restore, until
    `manage.py replay_erasures` has destroyed again what the backup had forgotten."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path == OPEN or not (reason := why_not_served()):
            return get_response(request)
        logger.critical("Not served: the database does not hold what was signed last.")
        page = render_to_string("503.html", {**controller(request), "reason": reason})
        return HttpResponse(page, status=503, headers={"Retry-After": "600"})

    return middleware


def private_pages(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Mark every page `no-store` and `noindex`; static files never pass here (whitenoise).

    Other sites learn no address. Not `no-referrer`: under it browsers send `Origin: null` with
    our own forms (Fetch standard, "append a request Origin header"), and the check against forged
    forms would refuse every one of them.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Robots-Tag", "noindex")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        return response

    return middleware


def staff_in_english(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Staff pages are written in English alone: no mixture with what else is translated."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path.startswith(STAFF_PATHS):
            translation.activate("en")
            request.LANGUAGE_CODE = "en"
        return get_response(request)

    return middleware
