"""What the installation refuses to start with."""

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pytest_django.fixtures import Settings


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("RTBF_JURISDICTION", "EU/2026-1", "Known: EU, UK, CA"),
        ("RTBF_JURISDICTION", "US", "RTBF_JURISDICTION"),
        ("RTBF_HOLIDAY_COUNTRY", "XX", "RTBF_HOLIDAY_COUNTRY"),
        ("RTBF_HOLIDAY_COUNTRY", "BE-XX", "RTBF_HOLIDAY_COUNTRY"),
    ],
)
def test_rules_or_holidays_that_do_not_exist_are_refused_with_what_to_do(
    settings: Settings, name: str, value: str, words: str
) -> None:
    call_command("check")
    setattr(settings, name, value)
    with pytest.raises(SystemCheckError, match=words):
        call_command("check")


def test_every_calendar_that_a_profile_can_meet_is_accepted(settings: Settings) -> None:
    for region, country in (("EU", "DE-BY"), ("UK", "BE"), ("UK", "GB-NIR"), ("CA", "BE")):
        settings.RTBF_JURISDICTION, settings.RTBF_HOLIDAY_COUNTRY = region, country
        call_command("check")
