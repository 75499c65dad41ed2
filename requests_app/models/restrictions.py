"""Restriction of processing, GDPR Art. 18."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from requests_app.models.people import StaffMember
from requests_app.models.record import Case, Letter


class RestrictionGround(models.TextChoices):
    """Why processing is restricted, Art. 18(1) GDPR."""

    A = "18-1-a", _("(a) accuracy is contested")
    B = "18-1-b", _("(b) unlawful, and erasure is not wanted")
    C = "18-1-c", _("(c) kept for the person's legal claims")
    D = "18-1-d", _("(d) an objection is being looked into")


class Restriction(models.Model):
    """From when until when the processing of one person's data is restricted.

    `lift_letter` is the notice of Art. 18(3): without its being sent nothing is lifted.
    Personal data: none; what is blocked are the names in the case's vault.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="restrictions")
    ground = models.CharField(max_length=8, choices=RestrictionGround.choices)
    restricted_at = models.DateTimeField()
    restricted_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")
    lift_letter = models.ForeignKey(
        Letter, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case"], condition=Q(lifted_at=None), name="restriction_one_in_force"
            ),
            models.CheckConstraint(
                condition=Q(lifted_at__isnull=True)
                | Q(
                    lifted_by__isnull=False,
                    lift_letter__isnull=False,
                    lifted_at__gte=F("restricted_at"),
                ),
                name="restriction_lifted_after_notice",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.case_id} {self.ground}"
