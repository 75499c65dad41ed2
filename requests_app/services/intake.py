"""From receipt to a confirmed mailbox: opening a case, its e-mail code, withdrawing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator, validate_email
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Length
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import SUBJECT, Actor
from requests_app.deadlines import CALENDAR_VERSION, calendar_of, deadlines
from requests_app.jurisdictions import current, profile, spell_period
from requests_app.lifecycle import CaseStatus, first_status
from requests_app.models import Case, DataSubject, Decision, ScopeItem
from requests_app.models.record import Channel
from requests_app.services.code_mails import ask_code
from requests_app.services.codes import (
    ACCESS_LENGTH,
    code_digest,
    code_matches,
    new_code,
)
from requests_app.services.duplicates import note_contact
from requests_app.services.errors import (
    CodeExpired,
    CodeWrong,
    Invalid,
    NotAllowed,
    TooManyTries,
)
from requests_app.services.letter_texts import Wording, spell_date
from requests_app.services.letters import store_letter, word_letter, write_letter
from requests_app.services.locking import advance, clean_text, lock_case, one_line, require_actor

CODE_PAUSE = timedelta(minutes=1)
CODE_TRIES = 5
NAME_LENGTH = 200
MESSAGE_LENGTH = 2000
ALIASES = 20
RECORDS = "customer-records"  # the data store meant by a plain `data_store` in a request
TARGET = re.compile(r"^[a-z0-9][a-z0-9._-]{0,79}$")


@dataclass(frozen=True)
class Intake:
    """What a person asks for, as it arrived.

    `scope` items: `model:<name>`, `data_store:<name>`, or the bare words `model` (every model in
    service) and `data_store` (the customer records). An empty scope means every model in service.
    `email` may be empty only for requests that did not come by form.
    """

    name: str
    email: str
    aliases: tuple[str, ...] = ()
    message: str = ""
    language: str = "en"
    scope: tuple[str, ...] = ()
    on_behalf: bool = False  # filed by an agent, a parent, … for the person named


@dataclass(frozen=True)
class OpenedCase:
    """A new case, and the access code that is shown once and stored only as a digest."""

    case: Case
    access_code: str


Keep = Callable[[OpenedCase], object]
"""Writes what else belongs to a new case, which has no number yet."""


@transaction.atomic
def open_case(
    *,
    intake: Intake,
    received_at: datetime,
    channel: str,
    actor: Actor,
    region: str = "",
    keep: Keep | None = None,
) -> OpenedCase:
    """Open a case; the clock of Art. 12(3) GDPR runs from `received_at` (an aware time).

    By form the case waits for the mailed code; any other channel is entered by staff or by an API
    client, goes to the identity check and is acknowledged at once. `region` (`EU`, `UK`, `CA`) says
    whose law counts; empty is RTBF_JURISDICTION. `keep` is called before the case is numbered, for
    which everybody waits. Raises Invalid or NotAllowed, UnknownProfile for another region.
    """
    by_form = _check_channel(channel, actor)
    intake = _checked(intake, email_required=by_form)
    if timezone.is_naive(received_at) or received_at > timezone.now() + timedelta(minutes=1):
        raise Invalid(_("The time of receipt must be a time with its zone, and not in the future."))
    targets = _scope_targets(intake.scope)
    received_on = timezone.localtime(received_at, timezone.get_default_timezone()).date()
    law = current(region or settings.RTBF_JURISDICTION)
    calendar = calendar_of(law, settings.RTBF_HOLIDAY_COUNTRY)
    due = deadlines(received_on, profile=law, calendar=calendar)
    access_code = new_code(ACCESS_LENGTH)
    case = Case(
        id=uuid4(),
        subject=DataSubject.objects.create(),
        status=first_status(mailbox_unconfirmed=by_form),
        channel=channel,
        jurisdiction=law.id,
        calendar=calendar,
        calendar_version=CALENDAR_VERSION,
        language=intake.language,
        on_behalf=intake.on_behalf,
        received_at=received_at,
        received_on=received_on,
        base_due_raw=due.base_due_raw,
        base_due=due.base_due,
        extension_due=due.extension_due,
        internal_due=due.internal_due,
        due=due.base_due,
    )
    case.access_digest = code_digest("access", case.id, access_code)
    case.reference = f"NEW-{case.id.hex[:20]}"  # until everything else is there
    case.save(force_insert=True)
    for kind, target in targets:
        ScopeItem.objects.create(case=case, kind=kind, target=target)
    vault.create_case_key(case)
    optional = {"email": intake.email, "message": intake.message}
    personal = {"name": intake.name, "aliases": list(intake.aliases)}
    vault.put_each(case, personal | {name: value for name, value in optional.items() if value})
    opened = OpenedCase(case, access_code)
    if keep is not None:
        keep(opened)
    if by_form:
        ask_code(case)
        _number(case)
    else:
        wording, unnumbered = _acknowledgement(case), case.reference
        _number(case)
        text = wording.text.replace(unnumbered, case.reference)
        store_letter(case, replace(wording, text=text))
    _append_received(case, intake, targets, actor)
    return opened


def confirm_email(*, reference: str, code: str) -> Case:
    """Confirm the mailbox with the code that was mailed; the case goes to the identity check.

    Every call spends one of five tries before anything is compared, in a transaction of its own.
    Raises CodeWrong (also for an unknown reference), CodeExpired or TooManyTries. Confirming again
    with the same code changes nothing.
    """
    case_id = _spend_try(reference)
    with transaction.atomic():
        case = lock_case(case_id)
        if not code_matches("confirm", case.id, code, digest=case.code_digest):
            raise CodeWrong("Reference and code do not belong together.")
        if case.email_confirmed_at is not None:
            return case
        if case.code_expires_at is None or case.code_expires_at < timezone.now():
            raise CodeExpired("This code has run out. Ask for a new one.")
        advance(case, CaseStatus.IDENTITY_CHECK)
        case.email_confirmed_at = timezone.now()
        note_contact(case)
        case.save()
        vault.remove(case, "code")
        store_letter(case, _acknowledgement(case))
        audit.append_entry(
            type="case.email_confirmed", actor=SUBJECT.name, case=case, data={"method": "code"}
        )
        return case


@transaction.atomic
def resend_code(*, reference: str) -> None:
    """Mail a new code, at most once a minute and so many a day to one address (`code_mails`); says
    nothing about whether the case exists."""
    case = Case.objects.select_for_update().filter(reference=reference.strip().upper()).first()
    if case is None or case.status != CaseStatus.AWAITING_CONFIRMATION:
        return
    if case.code_sent_at is not None and case.code_sent_at > timezone.now() - CODE_PAUSE:
        return
    ask_code(case)


@transaction.atomic
def withdraw_case(*, case_id: UUID, actor: Actor) -> Case:
    """Withdraw a request before anything is erased; an open proposal is returned with it.

    The data subject (whose access code the caller checked), the API client that filed it, or staff
    may do it. The confirmation
    letter is written unless the mailbox was never confirmed.
    """
    if actor.kind not in ("subject", "client"):
        require_actor(actor, "intake", "officer", "approver")
    case = lock_case(case_id)
    reachable = case.status != CaseStatus.AWAITING_CONFIRMATION
    advance(case, CaseStatus.WITHDRAWN)
    case.withdrawn_at = timezone.now()
    case.code_digest = ""
    case.save()
    Decision.objects.filter(case=case, state=Decision.State.PROPOSED).update(
        state=Decision.State.RETURNED
    )
    vault.remove(case, "code")
    if reachable:
        write_letter(case, "withdrawal", dict)
    audit.append_entry(type="case.withdrawn", actor=actor.name, case=case, data={"by": actor.kind})
    return case


# --- Checks -------------------------------------------------------------------------------------
def check_email(address: str) -> None:
    """ValidationError unless mail can be sent there: its domain must encode to IDNA (RFC 3490)."""
    validate_email(address)
    try:
        address.rpartition("@")[2].encode("idna")  # also refuses labels of more than 63 bytes
    except UnicodeError:
        raise ValidationError(EmailValidator.message, code="invalid") from None


def _check_channel(channel: str, actor: Actor) -> bool:
    if channel not in Channel.values:
        raise Invalid(f"There is no channel “{channel}”. Known: {', '.join(Channel.values)}.")
    by_form = channel == Channel.FORM
    if (channel == Channel.API) != (actor.kind == "client"):
        raise NotAllowed(_("What comes by the API is entered by its client, and nothing else is."))
    if channel == Channel.API:
        return False
    if not by_form:
        require_actor(actor, "intake", "officer", "approver")
    elif actor.kind != "subject":
        raise NotAllowed(_("Staff enter a request under the channel it came by, not as a form."))
    return by_form


def _checked(intake: Intake, *, email_required: bool) -> Intake:
    email = intake.email.strip()
    if email or email_required:
        try:
            check_email(email)
        except ValidationError:
            raise Invalid(_("The e-mail address is missing or not a valid address.")) from None
    if len(intake.aliases) > ALIASES:
        raise Invalid(_("At most %(count)d other names can be given.") % {"count": ALIASES})
    if intake.language not in dict(settings.LANGUAGES):
        raise Invalid(_("There are no letters in this language."))
    aliases = (
        one_line(alias, what=_("Another name"), longest=NAME_LENGTH, required=False)
        for alias in intake.aliases
    )
    return Intake(
        name=one_line(intake.name, what=_("The name"), longest=NAME_LENGTH),
        email=email,
        aliases=tuple(dict.fromkeys(alias for alias in aliases if alias)),
        message=clean_text(
            intake.message, what=_("The message"), longest=MESSAGE_LENGTH, required=False
        ),
        language=intake.language,
        scope=intake.scope,
        on_behalf=intake.on_behalf,
    )


def _scope_targets(scope: tuple[str, ...]) -> list[tuple[str, str]]:
    targets: dict[tuple[str, str], None] = {}
    for item in scope or ("model",):
        kind, target = item.partition(":")[::2]
        if kind == ScopeItem.Kind.MODEL:
            names = [target] if target else settings.RTBF_MODELS
            if target and target not in settings.RTBF_MODELS:
                raise Invalid(
                    _("No model of that name is in service: %(models)s.")
                    % {"models": ", ".join(settings.RTBF_MODELS)}
                )
        elif kind == ScopeItem.Kind.DATA_STORE and TARGET.match(target or RECORDS):
            names = [target or RECORDS]
        else:  # the text may come from a public form: it is not repeated
            raise Invalid(_("A part of the scope is neither a data store nor a model."))
        targets.update(dict.fromkeys((kind, name) for name in names))
    return list(targets)


# --- Steps --------------------------------------------------------------------------------------
def _number(case: Case) -> None:
    """The next reference of the year of receipt.

    One after the other, under the lock of the log, late in the transaction: of many that arrive at
    once none waits for all that another one does, or takes its number.
    """
    audit.take_turn()
    year = case.received_on.year
    of_the_year = Case.objects.filter(
        reference__startswith=f"ERQ-{year}-", reference__lt=f"ERQ-{year + 1}-"
    ).values_list("reference", flat=True)
    last = of_the_year.order_by("-reference").first()
    if last == f"ERQ-{year}-999999":  # longer ones stand before it
        last = of_the_year.order_by(Length("reference").desc(), "-reference").first()
    number = int(last.rpartition("-")[2]) + 1 if last else 1
    case.reference = f"ERQ-{year}-{number:06d}"
    case.save(update_fields=["reference"])


def _append_received(
    case: Case, intake: Intake, targets: list[tuple[str, str]], actor: Actor
) -> None:
    personal = {"name": intake.name, "email": intake.email}
    audit.append_entry(
        type="case.received",
        actor=actor.name,
        case=case,
        data={
            "reference": case.reference,
            "channel": case.channel,
            "language": case.language,
            "on_behalf": case.on_behalf,
            "jurisdiction": case.jurisdiction,
            "calendar": f"{case.calendar}, {case.calendar_version}",
            "received_on": case.received_on.isoformat(),
            "base_due": case.base_due.isoformat(),
            "extension_due": case.extension_due.isoformat(),
            "scope": [{"kind": kind, "target": target} for kind, target in targets],
        },
        commitments={field: value for field, value in personal.items() if value},
    )


def _spend_try(reference: str) -> UUID:
    """Count one try, committed before the comparison, so that parallel guesses cannot share one."""
    with transaction.atomic(durable=True):
        case = Case.objects.filter(reference=reference.strip().upper()).only("id").first()
        if case is None:
            raise CodeWrong("Reference and code do not belong together.")
        spent = Case.objects.filter(pk=case.pk, code_attempts__lt=CODE_TRIES).update(
            code_attempts=F("code_attempts") + 1
        )
    if not spent:
        raise TooManyTries("This code was tried too often. Ask for a new one.")
    return case.pk


def _acknowledgement(case: Case) -> Wording:
    return word_letter(case, "acknowledgement", lambda: _slots(case))


def _slots(case: Case) -> dict[str, object]:
    where = {"url": f"{settings.RTBF_PUBLIC_URL}/status", "reference": case.reference}
    return {
        "due": spell_date(case.base_due),
        "period": spell_period(profile(case.jurisdiction)),
        "understood": [
            _("Erase my data from: %(target)s (%(kind)s)")
            % {"target": item.target, "kind": item.get_kind_display()}
            for item in case.scope_items.order_by("id")
        ],
        "access_note": _access_note(Channel(case.channel)) % where,
        "privacy_url": f"{settings.RTBF_PUBLIC_URL}/privacy",
    }


def _access_note(channel: Channel) -> str:
    """Where the person has the access code from."""
    if channel == Channel.FORM:
        return _(
            "You can follow your request at %(url)s with the reference %(reference)s and the"
            " access code shown when you sent the request."
        )
    if channel == Channel.API:
        return _(
            "You can follow your request at %(url)s with the reference %(reference)s and the"
            " access code of whoever passed your request on to us."
        )
    return _(
        "You can follow your request at %(url)s with the reference %(reference)s and the"
        " access code we gave you."
    )
