"""Which process serves which release, as the process itself says, and how much a key asks."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from requests_app.models.api import ApiClient


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


class GatewayUse(models.Model):
    """How much a key's calls of the gateway came to on one day (UTC).

    Personal data: none; counts alone, of no prompt and no answer.
    """

    client = models.ForeignKey(ApiClient, on_delete=models.PROTECT, related_name="gateway_use")
    day = models.DateField()
    requests = models.PositiveBigIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["client", "day"], name="gateway_use_once")]

    def __str__(self) -> str:
        return f"API client {self.client_id} on {self.day}"
