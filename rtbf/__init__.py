"""Wiring: settings, Celery application, URLs and the processes of a running installation."""

from rtbf.celery import app as celery_app

__all__ = ["celery_app"]
