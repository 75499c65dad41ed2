"""Exports of the whole record or of a release, made by a job."""

import uuid

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import ExportState
from requests_app.models.leases import Leased
from requests_app.models.runs import Release


class Level(models.TextChoices):
    """For whom an export is, and so what is left out of it."""

    PUBLIC = "public", _("Public: no references, whole months, no counts below five")
    AUTHORITY = "authority", _("Authority: references and dates, staff by role")
    INTERNAL = "internal", _("Internal: staff by pseudonym as well")


class ExportJob(Leased):
    """One export somebody asked for. The row is the truth; the file lies under its id for a week.

    Personal data: the role and pseudonym of the member of staff who asked, as in the audit log;
    none of data subjects.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    export = models.CharField(max_length=48)  # a file of requests_app/exports
    level = models.CharField(max_length=9, choices=Level.choices)
    first = models.DateField()  # both days are part of the period
    last = models.DateField()
    release = models.ForeignKey(
        Release, null=True, blank=True, on_delete=models.PROTECT, related_name="exports"
    )
    asked_by = models.CharField(max_length=80)
    state = models.CharField(max_length=8, choices=ExportState.choices, default=ExportState.QUEUED)
    done = models.PositiveBigIntegerField(default=0)  # rows read, of `total`
    total = models.PositiveBigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    size = models.PositiveBigIntegerField(default=0)  # bytes
    error = models.CharField(max_length=80, blank=True)  # a code
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True)  # of the file

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(first__lte=F("last")), name="export_period_in_order")
        ]
        indexes = [models.Index(fields=["state", "lease_expires_at"], name="export_state_lease")]

    def __str__(self) -> str:
        return str(self.id)
