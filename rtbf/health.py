"""`/healthz`: this web process answers, and its database holds what was signed last. No details."""

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse

from requests_app.services.restoring import why_not_served


def healthz(request: HttpRequest) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        problem = why_not_served()
    except DatabaseError:
        return HttpResponse("database not reachable\n", status=503, content_type="text/plain")
    if problem:
        return HttpResponse("record not current\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")
