"""Sealed annexes: personal data that goes to one recipient with a bundle."""

from django.db import models
from django.db.models import F, Q

from requests_app.models.people import StaffMember
from requests_app.models.record import Case


class Annex(models.Model):
    """Asked for by one person with a reason, approved and sealed by another.

    Personal data: none; reason, recipient and ciphertext lie in the vault as `annex/<id>` and go
    with the case's key.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="annexes")
    asked_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")
    asked_at = models.DateTimeField()
    approved_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    approved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(approved_by__isnull=True) | ~Q(approved_by=F("asked_by")),
                name="annex_needs_two_people",
            ),
            models.CheckConstraint(
                condition=Q(approved_at__isnull=True) | Q(approved_by__isnull=False),
                name="annex_approved_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"annex {self.pk}"
