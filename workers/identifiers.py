"""The gate's first stage: does a text mention an erased person, without storing the name?

A text is normalised, cut into n-grams of up to `MAX_WORDS` words, and each is looked up as a keyed
HMAC-SHA256 (RFC 2104), so what the gate stores is no list of names: without the key a digest
cannot be tested against guesses. Words of an n-gram are joined without a separator, which makes
"Anna-Maria", "AnnaMaria" and "anna  maria" one and the same identifier. A name of two or more
words matches only as a whole: another person with the same first name stays untouched.

One typing error is forgiven (a letter more, less or other, or two neighbours swapped), unless the
result is another name of its own: "Ida" is not "Ada" misspelled. The stored forms of a name with
one letter masked are compared with those of the text, after Norvig's and SymSpell's idea.
"""

import hashlib
import re
import struct
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import add

MAX_WORDS = 4
MIN_KEY_BYTES = 16
MIN_IDENTIFIER = 3
MIN_LENIENT = 6
"""Letters from which a name of several words is also found with a typing error in it."""
MIN_LENIENT_WORD = 8
"""The same for a single word, which is nearer to ordinary words ("rolling" is no "Rowling")."""

_BLOCK = 64
_MASK = "?"
_WORD = re.compile(r"[^\W_]+")
_SPELLED = re.compile(r"\b[a-z0-9](?: [a-z0-9]){2,}\b")
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
_DIGITS = str.maketrans("013457", "oieast")


@dataclass(frozen=True)
class Identifiers:
    """One case's names as 64-bit keyed digests, each tuple sorted.

    `exact` of the names; `written` of them letter by letter as they were given, capitals and
    accents included; `near` of their forms with one typing error or one letter masked; `words` of
    the words of names of several words, whose neighbours are worth a lenient look; `others` of
    spellings that are a typing error away and yet another name. `sizes` are the numbers of words
    of the names that have `near` forms.
    """

    exact: tuple[int, ...]
    written: tuple[int, ...]
    near: tuple[int, ...]
    words: tuple[int, ...]
    others: tuple[int, ...]
    sizes: tuple[int, ...]


def normalised(text: str) -> str:
    """`text` with look-alike forms made equal, as words joined by single spaces.

    NFKC, invisible characters dropped, casefold, accents dropped, Cyrillic and Greek look-alikes
    to Latin, punctuation to spaces, three or more spelled-out letters to one word.
    """
    if text.isascii() and text.isprintable():
        folded = text.lower()
    else:
        shown = _visible(unicodedata.normalize("NFKC", text))
        decomposed = unicodedata.normalize("NFKD", shown.casefold())
        bare = "".join(c for c in decomposed if not unicodedata.combining(c))
        folded = _apart(bare.translate(_LOOKALIKES))
    words = " ".join(_WORD.findall(folded))
    return _SPELLED.sub(lambda found: found.group().replace(" ", ""), words)


def _visible(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) not in {"Cf", "Cc"} or c.isspace())


def _apart(text: str) -> str:
    return _UNSPACED.sub(r" \g<0> ", text)


Digest = Callable[[str], int]


def digester(key: bytes) -> Digest:
    """The function that gives an n-gram's digest: the first 64 bits of its HMAC-SHA256.

    The two halves of the HMAC that depend on the key alone are computed once (RFC 2104, section
    4), which is about three times as fast as `hmac.digest` on such short texts. Raises ValueError
    on a key shorter than 16 bytes.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError("The gate's key needs at least 16 random bytes.")
    short = hashlib.sha256(key).digest() if len(key) > _BLOCK else key
    block = short.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
    begun, finish, first_64_bits = inner.copy, outer.copy, struct.Struct(">q").unpack_from

    def digest(gram: str) -> int:
        first, second = begun(), finish()
        first.update(gram.encode())
        second.update(first.digest())
        return int(first_64_bits(second.digest())[0])

    return digest


def identifier_digests(
    names: Iterable[str], key: bytes, *, name_words: Sequence[str] = ()
) -> Identifiers:
    """The digests of names and aliases, each also with its last word put first.

    `name_words` are ordinary given and family names: a spelling that makes one of them out of a
    word of a name is another person's. Names of more than `MAX_WORDS` words are kept by their
    first and their last `MAX_WORDS`. Raises ValueError on a key shorter than 16 bytes, and on a
    name with fewer than three letters or digits, which would fire on half of all texts.
    """
    digest = digester(key)
    phrases: set[tuple[str, ...]] = set()
    written: set[str] = set()
    for name in names:
        words = tuple(normalised(name).split())
        if not is_long_enough(name):
            raise ValueError("An identifier needs at least three letters or digits.")
        spelled = written_words(name)
        written |= {as_written(spelled[:MAX_WORDS]), as_written(spelled[-MAX_WORDS:])}
        if len(words) > MAX_WORDS:
            phrases |= {words[:MAX_WORDS], words[-MAX_WORDS:]}
        else:
            phrases |= {words, words[-1:] + words[:-1]}
    lenient = [phrase for phrase in phrases if _is_lenient(phrase)]
    exact = {_joined(phrase) for phrase in phrases}
    near = {form for phrase in lenient for form in _stored_forms(_joined(phrase))} - exact
    others = {form for phrase in lenient for form in _other_names(phrase, name_words)} - exact
    return Identifiers(
        exact=_sorted(digest, exact),
        written=_sorted(digest, written),
        near=_sorted(digest, near),
        words=_sorted(digest, {w for p in lenient if len(p) > 1 for w in map(_folded, p)}),
        others=_sorted(digest, others),
        sizes=tuple(sorted({len(phrase) for phrase in lenient})),
    )


def is_long_enough(name: str) -> bool:
    """Whether a name has the letters and digits that it takes to look for it in texts."""
    return len(normalised(name).replace(" ", "")) >= MIN_IDENTIFIER


def _sorted(digest: Digest, grams: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted(map(digest, grams)))


def _folded(text: str) -> str:
    """Digits that stand for letters as those letters, in names and texts alike."""
    return text.translate(_DIGITS)


def _joined(words: Sequence[str]) -> str:
    return _folded("".join(words))


def written_words(text: str) -> list[str]:
    """The words of `text` as they are written, in canonical Unicode form."""
    return _WORD.findall(_apart(unicodedata.normalize("NFC", text)))


def as_written(words: Sequence[str]) -> str:
    """What a digest of words letter by letter is made of; no n-gram looks like it."""
    return "=" + " ".join(words)


def restored(text: str, places: Iterable[range]) -> str:
    """`text` with the normalised words at `places` written plainly and with a capital, where each
    of its words is one normalised word; otherwise `text` itself.

    So "aDA t@te" with a Cyrillic letter for the @ becomes "Ada Tate"; the rest stays as it was.
    """
    shown = _apart(_visible(unicodedata.normalize("NFKC", text)))
    words = list(_WORD.finditer(shown))
    plain = [normalised(word.group()) for word in words]
    if plain != normalised(text).split():
        return text
    chosen = {place for each in places for place in each}
    for place in sorted(chosen, reverse=True):
        start, end = words[place].span()
        shown = shown[:start] + plain[place].capitalize() + shown[end:]
    return shown


def _is_lenient(words: Sequence[str]) -> bool:
    return len("".join(words)) >= (MIN_LENIENT if len(words) > 1 else MIN_LENIENT_WORD)


def _stored_forms(gram: str) -> Iterator[str]:
    """What a text's n-gram, or one of its `masked` forms, is compared with: a letter less, two
    neighbours swapped, a letter masked, or a mask more."""
    for i in range(len(gram)):
        yield gram[:i] + gram[i + 1 :]
        yield gram[:i] + gram[i : i + 2][::-1] + gram[i + 2 :]
        yield gram[:i] + _MASK + gram[i + 1 :]
        yield gram[:i] + _MASK + gram[i:]
    yield gram + _MASK


def masked(gram: str) -> list[str]:
    """`gram` with each letter masked in turn."""
    return [gram[:i] + _MASK + gram[i + 1 :] for i in range(len(gram))]


def _other_names(phrase: Sequence[str], name_words: Sequence[str]) -> Iterator[str]:
    known = [_folded(normalised(word)) for word in name_words]
    for place, word in enumerate(map(_folded, phrase)):
        near = set(_stored_forms(word))
        for other in known:
            if other != word and not near.isdisjoint([other, *masked(other)]):
                yield _joined([*phrase[:place], other, *phrase[place + 1 :]])


def grams_of(words: Sequence[str]) -> list[list[str]]:
    """Every n-gram of up to `MAX_WORDS` of a text's normalised words, joined, by its size: that of
    n words from the word i on is `[n - 1][i]`."""
    folded = list(map(_folded, words))
    grams = [folded]
    for size in range(2, MAX_WORDS + 1):
        grams.append(list(map(add, grams[-1], folded[size - 1 :])))
    return grams


def worth_masking(
    words: Sequence[str], *, near_names: Iterable[int], sizes: Collection[int]
) -> list[range]:
    """The places of the n-grams of these `sizes` in which a typing error is looked for: a long
    word, or several words one of which is a word of a name (`near_names` are their places)."""
    found = []
    if 1 in sizes:
        found += [range(i, i + 1) for i, word in enumerate(words) if len(word) >= MIN_LENIENT_WORD]
    for size in set(sizes) - {1}:
        starts = {i - before for i in near_names for before in range(size)}
        found += [range(i, i + size) for i in sorted(starts) if 0 <= i <= len(words) - size]
    return found
