"""Manifests of releases, as the record reads and writes them: the live one says what is in force.

A release is named by the digest of its manifest's bytes, so they never change. The model side
reads and writes the same form (`workers/releases.py`); here none of its files is needed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app.models import (
    Adapter,
    AuditEntry,
    Case,
    ErasureRun,
    ModelNode,
    Release,
    Revocation,
)
from requests_app.models.runs import Verdict
from requests_app.services.errors import Invalid
from requests_app.services.lineage import require_servable
from requests_app.verifier import canonical
from requests_app.verifier.errors import Invalid as NotCanonical

GATED, MERGED, EXACT = "gated", "merged", "exact"
FIRST = b'{"adapters":['


@dataclass(frozen=True)
class ManifestAdapter:
    """One adapter that a manifest names, with its gate."""

    case_id: UUID
    sha256: str
    gate_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: cases with an adapter (level gated) in order; `merged` are those that
    the weights themselves stand for: consolidated (level merged), or trained anew (level exact)."""

    digest: str
    base_sha256: str
    adapters: tuple[ManifestAdapter, ...]
    merged: tuple[UUID, ...]
    parent: str | None
    raw: bytes = field(repr=False)
    rows: int = field(repr=False)  # bytes of `raw` up to the end of its last adapter, if it has one

    @cached_property
    def cases(self) -> frozenset[UUID]:
        return frozenset((*(each.case_id for each in self.adapters), *self.merged))


_last_read: deque[Manifest] = deque(maxlen=8)


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in these bytes. Invalid when they are not the canonical JSON of one.

    The last ones are kept, and what begins with all adapters of one of them is read from there on:
    a run's release is the one before and one more adapter, of however many.
    """
    known = tuple(_last_read)
    for each in known:
        if each.raw == raw:
            return each
    begun = [m for m in known if m.rows and raw.startswith(m.raw[: m.rows] + b",{")]
    try:
        found = _manifest(raw, max(begun, key=attrgetter("rows"), default=None))
    except (NotCanonical, KeyError, TypeError, ValueError, AttributeError):
        raise Invalid(_("This is not the manifest of a release.")) from None
    _last_read.append(found)
    return found


def manifest_of(release: Release) -> Manifest:
    """The manifest of a row, which may have been read without it (`defer`): if it is one of the
    last, its digest says so."""
    kept = [each for each in tuple(_last_read) if each.digest == release.digest]
    return kept[0] if kept else read_manifest(bytes(release.manifest))


def _manifest(raw: bytes, begun: Manifest | None) -> Manifest:
    """What `raw` says; it begins with the adapters of `begun` and one more, if that is given.

    The canonical form of a list is that of its items, so that of the rest is checked alone."""
    if begun is None or len(raw) > canonical.LONGEST:
        begun, rest = None, raw
    else:
        rest = FIRST + raw[begun.rows + 1 :]
    data: Any = canonical.loads(rest, file="manifest")
    others = b"]," + canonical.dumps({k: v for k, v in data.items() if k != "adapters"})[1:]
    adapters = tuple(
        ManifestAdapter(UUID(each["case"]), str(each["adapter"]), str(each["gate"]))
        for each in data["adapters"]
    )
    return Manifest(
        digest=hashlib.sha256(raw).hexdigest(),
        base_sha256=str(data["base"]["sha256"]),
        adapters=(*(begun.adapters if begun else ()), *adapters),
        merged=tuple(UUID(each) for each in data["merged"]),
        parent=None if data["parent"] is None else str(data["parent"]),
        raw=raw,
        rows=len(raw) - len(others) if adapters and rest.startswith(FIRST) else 0,
    )


def live_manifest(model_name: str) -> Manifest | None:
    """What is in force on a model; None before the first release."""
    live = Release.objects.filter(model_name=model_name, is_live=True).first()
    return None if live is None else read_manifest(bytes(live.manifest))


def live_base(model_name: str) -> str | None:
    """SHA-256 of the weights that a model is served with; None: those that it came with."""
    live = live_manifest(model_name)
    return None if live is None else live.base_sha256


def level_of(case_id: UUID, model_name: str) -> str:
    """How a case is erased from a model: `gated`, `merged`, `exact`, or empty where it is not in
    force."""
    return levels_of(case_id, (model_name,)).get(model_name, "")


def levels_of(case_id: UUID, model_names: Iterable[str]) -> dict[str, str]:
    """The same for several models, in one query; those where it is not in force are left out."""
    found = {}
    for release in Release.objects.filter(model_name__in=model_names, is_live=True):
        live = read_manifest(bytes(release.manifest))
        if case_id in live.cases:
            found[release.model_name] = level_of_weights(live) if case_id in live.merged else GATED
    return found


def level_of_weights(manifest: Manifest) -> str:
    """The level of the cases that the weights of a release themselves stand for."""
    anew = ModelNode.objects.filter(pk=manifest.base_sha256, kind=ModelNode.Kind.RETRAINED)
    return EXACT if anew.exists() else MERGED


def without_case(live: Manifest, case_id: UUID) -> bytes:
    """The manifest that follows `live` without one case's adapter; every other one as it is."""
    data: Any = canonical.loads(live.raw, file="manifest")
    data["adapters"] = [each for each in data["adapters"] if each["case"] != str(case_id)]
    data["parent"] = live.digest
    return canonical.dumps(data)


def fulfilled_cases(model_name: str) -> frozenset[UUID]:
    """Cases whose erasure from the model was released within thresholds, and not revoked since."""
    released = ErasureRun.objects.filter(
        model_name=model_name, verdict=Verdict.WITHIN, release__isnull=False
    ).values_list("case_id", flat=True)
    return frozenset(released) - revoked_cases()


def revoked_cases() -> frozenset[UUID]:
    """Cases whose erasure was taken back by two people."""
    approved = Revocation.objects.filter(approved_at__isnull=False)
    return frozenset(approved.values_list("case_id", flat=True))


def references(case_ids: Iterable[UUID]) -> str:
    """The references of cases, for a message to staff."""
    rows = Case.objects.filter(pk__in=list(case_ids)).order_by("reference")
    return ", ".join(rows.values_list("reference", flat=True))


def all_in_force() -> list[ManifestAdapter]:
    """Every adapter that a live release names, of all models."""
    live = Release.objects.filter(is_live=True)
    return [each for row in live for each in read_manifest(bytes(row.manifest)).adapters]


def retired_adapters(folders: Collection[str]) -> list[str]:
    """Those of the adapter folders, by name, that nothing needs any more, sorted.

    The case is sealed, or its erasure was taken back by two people; no live release names the
    adapter; and where the case was carried into weights, those that the adapter belongs to are
    destroyed, so that nobody can roll back to them. An adapter that several cases share goes with
    the last of them.
    """
    live = [read_manifest(bytes(row.manifest)) for row in Release.objects.filter(is_live=True)]
    in_force = {folder_name(each.sha256, each.gate_sha256) for one in live for each in one.adapters}
    asked = {name for name in folders if name not in in_force and len(name) == 65}
    if not asked:
        return []
    gone = frozenset(Case.objects.filter(sealed_at__isnull=False).values_list("id", flat=True))
    gone |= revoked_cases()
    merged = {case_id for one in live for case_id in one.merged}
    holders: dict[str, list[tuple[UUID, str]]] = {}
    wanted = {name[:32] for name in asked}
    rows = Adapter.objects.values_list("sha256", "run__case_id", "base_sha256")
    for sha256, case_id, base in rows:
        if sha256[:32] in wanted:
            holders.setdefault(sha256[:32], []).append((case_id, base))
    # Consolidations alone make adapters without a row of their own: what several cases share.
    for row in Release.objects.filter(runs=None) if wanted - holders.keys() else ():
        named = read_manifest(bytes(row.manifest))
        for each in named.adapters:
            if each.sha256[:32] in wanted:
                holders.setdefault(each.sha256[:32], []).append((each.case_id, named.base_sha256))

    def unneeded(case_id: UUID, base: str) -> bool:
        destroyed = AuditEntry.objects.filter(idem_key=destroyed_key(base))
        return case_id in gone and (case_id not in merged or destroyed.exists())

    return sorted(
        name
        for name in asked
        if holders.get(name[:32]) and all(unneeded(*each) for each in holders[name[:32]])
    )


def folder_name(adapter_sha256: str, gate_sha256: str) -> str:
    """The name of an adapter's folder, as `workers.adapters.AdapterRef` makes it."""
    return f"{adapter_sha256[:32]}-{gate_sha256[:32]}"


def put_live(model_name: str, manifest: Manifest, release: Release | None = None) -> Release:
    """Make a release the one in force: `release`, or a new row for `manifest`. The caller holds the
    model's live release locked and writes the log entry.

    Invalid, naming the cases, when one that is fulfilled would lose its erasure or one that was
    revoked would be erased again; and when the weights that it needs were destroyed, or they or
    any ancestor of theirs are in quarantine.
    """
    if lost := fulfilled_cases(model_name) - manifest.cases:
        raise Invalid(
            _(
                "This release would bring back erased data: it lacks %(lost)s. A release holds"
                " every fulfilled case."
            )
            % {"lost": references(lost)}
        )
    if again := manifest.cases & revoked_cases():
        raise Invalid(
            _("This release erases what was taken back: %(again)s.") % {"again": references(again)}
        )
    if AuditEntry.objects.filter(idem_key=destroyed_key(manifest.base_sha256)).exists():
        raise Invalid(_("The weights of this release were destroyed: it cannot be served again."))
    require_servable(model_name, manifest.base_sha256)
    live = Release.objects.filter(model_name=model_name, is_live=True).defer("manifest").first()
    if live is not None:
        live.is_live = False
        live.save(update_fields=["is_live"])
    if release is None:
        return Release.objects.create(
            digest=manifest.digest,
            model_name=model_name,
            parent=live,
            manifest=manifest.raw,
            is_live=True,
            live_since=timezone.now(),
            created_at=timezone.now(),
        )
    release.is_live, release.live_since = True, timezone.now()
    release.save(update_fields=["is_live", "live_since"])
    return release


def destroyed_key(sha256: str) -> str:
    """The idempotency key of the log entry that says that weights were destroyed."""
    return f"weights.destroyed/{sha256}"
