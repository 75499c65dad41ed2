"""Who else received personal data, and who of them was told of an erasure (Art. 19, 17(2) GDPR)."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import NoticeState
from requests_app.models.record import Case


class Recipient(models.Model):
    """A party that received data of the controller's systems.

    Personal data: its name and role mailbox, where it is one person's business; kept while it may
    have to be named to a data subject.
    """

    class Kind(models.TextChoices):
        PROCESSOR = "processor", _("Processor")
        MODEL_HOST = "model_host", _("Model host")
        FINE_TUNING = "fine_tuning", _("Fine-tuning vendor")
        ANNOTATOR = "annotator", _("Annotator")
        VECTOR_STORE = "vector_store", _("Vector store")
        PUBLIC = "public", _("Controller of what was made public, search engine (Art. 17(2))")

    class How(models.TextChoices):
        MAIL = "mail", _("By e-mail")
        OPENDSR = "opendsr", _("By an OpenDSR call")
        HAND = "hand", _("By hand")

    name = models.CharField(max_length=120, unique=True)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    how = models.CharField(max_length=8, choices=How.choices)
    email = models.EmailField(blank=True)
    endpoint = models.CharField(max_length=200, blank=True)  # https://dsr.vendor.example/opendsr
    matches_keyed_id = models.BooleanField(default=False)  # it holds its key (recipient_key)
    systems = models.JSONField(default=list)  # of `model:demo`; empty: it got data of all of them
    created_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True, blank=True)  # receives nothing any more

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=~Q(how="mail", email="") & ~Q(how="opendsr", endpoint=""),
                name="recipient_can_be_reached",
            )
        ]

    def __str__(self) -> str:
        return f"recipient {self.pk}"


class RecipientNotice(models.Model):
    """One recipient is to be told of one case's erasure.

    Personal data: none; the text lies in the vault as `notice/<id>/text`, why it is impossible as
    `notice/<id>/reason`, and both go with sealing.
    """

    class Cause(models.TextChoices):
        IMPOSSIBLE = "impossible", _("Telling them is impossible")
        DISPROPORTIONATE = "disproportionate", _("It would be a disproportionate effort")

    case = models.ForeignKey(Case, on_delete=models.PROTECT, related_name="notices")
    recipient = models.ForeignKey(Recipient, on_delete=models.PROTECT, related_name="notices")
    state = models.CharField(
        max_length=12, choices=NoticeState.choices, default=NoticeState.TO_SEND
    )
    cause = models.CharField(max_length=16, choices=Cause.choices, blank=True)
    request_id = models.UUIDField(default=uuid.uuid4, unique=True)  # an OpenDSR call repeats it
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True, blank=True)
    problem = models.CharField(max_length=40, blank=True)  # of the last try: a type of error
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)  # acknowledged, or impossible
    disclosed_at = models.DateTimeField(null=True, blank=True)  # the person was told who they are

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["case", "recipient"], name="notice_once"),
            models.CheckConstraint(
                condition=Q(state="impossible") ^ Q(cause=""), name="notice_impossible_has_cause"
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_try_at"], condition=Q(state="to_send"), name="notice_to_send"
            )
        ]

    def __str__(self) -> str:
        return f"notice {self.pk}"
