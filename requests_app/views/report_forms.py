"""Forms of the page on which exports of the record and of releases are asked for."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _

from requests_app import exports
from requests_app.forms import PlainForm
from requests_app.models import Release
from requests_app.models.exports import Level

DAY_FORM = _("Enter the date as year-month-day, for example 2026-01-31")


class JobForm(PlainForm):
    """Which export; `of` is what the exports on offer are of."""

    of = ""
    export = forms.ChoiceField(
        label=_("What is to be exported?"),
        widget=forms.RadioSelect,
        error_messages={
            "required": _("Select what is to be exported"),
            "invalid_choice": _("Select one of the exports given"),
        },
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, auto_id=f"{self.of}_%s", **kwargs)
        field = cast(forms.ChoiceField, self.fields["export"])
        field.choices = [(name, self.told(name)) for name in exports.names(self.of)]
        if len(field.choices) == 1:
            self.initial.setdefault("export", exports.names(self.of)[0])

    def told(self, name: str) -> str:
        """How a choice reads."""
        return str(exports.load_job(name).TITLE)


class RecordExportForm(JobForm):
    """What, for whom, and of which period."""

    of = exports.RECORD
    level = forms.ChoiceField(
        label=_("Who is it for?"),
        choices=Level.choices,
        initial=Level.AUTHORITY,
        widget=forms.RadioSelect,
        error_messages={"required": _("Select who it is for")},
    )
    first = forms.DateField(
        label=_("From"),
        help_text=_(
            "First day of the period, for example 2026-01-01. Of cases, the day of receipt."
        ),
        widget=forms.DateInput(attrs={"class": "short"}),
        error_messages={"required": _("Enter the first day"), "invalid": DAY_FORM},
    )
    last = forms.DateField(
        label=_("To"),
        help_text=_(
            "Last day of the period. For the public, the last day of a month that has ended."
        ),
        widget=forms.DateInput(attrs={"class": "short"}),
        error_messages={"required": _("Enter the last day"), "invalid": DAY_FORM},
    )

    def told(self, name: str) -> str:
        said = {"title": super().told(name), "levels": _levels(name)}
        return str(_("%(title)s. For: %(levels)s") % said)

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        name, level = data.get("export"), data.get("level")
        if name and level and level not in exports.load_job(name).LEVELS:
            self.add_error(
                "level", _("This export is made for: %(levels)s") % {"levels": _levels(name)}
            )
        return data


class ReleaseField(forms.ModelChoiceField):  # type: ignore[type-arg]  # not subscriptable
    def label_from_instance(self, obj: Release) -> str:
        said = f"{obj.model_name}, {obj.created_at:%Y-%m-%d}, {obj.digest[:12]}"
        return str(_("%(release)s, live") % {"release": said}) if obj.is_live else said


class ReleaseExportForm(JobForm):
    """What, and of which release."""

    of = exports.RELEASE
    release = ReleaseField(
        label=_("Of which release?"),
        queryset=Release.objects.order_by("-is_live", "-created_at"),
        empty_label=None,
        error_messages={
            "required": _("Select a release"),
            "invalid_choice": _("Select one of the releases given"),
        },
    )


def level_name(level: Level) -> str:
    """For whom, without what that leaves out."""
    return str(level.label).partition(":")[0].strip()


def _levels(name: str) -> str:
    return ", ".join(level_name(level) for level in exports.load_job(name).LEVELS)
