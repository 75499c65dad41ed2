"""Catalogues have no gap, break no placeholder, and are compiled as they stand."""

import importlib
from datetime import date

import polib
import pytest
from django.conf import settings
from django.utils import translation
from django.utils.formats import date_format
from django.utils.translation import ngettext

from requests_app.services.intake import MESSAGE_LENGTH
from rtbf import translations
from workers.protocol import MERGED_RULES, RULES

LANGUAGES = ["de", "es", "fr", "it", "pl"]


def test_these_languages_are_offered_by_their_own_names() -> None:
    assert translations.languages() == LANGUAGES
    assert dict(settings.LANGUAGES) == {
        "de": "Deutsch",
        "en": "English",
        "es": "Español",
        "fr": "Français",
        "it": "Italiano",
        "pl": "Polski",
    }


def test_every_official_language_of_the_union_can_be_added() -> None:
    assert len(settings.EU_LANGUAGES) == 24
    for code in settings.EU_LANGUAGES:
        assert translation.get_language_info(code)["code"] == code  # Maltese too


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_has_exactly_the_texts_of_the_source_and_no_gap(language: str) -> None:
    stored = polib.pofile(str(translations.catalogue(language)))
    wanted = {(message.text, message.plural) for message in translations.messages()}
    assert {(entry.msgid, entry.msgid_plural) for entry in stored} == wanted
    assert translations.faults(stored) == []
    assert stored.metadata["Plural-Forms"] == translations.PLURALS[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_is_compiled_as_it_stands(language: str) -> None:
    path = translations.catalogue(language)
    stored = translations.compiled(polib.pofile(str(path)))
    assert path.with_suffix(".mo").read_bytes() == stored, "run manage.py translations"


def test_gaps_doubts_and_broken_placeholders_are_found() -> None:
    catalogue = polib.POFile()
    good = polib.POEntry(msgid="%(a)s of %(b)s", msgstr="%(b)s: %(a)s")
    bad = [
        polib.POEntry(msgid="empty", msgstr=" "),
        polib.POEntry(msgid="doubtful", msgstr="x", flags=["fuzzy"]),
        polib.POEntry(msgid="%(name)s", msgstr="%(nom)s"),
        polib.POEntry(msgid="95%% %(value)s", msgstr="95% %(value)s"),
        polib.POEntry(
            msgid="%(n)d day", msgid_plural="%(n)d days", msgstr_plural={0: "%(n)d", 1: ""}
        ),
    ]
    catalogue.extend([good, *bad])
    assert len(translations.faults(catalogue)) == len(bad)


def test_the_source_is_read_from_code_templates_and_probes() -> None:
    found = {message.text for message in translations.messages()}
    assert "Erase my data from: %(target)s (%(kind)s)" in found  # code
    assert "Step %(number)s of %(total)s" in found  # a template
    assert "Does general language suffer?" in found  # a probe
    assert f"Your text must be {MESSAGE_LENGTH:,} characters or fewer" in found


def test_every_question_that_decides_is_translated() -> None:
    found = {message.text for message in translations.messages()}
    for name in {**RULES, **MERGED_RULES}:
        assert importlib.import_module(f"workers.probes.{name}").QUESTION in found


@pytest.mark.parametrize(
    "language, words",
    [
        ("de", {1: "1 Frage", 2: "2 Fragen", 0: "0 Fragen"}),
        ("fr", {1: "1 question", 2: "2 questions", 0: "0 question"}),
        ("pl", {1: "1 pytanie", 2: "2 pytania", 5: "5 pytań", 12: "12 pytań", 22: "22 pytania"}),
        ("pl", {0: "0 pytań", 21: "21 pytań", 104: "104 pytania", 112: "112 pytań"}),
    ],
)
def test_plurals_follow_the_language(language: str, words: dict[int, str]) -> None:
    with translation.override(language):
        for count, text in words.items():
            told = ngettext("%(count)d question", "%(count)d questions", count) % {"count": count}
            assert told == text


@pytest.mark.parametrize(
    "language, spelt",
    [
        ("en", "2 November 2026"),
        ("de", "2. November 2026"),
        ("es", "2 de noviembre de 2026"),
        ("fr", "2 novembre 2026"),
        ("it", "2 novembre 2026"),
        ("pl", "2 listopada 2026"),
    ],
)
def test_dates_are_spelt_as_the_language_does(language: str, spelt: str) -> None:
    with translation.override(language):
        assert date_format(date(2026, 11, 2), "DATE_FORMAT") == spelt
