"""How many confirmation mails an address was sent lately, and which wait for that."""

from django.db import models
from django.db.models import Q

from requests_app.models.record import Case


class CodeMail(models.Model):
    """One confirmation mail that was made, or waits since its address had too many within a day.

    Personal data: a keyed digest of the address; deleted a day after the mail, or when the case
    needs none any more.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="code_mails")
    address_digest = models.CharField(max_length=64)
    asked_at = models.DateTimeField()
    made_at = models.DateTimeField(null=True, blank=True)  # None: waits

    class Meta:
        indexes = [models.Index(fields=["address_digest", "made_at"], name="code_mail_address")]
        constraints = [
            models.UniqueConstraint(
                fields=["case"], condition=Q(made_at=None), name="code_mail_one_waits"
            )
        ]

    def __str__(self) -> str:
        return f"code mail {self.pk}"
