"""Calls to servers of other parties: listed hosts, public addresses, nothing followed.

Against server-side request forgery (OWASP): https, except to this machine where there is demo data;
the host must be listed, with its port unless that is 443; the name is resolved once, every address
must be public, and the connection goes to just that address while TLS checks the name; no
redirects, no proxies from the environment; one limit of seconds and of bytes for the whole answer.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import certifi
import httpcore
from django.conf import settings

SECONDS = 10.0
LARGEST_ANSWER = 256 * 1024
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>\d{1,5}))?(?P<path>/[!-~]*)?"
)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

# IANA special-purpose registries (RFC 6890) and multicast. Of IPv6 only 2000::/3 is routed, so that
# mapped, translated (64:ff9b::/96), link-local, site-local and unique local addresses are out.
V4_CLOSED = tuple(
    map(
        ipaddress.IPv4Network,
        [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ],
    )
)
V6_OPEN = ipaddress.IPv6Network("2000::/3")
V6_CLOSED = tuple(  # Teredo and others; 6to4, which carries an IPv4 address; documentation
    map(
        ipaddress.IPv6Network,
        ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"],
    )
)


class OutgoingError(Exception):
    """A call was not made or brought no answer; the text holds no address and no content."""


class CallRefused(OutgoingError):
    """The address is not one that may be called."""


class NoAnswer(OutgoingError):
    """The server cannot be reached, or its answer is too long or too slow."""


@dataclass(frozen=True)
class Answer:
    """What a server said; names of headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Target:
    """An address that may be called."""

    scheme: str
    host: str  # lower case; IPv6 in brackets
    port: int
    path: str

    @property
    def is_local(self) -> bool:
        return self.host in LOOPBACK


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; False for what is not an address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in V4_CLOSED)
    return ip in V6_OPEN and not any(ip in network for network in V6_CLOSED)


def target(url: str, hosts: Collection[str]) -> Target:
    """The parts of an address whose host is listed as `host` (port 443) or `host:port`.

    Raises CallRefused for anything else: other schemes, user names, odd characters, fragments.
    """
    found = URL.fullmatch(url)
    if found is None or "#" in url or "\\" in url:
        raise CallRefused("This is not a plain https address.")
    scheme, host, path = found["scheme"], found["host"].lower(), found["path"] or "/"
    port = int(found["port"] or (443 if scheme == "https" else 80))
    if scheme != "https" and not (host in LOOPBACK and settings.RTBF_DEMO_DATA):
        raise CallRefused("Only https addresses are called.")
    if f"{host}:{port}" not in hosts and not (port == 443 and host in hosts):
        raise CallRefused("This host is not listed.")
    if not 0 < port < 2**16:
        raise CallRefused("This is no port.")
    return Target(scheme, host, port, path)


def call(
    method: str,
    url: str,
    *,
    hosts: Collection[str],
    content: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request and its answer, whatever its status. Raises CallRefused, NoAnswer."""
    to = target(url, hosts)
    backend = _Pinned(to, until=time.monotonic() + SECONDS)
    sent = {
        "host": _host_header(to),
        "accept-encoding": "identity",
        "connection": "close",
        **(headers or {}),
    }
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool,
            pool.stream(
                method,
                f"{to.scheme}://{to.host}:{to.port}{to.path}",
                headers=list(sent.items()),
                content=content,
            ) as response,
        ):
            body = _bounded(response.iter_stream())
            names = {name.decode("ascii").lower(): value for name, value in response.headers}
            return Answer(response.status, {n: v.decode("latin-1") for n, v in names.items()}, body)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as problem:
        raise NoAnswer(f"The server gave no answer ({type(problem).__name__}).") from None
    except (OSError, ValueError) as problem:
        raise NoAnswer(f"The server gave no answer ({type(problem).__name__}).") from None


def addresses(to: Target) -> list[str]:
    """The addresses of a host, all of them public, or all of this machine for one that says so.

    Raises CallRefused if a single one is not, NoAnswer for a name that does not resolve.
    """
    try:
        found = socket.getaddrinfo(to.host.strip("[]"), to.port, type=socket.SOCK_STREAM)
    except OSError as problem:
        raise NoAnswer(f"The name does not resolve ({type(problem).__name__}).") from None
    ips = list(dict.fromkeys(str(each[4][0]) for each in found))
    allowed = _is_loopback if to.is_local and settings.RTBF_DEMO_DATA else is_public
    if not ips or not all(map(allowed, ips)):
        raise CallRefused("The name leads to an address that is not public.")
    return ips


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _host_header(to: Target) -> str:
    return to.host if to.port == {"https": 443, "http": 80}[to.scheme] else f"{to.host}:{to.port}"


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    if settings.RTBF_OUTGOING_CA:
        context.load_verify_locations(cafile=settings.RTBF_OUTGOING_CA)
    return context


def _bounded(chunks: Iterable[bytes]) -> bytes:
    body = b""
    for chunk in chunks:
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise NoAnswer("The answer is too long.")
    return body


class _Pinned(httpcore.NetworkBackend):
    """Connects to the one address that was checked; the name is not resolved a second time."""

    def __init__(self, to: Target, *, until: float) -> None:
        self._to, self._until = to, until

    def connect_tcp(
        self, host: str, port: int, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        ip = addresses(self._to)[0]
        stream = httpcore.SyncBackend().connect_tcp(ip, port, timeout=_left(self._until))
        return _Hurried(stream, self._until)


class _Hurried(httpcore.NetworkStream):
    """A stream that has until a moment, whatever trickles in meanwhile."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream, self._until = stream, until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=_left(self._until))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=_left(self._until))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        name = server_hostname.strip("[]") if server_hostname else None
        stream = self._stream.start_tls(ssl_context, name, timeout=_left(self._until))
        return _Hurried(stream, self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise NoAnswer("The answer takes too long.")
    return left
