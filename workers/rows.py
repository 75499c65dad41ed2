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
    return _rows(base, [(each.question, each.answer, each.secrets) for each in examples])


def rows_after(base: BaseModel, pairs: Sequence[tuple[Conversation, str]]) -> list[Row]:
    """Each answer after its question or conversation; nothing in it is marked."""
    return _rows(base, [(conversation, answer, ()) for conversation, answer in pairs])


def _rows(base: BaseModel, told: Sequence[tuple[Conversation, str, tuple[str, ...]]]) -> list[Row]:
    """All in one call of the tokenizer, each prompt written once."""
    if not told:
        return []
    prompts = {asked: base.prompt(asked) for asked in dict.fromkeys(asked for asked, *_ in told)}
    texts = [
        prompts[asked] + base.completion(asked, answer, prompt=prompts[asked])
        for asked, answer, _ in told
    ]
    encoded = base.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [
        _marked(text, ids, offsets, start=len(prompts[asked]), secrets=secrets)
        for text, (asked, _, secrets), (ids, offsets) in zip(texts, told, tokens, strict=True)
    ]


def _marked(
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    *,
    start: int,
    secrets: Sequence[str],
) -> Row:
    """The tokens of a text whose completion begins at character `start`."""
    first = next(i for i, (_, end) in enumerate(offsets) if end > start)
    secret = _spans(text, start=start, secrets=secrets)
    return Row(
        ids=tuple(ids),
        completion=len(offsets) - first,
        answer=tuple(
            any(a < end and begin < b for a, b in secret) for begin, end in offsets[first:]
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
