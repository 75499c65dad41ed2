"""How values lie in the cache server: as JSON, never pickled.

Whoever could write to Redis could otherwise have every web process run code, since unpickling does.
"""

import json
from typing import Any


class JsonSerializer:
    """Django's `OPTIONS["serializer"]` of the Redis cache; whole numbers stay such, for `incr`."""

    def dumps(self, value: Any) -> int | bytes:
        return value if type(value) is int else json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        """ValueError for what is no JSON."""
        try:
            return int(data)
        except ValueError:
            return json.loads(data)
