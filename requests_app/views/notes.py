"""Notes of staff on a case: written by who sees personal data, read while the person is shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from requests_app import vault
from requests_app.forms import PlainForm
from requests_app.models import Case
from requests_app.permissions import member, staff_page
from requests_app.selectors import TimelineItem
from requests_app.services import notes
from requests_app.services.errors import Invalid, WrongState
from requests_app.views.common import actor_names, find_case, posted, refusals_in_words

ADDED = "note.added"


class NoteForm(PlainForm):
    text = forms.CharField(
        label=gettext_lazy("Note"),
        max_length=notes.NOTE_LENGTH,
        help_text=gettext_lazy(
            "For your colleagues. The person may ask to read it (Art. 15 GDPR); it is destroyed"
            " when the case is sealed."
        ),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": gettext_lazy("Write the note")},
    )


@dataclass(frozen=True)
class Note:
    """A note as a page shows it; `text` is None where a restored database has lost it."""

    number: int
    author: str
    at: datetime
    text: str | None


def notes_of(case: Case, items: list[TimelineItem]) -> list[Note]:
    """The notes of a case, newest first, out of its vault; only for who may see the person now."""
    written = [item for item in items if item.type == ADDED]
    texts = vault.get_all(case, "note/") if written else {}
    names = actor_names(item.actor for item in written)
    return [
        Note(item.seq, names[item.actor], item.at, texts.get(str(item.seq)))
        for item in reversed(written)
    ]


@staff_page("case_note")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def note(request: HttpRequest, reference: str) -> HttpResponse:
    """Write a note; it is never changed, a correction is a further one."""
    case = find_case(reference)
    form = NoteForm(posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            notes.add_note(case_id=case.id, actor_member=member(request), **form.cleaned_data)
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("text", str(refused))
        else:
            messages.success(request, _("Note kept in the vault of this case."))
            return redirect("case", reference=case.reference)
    context = {"case": case, "form": form}
    return render(request, "staff/note.html", context, status=422 if form.errors else 200)
