"""Calls to other parties reach listed hosts at public addresses, and nothing else."""

import ipaddress
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import outgoing
from requests_app.outgoing import CallRefused, NoAnswer, call, is_public, target
from tests import tls_server
from tests.tls_server import Seen, served

HOSTS = frozenset({"vendor.example", "vendor.example:8443", "localhost:1", "127.0.0.1:1"})
CLOSED = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "0.0.0.0/8",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::1/128",
    "::/128",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2001::/32",
    "2002::/16",
    "2001:db8::/32",
]
IN_CLOSED = st.sampled_from(CLOSED).flatmap(
    lambda text: st.ip_addresses(network=text)  # of that network
)


@given(IN_CLOSED)
def test_no_private_or_special_address_is_public(ip: ipaddress.IPv4Address) -> None:
    assert not is_public(str(ip))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_an_ipv6_dress_is_never_public(ip: ipaddress.IPv4Address) -> None:
    number = int(ip)
    dressed = [(0xFFFF << 32) + number, number, (0x64FF9B << 96) + number]
    dressed += [(0x2002 << 112) + (number << 80), (0x20010000 << 96) + (number ^ 0xFFFFFFFF)]
    assert not any(is_public(str(ipaddress.IPv6Address(each))) for each in dressed)


@given(st.ip_addresses())
def test_what_passes_is_global_by_the_standard_library_too(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert not is_public(str(ip)) or (ip.is_global and not ip.is_multicast)


@given(st.text(max_size=40))
def test_what_is_no_address_is_not_public(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        assert not is_public(text)


def test_ordinary_addresses_pass() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_a_listed_host_is_called_at_443_or_at_a_listed_port() -> None:
    assert target("https://Vendor.example/x?y=1", HOSTS).port == 443
    assert target("https://vendor.example:8443", HOSTS).path == "/"


@pytest.mark.parametrize(
    "url",
    [
        "http://vendor.example/",
        "https://vendor.example:22/",
        "https://other.example/",
        "https://vendor.example.evil.example/",
        "https://vendor.example@evil.example/",
        "https://user:pass@vendor.example/",
        "https://vendor.example\\@evil.example/",
        "https://vendor.example#@evil.example/",
        "https://vendor.example/x y",
        "https://vendor.example/\r\nHost: evil.example",
        "https://vendor.example./",
        "https://véndor.example/",
        "//vendor.example/",
        "file:///etc/passwd",
        "gopher://vendor.example/",
        "https://[::1]/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://vendor.example:99999999/",
        "",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(CallRefused):
        target(url, HOSTS)


@given(st.text(max_size=80))
def test_no_text_is_called_that_is_not_listed(text: str) -> None:
    for url in (text, f"https://{text}", f"https://vendor.example{text}"):
        try:
            found = target(url, HOSTS)
        except CallRefused:
            continue
        assert (found.host, found.port) in {("vendor.example", 443), ("vendor.example", 8443)}


def test_plain_http_is_for_this_machine_with_demo_data_alone(settings: Settings) -> None:
    assert target("http://localhost:1/", HOSTS).is_local
    settings.RTBF_DEMO_DATA = False
    with pytest.raises(CallRefused, match="Only https"):
        target("http://localhost:1/", HOSTS)


@pytest.mark.parametrize(
    "found",
    [["127.0.0.1"], ["10.1.2.3"], ["93.184.215.14", "169.254.169.254"], ["::ffff:10.0.0.1"]],
)
def test_a_name_that_leads_inside_is_refused(
    found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single bad address among good ones is enough; nothing is connected to."""
    answers = [(0, 0, 0, "", (ip, 443)) for ip in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answers)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("called"))
    with pytest.raises(CallRefused, match="not public"):
        call("GET", "https://vendor.example/", hosts=HOSTS)


def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that answers differently the second time (rebinding) changes nothing."""
    asked, connected = [], []

    def resolve(*args: object, **kwargs: object) -> list[object]:
        asked.append(args)
        ip = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(0, 0, 0, "", (ip, 443))]

    def connect(address: object, *args: object, **kwargs: object) -> socket.socket:
        connected.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(NoAnswer):
        call("GET", "https://vendor.example/", hosts=HOSTS)
    assert connected == [("93.184.215.14", 443)]
    assert len(asked) == 1


def test_the_machines_own_addresses_are_closed_outside_a_demo(
    settings: Settings, tmp_path: Path
) -> None:
    with served(lambda seen: (200, {}, b"inside"), tmp_path) as (port, seen):
        settings.RTBF_DEMO_DATA = False
        with pytest.raises(CallRefused, match="not public"):
            call("GET", f"https://localhost:{port}/", hosts={f"localhost:{port}"})
        assert seen == []


@pytest.fixture
def trusted(settings: Settings, tmp_path: Path) -> Path:
    settings.RTBF_OUTGOING_CA = str(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_bytes(tls_server.certificate().ca_pem)
    return tmp_path


def test_an_answer_over_tls_comes_back_whole(trusted: Path) -> None:
    def reply(seen: Seen) -> tls_server.Reply:
        return 201, {"X-Kind": "Receipt"}, b"got " + seen.body

    with served(reply, trusted) as (port, seen):
        url = f"https://localhost:{port}/requests?x=1"
        answer = call("POST", url, hosts={f"localhost:{port}"}, content=b"body")
    assert (answer.status, answer.body, answer.headers["x-kind"]) == (201, b"got body", "Receipt")
    assert (seen[0].method, seen[0].path) == ("POST", "/requests?x=1")
    assert seen[0].headers["host"] == f"localhost:{port}"


def test_a_certificate_of_nobody_is_refused(settings: Settings, tmp_path: Path) -> None:
    with (
        served(lambda seen: (200, {}, b""), tmp_path) as (port, _),
        pytest.raises(NoAnswer),
    ):
        call("GET", f"https://localhost:{port}/", hosts={f"localhost:{port}"})


def test_a_certificate_for_another_name_is_refused(trusted: Path) -> None:
    with served(lambda seen: (200, {}, b""), trusted) as (port, seen):
        with pytest.raises(NoAnswer):
            call("GET", f"https://127.0.0.1:{port}/", hosts={f"127.0.0.1:{port}"})
        assert seen == []


def test_a_redirect_is_an_answer_and_not_followed(trusted: Path) -> None:
    def reply(seen: Seen) -> tls_server.Reply:
        return 302, {"Location": "https://localhost:1/"}, b""

    with served(reply, trusted) as (port, seen):
        answer = call("GET", f"https://localhost:{port}/", hosts={f"localhost:{port}"})
        assert answer.status == 302
        assert len(seen) == 1


def test_a_proxy_of_the_environment_is_not_used(
    trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with served(lambda seen: (200, {}, b"direct"), trusted) as (port, _):
        answer = call("GET", f"https://localhost:{port}/", hosts={f"localhost:{port}"})
    assert answer.body == b"direct"


def test_an_answer_that_does_not_end_is_cut(trusted: Path) -> None:
    big = b"x" * (outgoing.LARGEST_ANSWER + 1)
    with (
        served(lambda seen: (200, {}, big), trusted) as (port, _),
        pytest.raises(NoAnswer, match="too long"),
    ):
        call("GET", f"https://localhost:{port}/", hosts={f"localhost:{port}"})


def test_an_answer_that_trickles_is_cut(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 0.4)

    def reply(seen: Seen) -> tls_server.Reply:
        time.sleep(0.8)
        return 200, {}, b""

    began = time.monotonic()
    with served(reply, trusted) as (port, _):
        with pytest.raises(NoAnswer):
            call("GET", f"https://localhost:{port}/", hosts={f"localhost:{port}"})
        assert time.monotonic() - began < 0.8
