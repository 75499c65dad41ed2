"""Which process serves which release, as the process itself says."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class ServingProcess(models.Model):
    """The last word of one process about one model: the digest of the release that it has loaded,
    empty for the base model alone.

    No part of the record: it says what was seen, and is overwritten. Personal data: none.
    """

    class Kind(models.TextChoices):
        WORKER = "worker", _("Worker")
        GATEWAY = "gateway", _("Gateway")

    process = models.CharField(max_length=120)  # host:pid, or what the process calls itself
    kind = models.CharField(max_length=8, choices=Kind.choices)
    model_name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, blank=True)
    seen_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["process", "model_name"], name="serving_process_once")
        ]

    def __str__(self) -> str:
        return f"{self.process} {self.model_name}"
