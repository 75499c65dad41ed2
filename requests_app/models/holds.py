"""Legal holds: a case that must be kept as it is for a legal claim."""

from django.db import models
from django.db.models import F, Q

from requests_app.models.people import StaffMember
from requests_app.models.record import Case


class LegalHold(models.Model):
    """Art. 17(3)(e) GDPR: until `until` nothing of the case is erased or destroyed.

    Personal data: none; the reason lies in the vault as `hold/<id>/reason`.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="holds")
    until = models.DateField()  # the last day; a hold without an end would keep data for ever
    placed_at = models.DateTimeField()
    placed_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case"], condition=Q(released_at__isnull=True), name="hold_one_open"
            ),
            models.CheckConstraint(
                condition=Q(released_at__isnull=True, released_by__isnull=True)
                | Q(released_at__gte=F("placed_at"), released_by__isnull=False),
                name="hold_released_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"hold {self.pk}"
