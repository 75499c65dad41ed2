"""The demo's person at a browser sends what a browser would send."""

import httpx
import pytest

from rtbf.visitor import VisitError, Visitor, read_forms

PAGE = """
<form method="post" action="/send"><input type="hidden" name="csrf" value="x">
<input name="name" value="old"><textarea name="message">
two
lines</textarea>
<select name="language"><option value="de">Deutsch</option><option value="en" selected>English
</option></select>
<input type="radio" name="who" value="me" checked><input type="radio" name="who" value="other">
<input type="checkbox" name="agree"><button name="go" value="1">Send
  request</button><button disabled>Later</button></form>
<form action="/find"><input name="q"><input type="submit" value="Search"></form>
"""


def test_defaults_are_those_of_a_browser() -> None:
    send, find = read_forms(PAGE)
    assert (send.method, send.action) == ("post", "/send")
    assert send.values == [
        ("csrf", "x"), ("name", "old"), ("message", "two\nlines"), ("language", "en"), ("who", "me")
    ]  # fmt: skip
    assert send.buttons == {"Send request": ("go", "1"), "Later": None}
    assert send.disabled == {"Later"}
    assert send.names == {"csrf", "name", "message", "language", "who", "agree"}
    assert (find.method, find.buttons) == ("get", {"Search": None})


def test_a_button_with_an_address_of_its_own_sends_the_form_there() -> None:
    page = """
    <form method="post" action="/confirm"><input name="reference"><button>Confirm</button>
    <button formaction="/resend">Send a new code</button></form>
    """
    posted: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posted.append(f"{request.url.path} {request.content.decode()}")
        return httpx.Response(200, text=page)

    window = Visitor("http://app.example")
    window.http = httpx.Client(base_url="http://app.example", transport=httpx.MockTransport(answer))
    window.open("/")
    window.press("Send a new code", {"reference": "R"})
    window.press("Confirm", {"reference": "R"})
    assert posted == ["/resend reference=R", "/confirm reference=R"]
    with pytest.raises(VisitError):
        window.press("Send another code")
    window.close()
