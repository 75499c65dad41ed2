"""Forms of the public pages and of the staff pages. Rules of law live in services, not here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from requests_app.jurisdictions import current, regions
from requests_app.models import Mandate, Recipient, RecipientNotice, ScopeItem
from requests_app.models.record import Abuse, Channel, Exemption, Ground, Outcome
from requests_app.services import annexes, recipients
from requests_app.services.cases import IDENTITY_METHODS
from requests_app.services.decisions import ScopeResult
from requests_app.services.holds import REASON_LENGTH
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
IDENTITY_WORDS = {
    "mailbox": "Control of the mailbox was confirmed, and there is no reasonable doubt",
    "held_attributes": "Details we hold were asked for and matched",
    "logged_in": "The person was logged in to their account",
    "document_seen": "A document was seen (no copy kept)",
}


class PlainForm(forms.Form):
    """Errors come from the server, in one summary and beside the field; never from the browser."""

    use_required_attribute = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
        for field in self.fields.values():  # Django's own words repeat whatever was sent
            if "%(value)s" in str(field.error_messages.get("invalid_choice", "")):
                field.error_messages["invalid_choice"] = "Select one of the answers given"


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


class ContactForm(AliasesMixin, PlainForm):
    name = forms.CharField(
        label=_("Name, as we may hold it"),
        max_length=NAME_LENGTH,
        help_text=_("The name of the person whose data is to be erased."),
        widget=forms.TextInput(attrs={"autocomplete": "name", "spellcheck": "false"}),
        error_messages={"required": _("Enter the name of the person")},
    )
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
    field_order = ["name", "email", "aliases"]


class WhatForm(PlainForm):
    systems = forms.MultipleChoiceField(
        label=_("What should we erase your data from?"),
        choices=list(SYSTEMS.items()),
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Select all that apply. If you are not sure, we look at all of them."),
        error_messages={"required": _("Select at least one, or “I am not sure”")},
    )
    message = forms.CharField(
        label=_("Anything that helps us find your data"),
        required=False,
        max_length=MESSAGE_LENGTH,
        help_text=_(
            "Up to 2,000 characters. It is stored encrypted and destroyed when your case is sealed."
            " You need not give a reason."
        ),
        widget=forms.Textarea(attrs={"rows": 6}),
        error_messages={
            "max_length": _("Your text must be 2,000 characters or fewer"),
        },
    )


WIZARD_FORMS: dict[str, type[PlainForm]] = {
    "who": WhoForm,
    "contact": ContactForm,
    "what": WhatForm,
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


# --- Staff --------------------------------------------------------------------------------------
class IdentityForm(PlainForm):
    method = forms.ChoiceField(
        label="How was the identity established?",
        choices=[
            (name, IDENTITY_WORDS[name]) for name in IDENTITY_WORDS if name in IDENTITY_METHODS
        ],
        widget=forms.RadioSelect,
        help_text="Ask for more only where there is reasonable doubt (Art. 12(6) GDPR).",
        error_messages={"required": "Select how the identity was established"},
    )
    note = forms.CharField(
        label="Note",
        required=False,
        max_length=1000,
        help_text="Kept in the vault, destroyed when the case is sealed.",
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class MandateForm(PlainForm):
    kind = forms.ChoiceField(
        label="Who is the sender?",
        choices=Mandate.Kind.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Select who the sender is"},
    )
    sender = forms.CharField(
        label="Name of the sender",
        max_length=NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": "Enter the sender's name"},
    )
    note = forms.CharField(
        label="What was seen",
        max_length=2000,
        help_text="Which document, of which date. No copy is kept; this note goes with sealing.",
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Say what was seen"},
    )
    valid_until = forms.DateField(
        label="Valid until",
        required=False,
        help_text="If the mandate names an end. For example 2027-05-31.",
        widget=forms.DateInput(attrs={"class": "short", "placeholder": ""}),
        error_messages={"invalid": "Enter the date as year-month-day"},
    )
    covers_answers = forms.BooleanField(
        label="The mandate covers receiving the answer",
        required=False,
        help_text="If not, the sender can no longer follow the request, and the person can.",
    )
    person_email = forms.EmailField(
        label="The person's own e-mail address",
        required=False,
        max_length=254,
        validators=[check_email],
        help_text="Only if the mandate does not cover the answer; without it letters go by post.",
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
    )


class HoldForm(PlainForm):
    reason = forms.CharField(
        label="Which legal claim needs it",
        max_length=REASON_LENGTH,
        help_text="Kept in the vault, destroyed when the case is sealed.",
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": "Say which legal claim needs the data"},
    )
    until = forms.DateField(
        label="Until the end of",
        help_text="At most a year from now; then it must be looked at again.",
        widget=forms.DateInput(attrs={"type": "date"}),
        error_messages={
            "required": "Enter the last day of the hold",
            "invalid": "Enter a real date, for example 2027-03-31",
        },
    )


class AnnexForm(PlainForm):
    reason = forms.CharField(
        label="Why the recipient needs the personal data",
        max_length=annexes.REASON_LENGTH,
        help_text="Kept in the vault, destroyed when the case is sealed.",
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Say why the recipient needs it"},
    )
    recipient = forms.CharField(
        label="Who gets it",
        max_length=annexes.RECIPIENT_LENGTH,
        error_messages={"required": "Name the recipient, for example the supervisory authority"},
    )
    public_key = forms.CharField(
        label="The recipient's public key",
        max_length=annexes.KEY_LENGTH,
        help_text=(
            "An X25519 key in PEM. The recipient makes it with openssl genpkey -algorithm x25519"
            " -out key.pem, and sends what openssl pkey -in key.pem -pubout prints."
        ),
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
        error_messages={"required": "Paste the public key that the recipient sent"},
    )


class IdentityQuestionForm(PlainForm):
    doubt = forms.CharField(
        label="Why is there reasonable doubt?",
        max_length=2000,
        help_text="About this request, not in general. The person reads it.",
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Enter why there is doubt"},
    )
    sufficient = forms.CharField(
        label="What is enough to remove it?",
        max_length=2000,
        help_text=(
            "The least that will do, for example two details that we hold. No copy of an identity"
            " document unless nothing else will do; then say what to black out."
        ),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Enter what is enough"},
    )


class RecipientForm(PlainForm):
    """A line of the register of recipients; its fields are those of `RecipientData`."""

    name = forms.CharField(
        label="Name",
        max_length=recipients.NAME_LENGTH,
        error_messages={"required": "Enter the name of the recipient"},
    )
    kind = forms.ChoiceField(label="What it is for us", choices=Recipient.Kind.choices)
    how = forms.ChoiceField(label="How it is told", choices=Recipient.How.choices)
    email = forms.EmailField(label="E-mail address", required=False, max_length=254)
    endpoint = forms.CharField(
        label="OpenDSR address",
        required=False,
        max_length=200,
        help_text="For example https://dsr.vendor.example/opendsr. Nothing else is called.",
    )
    matches_keyed_id = forms.BooleanField(
        label="It can match keyed ids",
        required=False,
        help_text="It holds the key that manage.py recipient_key prints: it is told no names.",
    )
    systems = forms.CharField(
        label="It got data of",
        required=False,
        help_text="One on each line, like model:demo or data_store:customer-records. None: of all.",
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )

    @staticmethod
    def initial_of(row: Recipient) -> dict[str, Any]:
        values = {name: getattr(row, name) for name in RecipientForm.base_fields}
        return {**values, "systems": "\n".join(row.systems)}

    def clean_systems(self) -> tuple[str, ...]:
        return text_lines(self.cleaned_data["systems"])


class WaiveForm(PlainForm):
    cause = forms.ChoiceField(
        label="Why it cannot be told",
        choices=RecipientNotice.Cause.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Say which of the two it is"},
    )
    reason = forms.CharField(
        label="What shows that",
        max_length=recipients.REASON_LENGTH,
        help_text="Kept in the vault, destroyed when the case is sealed.",
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": "Say what shows that it cannot be told"},
    )


class FactsForm(AliasesMixin, PlainForm):
    facts = forms.CharField(
        label="What we hold about the person",
        help_text=(
            "One fact on each line: a question, then | , then the answer. For example:"
            " In which city was Maria Example born? | Ghent"
        ),
        widget=forms.Textarea(attrs={"rows": 12, "class": "code", "spellcheck": "false"}),
        error_messages={"required": "Enter at least one fact"},
    )
    field_order = ["facts", "aliases"]

    def clean_facts(self) -> tuple[tuple[str, str], ...]:
        facts = []
        for number, line in enumerate(self.cleaned_data["facts"].splitlines(), start=1):
            if not line.strip():
                continue
            question, bar, answer = (part.strip() for part in line.partition("|"))
            if not (bar and question and answer):
                raise forms.ValidationError(
                    f"Line {number} is not a question, a | and an answer. Correct that line."
                )
            facts.append((question, answer))
        return tuple(facts)


class DecisionForm(PlainForm):
    """Outcome, grounds, reasoning, and for each scope item `item_<id>` with `exemption_<id>`."""

    outcome = forms.ChoiceField(
        label="Outcome",
        choices=Outcome.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Select an outcome"},
    )
    grounds = forms.MultipleChoiceField(
        label="Grounds for erasure, Art. 17(1)",
        choices=Ground.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Needed when the request is granted in whole or in part.",
    )
    reasoning = forms.CharField(
        label="Reasoning",
        max_length=8000,
        help_text="Facts and reasons, not a formula. The person will read this in their letter.",
        widget=forms.Textarea(attrs={"rows": 6}),
        error_messages={"required": "Enter the reasoning"},
    )
    abuse = forms.ChoiceField(
        label="Under Art. 12(5), the request is",
        choices=[("", "Neither"), *Abuse.choices],
        required=False,
    )
    proof = forms.CharField(
        label="Proof of that",
        required=False,
        max_length=8000,
        help_text=(
            "Only for Art. 12(5): facts that show it, beyond the number of requests. The burden is"
            " on the controller."
        ),
        widget=forms.Textarea(attrs={"rows": 4}),
    )
    says_when_needed = True  # “(optional)” would be wrong: what is needed depends on the outcome
    granting = frozenset({Outcome.GRANTED, Outcome.PARTLY_GRANTED})

    def __init__(self, *args: Any, items: Iterable[ScopeItem], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.items = list(items)
        for item in self.items:
            name = f"{item.get_kind_display()}: {item.target}"
            self.fields[f"item_{item.pk}"] = forms.ChoiceField(
                label=name,
                choices=[
                    (r.value, r.label) for r in ScopeItem.Result if r != ScopeItem.Result.OPEN
                ],
                required=False,
                widget=forms.RadioSelect,
                help_text=(
                    "Leave open only if the person cannot be identified or the request is"
                    " manifestly unfounded or excessive."
                ),
            )
            self.fields[f"exemption_{item.pk}"] = forms.ChoiceField(
                label=f"Exemption for {item.target}, Art. 17(3)",
                choices=[("", "None"), *Exemption.choices],
                required=False,
            )
            self.fields[f"necessity_{item.pk}"] = forms.CharField(
                label=f"Why {item.target} has to be kept",
                required=False,
                max_length=8000,
                help_text="Only for what is kept. The person will read this in their letter.",
                widget=forms.Textarea(attrs={"rows": 3}),
            )
            self.fields[f"review_{item.pk}"] = forms.DateField(
                label=f"When keeping {item.target} is looked at again",
                required=False,
                help_text="Only for what is kept; at most a year ahead. For example 2027-05-31.",
                widget=forms.DateInput(attrs={"class": "short", "placeholder": ""}),
                error_messages={"invalid": "Enter the date as year-month-day"},
            )

    def item_fields(self) -> list[list[forms.BoundField]]:
        """The four fields of each scope item, together for the page."""
        names = ("item", "exemption", "necessity", "review")
        return [[self[f"{name}_{item.pk}"] for name in names] for item in self.items]

    def scope_results(self) -> dict[int, ScopeResult]:
        """What happens to the items that were decided, by id."""
        data = self.cleaned_data
        return {
            item.pk: ScopeResult(
                result=data[f"item_{item.pk}"],
                exemption=data[f"exemption_{item.pk}"],
                necessity=data[f"necessity_{item.pk}"],
                review_on=data[f"review_{item.pk}"],
            )
            for item in self.items
            if data[f"item_{item.pk}"]
        }

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        granted = data.get("outcome") in self.granting
        if data.get("outcome") == Outcome.EXCESSIVE:
            for name, asked in (("abuse", "Select which of the two"), ("proof", "Enter the proof")):
                if not data.get(name):
                    self.add_error(name, asked)
        if granted and not data.get("grounds"):
            self.add_error("grounds", "Select at least one ground")
        for item in self.items:
            result, exemption = data.get(f"item_{item.pk}"), data.get(f"exemption_{item.pk}")
            if granted and not result:
                self.add_error(f"item_{item.pk}", f"Select what happens to {item.target}")
            if result == ScopeItem.Result.KEEP and not exemption:
                self.add_error(f"exemption_{item.pk}", "Select the exemption that applies")
            if result == ScopeItem.Result.KEEP and not data.get(f"necessity_{item.pk}"):
                self.add_error(f"necessity_{item.pk}", f"Say why {item.target} has to be kept")
            if (
                result == ScopeItem.Result.KEEP
                and f"review_{item.pk}" not in self.errors
                and not data.get(f"review_{item.pk}")
            ):
                self.add_error(f"review_{item.pk}", "Enter when this is looked at again")
            if result == ScopeItem.Result.ERASE and exemption:
                self.add_error(f"exemption_{item.pk}", "What is erased has no exemption")
        return data


class ReturnForm(PlainForm):
    reason = forms.CharField(
        label="Why is it returned?",
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Enter why the proposal is returned"},
    )


class NewCaseForm(AliasesMixin, PlainForm):
    """A request that came by post, by phone or in person (Art. 12(2): any channel counts)."""

    channel = forms.ChoiceField(
        label="How did it arrive?",
        choices=[(c.value, c.label) for c in Channel if c not in (Channel.FORM, Channel.API)],
        widget=forms.RadioSelect,
        error_messages={"required": "Select how the request arrived"},
    )
    received_on = forms.DateField(
        label="Date of receipt",
        help_text="The period for the answer runs from this day. For example 2026-11-22.",
        widget=forms.DateInput(attrs={"class": "short", "placeholder": ""}),
        error_messages={
            "required": "Enter the date of receipt",
            "invalid": "Enter the date as year-month-day, for example 2026-11-22",
        },
    )
    name = forms.CharField(
        label="Name of the person",
        max_length=NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": "Enter the name of the person"},
    )
    email = forms.EmailField(
        label="E-mail address",
        required=False,
        max_length=254,
        validators=[check_email],
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
        error_messages={"invalid": "Enter an e-mail address in the right form, or leave it empty"},
    )
    language = forms.ChoiceField(
        label="In which language should we write to the person?",
        choices=settings.LANGUAGES,
        initial="en",
        help_text="The language of the request, unless they asked for another.",
        error_messages={"required": "Select the language of our letters"},
    )
    systems = forms.MultipleChoiceField(
        label="What does it speak of?",
        choices=list(SYSTEMS.items()),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Select at least one, or “I am not sure”"},
    )
    message = forms.CharField(
        label="What the person wrote or said",
        required=False,
        max_length=MESSAGE_LENGTH,
        widget=forms.Textarea(attrs={"rows": 5}),
    )
    on_behalf = forms.BooleanField(
        label="It was sent for somebody else, by an agent, a parent or an organisation",
        required=False,
        help_text="The name is that of the person the data is about. The mandate is checked next.",
    )
    region = forms.ChoiceField(
        label="Whose law counts the deadline?",
        choices=[("", "The usual one"), *((name, current(name).title) for name in regions())],
        required=False,
    )
    field_order = [
        "channel",
        "received_on",
        "region",
        "name",
        "on_behalf",
        "email",
        "language",
        "aliases",
        "systems",
        "message",
    ]
