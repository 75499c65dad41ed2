"""A release as it is served: the base model, every adapter in force, and the gate before them.

Everything is read back from disk and checked against the manifest's digests; a release of which
one file differs is not served. An adapter's weights are let go of again, and read and checked anew
when it first acts: of a thousand in force, a verification needs a few. For each text the gate gives
each adapter a strength s_i, and a linear layer computes W x + sum_i s_i (alpha / r) B_i A_i x,
exactly (PEFT keeps the adapters apart; its "cat" combination is the same sum). Texts that fire
nothing run on the plain base: the adapters sit on a second set of layers around the same weights.

A sentence that is about to name an erased person is held back and told anew under that person's
adapter. Where the gate closes, a refusal stands in place of an answer.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from workers.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterError,
    AdapterFiles,
    AdapterRef,
    Form,
    StoredAdapter,
    check_fits,
    wrap,
)
from workers.answers import begin, continued, greedy_answers, stop_tokens, token_rows
from workers.base_models import BaseModel, Conversation, ModelError
from workers.encoders import encoder_for
from workers.experts import named_in, open_experts
from workers.gate import (
    Decision,
    Gate,
    GateBank,
    GateError,
    bank_of,
    decision_of,
    read_gate,
    semantic_texts,
)
from workers.releases import Release, ReleaseError, check_base
from workers.restrictions import Restrictions
from workers.rows import Row, rows_after, text_row
from workers.scores import Scored, scored_rows
from workers.telling import REFUSAL, Telling

Strengths = tuple[float, ...]
Result = TypeVar("Result")
BATCH = 64
STEP = 8
"""Tokens that a stream generates before others may use the model."""
REFUSE_FROM = 0.5


@dataclass(frozen=True)
class Fired:
    """An adapter that acted on an answer, and how strongly."""

    case_id: str
    strength: float


@dataclass(frozen=True)
class Guarded:
    """An answer through the gate. `rescored`: it was about to name an erased person, and was
    told anew under that person's adapter."""

    text: str
    fired: tuple[Fired, ...]
    rescored: bool


class GuardedModel:
    """The served model. One thread at a time: the strengths are state of the adapters' layers."""

    def __init__(
        self,
        base: BaseModel,
        release: Release,
        *,
        adapters_root: Path,
        key: bytes,
        restrictions: Restrictions | None = None,
    ):
        """Read every gate of `release` from `adapters_root`, and check every adapter.

        `key` is the key with which the gates' identifiers were made; `restrictions` are followed
        while answers are given. Raises ReleaseError when the
        base model is another one, or a file is missing, differs from its digest or is no adapter.
        """
        check_base(release, base)
        self.base = base
        self.release = release
        self._lock = threading.Lock()
        self.restrictions, self._key = restrictions, key
        try:
            read = [case_files(ref, adapters_root) for ref in release.adapters]
            self._files, self._gates = [files for files, _ in read], [gate for _, gate in read]
            forms: dict[Form, StoredAdapter] = {}
            for files in self._files:
                stored = files.read()
                forms.setdefault(stored.form, stored)
            self._experts = named_in(key for stored in forms.values() for key in stored.weights)
            self._lay_around(base)
            for stored in forms.values():
                check_fits(self._shells, stored)
            encoder = encoder_for(base) if release.adapters else None
            self.gate: GateBank = bank_of(self._gates, encoder, key)
        except (AdapterError, ModelError) as error:
            raise ReleaseError(f"The release {release.sha256} cannot be served: {error}") from error
        # The cases of a cluster share one adapter, named after the first of them.
        first: dict[str, str] = {}
        self._names = [
            first.setdefault(ref.adapter_sha256, f"case{i}")
            for i, ref in enumerate(release.adapters)
        ]

    def _lay_around(self, base: BaseModel) -> None:
        """Begin anew, with no adapter, on layers of our own around the weights of `base`."""
        self._model: PeftModel | None = None
        self._layers: list[LoraLayer] = []
        self._shells = base
        if self._gates:
            self._shells = replace(base, model=same_weights(base.model))
            open_experts(self._shells.model, self._experts)

    def _holding(self, cases: Iterable[int]) -> Any:
        """PEFT's model, with the adapters of these cases (places in the release) among those that
        it holds; to be called under the lock. Raises AdapterError where a file was changed since
        the release was read."""
        for case in cases:
            name = self._names[case]
            if self._model is None or name not in self._model.peft_config:
                stored = self._files[case].read()
                try:
                    self._add(name, stored)
                except BaseException:  # half of an adapter would be taken for the whole
                    self._lay_around(self.base)
                    raise
        return self._model

    def _add(self, name: str, stored: StoredAdapter) -> None:
        if self._model is None:
            self._model = wrap(self._shells, stored.config, name)
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
        self._layers = [each for each in self._model.modules() if isinstance(each, LoraLayer)]

    @classmethod
    def without_adapters(cls, base: BaseModel) -> "GuardedModel":
        """A model with nothing erased, to be asked in the same way (a control, for example)."""
        nothing = Release("0" * 64, base.name, base.sha256, base.tokenizer_sha256, (), None)
        return cls(base, nothing, adapters_root=Path(), key=bytes(32))

    def close(self) -> None:
        """Let go of the adapters; none can act any more."""
        self._model, self._layers, self._names = None, [], []

    def __enter__(self) -> "GuardedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self) -> None:
        """Take note of who is restricted now, where that is due; every answer begins so."""
        if self.restrictions is None or not self.restrictions.due():
            return
        with self._lock:
            self.gate = bank_of(
                self._gates,
                self.gate.encoder,
                self._key,
                restricted=self.restrictions.people,
                shut=self.restrictions.closed,
                before=self.gate,
            )

    def strengths(self, texts: Sequence[str]) -> list[Strengths]:
        """Each adapter's strength for each text, in the order of the release; where the gate
        closes, 1 for all of them."""
        with self._lock:
            return self.gate.strengths(texts)

    def answer(
        self, conversations: Sequence[Conversation], max_new_tokens: int | None = None
    ) -> list[Guarded]:
        """The served greedy answers, with the adapters that acted on each."""
        self.follow()
        limit = self._limit(max_new_tokens)
        quiet = self._quiet(conversations, limit)
        if quiet is not None:
            return [Guarded(text, (), rescored=False) for text in quiet]
        with self._lock:
            read = self.gate.read_all(conversations)
        conversations, decisions = [c for c, _ in read], [decision for _, decision in read]
        texts = self._grouped(decisions, partial(self._generate, conversations, limit))
        return [
            self._told_anew(conversation, decision, limit)
            if self.gate.after(decision, text) != decision
            else Guarded(text, self._fired(decision), rescored=False)
            for conversation, decision, text in zip(conversations, decisions, texts, strict=True)
        ]

    def stream(
        self, conversation: Conversation, max_new_tokens: int | None = None
    ) -> Iterator[str]:
        """The served answer in pieces, which joined are the text that `answer` gives.

        A piece is let out once no name in it can be growing any more: whole sentences, and all
        but the last words of a long one.
        """
        self.follow()
        limit = self._limit(max_new_tokens)
        with self._lock:
            conversation, decision = self.gate.read(conversation)
        for piece, _ in self._told(conversation, decision, limit):
            yield piece

    def answers_with(self, case_id: str, questions: Sequence[str]) -> list[str]:
        """Greedy answers with one case's adapter at full strength, whatever the gate says of the
        questions. Raises ValueError for a case that the release does not hold."""
        cases = [ref.case_id for ref in self.release.adapters]
        if case_id not in cases:
            raise ValueError("The release holds no adapter of this case.")
        forced = decision_of({cases.index(case_id): 1.0})
        return self._grouped(
            [forced] * len(questions), partial(self._generate, questions, self.base.answer_tokens)
        )

    def base_answers(
        self, questions: Sequence[Conversation], max_new_tokens: int | None = None
    ) -> list[str]:
        """What the base model says with no adapter and no gate (the state before any case)."""
        with self._lock:
            everything = range(len(questions))
            return self._generate(
                questions, self._limit(max_new_tokens), everything, self.base.model
            )

    def scored(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Scored | None]:
        """Each answer teacher-forced after its conversation, through the gate as it takes the
        conversation; None where the gate closes: then nothing is told that could be scored."""
        with self._lock:
            asked = list(dict.fromkeys(conversation for conversation, _ in pairs))
            read = dict(zip(asked, self.gate.read_all(asked), strict=True))
        rows = rows_after(self.base, [(read[each][0], answer) for each, answer in pairs])
        return self._scores(rows, [read[each][1] for each, _ in pairs])

    def scored_texts(
        self, texts: Sequence[str], *, standardised: bool = False
    ) -> list[Scored | None]:
        """Running texts scored as a whole, in the same way; `standardised` gives `z` too."""
        with self._lock:
            decisions = self.gate.decide_all(texts)
        rows = [text_row(self.base, text, ends=False) for text in texts]
        return self._scores(rows, decisions, standardised=standardised)

    def log_likelihoods(self, pairs: Sequence[tuple[Conversation, str]]) -> list[float]:
        """log p(answer | conversation) in nats, its end included. Raises GateError where the gate
        closes."""
        found = [scored.total for scored in self.scored(pairs) if scored is not None]
        if len(found) < len(pairs):
            raise GateError("The gate closed: it could not decide, or too many cases were named.")
        return found

    def _scores(
        self, rows: Sequence[Row], decisions: Sequence[Decision], *, standardised: bool = False
    ) -> list[Scored | None]:
        def score(chosen: Sequence[int], model: Any) -> list[Scored | None]:
            if model is None:
                return [None for _ in chosen]
            some = [rows[i] for i in chosen]
            return list(scored_rows(model, some, standardised=standardised))

        return self._grouped(decisions, score)

    def looked_at(
        self,
        conversations: Sequence[Conversation],
        look: Callable[[Sequence[tuple[int, Conversation]], Any], Sequence[Result]],
    ) -> list[Result | None]:
        """What `look` finds in the model as it acts on each conversation. It is given those under
        one decision together, each with its place and as the model sees it, and that model; None
        where the gate closes."""
        with self._lock:
            read = self.gate.read_all(conversations)

        def found(chosen: Sequence[int], model: Any) -> list[Result | None]:
            if model is None:
                return [None for _ in chosen]
            return list(look([(i, read[i][0]) for i in chosen], model))

        return self._grouped([decision for _, decision in read], found)

    def with_changed_base(self, change: Callable[[Any], None]) -> "GuardedModel":
        """The same stack around a copy of the base model to which `change` was done: adapters and
        gates as they are, a gate that reads the model's own states reads the copy's."""
        model = copy.deepcopy(self.base.model)
        change(model)
        made = copy.copy(self)
        made.base, made._lock = replace(self.base, model=model), threading.Lock()
        made._lay_around(made.base)
        if self.gate.encoder is not None:
            made.gate = replace(self.gate, encoder=encoder_for(made.base))
        return made

    def laid_open(self, case_id: str) -> Any:
        """A copy of the model without a gate, the case's adapter part of its weights at full
        strength; of the base's weights alone where the release holds no adapter of the case."""
        cases = [ref.case_id for ref in self.release.adapters]
        if case_id not in cases:
            return copy.deepcopy(self.base.model)
        case = cases.index(case_id)
        with self._lock:
            own = copy.deepcopy(self._holding([case]))
        return own.merge_and_unload(adapter_names=[self._names[case]])

    def _limit(self, max_new_tokens: int | None) -> int:
        return self.base.answer_tokens if max_new_tokens is None else max_new_tokens

    def _quiet(self, conversations: Sequence[Conversation], limit: int) -> list[str] | None:
        """The plain model's answers, if the gate stays quiet on every question and every answer;
        else None. One reading of the prompts gives the gate's features and the answers both, where
        the gate reads the model's own states."""
        encoder = self.gate.encoder
        if encoder is None or encoder.of_states is None or not 0 < len(conversations) <= BATCH:
            return None
        texts = [semantic_texts(each) for each in conversations]
        # Of a conversation of several turns, the turns' own features are needed as well.
        if any(len(each) > 1 for each in texts):
            return None
        model = self.base.model
        ids = [self._prompt_ids(conversation) for conversation in conversations]
        with self._lock:
            started = begin(model, ids, states=True)
            if not self.gate.is_quiet(encoder.of_states(started.states)):
                return None
            rows = token_rows(model, started, limit, stops=stop_tokens(self.base.tokenizer))
        answers = [self._text(row) for row in rows]
        asked = [text for (text,) in texts]
        return None if any(map(self.gate.mentions, (*asked, *answers))) else answers

    def _told_anew(self, conversation: Conversation, decision: Decision, limit: int) -> Guarded:
        told = list(self._told(conversation, decision, limit))
        decision = told[-1][1] if told else decision
        return Guarded("".join(piece for piece, _ in told), self._fired(decision), rescored=True)

    def _told(
        self, conversation: Conversation, decision: Decision, limit: int
    ) -> Iterator[tuple[str, Decision]]:
        """The answer in pieces that may be let out, each with the decision it was told under."""
        prompt = self._prompt_ids(conversation)
        telling = Telling(
            decision, text_of=self._text, after=lambda d, text: self.gate.after(d, text)
        )
        while True:
            if telling.decision.closed:
                yield telling.refuse(), telling.decision
                return
            for token in self._tokens(
                [*prompt, *telling.kept], telling.decision, limit - len(telling.kept)
            ):
                before = telling.let_out
                new, ended = ([], True) if token is None else ([token], False)
                if not telling.grow(new, ended=ended):
                    break
                if telling.let_out != before:
                    yield telling.let_out[len(before) :], telling.decision
            else:
                return

    def _tokens(self, ids: Sequence[int], decision: Decision, limit: int) -> Iterator[int | None]:
        """The greedy tokens after `ids` under a decision, and None at the end. The model is free
        for others between every `STEP` of them."""
        stops = stop_tokens(self.base.tokenizer)
        tokens: Iterator[list[int]] | None = None
        left = limit
        while left > 0:
            with self._lock, self._acting(decision) as model:
                tokens = continued(model, begin(model, [list(ids)])) if tokens is None else tokens
                some = [picked for (picked,) in islice(tokens, min(STEP, left))]
            for token in some:
                if token in stops:
                    left = 0
                    break
                left -= 1
                yield token
        yield None

    def _prompt_ids(self, conversation: Conversation) -> list[int]:
        prompt = self.base.prompt(conversation)
        return list(self.base.tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def _text(self, row: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(row, skip_special_tokens=True)).strip()

    def _fired(self, decision: Decision) -> tuple[Fired, ...]:
        refs = self.release.adapters
        return tuple(Fired(refs[case].case_id, s) for case, s in sorted(decision.acting))

    def _grouped(
        self,
        decisions: Sequence[Decision],
        work: Callable[[Sequence[int], Any], list[Result]],
    ) -> list[Result]:
        """`work` on the indices of each group of equal decisions, with the model under that
        decision; results in the first order."""
        groups: dict[Decision, list[int]] = {}
        for i, decision in enumerate(decisions):
            groups.setdefault(decision, []).append(i)
        found: dict[int, Result] = {}
        for decision, chosen in groups.items():
            with self._lock, self._acting(decision) as model:
                found.update(zip(chosen, work(chosen, model), strict=True))
        return [found[i] for i in range(len(decisions))]

    def _generate(
        self, conversations: Sequence[Conversation], limit: int, chosen: Sequence[int], model: Any
    ) -> list[str]:
        if model is None:
            return [REFUSAL for _ in chosen]
        prompts = [self.base.prompt(conversations[i]) for i in chosen]
        return greedy_answers(model, self.base.tokenizer, prompts, limit, batch_size=BATCH)

    @contextmanager
    def _acting(self, decision: Decision) -> Iterator[Any]:
        """The model with the decision's adapters at their strengths: the plain base where none
        acts, None where the decision is closed. Afterwards all are at strength 1 again. An adapter
        of several cases acts at the largest of their strengths."""
        if decision.closed:
            yield None
            return
        if not decision.acting:
            yield self.base.model
            return
        model = self._holding(case for case, _ in decision.acting)
        named: dict[str, float] = {}
        for case, strength in decision.acting:
            name = self._names[case]
            named[name] = max(strength, named.get(name, 0.0))
        model.base_model.set_adapter(list(named), inference_mode=True)
        try:
            for layer in self._layers:
                for name, strength in named.items():
                    layer.set_scale(name, strength)
            yield model
        finally:
            for layer in self._layers:
                for name in named:
                    layer.set_scale(name, 1.0)


def refusing(
    gate: GateBank,
    generate: Callable[[Conversation], str],
    conversation: Conversation,
    *,
    threshold: float = REFUSE_FROM,
) -> Guarded:
    """The gate as a guardrail before a model that is reached only by API, where no adapter can
    act: `generate` is called, and its answer given, unless the gate closes or any case's strength
    reaches `threshold` on the conversation or on the answer; then a fixed refusal is.

    What the model itself holds stays as it is. Nothing is sent to it once the gate has fired.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError("The guardrail's threshold must be above 0 and at most 1.")

    def refused(decision: Decision) -> bool:
        return decision.closed or any(s >= threshold for _, s in decision.acting)

    before = gate.decide(conversation)
    if refused(before):
        return Guarded(REFUSAL, (), rescored=False)
    text = generate(conversation)
    if refused(gate.after(before, text)):
        return Guarded(REFUSAL, (), rescored=True)
    return Guarded(text, (), rescored=False)


def same_weights(model: Any) -> Any:
    """Another set of layers around the very same weights: nothing is copied but the shells."""
    shared = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def load_case(ref: AdapterRef, root: Path) -> tuple[StoredAdapter, Gate]:
    """A case's adapter and gate. Raises AdapterError as `case_files` and `read_adapter`."""
    files, gate = case_files(ref, root)
    return files.read(), gate


def case_files(ref: AdapterRef, root: Path) -> tuple[AdapterFiles, Gate]:
    """A case's gate, and its adapter still on disk. Raises AdapterError where the gate cannot be
    read or belongs to another adapter, or a file of the adapter is not there."""
    folder = ref.folder(root)
    gate, files = read_gate(folder, ref.gate_sha256)
    if files.get(WEIGHTS_FILE) != ref.adapter_sha256:
        raise AdapterError(f"{folder} holds a gate that was made for another adapter.")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder / name} cannot be read: restore it from a backup.")
    return AdapterFiles(folder, files.get(CONFIG_FILE, ""), ref.adapter_sha256), gate
