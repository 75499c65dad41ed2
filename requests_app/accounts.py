"""Staff accounts: allauth without self-registration. Data subjects never have an account."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter


class StaffAccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Accounts are made by an administrator only."""

    def is_open_for_signup(self, request: Any) -> bool:
        return False
