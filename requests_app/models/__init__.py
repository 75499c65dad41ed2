"""Tables of the legal record. Only services write them; `lifecycle` knows the allowed moves."""

from requests_app.models.annexes import Annex
from requests_app.models.api import ApiClient, ApiRequest
from requests_app.models.clock import Reminder, Suspension
from requests_app.models.code_mails import CodeMail
from requests_app.models.consolidations import Consolidation
from requests_app.models.exports import ExportJob
from requests_app.models.holds import LegalHold
from requests_app.models.lineage import ModelNode
from requests_app.models.log import (
    AuditEntry,
    AuditKey,
    AuditOpening,
    Checkpoint,
    CheckpointMark,
    LogHead,
)
from requests_app.models.mandates import Mandate
from requests_app.models.people import DataSubject, Invitation, StaffMember
from requests_app.models.rechecks import Recheck
from requests_app.models.recipients import Recipient, RecipientNotice
from requests_app.models.record import Case, Decision, Letter, ScopeItem
from requests_app.models.restrictions import Restriction
from requests_app.models.revocations import Revocation
from requests_app.models.runs import Adapter, ErasureRun, ProbeResult, Release, RunEvent
from requests_app.models.serving import GatewayUse, ServingProcess
from requests_app.models.training import (
    RecordMatch,
    RecordSearch,
    SuppressionKey,
    SuppressionTag,
    TrainingSet,
)
from requests_app.models.vault import CaseKey, Draft, VaultItem

__all__ = [
    "Adapter",
    "Annex",
    "ApiClient",
    "ApiRequest",
    "AuditEntry",
    "AuditKey",
    "AuditOpening",
    "Case",
    "CaseKey",
    "Checkpoint",
    "CheckpointMark",
    "CodeMail",
    "Consolidation",
    "DataSubject",
    "Decision",
    "Draft",
    "ErasureRun",
    "ExportJob",
    "GatewayUse",
    "Invitation",
    "LegalHold",
    "Letter",
    "LogHead",
    "Mandate",
    "ModelNode",
    "ProbeResult",
    "Recheck",
    "Recipient",
    "RecipientNotice",
    "RecordMatch",
    "RecordSearch",
    "Release",
    "Reminder",
    "Restriction",
    "Revocation",
    "RunEvent",
    "ScopeItem",
    "ServingProcess",
    "StaffMember",
    "SuppressionKey",
    "SuppressionTag",
    "Suspension",
    "TrainingSet",
    "VaultItem",
]
