"""A person at a browser, over plain HTTP: opens pages, fills in forms, presses buttons by text.

The demo and the process tests use it, so that what they do is what a page offers and nothing else.
"""

from __future__ import annotations

import html.parser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpx


class VisitError(RuntimeError):
    """The page has no such button or answered with an error; the message names page and reason."""


@dataclass
class Form:
    """One <form>: its defaults as a browser would send them, and its buttons by text; `elsewhere`
    are the addresses of buttons that have their own."""

    action: str = ""
    method: str = "get"
    values: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    buttons: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    elsewhere: dict[str, str] = field(default_factory=dict)


class _Forms(html.parser.HTMLParser):
    """Collect forms; enough of HTML for pages without script."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.inside: Form | None = None
        self.button: dict[str, str | None] | None = None
        self.select: str | None = None
        self.area: str | None = None
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        if tag == "form":
            self.inside = Form(action=a.get("action") or "", method=(a.get("method") or "get"))
            self.forms.append(self.inside)
        elif self.inside is None:
            return
        elif tag == "input":
            self._input(self.inside, a)
        elif tag == "select":
            self.select = a.get("name")
            self.inside.names.add(self.select or "")
        elif tag == "option" and self.select and "selected" in a:
            self.inside.values.append((self.select, a.get("value") or ""))
        elif tag == "textarea":
            self.area, self.text = a.get("name"), ""
            self.inside.names.add(self.area or "")
        elif tag == "button":
            self.button, self.text = a, ""

    def _input(self, form: Form, a: dict[str, str | None]) -> None:
        kind, name, value = a.get("type") or "text", a.get("name") or "", a.get("value")
        if kind == "submit":
            form.buttons[value or "Submit"] = (name, value or "") if name else None
            return
        form.names.add(name)
        if kind in {"radio", "checkbox"}:
            if "checked" in a:
                form.values.append((name, value if value is not None else "on"))
        elif name and "disabled" not in a:
            form.values.append((name, value or ""))

    def handle_data(self, data: str) -> None:
        if self.button is not None or self.area is not None:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if self.inside is None:
            return
        if tag == "form":
            self.inside = None
        elif tag == "select":
            self.select = None
        elif tag == "textarea" and self.area is not None:
            self.inside.values.append((self.area, self.text.removeprefix("\n")))
            self.area = None
        elif tag == "button" and self.button is not None:
            text = " ".join(self.text.split())
            name = self.button.get("name")
            self.inside.buttons[text] = (name, self.button.get("value") or "") if name else None
            if address := self.button.get("formaction"):
                self.inside.elsewhere[text] = address
            if "disabled" in self.button or self.button.get("aria-disabled") == "true":
                self.inside.disabled.add(text)
            self.button = None


def read_forms(page: str) -> list[Form]:
    parser = _Forms()
    parser.feed(page)
    return parser.forms


class Visitor:
    """One browser window with its own cookies."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=True, timeout=60, trust_env=False)
        self.response = httpx.Response(204)

    def close(self) -> None:
        self.http.close()

    @property
    def page(self) -> str:
        return self.response.text

    @property
    def path(self) -> str:
        return self.response.url.path

    def open(self, path: str) -> str:
        """GET a page; VisitError unless it answers 200."""
        self.response = self.http.get(path)
        return self._checked(f"GET {path}")

    def press(self, button: str, fields: Mapping[str, str | list[str]] | None = None) -> str:
        """Press the first enabled button with this text, its form filled in with `fields`."""
        for form in read_forms(self.page):
            if button not in form.buttons or button in form.disabled:
                continue
            given = dict(fields or {})
            if unknown := set(given) - form.names:
                raise VisitError(f"{self.path}: the form has no field {sorted(unknown)}")
            data: dict[str, list[str]] = {}
            for name, value in form.values:
                data.setdefault(name, []).append(value)
            for name, wanted in given.items():
                data[name] = [wanted] if isinstance(wanted, str) else wanted
            if pressed := form.buttons[button]:
                data[pressed[0]] = [pressed[1]]
            address = urljoin(str(self.response.url), form.elsewhere.get(button, form.action))
            if form.method.lower() == "post":
                headers = {"Referer": str(self.response.url)}
                self.response = self.http.post(address, data=data, headers=headers)
            else:
                self.response = self.http.get(address, params=data)
            return self._checked(f"pressing “{button}”")
        offered = [text for form in read_forms(self.page) for text in form.buttons]
        raise VisitError(f"{self.path} has no button “{button}” to press; it offers {offered}")

    def find(self, pattern: str) -> str:
        """First group of a regular expression on the page; VisitError if it is not there."""
        if not (found := re.search(pattern, self.page)):
            raise VisitError(f"{self.path} shows nothing like {pattern}")
        return found[1]

    def _checked(self, what: str) -> str:
        if self.response.status_code != 200:
            heading = re.search(r"<h1[^>]*>(.*?)</h1>", self.page, re.S)
            said = re.sub(r"<[^>]+>|\s+", " ", heading[1]).strip() if heading else ""
            raise VisitError(f"{what} answered {self.response.status_code} at {self.path}: {said}")
        return self.page
