"""Who did it, as the audit log names them: by role and pseudonym, never by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from requests_app.models import ApiClient, StaffMember


@dataclass(frozen=True)
class Actor:
    """One acting party: `staff` is named `<role>:<pseudonym>`, `system` is `system:<part>`, an API
    client `client:<number>`."""

    kind: Literal["staff", "subject", "client", "system"]
    name: str

    @property
    def role(self) -> str:
        """The staff role, e.g. `officer`; empty for the data subject and the system."""
        return self.name.partition(":")[0] if self.kind == "staff" else ""

    @property
    def pseudonym(self) -> str:
        """The staff member's pseudonym (a UUID); empty for the data subject and the system."""
        return self.name.partition(":")[2] if self.kind == "staff" else ""


SUBJECT = Actor("subject", "subject")
SYSTEM = Actor("system", "system")
WORKER = Actor("system", "system:worker")


def staff_actor(member: StaffMember) -> Actor:
    """Role and pseudonym, no name: the log outlives the account (GDPR Art. 5(1)(c))."""
    return Actor("staff", f"{member.role}:{member.pseudonym}")


def client_actor(client: ApiClient) -> Actor:
    """An API client by its number."""
    return Actor("client", f"client:{client.pk}")
