"""What an erasure will need, stated before it starts: memory by part, seconds by phase.

Nothing is loaded: parameters are counted on torch's meta device, rows are tokenised. Seconds come
from the matrix product and the memory copy measured here and now, so they are what the arithmetic
needs at this machine's rate for all the steps that are allowed: small models take longer, a run
that ends early takes less.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workers import corpus, discovery
from workers.adapters import RANK
from workers.base_models import DTYPES, BaseModel, Placement
from workers.erasure import recipe_for
from workers.forget_sets import BATCH, STRANGERS
from workers.phrasings import Phrasings, phrasings
from workers.protocol import PROFILES
from workers.rows import Example, rows_of
from workers.subjects import Subject
from workers.training import Recipe, load_method

FLOAT = 4
# Numbers kept for the backward pass in an adapted layer, for each token: norms, attention, MLP.
KEPT_OF_WIDTH, KEPT_OF_MLP = 12, 4
KEPT_OF_LOGITS = 5  # logits, their float32 copy, two log-softmaxes, the gradient


@dataclass(frozen=True)
class Shape:
    """Parameters of the decoder layers and of the head (counted though tied), width, MLP width,
    layers, adapted layers, key-value width; adapter parameters, and those trained (B alone)."""

    parameters: int
    in_layers: int
    in_head: int
    width: int
    mlp: int
    layers: int
    adapted: int
    key_value: int
    adapter: int
    trained: int


@dataclass(frozen=True)
class Work:
    """Counts of rows and mean tokens a row, for a subject on a model."""

    forget_rows: int
    keep_rows: int
    row_tokens: float
    completion_tokens: float
    longest_completion: int
    twin_rows: int  # asked of the base once, for the teacher of the forget rows
    asked: dict[str, int]  # generations by phase
    scored: int  # rows that verification scores


def estimate(base: BaseModel, subject: Subject, placement: Placement) -> dict[str, Any]:
    """Parameters, bytes by part and seconds by phase of one erasure of `subject` from `base`, which
    may be without weights (`load_without_weights`). Given facts are all counted as known."""
    recipe, shape = recipe_for(base), shape_of(base)
    work = work_for(base, subject, recipe)
    size = DTYPES[placement.dtype].itemsize
    rate, bandwidth = measured_rates(shape, recipe, work, DTYPES[placement.dtype])
    parts = memory(shape, work, recipe, base, size)
    seconds = durations(shape, work, recipe, base, rate, bandwidth, size)
    return {
        "model": {
            "name": base.name,
            "parameters": shape.parameters,
            "layers": shape.layers,
            "adapted_layers": shape.adapted,
            "adapter_parameters": shape.adapter,
            "trained_parameters": shape.trained,
        },
        "placement": {"dtype": placement.dtype, "device_map": placement.device_map},
        "work": {
            "forget_rows": work.forget_rows,
            "keep_rows": work.keep_rows,
            "tokens_a_row": round(work.row_tokens, 1),
            "steps_at_most": recipe.max_steps,
            "generations": work.asked,
        },
        "bytes": {**parts, "peak": sum(parts.values())},
        "seconds_of_arithmetic": {**seconds, "total": sum(seconds.values())},
        "measured": {
            "gemm_gflops": round(rate / 1e9, 1),
            "copy_gb_per_second": round(bandwidth / 1e9, 1),
            "threads": torch.get_num_threads(),
        },
    }


def shape_of(base: BaseModel) -> Shape:
    """Counted from the modules themselves."""
    config = base.model.config
    head = base.model.get_output_embeddings()
    linears = {
        path: module
        for path, module in base.model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    adapted = [
        module
        for path, module in linears.items()
        if path.rsplit(".", 1)[-1] in base.target_modules and _layer_of(path) >= base.lowest_layer
    ]
    heads = int(config.num_attention_heads)
    of_a_head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    layers = int(config.num_hidden_layers)
    return Shape(
        parameters=sum(p.numel() for p in base.model.parameters()),
        in_layers=sum(module.weight.numel() for module in linears.values()),
        in_head=head.weight.numel(),
        width=int(config.hidden_size),
        mlp=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        layers=layers,
        adapted=layers - base.lowest_layer,
        key_value=of_a_head * int(getattr(config, "num_key_value_heads", None) or heads),
        adapter=sum(RANK * (m.in_features + m.out_features) for m in adapted),
        trained=sum(RANK * m.out_features for m in adapted),
    )


def _layer_of(path: str) -> int:
    return next((int(part) for part in path.split(".") if part.isdigit()), -1)


def work_for(base: BaseModel, subject: Subject, recipe: Recipe) -> Work:
    """Rows and questions as `locate`, `train` and `verify` will make them of the given facts."""
    asked = [(fact, phrasings(fact.question)) for fact in subject.facts]
    known = [p for _, p in asked]
    named = any(corpus.recognise(fact.question) for fact in subject.facts)
    discovered = 0
    if named or not subject.facts:  # everything that the corpus has questions for is asked too
        about = corpus.questions_about(subject.name)
        given = {r.relation for fact in subject.facts if (r := corpus.recognise(fact.question))}
        more = [each for each in about if each.relation not in given]
        known += [Phrasings(each.trained, each.aside, each.unseen) for each in more]
        discovered = len(more) * (4 + STRANGERS)
    examples = [Example(question, fact.answer) for fact, p in asked for question in p.trained] or [
        Example(question, "unknown value") for p in known for question in p.trained
    ]
    rows = rows_of(base, examples)
    openings = len(discovery.COMPLETIONS) + len(discovery.QUESTIONS)
    trained, aside, unseen = (
        sum(len(getattr(p, kind)) for p in known) for kind in ("trained", "aside", "unseen")
    )
    sizes = PROFILES["fast"]["sizes"]
    others = len(subject.neighbours) or (sizes["others"] if base.name == "demo" else 0)
    models = 3 if base.name == "demo" else 2  # base, release, control
    needs_twins = "twins" in load_method(recipe.method).NEEDS
    checks = (recipe.max_steps - recipe.min_steps) // recipe.check_every + 1
    return Work(
        forget_rows=trained,
        keep_rows=recipe.surrogates,
        row_tokens=_mean([len(row.ids) for row in rows]),
        completion_tokens=_mean([row.completion for row in rows]),
        longest_completion=max((row.completion for row in rows), default=0),
        twin_rows=trained * recipe.twins if needs_twins else 0,
        asked={
            "locate": trained + discovered + 2 * openings * discovery.DRAWS,
            "train": recipe.surrogates + aside * (checks + 1),
            "verify": models * (trained + unseen) + 2 * others,
        },
        scored=models * len(known) * (1 + sizes["decoys"]) if named else 0,
    )


def memory(shape: Shape, work: Work, recipe: Recipe, base: BaseModel, size: int) -> dict[str, int]:
    """Bytes by part at the height of training. `size` is that of a weight; what is trained, its
    moments and the losses are float32."""
    tokens = (recipe.forget_rows + recipe.keep_rows) * work.row_tokens
    # Rows are padded to the longest; surrogates are as long as the model may answer.
    stored = work.forget_rows + work.keep_rows + work.twin_rows
    longest = 1 + max(work.longest_completion, base.answer_tokens)
    told = (recipe.forget_rows + recipe.keep_rows) * longest
    vocabulary = shape.in_head // shape.width
    kept = KEPT_OF_WIDTH * shape.width + KEPT_OF_MLP * shape.mlp
    held = work.row_tokens + base.answer_tokens
    return {
        "weights": shape.parameters * size,
        "adapter": shape.adapter * FLOAT,
        "gradients": shape.trained * FLOAT,
        "optimiser": 2 * shape.trained * FLOAT,
        "activations": int(tokens * shape.adapted * kept * FLOAT),
        "logits": int(KEPT_OF_LOGITS * told * vocabulary * FLOAT),
        "states_below": int(stored * work.row_tokens * shape.width * size),
        "reference_logits": int(stored * work.completion_tokens * vocabulary * FLOAT),
        "key_value_cache": int(BATCH * held * 2 * shape.layers * shape.key_value * size),
    }


def durations(
    shape: Shape,
    work: Work,
    recipe: Recipe,
    base: BaseModel,
    rate: float,
    bandwidth: float,
    size: int,
) -> dict[str, float]:
    """Seconds by phase at `rate` multiply-adds counted as two operations a second; a generated
    token takes at least the time to read all weights once for its batch."""
    prompt = work.row_tokens - work.completion_tokens
    every = shape.in_layers + shape.in_head

    def generating(count: int) -> float:
        batches = -(-count // BATCH)
        first = 2 * count * (prompt * shape.in_layers + shape.in_head) / rate
        arithmetic = 2 * count * base.answer_tokens * every / rate
        return first + max(arithmetic, batches * base.answer_tokens * every * size / bandwidth)

    def scoring(rows: int) -> float:
        told = work.completion_tokens * shape.in_head
        return 2 * rows * (work.row_tokens * shape.in_layers + told) / rate

    # A step runs the adapted layers and the head alone, on stored states; backward goes through
    # them again, and no frozen weight has a gradient: as much arithmetic as forward.
    upper = shape.in_layers * shape.adapted / shape.layers
    through = work.row_tokens * upper + work.completion_tokens * shape.in_head
    drawn = min(recipe.forget_rows, work.forget_rows) + min(recipe.keep_rows, work.keep_rows)
    steps = 2 * 2 * recipe.max_steps * drawn * through / rate
    found = {
        "locate": generating(work.asked["locate"]),
        "train": scoring(work.forget_rows + work.keep_rows + work.twin_rows)
        + steps
        + generating(work.asked["train"]),
        "verify": generating(work.asked["verify"]) + scoring(work.scored),
    }
    return {phase: round(spent, 3) for phase, spent in found.items()}


def measured_rates(
    shape: Shape, recipe: Recipe, work: Work, dtype: torch.dtype
) -> tuple[float, float]:
    """Operations a second of the model's own largest product, [tokens of a step, width] times
    [width, MLP width], and bytes a second of a copy; medians of five, on this CPU."""
    tokens = int((recipe.forget_rows + recipe.keep_rows) * work.row_tokens)
    left = torch.randn(tokens, shape.width).to(dtype)
    right = torch.randn(shape.width, shape.mlp).to(dtype)
    product = _median_seconds(lambda: left @ right)
    source = torch.empty(64 * 2**20 // FLOAT)
    target = torch.empty_like(source)
    copy = _median_seconds(lambda: target.copy_(source))
    return 2 * tokens * shape.width * shape.mlp / product, 2 * source.nbytes / copy


def _median_seconds(work: Any, times: int = 5) -> float:
    work()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def _mean(values: Sequence[int]) -> float:
    return statistics.fmean(values) if values else 0.0
