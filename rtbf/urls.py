"""URL map: public pages at the root, staff pages under /app/, log-in under /accounts/."""

from django.urls import include, path, re_path

from requests_app.api import api, no_such_call
from rtbf.health import healthz

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("api/", api.urls),
    re_path("^api/", no_such_call),
    path("accounts/", include("allauth.urls")),
    path("", include("requests_app.urls")),
]
