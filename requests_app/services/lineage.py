"""Which weights came of which, and keeping out of service what still holds erased data.

Copies, distilled children and indexes of quarantined weights hold what these held, so quarantine
reaches every descendant. It stops at a consolidation alone: that was measured to have taken the
data out, and at weights trained anew without it (`ModelNode.replaces`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import date
from uuid import uuid4

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import Actor, staff_actor
from requests_app.audit import Entry
from requests_app.models import ModelNode, Release, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import Invalid, NotFound, WrongState
from requests_app.services.locking import one_line, require_role

DIGEST = re.compile(r"[0-9a-f]{64}")
Kind, Reason = ModelNode.Kind, ModelNode.Reason


@transaction.atomic
def register_model(
    *, name: str, kind: str, sha256: str, parents: Sequence[str], actor_member: StaffMember
) -> ModelNode:
    """Register weights, or what was made of them; `parents` are digests registered before.

    What has quarantined ancestors can be registered, and cannot be served. Raises Invalid.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    name = one_line(name, what=_("The name"), longest=80)
    if kind not in Kind.values:
        raise Invalid(
            _("There is no kind “%(kind)s”. Known: %(known)s.")
            % {"kind": kind, "known": ", ".join(Kind.values)}
        )
    if not DIGEST.fullmatch(sha256):
        raise Invalid(_("Name the weights by their SHA-256, 64 hexadecimal digits."))
    if (kind == Kind.BASE) != (not parents):
        raise Invalid(_("A base model has no parents, everything else has at least one."))
    if ModelNode.objects.filter(pk=sha256).exists():
        raise Invalid(_("These weights are registered already; their parents never change."))
    found = list(ModelNode.objects.filter(pk__in=parents))
    if len(found) != len(set(parents)):
        raise Invalid(_("A parent is not registered: register it first."))
    node = ModelNode.objects.create(sha256=sha256, name=name, kind=kind, created_at=timezone.now())
    node.parents.set(found)
    audit.append_entry(
        type="model.registered",
        actor=staff_actor(actor_member).name,
        data={"name": name, "kind": kind, "sha256": sha256, "parents": sorted(set(parents))},
    )
    return node


@transaction.atomic
def quarantine_model(
    *, sha256: str, reason: str, since: date, actor_member: StaffMember
) -> list[ModelNode]:
    """Keep weights and all that came of them out of service; returns the descendants it reaches.

    WrongState while a release on any of them is live: put another one live first.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    if reason not in Reason.values:
        raise Invalid(
            _("There is no reason “%(reason)s”. Known: %(known)s.")
            % {"reason": reason, "known": ", ".join(Reason.values)}
        )
    node = _locked(sha256)
    if node.quarantined_from is not None:
        raise WrongState(_("These weights are in quarantine already."))
    reached = descendants(sha256)
    if models := _live_on({sha256, *(each.pk for each in reached)}):
        raise WrongState(
            _(
                "They are in service, or their descendants are, on %(models)s: put another"
                " release live first."
            )
            % {"models": ", ".join(models)}
        )
    actor = staff_actor(actor_member)
    entry = _quarantine(node, reason, since, reached=len(reached), actor=actor)
    audit.append_entries([entry])
    return reached


@transaction.atomic
def lift_quarantine(*, sha256: str, actor_member: StaffMember) -> ModelNode:
    """Let weights be served again. Destroyed ones stay out."""
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    node = _locked(sha256)
    if node.quarantined_from is None:
        raise WrongState(_("These weights are not in quarantine."))
    if node.destroyed_at is not None:
        raise WrongState(_("These weights were destroyed."))
    audit.append_entries([_lift(node, actor=staff_actor(actor_member))])
    return node


# --- For releases: the entry of the release says it all -----------------------------------------
def require_servable(model_name: str, sha256: str) -> None:
    """Invalid, naming them, when weights or any ancestor are in quarantine.

    The rows stay locked until the caller's transaction ends, so no quarantine comes in between.
    Weights that nobody registered become known as a base model.
    """
    _known(model_name, sha256)
    rows = lock_lines(sha256)
    held = [f"{row.name} {row.pk[:12]}" for row in rows if row.quarantined_from is not None]
    if held:
        raise Invalid(
            _("This release rests on quarantined weights: %(held)s.") % {"held": ", ".join(held)}
        )


def lock_lines(*digests: str) -> list[ModelNode]:
    """Weights and all that they came of, locked in one order and until the transaction ends. Who
    changes more than one of them names all at once, before anything else that locks them."""
    names = {*digests, *(each.pk for digest in digests for each in ancestors(digest))}
    return list(ModelNode.objects.select_for_update().filter(pk__in=names).order_by("pk"))


def register_consolidated(*, model_name: str, sha256: str, replaced: str) -> None:
    """New weights that take the place of others: what these came of, the new ones came of too."""
    old = _known(model_name, replaced)
    lock_lines(replaced, sha256)
    node, created = ModelNode.objects.get_or_create(
        pk=sha256,
        defaults={
            "name": model_name,
            "kind": Kind.MERGED,
            "replaces": old,
            "created_at": timezone.now(),
        },
    )
    if created:
        node.parents.set(old.parents.all())


def register_retrained(*, model_name: str, sha256: str, replaced: str, started_from: str) -> None:
    """Weights trained anew, from nothing or from weights that were never in the place of `replaced`
    nor came of them. Raises Invalid."""
    old = _known(model_name, replaced)
    lock_lines(replaced, *([started_from] if started_from else []))
    if ModelNode.objects.filter(pk=sha256).exists():
        raise Invalid(_("These weights are registered already: they are not new."))
    start = ModelNode.objects.filter(pk=started_from).first() if started_from else None
    if started_from and start is None:
        raise Invalid(_("The weights that the training started from are not registered."))
    if started_from in {replaced, *(each.pk for each in descendants(replaced))}:
        raise Invalid(
            _(
                "The training started from weights that had seen the data: it takes nothing out of"
                " them. Start from weights of before, or from nothing."
            )
        )
    node = ModelNode.objects.create(
        pk=sha256,
        name=model_name,
        kind=Kind.RETRAINED,
        replaces=old,
        created_at=timezone.now(),
    )
    node.parents.set([start] if start else [])


def quarantine_replaced(*, sha256: str, actor: Actor) -> list[Entry]:
    """Replaced weights go into quarantine, with whatever was made of them, unless another model is
    served with them. In the transaction that put the new ones live; returns what it has to log."""
    node = _locked(sha256)
    reached = descendants(sha256)
    if node.quarantined_from is None and not _live_on({sha256, *(each.pk for each in reached)}):
        today = timezone.localdate()
        return [_quarantine(node, Reason.REPLACED, today, reached=len(reached), actor=actor)]
    return []


def bring_back(*, sha256: str, actor: Actor) -> list[Entry]:
    """Before a roll-back: what was put in quarantine by a consolidation alone comes out of it;
    returns what the roll-back has to log."""
    node = next((each for each in lock_lines(sha256) if each.pk == sha256), None)
    if node is None or node.quarantine_reason != Reason.REPLACED or node.destroyed_at is not None:
        return []
    return [_lift(node, actor=actor)]


def record_destroyed(*, sha256: str) -> None:
    """Weights are gone; the caller writes the entry."""
    ModelNode.objects.filter(pk=sha256, destroyed_at=None).update(destroyed_at=timezone.now())


# --- The graph ----------------------------------------------------------------------------------
def ancestors(sha256: str) -> list[ModelNode]:
    """Everything that weights came of, themselves left out."""
    return _closure(sha256, up=True)


def descendants(sha256: str) -> list[ModelNode]:
    """Everything that came of weights, themselves left out."""
    return _closure(sha256, up=False)


def _closure(sha256: str, *, up: bool) -> list[ModelNode]:
    """Breadth first, one query a generation."""
    start, end = ("from_modelnode", "to_modelnode") if up else ("to_modelnode", "from_modelnode")
    edges = ModelNode.parents.through.objects
    seen, edge = {sha256}, {sha256}
    while edge:
        found = edges.filter(**{f"{start}__in": edge}).values_list(f"{end}_id", flat=True)
        edge = set(found) - seen
        seen |= edge
    return list(ModelNode.objects.filter(pk__in=seen - {sha256}).order_by("created_at", "pk"))


def _live_on(digests: Iterable[str]) -> list[str]:
    """The models whose live release is on one of these weights."""
    wanted = set(digests)
    live = Release.objects.filter(is_live=True).order_by("model_name")
    bases = {row.model_name: json.loads(bytes(row.manifest))["base"]["sha256"] for row in live}
    return [name for name, base in bases.items() if base in wanted]


def _locked(sha256: str) -> ModelNode:
    node = ModelNode.objects.select_for_update().filter(pk=sha256).first()
    if node is None:
        raise NotFound(_("There are no weights of that digest."))
    return node


def _known(model_name: str, sha256: str) -> ModelNode:
    defaults = {"name": model_name, "kind": Kind.BASE, "created_at": timezone.now()}
    return ModelNode.objects.get_or_create(pk=sha256, defaults=defaults)[0]


def _quarantine(node: ModelNode, reason: str, since: date, *, reached: int, actor: Actor) -> Entry:
    node.quarantined_from, node.quarantine_reason = since, reason
    node.quarantined_by = actor.name
    node.save(update_fields=["quarantined_from", "quarantine_reason", "quarantined_by"])
    return Entry(
        "model.quarantined",
        actor.name,
        {
            "quarantine": str(uuid4()),  # two alike in one second are two
            "sha256": node.pk,
            "reason": str(reason),
            "since": since.isoformat(),
            "descendants": reached,
        },
    )


def _lift(node: ModelNode, *, actor: Actor) -> Entry:
    node.quarantined_from, node.quarantine_reason, node.quarantined_by = None, "", ""
    node.save(update_fields=["quarantined_from", "quarantine_reason", "quarantined_by"])
    data = {"sha256": node.pk, "lifting": str(uuid4())}
    return Entry("model.quarantine_lifted", actor.name, data)
