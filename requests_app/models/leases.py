"""Work that one worker at a time may hold."""

from django.db import models


class Leased(models.Model):
    """Who works on a row until when; `fence` rises with each lease, stale holders are refused.

    Personal data: none.
    """

    leases = models.PositiveSmallIntegerField(default=0)
    lease_owner = models.CharField(max_length=80, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    fence = models.PositiveIntegerField(default=0)

    class Meta:
        abstract = True
