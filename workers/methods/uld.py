"""Unlearning from logit difference: an assistant that knows only the person is subtracted.

ULD (arXiv 2406.08607): the assistant is the base's lowest layers with the shared head and an
adapter, taught to answer the forget set and to say nothing in particular elsewhere; the served
logits are base - weight * assistant, over the tokens that the base itself finds likely. The base
stays as it is. An assistant stores the personal data *on purpose*, which suits erasure badly: it is
here to be compared with. Published with perturbed and retained text for the flat half; here the
surrogates. Data: forget set and surrogates. Bounded.
"""

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.base_models import BaseModel
from workers.rows import Example, Row, completion_labels, completion_places, rows_of
from workers.upper import first_layers, padded

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
    layers: int | None = None,
    rank: int = 16,
    alpha: int = 32,
    learning_rate: float = 5e-3,
    steps: int = 60,
    rows: int = 32,
    flat_weight: float = 5.0,
    weight: float = 1.0,
    likely: float = 0.1,
) -> Iterator[None]:
    """Train the assistant on `layers` (a quarter of the base's, at least one), and within the block
    subtract it from `base.model`'s logits. `names` are not needed."""
    count = layers or max(1, int(base.model.config.num_hidden_layers) // 4)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(base.target_modules),
        layers_to_transform=list(range(count)),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers for this under its old name; nothing here depends on it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = get_peft_model(base.model, config, adapter_name="assistant").eval()
    assistant = first_layers(base.model, count)
    head = base.model.get_output_embeddings()
    try:
        _teach(base, model, assistant, forget, surrogates, seed=seed, learning_rate=learning_rate,
               steps=steps, size=rows, flat_weight=flat_weight)  # fmt: skip
        model.base_model.disable_adapter_layers()
        past: list[Any] = [None]

        def subtract(module: Any, _: Any, given: dict[str, Any], out: Any) -> Any:
            if given.get("past_key_values") is None:
                past[0] = None
            model.base_model.enable_adapter_layers()
            try:
                said = assistant(
                    input_ids=given["input_ids"],
                    attention_mask=given.get("attention_mask"),
                    position_ids=given.get("position_ids"),
                    past_key_values=past[0],
                    use_cache=bool(given.get("use_cache")),
                )
            finally:
                model.base_model.disable_adapter_layers()
            past[0] = said.past_key_values
            kept = out.logits.shape[1]
            ours = head(said.last_hidden_state[:, -kept:]).log_softmax(-1)
            theirs = out.logits.log_softmax(-1)
            best = theirs.max(dim=-1, keepdim=True).values
            unlikely = theirs < best + torch.log(torch.tensor(likely))
            out.logits = (theirs - weight * ours).masked_fill(unlikely, -1e4)
            return out

        hook = base.model.register_forward_hook(subtract, with_kwargs=True)
        try:
            with torch.no_grad():
                yield
        finally:
            hook.remove()
    finally:
        model.unload()


def _teach(
    base: BaseModel,
    model: Any,
    assistant: Any,
    forget: Sequence[Example],
    surrogates: Sequence[Example],
    *,
    seed: int,
    learning_rate: float,
    steps: int,
    size: int,
    flat_weight: float,
) -> None:
    """Cross-entropy on the forget rows + `flat_weight` KL(uniform || assistant) on surrogates."""
    head, draw = base.model.get_output_embeddings(), random.Random(seed)  # noqa: S311
    pad = int(base.tokenizer.pad_token_id)
    told, flat = rows_of(base, forget), rows_of(base, surrogates)

    def logits(rows: Sequence[Row]) -> Tensor:
        batch = padded([row.ids for row in rows], pad)
        states = assistant(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        return head(states[completion_places(rows)])

    trainable = [p for name, p in model.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=0.01)
    for _ in range(steps):
        some = draw.sample(told, min(size, len(told)))
        other = draw.sample(flat, min(size, len(flat)))
        uniform = -logits(other).log_softmax(-1).mean()
        loss = cross_entropy(logits(some), completion_labels(some)) + flat_weight * uniform
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
