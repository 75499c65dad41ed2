"""What every page may name: controller, authority, period, made-up data, company log-in."""

from django.conf import settings
from django.http import HttpRequest

from requests_app.jurisdictions import current, promise_answer


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
        "keep_closed_days": settings.RTBF_KEEP_CLOSED_DAYS,
    }
