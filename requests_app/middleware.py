"""Headers that keep pages with personal data out of caches and search engines."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


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
