"""The one error of the verifier: what is wrong, and in which file."""

from __future__ import annotations


class Invalid(Exception):
    """A check failed; `sentence` says what is wrong, `file` where (empty for the whole bundle)."""

    def __init__(self, sentence: str, *, file: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.file = file

    def __str__(self) -> str:
        return f"{self.file}: {self.sentence}" if self.file else self.sentence
