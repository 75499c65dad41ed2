"""The catalogues of messages: what has to be translated, and their compiled form.

Pure Python, so that no machine needs the gettext programs; polib is needed by translators and tests
alone, since the compiled catalogues are kept beside their source. English is the source: what
`gettext` and its kin are called with in the code, `{% translate %}` and `{% blocktranslate %}` in
the templates, the QUESTION of every probe, and the names of the months.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polib
from django.conf import settings
from django.template import Template
from django.templatetags.i18n import BlockTranslateNode, TranslateNode
from django.utils.dates import MONTHS
from django.utils.translation import override, trim_whitespace

ONE = frozenset({"_", "_t", "gettext", "gettext_lazy", "gettext_noop"})
TWO = frozenset({"ngettext", "ngettext_lazy"})
PLACEHOLDER = re.compile(r"%\((\w+)\)[sd]|%%")
PLURALS = {
    "de": "nplurals=2; plural=(n != 1);",
    "es": "nplurals=2; plural=(n != 1);",
    "fr": "nplurals=2; plural=(n > 1);",
    "it": "nplurals=2; plural=(n != 1);",
    "pl": ("nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);"),
}
"""The plural forms of each language that has a catalogue (gettext's own formulas)."""


@dataclass(frozen=True)
class Message:
    """A text of the source; `plural` is empty where it has one form."""

    text: str
    plural: str = ""


def messages() -> list[Message]:
    """Every text that has to be translated, once, in a stable order."""
    base = Path(settings.BASE_DIR)
    found: dict[Message, None] = {}
    for path in sorted((base / "requests_app").rglob("*.py")):
        if "migrations" not in path.parts:
            found.update(dict.fromkeys(_of_code(ast.parse(path.read_text("utf-8")))))
    for path in sorted((base / "templates").rglob("*.html")):
        found.update(dict.fromkeys(_of_template(path.read_text("utf-8"))))
    for path in sorted((base / "workers" / "probes").glob("*.py")):
        found.update(dict.fromkeys(_questions(ast.parse(path.read_text("utf-8")))))
    with override(None):  # no language: the source itself
        found.update(dict.fromkeys(Message(str(name)) for name in MONTHS.values()))
    return list(found)


def languages() -> list[str]:
    """The languages that have a catalogue."""
    return sorted(path.name for path in _folder().iterdir() if catalogue(path.name).exists())


def catalogue(language: str) -> Path:
    return _folder() / language / "LC_MESSAGES" / "django.po"


def updated(language: str) -> polib.POFile:
    """The catalogue with exactly the messages of the source; what it knew of them stays."""
    old = polib.pofile(str(catalogue(language))) if catalogue(language).exists() else []
    known = {(entry.msgid, entry.msgid_plural): entry for entry in old}
    new = polib.POFile(wrapwidth=96)
    new.metadata = {
        "Language": language,
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=UTF-8",
        "Content-Transfer-Encoding": "8bit",
        "Plural-Forms": PLURALS[language],
    }
    forms = range(int(PLURALS[language][len("nplurals=")]))
    for message in messages():
        entry = known.get((message.text, message.plural))
        if entry is None:
            entry = polib.POEntry(msgid=message.text, msgid_plural=message.plural)
            if message.plural:
                entry.msgstr_plural = dict.fromkeys(forms, "")
        if PLACEHOLDER.search(message.text) and "python-format" not in entry.flags:
            entry.flags.append("python-format")
        new.append(entry)
    return new


def compiled(catalogue: polib.POFile) -> bytes:
    """The catalogue as Django reads it (.mo); the same bytes for the same catalogue."""
    data: bytes = catalogue.to_binary()
    return data


def faults(catalogue: polib.POFile) -> list[str]:
    """What is missing, not sure, or would break when a value is put in."""
    found = []
    for entry in catalogue:
        texts = list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]
        if entry.fuzzy:
            found.append(f"not sure: {entry.msgid}")
        if not all(text.strip() for text in texts):
            found.append(f"missing: {entry.msgid}")
            continue
        sources = [entry.msgid, *[entry.msgid_plural or entry.msgid] * (len(texts) - 1)]
        found += [
            f"other placeholders: {entry.msgid}"
            for text, source in zip(texts, sources, strict=True)
            if sorted(PLACEHOLDER.findall(text)) not in _wanted(source, entry)
            or ("%" in PLACEHOLDER.sub("", text)) != ("%" in PLACEHOLDER.sub("", source))
        ]
    return found


def _wanted(source: str, entry: polib.POEntry) -> list[list[str]]:
    """The placeholders that a form may have: its source's; the first, which may be said of other
    numbers than one, also those of the plural."""
    of = [source, entry.msgid_plural] if source == entry.msgid and entry.msgid_plural else [source]
    return [sorted(PLACEHOLDER.findall(each)) for each in of]


def _folder() -> Path:
    return Path(settings.BASE_DIR) / "locale"


def _of_code(tree: ast.Module) -> Iterator[Message]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        texts = [
            arg.value
            for arg in node.args
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        if node.func.id in TWO and len(texts) >= 2:
            yield Message(texts[0], texts[1])
        elif node.func.id in ONE and texts:
            yield Message(texts[0])


def _of_template(source: str) -> Iterator[Message]:
    nodelist: Any = Template(source).nodelist
    for node in nodelist.get_nodes_by_type(TranslateNode):
        literal = node.filter_expression.var.literal
        if isinstance(literal, str):  # a variable's texts are marked where they are written
            yield Message(literal.replace("%", "%%"))
    for node in nodelist.get_nodes_by_type(BlockTranslateNode):
        parts = [node.render_token_list(tokens)[0] for tokens in (node.singular, node.plural)]
        yield Message(*(trim_whitespace(part) if node.trimmed else part for part in parts))


def _questions(tree: ast.Module) -> Iterator[Message]:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "QUESTION"
            and isinstance(node.value, ast.Constant)
        ):
            yield Message(str(node.value.value))
