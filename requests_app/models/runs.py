"""Erasure runs, their events and results, adapters and releases."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import RunState
from requests_app.models.leases import Leased
from requests_app.models.record import Case


class Verdict(models.TextChoices):
    NONE = "", _("Not measured")
    WITHIN = "within_thresholds", _("Measured suppression within thresholds")
    NOT_MET = "not_met", _("Thresholds not met")
    INCONCLUSIVE = "inconclusive", _("Inconclusive")


class Phase(models.TextChoices):
    """The steps of a run in their order; a resumed run goes on at the first one not done."""

    LOCATE = "locate", _("Locate what the model knows")
    PROTOCOL = "protocol", _("Fix the test plan")
    TRAIN = "train", _("Train the adapter")
    VERIFY = "verify", _("Verify the stored artefact")
    RELEASE = "release", _("Register the release")
    DONE = "done", _("Done")


class Release(models.Model):
    """Base model + all adapters in force + gate, named by the digest of its manifest.

    Personal data: none; the manifest names cases by random id and adapters by digest.
    """

    digest = models.CharField(primary_key=True, max_length=64)  # SHA-256 of `manifest`
    model_name = models.CharField(max_length=80)
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="children"
    )
    manifest = models.BinaryField()  # the exact canonical JSON bytes that were hashed
    is_live = models.BooleanField(default=False)
    live_since = models.DateTimeField(null=True, blank=True)  # when it was last put in force
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_name"], condition=Q(is_live=True), name="release_one_live"
            )
        ]

    def __str__(self) -> str:
        return self.digest[:12]


class ErasureRun(Leased):
    """One attempt to erase for a case on a model. The row is the truth; Celery only wakes it.

    Personal data: none; forget set and probes stay in memory, names and facts in the vault.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="runs")
    model_name = models.CharField(max_length=80)
    number = models.PositiveSmallIntegerField(default=1)  # 1st, 2nd, 3rd run of this case and model
    state = models.CharField(max_length=12, choices=RunState.choices, default=RunState.QUEUED)
    phase = models.CharField(max_length=12, choices=Phase.choices, default=Phase.LOCATE)
    verdict = models.CharField(max_length=20, choices=Verdict.choices, blank=True, default="")
    seed = models.PositiveIntegerField(default=0)

    cancel_requested_at = models.DateTimeField(null=True, blank=True)

    protocol = models.BinaryField(null=True)  # canonical JSON bytes, logged before training
    protocol_sha256 = models.CharField(max_length=64, blank=True)
    evidence = models.JSONField(null=True, blank=True)  # figures only
    seconds = models.JSONField(default=dict)  # phase -> seconds, decimal strings
    error = models.CharField(max_length=400, blank=True)  # a code and a short sentence, no data
    release = models.ForeignKey(
        Release, null=True, blank=True, on_delete=models.PROTECT, related_name="runs"
    )
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case", "model_name"],
                condition=Q(state__in=["queued", "running"]),
                name="run_one_active",
            ),
            models.UniqueConstraint(
                fields=["case", "model_name", "number"], name="run_number_once"
            ),
        ]
        indexes = [
            models.Index(fields=["state", "lease_expires_at"], name="run_state_lease"),
            models.Index(fields=["case"], condition=Q(state="failed"), name="run_failed"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class RunEvent(models.Model):
    """One step of a run's progress, for the live page.

    Personal data: none; phase, step numbers and figures only.
    """

    run = models.ForeignKey(ErasureRun, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    at = models.DateTimeField()
    phase = models.CharField(max_length=12, choices=Phase.choices)
    step = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0)
    figures = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "seq"], name="run_event_once")]

    def __str__(self) -> str:
        return f"{self.run_id}#{self.seq}"


class Adapter(models.Model):
    """The orthogonal LoRA of exactly one case; its files lie in the adapter store by digest.

    Personal data: the files derive from the person's data and are access-controlled; this row
    holds digests only.
    """

    sha256 = models.CharField(primary_key=True, max_length=64)  # of adapter_model.safetensors
    config_sha256 = models.CharField(max_length=64)
    gate_sha256 = models.CharField(max_length=64)
    run = models.OneToOneField(ErasureRun, on_delete=models.PROTECT, related_name="adapter")
    base_sha256 = models.CharField(max_length=64)
    overlap = models.CharField(max_length=32)  # decimal string; 0 is orthogonal to all earlier ones
    settings = models.JSONField(default=dict)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256[:12]


class ProbeResult(models.Model):
    """What one probe measured on the stored artefact, before, after and on the control.

    Personal data: none; counts, estimates and bounds only, no texts.
    """

    run = models.ForeignKey(ErasureRun, on_delete=models.CASCADE, related_name="probe_results")
    probe = models.CharField(max_length=48)
    question = models.CharField(max_length=200)
    n = models.PositiveIntegerField()
    before = models.CharField(max_length=24, blank=True)  # decimal strings; empty = not measured
    after = models.CharField(max_length=24, blank=True)
    control = models.CharField(max_length=24, blank=True)
    bound = models.CharField(max_length=24, blank=True)  # the 95% bound that is compared
    threshold = models.CharField(max_length=24, blank=True)
    holds = models.BooleanField(null=True)  # NULL: informational or not decided

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "probe"], name="probe_once")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.probe}"
