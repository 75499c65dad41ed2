"""An installation of its own on PostgreSQL, in this process, for benchmarks of the record."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django

from tests.postgres import postgres_url


@contextmanager
def installed(root: Path, **more: str) -> Iterator[None]:
    """Migrated, with its folder `root` and no mail; `more` are further environment variables."""
    with postgres_url() as url:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "rtbf.settings",
            "DATABASE_URL": url,
            "RTBF_VAR_DIR": str(root),
            "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend",
            "RTBF_LOG_LEVEL": "ERROR",
            **more,
        }
        (root / "static").mkdir()
        django.setup()
        from django.conf import settings
        from django.core.management import call_command
        from django.db import connection

        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        call_command("migrate", verbosity=0)
        try:
            yield
        finally:
            connection.close()
