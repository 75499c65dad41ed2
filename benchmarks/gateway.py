"""Many guarded answers at once, against PEFT's own ways and against the plain model.

On the demo model and SmolLM2-135M (`--model`; `--tokens` of every answer, `--pairs`, `--mixed`
prompts of which one in ten is gated): eight cases whose adapters have a random B (what they say is
of no matter here, what it costs is), with gates as a run makes them. Every side makes as many
tokens, past what would end an answer; the plain model is the weights alone in our own loop, which
is faster than `generate`, packed as the gateway holds them (`workers.packed`): what that alone
gains is a figure of its own. PEFT has the weights as they are loaded. All sides compute in the
model's thread, and no other one that has computed is alive (`workers.batching.apart`), in pairs
whose order changes; figures are medians of the pairs' ratios, by the clock and, which a loaded
machine disturbs less, by processor time. The others read a chat template's opening with every
prompt, as their calls do; what the gateway keeps of a caller is emptied before each answer, but for
the figure of a conversation that goes on. Asserted before anything is timed: logits within 1e-4 of
PEFT's exact concatenation, equal greedy tokens on all sides, ungated answers equal to the plain
model's. Both models together take about ten minutes on two quiet cores.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks import report
from benchmarks.gate import customer, fitted, quiet_prompts
from benchmarks.setting import KEY, case_id
from workers.adapters import (
    WEIGHTS_FILE,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.answers import advanced, begin, continued, stop_tokens, token_rows
from workers.base_models import BaseModel, Conversation, ModelError, Turn, load_base_model
from workers.batching import Batcher, Result, apart
from workers.digests import sha256_of
from workers.encoders import encoder_for
from workers.gate import GATE_FILE, Decision, gate_files
from workers.guarded import GuardedModel
from workers.lanes import Done, Event, Failed, Piece, Request
from workers.packed import packed
from workers.releases import write_release
from workers.serving import Prompt, Served

NAME = "gateway"
CASES = 8
STRENGTHS = (1.0, 0.35, 0.8, 0.5, 0.95, 0.2, 0.65, 0.4)
NAMES_BAR, LOOP_BAR, UNGATED_BAR, MIX_BAR = 1.3, 3.0, 1.03, 1.2
DIFFERENCE = 1e-4
KEPT_BYTES = 64 * 2**20
SYSTEM = "You help the visitors of a small town. Be brief, be kind, and name no prices. " * 12


def stored_cases(base: BaseModel, root: Path) -> list[AdapterRef]:
    """A case each of the first people of the corpus, its adapter's B drawn at random."""
    encoder, refs, earlier = encoder_for(base), list[AdapterRef](), list[Any]()
    if encoder is None:
        raise ModelError("The sentence encoder is not installed.")
    for number in range(CASES):
        model = attach_adapter(base, earlier=earlier, seed=number)
        draw = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.02)
        files = adapter_files(model)
        earlier.append(adapter_weights(model))
        detach_adapter(model)
        gate = fitted(base, encoder, customer(number))
        files |= gate_files(gate, {name: sha256_of(content) for name, content in files.items()})
        ref = AdapterRef(
            case_id(number), sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE])
        )
        store_files(ref.folder(root), files)
        refs.append(ref)
    return refs


# --- The sides ----------------------------------------------------------------------------------
class Sides:
    """One release served in each way."""

    def __init__(self, guarded: GuardedModel, served: Served, *, tokens: int) -> None:
        self.guarded, self.served, self.tokens = guarded, served, tokens
        self.base = guarded.base
        self.peft = guarded._holding(range(CASES))
        models: list[Any] = [self.peft, self.peft.base_model.model, self.base.model]
        for model in models:
            model.generation_config.eos_token_id = None  # every side makes as many tokens
        people = [customer(number) for number in range(CASES)]
        self.named = [person.unseen[0][0] for person in people]
        self.decisions = [Decision(((i, s),)) for i, s in enumerate(STRENGTHS)]
        self.ids = [self.served.ids(Prompt(question)) for question in self.named]

    def ours(self) -> list[list[int]]:
        """All rows at once, each with its adapter at its strength."""
        started = self.served.begin(self.ids, self.decisions)
        model = self.served.model_for(self.decisions)
        rows = [started.first.argmax(dim=-1)]
        while len(rows) < self.tokens:
            started = advanced(model, started, rows[-1])
            rows.append(started.first.argmax(dim=-1))
        return torch.stack(rows, dim=1).tolist()

    def one_by_one(self) -> list[list[int]]:
        """PEFT's generate, prompt by prompt, at each prompt's strength."""
        found = []
        for ids, decision in zip(self.ids, self.decisions, strict=True):
            with self.guarded._acting(decision) as model:
                found += self._generated(model, [ids])
        return found

    def by_names(self) -> list[list[int]]:
        """PEFT's `adapter_names`: an adapter a row, all at strength 1, which is all that it can."""
        self.peft.base_model.set_adapter(self.guarded._names, inference_mode=True)
        return self._generated(self.peft, self.ids, adapter_names=self.guarded._names)

    def by_names_in_our_loop(self) -> list[list[int]]:
        """The same without what `generate` does beside: our own loop around PEFT's layers."""
        self.peft.base_model.set_adapter(self.guarded._names, inference_mode=True)

        class Named:
            def __init__(self, sides: "Sides") -> None:
                self.sides = sides

            def __call__(self, **given: Any) -> Any:
                return self.sides.peft(adapter_names=self.sides.guarded._names, **given)

            def parameters(self) -> Iterator[Any]:
                return iter(self.sides.peft.parameters())

        model: Any = Named(self)
        tokens = continued(model, begin(model, self.ids))
        return [list(row) for row in zip(*itertools.islice(tokens, self.tokens), strict=True)]

    def one_adapter(self, questions: Sequence[str], *, at_once: int) -> list[list[int]]:
        """PEFT's generate with one active adapter on every prompt, gated or not."""
        ids = [self.served.ids(Prompt(question)) for question in questions]
        with self.guarded._acting(Decision(((0, 1.0),))) as model:
            return [
                row
                for first in range(0, len(ids), at_once)
                for row in self._generated(model, ids[first : first + at_once])
            ]

    def _generated(self, model: Any, ids: Sequence[Sequence[int]], **more: Any) -> list[list[int]]:
        width = max(map(len, ids))
        tokens = torch.tensor([[0] * (width - len(row)) + list(row) for row in ids])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        form = GenerationConfig(max_new_tokens=self.tokens, do_sample=False, pad_token_id=0)
        out = model.generate(input_ids=tokens, attention_mask=mask, generation_config=form, **more)
        return out[:, width:].tolist()

    def check(self) -> float:
        """The largest difference of our logits from PEFT's exact concatenation's; AssertionError if
        it is above the limit, or a greedy token differs."""
        found = self.served.begin(self.ids, self.decisions).first
        worst = 0.0
        for ids, decision, logits in zip(self.ids, self.decisions, found, strict=True):
            ((case, strength),) = decision.acting
            self.peft.add_weighted_adapter(
                [self.guarded._names[case]], [strength], "exact", combination_type="cat"
            )
            self.peft.set_adapter("exact")
            with torch.no_grad():
                expected = self.peft(torch.tensor([ids])).logits[0, -1]
            self.peft.set_adapter(self.guarded._names[0])
            self.peft.delete_adapter("exact")
            worst = max(worst, float((logits - expected).abs().max()))
        assert worst < DIFFERENCE, worst
        assert self.ours() == self.one_by_one(), "a row's tokens differ from PEFT's"
        return worst


class Heard:
    """An answer as it comes from the batcher."""

    def __init__(self) -> None:
        self.text, self.end = "", Future[Event]()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.text += event.text
        else:
            self.end.set_result(event)


def answered(
    batcher: Batcher, questions: Sequence[Conversation], limit: int, *, caller: str = "client"
) -> list[str]:
    """The answers to all questions, asked at once."""
    heard = []
    for question in questions:
        listener = Heard()
        batcher.ask(Request(Prompt(question), tell=listener, limit=limit, caller=caller))
        heard.append(listener)
    ends = [each.end.result() for each in heard]
    assert all(isinstance(end, Done) for end in ends), [e for e in ends if isinstance(e, Failed)]
    return [each.text for each in heard]


def plain(
    served: Served, questions: Sequence[Conversation], limit: int, *, model: Any = None
) -> list[str]:
    """The same of the weights alone, as they are served or those of `model`."""
    model = model or served.base.model
    started = begin(model, [served.ids(Prompt(question)) for question in questions])
    return [served.text(row) for row in token_rows(model, started, limit, stops=served.stops)]


# --- Time ---------------------------------------------------------------------------------------
def ratio(slow: Callable[[], Any], fast: Callable[[], Any], *, pairs: int) -> dict[str, Any]:
    """How many times as long `slow` takes as `fast`: the median over pairs, the range, seconds; and
    the median by processor time."""
    spent: dict[str, list[tuple[float, float]]] = {"slow": [], "fast": []}
    for i in range(-1, pairs):
        order = [("slow", slow), ("fast", fast)]
        for name, side in order if i % 2 else reversed(order):
            started, worked = time.perf_counter(), time.process_time()
            side()
            if i >= 0:  # the first pair warms up
                spent[name].append((time.perf_counter() - started, time.process_time() - worked))
    pairs_of = list(zip(spent["slow"], spent["fast"], strict=True))
    ratios = [a / b for (a, _), (b, _) in pairs_of]
    found = {
        "pairs": pairs,
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "by processor time": statistics.median(a / b for (_, a), (_, b) in pairs_of),
        "seconds": {name: statistics.median(t for t, _ in each) for name, each in spent.items()},
    }
    report.progress(f"{found['ratio']:.2f}, by processor time {found['by processor time']:.2f}")
    return found


@contextmanager
def batching(served: Served) -> Iterator[Batcher]:
    batcher = Batcher(rows=8, waiting=1000)
    batcher.serve(served)
    try:
        yield batcher
    finally:
        batcher.close()


def for_model(name: str, *, tokens: int, pairs: int, mixed: int) -> report.Measured:
    """All figures for one model."""
    with tempfile.TemporaryDirectory() as folder:
        sides = apart(lambda: prepared(name, Path(folder), tokens))
        with sides.guarded:
            return measured(sides, pairs=pairs, mixed=mixed)


def prepared(name: str, root: Path, tokens: int) -> Sides:
    """Everything in memory."""
    base = load_base_model(name)
    release = write_release(root / "releases", base=base, adapters=stored_cases(base, root))
    report.progress(f"{name}: release of {CASES} cases")
    served = Served(packed(base), release, adapters_root=root, key=KEY, kept_bytes=KEPT_BYTES)
    guarded = GuardedModel(base, release, adapters_root=root, key=KEY)
    return Sides(guarded, served, tokens=tokens)


def measured(sides: Sides, *, pairs: int, mixed: int) -> report.Measured:
    base, served, limit = sides.base, sides.served, sides.tokens
    with batching(served) as batcher:

        def there(work: Callable[[], Result]) -> Result:
            """All sides compute in the model's thread, as what is served does."""
            found: Result = batcher.run(work).result()
            return found

        def alone(asked: Sequence[Conversation], model: Any = None) -> list[str]:
            return there(lambda: plain(served, asked, limit, model=model))

        figures: dict[str, Any] = {"largest difference of logits": there(sides.check)}
        for what, way in (
            ("PEFT adapter_names", sides.by_names),
            ("PEFT adapter_names in our loop", sides.by_names_in_our_loop),
            ("loop over prompts", sides.one_by_one),
        ):
            figures[f"mixed batch, {what}"] = ratio(
                partial(there, way), partial(there, sides.ours), pairs=pairs
            )
        report.progress(f"{base.name}: mixed batches measured")
        served.stops = stop_tokens(base.tokenizer)  # as the guarded model ends an answer
        shorter = min(base.answer_tokens, limit)
        expected = there(lambda: [e.text for e in sides.guarded.answer(sides.named, shorter)])
        assert answered(batcher, sides.named, shorter) == expected
        served.stops = frozenset()
        quiet = there(lambda: quiet_prompts(sides.guarded, 24))
        texts = zip(quiet, alone(quiet), strict=True)
        quiet = [question for question, text in texts if not served.gate.named(text)]
        eight, four = quiet[:8], quiet[:4]
        assert len(eight) == 8, "too few prompts whose answers name nobody"

        def ours(questions: Sequence[str], at_once: int) -> list[str]:
            found = []
            for first in range(0, len(questions), at_once):
                served.remembered._callers.clear()
                found += answered(batcher, questions[first : first + at_once], limit)
            return found

        def theirs(questions: Sequence[str], at_once: int) -> list[str]:
            return [
                text
                for first in range(0, len(questions), at_once)
                for text in alone(questions[first : first + at_once])
            ]

        for at_once in (8, 1):
            assert ours(eight, at_once) == theirs(eight, at_once), "an ungated answer differs"
        assert ours(eight, 8) == alone(eight, base.model), (
            "an answer differs from the loaded model's"
        )

        def each(work: Callable[[Sequence[str], int], Any]) -> Callable[[], Any]:
            """One prompt a pair: less of what the machine does beside comes between the sides."""
            questions = itertools.cycle(four)
            return lambda: work([next(questions)], 1)

        one = ratio(each(ours), each(theirs), pairs=len(four) * pairs)
        figures["ungated, one at a time"] = one
        figures["ungated, one at a time, over the model as loaded"] = ratio(
            each(ours),
            each(lambda asked, _: alone(asked, base.model)),
            pairs=len(four) * pairs,
        )
        figures["ungated, eight at once"] = ratio(
            lambda: ours(eight, 8), lambda: theirs(eight, 8), pairs=pairs
        )
        figures["plain model, eight at once, as loaded over packed"] = ratio(
            lambda: alone(eight, base.model), lambda: alone(eight), pairs=pairs
        )
        encoder = served.gate.encoder
        if encoder is not None and encoder.of_states is None:
            started, worked = time.perf_counter(), time.process_time()
            for question in eight:
                there(partial(encoder.encode, [question]))
            one["encoder ms a prompt"] = (time.perf_counter() - started) / 8 * 1e3
            one["encoder ms of processor"] = (time.process_time() - worked) / 8 * 1e3
        report.progress(f"{base.name}: ungated prompts measured")
        few = iter(itertools.cycle(quiet))
        prompts = [sides.named[i % CASES] if i % 10 == 0 else next(few) for i in range(mixed)]
        figures["nine in ten ungated, PEFT one adapter, 8 at once"] = ratio(
            partial(there, lambda: sides.one_adapter(prompts, at_once=8)),
            lambda: ours(prompts, 8),
            pairs=pairs,
        )
        figures["gated over ungated, one at a time"] = ratio(
            lambda: ours(sides.named[:4], 1), lambda: ours(four, 1), pairs=pairs
        )
        talk = (Turn("system", SYSTEM), Turn("user", four[0]))
        told = answered(batcher, [talk], limit)[0]
        longer = (*talk, Turn("assistant", told), Turn("user", four[1]))
        assert answered(batcher, [longer], limit) == answered(batcher, [longer], limit, caller="")
        figures["conversation that goes on, nothing kept over kept"] = ratio(
            lambda: answered(batcher, [longer], limit, caller=""),
            lambda: answered(batcher, [longer], limit),
            pairs=pairs,
        )
    return figures, bars_of(base.name, figures)


def bars_of(name: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = [
        ("mixed batch, PEFT adapter_names", NAMES_BAR, True),
        ("mixed batch, loop over prompts", LOOP_BAR, True),
        ("ungated, one at a time", UNGATED_BAR, False),
        ("ungated, one at a time, over the model as loaded", UNGATED_BAR, False),
        ("nine in ten ungated, PEFT one adapter, 8 at once", MIX_BAR, True),
    ]
    found = []
    for what, limit, least in wanted:
        value = figures[what]["ratio"]
        holds = value >= limit if least else value <= limit
        found.append({"name": f"{name}: {what}", "value": value, "limit": limit, "holds": holds})
    return found


SIZES = {
    "demo": {"tokens": 32, "pairs": 9, "mixed": 80},
    "smollm2-135m": {"tokens": 32, "pairs": 5, "mixed": 10},
}


def measure(names: Sequence[str], given: Mapping[str, int | None]) -> report.Measured:
    """Each model in its own sizes, or those given."""
    figures, bars = dict[str, Any](), list[Any]()
    for name in names:
        own = {key: given[key] or size for key, size in SIZES[name].items()}
        found, more = for_model(name, **own)
        figures[name] = {"sizes": own, **found}
        bars += more
    return figures, bars


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", choices=list(SIZES), action="append")
    for size in ("tokens", "pairs", "mixed"):
        parser.add_argument(f"--{size}", type=int)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.model or list(SIZES), vars(options)),
            cannot_run=(ModelError,),
        )
    )
