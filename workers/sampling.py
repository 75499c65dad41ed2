"""Choosing a token from its logits, and what is told of it."""

from dataclasses import dataclass

import torch

COLDEST = 1e-4
"""Lower temperatures are this one: a quotient must stay finite."""


@dataclass(frozen=True)
class Token:
    """A token of an answer with its log-probability under the guarded model, in nats, and those of
    the likeliest ones: pairs of id and log-probability."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@torch.no_grad()
def drawn(logits: torch.Tensor, temperature: float, top_p: float, draw: torch.Generator) -> int:
    """A token from logits [vocabulary]: the fewest likeliest ones that have `top_p` together."""
    shares = (logits.float().cpu() / max(temperature, COLDEST)).softmax(dim=-1)
    if top_p < 1.0:
        ordered, order = shares.sort(descending=True)
        left_out = ordered.cumsum(dim=-1) - ordered >= top_p
        left_out[0] = False
        shares = shares.scatter(0, order[left_out], 0.0)
    return int(torch.multinomial(shares, 1, generator=draw))


@torch.no_grad()
def scored(token: int, logits: torch.Tensor, likeliest: int) -> Token:
    """A token's log-probability among logits [vocabulary], and the likeliest ones'."""
    logprobs = logits.float().log_softmax(dim=-1)
    top = logprobs.topk(likeliest)
    pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Token(token, float(logprobs[token]), pairs)
