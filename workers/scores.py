"""How likely a model finds completions, token by token: the raw figures that the probes read.

Completions that follow the same prompt share one reading of it (its keys and values are computed
once), and batches are filled across prompts: 25 values after one question cost the question once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.base_models import BaseModel
from workers.rows import Example, Row, rows_of

PROMPTS = 64
LOGITS = 48_000_000
"""Numbers of logits held at once (192 MB in float32)."""


@dataclass(frozen=True)
class Scored:
    """A completion teacher-forced after its prompt, one entry a token: `logp` in nats, `top`,
    whether the token was the model's first choice, and `z` (where asked for) how many standard
    deviations its log-probability lies above the mean of all tokens in its place."""

    logp: tuple[float, ...]
    top: tuple[bool, ...]
    z: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """log p(completion | prompt) in nats."""
        return sum(self.logp)


@torch.no_grad()
def scored_rows(model: Any, rows: Sequence[Row], *, standardised: bool = False) -> list[Scored]:
    """The rows' completions under `model`, in the order of `rows`; `standardised` gives `z` too."""
    found: list[Scored | None] = [None] * len(rows)
    for batch in _batches(rows, vocabulary=int(model.config.vocab_size)):
        some = [rows[i] for i in batch]
        for i, scored in zip(batch, _scored(model, some, standardised), strict=True):
            found[i] = scored
    return [each for each in found if each is not None]


def log_likelihoods(base: BaseModel, model: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """log p(answer | question) in nats under `model`, the answer's end included; `base` gives the
    tokenizer and the prompt form."""
    rows = rows_of(base, [Example(question, answer) for question, answer in pairs])
    return [each.total for each in scored_rows(model, rows)]


def _batches(rows: Sequence[Row], *, vocabulary: int) -> list[list[int]]:
    """Indices of rows to pass together: prompts of about the same length, each prompt's rows side
    by side, few enough for their logits to fit."""
    order = sorted(range(len(rows)), key=lambda i: (len(_prompt(rows[i])), _prompt(rows[i])))
    found: list[list[int]] = []
    prompts: set[tuple[int, ...]] = set()
    longest = 0
    for i in order:
        longest = max(longest, rows[i].completion)
        prompts.add(_prompt(rows[i]))
        full = found and (len(found[-1]) + 1) * longest * vocabulary > LOGITS
        if not found or full or len(prompts) > PROMPTS:
            found.append([])
            prompts, longest = {_prompt(rows[i])}, rows[i].completion
        found[-1].append(i)
    return found


def _prompt(row: Row) -> tuple[int, ...]:
    return row.ids[: len(row.ids) - row.completion]


def _scored(model: Any, rows: Sequence[Row], standardised: bool) -> list[Scored]:
    prompts = list(dict.fromkeys(map(_prompt, rows)))
    place = {prompt: i for i, prompt in enumerate(prompts)}
    which = torch.tensor([place[_prompt(row)] for row in rows], device=model.device)
    width = max(map(len, prompts))
    ids = _tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], model)
    # What stands before a prompt is never looked at.
    mask = _tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], model)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    started = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    parts = [started.logits[which]]
    length = max(row.completion for row in rows)
    if length > 1:
        cache = started.past_key_values
        cache.batch_select_indices(which)
        told = [list(row.ids[-row.completion :][:-1]) for row in rows]
        more = _tensor([each + [0] * (length - 1 - len(each)) for each in told], model)
        after = torch.arange(1, length, device=model.device)
        parts.append(
            model(
                input_ids=more,
                attention_mask=torch.cat([mask[which], torch.ones_like(more)], dim=1),
                position_ids=positions[which, -1:] + after,
                past_key_values=cache,
                use_cache=True,
            ).logits
        )
    return _read(torch.cat(parts, dim=1).float(), rows, standardised)


def _tensor(numbers: list[list[int]], model: Any) -> Tensor:
    return torch.tensor(numbers, device=model.device)


def _read(logits: Tensor, rows: Sequence[Row], standardised: bool) -> list[Scored]:
    """From logits [rows, longest completion, vocabulary]."""
    length = logits.shape[1]
    labels = torch.tensor(
        [[*row.ids[-row.completion :], *[0] * (length - row.completion)] for row in rows],
        device=logits.device,
    )
    chosen = logits.gather(2, labels[:, :, None])[:, :, 0]
    logp = (chosen - logits.logsumexp(dim=2)).tolist()
    top = (logits.argmax(dim=2) == labels).tolist()
    found = [
        Scored(tuple(values[: row.completion]), tuple(hits[: row.completion]))
        for values, hits, row in zip(logp, top, rows, strict=True)
    ]
    if not standardised:
        return found
    return [
        replace(each, z=_z(logits[i, : len(each.logp)], each.logp)) for i, each in enumerate(found)
    ]


def _z(logits: Tensor, logp: Sequence[float]) -> tuple[float, ...]:
    """(log p - mean) / standard deviation, both over the vocabulary under the model's own
    probabilities (Min-K++, arXiv 2404.02936), from logits [tokens, vocabulary]. A model that is
    sure of one token has no spread to speak of: its own place is the mean."""
    every = logits.log_softmax(dim=1)
    p = every.exp()
    mean = (p * every).sum(dim=1)
    spread = (p * (every - mean[:, None]).square()).sum(dim=1).sqrt()
    return tuple(
        (value - mu) / sd if sd > 0.0 else 0.0
        for value, mu, sd in zip(logp, mean.tolist(), spread.tolist(), strict=True)
    )
