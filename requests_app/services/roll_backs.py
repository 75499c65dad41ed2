"""Making an earlier release live again: what that changes, and what forbids it.

The law decides. A fulfilled case was told that its data is suppressed, so no release that lacks it
is served again: that is refused, whoever asks. A case that is merged and would be gated again keeps
its suppression, but the weights hold its data once more: an approver decides that.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import models, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.models import AuditEntry, Case, Recheck, Release, StaffMember
from requests_app.models.people import Role
from requests_app.models.runs import Verdict
from requests_app.services import lineage
from requests_app.services.errors import Invalid, NotFound, WrongState
from requests_app.services.locking import require_role
from requests_app.services.manifests import (
    Manifest,
    destroyed_key,
    fulfilled_cases,
    live_manifest,
    put_live,
    read_manifest,
    revoked_cases,
)
from requests_app.services.rechecks import queue_rechecks
from requests_app.services.releases import lock_model, locked_cases, locked_live


class RollBackReason(models.TextChoices):
    """Why, as the log keeps it: no free text, which could name somebody."""

    COSTS_OTHERS = "costs_others", gettext_lazy("The newer release costs other people too much")
    FAULT = "fault", gettext_lazy("The newer release has a technical fault")
    UNDO = "undo_consolidation", gettext_lazy("A consolidation is undone")
    EXERCISE = "exercise", gettext_lazy("An exercise")


@dataclass(frozen=True)
class RollBack:
    """What changes when `release` takes the place of `live`; cases in the order of references.

    `lost`: fulfilled, and not in it; `taken_back`: revoked since, and in it. Either forbids it.
    `added` and `removed` are adapters by digest, `merged_again` cases that go back from gated to
    merged, `loosened` cases that are merged and would only be gated.
    """

    release: Release
    live: Release
    added: tuple[str, ...]
    removed: tuple[str, ...]
    lost: tuple[Case, ...]
    taken_back: tuple[Case, ...]
    loosened: tuple[Case, ...]
    merged_again: tuple[Case, ...]
    is_other_base: bool
    is_destroyed: bool
    never_in_force: bool

    @property
    def is_forbidden(self) -> bool:
        refused = self.is_destroyed or self.never_in_force or self.release.is_live
        return refused or bool(self.lost or self.taken_back)


def what_changes(digest: str) -> RollBack:
    """What a roll-back to this release would do; reads only. NotFound, if nothing is live too."""
    release = _found(digest)
    live = Release.objects.filter(model_name=release.model_name, is_live=True).first()
    if live is None:
        raise NotFound(_("No release of %(model)s is in force.") % {"model": release.model_name})
    then, now = (read_manifest(bytes(each.manifest)) for each in (release, live))
    before, after = ({a.sha256: None for a in each.adapters} for each in (now, then))
    return RollBack(
        release=release,
        live=live,
        added=tuple(each for each in after if each not in before),
        removed=tuple(each for each in before if each not in after),
        lost=_cases(fulfilled_cases(release.model_name) - then.cases),
        taken_back=_cases(then.cases & revoked_cases()),
        loosened=_cases(_loosened(now, then)),
        merged_again=_cases(_loosened(then, now)),
        is_other_base=then.base_sha256 != now.base_sha256,
        is_destroyed=AuditEntry.objects.filter(idem_key=destroyed_key(then.base_sha256)).exists(),
        never_in_force=_fell_short(release),
    )


@transaction.atomic
def roll_back_release(*, digest: str, reason: str, actor_member: StaffMember) -> Release:
    """Make an earlier release live again, if every fulfilled case is in it.

    Refused with the references of the cases that would come back. Merged cases that are gated there
    are so again, for which an approver is needed; others have another adapter there, and the log of
    each says it. The weights must not have been destroyed; a quarantine that their replacement
    alone put them in is lifted.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    if reason not in RollBackReason.values:
        raise Invalid(
            _("There is no reason “%(reason)s”. Known: %(known)s.")
            % {"reason": reason, "known": ", ".join(RollBackReason.values)}
        )
    release = _found(digest)
    manifest = read_manifest(bytes(release.manifest))
    live = live_manifest(release.model_name)
    now = live.adapters if live else ()
    known = live.cases if live else frozenset()
    regated = {a.case_id: a for a in manifest.adapters if a.case_id in known and a not in now}
    cases = locked_cases(list(regated))
    lock_model(release.model_name)
    if live is None or locked_live(release.model_name).digest != live.digest:
        raise WrongState(_("Another release went live meanwhile. Look again before rolling back."))
    if release.digest == live.digest:
        raise Invalid(_("This release is in force already."))
    if _fell_short(release):
        raise Invalid(_("This release fell short of its thresholds and was never in force."))
    if _loosened(live, manifest):
        require_role(actor_member, Role.APPROVER)
    lifted = lineage.bring_back(sha256=manifest.base_sha256, actor=staff_actor(actor_member))
    put_live(release.model_name, manifest, release)
    queued = queue_rechecks(release, Recheck.Reason.RELEASE)
    audit.append_entries(lifted)
    data = {"model": release.model_name, "release": release.digest, "from": live.digest}
    actor = staff_actor(actor_member).name
    audit.append_entry(type="release.rolled_back", actor=actor, data={**data, "reason": reason})
    for case in cases:
        digests = {
            "adapter_sha256": regated[case.id].sha256,
            "gate_sha256": regated[case.id].gate_sha256,
            "base_sha256": manifest.base_sha256,
        }
        audit.append_entry(type="case.regated", actor=actor, case=case, data={**data, **digests})
    audit.append_entries([queued])
    return release


# --- Inside -------------------------------------------------------------------------------------
def _found(digest: str) -> Release:
    release = Release.objects.filter(pk=digest).first()
    if release is None:
        raise NotFound(_("There is no such release."))
    return release


def _fell_short(release: Release) -> bool:
    return release.runs.exclude(verdict=Verdict.WITHIN).exists()


def _loosened(now: Manifest, then: Manifest) -> frozenset[UUID]:
    """Cases that are merged now and would be gated."""
    return frozenset(now.merged) & {each.case_id for each in then.adapters}


def _cases(case_ids: frozenset[UUID]) -> tuple[Case, ...]:
    return tuple(Case.objects.filter(pk__in=case_ids).order_by("reference"))
