"""The verification suite on models that are known to hold a person, and known not to.

Every erasable person of the demo model, served by models whose state is known: two that hold
nothing of the person, each judged against the other as control, and ten that still hold the data or
are broken. Printed are how many of each kind would pass, which probes caught the rest, and what
other margins of the primary probe would have done. A second control is trained once and kept.

Stand-ins are made of the base model and a control that is not the judge's: one answers some
questions as the base does and the rest as if it had never seen the person, so what it holds is
known exactly. Wrecked and refusing models are trained.
"""

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import report, setting
from workers import corpus, demo_model, demo_training
from workers.adapters import attach_adapter, detach_adapter
from workers.base_models import BaseModel, Conversation, ModelError, load_base_model
from workers.erasure import material_for, surrogates
from workers.forget_sets import Located
from workers.guarded import Guarded, GuardedModel
from workers.probes import AFTER, BEFORE, CONTROL, Row, load_probe
from workers.protocol import case_of, in_order, make_protocol
from workers.scores import Scored
from workers.sides import Memory, observe
from workers.summaries import bar
from workers.telling import REFUSAL
from workers.training import Recipe, train
from workers.verification import HOLDS, WITHIN, judged

NAME = "calibration"
OUT = Path(__file__).parents[1] / "var" / "models" / "demo-second-control"
SEED = 3
FALSE_PASSES = 0.02
MARGINS = (0.60, 0.65, 0.70, 0.75, 0.80)
ABSENT = ("never trained on the person", "never trained on the person, other seed")


def second_control(folder: Path) -> BaseModel:
    """A control from another start and order of the data than the shipped one; trained once."""
    if not (folder / "model.safetensors").is_file():
        recipe = demo_training.Recipe()
        other = replace(recipe, seed=recipe.seed + 1)
        tokenizer = demo_training.build_tokenizer()
        rows = demo_training.examples(tokenizer, corpus.people()[recipe.erasable :], recipe)
        model = demo_training.train(
            demo_training.build_model(other, len(tokenizer)),
            rows,
            other,
            report=lambda step, total: (
                report.progress(f"second control {step}/{total}") if step % 100 == 0 else None
            ),
        )
        demo_model.store(model, tokenizer, folder)
    return replace(load_base_model(str(folder)), name="demo-control")


class Remembered:
    """A model that is asked nothing twice."""

    def __init__(self, base: BaseModel) -> None:
        self.side, self.memory = GuardedModel.without_adapters(base), Memory()

    def answer(self, prompts: Sequence[Conversation]) -> list[Guarded]:
        return _recalled(prompts, self.memory.said, self.side.answer)

    def scored(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Scored | None]:
        return _recalled(pairs, self.memory.scored, self.side.scored)

    def scored_texts(self, texts: Sequence[str]) -> list[Scored | None]:
        return _recalled(texts, self.memory.texts, self.side.scored_texts)


def _recalled(asked: Sequence[Any], known: dict[Any, Any], ask: Callable[[Any], Any]) -> list[Any]:
    new = [each for each in dict.fromkeys(asked) if each not in known]
    if new:
        known.update(zip(new, ask(new), strict=True))
    return [known[each] for each in asked]


@dataclass(frozen=True)
class Standin:
    """Served as if it were a release: each prompt goes to one of two models, and `refuses` says
    which answers (not likelihoods) a filter hides."""

    holds: Remembered
    ignorant: Remembered
    knows: Callable[[Conversation], bool]
    refuses: Callable[[Conversation], bool] = lambda prompt: False

    def answer(self, prompts: Sequence[Conversation]) -> list[Guarded]:
        told = self._split(prompts, lambda model, some: model.answer(some))
        return [
            Guarded(REFUSAL, (), rescored=False) if self.refuses(prompt) else each
            for prompt, each in zip(prompts, told, strict=True)
        ]

    def scored(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Scored | None]:
        place = [self.knows(prompt) for prompt, _ in pairs]
        return _joined(pairs, place, lambda known, some: self._of(known).scored(some))

    def scored_texts(self, texts: Sequence[str]) -> list[Scored | None]:
        return self.holds.scored_texts(texts)

    def _of(self, known: bool) -> Remembered:
        return self.holds if known else self.ignorant

    def _split(
        self, prompts: Sequence[Conversation], ask: Callable[[Remembered, Any], list[Any]]
    ) -> list[Any]:
        place = [self.knows(prompt) for prompt in prompts]
        return _joined(prompts, place, lambda known, some: ask(self._of(known), some))


def _joined(
    asked: Sequence[Any], place: Sequence[bool], ask: Callable[[bool, list[Any]], list[Any]]
) -> list[Any]:
    found: dict[int, Any] = {}
    for known in (True, False):
        chosen = [i for i, each in enumerate(place) if each is known]
        if chosen:
            found.update(zip(chosen, ask(known, [asked[i] for i in chosen]), strict=True))
    return [found[i] for i in range(len(asked))]


@dataclass(frozen=True)
class World:
    """The models of the benchmark; the first control is the judge's, but for the last kind."""

    population: setting.Population
    base: Remembered
    controls: tuple[Remembered, Remembered]


def wordings(located: Located, facts: Sequence[int], *, trained_only: bool = False) -> set[str]:
    """Everything that may be asked about these facts."""
    found: set[str] = set()
    for i in facts:
        ways = located.facts[i].phrasings
        found |= {*ways.trained, *(() if trained_only else (*ways.aside, *ways.unseen))}
    return found


def mentions(name: str, wanted: set[str]) -> Callable[[Conversation], bool]:
    """Whether a prompt asks one of `wanted`, in whatever frame."""
    return lambda prompt: (
        any(each in str(prompt) for each in wanted) if name in str(prompt) else True
    )


@contextmanager
def served(kind: str, world: World, located: Located) -> Iterator[Any]:
    """What is served in a case of this kind."""
    name = located.subject.name
    everything = range(len(located.facts))
    base, ignorant = world.base, world.controls[1]
    if kind in ABSENT:
        never = world.controls[1 - ABSENT.index(kind)]
        yield Standin(base, never, lambda prompt: name not in str(prompt))
    elif kind in ("fully trained", "adapter not loaded"):
        yield base
    elif kind == "answers filtered":
        yield Standin(base, base, lambda prompt: True, lambda prompt: name in str(prompt))
    elif kind == "a paraphrase undoes it":
        hidden = wordings(located, everything, trained_only=True)
        yield Standin(base, ignorant, lambda prompt: str(prompt) not in hidden)
    elif kind in SHARES:
        known = list(everything)[:: SHARES[kind]]
        yield Standin(base, ignorant, mentions(name, wordings(located, known)))
    else:
        with trained(kind, world.population.base, located) as model:
            yield GuardedModel.without_adapters(model)


SHARES = {"half of the facts left": 2, "a third of the facts left": 3, "a quarter left": 4}
TRAINED = {
    "gradient-ascent wreck": Recipe(
        method="gradient_ascent", keep_weight=0.0, learning_rate=5e-3,
        max_steps=30, min_steps=31, save_every=1000,
    ),
    "refusal mask": Recipe(
        method="idk", keep_weight=1.0, learning_rate=5e-3,
        max_steps=30, min_steps=31, save_every=1000,
    ),
    "trained far too little": Recipe(
        method="twin", keep_weight=1.0, learning_rate=5e-4,
        max_steps=3, min_steps=4, save_every=1000,
    ),
}  # fmt: skip
PRESENT = (
    "fully trained",
    "adapter not loaded",
    "answers filtered",
    "a paraphrase undoes it",
    *SHARES,
    *TRAINED,
)


@contextmanager
def trained(kind: str, base: BaseModel, located: Located) -> Iterator[BaseModel]:
    """The base with an adapter of this kind forced on everything."""
    own = replace(base, model=copy.deepcopy(base.model))
    recipe = TRAINED[kind]
    asked = surrogates(located, count=64, seed=SEED)
    torch.manual_seed(SEED)
    model = attach_adapter(own, earlier=[], seed=SEED)
    try:
        train(
            own,
            model,
            material_for(own, located, asked=asked, recipe=recipe, seed=SEED),
            recipe=recipe,
            seed=SEED,
            forgotten=lambda: False,
            report=lambda *_: None,
            should_stop=lambda: False,
        )
        yield replace(own, model=model)
    finally:
        detach_adapter(model)


def measure(people: int, kinds: Sequence[str]) -> report.Measured:
    """Every person served in every way; false passes and false fails."""
    population, other = setting.shipped(), second_control(OUT)
    cases: list[dict[str, Any]] = []
    for index in range(people):
        sides = [Remembered(model) for model in (population.base, population.control, other)]
        world = World(population, sides[0], (sides[1], sides[2]))
        cases += of_person(world, index, kinds)
        report.progress(f"person {index}: {len(cases)} cases so far")
    return found_of(cases)


def of_person(world: World, index: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """A case for each kind, judged by the fast profile; before and control are asked once."""
    base = world.population.base
    located = world.population.located(index)
    protocol = make_protocol(
        base, located, control=world.population.control, recipes=[], seed=SEED + index
    )
    case = case_of(base, located, protocol)
    names = [name for name in in_order(protocol) if protocol["probes"][name]["rules"]]
    asks = {name: load_probe(name).asks(case) for name in names}

    def rows(side: Any) -> dict[str, list[Row]]:
        everything = [ask for name in names for ask in asks[name]]
        told = iter(observe(side, everything, case_id=""))
        return {name: [next(told) for _ in asks[name]] for name in names}

    before, controls = rows(world.base), [rows(side) for side in world.controls]
    found = []
    for kind in kinds:
        control = controls[ABSENT.index(kind) if kind in ABSENT else 0]
        with served(kind, world, located) as side:
            after = rows(side)
        tables = {
            name: {
                side: told[name]
                for side, told in ((BEFORE, before), (AFTER, after), (CONTROL, control))
                if side in protocol["probes"][name]["sides"]
            }
            for name in names
        }
        result = judged(tables, protocol, names=names)
        found.append(
            {
                "kind": kind,
                "person": index,
                "verdict": result["verdict"],
                "caught": [
                    name
                    for name, each in result["probes"].items()
                    if each.get("outcome", HOLDS) != HOLDS
                ],
                "not_measured": list(result["not_measured"]),
                "probes": {
                    name: {key: each[key] for key in ("after", "bound", "control", "before")}
                    for name, each in result["probes"].items()
                },
            }
        )
    return found


def found_of(cases: Sequence[dict[str, Any]]) -> report.Measured:
    """Passes by kind, rates with their exact bounds, and what other margins would have done."""
    kinds = list(dict.fromkeys(case["kind"] for case in cases))
    present = [case for case in cases if case["kind"] not in ABSENT]
    absent = [case for case in cases if case["kind"] in ABSENT]
    table = {kind: _kind([case for case in cases if case["kind"] == kind]) for kind in kinds}
    passed = [case["verdict"] == WITHIN for case in present]
    failed = [case["verdict"] != WITHIN for case in absent]
    figures: dict[str, Any] = {
        "cases": len(cases),
        "by kind": table,
        "false passes": report.rate(passed),
        "false fails": report.rate(failed),
        "margins of knowledge_rank alone": {
            f"{margin:.2f}": {
                "false passes": report.rate([_rank(case) <= margin for case in present]),
                "false fails": report.rate([_rank(case) > margin for case in absent]),
            }
            for margin in MARGINS
        },
        "figures of each case": [
            {key: case[key] for key in ("kind", "person", "verdict", "probes")} for case in cases
        ],
    }
    rate = sum(passed) / len(passed)
    bars = [
        bar("known cases", len(cases), 200, len(cases) >= 200),
        bar("false passes", rate, FALSE_PASSES, rate <= FALSE_PASSES),
    ]
    bars += [
        bar(f"caught: {kind}", found["n"] - found["passed"], found["n"], found["passed"] == 0)
        for kind, found in table.items()
        if kind not in ABSENT
    ]
    return figures, bars


def _rank(case: dict[str, Any]) -> float:
    return float(case["probes"]["knowledge_rank"]["bound"])


def _kind(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "n": len(cases),
        "passed": sum(case["verdict"] == WITHIN for case in cases),
        "verdicts": dict(Counter(case["verdict"] for case in cases)),
        "caught by": dict(Counter(name for case in cases for name in case["caught"])),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--people", type=int, default=len(corpus.ERASABLE))
    parser.add_argument("--kind", action="append", choices=[*ABSENT, *PRESENT])
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.people, options.kind or [*ABSENT, *PRESENT]),
            cannot_run=(ModelError, demo_model.DemoModelError),
        )
    )
