"""URL map: public pages at the root, staff pages under /app/, log-in under /accounts/."""

from django.urls import include, path

from rtbf.health import healthz

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("accounts/", include("allauth.urls")),
    path("", include("requests_app.urls")),
]
