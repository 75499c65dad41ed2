"""The audit log: exact entry bytes, checkpoints, keys and erasable openings (evidence.md b.2)."""

from django.db import models

from requests_app.models.record import Case


class LogHead(models.Model):
    """One row: the lock every append takes, and the size of the log.

    Personal data: none.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    origin = models.CharField(max_length=120)
    size = models.PositiveBigIntegerField(default=0)
    frontier = models.JSONField(default=list)  # hex roots of the complete subtrees, large to small

    def __str__(self) -> str:
        return f"{self.origin} {self.size}"


class AuditEntry(models.Model):
    """One event; `body` is the exact RFC 8785 bytes that `leaf_hash` covers. Append-only.

    Personal data: none; hiding commitments only (see AuditOpening).
    """

    seq = models.PositiveBigIntegerField(primary_key=True)  # 0-based index in the tree
    case_id = models.UUIDField(null=True)  # no foreign key: the log outlives the case
    case_seq = models.PositiveIntegerField(null=True)
    type = models.CharField(max_length=48)
    body = models.BinaryField()
    leaf_hash = models.BinaryField(max_length=32, unique=True)
    idem_key = models.CharField(max_length=120, null=True, unique=True)  # noqa: DJ001

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["case_id", "case_seq"], name="entry_case_seq_once")
        ]

    def __str__(self) -> str:
        return f"#{self.seq} {self.type}"


class Checkpoint(models.Model):
    """The signed head of the audit log (C2SP tlog-checkpoint), nothing else. Append-only.

    Personal data: none.
    """

    size = models.PositiveBigIntegerField(primary_key=True)
    root = models.BinaryField(max_length=32)
    note = models.TextField()  # the signed note, verbatim
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"checkpoint {self.size}"


class AuditKey(models.Model):
    """A public key of the record: who signs what, from which tree size on.

    Personal data: none.
    """

    class Purpose(models.TextChoices):
        LOG = "log"
        ATTEST = "attest"

    name = models.CharField(max_length=120)
    purpose = models.CharField(max_length=8, choices=Purpose.choices)
    vkey = models.CharField(max_length=200, unique=True)  # C2SP signed-note verifier key
    valid_from = models.PositiveBigIntegerField(default=0)
    valid_to = models.PositiveBigIntegerField(null=True, blank=True)

    def __str__(self) -> str:
        return self.vkey


class AuditOpening(models.Model):
    """The salt that opens one commitment; erasable, outside the tree.

    Personal data: with the value it links an entry to a person; goes when the case is sealed.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="openings")
    entry_seq = models.PositiveBigIntegerField()
    field = models.CharField(max_length=48)
    salt = models.BinaryField(max_length=32)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["entry_seq", "field"], name="opening_once")]

    def __str__(self) -> str:
        return f"#{self.entry_seq} {self.field}"
