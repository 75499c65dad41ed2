"""URL map: public pages at the root, staff pages under /app/, log-in under /accounts/."""

from django.urls import include, path, re_path
from django.views.generic import RedirectView

from requests_app.api import api, no_such_call
from rtbf.health import healthz, metrics_page, readyz
from rtbf.welcome import welcome

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", metrics_page, name="metrics"),
    path("welcome", welcome, name="welcome"),
    # Addresses come from invitations: none is added by oneself, since it would open the account.
    path("accounts/email/", RedirectView.as_view(pattern_name="mfa_index")),
    path("api/", api.urls),
    re_path("^api/", no_such_call),
    path("accounts/", include("allauth.urls")),
    path("", include("requests_app.urls")),
]
