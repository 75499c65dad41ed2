"""`/healthz`: this web process answers and reaches its database. No details for strangers."""

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse


def healthz(request: HttpRequest) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return HttpResponse("database not reachable\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")
