"""Simple limits on the public forms and the API: so many tries per address or client and window.

Counts live in the cache, under a keyed digest of the address (the address itself is not stored).
Behind a proxy the web server must be told to trust its forwarded address, or all clients are one.
Without the cache the limit is not counted: the form stays usable, and the codes keep their own
counters in the database.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.crypto import salted_hmac
from redis.exceptions import RedisError

View = Callable[..., HttpResponse]
logger = logging.getLogger(__name__)


def limit_posts(name: str, *, tries: int, seconds: int) -> Callable[[View], View]:
    """Answer 429 to the POST after `tries` within `seconds` from one address; GET is free."""

    def decorate(view: View) -> View:
        @wraps(view)
        def limited(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            address = request.META.get("REMOTE_ADDR", "")
            if request.method == "POST" and count(name, address, seconds=seconds) > tries:
                minutes = max(1, round(seconds / 60))
                response = render(request, "429.html", {"minutes": minutes}, status=429)
                response.headers["Retry-After"] = str(seconds)
                return response
            return view(request, *args, **kwargs)

        return limited

    return decorate


def count(name: str, who: str, *, seconds: int) -> int:
    """Count this try of an address or a client, and return how many there were in the window."""
    key = f"limit:{name}:{salted_hmac('rtbf.limit', who, algorithm='sha256').hexdigest()[:32]}"
    try:
        cache.add(key, 0, timeout=seconds)
        return cache.incr(key)
    except ValueError:  # ran out between the two calls: a new window
        return 1
    except RedisError as problem:
        logger.warning("Limit “%s” not counted (%s).", name, type(problem).__name__)
        return 0
