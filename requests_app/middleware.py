"""What holds for every page: a current record, headers, how long and surely staff are in, and the
language of the API."""

import logging
import time
from collections.abc import Callable

from allauth.mfa.models import Authenticator
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _

from requests_app.accounts import LOGGED_IN
from requests_app.context import controller
from requests_app.permissions import is_over
from requests_app.services.restoring import why_not_served

Handler = Callable[[HttpRequest], HttpResponse]

logger = logging.getLogger(__name__)
OPEN = ("/healthz", "/readyz", "/metrics")  # answer for themselves
CURRENT_SECONDS = 1.0  # for which a look at the record holds
EVENT_STREAM = "text/event-stream"
NOTE_SECONDS = 60  # how often the last activity of staff is written
SECOND_FACTORS = [Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
WITHOUT_SECOND_FACTOR = ("/accounts/2fa/", "/accounts/reauthenticate/", "/accounts/logout/")
API_PATH = "/api/"


def current_record(get_response: Handler) -> Handler:
    """Answer 503 while the database does not hold what was signed last: after a restore, until
    `manage.py replay_erasures` has destroyed again what the backup had forgotten.

    Where it held that within the last second it is not asked again; an entry of the log asks each
    time whether the log is long enough (`audit.append_entry`).
    """
    current_until = 0.0

    def middleware(request: HttpRequest) -> HttpResponse:
        nonlocal current_until
        if request.path in OPEN or time.monotonic() < current_until:
            return get_response(request)
        if not (reason := why_not_served()):
            current_until = time.monotonic() + CURRENT_SECONDS
            return get_response(request)
        logger.critical("Not served: the database does not hold what was signed last.")
        language = translation.get_language_from_request(request)  # before LocaleMiddleware
        with translation.override(language):
            page = render_to_string("503.html", {**controller(request), "reason": reason})
        headers = {"Retry-After": "600", "Content-Language": language}
        response = HttpResponse(page, status=503, headers=headers)
        patch_vary_headers(response, ("Accept-Language", "Cookie"))
        return response

    return middleware


def private_pages(get_response: Handler) -> Handler:
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


def staff_sessions(get_response: Handler) -> Handler:
    """Staff are logged out after `RTBF_SESSION_HOURS`, or `RTBF_SESSION_IDLE_MINUTES` without a
    page; with `RTBF_REQUIRE_MFA` no page but those that set one up opens without a second factor.

    Here and not at each page, so that a page that is forgotten is closed.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return get_response(request)
        if _is_over(request):
            logout(request)
            messages.info(request, _("You were logged out, since your session had ended."))
            return redirect_to_login(
                request.get_full_path() if request.method == "GET" else "/app/"
            )
        if (
            settings.RTBF_REQUIRE_MFA
            and not request.path_info.startswith(WITHOUT_SECOND_FACTOR)
            and not is_mfa_enabled(request.user, SECOND_FACTORS)
        ):
            return redirect("mfa_index")
        return get_response(request)

    return middleware


def _is_over(request: HttpRequest) -> bool:
    """Whether the session has had its time; otherwise its last activity is noted.

    A page that asks by itself for what is new (htmx, Server-Sent Events) is no activity.
    """
    if is_over(request.session):
        return True
    now = int(time.time())
    known = request.session.get(LOGGED_IN) or {"since": now, "seen": now}
    polled = "HX-Request" in request.headers or request.headers.get("Accept") == EVENT_STREAM
    if LOGGED_IN not in request.session or (not polled and now - known["seen"] >= NOTE_SECONDS):
        request.session[LOGGED_IN] = {"since": known["since"], "seen": now}
    return False


def api_in_english(get_response: Handler) -> Handler:
    """The API speaks English to every client, whatever languages its requests accept."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path.startswith(API_PATH):
            translation.activate("en")
            request.LANGUAGE_CODE = "en"
        return get_response(request)

    return middleware
