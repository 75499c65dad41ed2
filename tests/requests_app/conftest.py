"""For tests that ask for pages."""

from pathlib import Path

import pytest
from pytest_django.fixtures import Settings


@pytest.fixture(autouse=True)
def static_folder(settings: Settings, tmp_path: Path) -> None:
    """Collected static files lie nowhere in tests; the server only wants the folder to be there."""
    settings.STATIC_ROOT = str(tmp_path)
