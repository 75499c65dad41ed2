"""Case, scope, decision, letter: what the law asks about."""

import uuid

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import CLOSED, CaseStatus
from requests_app.models.people import DataSubject, StaffMember


class Channel(models.TextChoices):
    FORM = "form", _("Public form")
    POST = "post", _("Post")
    PHONE = "phone", _("Phone")
    PERSON = "person", _("In person")
    API = "api", _("API")


class Ground(models.TextChoices):
    """Why erasure is owed, Art. 17(1) GDPR."""

    A = "17-1-a", _("(a) no longer necessary")
    B = "17-1-b", _("(b) consent withdrawn")
    C = "17-1-c", _("(c) objection under Art. 21")
    D = "17-1-d", _("(d) unlawful processing")
    E = "17-1-e", _("(e) legal obligation to erase")
    F = "17-1-f", _("(f) collected from a child")


class Exemption(models.TextChoices):
    """Why erasure may be refused, Art. 17(3) GDPR."""

    A = "17-3-a", _("(a) freedom of expression and information")
    B = "17-3-b", _("(b) legal obligation or public task")
    C = "17-3-c", _("(c) public health")
    D = "17-3-d", _("(d) archiving, research, statistics")
    E = "17-3-e", _("(e) legal claims")


class ReviewReason(models.TextChoices):
    """Why an exemption goes on or ends, in words that name nobody: they stay in the log."""

    OBLIGATION_RUNS = "obligation_runs", _("The legal obligation or task goes on")
    CLAIM_PENDING = "claim_pending", _("The legal claim is not settled")
    STILL_OUTWEIGHS = "still_outweighs", _("Freedom of expression and information still outweighs")
    STILL_NEEDED = "still_needed", _("It is still needed for health, archiving or research")
    PERIOD_OVER = "period_over", _("The legal obligation or task has ended")
    CLAIM_SETTLED = "claim_settled", _("The legal claim is settled")
    OUTWEIGHED = "outweighed", _("The person's interest outweighs by now")
    NOT_NEEDED = "not_needed", _("It is no longer needed")


class Abuse(models.TextChoices):
    """Why a request may be refused as such, Art. 12(5) GDPR; the controller bears the burden."""

    UNFOUNDED = "unfounded", _("Manifestly unfounded")
    EXCESSIVE = "excessive", _("Excessive, in particular because of its repetitive character")


class Outcome(models.TextChoices):
    GRANTED = "granted", _("Granted")
    PARTLY_GRANTED = "partly_granted", _("Partly granted")
    REFUSED = "refused", _("Refused")
    CANNOT_IDENTIFY = "cannot_identify", _("Cannot identify (Art. 11)")
    EXCESSIVE = "excessive", _("Manifestly unfounded or excessive (Art. 12(5))")


class ExtensionCause(models.TextChoices):
    """Why a period may be extended, Art. 12(3) GDPR: nothing else may be the reason."""

    COMPLEXITY = "complexity", _("the complexity of the request")
    NUMBER = "number", _("the number of requests")


IS_OPEN = ~Q(status__in=CLOSED)
"""Cases that are owed an answer: few among many, so that the queue has indexes of them alone."""


class Case(models.Model):
    """One erasure request from receipt to sealing.

    Personal data: none in clear; contact, name, facts and letters lie in the vault (`VaultItem`)
    under the case's own key and go when the case is sealed, as do the digests of codes and contact.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    reference = models.CharField(max_length=24, unique=True)  # ERQ-2026-000123
    subject = models.ForeignKey(DataSubject, on_delete=models.PROTECT, related_name="cases")
    status = models.CharField(max_length=24, choices=CaseStatus.choices)
    channel = models.CharField(max_length=12, choices=Channel.choices)
    owner = models.ForeignKey(  # who sees to it; its indexes stand below
        StaffMember,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="cases",
        db_index=False,
    )
    jurisdiction = models.CharField(max_length=16)  # a profile of jurisdictions.py: EU/2026-1
    language = models.CharField(max_length=8, default="en")
    on_behalf = models.BooleanField(default=False)  # filed for somebody else: needs a mandate

    # Counted by the profile (deadlines.py); dates in the controller's zone, each to its last hour.
    calendar = models.CharField(max_length=8)  # whose public holidays: BE, GB-SCT
    calendar_version = models.CharField(max_length=24, blank=True)
    received_at = models.DateTimeField()
    received_on = models.DateField()
    base_due_raw = models.DateField()
    base_due = models.DateField()
    extension_due = models.DateField()
    internal_due = models.DateField()
    due = models.DateField()  # base_due, or extension_due once extended
    extended_on = models.DateField(null=True, blank=True)
    extension_cause = models.CharField(max_length=12, choices=ExtensionCause.choices, blank=True)

    # Mailbox confirmation; only digests are stored.
    code_digest = models.CharField(max_length=64, blank=True)
    code_expires_at = models.DateTimeField(null=True, blank=True)
    code_attempts = models.PositiveSmallIntegerField(default=0)
    code_sent_at = models.DateTimeField(null=True, blank=True)
    email_confirmed_at = models.DateTimeField(null=True, blank=True)
    access_digest = models.CharField(max_length=64, blank=True)  # of the subject's access code
    contact_digest = models.CharField(max_length=64, blank=True)  # keyed; once verified only

    identity_method = models.CharField(max_length=32, blank=True)
    identity_checked_at = models.DateTimeField(null=True, blank=True)
    identity_checked_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    completed_at = models.DateTimeField(null=True, blank=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    sealed_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [
            models.Index(fields=["status", "due", "id"], name="case_status_due"),
            models.Index(fields=["due", "id"], name="case_due"),
            models.Index(fields=["contact_digest"], name="case_contact"),
            # The queue reads pages by key (queue_selectors): each order it offers has an index.
            # Columns after `id` are looked at in the index: what is left out is not read.
            models.Index(
                fields=["due", "id", "completed_at"], condition=IS_OPEN, name="case_open_due"
            ),
            models.Index(
                fields=["due", "id", "status"], condition=~IS_OPEN, name="case_closed_due"
            ),
            models.Index(fields=["owner", "due", "id"], condition=IS_OPEN, name="case_open_owner"),
            models.Index(
                fields=["received_on", "id"], condition=IS_OPEN, name="case_open_received"
            ),
            models.Index(fields=["owner", "due", "id", "language"], name="case_owner_due"),
            models.Index(fields=["received_on", "id"], name="case_received"),
            models.Index(fields=["language", "due", "id"], name="case_language_due"),
            models.Index(fields=["updated_at"], name="case_updated"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    base_due_raw__gte=F("received_on"),
                    base_due__gte=F("base_due_raw"),
                    extension_due__gte=F("base_due"),
                ),
                name="case_dates_in_order",
            ),
            models.CheckConstraint(
                condition=Q(extended_on__isnull=True, extension_cause="", due=F("base_due"))
                | Q(extended_on__isnull=False, due=F("extension_due")) & ~Q(extension_cause=""),
                name="case_due_is_base_or_extended",
            ),
            models.CheckConstraint(
                condition=Q(extended_on__isnull=True) | Q(extended_on__lte=F("base_due")),
                name="case_extended_before_base_due",
            ),
        ]

    def __str__(self) -> str:
        return self.reference


class ScopeItem(models.Model):
    """One thing the decision speaks of: a data store, a training set, a model.

    Personal data: none; reasoning about it lies in the vault as `scope/<id>/reasoning`, of a later
    review as `scope/<id>/review/<day>`.
    """

    class Kind(models.TextChoices):
        DATA_STORE = "data_store", _("Data store")
        TRAINING_SET = "training_set", _("Training set")
        MODEL = "model", _("Model")

    class Result(models.TextChoices):
        OPEN = "open", _("Not decided")
        ERASE = "erase", _("Erase")
        KEEP = "keep", _("Keep, exemption applies")

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="scope_items")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    target = models.CharField(max_length=80)  # a system's or model's name, never a person's
    result = models.CharField(max_length=8, choices=Result.choices, default=Result.OPEN)
    exemption = models.CharField(max_length=8, choices=Exemption.choices, blank=True)
    review_on = models.DateField(null=True, blank=True)  # of what is kept: does it still apply?
    ended_on = models.DateField(null=True, blank=True)  # it did not: to be erased since

    class Meta:
        indexes = [
            models.Index(fields=["target", "case"], condition=Q(kind="model"), name="scope_model")
        ]
        constraints = [
            models.CheckConstraint(
                condition=~Q(result="keep") | Q(review_on__isnull=False),
                name="scope_keep_is_reviewed",
            ),
            models.CheckConstraint(
                condition=Q(ended_on__isnull=True) | Q(result="keep"), name="scope_ended_was_kept"
            ),
            models.UniqueConstraint(fields=["case", "kind", "target"], name="scope_item_once"),
            models.CheckConstraint(
                condition=~Q(result="keep") | ~Q(exemption=""), name="scope_keep_needs_exemption"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"


class Decision(models.Model):
    """Proposed by one, approved by another.

    Personal data: none; the reasoning lies in the vault as `decision/<id>/reasoning`, the proof of
    Art. 12(5) as `decision/<id>/proof`.
    """

    class State(models.TextChoices):
        PROPOSED = "proposed", _("Waiting for a second person")
        APPROVED = "approved", _("Approved")
        RETURNED = "returned", _("Returned")

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="decisions")
    state = models.CharField(max_length=10, choices=State.choices, default=State.PROPOSED)
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    abuse = models.CharField(max_length=10, choices=Abuse.choices, blank=True)  # Art. 12(5) only
    grounds = models.JSONField(default=list)  # of Ground values
    proposed_by = models.ForeignKey(StaffMember, on_delete=models.PROTECT, related_name="+")
    proposed_at = models.DateTimeField()
    approved_by = models.ForeignKey(
        StaffMember, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    approved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(outcome="excessive") ^ Q(abuse=""), name="decision_abuse_is_named"
            ),
            models.CheckConstraint(
                condition=Q(approved_by__isnull=True) | ~Q(approved_by=F("proposed_by")),
                name="decision_needs_two_people",
            ),
            models.CheckConstraint(
                condition=~Q(state="approved")
                | Q(approved_by__isnull=False, approved_at__isnull=False),
                name="decision_approved_by_somebody",
            ),
            models.UniqueConstraint(
                fields=["case"], condition=Q(state="proposed"), name="decision_one_open"
            ),
            models.UniqueConstraint(
                fields=["case"], condition=Q(state="approved"), name="decision_one_approved"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.case_id} {self.outcome}"


class Letter(models.Model):
    """A letter to the data subject, frozen when written; the digest is of the exact bytes.

    Personal data: none here; the text lies in the vault as `letter/<id>` and goes with sealing.
    """

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="letters")
    kind = models.CharField(max_length=32)  # a file of templates/letters/<language>/
    language = models.CharField(max_length=8)
    template_version = models.CharField(max_length=16)
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    bounced_at = models.DateTimeField(null=True, blank=True)  # its announcement came back
    tries = models.PositiveIntegerField(default=0)  # to mail its announcement
    next_try_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], condition=Q(sent_at=None), name="letter_unsent"),
            models.Index(
                fields=["case"], condition=Q(bounced_at__isnull=False), name="letter_bounced"
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["case"], condition=Q(kind="extension"), name="letter_one_extension"
            )
        ]

    def __str__(self) -> str:
        return f"{self.case_id} {self.kind}"
