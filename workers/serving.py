"""A release as the gateway serves it: gate and bank of adapters around one base model.

Every file is read back from disk and checked as `workers.guarded` does it; here many answers are in
the making at once, each under a decision of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from workers.adapters import AdapterError, AdapterFiles
from workers.answers import Started, begin, some_of, stop_tokens
from workers.bank import MOST_BYTES, AdapterBank, Strengths
from workers.base_models import BaseModel, Conversation, ModelError
from workers.encoders import encoder_for
from workers.gate import Decision, Gate, GateBank, bank_of, semantic_texts
from workers.guarded import case_files
from workers.reading import Reader, as_they_are
from workers.releases import Release, ReleaseError, check_base
from workers.remembered import Remembered
from workers.restrictions import Restrictions

USUAL = 256
"""Tokens of an answer where nobody says how many, with a chat template."""


@dataclass(frozen=True)
class Prompt:
    """What is to be answered: a conversation in the model's own form, or a text to be gone on with
    as it stands (`bare`: a conversation of one turn without its form)."""

    conversation: Conversation
    bare: bool = False


@dataclass(frozen=True)
class Taken:
    """A prompt that the gate has read: as the model sees it, its tokens, the decision."""

    prompt: Prompt
    ids: list[int]
    decision: Decision


class Served:
    """A release, ready for batches. One thread at a time."""

    def __init__(
        self,
        base: BaseModel,
        release: Release,
        *,
        adapters_root: Path,
        key: bytes,
        restrictions: Restrictions | None = None,
        before: "Served | None" = None,
        adapter_bytes: int = MOST_BYTES,
        kept_bytes: int = 0,
    ) -> None:
        """Raises ReleaseError as `GuardedModel`, and where the model cannot be served in batches.
        `release` without adapters is a model with nothing erased. What `before` has read and
        checked on the same base is not read again; adapters are read when they act first, and no
        more than `adapter_bytes` of them kept in memory. `kept_bytes` of a caller's last rows are
        kept for its next ones, by this release alone."""
        check_base(release, base)
        self.base, self.release, self.restrictions, self._key = base, release, restrictions, key
        try:
            if before is not None and before.base is not base:
                before = None
            known = {} if before is None else before._read
            digests = [(ref.adapter_sha256, ref.gate_sha256) for ref in release.adapters]
            self._read: dict[tuple[str, str], tuple[AdapterFiles, Gate]] = {
                each: known.get(each) or case_files(ref, adapters_root)
                for each, ref in dict(zip(digests, release.adapters, strict=True)).items()
            }
            self._gates = [self._read[each][1] for each in digests]
            self.gate: GateBank = bank_of(
                self._gates,
                encoder_for(base) if release.adapters else None,
                key,
                before=None if before is None else before.gate,
            )
            # The cases of a cluster share one adapter.
            self.names = [adapter for adapter, _ in digests]
            self.bank: AdapterBank = AdapterBank(
                base,
                {weights: files for (weights, _), (files, _) in self._read.items()},
                most_bytes=adapter_bytes,
                before=None if before is None else before.bank,
            )
            self.remembered = Remembered(most_bytes=kept_bytes)
            self.reader = Reader(base, self.bank, self.remembered)
        except (AdapterError, ModelError) as error:
            raise ReleaseError(f"The release {release.sha256} cannot be served: {error}") from error
        kinds = {type(layer) for layer in DynamicCache(config=base.model.config).layers}
        if kinds - {DynamicLayer}:
            raise ReleaseError(
                f"{base.name} keeps its context in another form than keys and values of all "
                "tokens: it cannot be served in batches."
            )
        # With a template the model says itself where an answer ends; without one, a line is one.
        has_template = base.tokenizer.chat_template is not None
        self.stops = ends(base) if has_template else stop_tokens(base.tokenizer)
        self.usual = USUAL if has_template else base.answer_tokens
        self.longest = int(base.model.config.max_position_embeddings)

    def follow(self) -> bool:
        """Take note of who is restricted now, where that is due; True if that changed."""
        if self.restrictions is None or not self.restrictions.due():
            return False
        self.gate = bank_of(
            self._gates,
            self.gate.encoder,
            self._key,
            restricted=self.restrictions.people,
            shut=self.restrictions.closed,
            before=self.gate,
        )
        return True

    def ids(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens."""
        text = self._bare_text(prompt) if prompt.bare else self.base.prompt(prompt.conversation)
        return list(self.base.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, row: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self.base.tokenizer.decode(row, skip_special_tokens=True)).strip()

    def strengths(self, decision: Decision) -> Strengths:
        """Each adapter's strength under a decision, by digest; one of several cases acts at the
        largest of theirs."""
        found: dict[str, float] = {}
        for case, strength in decision.acting:
            name = self.names[case]
            found[name] = max(strength, found.get(name, 0.0))
        return found

    def take(
        self, prompts: Sequence[Prompt], ids: Sequence[list[int]], callers: Sequence[str]
    ) -> tuple[list[Taken], Started | None]:
        """What the gate says of each prompt, of which `ids` are the tokens; and the rows of those
        on which nothing acts, in their order, where they were read for the gate anyway."""
        encoder = self.gate.encoder
        texts = [semantic_texts(prompt.conversation) for prompt in prompts]
        once = not any(p.bare or len(t) > 1 for p, t in zip(prompts, texts, strict=True))
        started, features = None, list[Tensor | None]([None] * len(prompts))
        if encoder is not None and self.gate.prototypes is not None:
            if once and encoder.of_states is not None:
                started = begin(self.base.model, ids, states=True, pick=as_they_are)
                found = encoder.of_states(started.states.float().cpu())
            else:
                asked = [(c, text) for c, each in zip(callers, texts, strict=True) for text in each]
                found = self.remembered.features(asked, encoder.encode)
            features = list(found.split([len(each) for each in texts]))
        taken = []
        for prompt, own, row in zip(prompts, features, ids, strict=True):
            conversation, decision = self.gate.read(prompt.conversation, own)
            if conversation is not prompt.conversation:
                prompt = Prompt(conversation, bare=prompt.bare)
                row = self.ids(prompt)
            taken.append(Taken(prompt, row, decision))
        quiet = [i for i, each in enumerate(taken) if not acts(each.decision)]
        if started is None or not quiet:
            return taken, None
        return taken, started if len(quiet) == len(taken) else some_of(started, quiet)

    def begin(
        self,
        ids: Sequence[Sequence[int]],
        decisions: Sequence[Decision],
        callers: Sequence[str] = (),
    ) -> Started:
        """Read rows of tokens, each under its decision; `first` are the logits [n, vocabulary]."""
        return self.reader.read(ids, [self.strengths(each) for each in decisions], callers)

    def model_for(self, decisions: Sequence[Decision]) -> Any:
        """The model as it acts on a batch of rows under these decisions."""
        acting = self.bank.act([self.strengths(each) for each in decisions])
        return self.bank.model if acting else self.base.model

    @staticmethod
    def _bare_text(prompt: Prompt) -> str:
        turns = prompt.conversation
        return turns if isinstance(turns, str) else "\n".join(turn.text for turn in turns)


def ends(base: BaseModel) -> frozenset[int]:
    """The tokens by which a model says that its answer has ended."""
    own = base.model.generation_config.eos_token_id
    found = own if isinstance(own, list) else [own]
    return frozenset(each for each in (base.tokenizer.eos_token_id, *found) if each is not None)


def acts(decision: Decision) -> bool:
    """Whether anything but the plain model answers under this decision."""
    return decision.closed or bool(decision.acting)
