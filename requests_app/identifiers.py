"""Identifiers in one spelling, and what in a text may be one: plain functions, no record, no key.

Kinds: `email`, `phone`, `account` (IBAN or another account number) and `customer_id`. A name is no
identifier: other people have it too. Whatever a text may mean by an identifier is a candidate, in
several spellings and lengths; that costs a look-up each, and a false alarm never, since only an
equal normal form matches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from datetime import date

KINDS = ("email", "phone", "account", "customer_id")
LONGEST = 34  # an IBAN's characters (ISO 13616)
TOKENS = 9  # groups of one identifier: an IBAN in fours
LEADING = 6  # letters before the figures, as in `C-100234`
# Letters and digits; what is shorter is looked for in its own field alone.
SHORTEST_CODE, SHORTEST_ACCOUNT = 5, 8
PHONE_DIGITS = range(7, 16)  # ITU-T E.164: 15 at most

_DIGIT_OR_AT = re.compile(r"[\d@]|\(at\)|\[at\]", re.IGNORECASE)
_EMAIL = re.compile(r"[^\s@<>\"'(),;:\[\]]+@[^\s@<>\"'(),;:\[\]/?&]+")
_WRITTEN_AT = re.compile(r"\s*[(\[]\s*at\s*[)\]]\s*", re.IGNORECASE)
_WRITTEN_DOT = re.compile(r"\s*[(\[]\s*dot\s*[)\]]\s*", re.IGNORECASE)
_GLUE = re.compile(r"[=/|!#$%&*?^`{}~]")
_TOKEN = re.compile(r"[^\W_]+")
_JOINING = " \t\n.,/()_+-"
_TRUNK_ZERO = re.compile(r"\(\s*0\s*\)")
_IBAN_START = re.compile(r"[a-z]{2}\d{2}")
_GMAIL = ("gmail.com", "googlemail.com")


class NotAnIdentifier(ValueError):
    """The value cannot be an identifier of its kind; the text does not quote it."""


def plain(text: str) -> str:
    """`text` in NFKC and casefolded, without invisible characters."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in {"Cf", "Cc"} or c.isspace())


def normal_form(kind: str, value: str, *, phone_prefix: str) -> str:
    """The one spelling of an identifier; `phone_prefix` are the country's digits, e.g. `32`.

    Raises NotAnIdentifier if the value cannot be one, and for an unknown kind.
    """
    text = plain(value).strip()
    if kind == "email":
        return _email(text)
    if kind == "phone":
        if digits := _phone(text, phone_prefix):
            return digits
        raise NotAnIdentifier("A phone number has 7 to 15 digits.")
    if kind not in KINDS:
        raise NotAnIdentifier(f"There is no kind “{kind}”. Known: {', '.join(KINDS)}.")
    code = "".join(_TOKEN.findall(text))
    if not any(c.isdecimal() for c in code) or len(code) > LONGEST:
        raise NotAnIdentifier(f"A {kind} has a digit and at most {LONGEST} letters and digits.")
    return code


def _email(text: str) -> str:
    """Local part without a sub-address (RFC 5233), domain in IDNA; Gmail's dots do not count."""
    local, at, domain = text.rpartition("@")
    local = local.partition("+")[0] or local
    try:
        domain = domain.strip(".").encode("idna").decode().lower()
    except UnicodeError:
        domain = ""
    if domain in _GMAIL:
        local, domain = local.replace(".", ""), _GMAIL[0]
    if not at or not local or "." not in domain or len(text) > 254:
        raise NotAnIdentifier("This is not an e-mail address.")
    return f"{local}@{domain}"


def _phone(text: str, prefix: str) -> str:
    """International digits: `02 555 01 00` and `+32 (0)2 555 01 00` are both `3225550100`; empty
    if there are too few or too many."""
    international = text.lstrip("( ").startswith("+")
    text = _TRUNK_ZERO.sub("", text) if "(" in text else text
    digits = "".join([c for c in text if c.isdecimal()])
    if not digits.isascii():
        digits = "".join(str(int(c)) for c in digits)
    if digits.startswith("00") and not international:
        digits = digits[2:]
    elif digits.startswith("0") and not international:
        digits = prefix + digits[1:]
    return digits if len(digits) in PHONE_DIGITS else ""


def candidates(
    text: str, *, phone_prefix: str, kinds: Collection[str] = KINDS
) -> Iterator[tuple[str, str]]:
    """Each (kind, normal form) that a text may mean, of `kinds` alone; some more than once."""
    if _DIGIT_OR_AT.search(text) is None and text.isascii():
        return
    text = plain(text)
    if "email" in kinds:
        for form in _emails(text):
            yield "email", form
    if len(kinds) > ("email" in kinds):
        yield from _codes(text, phone_prefix, kinds)


def _emails(text: str) -> Iterator[str]:
    if "at)" in text or "at]" in text or "at )" in text or "at ]" in text:
        text = _WRITTEN_DOT.sub(".", _WRITTEN_AT.sub("@", text))
    if "@" not in text:
        return
    for found in _EMAIL.finditer(text):
        address = found.group().rstrip(".!?*_|}")
        starts = [0, *(glue.end() for glue in _GLUE.finditer(address))]
        for start in starts:  # `to=zelda@…` is also read from behind the sign
            try:
                yield _email(address[start:].lstrip(".*_-"))
            except NotAnIdentifier:
                continue


def _codes(text: str, prefix: str, kinds: Collection[str]) -> Iterator[tuple[str, str]]:
    """Runs of words around a digit, joined: every end of each run that can begin an identifier.

    The inner loop of the training gate, hence plain and in one piece.
    """
    tokens = [(*found.span(), found.group()) for found in _TOKEN.finditer(text)]
    numeric = [not word.isalpha() for _, _, word in tokens]
    is_phone, is_account = "phone" in kinds, "account" in kinds
    is_customer = "customer_id" in kinds
    count = len(tokens)
    starts = set()
    for place in (place for place in range(count) if numeric[place]):
        starts.add(place)
        _, end, word = tokens[place - 1]
        if place and len(word) <= LEADING and tokens[place][0] - end == 1:
            starts.add(place - 1)
    for start in sorted(starts):
        begin, _, word = tokens[start]
        is_iban = _IBAN_START.match(word) is not None
        code, place = word, start
        while len(code) <= LONGEST:
            if place > start or numeric[start]:
                if is_customer and len(code) >= SHORTEST_CODE and place - start < 4:
                    yield "customer_id", code
                if is_account and len(code) >= SHORTEST_ACCOUNT:
                    yield "account", code
            if is_phone and len(code) >= 6 and code.isdecimal():
                sign = "+" if "+" in text[max(0, begin - 2) : begin] else ""
                if digits := _phone(sign + text[begin : tokens[place][1]], prefix):
                    yield "phone", digits
            place += 1
            if place == count or place - start == TOKENS:
                break
            between = text[tokens[place - 1][1] : tokens[place][0]]
            if len(between) > 4 or between.strip(_JOINING):
                break
            if not (numeric[place] or is_iban) and any(map(str.isspace, between)):
                break
            code += tokens[place][2]


# --- Names --------------------------------------------------------------------------------------
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sep sept",
            "october oct",
            "november nov",
            "december dec",
        ),
        start=1,
    )
    for name in names.split()
}
_DATE = re.compile(
    r"\b(?:(?P<iso>\d{4}-\d{1,2}-\d{1,2})|(?P<dmy>\d{1,2}[./-]\d{1,2}[./-]\d{4})|"
    rf"(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\.? (?P<m>{'|'.join(_MONTHS)})\.?,? (?P<y>\d{{4}})|"
    rf"(?P<m2>{'|'.join(_MONTHS)})\.? (?P<d2>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y2>\d{{4}}))\b"
)


def folded(text: str) -> str:
    """`text` as words between single spaces, one at each end, to be searched for whole words.

    NFKC, casefold, accents dropped, punctuation to spaces; dates in one spelling (day before month
    where figures leave it open).
    """
    text = _DATE.sub(_one_date, plain(text))
    if not text.isascii():
        bare = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in bare if not unicodedata.combining(c))
    return f" {' '.join(_TOKEN.findall(text))} "


def _one_date(found: re.Match[str]) -> str:
    parts = found.groupdict()
    if parts["iso"]:
        year, month, day = map(int, parts["iso"].split("-"))
    elif parts["dmy"]:
        day, month, year = map(int, re.split(r"[./-]", parts["dmy"]))
    else:
        day = int(parts["d"] or parts["d2"])
        month = _MONTHS[parts["m"] or parts["m2"]]
        year = int(parts["y"] or parts["y2"])
    try:
        return date(year, month, day).strftime(" date%Y%m%d ")
    except ValueError:
        return found.group()


def second_attributes(values: Iterable[str], *, names: Iterable[str]) -> dict[str, str]:
    """What beside a name tells a person from a namesake: folded value -> the value.

    Values of fewer than three letters or digits tell nobody apart, and neither do words of the name
    itself.
    """
    own = {word for name in names for word in folded(name).split()}
    return {
        words: value
        for value in values
        if len((words := folded(value)).replace(" ", "")) >= 3 and set(words.split()) - own
    }
