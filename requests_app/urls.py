"""Public pages at the root, staff pages under /app/."""

from django.urls import URLPattern, path

from requests_app.views import clock, holds, people, public, record, runs, staff, steps, wizard

urlpatterns: list[URLPattern] = [
    path("", wizard.start, name="start"),
    path("erasure/new/<slug:step>", wizard.step, name="erasure_step"),
    path("erasure/sent/<slug:reference>", wizard.sent, name="erasure_sent"),
    path("erasure/confirm", public.confirm, name="erasure_confirm"),
    path("erasure/confirmed", public.confirmed, name="erasure_confirmed"),
    path("erasure/resend", public.resend, name="erasure_resend"),
    path("status", public.status_lookup, name="status_lookup"),
    path("status/<slug:reference>", public.status, name="status"),
    path(
        "status/<slug:reference>/letters/<int:letter_id>",
        public.status_letter,
        name="status_letter",
    ),
    path("status/<slug:reference>/withdraw", public.withdraw, name="withdraw"),
    path("privacy", public.privacy, name="privacy"),
    path("accessibility", public.accessibility, name="accessibility"),
    path("app/", staff.today, name="today"),
    path("app/cases", staff.queue, name="queue"),
    path("app/cases/new", staff.new_case, name="new_case"),
    path("app/cases/<slug:reference>", staff.case_page, name="case"),
    path(
        "app/cases/<slug:reference>/letters/<int:letter_id>", staff.case_letter, name="case_letter"
    ),
    path("app/cases/<slug:reference>/identity", steps.identity, name="case_identity"),
    path("app/cases/<slug:reference>/mandate", people.mandate, name="case_mandate"),
    path("app/cases/<slug:reference>/join", people.join, name="case_join"),
    path("app/cases/<slug:reference>/facts", steps.facts, name="case_facts"),
    path("app/cases/<slug:reference>/decision", steps.decision, name="case_decision"),
    path("app/cases/<slug:reference>/approval", steps.approval, name="case_approval"),
    path(
        "app/cases/<slug:reference>/evidence-review",
        steps.evidence_review,
        name="case_evidence_review",
    ),
    path("app/cases/<slug:reference>/answer", steps.answer, name="case_answer"),
    path("app/cases/<slug:reference>/hold", holds.hold, name="case_hold"),
    path("app/cases/<slug:reference>/hold/release", holds.release, name="case_hold_release"),
    path("app/cases/<slug:reference>/extension", clock.extension, name="case_extension"),
    path("app/cases/<slug:reference>/suspension", clock.suspension, name="case_suspension"),
    path("app/cases/<slug:reference>/exports", record.exports_page, name="exports"),
    path("app/cases/<slug:reference>/exports/<slug:name>", record.export, name="export"),
    path("app/runs/<uuid:run_id>", runs.run_page, name="run"),
    path("app/runs/<uuid:run_id>/progress", runs.run_progress, name="run_progress"),
    path("app/runs/<uuid:run_id>/cancel", runs.cancel_run, name="run_cancel"),
    path("app/runs/<uuid:run_id>/evidence", runs.evidence, name="run_evidence"),
    path("app/releases", runs.releases, name="releases"),
    path("app/audit", record.audit_page, name="audit"),
]
