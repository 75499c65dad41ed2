"""The playground: engineers ask the served release, beside the original and the control.

The question goes to the gateway and is kept nowhere; the log says that it was asked, and which
adapters acted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx
from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from requests_app.forms import PlainForm
from requests_app.permissions import member, staff_page
from requests_app.services.gateway import note_playground
from requests_app.views.common import posted

BESIDE = {
    "original": gettext_lazy("The original, without gate and adapters"),
    "control": gettext_lazy("The control, which never saw the erased people"),
}
SECONDS = 60
LONGEST = 2000


class AskForm(PlainForm):
    """A question to one of the models in service."""

    model = forms.ChoiceField(label=gettext_lazy("Model"))
    question = forms.CharField(
        label=gettext_lazy("Question"),
        max_length=LONGEST,
        help_text=gettext_lazy("It is kept nowhere."),
        widget=forms.Textarea(attrs={"rows": 3, "autocomplete": "off"}),
    )
    beside = forms.MultipleChoiceField(
        label=gettext_lazy("Beside it"),
        required=False,
        choices=list(BESIDE.items()),
        widget=forms.CheckboxSelectMultiple,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        models: Any = self.fields["model"]
        models.choices = [(name, name) for name in settings.RTBF_MODELS]


@dataclass(frozen=True)
class Told:
    """What the gateway answered: the adapters that acted with their strengths in per cent, and what
    was said beside; None of these where it is not at hand."""

    answer: str = field(repr=False)
    release: str
    strengths: list[tuple[str, int]]
    beside: list[tuple[str, str | None]] = field(repr=False)


class NoAnswer(Exception):
    """The gateway gave none; the text says why, for staff."""


@staff_page("playground")
@require_http_methods(["GET", "POST"])
@sensitive_post_parameters("question")
def playground(request: HttpRequest) -> HttpResponse:
    """Ask, and see what was said and what acted."""
    form = AskForm(posted(request), initial={"model": settings.RTBF_MODELS[0]})
    told, problem = None, ""
    if form.is_valid():
        try:
            told = ask(**form.cleaned_data)
        except NoAnswer as why:
            problem = str(why)
        else:
            note_playground(
                model_name=form.cleaned_data["model"],
                release=told.release,
                fired=[digest for digest, _strength in told.strengths],
                beside=form.cleaned_data["beside"],
                actor_member=member(request),
            )
    context = {"form": form, "told": told, "problem": problem}
    return render(request, "staff/playground.html", context)


def ask(*, model: str, question: str, beside: list[str]) -> Told:
    """The gateway's answer. Raises NoAnswer."""
    if not settings.RTBF_GATEWAY_KEY:
        raise NoAnswer(
            _("The playground has no key: set RTBF_GATEWAY_KEY here and at the gateway.")
        )
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "rtbf_compare": beside,
    }
    try:
        answer = httpx.post(
            f"{settings.RTBF_GATEWAY_URL}/v1/chat/completions",
            json=asked,
            headers={"Authorization": f"Bearer {settings.RTBF_GATEWAY_KEY}"},
            timeout=SECONDS,
            trust_env=False,
        )
    except httpx.TransportError:
        raise NoAnswer(
            _(
                "The gateway cannot be reached at %(url)s. Start it with: manage.py gateway --model"
                " %(model)s"
            )
            % {"url": settings.RTBF_GATEWAY_URL, "model": model}
        ) from None
    if answer.status_code != 200:
        raise NoAnswer(
            _("The gateway answered with status %(status)d. Its log says why.")
            % {"status": answer.status_code}
        )
    data = answer.json()
    own = data["rtbf"]
    strengths = {str(digest): float(each) for digest, each in own["strengths"].items()}
    return Told(
        answer=data["choices"][0]["message"]["content"],
        release=own["release"],
        strengths=[(digest, round(100 * strengths[digest])) for digest in sorted(strengths)],
        beside=[(str(BESIDE[kind]), own["compared"][kind]) for kind in BESIDE if kind in beside],
    )
