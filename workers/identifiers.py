"""The gate's first stage: does a text mention an erased person, without storing the name?

A text is normalised, cut into n-grams of up to `MAX_WORDS` words, and each is looked up as a keyed
HMAC-SHA256 (RFC 2104), so what the gate stores is no list of names: without the key a digest
cannot be tested against guesses. Words of an n-gram are joined without a separator, which makes
"Anna-Maria", "AnnaMaria" and "anna  maria" one and the same identifier. A name of two or more
words matches only as a whole: another person with the same first name stays untouched.
"""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Iterator

MAX_WORDS = 4
MIN_KEY_BYTES = 16
MIN_IDENTIFIER = 3

_WORD = re.compile(r"[^\W_]+")
# Scripts written without spaces: each character counts as a word of its own.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
# Look-alikes of Latin letters that NFKC leaves alone (a choice after Unicode TS 39, confusables);
# after casefold, so a letter counts by the look of its small or its capital form.
_LOOKALIKES = str.maketrans(
    dict(zip("авекмнорстухѕіјԁһԛԝ", "abekmhopctyxsijdhqw", strict=True))
    | dict(zip("αβεζηικμνορτυχωγ", "abezhikmnoptyxwy", strict=True))
    | dict(zip("ıɑɡłøđðħ", "iagloddh", strict=True))
    | {"æ": "ae", "œ": "oe", "þ": "th"}
)


def normalised(text: str) -> str:
    """`text` with look-alike forms made equal, as words joined by single spaces.

    NFKC, invisible characters dropped, casefold, accents dropped, Cyrillic and Greek look-alikes
    to Latin, punctuation to spaces.
    """
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if _is_visible(c))
    decomposed = unicodedata.normalize("NFKD", shown.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    folded = bare.translate(_LOOKALIKES)
    return " ".join(_WORD.findall(_UNSPACED.sub(r" \g<0> ", folded)))


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in {"Cf", "Cc"} or character.isspace()


def keyed(text: str, key: bytes) -> str:
    """Hexadecimal HMAC-SHA256 of one normalised n-gram (words joined without separator)."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def identifier_digests(names: Iterable[str], key: bytes) -> tuple[str, ...]:
    """Sorted keyed digests of names and aliases, each also with its last word put first.

    Names of more than `MAX_WORDS` words are kept by their first and their last `MAX_WORDS`. Raises
    ValueError on a key shorter than 16 bytes, and on a name with fewer than three letters or
    digits, which would fire on half of all texts.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError("The gate's key needs at least 16 random bytes.")
    grams: set[str] = set()
    for name in names:
        words = normalised(name).split()
        if len("".join(words)) < MIN_IDENTIFIER:
            raise ValueError("An identifier needs at least three letters or digits.")
        if len(words) > MAX_WORDS:
            grams.update({"".join(words[:MAX_WORDS]), "".join(words[-MAX_WORDS:])})
        else:
            grams.update({"".join(words), "".join(words[-1:] + words[:-1])})
    return tuple(sorted(keyed(gram, key) for gram in grams))


def mentioned(text: str, key: bytes) -> frozenset[str]:
    """Keyed digests of every n-gram of `text`, to be intersected with the stored ones."""
    return frozenset(keyed(gram, key) for gram in set(_grams(normalised(text).split())))


def _grams(words: list[str]) -> Iterator[str]:
    for start in range(len(words)):
        for size in range(1, min(MAX_WORDS, len(words) - start) + 1):
            yield "".join(words[start : start + size])
