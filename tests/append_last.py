"""What a service appends to the log comes last in its transaction."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

LOG = re.compile(r"requests_app_(loghead|auditentry|auditopening)\b")
# A case's number is given under the lock of the log, and its letter names it; a note is stored
# under the number of its entry; a key is known from its entry on.
NEEDS_IT = re.compile(
    r'requests_app_(letter|vaultitem|casekey|auditkey)\b|SET "reference" =|AS "reference" FROM'
)


@contextmanager
def appended_last() -> Iterator[None]:
    """From a transaction's first look at the head of the log to its commit everybody else's entries
    wait: meanwhile nothing may be asked of the database but the log.

    Within the transaction of a test, where each service has a savepoint; a transactional test is
    not looked at.
    """
    late = list[str]()
    depth, appending = 0, False

    def noted(execute: Any, sql: str, *rest: Any) -> Any:
        nonlocal depth, appending
        if "SAVEPOINT" in sql:
            depth += -1 if sql.startswith("RELEASE") else sql.startswith("SAVEPOINT")
            appending = appending and depth > 0
        elif LOG.search(sql):
            appending = appending or ("loghead" in sql and depth > 0)
        elif appending and not NEEDS_IT.search(sql):
            late.append(sql)
        return execute(sql, *rest)

    if not connection.in_atomic_block:
        yield
        return
    with connection.execute_wrapper(noted):
        yield
    assert late == []
