"""Django's registration of the wiring (for its management commands)."""

from django.apps import AppConfig


class RtbfConfig(AppConfig):
    name = "rtbf"
