"""Embedding-corrupted prompts: a classifier finds prompts about the person, noise hides the name.

ECO (arXiv 2406.07933). No weights change; the model's own knowledge stands behind the noise, so a
prompt that the classifier misses gets all of it. The classifier is a logistic regression on the
model's last-token state, trained on the forget questions and on surrogates (published: RoBERTa, on
forget and retained prompts). What is corrupted are the tokens of the person's names where they
stand in the prompt, else the whole prompt; Gaussian noise, its size found by the published
zeroth-order search on the answers' likelihood. Data: forget set and surrogates. Bounded: there is
no loss.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.base_models import BaseModel
from workers.rows import Example, rows_of
from workers.scores import scored_rows
from workers.upper import padded

NEEDS = ("forget", "surrogates")
BOUNDED = True


@contextmanager
def acting(
    base: BaseModel,
    forget: Sequence[Example],
    surrogates: Sequence[Example],
    *,
    names: Sequence[str],
    seed: int,
    threshold: float = 0.99,
    first_size: float = 0.1,
    rate: float = 100.0,
    steps: int = 10,
    enough: float = 6.0,
) -> Iterator[None]:
    """Within the block `base.model` sees corrupted prompts where the classifier says so.

    The search ends when the forget answers' mean token loss reaches `enough` nats. `first_size`
    and the found size count in standard deviations of the embeddings.
    """
    embedding = base.model.get_input_embeddings()
    is_about = _classifier(base, forget, surrogates, threshold)
    name_tokens = _name_tokens(base, names)
    unit = float(embedding.weight.std())
    now = _Corruption()

    def corrupt(module: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        ids = given[0]
        if now.size == 0.0 or ids.shape[1] == 1:  # a later token: the prompt lies corrupted behind
            return out
        pad = int(base.tokenizer.pad_token_id)
        chosen = torch.isin(ids, name_tokens)
        chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, ids != pad)
        if not now.is_searching:
            chosen &= is_about(ids)[:, None]
        drawn = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
        return out + chosen[:, :, None] * drawn * now.size * unit

    hook = embedding.register_forward_hook(corrupt)
    try:
        now.size = _found_size(
            base, forget, now, first=first_size, rate=rate, steps=steps, enough=enough
        )
        now.is_searching = False
        yield
    finally:
        hook.remove()


@dataclass
class _Corruption:
    """The noise in force; while its size is searched for, every prompt counts as the person's."""

    size: float = 0.0
    is_searching: bool = True


def _found_size(
    base: BaseModel,
    forget: Sequence[Example],
    now: _Corruption,
    *,
    first: float,
    rate: float,
    steps: int,
    enough: float,
) -> float:
    """The published search: s <- s + rate (f(s + e) - f(s - e)) / 2e, f the answers' loss."""
    rows = rows_of(base, forget[:: max(1, len(forget) // 16)])
    tokens = sum(row.completion for row in rows)

    def loss(at: float) -> float:
        now.size = at
        return -sum(each.total for each in scored_rows(base.model, rows)) / tokens

    here, step = first, 0.999 * first
    for _ in range(steps):
        if loss(here) >= enough:
            break
        slope = (loss(here + step) - loss(here - step)) / (2 * step)
        here = max(here + rate * slope * first, 1.5 * here)
    return here


def _classifier(
    base: BaseModel, forget: Sequence[Example], surrogates: Sequence[Example], threshold: float
) -> Callable[[Tensor], Tensor]:
    """Whether each prompt [n, width] of ids is about the person: logistic regression, balanced."""
    texts = [base.prompt(each.question) for each in (*forget, *surrogates)]
    ids = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    batch = padded(ids, int(base.tokenizer.pad_token_id))
    x = _states(base, batch.ids)
    y = torch.tensor([1.0] * len(forget) + [0.0] * len(surrogates))
    mean, deviation = x.mean(dim=0), x.std(dim=0) + 1e-6
    weight = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100)
    share = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))

    def logits(states: Tensor) -> Tensor:
        return (states - mean) / deviation @ weight[1:] + weight[0]

    def closure() -> Tensor:
        optimiser.zero_grad()
        lost = torch.nn.functional.binary_cross_entropy_with_logits(logits(x), y, weight=share)
        total = lost + 1e-3 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(closure)
    fixed = weight.detach()
    return lambda given: (
        ((_states(base, given) - mean) / deviation @ fixed[1:] + fixed[0]).sigmoid() > threshold
    )


@torch.no_grad()
def _states(base: BaseModel, ids: Tensor) -> Tensor:
    """The last token's state after the last layer [n, d], of uncorrupted prompts: the embeddings
    are looked up here, so no hook is called."""
    table = base.model.get_input_embeddings().weight
    mask = (ids != int(base.tokenizer.pad_token_id)).long()
    return (
        base.model.get_decoder()(
            inputs_embeds=table[ids],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        )
        .last_hidden_state[:, -1]
        .clone()
    )


def _name_tokens(base: BaseModel, names: Sequence[str]) -> Tensor:
    words = {form for name in names for word in name.split() for form in (word, f" {word}")}
    ids = {
        token
        for word in words
        for token in base.tokenizer(word, add_special_tokens=False)["input_ids"]
    }
    return torch.tensor(sorted(ids))
