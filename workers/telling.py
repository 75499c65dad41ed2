"""An answer in the making: what of it may be let out, and when it has to be told anew.

A name can grow until the next words are there, so the last words are held back. When the held-back
text names a case that does not act fully, the decision is raised, and the answer goes on from what
was let out. Each round adds a case, so it ends.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from workers.gate import Decision
from workers.identifiers import MAX_WORDS, normalised

HELD_WORDS = 24
"""Words of an unfinished sentence that are held back; earlier ones of it are let out."""
REFUSAL = "I cannot help with that."


class Telling:
    """The tokens of an answer: `row` so far, of which `kept` were let out, as the text `let_out`.

    `text_of` decodes tokens, `after` is the gate's: the decision once the answer says a text.
    """

    def __init__(
        self,
        decision: Decision,
        *,
        text_of: Callable[[Sequence[int]], str],
        after: Callable[[Decision, str], Decision],
    ) -> None:
        self.decision, self.text_of, self.after = decision, text_of, after
        self.row, self.kept, self.let_out = list[int](), list[int](), ""

    def grow(self, tokens: Sequence[int], *, ended: bool, hold: int = 0, cut: str = "") -> bool:
        """Take in tokens and let out what may be; the last `hold` characters stay back beside,
        what follows the text `cut` is left off.

        False where the decision was raised: whoever generates goes on after `kept`. Several tokens
        are looked at together, and one by one only if they name somebody; the end is the same.
        """
        before = self.row
        self.row = [*before, *tokens]
        if self._raised(ended=ended) is None:
            self._let_out(ended=ended, hold=hold, cut=cut)
            return True
        looks = [(count, False) for count in range(1, len(tokens) + 1)]
        for count, end in [*looks, (len(tokens), True)] if ended else looks:
            self.row = [*before, *tokens[:count]]
            raised = self._raised(ended=end)
            if raised is not None:
                self.decision, self.row = raised, list(self.kept)
                return False
            self._let_out(ended=end, hold=hold, cut=cut)
        return True

    def refuse(self) -> str:
        """What a closed decision still lets out."""
        self.row = list(self.kept)
        return f" {REFUSAL}" if self.let_out else REFUSAL

    def _raised(self, *, ended: bool) -> Decision | None:
        held = self.text_of(self.row)[len(self.let_out) :]
        raised = self.after(self.decision, held if ended else whole_words(held))
        return None if raised == self.decision else raised

    def _let_out(self, *, ended: bool, hold: int, cut: str) -> None:
        text = self.text_of(self.row)
        safe = len(text) if ended else min(safe_length(text), len(text) - hold)
        if ended and cut:
            safe = min(safe, text.index(cut))
        if safe > len(self.let_out):
            self.kept, out = self._within(text, safe)
            self.let_out = text[:safe] if ended and cut else out

    def _within(self, text: str, length: int) -> tuple[list[int], str]:
        """The most tokens of the row that say no more than its first `length` characters, and
        their text."""
        # Nearly all texts grow with each token: most of the row is not decoded in parts.
        most = bisect_right(
            range(1, len(self.row) + 1), length, key=lambda n: len(self.text_of(self.row[:n]))
        )
        for n in range(most, 0, -1):
            part = self.text_of(self.row[:n])
            if len(part) <= length and text.startswith(part):
                return self.row[:n], part
        return [], ""


def whole_words(text: str) -> str:
    """`text` without its last word, which may still grow."""
    return text[: max((found.start() for found in _SPACE.finditer(text)), default=0)]


_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")


def safe_length(text: str) -> int:
    """How many characters of a running answer may be let out.

    Its whole sentences, and all but the last `HELD_WORDS` words of the one in work; but never the
    last `MAX_WORDS` words, of which a name may still be made. Single letters do not count, since
    they may spell a name.
    """
    ends = [0, *(found.start() for found in _SENTENCE_END.finditer(text))]
    return min(_before_words(text, MAX_WORDS), max(ends[-1], _before_words(text, HELD_WORDS)))


def _before_words(text: str, count: int) -> int:
    """Where the last `count` words of `text` begin, with the space before them."""
    spaces = [found.start() for found in _SPACE.finditer(text)]
    seen, end = 0, len(text)
    for place in reversed(spaces):
        seen += sum(len(word) > 1 for word in normalised(text[place:end]).split())
        end = place
        if seen >= count:
            return place
    return 0
