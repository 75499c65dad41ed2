"""Cases measured again, on each later release and on schedule."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import RecheckState
from requests_app.models.leases import Leased
from requests_app.models.record import Case
from requests_app.models.runs import ErasureRun, Release, Verdict


class Recheck(Leased):
    """One case measured again on one release; without a case, what the release costs all others.

    Measured by the test plan of `run`, which was fixed before anything was trained. `occasion`
    counts how often the cases of a release were drawn, `seed` is that of the draw.
    Personal data: none; figures only. Names and facts are read from the vault into memory.
    """

    class Reason(models.TextChoices):
        RELEASE = "release", _("A release went live")
        SCHEDULE = "schedule", _("On schedule")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="rechecks")
    case = models.ForeignKey(
        Case, null=True, blank=True, on_delete=models.PROTECT, related_name="rechecks"
    )
    run = models.ForeignKey(
        ErasureRun, null=True, blank=True, on_delete=models.PROTECT, related_name="rechecks"
    )
    occasion = models.PositiveIntegerField()
    reason = models.CharField(max_length=8, choices=Reason.choices)
    seed = models.PositiveIntegerField()
    state = models.CharField(
        max_length=8, choices=RecheckState.choices, default=RecheckState.QUEUED
    )
    verdict = models.CharField(max_length=20, choices=Verdict.choices, blank=True, default="")
    figures = models.JSONField(default=dict)  # numbers only, decimal strings
    why = models.CharField(max_length=200, blank=True)  # of the verdict; a short sentence, no data
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["release", "case", "occasion"], name="recheck_case_once"
            ),
            models.UniqueConstraint(
                fields=["release", "occasion"],
                condition=Q(case__isnull=True),
                name="recheck_release_once",
            ),
            models.CheckConstraint(
                condition=Q(case__isnull=True, run__isnull=True)
                | Q(case__isnull=False, run__isnull=False),
                name="recheck_case_with_its_run",
            ),
        ]
        indexes = [models.Index(fields=["state", "lease_expires_at"], name="recheck_state_lease")]

    def __str__(self) -> str:
        return str(self.id)
