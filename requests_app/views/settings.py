"""What the installation is set to, to be read: the environment sets it (docs/operations.md)."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import date
from inspect import getdoc
from itertools import islice

from django import forms
from django.conf import settings
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, get_resolver
from django.utils import timezone
from django.utils.translation import get_language, gettext_lazy
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from requests_app import deadlines as dates
from requests_app.forms import PlainForm
from requests_app.jurisdictions import PROFILES, Profile, current, regions
from requests_app.models import (
    AuditKey,
    Checkpoint,
    LogHead,
    ModelNode,
    Release,
    SuppressionKey,
)
from requests_app.models.people import Role
from requests_app.permissions import PAGES, member, staff_page
from requests_app.services import code_mails, export_jobs, letter_texts
from requests_app.services import retention as retention_services
from requests_app.services.manifests import read_manifest
from requests_app.vault import DRAFT_LIFE
from requests_app.verifier import notes
from requests_app.views.clock import counted_in_words, holiday_name
from requests_app.views.letter_samples import letter_rows, sample_letter

LISTED = 100
PARTS = (
    ("settings_letters", gettext_lazy("Letters"), gettext_lazy("Wording, version and review.")),
    (
        "settings_retention",
        gettext_lazy("Retention"),
        gettext_lazy("How long what is kept, and what goes now."),
    ),
    (
        "settings_deadlines",
        gettext_lazy("Deadlines"),
        gettext_lazy("Whose law counts, and which holidays."),
    ),
    ("settings_roles", gettext_lazy("Roles"), gettext_lazy("Who may open which page.")),
    ("settings_system", gettext_lazy("System"), gettext_lazy("Models, keys and the log.")),
)
"""Pages of the settings in their order: name, title, what is there."""


@dataclass(frozen=True)
class Setting:
    """One line: what it is, what it is set to, and the variable that changes it (empty: fixed)."""

    what: str
    value: str
    variable: str = ""


@dataclass(frozen=True)
class Key:
    """A public key of the record: from which tree size to which it is good."""

    row: AuditKey
    key_id: str
    sha256: str  # of the 32 bytes of the key


@dataclass(frozen=True)
class Counted:
    """A profile, and what it makes of the example date, in words."""

    law: Profile
    calendar: str
    is_default: bool
    dates: dates.Deadlines
    base: str
    extended: str


class ExampleForm(PlainForm):
    received = forms.DateField(
        label=gettext_lazy("Example: received on"),
        widget=forms.DateInput(attrs={"type": "date", "class": "short"}),
        error_messages={
            "required": gettext_lazy("Enter a date"),
            "invalid": gettext_lazy("Enter the date as year-month-day, for example 2026-11-22"),
        },
    )


@staff_page("settings")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """The pages of the settings that this member may open."""
    role = member(request).role
    parts = [part for part in PARTS if role in PAGES[part[0]]]
    return render(request, "staff/settings/index.html", {"parts": parts})


@staff_page("settings_letters")
@require_GET
def letters(request: HttpRequest) -> HttpResponse:
    """Each letter in each language: version, digest, reviewed or not, and a preview."""
    rows = [(kind, letter_rows(kind)) for kind in letter_texts.kinds()]
    context = {"letters": rows, "reviewed_only": settings.RTBF_REVIEWED_LETTERS_ONLY}
    return render(request, "staff/settings/letters.html", context)


@staff_page("settings_letter")
@require_GET
def letter(request: HttpRequest, name: str) -> HttpResponse:
    """One letter with a made-up person, in the `language` of the address."""
    language = request.GET.get("language", letter_texts.SOURCE)
    rows = letter_rows(name) if name in letter_texts.kinds() else []
    row = next((row for row in rows if row.template.language == language), None)
    if row is None:
        raise Http404
    context = {"kind": name, "row": row, "rows": rows, "wording": sample_letter(row.template)}
    return render(request, "staff/settings/letter.html", context)


@staff_page("settings_retention")
@require_GET
def retention(request: HttpRequest) -> HttpResponse:
    """The policy, and what the next sweep would seal: counts and references, nothing is changed."""
    found = list(islice(retention_services.going(), LISTED + 1))
    context = {
        "rules": _retention_rules(),
        "going": found[:LISTED],
        "more": len(found) > LISTED,
        "counts": Counter(item.rule for item in found if not item.stopped_by),
        "stopped": sum(bool(item.stopped_by) for item in found),
    }
    return render(request, "staff/settings/retention.html", context)


@staff_page("settings_deadlines")
@require_GET
def deadlines(request: HttpRequest) -> HttpResponse:
    """The profiles, what each makes of an example date, and the public holidays ahead."""
    today = timezone.localdate()
    form = ExampleForm(request.GET if "received" in request.GET else {"received": today})
    received = form.cleaned_data["received"] if form.is_valid() else today
    default = current(settings.RTBF_JURISDICTION)
    calendar = settings.RTBF_HOLIDAY_COUNTRY
    names_in = dates.names_for(calendar, get_language() or "en")
    known = {
        day: holiday_name(name, names_in)
        for year in (today.year, today.year + 1)
        for day, name in dates.public_holidays(calendar, year, names_in).items()
    }
    context = {
        "form": form,
        "received": received,
        "settings": [
            Setting(_("Law of new cases"), _(default.title), "RTBF_JURISDICTION"),
            Setting(_("Public holidays"), calendar, "RTBF_HOLIDAY_COUNTRY"),
            Setting(_("Source of the holidays"), dates.CALENDAR_VERSION),
            Setting(_("Time zone"), settings.TIME_ZONE, "RTBF_TIME_ZONE"),
        ],
        "profiles": [_counted(law, received) for law in _in_force()],
        "earlier": [law for law in PROFILES if law not in _in_force()],
        "holidays": [(day, known[day]) for day in sorted(known) if day >= today][:12],
    }
    status = 422 if form.errors else 200
    return render(request, "staff/settings/deadlines.html", context, status=status)


@staff_page("settings_roles")
@require_GET
def roles(request: HttpRequest) -> HttpResponse:
    """The table of roles as the pages obey it."""
    patterns = get_resolver("requests_app.urls").url_patterns
    pages = {str(page.name): page for page in patterns if isinstance(page, URLPattern)}
    rows = [
        (
            "/" + str(pages[name].pattern),
            (getdoc(pages[name].callback) or "").partition("\n\n")[0],
            [role in allowed for role in Role],
        )
        for name, allowed in PAGES.items()
    ]
    return render(request, "staff/settings/roles.html", {"rows": rows, "roles": list(Role)})


@staff_page("settings_system")
@require_GET
def system(request: HttpRequest) -> HttpResponse:
    """Models in service, public keys with what they are good for, and the state of the log."""
    head = LogHead.objects.first()
    checkpoint = Checkpoint.objects.order_by("-size").first()
    live = {release.model_name: release for release in Release.objects.filter(is_live=True)}
    context = {
        "settings": _system_settings(),
        "models": [
            (name, release, read_manifest(bytes(release.manifest)) if release else None)
            for name in settings.RTBF_MODELS
            for release in [live.get(name)]
        ],
        "known_weights": ModelNode.objects.count(),
        "keys": [_key(row) for row in AuditKey.objects.order_by("purpose", "valid_from")],
        "size": head.size if head else 0,
        "checkpoint": checkpoint,
        "suppression_keys": SuppressionKey.objects.order_by("version"),
        "witnesses": [
            (url, notes.parse_vkey(vkey, kind=notes.COSIGNATURE).name)
            for url, vkey in settings.RTBF_WITNESSES.items()
        ],
    }
    return render(request, "staff/settings/system.html", context)


def _in_force() -> list[Profile]:
    """The last profile of each region: what a new case of it is opened under."""
    return [current(region) for region in regions()]


def _counted(law: Profile, received: date) -> Counted:
    calendar = dates.calendar_of(law, settings.RTBF_HOLIDAY_COUNTRY)
    found = dates.deadlines(received, profile=law, calendar=calendar)
    return Counted(
        law=law,
        calendar=calendar,
        is_default=law.region == settings.RTBF_JURISDICTION,
        dates=found,
        base=counted_in_words(received, law.period, found.base_due, calendar),
        extended=counted_in_words(received, law.extended, found.extension_due, calendar),
    )


def _retention_rules() -> list[Setting]:
    def days(count: int) -> str:
        return _("%(count)d days") % {"count": count}

    hours = int(DRAFT_LIFE.total_seconds()) // 3600
    minutes = int(code_mails.CODE_LIFE.total_seconds()) // 60
    law = current(settings.RTBF_JURISDICTION)
    return [
        Setting(
            _("Requests that were never confirmed"),
            _("%(days)s from receipt, then sealed")
            % {"days": days(settings.RTBF_KEEP_UNCONFIRMED_DAYS)},
            "RTBF_KEEP_UNCONFIRMED_DAYS",
        ),
        Setting(
            _("Cases answered or withdrawn: name, contact, facts, letters, notes"),
            _("%(days)s from the end, then sealed")
            % {"days": days(settings.RTBF_KEEP_CLOSED_DAYS)},
            "RTBF_KEEP_CLOSED_DAYS",
        ),
        Setting(_("Answers of a form that was not sent"), _("%(hours)d hours") % {"hours": hours}),
        Setting(_("Codes to confirm an address"), _("%(minutes)d minutes") % {"minutes": minutes}),
        Setting(
            _("Documents shown for the identity"), _("Never kept: only that they were checked")
        ),
        Setting(_("Forget set, probes, the model's answers"), _("In memory, until the run ends")),
        Setting(
            _("Sample probes: a few questions with the answers"), _("In the vault, until sealing")
        ),
        Setting(_("Files of exports"), days(export_jobs.KEPT.days)),
        Setting(
            _("Entries of the suppression list"),
            _("As long as models are trained; looked at again once a year"),
        ),
        Setting(
            _("The log, which holds no personal data"),
            _("%(months)d months at least") % {"months": law.record_months},
            "RTBF_JURISDICTION",
        ),
        Setting(
            _("Back-ups of what was erased elsewhere, as letters promise"),
            days(settings.RTBF_BACKUP_DAYS),
            "RTBF_BACKUP_DAYS",
        ),
    ]


def _system_settings() -> list[Setting]:
    return [
        Setting(
            _("Installation"),
            _("Production") if settings.RTBF_PRODUCTION else _("Embedded"),
            "RTBF_PRODUCTION",
        ),
        Setting(_("Database"), connection.vendor, "DATABASE_URL"),
        Setting(_("Name of the log"), settings.RTBF_LOG_ORIGIN, "RTBF_LOG_ORIGIN"),
        Setting(_("Models in service"), ", ".join(settings.RTBF_MODELS), "RTBF_MODELS"),
        Setting(
            _("Probes of a run"), settings.RTBF_VERIFICATION_PROFILE, "RTBF_VERIFICATION_PROFILE"
        ),
        Setting(
            _("Measured again after"),
            _("%(count)d days") % {"count": settings.RTBF_RECHECK_DAYS},
            "RTBF_RECHECK_DAYS",
        ),
        Setting(
            _("Second factor"),
            _("Required") if settings.RTBF_REQUIRE_MFA else _("Not required"),
            "RTBF_REQUIRE_MFA",
        ),
        Setting(
            _("Logged out after"),
            _("%(hours)d hours, or %(minutes)d minutes without a page")
            % {
                "hours": settings.RTBF_SESSION_HOURS,
                "minutes": settings.RTBF_SESSION_IDLE_MINUTES,
            },
            "RTBF_SESSION_HOURS, RTBF_SESSION_IDLE_MINUTES",
        ),
        Setting(
            _("Time stamps"),
            settings.RTBF_TSA_URL or _("None asked for"),
            "RTBF_TSA_URL",
        ),
        Setting(
            _("Reminders go to"),
            settings.RTBF_ESCALATION_MAIL or _("Every case officer"),
            "RTBF_ESCALATION_MAIL",
        ),
    ]


def _key(row: AuditKey) -> Key:
    key = notes.parse_vkey(row.vkey)
    return Key(row, key.key_id.hex(), hashlib.sha256(key.public).hexdigest())
