"""The sealed annex of a case: asked for by one person with a reason, approved by another.

What the vault holds of the person, encrypted to the recipient's public key (verifier.annex). The
plain bundle never holds it; a bundle with the annex is made only for that recipient.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Annex, Case, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.services.locking import clean_text, lock_case, one_line, require_role
from requests_app.verifier import annex as sealing
from requests_app.verifier import canonical

REASON_LENGTH = 2000
RECIPIENT_LENGTH = 200
KEY_LENGTH = 1000
LEFT_OUT = ("code", "annex/", "run/")  # the mailbox code; earlier annexes; rows of probes


@dataclass(frozen=True)
class AnnexInput:
    """Who is to get it and why; the key is an X25519 public key in PEM."""

    reason: str
    recipient: str
    public_key: str


@transaction.atomic
def ask_annex(*, case_id: UUID, given: AnnexInput, actor_member: StaffMember) -> Annex:
    """Ask for a sealed annex; one asked for before and not approved gives way to it.

    Raises Invalid for a key of another kind, WrongState once the case is sealed.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    reason = clean_text(given.reason, what=_("The reason"), longest=REASON_LENGTH)
    recipient = one_line(given.recipient, what=_("The recipient"), longest=RECIPIENT_LENGTH)
    pem = clean_text(given.public_key, what=_("The public key"), longest=KEY_LENGTH)
    key_sha256 = _key_sha256(pem)
    case = _unsealed(case_id)
    annex = Annex.objects.create(case=case, asked_by=actor_member, asked_at=timezone.now())
    asked = {"reason": reason, "recipient": recipient, "public_key": pem}
    vault.put(case, f"annex/{annex.pk}", asked)
    audit.append_entry(
        type="annex.asked",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"annex": annex.pk, "key_sha256": key_sha256},
        commitments={"reason": reason, "recipient": recipient},
    )
    return annex


@transaction.atomic
def approve_annex(*, case_id: UUID, actor_member: StaffMember) -> Annex:
    """Approve the annex asked for last, as an approver who did not ask for it, and seal it.

    The entry holds the digest of the ciphertext, which a bundle prepared from now on can enclose.
    """
    require_role(actor_member, Role.APPROVER)
    case = _unsealed(case_id)
    annex = case.annexes.order_by("pk").last()
    if annex is None or annex.approved_by_id is not None:
        raise WrongState(
            _("%(reference)s has no annex waiting for a second person.")
            % {"reference": case.reference}
        )
    if annex.asked_by_id == actor_member.pk:
        raise NotAllowed(_("You asked for this annex: another person has to approve it."))
    asked = vault.get(case, f"annex/{annex.pk}")
    sealed = sealing.seal(
        canonical.dumps(_content(case)),
        recipient=sealing.read_public_key(asked["public_key"]),
        case=str(case.id),
    )
    vault.put(case, f"annex/{annex.pk}/sealed", base64.b64encode(sealed).decode())
    annex.approved_by, annex.approved_at = actor_member, timezone.now()
    annex.save()
    audit.append_entry(
        type="annex.approved",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "annex": annex.pk,
            "key_sha256": _key_sha256(asked["public_key"]),
            "sha256": hashlib.sha256(sealed).hexdigest(),
        },
    )
    return annex


def sealed_annex(case: Case) -> bytes | None:
    """Ciphertext of the annex approved last; None if there is none, or the case is sealed."""
    annex = case.annexes.exclude(approved_at=None).order_by("pk").last()
    if annex is None or case.status == CaseStatus.SEALED:
        return None
    return base64.b64decode(vault.get(case, f"annex/{annex.pk}/sealed"))


def asked_for(case: Case) -> dict[str, str] | None:
    """Reason, recipient and key of the annex asked for last; None if none was, or it is gone."""
    annex = case.annexes.order_by("pk").last()
    if annex is None or case.status == CaseStatus.SEALED:
        return None
    asked: dict[str, str] = vault.get(case, f"annex/{annex.pk}")
    return asked


def _unsealed(case_id: UUID) -> Case:
    case = lock_case(case_id)
    if case.status == CaseStatus.SEALED:
        raise WrongState(
            _("%(reference)s is sealed: its personal data is gone.") % {"reference": case.reference}
        )
    return case


def _content(case: Case) -> dict[str, object]:
    names = case.vault_items.order_by("name").values_list("name", flat=True)
    kept = [name for name in names if not name.startswith(LEFT_OUT)]
    return {
        "case": str(case.id),
        "reference": case.reference,
        "items": {name: vault.get(case, name) for name in kept},
    }


def _key_sha256(pem: str) -> str:
    try:
        return hashlib.sha256(sealing.read_public_key(pem).public_bytes_raw()).hexdigest()
    except ValueError:
        raise Invalid(
            _("The public key must be an X25519 key in PEM, as openssl prints it.")
        ) from None
