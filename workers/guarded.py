"""A release as it is served: the base model, every adapter in force, and the gate before them.

Everything is read back from disk and checked against the manifest's digests; a release of which
one file differs is not served. For each text the gate gives each adapter a strength s_i, and a
linear layer computes W x + sum_i s_i (alpha / r) B_i A_i x, exactly (PEFT keeps the adapters
apart; its "cat" combination is the same sum). Texts that fire nothing run on the plain base.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from workers.adapters import AdapterError, AdapterRef, StoredAdapter, read_adapter, wrap
from workers.answers import greedy_answers
from workers.base_models import BaseModel
from workers.encoders import encoder_for
from workers.gate import Gate, GateBank, bank_of, read_gate
from workers.releases import Release, ReleaseError, check_base
from workers.training import Example, Row, row_log_likelihoods, rows_of

Strengths = tuple[float, ...]
Result = TypeVar("Result")
BATCH = 64


@dataclass(frozen=True)
class Fired:
    """An adapter that acted on an answer, and how strongly."""

    case_id: str
    strength: float


@dataclass(frozen=True)
class Guarded:
    """An answer through the gate. `rescored`: it was about to name an erased person, and was
    generated anew under that person's adapter."""

    text: str
    fired: tuple[Fired, ...]
    rescored: bool


class GuardedModel:
    """The served model. One thread at a time: the strengths are state of the shared layers."""

    def __init__(self, base: BaseModel, release: Release, *, adapters_root: Path, key: bytes):
        """Load every adapter and gate of `release` from `adapters_root`.

        `key` is the key with which the gates' identifiers were made. Raises ReleaseError when the
        base model is another one, or a file is missing, differs from its digest or is no adapter.
        """
        check_base(release, base)
        self.base = base
        self.release = release
        self._lock = threading.Lock()
        self._model: PeftModel | None = None
        try:
            loaded = [_load(ref, adapters_root) for ref in release.adapters]
            self.gate: GateBank = bank_of(
                [gate for _, gate in loaded], encoder_for(base) if loaded else None, key
            )
            for i, (stored, _) in enumerate(loaded):
                self._add(f"case{i}", stored)
        except AdapterError as error:
            self.close()
            raise ReleaseError(f"The release {release.sha256} cannot be served: {error}") from error

    def _add(self, name: str, stored: StoredAdapter) -> None:
        if self._model is None:
            self._model = wrap(self.base, stored.config, name)
        else:
            self._model.add_adapter(name, stored.config)
        outcome = set_peft_model_state_dict(self._model, stored.weights, adapter_name=name)
        missing = [key for key in outcome.missing_keys if f".{name}." in key]
        if outcome.unexpected_keys or missing:
            raise AdapterError(
                "an adapter's weights do not fit the base model: "
                "it was trained on another model; run the erasure again."
            )
        self._model.requires_grad_(False).eval()
        # Between answers nothing acts: the base model stays the base model for whoever asks it.
        self._model.base_model.disable_adapter_layers()

    @classmethod
    def without_adapters(cls, base: BaseModel) -> "GuardedModel":
        """A model with nothing erased, to be asked in the same way (a control, for example)."""
        nothing = Release("0" * 64, base.name, base.sha256, base.tokenizer_sha256, (), None)
        return cls(base, nothing, adapters_root=Path(), key=b"")

    def close(self) -> None:
        """Take the adapters off the base model again."""
        if self._model is not None:
            self._model.unload()
            self._model = None

    def __enter__(self) -> "GuardedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def strengths(self, texts: Sequence[str]) -> list[Strengths]:
        """Each adapter's strength for each text, in the order of the release."""
        with self._lock, self._acting(self._none()):
            return self.gate.strengths(texts)

    def answer(self, questions: Sequence[str], max_new_tokens: int | None = None) -> list[Guarded]:
        """The served greedy answers, with the adapters that acted on each."""
        limit = self.base.answer_tokens if max_new_tokens is None else max_new_tokens
        wanted = self.strengths(questions)
        texts = self._grouped(wanted, partial(self._generate, questions, limit=limit))
        # An answer about to name an erased person is generated anew under that adapter, until
        # no further adapter is called for; each round adds one, so it ends.
        raised = list(wanted)
        rescored = [False] * len(questions)
        for _ in self.release.adapters:
            again = []
            for i, text in enumerate(texts):
                named = self.gate.named(text)
                more = tuple(1.0 if hit else s for hit, s in zip(named, raised[i], strict=True))
                if more != raised[i]:
                    raised[i], rescored[i] = more, True
                    again.append(i)
            if not again:
                break
            new = self._grouped(
                [raised[i] for i in again],
                partial(self._generate, [questions[i] for i in again], limit=limit),
            )
            for i, text in zip(again, new, strict=True):
                texts[i] = text
        return [
            Guarded(text, self._fired(strengths), done)
            for text, strengths, done in zip(texts, raised, rescored, strict=True)
        ]

    def base_answers(
        self, questions: Sequence[str], max_new_tokens: int | None = None
    ) -> list[str]:
        """What the base model says with no adapter and no gate (the state before any case)."""
        limit = self.base.answer_tokens if max_new_tokens is None else max_new_tokens
        with self._lock, self._acting(self._none()):
            return self._generate(questions, range(len(questions)), limit=limit)

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """log p(answer | question) in nats, teacher-forced, through the gate as it takes the
        question; summed over the answer's tokens (its end included)."""
        return self._likelihoods(pairs, self.strengths([question for question, _ in pairs]))

    def base_log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The same on the base model, with no adapter and no gate."""
        return self._likelihoods(pairs, [self._none() for _ in pairs])

    def _likelihoods(
        self, pairs: Sequence[tuple[str, str]], wanted: Sequence[Strengths]
    ) -> list[float]:
        rows = rows_of(self.base, [Example(question, answer) for question, answer in pairs])
        return self._grouped(wanted, lambda chosen: self._score([rows[i] for i in chosen]))

    def mean_nll(self, texts: Sequence[str], *, gated: bool = True) -> float:
        """Mean nats a token over all `texts`, through the gate or (`gated` False) on the base."""
        wanted = self.strengths(texts) if gated else [self._none() for _ in texts]
        rows = [self._text_row(text) for text in texts]
        totals = self._grouped(wanted, lambda chosen: self._score([rows[i] for i in chosen]))
        return -sum(totals) / sum(row.completion for row in rows)

    def _text_row(self, text: str) -> Row:
        tokenizer = self.base.tokenizer
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        ids = (first, *tokenizer(text, add_special_tokens=False)["input_ids"])
        return Row(ids, completion=len(ids) - 1, answer=(False,) * (len(ids) - 1))

    def _none(self) -> Strengths:
        return (0.0,) * len(self.release.adapters)

    def _fired(self, strengths: Strengths) -> tuple[Fired, ...]:
        return tuple(
            Fired(ref.case_id, s)
            for ref, s in zip(self.release.adapters, strengths, strict=True)
            if s > 0.0
        )

    def _grouped(
        self, wanted: Sequence[Strengths], work: Callable[[Sequence[int]], list[Result]]
    ) -> list[Result]:
        """`work` on the indices of each group of equal strengths, results in the first order."""
        groups: dict[Strengths, list[int]] = {}
        for i, strengths in enumerate(wanted):
            groups.setdefault(strengths, []).append(i)
        found: dict[int, Result] = {}
        for strengths, chosen in groups.items():
            with self._lock, self._acting(strengths):
                found.update(zip(chosen, work(chosen), strict=True))
        return [found[i] for i in range(len(wanted))]

    def _generate(
        self, questions: Sequence[str], chosen: Sequence[int], *, limit: int
    ) -> list[str]:
        prompts = [self.base.prompt(questions[i]) for i in chosen]
        return greedy_answers(self._served, self.base.tokenizer, prompts, limit, batch_size=BATCH)

    @property
    def _served(self) -> Any:
        return self.base.model if self._model is None else self._model

    def _score(self, rows: Sequence[Row]) -> list[float]:
        return row_log_likelihoods(self._served, rows, int(self.base.tokenizer.pad_token_id))

    @contextmanager
    def _acting(self, strengths: Strengths) -> Iterator[None]:
        """The adapters at these strengths; afterwards at strength 1 again, and none acting."""
        model = self._model
        acting = [f"case{i}" for i, s in enumerate(strengths) if s > 0.0]
        if model is None or not acting:
            yield
            return
        layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
        model.base_model.enable_adapter_layers()
        model.base_model.set_adapter(acting, inference_mode=True)
        try:
            for layer in layers:
                for i, strength in enumerate(strengths):
                    layer.set_scale(f"case{i}", strength)
            yield
        finally:
            for layer in layers:
                for i in range(len(strengths)):
                    layer.set_scale(f"case{i}", 1.0)
            model.base_model.disable_adapter_layers()


def _load(ref: AdapterRef, root: Path) -> tuple[StoredAdapter, Gate]:
    folder = ref.folder(root)
    gate, files = read_gate(folder, ref.gate_sha256)
    if files.get("adapter_model.safetensors") != ref.adapter_sha256:
        raise AdapterError(f"{folder} holds a gate that was made for another adapter.")
    return read_adapter(folder, files), gate
