"""Forms of the steps of a case. Rules of law live in services, not here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from requests_app.forms import SYSTEMS, AliasesMixin, PlainForm
from requests_app.jurisdictions import current, regions
from requests_app.models import ScopeItem
from requests_app.models.record import Abuse, Channel, Exemption, Ground, Outcome
from requests_app.services.cases import IDENTITY_METHODS
from requests_app.services.decisions import ScopeResult
from requests_app.services.intake import MESSAGE_LENGTH, NAME_LENGTH, check_email

IDENTITY_WORDS = {
    "mailbox": _("Control of the mailbox was confirmed, and there is no reasonable doubt"),
    "held_attributes": _("Details we hold were asked for and matched"),
    "logged_in": _("The person was logged in to their account"),
    "document_seen": _("A document was seen (no copy kept)"),
}


class IdentityForm(PlainForm):
    method = forms.ChoiceField(
        label=_("How was the identity established?"),
        choices=[
            (name, IDENTITY_WORDS[name]) for name in IDENTITY_WORDS if name in IDENTITY_METHODS
        ],
        widget=forms.RadioSelect,
        help_text=_("Ask for more only where there is reasonable doubt (Art. 12(6) GDPR)."),
        error_messages={"required": _("Select how the identity was established")},
    )
    note = forms.CharField(
        label=_("Note"),
        required=False,
        max_length=1000,
        help_text=_("Kept in the vault, destroyed when the case is sealed."),
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class FactsForm(AliasesMixin, PlainForm):
    facts = forms.CharField(
        label=_("What we hold about the person"),
        help_text=_(
            "One fact on each line: a question, then | , then the answer. For example: In"
            " which city was Maria Example born? | Ghent"
        ),
        widget=forms.Textarea(attrs={"rows": 12, "class": "code", "spellcheck": "false"}),
        error_messages={"required": _("Enter at least one fact")},
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
                    _("Line %(number)s is not a question, a | and an answer. Correct that line.")
                    % {"number": number}
                )
            facts.append((question, answer))
        return tuple(facts)


class DecisionForm(PlainForm):
    """Outcome, grounds, reasoning, and for each scope item `item_<id>` with `exemption_<id>`."""

    outcome = forms.ChoiceField(
        label=_("Outcome"),
        choices=Outcome.choices,
        widget=forms.RadioSelect,
        error_messages={"required": _("Select an outcome")},
    )
    grounds = forms.MultipleChoiceField(
        label=_("Grounds for erasure, Art. 17(1)"),
        choices=Ground.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Needed when the request is granted in whole or in part."),
    )
    reasoning = forms.CharField(
        label=_("Reasoning"),
        max_length=8000,
        help_text=_("Facts and reasons, not a formula. The person will read this in their letter."),
        widget=forms.Textarea(attrs={"rows": 6}),
        error_messages={"required": _("Enter the reasoning")},
    )
    abuse = forms.ChoiceField(
        label=_("Under Art. 12(5), the request is"),
        choices=[("", _("Neither")), *Abuse.choices],
        required=False,
    )
    proof = forms.CharField(
        label=_("Proof of that"),
        required=False,
        max_length=8000,
        help_text=_(
            "Only for Art. 12(5): facts that show it, beyond the number of requests. The"
            " burden is on the controller."
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
                help_text=_(
                    "Leave open only if the person cannot be identified or the request is"
                    " manifestly unfounded or excessive."
                ),
            )
            self.fields[f"exemption_{item.pk}"] = forms.ChoiceField(
                label=_("Exemption for %(target)s, Art. 17(3)") % {"target": item.target},
                choices=[("", _("None")), *Exemption.choices],
                required=False,
            )
            self.fields[f"necessity_{item.pk}"] = forms.CharField(
                label=_("Why %(target)s has to be kept") % {"target": item.target},
                required=False,
                max_length=8000,
                help_text=_("Only for what is kept. The person will read this in their letter."),
                widget=forms.Textarea(attrs={"rows": 3}),
            )
            self.fields[f"review_{item.pk}"] = forms.DateField(
                label=_("When keeping %(target)s is looked at again") % {"target": item.target},
                required=False,
                help_text=_("Only for what is kept; at most a year ahead. For example 2027-05-31."),
                widget=forms.DateInput(attrs={"class": "short", "placeholder": ""}),
                error_messages={"invalid": _("Enter the date as year-month-day")},
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
            for name, asked in (
                ("abuse", _("Select which of the two")),
                ("proof", _("Enter the proof")),
            ):
                if not data.get(name):
                    self.add_error(name, asked)
        if granted and not data.get("grounds"):
            self.add_error("grounds", _("Select at least one ground"))
        for item in self.items:
            result, exemption = data.get(f"item_{item.pk}"), data.get(f"exemption_{item.pk}")
            if granted and not result:
                self.add_error(
                    f"item_{item.pk}",
                    _("Select what happens to %(target)s") % {"target": item.target},
                )
            if result == ScopeItem.Result.KEEP and not exemption:
                self.add_error(f"exemption_{item.pk}", _("Select the exemption that applies"))
            if result == ScopeItem.Result.KEEP and not data.get(f"necessity_{item.pk}"):
                self.add_error(
                    f"necessity_{item.pk}",
                    _("Say why %(target)s has to be kept") % {"target": item.target},
                )
            if (
                result == ScopeItem.Result.KEEP
                and f"review_{item.pk}" not in self.errors
                and not data.get(f"review_{item.pk}")
            ):
                self.add_error(f"review_{item.pk}", _("Enter when this is looked at again"))
            if result == ScopeItem.Result.ERASE and exemption:
                self.add_error(f"exemption_{item.pk}", _("What is erased has no exemption"))
        return data


class ReturnForm(PlainForm):
    reason = forms.CharField(
        label=_("Why is it returned?"),
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": _("Enter why the proposal is returned")},
    )


class NewCaseForm(AliasesMixin, PlainForm):
    """A request that came by post, by phone or in person (Art. 12(2): any channel counts)."""

    channel = forms.ChoiceField(
        label=_("How did it arrive?"),
        choices=[(c.value, c.label) for c in Channel if c not in (Channel.FORM, Channel.API)],
        widget=forms.RadioSelect,
        error_messages={"required": _("Select how the request arrived")},
    )
    received_on = forms.DateField(
        label=_("Date of receipt"),
        help_text=_("The period for the answer runs from this day. For example 2026-11-22."),
        widget=forms.DateInput(attrs={"class": "short", "placeholder": ""}),
        error_messages={
            "required": _("Enter the date of receipt"),
            "invalid": _("Enter the date as year-month-day, for example 2026-11-22"),
        },
    )
    name = forms.CharField(
        label=_("Name of the person"),
        max_length=NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": _("Enter the name of the person")},
    )
    email = forms.EmailField(
        label=_("E-mail address"),
        required=False,
        max_length=254,
        validators=[check_email],
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
        error_messages={
            "invalid": _("Enter an e-mail address in the right form, or leave it empty")
        },
    )
    language = forms.ChoiceField(
        label=_("In which language should we write to the person?"),
        choices=settings.LANGUAGES,
        initial="en",
        help_text=_("The language of the request, unless they asked for another."),
        error_messages={"required": _("Select the language of our letters")},
    )
    systems = forms.MultipleChoiceField(
        label=_("What does it speak of?"),
        choices=list(SYSTEMS.items()),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": _("Select at least one, or “I am not sure”")},
    )
    message = forms.CharField(
        label=_("What the person wrote or said"),
        required=False,
        max_length=MESSAGE_LENGTH,
        widget=forms.Textarea(attrs={"rows": 5}),
    )
    on_behalf = forms.BooleanField(
        label=_("It was sent for somebody else, by an agent, a parent or an organisation"),
        required=False,
        help_text=_(
            "The name is that of the person the data is about. The mandate is checked next."
        ),
    )
    region = forms.ChoiceField(
        label=_("Whose law counts the deadline?"),
        choices=[("", _("The usual one")), *((name, _(current(name).title)) for name in regions())],
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
