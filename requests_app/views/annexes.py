"""The sealed annex: asking for it, approving it, and the bundle that encloses it."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from requests_app import dossier
from requests_app.exports import bundle
from requests_app.forms import PlainForm
from requests_app.permissions import fresh_log_in, is_post, member, staff_page
from requests_app.services import annexes
from requests_app.services.errors import Invalid, WrongState
from requests_app.views.common import find_case, posted, refusals_in_words


class AnnexForm(PlainForm):
    reason = forms.CharField(
        label=_("Why the recipient needs the personal data"),
        max_length=annexes.REASON_LENGTH,
        help_text=_("Kept in the vault, destroyed when the case is sealed."),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": _("Say why the recipient needs it")},
    )
    recipient = forms.CharField(
        label=_("Who gets it"),
        max_length=annexes.RECIPIENT_LENGTH,
        error_messages={"required": _("Name the recipient, for example the supervisory authority")},
    )
    public_key = forms.CharField(
        label=_("The recipient's public key"),
        max_length=annexes.KEY_LENGTH,
        help_text=_(
            "An X25519 key in PEM. The recipient makes it with openssl genpkey -algorithm"
            " x25519 -out key.pem, and sends what openssl pkey -in key.pem -pubout prints."
        ),
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
        error_messages={"required": _("Paste the public key that the recipient sent")},
    )


@staff_page("case_annex")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def annex(request: HttpRequest, reference: str) -> HttpResponse:
    """Ask for a sealed annex: reason, recipient, and the recipient's public key."""
    case = find_case(reference)
    form = AnnexForm(posted(request))
    if request.method == "POST" and form.is_valid():
        given = annexes.AnnexInput(**form.cleaned_data)
        try:
            annexes.ask_annex(case_id=case.id, given=given, actor_member=member(request))
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("public_key", str(refused))
        else:
            messages.success(request, _("Annex asked for. Another person has to approve it."))
            return redirect("exports", reference=case.reference)
    status = 422 if form.errors else 200
    return render(request, "staff/annex.html", {"case": case, "form": form}, status=status)


@staff_page("case_annex_approve")
@fresh_log_in(when=is_post)
@require_POST
@refusals_in_words
def approve(request: HttpRequest, reference: str) -> HttpResponse:
    """Approve and seal the annex that another person asked for."""
    case = find_case(reference)
    annexes.approve_annex(case_id=case.id, actor_member=member(request))
    messages.success(request, _("Annex sealed. Prepare the bundle anew to enclose it."))
    return redirect("exports", reference=case.reference)


@staff_page("annexed_bundle")
@require_GET
@refusals_in_words
def annexed_bundle(request: HttpRequest, reference: str) -> HttpResponse:
    """The bundle with the sealed annex, for its recipient alone; 409 with the reason otherwise."""
    case = find_case(reference)
    try:
        sealed = annexes.sealed_annex(case)
        if sealed is None:
            raise dossier.BundleNotReady(_("No annex was approved for this case, or it is sealed."))
        content = bundle.render(dossier.gather(case), annex=sealed)
    except dossier.BundleNotReady as reason:
        context = {"reason": str(reason), "reference": case.reference}
        return render(request, "staff/409.html", context, status=409)
    response = HttpResponse(content, content_type=bundle.CONTENT_TYPE)
    name = f"{case.reference}-bundle-with-annex.zip"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
