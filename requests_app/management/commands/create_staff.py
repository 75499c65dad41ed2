"""Make staff accounts: those of a demonstration, or one real one: the first administrator."""

from __future__ import annotations

import json
import os
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from requests_app.commands import ToldCommand
from requests_app.models import StaffMember
from requests_app.models.people import Role

DEMO_ROLES = (Role.OFFICER, Role.APPROVER, Role.ENGINEER, Role.AUDITOR, Role.ADMINISTRATOR)


class Command(ToldCommand):
    help = (
        "Make staff accounts. Running it again changes nothing. Without RTBF_STAFF_PASSWORD in the"
        " environment a password is generated and shown once; those of the demonstration lie in"
        " RTBF_KEY_DIR/demo_staff.json (0600)."
    )
    examples = (
        ("create_staff --demo", "the demonstration accounts, one of each role but intake"),
        ("create_staff --demo --json", "the same, the log-ins under “staff”"),
        (
            "create_staff --role administrator --username ana --email ana@b.example",
            "the first administrator, who invites the others",
        ),
    )
    reports = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--demo", action="store_true", help="the demonstration accounts")
        parser.add_argument("--role", choices=Role.values)
        parser.add_argument("--username")
        parser.add_argument("--email", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["demo"]:
            logins = _demo_staff()
        elif options["role"] and options["username"]:
            logins = [_one_member(options["username"], options["role"], options["email"])]
        else:
            raise CommandError("Say --demo, or --role and --username.")
        self.tell(
            {"staff": logins},
            options,
            *(
                f"{login['role']:14} {login['username']:16} {login['password'] or '(unchanged)'}"
                for login in logins
            ),
        )


def _demo_staff() -> list[dict[str, str]]:
    """The demonstration accounts, set to the passwords that are kept for them."""
    if not settings.RTBF_DEMO_DATA:
        raise CommandError(
            "Demonstration accounts are off here (RTBF_DEMO_DATA). Use --role and --username."
        )
    passwords = _demo_passwords(Path(settings.RTBF_KEY_DIR) / "demo_staff.json")
    logins = []
    for role in DEMO_ROLES:
        member, _ = StaffMember.objects.get_or_create(
            username=role.value,
            defaults={"role": role, "email": f"{role.value}@controller.example"},
        )
        if not member.check_password(passwords[role.value]):
            member.set_password(passwords[role.value])
            member.save(update_fields=["password"])
        logins.append(
            {"role": member.role, "username": role.value, "password": passwords[role.value]}
        )
    return logins


def _demo_passwords(path: Path) -> dict[str, str]:
    """Role -> password, made once and kept in a 0600 file, or given by the environment."""
    if given := os.environ.get("RTBF_STAFF_PASSWORD"):
        return {role.value: _checked(given) for role in DEMO_ROLES}
    passwords: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if missing := [role.value for role in DEMO_ROLES if role.value not in passwords]:
        passwords |= {role: secrets.token_urlsafe(12) for role in missing}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(passwords))
        partial.replace(path)
    return passwords


def _one_member(username: str, role: str, email: str) -> dict[str, str]:
    """One account; an existing one keeps role and password, and a different role is refused."""
    member = StaffMember.objects.filter(username=username).first()
    if member is not None:
        if member.role != role:
            raise CommandError(f"{username} exists with the role {member.role}.")
        return {"role": role, "username": username, "password": ""}
    password = _checked(os.environ.get("RTBF_STAFF_PASSWORD") or secrets.token_urlsafe(15))
    StaffMember.objects.create_user(username=username, email=email, password=password, role=role)
    return {"role": role, "username": username, "password": password}


def _checked(password: str) -> str:
    try:
        validate_password(password)
    except ValidationError as problem:
        raise CommandError(f"RTBF_STAFF_PASSWORD: {' '.join(problem.messages)}") from None
    return password
