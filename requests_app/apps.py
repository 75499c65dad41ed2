"""Django's registration of the legal record."""

from django.apps import AppConfig


class RequestsAppConfig(AppConfig):
    name = "requests_app"
    verbose_name = "Erasure requests"
