"""ASGI entry point."""

import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rtbf.settings")
django.setup(set_prefix=False)

from rtbf.handler import ThreadsThatStay  # noqa: E402  (once Django is set up)

application = ThreadsThatStay()
gc.freeze()  # what is loaded stays: to look through it time and again makes pages wait
