"""The demo's person at a browser sends what a browser would send."""

from rtbf.visitor import read_forms

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
