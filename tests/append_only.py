"""Lets the flush between transactional tests empty the append-only tables, and nothing else.

During a test the triggers stand. Only around Django's own flush, after the test, the owner of the
test database drops them and puts them back, with the very functions of the migration.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps
from django.db import connection

MIGRATION = importlib.import_module("requests_app.migrations.0002_append_only")


@contextmanager
def triggers_dropped() -> Iterator[None]:
    """As the owner of the tables: no triggers inside the block."""
    with connection.schema_editor() as editor:
        MIGRATION.allow_changes(apps, editor)
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            MIGRATION.refuse_changes(apps, editor)
