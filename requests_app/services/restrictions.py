"""Restriction of processing, GDPR Art. 18: the person is not spoken of or trained on meanwhile.

The names stay in the case's vault. Whoever serves reads keyed digests of them from a file that
`workers.restrictions` writes; they close the gate. The case's identifiers stand on the suppression
list as long. Before a restriction is lifted the person is told (Art. 18(3)).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.models import Case, Letter, Restriction, StaffMember
from requests_app.models.people import Role
from requests_app.models.restrictions import RestrictionGround
from requests_app.services import wake
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.letter_texts import spell_date
from requests_app.services.letters import write_letter
from requests_app.services.locking import clean_text, lock_case, require_role
from requests_app.services.suppression import NOT_YET, sync_tags

PUBLISH_TASK = "workers.publish_restrictions"
REASON_LENGTH = 2000


@dataclass(frozen=True)
class Restricted:
    """A restriction in force and the names it is about: keep them in memory only."""

    case_id: UUID
    names: tuple[str, ...] = field(repr=False)


@transaction.atomic
def restrict_case(*, case_id: UUID, ground: str, actor_member: StaffMember) -> Restriction:
    """Restrict the processing of the person's data from now on; a letter tells them."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    if ground not in RestrictionGround.values:
        known = ", ".join(RestrictionGround.values)
        raise Invalid(
            _("There is no ground “%(ground)s” of Art. 18(1) GDPR. Known: %(known)s.")
            % {"ground": ground, "known": known}
        )
    case = lock_case(case_id)
    if case.status in NOT_YET:
        raise WrongState(
            _("%(reference)s cannot be restricted now.") % {"reference": case.reference}
        )
    if in_force(case) is not None:
        raise WrongState(_("%(reference)s is restricted already.") % {"reference": case.reference})
    restriction = Restriction.objects.create(
        case=case, ground=ground, restricted_at=timezone.now(), restricted_by=actor_member
    )
    actor = staff_actor(actor_member)
    letter = write_letter(
        case,
        "restriction",
        lambda: {
            "restricted_on": spell_date(timezone.localdate()),
            "ground": _("Art. 18(1)%(ground)s") % {"ground": RestrictionGround(ground).label},
        },
    )
    tags = sync_tags(case, actor=actor)
    audit.append_entry(
        type="case.restricted",
        actor=actor.name,
        case=case,
        data={"restriction": restriction.pk, "ground": ground, "letter": letter.pk},
    )
    audit.append_entries(tags)
    wake.send_after_commit(PUBLISH_TASK)
    return restriction


@transaction.atomic
def announce_lifting(*, case_id: UUID, reason: str, actor_member: StaffMember) -> Letter:
    """Tell the person that the restriction will be lifted, and why (Art. 18(3))."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    restriction = _required(case)
    if restriction.lift_letter_id is not None:
        raise WrongState(_("The notice was written already."))
    reason = clean_text(reason, what=_("The reason"), longest=REASON_LENGTH)
    letter = write_letter(
        case,
        "restriction_lifted",
        lambda: {
            "restricted_on": spell_date(timezone.localdate(restriction.restricted_at)),
            "reason": reason,
        },
    )
    restriction.lift_letter = letter
    restriction.save(update_fields=["lift_letter"])
    audit.append_entry(
        type="restriction.lifting_announced",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"restriction": restriction.pk, "letter": letter.pk},
        commitments={"reason": reason},
    )
    return letter


@transaction.atomic
def lift_restriction(*, case_id: UUID, actor_member: StaffMember) -> Restriction:
    """End a restriction. WrongState until the notice to the person has been sent."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    restriction = _required(case)
    letter = restriction.lift_letter
    if letter is None or letter.sent_at is None:
        raise WrongState(
            _(
                "The person is told before a restriction is lifted (Art. 18(3) GDPR): announce"
                " it, and wait until the letter has been sent."
            )
        )
    restriction.lifted_at, restriction.lifted_by = timezone.now(), actor_member
    restriction.save(update_fields=["lifted_at", "lifted_by"])
    actor = staff_actor(actor_member)
    tags = sync_tags(case, actor=actor)
    audit.append_entry(
        type="restriction.lifted",
        actor=actor.name,
        case=case,
        data={"restriction": restriction.pk, "letter": letter.pk},
    )
    audit.append_entries(tags)
    wake.send_after_commit(PUBLISH_TASK)
    return restriction


def in_force(case: Case) -> Restriction | None:
    """The restriction of a case, if one is in force."""
    return Restriction.objects.filter(case=case, lifted_at=None).first()


def restricted_people() -> list[Restricted]:
    """Everybody who is restricted now, decrypted. Raises VaultError rather than leave one out."""
    rows = Restriction.objects.filter(lifted_at=None).select_related("case").order_by("case_id")
    return [
        Restricted(row.case_id, (vault.get(row.case, "name"), *vault.get(row.case, "aliases")))
        for row in rows
    ]


def _required(case: Case) -> Restriction:
    restriction = in_force(case)
    if restriction is None:
        raise WrongState(_("%(reference)s is not restricted.") % {"reference": case.reference})
    return restriction
