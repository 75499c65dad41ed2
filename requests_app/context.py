"""What every page may name: controller, authority, period, made-up data, company log-in,
what kind of installation it is, and how this browser wants its pages."""

from django.conf import settings
from django.http import HttpRequest

from requests_app.jurisdictions import current, promise_answer

THEME, THEMES = "rtbf_theme", ("light", "dark")  # a cookie; without one the system decides
SHORTCUTS, OFF = "rtbf_shortcuts", "off"


def controller(request: HttpRequest) -> dict[str, object]:
    return {
        "controller": {
            "name": settings.RTBF_CONTROLLER_NAME,
            "email": settings.RTBF_CONTROLLER_EMAIL,
            "phone": settings.RTBF_CONTROLLER_PHONE,
            "address": settings.RTBF_CONTROLLER_ADDRESS,
        },
        "authority": {"name": settings.RTBF_AUTHORITY_NAME, "url": settings.RTBF_AUTHORITY_URL},
        "answer_within": promise_answer(current(settings.RTBF_JURISDICTION).period),
        "demo_data": settings.RTBF_DEMO_DATA,
        "company_log_in": settings.RTBF_OIDC_NAME if settings.RTBF_OIDC_ISSUER else "",
        "environment": settings.RTBF_ENVIRONMENT,
        "theme": theme if (theme := request.COOKIES.get(THEME)) in THEMES else "",
        "shortcuts": request.COOKIES.get(SHORTCUTS) != OFF,
        "keep_closed_days": settings.RTBF_KEEP_CLOSED_DAYS,
        "keep_unconfirmed_days": settings.RTBF_KEEP_UNCONFIRMED_DAYS,
    }
