"""Staff accounts: allauth without self-registration. Data subjects never have an account."""

from base64 import urlsafe_b64encode
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import SignupClosedException
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from cryptography.fernet import Fernet
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

LOGGED_IN = "staff"  # in the session, see `middleware`: {"since": Unix time, "seen": Unix time}


class StaffAccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Accounts come from an administrator only; a log-in begins a session's time anew."""

    def is_open_for_signup(self, request: Any) -> bool:
        return False

    def login(self, request: HttpRequest, user: Any) -> None:
        request.session.pop(LOGGED_IN, None)
        super().login(request, user)


class SecondFactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Secrets of second factors lie encrypted in the database, under a key of RTBF_SECRET_KEY."""

    def encrypt(self, text: str) -> str:
        return _cipher().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return _cipher().decrypt(encrypted_text.encode()).decode()


def _cipher() -> Fernet:
    key = salted_hmac("rtbf.second-factor", "", algorithm="sha256").digest()
    return Fernet(urlsafe_b64encode(key))


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
