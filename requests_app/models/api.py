"""Who may use the API, and the requests that came through it."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from requests_app.models.record import Case


class ApiClient(models.Model):
    """A controller, an agent or a tool of staff, known by a key that was shown once.

    Personal data: none; the key itself is not stored.
    """

    class Role(models.TextChoices):
        PROCESSOR = "processor", _("We process data for this client, and act on its instruction")
        CONTROLLER = "controller", _("We are the controller; the client passes requests on")
        AGENT = "agent", _("An authorised agent, who asks for people (Data Rights Protocol)")

    name = models.CharField(max_length=80, unique=True)
    controller_id = models.CharField(max_length=80)  # what it is called in answers; an agent's id
    role = models.CharField(max_length=12, choices=Role.choices)  # ours, towards the client
    key_digest = models.CharField(max_length=64, unique=True)  # SHA-256 of 256 random bits
    verify_key = models.CharField(
        max_length=44, blank=True
    )  # base64 Ed25519: its requests are signed
    scopes = models.JSONField(default=list)
    callback_hosts = models.JSONField(default=list)  # where it may be called back: host, host:port
    token_asked_at = models.DateTimeField(null=True, blank=True)  # an agent's last key set-up
    created_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"API client {self.pk}"


class ApiRequest(models.Model):
    """The case that a client's request opened; the same id again finds it.

    Personal data: `once`, a keyed digest of the id that an agent gave its request, emptied by
    sealing; the digest of the body lies in the vault as `api/body`, addresses to call back as
    `api/callbacks`, the agent's id as `api/agent_request_id`, and all go with sealing.
    """

    client = models.ForeignKey(ApiClient, on_delete=models.PROTECT, related_name="requests")
    case = models.OneToOneField(Case, on_delete=models.PROTECT, related_name="api_request")
    subject_request_id = models.UUIDField()  # the client's; of an agent's request ours
    once = models.CharField(max_length=64, blank=True)
    submitted_time = models.DateTimeField()  # when the person asked the client
    received_at = models.DateTimeField()  # when the client asked us
    told_status = models.CharField(max_length=12, default="pending")  # by the last callback
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["client", "subject_request_id"], name="api_request_once"
            ),
            models.UniqueConstraint(
                fields=["client", "once"], condition=~models.Q(once=""), name="api_request_same"
            ),
        ]

    def __str__(self) -> str:
        return str(self.subject_request_id)
