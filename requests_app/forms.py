"""Forms of the public pages, and what all forms share. A staff page has its form beside its view.

Rules of law live in services, not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from requests_app.services.intake import ALIASES, MESSAGE_LENGTH, NAME_LENGTH, check_email
from requests_app.verifier import receipts
from requests_app.verifier.errors import Invalid

WHO = {
    "myself": _("For myself"),
    "someone_else": _("For somebody else"),
    "not_sure": _("I do not know"),
}
SYSTEMS = {
    "data_store": _("Account and customer records"),
    "model": _("AI models that may have learned my data"),
    "not_sure": _("I am not sure"),
}
EVERYTHING = ("data_store", "model")


class PlainForm(forms.Form):
    """Errors come from the server, in one summary and beside the field; never from the browser."""

    use_required_attribute = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            if isinstance(field.widget, forms.DateInput):
                field.widget.format = "%Y-%m-%d"  # as we ask for it, and browsers do
            field.widget.attrs.pop("maxlength", None)  # a browser cuts off without a word
            # Django's own words repeat whatever was sent
            if "%(value)s" in str(field.error_messages.get("invalid_choice", "")):
                field.error_messages["invalid_choice"] = _("Select one of the answers given")


def text_lines(text: str) -> tuple[str, ...]:
    """The lines of a text area that hold something."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


class AliasesMixin(forms.Form):
    """Other names, one a line."""

    aliases = forms.CharField(
        label=_("Other names"),
        required=False,
        help_text=_("For example a maiden name, a nickname or another spelling. One on each line."),
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "autocomplete": "off"}),
    )

    def clean_aliases(self) -> tuple[str, ...]:
        names = text_lines(self.cleaned_data["aliases"])
        if len(names) > ALIASES:
            raise forms.ValidationError(
                _t("Give at most %(count)d other names.") % {"count": ALIASES}
            )
        if any(len(name) > NAME_LENGTH for name in names):
            raise forms.ValidationError(
                _t("Each name must be %(count)d characters or fewer.") % {"count": NAME_LENGTH}
            )
        return names


# --- Public -------------------------------------------------------------------------------------
class WhoForm(PlainForm):
    who = forms.ChoiceField(
        label=_("Who is this request for?"),
        choices=list(WHO.items()),
        widget=forms.RadioSelect,
        error_messages={
            "required": _("Select who this request is for"),
            "invalid_choice": _("Select one of the answers given"),
        },
    )


class NameForm(AliasesMixin, PlainForm):
    name = forms.CharField(
        label=_("Name, as we may hold it"),
        max_length=NAME_LENGTH,
        help_text=_("The name of the person whose data is to be erased."),
        widget=forms.TextInput(attrs={"autocomplete": "name", "spellcheck": "false"}),
        error_messages={"required": _("Enter the name of the person")},
    )
    field_order = ["name", "aliases"]


class EmailForm(PlainForm):
    email = forms.EmailField(
        label=_("E-mail address"),
        max_length=254,
        validators=[check_email],
        help_text=_("We send a code to confirm it, and tell you there when a letter is waiting."),
        widget=forms.EmailInput(attrs={"autocomplete": "email", "spellcheck": "false"}),
        error_messages={
            "required": _("Enter an e-mail address"),
            "invalid": _("Enter an e-mail address in the right form, like name@example.org"),
        },
    )


class WhatForm(PlainForm):
    systems = forms.MultipleChoiceField(
        label=_("What should we erase your data from?"),
        choices=list(SYSTEMS.items()),
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Select all that apply. If you are not sure, we look at all of them."),
        error_messages={"required": _("Select at least one, or “I am not sure”")},
    )


class MessageForm(PlainForm):
    message = forms.CharField(
        label=_("Anything that helps us find your data"),
        required=False,
        max_length=MESSAGE_LENGTH,
        help_text=_(
            "Up to 2,000 characters. It is stored encrypted and destroyed when your case is sealed."
            " You need not give a reason."
        ),
        widget=forms.Textarea(attrs={"rows": 6, "data-longest": MESSAGE_LENGTH}),
        error_messages={"max_length": _("Your text must be 2,000 characters or fewer")},
    )


WIZARD_FORMS: dict[str, type[PlainForm]] = {
    "who": WhoForm,
    "name": NameForm,
    "email": EmailForm,
    "what": WhatForm,
    "message": MessageForm,
}


def scope_of(systems: Iterable[str]) -> tuple[str, ...]:
    """The scope that a person's ticks mean; not sure means everything there is."""
    chosen = set(systems)
    if "not_sure" in chosen or not chosen:
        return EVERYTHING
    return tuple(name for name in EVERYTHING if name in chosen)


class ReferenceForm(PlainForm):
    reference = forms.CharField(
        label=_("Reference"),
        max_length=24,
        help_text=_("It looks like ERQ-2026-000123."),
        widget=forms.TextInput(
            attrs={"class": "short", "autocomplete": "off", "spellcheck": "false"}
        ),
        error_messages={"required": _("Enter the reference of your request")},
    )

    def clean_reference(self) -> str:
        return str(self.cleaned_data["reference"]).strip().upper()


class ConfirmForm(ReferenceForm):
    code = forms.CharField(
        label=_("Code from the e-mail"),
        max_length=40,
        help_text=_("The code works for 15 minutes."),
        widget=forms.TextInput(
            attrs={"class": "short", "autocomplete": "one-time-code", "spellcheck": "false"}
        ),
        error_messages={"required": _("Enter the code from the e-mail")},
    )


class StatusForm(ReferenceForm):
    access_code = forms.CharField(
        label=_("Access code"),
        max_length=60,
        help_text=_("It was shown once, when the request was sent."),
        widget=forms.TextInput(
            attrs={"class": "code", "autocomplete": "off", "spellcheck": "false"}
        ),
        error_messages={"required": _("Enter the access code of your request")},
    )


class ReceiptForm(PlainForm):
    """A receipt, as a file or pasted; `cleaned_data["receipt"]` is the parsed one."""

    says_when_needed = True

    file = forms.FileField(
        label=_("Receipt file"),
        required=False,
        help_text=_("The file ending in -receipt.json that you kept."),
        widget=forms.FileInput(attrs={"accept": "application/json,.json"}),
    )
    text = forms.CharField(
        label=_("Or the text of the receipt"),
        required=False,
        max_length=receipts.LONGEST,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "autocomplete": "off"}),
        error_messages={"max_length": _("This text is longer than a receipt is")},
    )

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        file, text = given.get("file"), given.get("text", "")
        if self.errors:
            return given
        if bool(file) == bool(text):
            self.add_error("file", _("Choose the receipt file or paste its text, one of the two"))
            return given
        try:
            data = file.read(receipts.LONGEST + 1) if file else text.encode()
            given["receipt"] = receipts.parse_receipt(data)
        except (Invalid, UnicodeEncodeError):
            self.add_error("file" if file else "text", _("This is not the whole text of a receipt"))
        return given
