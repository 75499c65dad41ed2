"""The raw figures of a run, probe by probe, of which every estimate and the verdict can be made.

They tell how likely a model finds the person's data, token by token, and of a few questions what
it said, so they are personal data: vault items under the case's key, which go with sealing. What is
stored once stays as it is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib

from django.db import transaction
from django.utils.translation import gettext as _

from requests_app import vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import ErasureRun
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.run_rows import held_run
from requests_app.services.run_values import Lease


@transaction.atomic
def save_table(lease: Lease, *, probe: str, table: bytes) -> None:
    """Keep what a probe observed; the first of a run stays."""
    run = held_run(lease)
    if not vault.has(run.case, _name(run, probe)):
        packed = base64.b64encode(zlib.compress(table)).decode()
        vault.put(run.case, _name(run, probe), packed)


@transaction.atomic
def saved_tables(lease: Lease) -> dict[str, bytes]:
    """What earlier workers observed for this run, by probe."""
    return tables_of(held_run(lease))


def tables_of(run: ErasureRun) -> dict[str, bytes]:
    """The tables of a run, by probe. Raises WrongState once the case is sealed, Invalid where
    stored bytes were changed."""
    if run.case.status == CaseStatus.SEALED:
        raise WrongState(_("The case is sealed: the rows of its probes are gone with its key."))
    start = _name(run, "")
    names = run.case.vault_items.filter(name__startswith=start).values_list("name", flat=True)
    try:
        return {
            name.removeprefix(start): zlib.decompress(base64.b64decode(vault.get(run.case, name)))
            for name in sorted(names)
        }
    except vault.VaultDamaged as error:
        raise Invalid(_("%(error)s Restore it from a backup.") % {"error": error}) from error


def fact_id(salt: bytes, question: str, answer: str) -> str:
    """The keyed id of a fact in a table of that salt, as `workers.tables` writes it."""
    return hmac.new(salt, f"{question}\n{answer}".encode(), hashlib.sha256).hexdigest()[:32]


def _name(run: ErasureRun, probe: str) -> str:
    return f"run/{run.id}/{probe}"
