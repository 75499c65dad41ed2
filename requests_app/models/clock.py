"""What happens to the clock of a case: days that may not count, and who was reminded of what."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from requests_app.models.record import Case


class Suspension(models.Model):
    """Days of waiting for what only the person can give; the due date stays the one without them.

    Personal data: none; why it was asked lies in the vault as `suspension/<id>/reason` and goes
    with sealing.
    """

    class Reason(models.TextChoices):
        IDENTITY = "identity", _("Information on the identity was asked for (Art. 12(6))")
        CLARIFICATION = "clarification", _("The person was asked what the request means")

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="suspensions")
    reason = models.CharField(max_length=16, choices=Reason.choices)
    asked_on = models.DateField()
    answered_on = models.DateField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(answered_on__isnull=True) | Q(answered_on__gte=F("asked_on")),
                name="suspension_ends_after_it_began",
            ),
            models.UniqueConstraint(
                fields=["case"], condition=Q(answered_on=None), name="suspension_one_open"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.case_id} {self.reason}"


class Reminder(models.Model):
    """Staff are to look at a case, by one mail: a row for each case, stage and date.

    Personal data: none; whom it is mailed to is looked up when it is sent.
    """

    class Stage(models.TextChoices):
        HALF = "half", _("half of the period has passed")
        THREE_QUARTERS = "three_quarters", _("three quarters of the period have passed")
        NINE_TENTHS = "nine_tenths", _("nine tenths of the period have passed")
        OVERDUE = "overdue", _("the answer is overdue")
        ACKNOWLEDGE = "acknowledge", _("the acknowledgement is due")
        EXTENSION_ENDS = "extension_ends", _("the last days for an extension")
        NOTICE_UNSENT = "notice_unsent", _("the extension letter has not been sent")
        EXEMPTION_REVIEW = "exemption_review", _("what is kept is to be looked at again")

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="reminders")
    stage = models.CharField(max_length=16, choices=Stage.choices)
    due = models.DateField()  # the date it is about; an extension brings a new one
    created_at = models.DateTimeField()
    tried_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["case", "stage", "due"], name="reminder_once")
        ]
        indexes = [
            models.Index(fields=["created_at"], condition=Q(sent_at=None), name="reminder_unsent")
        ]

    def __str__(self) -> str:
        return f"{self.case_id} {self.stage}"
