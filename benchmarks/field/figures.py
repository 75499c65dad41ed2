"""What the data sets' figures are made of: continuations, likelihoods of texts, ROUGE-L, areas."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks import report
from benchmarks.tofu_metrics import probability
from workers.answers import begin, token_rows, words_in_order
from workers.base_models import BaseModel
from workers.rows import Row, text_row
from workers.scores import scored_rows

BATCH = 16


def continuations(base: BaseModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
    """Greedy continuations of rows of token ids, of at most `new_tokens` tokens. Only the end token
    ends them, no line break; of a prompt too long for the model its last part is read."""
    room = context(base) - new_tokens
    ids = [list(prompt[-room:]) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    stops = frozenset({int(base.tokenizer.eos_token_id)})
    found = [""] * len(ids)
    for place in range(0, len(order), BATCH):
        batch = order[place : place + BATCH]
        started = begin(base.model, [ids[i] for i in batch])
        for i, row in zip(
            batch, token_rows(base.model, started, new_tokens, stops=stops), strict=True
        ):
            found[i] = base.tokenizer.decode(row, skip_special_tokens=True)
        report.progress(f"{base.name}: {place + len(batch)}/{len(ids)} continued")
    return found


def text_logps(base: BaseModel, texts: Sequence[str]) -> list[tuple[float, ...]]:
    """log p of each text's tokens in nats; of a text too long for the model of its first part."""
    rows = [_cut(text_row(base, text, ends=False), context(base)) for text in texts]
    return [each.logp for each in scored_rows(base.model, rows)]


def _cut(row: Row, length: int) -> Row:
    left = min(len(row.ids), length) - 1
    return Row(row.ids[: left + 1], completion=left, answer=row.answer[:left])


def context(base: BaseModel) -> int:
    """How many tokens the model reads at once."""
    return int(base.model.config.max_position_embeddings)


def recall(answers: Sequence[str], truths: Sequence[str]) -> dict[str, Any]:
    """Mean ROUGE-L recall."""
    values = [words_in_order(a, truth) for a, truth in zip(answers, truths, strict=True)]
    return {"n": len(values), "rouge_l": fmean(values)}


def rouge_l_f1(answer: str, truth: str) -> float:
    """ROUGE-L F1 in [0, 1] (Lin 2004, without stemming)."""
    caught, exact = words_in_order(answer, truth), words_in_order(truth, answer)
    return 2 * caught * exact / (caught + exact) if caught + exact > 0 else 0.0


def mean_probability(logps: Sequence[Sequence[float]]) -> float:
    """Mean of p(answer | question)^(1 / tokens)."""
    return fmean(probability(sum(logp), len(logp)) for logp in logps)
