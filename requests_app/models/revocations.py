"""Taking one case's erasure back: proposed by one, approved by another."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from requests_app.models.people import StaffMember
from requests_app.models.record import Case


class Revocation(models.Model):
    """The adapter of one case goes out of force again; all others stay as they are.

    Personal data: none; a cause from a list, no free text.
    """

    class Cause(models.TextChoices):
        APPEAL = "appeal", _("A successful appeal against the erasure")
        WRONG_PERSON = "wrong_person", _("The erasure met the wrong person")

    case = models.OneToOneField(Case, on_delete=models.PROTECT, related_name="revocation")
    cause = models.CharField(max_length=16, choices=Cause.choices)
    proposed_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")
    proposed_at = models.DateTimeField()
    approved_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    approved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(approved_by__isnull=True) | ~Q(approved_by=F("proposed_by")),
                name="revocation_needs_two_people",
            ),
            models.CheckConstraint(
                condition=Q(approved_at__isnull=True) | Q(approved_by__isnull=False),
                name="revocation_approved_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.case_id} {self.cause}"
