"""Consolidations that staff asked for on a page, worked off where the model lies."""

import uuid

from django.db import models
from django.db.models import F, Q

from requests_app.lifecycle import ConsolidationState
from requests_app.models.leases import Leased
from requests_app.models.people import StaffMember
from requests_app.models.runs import Release


class Consolidation(Leased):
    """The cases in force on a model to be carried into new weights: proposed by one person, and
    approved by another. `parent` was live when it was proposed, `release` is what came of it.

    Personal data: none of data subjects; names and facts are read from the vault into memory.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    model_name = models.CharField(max_length=80)
    parent = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="consolidations")
    release = models.OneToOneField(
        Release, null=True, blank=True, on_delete=models.PROTECT, related_name="consolidation"
    )
    state = models.CharField(
        max_length=9, choices=ConsolidationState.choices, default=ConsolidationState.PROPOSED
    )
    phase = models.CharField(max_length=10, blank=True)
    step = models.PositiveIntegerField(default=0)  # of `total` in this phase
    total = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True)  # why nothing changed; no personal data
    proposed_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")
    approved_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField()  # when it was proposed; once approved, when it was queued
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_name"],
                condition=Q(state__in=["proposed", "queued", "running"]),
                name="consolidation_one_of_a_model",
            ),
            models.CheckConstraint(
                condition=~Q(approved_by=F("proposed_by")), name="consolidation_by_two"
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)
