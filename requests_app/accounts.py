"""Staff accounts: allauth without self-registration. Data subjects never have an account."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import SignupClosedException
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.http import HttpRequest

LOGGED_IN = "staff"  # in the session, see `middleware`: {"since": Unix time, "seen": Unix time}


class StaffAccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Accounts come from an administrator only; a log-in begins a session's time anew."""

    def is_open_for_signup(self, request: Any) -> bool:
        return False

    def login(self, request: HttpRequest, user: Any) -> None:
        request.session.pop(LOGGED_IN, None)
        super().login(request, user)


class CompanyAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """The company's log-in opens the account of the same verified address, and makes none."""

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        # Some issuers spell the claim as text, of which "false" is true too.
        verified = {
            each.email.lower()
            for each in sociallogin.email_addresses
            if str(each.verified).lower() == "true"
        }
        if not sociallogin.is_existing or sociallogin.user.email.lower() not in verified:
            raise SignupClosedException()

    def is_open_for_signup(self, request: Any, sociallogin: Any) -> bool:
        return False
