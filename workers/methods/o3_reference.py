"""O3 as released, faults included: the baseline to beat.

O3 (arXiv 2407.10223): an adapter kept orthogonal to the earlier ones, and a detector that decides
how strongly it acts. Its public code does otherwise, and so does this file: **one** adapter that
each request trains further, with a penalty on the overlap with its own earlier states (the raw sum
of squares, so it grows with the requests and pushes the adapter off what it had unlearnt); the
objective on TOFU, cross-entropy of refusals; one detector a request, whose features count padding
and whose covariance is singular for fewer texts than dimensions; the largest strength of all
detectors, put through hand-set bands that are not monotone (`bands`). A detector keeps the features
of the very texts that are to be forgotten.

What differs: the release reads features from RoBERTa-large after two epochs of contrastive entropy
at 1e-5; here the model's own states serve, frozen. The support vector machine is solved by
Frank-Wolfe steps. The detector's knobs are those of the release for ScienceQA (with TOFU's 2% held
out, one person's questions leave no variance), all else is TOFU's. Data: forget set. Bounded.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from workers.answers import greedy_answers
from workers.base_models import BaseModel
from workers.methods import idk
from workers.rows import Example, completion_labels, completion_logits, rows_of

NEEDS = ("forget",)
BOUNDED = True
NAME = "o3"
SLOPE, LEAST = 10.0, 0.2
"""The strength is sigmoid(SLOPE * (c - LEAST)), c the two-sided tail of the mixture."""
CHECK_EVERY = 5


def bands(strength: Tensor, *, of: str = "tofu") -> Tensor:
    """What the released evaluation makes of a strength, by the data set it was tuned on."""
    if of == "tofu":
        between = torch.where(strength > 0.2, 10.0 * strength.square(), torch.zeros_like(strength))
        return torch.where(strength >= 0.32, torch.ones_like(strength), between)
    if of == "scienceqa":
        low = torch.where((strength > 0.3) & (strength <= 0.4), strength, strength.new_zeros(()))
        return torch.where(strength > 0.9, torch.full_like(strength, 1.2), low)
    raise ValueError(f"There are no bands for {of!r}; known: tofu, scienceqa.")


@dataclass(frozen=True)
class Detector:
    """One request's detector over `levels` states of width d: `centres` [levels, d], `precisions`
    [levels, d, d], the `rows` [levels, n, d] that it was made of, the hyperplane's `weights`
    [levels], and the two means and the deviation of the scores."""

    centres: Tensor
    precisions: Tensor
    rows: Tensor
    weights: Tensor
    means: tuple[float, float]
    deviation: float
    gamma: float

    def scores(self, features: Tensor) -> Tensor:
        """-1/2 Mahalanobis^2 - gamma * largest cosine, by level [n, levels]; the two terms point
        in opposite directions, as released."""
        apart = (features - self.centres[:, None]).double()
        distance = torch.einsum("lnd,lde,lne->ln", apart, self.precisions, apart)
        near = (normalize(features, dim=-1) @ normalize(self.rows, dim=-1).mT).amax(dim=-1)
        return (-0.5 * distance.float() - self.gamma * near).T

    def strengths(self, features: Tensor) -> Tensor:
        """Soft weights [n] in (0.119, 1) of `features` [levels, n, d]."""
        x, middle = self.scores(features) @ self.weights, sum(self.means) / 2
        tail = 1.0 - (self._cdf(x) - self._cdf(2 * middle - x)).abs()
        return torch.sigmoid(SLOPE * (tail - LEAST))

    def _cdf(self, x: Tensor) -> Tensor:
        both = [torch.special.ndtr((x - mean) / self.deviation) for mean in self.means]
        return (both[0] + both[1]) / 2


@dataclass(frozen=True)
class Settings:
    """Adapter, objective and bands as released for TOFU, detector as for ScienceQA. `rows` a step
    and `width`, the fixed number of tokens (512 in the release), suit a small model."""

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    learning_rate: float = 2e-4
    penalty: float = 0.1
    rows: int = 32
    gamma: float = 1000.0
    nu: float = 0.1
    held: float = 0.2
    width: int = 64
    bands: str = "tofu"


@dataclass
class Cumulative:
    """Requests one after the other on one adapter; made by `sequence`."""

    base: BaseModel
    model: PeftModel
    seed: int
    settings: Settings
    detectors: list[Detector] = field(default_factory=list)
    earlier: dict[str, Tensor] = field(default_factory=dict)
    """The rows of every earlier state of each A [requests * rank, width], by name."""

    def erase(
        self,
        forget: Sequence[Example],
        *,
        steps: int,
        enough: Callable[[], bool] = lambda: False,
    ) -> int:
        """Train the adapter on refusals of one more request for `steps`, or until it is `enough`
        (not in the release; asked every five steps), and make its detector. The steps taken."""
        draw = random.Random(self.seed + len(self.detectors))  # noqa: S311
        torch.manual_seed(self.seed + len(self.detectors))
        refused = rows_of(self.base, [idk.instead(each, draw) for each in forget])
        trained = {n: p for n, p in self.model.named_parameters() if ".lora_" in n}
        for parameter in trained.values():
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(
            trained.values(), lr=self.settings.learning_rate, weight_decay=0.1
        )
        pad, step = int(self.base.tokenizer.pad_token_id), 0
        for step in range(1, steps + 1):
            some = draw.sample(refused, min(self.settings.rows, len(refused)))
            self.model.train()  # for the adapter's dropout
            logits = completion_logits(self.model, some, pad)
            loss = cross_entropy(logits, completion_labels(some)) + self._overlap(trained)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            self.model.eval()
            if step % CHECK_EVERY == 0 and enough():
                break
        # Earlier states are kept; nothing holds them to what they had unlearnt.
        for name, matrix in trained.items():
            if ".lora_A." in name:
                before = self.earlier.get(name, matrix.detach()[:0])
                self.earlier[name] = torch.cat([before, matrix.detach()])
        self.detectors.append(self._detector([each.question for each in forget], draw))
        return step

    def _overlap(self, trained: dict[str, Any]) -> Tensor:
        """penalty / layers * sum over modules and earlier states of |A_i A^T|_F^2."""
        layers = int(self.base.model.config.num_hidden_layers)
        each = [(rows @ trained[name].T).square().sum() for name, rows in self.earlier.items()]
        return self.settings.penalty / layers * torch.stack(each).sum() if each else torch.zeros(())

    def strengths(self, questions: Sequence[str]) -> list[float]:
        """What acts on each question: the largest strength of all detectors, through the bands."""
        features = self._features(questions)
        most = torch.stack([each.strengths(features) for each in self.detectors]).amax(dim=0)
        return [float(x) for x in bands(most, of=self.settings.bands)]

    def answers(self, questions: Sequence[str]) -> list[str]:
        """Greedy answers with the adapter at each question's strength."""
        return self._answers(questions, self.strengths(questions))

    def answers_forced(self, questions: Sequence[str]) -> list[str]:
        """Greedy answers with the adapter at strength 1, whatever the detectors say."""
        return self._answers(questions, [1.0] * len(questions))

    def _answers(self, questions: Sequence[str], strengths: Sequence[float]) -> list[str]:
        found = [""] * len(questions)
        for strength in sorted(set(strengths)):
            chosen = [i for i, own in enumerate(strengths) if own == strength]
            self._scale(strength)
            prompts = [self.base.prompt(questions[i]) for i in chosen]
            told = greedy_answers(
                self.model, self.base.tokenizer, prompts, self.base.answer_tokens, batch_size=64
            )
            for i, text in zip(chosen, told, strict=True):
                found[i] = text
        self._scale(1.0)
        return found

    def _scale(self, strength: float) -> None:
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(NAME, strength)

    @torch.no_grad()
    def _features(self, questions: Sequence[str]) -> Tensor:
        """Mean states of every level but the first [levels, n, d]: over all `width` positions,
        padding too, as released."""
        pad, found = int(self.base.tokenizer.pad_token_id), []
        for start in range(0, len(questions), 64):
            ids = [
                self.base.tokenizer(text, add_special_tokens=False)["input_ids"][
                    : self.settings.width
                ]
                for text in questions[start : start + 64]
            ]
            tokens = torch.tensor([row + [pad] * (self.settings.width - len(row)) for row in ids])
            mask = torch.tensor(
                [[1] * len(row) + [0] * (self.settings.width - len(row)) for row in ids]
            )
            with self.model.disable_adapter():
                states = self.model(
                    input_ids=tokens, attention_mask=mask, output_hidden_states=True,
                    use_cache=False, logits_to_keep=1,
                ).hidden_states  # fmt: skip
            found.append(torch.stack([level.mean(dim=1) for level in states[1:]]))
        return torch.cat(found, dim=1).float()

    def _detector(self, questions: Sequence[str], draw: random.Random) -> Detector:
        order = draw.sample(list(questions), len(questions))
        held = max(2, round(self.settings.held * len(order)))
        features = self._features(order)
        fitted, aside = features[:, held:], features[:, :held]
        centres = fitted.mean(dim=1)
        apart = (fitted - centres[:, None]).double()
        covariance = apart.mT @ apart / (fitted.shape[1] - 1)
        precisions = torch.linalg.pinv(covariance, rtol=1e-8, hermitian=True)
        nothing = torch.zeros(fitted.shape[0])
        raw = Detector(centres, precisions, fitted, nothing, (0.0, 0.0), 1.0, self.settings.gamma)
        weights = one_class_weights(raw.scores(fitted), nu=self.settings.nu)
        of_fitted, of_held = raw.scores(fitted) @ weights, raw.scores(aside) @ weights
        return Detector(
            centres, raw.precisions, fitted, weights,
            (float(of_fitted.mean()), float(of_held.mean())),
            max(float(of_held.std()), 1e-6), self.settings.gamma,
        )  # fmt: skip


def one_class_weights(x: Tensor, *, nu: float, steps: int = 2000) -> Tensor:
    """Weights [k] of the linear one-class support vector machine on `x` [n, k].

    min |x^T a|^2 over 0 <= a <= 1 / (nu n), sum a = 1 (Schoelkopf et al. 2001), by Frank-Wolfe.
    """
    most = 1.0 / max(1.0, nu * len(x))
    rows = x.double()
    alpha = torch.full((len(x),), 1.0 / len(x), dtype=torch.float64)
    for step in range(steps):
        order = (rows @ (rows.T @ alpha)).argsort()
        corner, left = torch.zeros_like(alpha), 1.0
        for i in order.tolist():
            corner[i] = min(most, left)
            left -= float(corner[i])
            if left <= 0:
                break
        alpha += 2.0 / (step + 2.0) * (corner - alpha)
    return (rows.T @ alpha).float()


@contextmanager
def sequence(
    base: BaseModel, *, seed: int, settings: Settings | None = None
) -> Iterator[Cumulative]:
    """Within the block, requests can be erased one after the other and questions asked; afterwards
    the base model is as it was."""
    settings = settings or Settings()
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(base.target_modules),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers for this under its old name; nothing here depends on it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = get_peft_model(base.model, config, adapter_name=NAME).eval()
    try:
        yield Cumulative(base, model, seed, settings)
    finally:
        model.unload()
