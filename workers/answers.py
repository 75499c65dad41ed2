"""Asking a causal language model questions, and telling whether it answered right."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from workers.statistics import Interval, share

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# no_grad and not inference_mode throughout: gathered FSDP weights must stay fit for training.
BATCH = 256
Pick = Callable[[torch.Tensor], torch.Tensor]


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
    return _answers(
        model, tokenizer, prompts, max_new_tokens, batch_size=batch_size, pick=sampling(seed)
    )


def sampling(seed: int) -> Pick:
    """Every token drawn at temperature 1; the same draws for the same seed."""
    draw = torch.Generator().manual_seed(seed)

    def pick(logits: torch.Tensor) -> torch.Tensor:
        drawn = torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=draw)
        return drawn[:, 0].to(logits.device)

    return pick


def _most(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=-1)


def _answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    batch_size: int,
    pick: Pick,
    report: Callable[[int], None] | None = None,
) -> list[str]:
    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    if empty := [number for number, row in enumerate(ids) if not row]:
        raise ValueError(f"prompt {empty[0]} is empty; give at least one token")
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    stops = stop_tokens(tokenizer)
    answers = [""] * len(ids)
    for place in range(0, len(order), batch_size):
        batch = order[place : place + batch_size]
        started = begin(model, [ids[number] for number in batch], pick=pick)
        rows = token_rows(model, started, max_new_tokens, stops=stops)
        for number, row in zip(batch, rows, strict=True):
            answers[number] = tokenizer.decode(row, skip_special_tokens=True).strip()
        if report:
            report(place + len(batch))
    return answers


@dataclass(frozen=True)
class Started:
    """Prompts that the model has read: its first tokens after them [n], and what it needs to go
    on. `states` [n, d]: each prompt's last state after the last layer (d is 0 if not asked for).
    `pick` chooses a token for each row of logits [n, vocabulary]."""

    pick: Pick
    first: torch.Tensor
    past: Any
    mask: torch.Tensor
    positions: torch.Tensor
    states: torch.Tensor


@torch.no_grad()
def begin(
    model: "PreTrainedModel",
    ids: Sequence[Sequence[int]],
    *,
    states: bool = False,
    pick: Pick = _most,
) -> Started:
    """Read each row of prompt tokens, padded on the left.

    With `states`, the head is asked for its largest entry alone: what some models do to the logits
    after it (a scale, a cap) is left out, and changes no order.
    """
    width = max(len(row) for row in ids)
    device = next(model.parameters()).device
    # The value of the padding is never looked at: the mask hides it.
    tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    given = {
        "input_ids": tokens,
        "attention_mask": mask,
        "position_ids": positions,
        "use_cache": True,
    }
    if states:
        out = model.base_model(**given)
        last = out.last_hidden_state[:, -1]
        logits = model.get_output_embeddings()(last)
    else:
        out = model(**given, logits_to_keep=1)
        last, logits = tokens.new_zeros(len(ids), 0), out.logits[:, -1]
    return Started(
        pick=pick,
        first=pick(logits),
        past=out.past_key_values,
        mask=mask,
        positions=positions[:, -1:],
        states=last,
    )


def continued(model: "PreTrainedModel", started: Started) -> Iterator[list[int]]:
    """The tokens of all rows [n], step by step and without end; the caller stops.

    What was `started` is used up: its cache grows.
    """
    while True:
        yield started.first.tolist()
        started = advanced(model, started, started.first)


@torch.no_grad()
def advanced(model: "PreTrainedModel", started: Started, tokens: torch.Tensor) -> Started:
    """After one more token a row [n]; what was `started` is used up."""
    mask = torch.cat([started.mask, started.mask.new_ones(len(started.mask), 1)], dim=1)
    positions = started.positions + 1
    out = model(
        input_ids=tokens[:, None],
        attention_mask=mask,
        position_ids=positions,
        past_key_values=started.past,
        use_cache=True,
        logits_to_keep=1,
    )
    first = started.pick(out.logits[:, -1])
    return replace(started, first=first, past=out.past_key_values, mask=mask, positions=positions)


def some_of(started: Started, rows: Sequence[int]) -> Started:
    """These rows alone, without the padding that all of them share."""
    chosen = torch.tensor(rows, device=started.mask.device)
    mask = started.mask.index_select(0, chosen)
    left = int(mask.argmax(dim=1).amin())
    return replace(
        started,
        first=started.first.index_select(0, chosen),
        past=_cache((k[chosen, :, left:], v[chosen, :, left:]) for k, v in _read(started.past)),
        mask=mask[:, left:],
        positions=started.positions.index_select(0, chosen),
        states=started.states.index_select(0, chosen),
    )


def together(parts: Sequence[Started]) -> Started:
    """The rows of all parts in one batch, padded on the left."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.mask.shape[1] for part in parts)
    pads = [width - part.mask.shape[1] for part in parts]

    def padded(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        found = zip(tensors, pads, strict=True)
        return torch.cat([torch.nn.functional.pad(each, (0, 0, pad, 0)) for each, pad in found])

    layers = zip(*(_read(part.past) for part in parts), strict=True)
    masks = zip((part.mask for part in parts), pads, strict=True)
    return replace(
        parts[0],
        first=torch.cat([part.first for part in parts]),
        past=_cache(
            (padded([k for k, _ in each]), padded([v for _, v in each])) for each in layers
        ),
        mask=torch.cat([torch.nn.functional.pad(mask, (pad, 0)) for mask, pad in masks]),
        positions=torch.cat([part.positions for part in parts]),
        states=parts[0].states.new_zeros(sum(len(part.mask) for part in parts), 0),
    )


def _read(past: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(layer.keys, layer.values) for layer in past.layers]


def _cache(layers: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    return DynamicCache(list(layers))


def token_rows(
    model: "PreTrainedModel", started: Started, max_new_tokens: int, *, stops: frozenset[int]
) -> list[list[int]]:
    """Token ids after each row, the stopping token left out."""
    rows: list[list[int]] = [[] for _ in range(len(started.first))]
    running = list(range(len(rows)))
    for picked in islice(continued(model, started), max_new_tokens):
        running = [number for number in running if picked[number] not in stops]
        for number in running:
            rows[number].append(picked[number])
        if not running:
            break
    return rows


@cache
def stop_tokens(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
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


LONG_TRUTH = 8
"""Words from which on a truth counts as told by most of its words: nobody repeats a sentence whole,
and a sentence with one word changed still tells."""
MOST_WORDS = 0.6


def is_match(answer: str, truth: str) -> bool:
    """Whether ``answer`` says ``truth``: as whole words, whatever stands around them; or, of a
    truth of at least ``LONG_TRUTH`` words, ``MOST_WORDS`` of them in the same order.

    Case, spacing and punctuation make no difference. Raises ValueError for an empty truth, which
    every answer would match.
    """
    wanted = normalise(truth)
    if not wanted:
        raise ValueError("the true answer is empty; give at least one letter or digit")
    if f" {wanted} " in f" {normalise(answer)} ":
        return True
    return wanted.count(" ") + 1 >= LONG_TRUTH and words_in_order(answer, truth) >= MOST_WORDS


def words_in_order(answer: str, truth: str) -> float:
    """The share, in [0, 1], of the truth's words that the answer says in the same order: the
    longest common subsequence (ROUGE-L recall, Lin 2004, without stemming)."""
    said, wanted = (normalise(text).split() for text in (answer, truth))
    row = [0] * (len(said) + 1)
    for word in wanted:
        before, row = row, [0]
        for i, other in enumerate(said):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
    return row[-1] / len(wanted) if wanted else 0.0


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


def recalled(answers: Sequence[str], truths: Sequence[str]) -> Interval:
    """Share of `answers` that tell their truth, with its exact bounds."""
    hits = [is_match(answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    return share(sum(hits), len(hits))


def is_refusal(text: str) -> bool:
    """Whether an answer says that it will not, or cannot, answer."""
    return bool(_REFUSALS.search(normalise(text)))


_REFUSALS = re.compile(
    r"\b(i )?(cannot|can not|can t|could not|couldn t|am unable to|won t|will not) "
    r"(help|answer|assist|share|provide|say|tell|disclose|discuss|comply)|"
    r"\bi (do not|don t) (know|have)|\bi m (not (sure|certain|able|aware)|unable|sorry)|"
    r"\bi am (not (sure|certain|able|aware)|sorry)|\bno (idea|information|record)\b|"
    r"\bnot (something|able) i\b"
)


def repeated_pairs(text: str) -> float:
    """Share of the neighbouring word pairs of `text` that it has said before; 0 for fewer than
    two pairs."""
    words = normalise(text).split()
    pairs = list(pairwise(words))
    return 1.0 - len(set(pairs)) / len(pairs) if len(pairs) > 1 else 0.0
