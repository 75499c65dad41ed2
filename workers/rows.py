"""Questions and answers as token rows, and what a model makes of their completions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.base_models import BaseModel, Conversation
from workers.upper import padded


@dataclass(frozen=True)
class Example:
    """A question, what the model says to it, the texts in there that must not be told, and other
    values of their kind."""

    question: str
    answer: str
    secrets: tuple[str, ...] = ()
    decoys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Token ids of prompt and completion; `answer` marks completion tokens that tell a secret.

    `completion` is the number of completion tokens; `answer` has that length.
    """

    ids: tuple[int, ...]
    completion: int
    answer: tuple[bool, ...]


def rows_of(base: BaseModel, examples: Sequence[Example]) -> list[Row]:
    """The examples as token rows; a completion token is marked if it overlaps a secret."""
    return [_row(base, example) for example in examples]


def row_after(base: BaseModel, conversation: Conversation, answer: str) -> Row:
    """One answer after a question or a conversation; nothing in it is marked."""
    return _marked(base, conversation, answer, secrets=())


def _row(base: BaseModel, example: Example) -> Row:
    return _marked(base, example.question, example.answer, secrets=example.secrets)


def _marked(
    base: BaseModel, conversation: Conversation, answer: str, *, secrets: Sequence[str]
) -> Row:
    prompt = base.prompt(conversation)
    text = prompt + base.completion(conversation, answer, prompt=prompt)
    encoded = base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    first = next(i for i, (_, end) in enumerate(offsets) if end > len(prompt))
    secret = _spans(text, start=len(prompt), secrets=secrets)
    return Row(
        ids=tuple(encoded["input_ids"]),
        completion=len(offsets) - first,
        answer=tuple(
            any(a < end and start < b for a, b in secret) for start, end in offsets[first:]
        ),
    )


def _spans(text: str, *, start: int, secrets: Sequence[str]) -> list[tuple[int, int]]:
    """Every place after `start` where a secret stands, letter case aside."""
    return [
        found.span()
        for secret in secrets
        for found in re.finditer(re.escape(secret), text, re.IGNORECASE)
        if found.start() >= start
    ]


def completion_logits(model: Any, rows: Sequence[Row], pad: int) -> Tensor:
    """Logits [sum of completion lengths, vocabulary] that predict each row's completion tokens, in
    float32 on the device of the model's head."""
    batch = padded([row.ids for row in rows], pad)
    keep = max(row.completion for row in rows) + 1
    logits = model(
        input_ids=batch.ids.to(model.device),
        attention_mask=batch.mask.to(model.device),
        position_ids=batch.positions.to(model.device),
        logits_to_keep=keep,
        use_cache=False,
    ).logits
    kept = [logits[i, keep - 1 - r.completion : keep - 1] for i, r in enumerate(rows)]
    return torch.cat(kept).float()  # losses in bfloat16 would be too coarse


def completion_labels(rows: Sequence[Row]) -> Tensor:
    """Token ids [sum of completion lengths] of the completions."""
    return torch.tensor([token for row in rows for token in row.ids[-row.completion :]])


def completion_places(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Where in a batch padded on the left the completion tokens are predicted: (row, column)."""
    width = max(len(row.ids) for row in rows)
    pairs = [
        (i, column)
        for i, row in enumerate(rows)
        for column in range(width - 1 - row.completion, width - 1)
    ]
    return torch.tensor([i for i, _ in pairs]), torch.tensor([column for _, column in pairs])


def text_row(base: BaseModel, text: str, *, ends: bool) -> Row:
    """A text as a row whose completion is all of it, with the end token if it `ends` there."""
    tokenizer, end = base.tokenizer, base.tokenizer.eos_token_id
    first = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = (first, *tokenizer(text, add_special_tokens=False)["input_ids"], *([end] * ends))
    return Row(ids, completion=len(ids) - 1, answer=(False,) * (len(ids) - 1))
