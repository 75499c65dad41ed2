"""Staff and data subjects."""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    INTAKE = "intake", _("Intake")
    OFFICER = "officer", _("Case officer")
    APPROVER = "approver", _("Approver")
    ENGINEER = "engineer", _("Engineer")
    AUDITOR = "auditor", _("Auditor")


class StaffMember(AbstractUser):
    """Somebody of the controller's staff.

    Personal data: name and e-mail address, to log in and to write to; deleted with the account.
    The audit log names staff by `pseudonym` only, so the log keeps no name when the row goes.
    """

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.INTAKE)
    pseudonym = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)


class DataSubject(models.Model):
    """The person the data is about; a row of its own so that several cases can be theirs.

    Personal data: none in clear; names and addresses lie in the vault of each case.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.id)
