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
    # Roots of the complete subtrees of 2, 4, ... entries that this one closes, 32 bytes each: what
    # proofs are read from. A cache of the bodies, never trusted (audit.verify_log checks it).
    nodes = models.BinaryField(null=True)

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


class CheckpointMark(models.Model):
    """What others added to a checkpoint, and that nothing more is added to it (`marks`).

    Cosignatures and time stamps carry their own signatures. A closed checkpoint gets no more of
    them, so that bundles made of it stay the same.

    Personal data: none.
    """

    class Kind(models.TextChoices):
        COSIGNATURE = "cosignature"  # a witness's signature line; the name is its verifier key
        STAMP = "stamp"  # an RFC 3161 response, DER
        STAMP_CHAIN = "stamp_chain"  # the certificates it was checked with, PEM
        CLOSED = "closed"
        PUBLISHED = "published"  # the name says where

    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="marks")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    name = models.CharField(max_length=200, blank=True)
    data = models.BinaryField(default=bytes)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["checkpoint", "kind", "name"], name="mark_once")
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} on {self.checkpoint_id}"


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
    revoked_from = models.PositiveBigIntegerField(null=True, blank=True)  # good up to this size
    revoked_at = models.DateTimeField(null=True, blank=True)

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
