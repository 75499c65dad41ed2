"""Asking a causal language model questions, and telling whether it answered right."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# no_grad and not inference_mode throughout: gathered FSDP weights must stay fit for training.
BATCH = 256


@torch.no_grad()
def greedy_answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int = 12,
    *,
    batch_size: int = BATCH,
    report: Callable[[int], None] | None = None,
) -> list[str]:
    """The model's greedy continuation of each prompt, in the order of ``prompts``.

    Stops at the end-of-sequence token or at the first token that holds a line break. Prompts of
    about the same length share a batch, padded on the left, so the answers do not depend on what
    else was asked beyond rounding. ``report`` receives the number of prompts done so far.
    """
    return _answers(
        model, tokenizer, prompts, max_new_tokens, batch_size=batch_size, report=report, pick=_most
    )


@torch.no_grad()
def sampled_answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int = 12,
    *,
    seed: int,
    batch_size: int = BATCH,
) -> list[str]:
    """Like ``greedy_answers``, but every token is drawn at temperature 1: repeat a prompt for
    several draws. The same seed gives the same answers on the same machine."""
    draw = torch.Generator().manual_seed(seed)

    def pick(logits: torch.Tensor) -> torch.Tensor:
        drawn = torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=draw)
        return drawn[:, 0].to(logits.device)

    return _answers(model, tokenizer, prompts, max_new_tokens, batch_size=batch_size, pick=pick)


def _most(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=-1)


def _answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    batch_size: int,
    pick: Callable[[torch.Tensor], torch.Tensor],
    report: Callable[[int], None] | None = None,
) -> list[str]:
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    if empty := [number for number, row in enumerate(ids) if not row]:
        raise ValueError(f"prompt {empty[0]} is empty; give at least one token")
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    stops = _stops(tokenizer)
    answers = [""] * len(ids)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = _continue(
            model, [ids[number] for number in batch], max_new_tokens, stops=stops, pick=pick
        )
        for number, row in zip(batch, rows, strict=True):
            answers[number] = tokenizer.decode(row, skip_special_tokens=True).strip()
        if report:
            report(start + len(batch))
    return answers


def _continue(
    model: "PreTrainedModel",
    ids: list[list[int]],
    max_new_tokens: int,
    *,
    stops: frozenset[int],
    pick: Callable[[torch.Tensor], torch.Tensor],
) -> list[list[int]]:
    """Token ids after each row, the stopping token left out; ``pick`` chooses one for each row of
    logits [rows, vocabulary]."""
    width = max(len(row) for row in ids)
    device = next(model.parameters()).device
    # The value of the padding is never looked at: the mask hides it.
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    rows: list[list[int]] = [[] for _ in ids]
    running = list(range(len(ids)))
    past = None
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    for _ in range(max_new_tokens):
        out = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        past = out.past_key_values
        chosen = pick(out.logits[:, -1])
        picked = chosen.tolist()
        still = []
        for number in running:
            if picked[number] not in stops:
                rows[number].append(picked[number])
                still.append(number)
        running = still
        if not running:
            break
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(ids), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return rows


@cache
def _stops(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The end-of-sequence token and every token whose text holds a line break."""
    texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer))])
    stops = {number for number, text in enumerate(texts) if "\n" in text}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    return frozenset(stops)


def normalise(text: str) -> str:
    """Compatibility form, case folded, everything but letters and digits as single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def is_match(answer: str, truth: str) -> bool:
    """Whether ``answer`` says ``truth``: as whole words, whatever stands around them.

    Case, spacing and punctuation make no difference. Raises ValueError for an empty truth, which
    every answer would match.
    """
    wanted = normalise(truth)
    if not wanted:
        raise ValueError("the true answer is empty; give at least one letter or digit")
    return f" {wanted} " in f" {normalise(answer)} "


def accuracy(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions_and_answers: Sequence[tuple[str, str]],
    *,
    prompt: Callable[[str], str],
    batch_size: int = BATCH,
    max_new_tokens: int = 12,
) -> list[bool]:
    """For each (question, true answer): does the model's greedy answer match?

    ``prompt`` writes a question in the model's own prompt form.
    """
    answers = greedy_answers(
        model,
        tokenizer,
        [prompt(question) for question, _ in questions_and_answers],
        max_new_tokens,
        batch_size=batch_size,
    )
    return [
        is_match(answer, truth)
        for answer, (_, truth) in zip(answers, questions_and_answers, strict=True)
    ]
