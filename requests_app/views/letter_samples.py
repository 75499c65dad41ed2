"""Letters filled with a made-up person, so that staff can read each before anybody gets one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from django.conf import settings

from requests_app.services import letter_texts
from requests_app.services.letter_texts import LetterTemplate, Wording

LOOP = re.compile(r"{% for line in (\w+) %}")
SAMPLES = {
    "reference": "ERQ-2026-000000",
    "today": "2 March 2026",
    "received_on": "2 February 2026",
    "decided_on": "20 February 2026",
    "due": "2 March 2026",
    "original_due": "2 March 2026",
    "new_due": "4 May 2026",
    "name": "Jane Example",
    "person": "Jane Example",
    "code": "ABCD-2345",
    "role": "Case officer",
    "minutes": "15",
    "hours": "72",
}
"""Made up; what the settings say of the controller comes from there."""


@dataclass(frozen=True)
class LetterRow:
    """A letter in one language: its template, and the SHA-256 of its text with all parts."""

    template: LetterTemplate
    digest: str
    in_use: bool  # it is what goes out; else English with a line that says so


def letter_rows(kind: str) -> list[LetterRow]:
    """The letter in each language that there is one in, in the order of the languages."""
    found = []
    for code, _name in settings.LANGUAGES:
        if kind in letter_texts.kinds(code):
            template = letter_texts.load_template(kind, code)
            digest = hashlib.sha256(template.text.encode()).hexdigest()
            used = letter_texts.language_of(kind, code) == code
            found.append(LetterRow(template, digest, used))
    return found


def sample_letter(template: LetterTemplate) -> Wording:
    """The letter with samples in all its slots; a slot without one shows its own name."""
    looped = set(LOOP.findall(template.text))
    known = SAMPLES | {
        "controller": settings.RTBF_CONTROLLER_NAME,
        "controller_name": settings.RTBF_CONTROLLER_NAME,
        "controller_address": settings.RTBF_CONTROLLER_ADDRESS,
        "controller_email": settings.RTBF_CONTROLLER_EMAIL,
        "controller_phone": settings.RTBF_CONTROLLER_PHONE,
        "dpo_contact": settings.RTBF_DPO_CONTACT,
        "authority_name": settings.RTBF_AUTHORITY_NAME,
        "authority_url": settings.RTBF_AUTHORITY_URL,
    }
    values = {slot: known.get(slot, f"[{slot.replace('_', ' ')}]") for slot in template.slots}
    fill = {slot: [value] if slot in looped else value for slot, value in values.items()}
    return letter_texts.word(template.kind, template.language, lambda: fill)
