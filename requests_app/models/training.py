"""Training sets, what was found in them of a person, and the suppression list."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from requests_app.models.leases import Leased
from requests_app.models.people import StaffMember
from requests_app.models.record import Case


class TrainingSet(models.Model):
    """Data that models are trained on, and how a record of it is read.

    Personal data: none; where the data lies and what its fields are called.
    """

    class Kind(models.TextChoices):
        JSONL = "jsonl", _("JSON lines")
        CSV = "csv", _("CSV")
        PARQUET = "parquet", _("Parquet")
        SQL = "sql", _("SQL query")

    name = models.SlugField(primary_key=True, max_length=60)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    location = models.CharField(max_length=400)  # a path; for SQL the variable that holds the DSN
    query = models.TextField(blank=True)
    id_field = models.CharField(max_length=80, blank=True)  # empty: a digest of the record
    fields = models.JSONField(default=dict)  # field -> kind of identifier it holds
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class RecordSearch(Leased):
    """One pass over a training set for the records of one case's person.

    Personal data: none; counts only.
    """

    class State(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        DONE = "done", _("Finished")
        FAILED = "failed", _("Failed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="searches")
    training_set = models.ForeignKey(TrainingSet, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=8, choices=State.choices, default=State.QUEUED)
    records = models.PositiveBigIntegerField(default=0)  # read so far
    found = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True)  # a short sentence, no data
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case", "training_set"],
                condition=Q(state__in=["queued", "running"]),
                name="search_one_active",
            )
        ]

    def __str__(self) -> str:
        return str(self.id)


class RecordMatch(models.Model):
    """A record that may be the person's, until somebody has looked at it.

    Personal data: a keyed digest of the record's id; id and excerpt lie in the vault as
    `match/<id>`. All go with sealing.
    """

    class State(models.TextChoices):
        OPEN = "open", _("To be looked at")
        CONFIRMED = "confirmed", _("The person's")
        REJECTED = "rejected", _("Somebody else's")

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="matches")
    training_set = models.ForeignKey(TrainingSet, on_delete=models.PROTECT, related_name="+")
    record = models.CharField(max_length=64)  # keyed digest of the record's id, bound to the case
    matched = models.JSONField(default=list)  # kinds, e.g. ["email"] or ["name", "fact"]
    count = models.PositiveIntegerField()  # how often in the record
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    decided_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case", "training_set", "record"], name="match_record_once"
            ),
            models.CheckConstraint(
                condition=Q(state="open") | Q(decided_by__isnull=False, decided_at__isnull=False),
                name="match_decided_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"match {self.pk}"


class SuppressionKey(models.Model):
    """A version of the suppression key, and what tells that the key at hand is the right one.

    Personal data: none.
    """

    version = models.PositiveSmallIntegerField(primary_key=True)
    check_value = models.CharField(max_length=16)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"suppression key {self.version}"


class SuppressionTag(models.Model):
    """A keyed digest of an identifier, or of a record of a training set, that must not come back.

    Personal data: pseudonymous, since we hold the key (GDPR Recital 26); outlives the sealing of
    its case for as long as models are trained, is looked at again every year, and goes upon an
    objection.
    """

    class Source(models.TextChoices):
        DECISION = "decision", _("Erasure decided")
        RESTRICTION = "restriction", _("Processing restricted")

    case_id = models.UUIDField(db_index=True)  # random; no foreign key: it outlives the case
    kind = models.CharField(max_length=80)  # email, phone, account, customer_id, record/<set>
    key_version = models.PositiveSmallIntegerField()
    tag = models.BinaryField(max_length=32)
    source = models.CharField(max_length=12, choices=Source.choices)
    created_at = models.DateTimeField()
    review_on = models.DateField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["case_id", "kind", "tag"], name="suppression_tag_once")
        ]

    def __str__(self) -> str:
        return f"suppression tag {self.pk}"
