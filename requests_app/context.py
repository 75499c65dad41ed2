"""What every page may name: the controller, the authority, whether the data is made up."""

from django.conf import settings
from django.http import HttpRequest


def controller(request: HttpRequest) -> dict[str, object]:
    return {
        "controller": {
            "name": settings.RTBF_CONTROLLER_NAME,
            "email": settings.RTBF_CONTROLLER_EMAIL,
            "phone": settings.RTBF_CONTROLLER_PHONE,
            "address": settings.RTBF_CONTROLLER_ADDRESS,
        },
        "authority": {"name": settings.RTBF_AUTHORITY_NAME, "url": settings.RTBF_AUTHORITY_URL},
        "demo_data": settings.RTBF_DEMO_DATA,
    }
