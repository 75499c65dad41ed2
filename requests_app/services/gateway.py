"""For the gateway: what may be served of a model, whose key a call bears and how much it asked, who
used the playground.

No text of a question or an answer comes here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import SYSTEM, staff_actor
from requests_app.models import AuditEntry, GatewayUse, ModelNode, Release, StaffMember
from requests_app.models.people import Role
from requests_app.ratelimit import count
from requests_app.services import api_requests
from requests_app.services.errors import WrongState
from requests_app.services.lineage import ancestors
from requests_app.services.locking import require_role
from requests_app.services.manifests import destroyed_key, read_manifest
from requests_app.services.restoring import why_not_served

SCOPE, PLAYGROUND = "gateway", "playground"
MINUTE = 60
USE_KEPT = timedelta(days=400)


@dataclass(frozen=True)
class ToServe:
    """What is in force on a model. `release` and `base_sha256` are None before the first release;
    `blocked` says why nothing may be served, empty if it may."""

    release: str | None
    base_sha256: str | None
    manifest: bytes = field(default=b"", repr=False)
    blocked: str = ""


@dataclass(frozen=True)
class Caller:
    """Who a key belongs to and what it may; `too_many` calls in this minute. `client` is None for
    the playground."""

    name: str
    scopes: frozenset[str]
    too_many: bool
    client: int | None = None


@dataclass(frozen=True)
class Use:
    """What calls came to."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


def to_serve(model_name: str) -> ToServe:
    """The release to serve. Blocked where the record is an older back-up, or `why_blocked`."""
    behind = why_not_served()
    live = Release.objects.filter(model_name=model_name, is_live=True).first()
    if live is None:
        return ToServe(None, None, blocked=behind)
    base = read_manifest(bytes(live.manifest)).base_sha256
    return ToServe(live.digest, base, bytes(live.manifest), behind or why_blocked(base))


def why_blocked(base_sha256: str) -> str:
    """Why weights may not be served: they or an ancestor are in quarantine or destroyed; empty if
    they may."""
    if AuditEntry.objects.filter(idem_key=destroyed_key(base_sha256)).exists():
        return "The weights were destroyed."
    names = [base_sha256, *(node.pk for node in ancestors(base_sha256))]
    held = ModelNode.objects.filter(pk__in=names, quarantined_from__isnull=False)
    return "The weights, or what they came of, are in quarantine." if held.exists() else ""


def caller_of(key: str) -> Caller | None:
    """The caller of a key: an API client, or the playground of this installation; counts the call.

    None for a key that opens nothing."""
    own = settings.RTBF_GATEWAY_KEY
    if own and secrets.compare_digest(key.encode(), own.encode()):
        name, scopes, number = PLAYGROUND, {SCOPE, PLAYGROUND}, None
    else:
        client = api_requests.client_of(key)
        if client is None:
            return None
        name, scopes, number = f"client {client.pk}", set(client.scopes), client.pk
    calls = count("gateway", name, seconds=MINUTE)
    return Caller(name, frozenset(scopes), calls > settings.RTBF_GATEWAY_PER_MINUTE, number)


@transaction.atomic
def note_use(uses: Mapping[tuple[int, date], Use]) -> None:
    """Add what came up since the last note, by client and day; days long over are let go.

    Writes no log entry: it is no change of the record.
    """
    for (client, day), use in sorted(uses.items()):
        found, _new = GatewayUse.objects.get_or_create(client_id=client, day=day)
        GatewayUse.objects.filter(pk=found.pk).update(
            requests=F("requests") + use.requests,
            prompt_tokens=F("prompt_tokens") + use.prompt_tokens,
            completion_tokens=F("completion_tokens") + use.completion_tokens,
        )
    GatewayUse.objects.filter(day__lt=timezone.now().date() - USE_KEPT).delete()


def use_since(day: date) -> list[GatewayUse]:
    """What each key asked on each day from `day` on, the last day first."""
    rows = GatewayUse.objects.select_related("client").filter(day__gte=day)
    return list(rows.order_by("-day", "client__name"))


@transaction.atomic
def note_playground(
    *,
    model_name: str,
    release: str,
    fired: Sequence[str],
    beside: Sequence[str],
    actor_member: StaffMember,
) -> None:
    """Log that an engineer asked the served release something: which adapters acted, by digest, and
    what was asked beside. Neither the question nor an answer is kept."""
    require_role(actor_member, Role.ENGINEER)
    audit.append_entry(
        type="playground.asked",
        actor=staff_actor(actor_member).name,
        data={
            "model": model_name,
            "release": release,
            "fired": sorted(fired),
            "beside": sorted(beside),
            "at": timezone.now().isoformat(),
        },
    )


@transaction.atomic
def record_export(
    *, model_name: str, release: str, form: str, actor_member: StaffMember | None
) -> None:
    """Log that a release leaves for another server, before it does: adapters derive from personal
    data. WrongState where it is not in force any more; without a member the system is the actor."""
    if actor_member is not None:
        require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    if not Release.objects.filter(model_name=model_name, digest=release, is_live=True).exists():
        raise WrongState(_("Another release went live meanwhile. Export again."))
    audit.append_entry(
        type="release.exported",
        actor=SYSTEM.name if actor_member is None else staff_actor(actor_member).name,
        data={"model": model_name, "release": release, "format": form},
    )
