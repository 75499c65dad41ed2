"""Several requests of one person: found only among verified ones, joined only by a human.

An unverified request matches nothing and changes nothing: whoever types somebody's address into the
form learns nothing and disturbs nobody (cf. GHSA-qx5f-ghc2-7g5c).
"""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import Actor
from requests_app.models import Case
from requests_app.models.people import Role
from requests_app.services.errors import Invalid, NotFound
from requests_app.services.locking import lock_case, require_actor


def note_contact(case: Case) -> None:
    """Keep a keyed digest of a verified case's address, so that its others can be found.

    Call it on a locked case once the mailbox or the identity is confirmed; the caller saves. The
    digest is pseudonymous personal data and goes when the case is sealed.
    """
    case.contact_digest = contact_digest(str(vault.get(case, "email", default="")))


def contact_digest(address: str) -> str:
    """The keyed digest by which an address is found again; empty for an empty one."""
    address = address.strip().casefold()
    if not address:
        return ""
    return salted_hmac(
        "rtbf.contact", address, secret=settings.SECRET_KEY, algorithm="sha256"
    ).hexdigest()


def cases_of_contact(address: str) -> QuerySet[Case]:
    """Verified cases from an address that staff know, latest first."""
    digest = contact_digest(address)
    found = Case.objects.filter(contact_digest=digest) if digest else Case.objects.none()
    return found.order_by("-received_at")


def same_contact(case: Case) -> QuerySet[Case]:
    """Other verified cases from the same address; none for a case that is not verified."""
    if not case.contact_digest:
        return Case.objects.none()
    return (
        Case.objects.filter(contact_digest=case.contact_digest)
        .exclude(pk=case.pk)
        .order_by("received_at")
    )


@transaction.atomic
def join_cases(*, case_id: UUID, reference: str, actor: Actor) -> Case:
    """Record that two verified cases are of one person; each keeps its own answer and deadline."""
    require_actor(actor, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    other = Case.objects.filter(reference=reference.strip().upper()).first()
    if other is None:
        raise NotFound(_("There is no such case."))
    if not same_contact(case).filter(pk=other.pk).exists():
        raise Invalid(_("Only verified requests from the same address can be joined."))
    if other.subject_id == case.subject_id:
        return case
    case.subject_id = other.subject_id
    case.save()
    audit.append_entry(
        type="case.joined",
        actor=actor.name,
        case=case,
        data={},
        commitments={"with": str(other.id)},  # in clear it would outlive the seal of either
    )
    return case
