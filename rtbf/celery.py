"""The Celery application. Messages carry only ids; the database is the truth.

Queues: `legal` (mail, letters, sweeps) runs anywhere; `model` runs where the weights are, one task
at a time. A run's real state is its row with a lease, so a lost or doubled message does no harm.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rtbf.settings")

app = Celery("rtbf")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["requests_app", "workers"])
app.autodiscover_tasks(["workers"], related_name="rechecks")
