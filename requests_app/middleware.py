"""Headers that keep pages with personal data out of caches and search engines."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


def private_pages(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Mark every page `no-store` and `noindex`; static files never pass here (whitenoise)."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Robots-Tag", "noindex")
        return response

    return middleware
