"""Which weights came of which, and which of them may not be served."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class ModelNode(models.Model):
    """Weights, or what was made of them, named by digest. Parents are fixed when it is registered.

    `replaces` are the weights that a consolidation took the data out of, or whose place others
    took that were trained anew without it: their quarantine does not reach this node, that of
    `parents` does.
    Personal data: none in the row; the weights may hold some, which is what the quarantine is for.
    """

    class Kind(models.TextChoices):
        BASE = "base", _("Base model")
        MERGED = "merged", _("Consolidated weights")
        RETRAINED = "retrained", _("Weights trained anew without erased data")
        QUANTISED = "quantised", _("Quantised copy")
        DISTILLED = "distilled", _("Distilled model")
        INDEX = "index", _("Index")
        ADAPTER_EXPORT = "adapter_export", _("Exported adapter")

    class Reason(models.TextChoices):
        REPLACED = "replaced", _("Replaced by consolidated weights")
        HOLDS_DATA = "holds_data", _("Still holds erased data")
        WITHDRAWN = "withdrawn", _("Withdrawn for another reason")

    sha256 = models.CharField(primary_key=True, max_length=64)
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    parents = models.ManyToManyField("self", symmetrical=False, related_name="children")
    replaces = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="replaced_by"
    )
    created_at = models.DateTimeField()
    quarantined_from = models.DateField(null=True, blank=True)
    quarantine_reason = models.CharField(max_length=12, choices=Reason.choices, blank=True)
    quarantined_by = models.CharField(max_length=80, blank=True)  # as the audit log names them
    destroyed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(quarantined_from__isnull=True, quarantine_reason="", quarantined_by="")
                | (
                    Q(quarantined_from__isnull=False)
                    & ~Q(quarantine_reason="")
                    & ~Q(quarantined_by="")
                ),
                name="node_quarantine_whole",
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.sha256[:12]}"
