"""Who may ask for somebody else: an agent, a parent, a guardian, an organisation."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from requests_app.models.people import StaffMember
from requests_app.models.record import Case


class Mandate(models.Model):
    """What shows that the sender of a case may ask for the person.

    Personal data: none; the sender's name and address lie in the vault as `mandate/sender`, what
    was seen as `mandate/note`. The document itself is not kept.
    """

    class Kind(models.TextChoices):
        AGENT = "agent", _("Agent with a written mandate")
        PARENT = "parent", _("Parent or holder of parental responsibility")
        GUARDIAN = "guardian", _("Guardian or other legal representative")
        ORGANISATION = "organisation", _("Organisation of Art. 80 GDPR")

    case = models.OneToOneField(Case, on_delete=models.PROTECT, related_name="mandate")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    covers_answers = models.BooleanField()  # may the sender read the answer?
    valid_until = models.DateField(null=True, blank=True)  # None: without an end
    checked_at = models.DateTimeField()
    checked_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")

    def __str__(self) -> str:
        return f"{self.kind} for {self.case_id}"
