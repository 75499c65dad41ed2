"""Staff, who is invited to it, and data subjects."""

import uuid
from datetime import timedelta

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    INTAKE = "intake", _("Intake")
    OFFICER = "officer", _("Case officer")
    APPROVER = "approver", _("Approver")
    ENGINEER = "engineer", _("Engineer")
    AUDITOR = "auditor", _("Auditor")
    ADMINISTRATOR = "administrator", _("Administrator")  # accounts only: no case, no decision


class RevealReason(models.TextChoices):
    """Why a member of staff looks at the person's data; the code stands in the audit log."""

    IDENTITY = "identity", _("To check the identity or a mandate")
    DECISION = "decision", _("To prepare the decision")
    APPROVAL = "approval", _("To approve or return the decision")
    ANSWER = "answer", _("To write or send a letter")
    CONTACT = "contact", _("The person got in touch")
    COMPLAINT = "complaint", _("A complaint or a question of the authority")
    OTHER = "other", _("Another reason")


class StaffMember(AbstractUser):
    """Somebody of the controller's staff.

    Personal data: name and e-mail address, to log in and to write to; deleted with the account.
    The audit log names staff by `pseudonym` only, so the log keeps no name when the row goes.
    """

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.INTAKE)
    pseudonym = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)


class Invitation(models.Model):
    """A place among the staff that somebody was offered; the row goes when it is taken or lapses.

    Personal data: the e-mail address. `pseudonym` becomes that of the account.
    """

    LIFE = timedelta(hours=72)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    role = models.CharField(max_length=16, choices=Role.choices)
    pseudonym = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    invited_at = models.DateTimeField()
    invited_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")

    def __str__(self) -> str:
        return f"invitation {self.id}"


class DataSubject(models.Model):
    """The person the data is about; a row of its own so that several cases can be theirs.

    Personal data: none in clear; names and addresses lie in the vault of each case.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.id)
