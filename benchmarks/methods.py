"""Every method on the same five people: what is forgotten, what it costs the others, and in which
time. So that an engineer chooses by measurement.

Each runs in a process of its own, with at most the same number of steps, until the held-aside
phrasings are no longer told above chance (asked every five steps, the same rule for all). Methods
that need no surrogates run as published and once more with them ("+ surrogates"), the default once
more with each modifier. `exact` trains the model anew once, without any of the five. Beside them
open-unlearning's usual recipes, by Hugging Face Trainer + PEFT. The people are some whose unseen
phrasings were not looked at while the default was chosen.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

from benchmarks import hf_trainer, report, setting
from benchmarks.continual import O3_RATES
from workers import corpus, erasure
from workers.adapters import attach_adapter, detach_adapter
from workers.answers import greedy_answers
from workers.base_models import BaseModel, ModelError
from workers.encoders import encoder_for
from workers.forget_sets import Located, NothingMeasurable, answered, ask, forget_examples
from workers.gate import bank_of
from workers.rows import Example
from workers.training import Material, Recipe, load_method, method_names, train

NAME = "methods"
PEOPLE = tuple(setting.NEVER_LOOKED_AT)[:5]
BUDGET = 120
DEFAULT = Recipe().method
# What differs from the default recipe. Methods without a bound or an anchor take smaller steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient_ascent": {"learning_rate": 1e-3},
    "gradient_difference": {"learning_rate": 1e-3},
    "npo": {"learning_rate": 1e-3},
    "simnpo": {"learning_rate": 1e-3},
    "task_vector": {"learning_rate": 1e-3, "max_steps": 20},
    "rmu": {"learning_rate": 1e-3},
    "representation": {"learning_rate": 1e-3},
}
USUAL = ("npo", "gradient_difference", "idk")
MODIFIERS = ("half", "wagle")  # the third is for mixtures of experts


def names() -> list[str]:
    """Every line of the table."""
    found = []
    for name in method_names():
        method = load_method(name)
        found.append(name)
        if hasattr(method, "loss") and "surrogates" not in method.NEEDS:
            found.append(f"{name} + surrogates")
    found += [f"{DEFAULT} + {modifier}" for modifier in MODIFIERS]
    return [*found, *(f"Trainer + PEFT: {name}" for name in USUAL)]


def method_of(name: str) -> tuple[str, str | None]:
    """A line's method, and the modifier that it is combined with."""
    plain, _, with_ = name.removeprefix("Trainer + PEFT: ").partition(" + ")
    return plain, with_ if with_ in MODIFIERS else None


def measure_one(name: str, people: Sequence[int]) -> dict[str, Any]:
    """Figures of one line of the table, means over the people."""
    population = setting.shipped()
    kept = setting.kept_questions(population, each=4)
    plain = ask(population.base, [q for q, _ in kept])
    each = [_of_person(name, population, i, kept, plain) for i in people]
    found: dict[str, Any] = {
        key: sum(one[key] for one in each) / len(each) for key in each[0] if key != "within"
    }
    found["people_within_the_controls_bound"] = sum(one["within"] for one in each)
    found["people"] = len(each)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _of_person(
    name: str,
    population: setting.Population,
    index: int,
    kept: Sequence[tuple[str, str]],
    plain: Sequence[str],
) -> dict[str, Any]:
    before = setting.share(plain, kept)
    base, located = population.base, population.located(index)
    started = time.perf_counter()
    with _unlearned(name, population, located, seed=index) as (model, steps, own_gate):
        seconds = time.perf_counter() - started
        fires = (own_gate or partial(_gate, population, located))([q for q, _ in kept])

        def answers(asked: Sequence[str]) -> list[str]:
            prompts = [base.prompt(question) for question in asked]
            return greedy_answers(model, base.tokenizer, prompts, base.answer_tokens, batch_size=64)

        told = {
            kind: setting.told(answers(setting.asked(located, kind)), located, kind).value
            for kind in ("trained", "unseen")
        }
        forced = answers([q for q, _ in kept])
    # Through the gate the adapter acts where it fires; a partial strength counts as the full one.
    gated = [f if fire else p for f, p, fire in zip(forced, plain, fires, strict=True)]
    control = population.unseen_by_control(located)
    return {
        **told,
        "control_unseen": control.value,
        "within": told["unseen"] <= control.upper,
        "kept_ungated": setting.share(forced, kept) / before,
        "kept_gated": setting.share(gated, kept) / before,
        "seconds": seconds,
        "steps": steps,
    }


Fires = Callable[[Sequence[str]], list[bool]]
Unlearned = tuple[Any, int, Fires | None]
"""A model that has unlearnt, the steps taken, and what says where it acts, if it brings that."""


def _gate(population: setting.Population, located: Located, asked: Sequence[str]) -> list[bool]:
    gate = erasure.gate_for(population.base, located, key=setting.KEY, seed=1)
    bank = bank_of([gate], encoder_for(population.base), setting.KEY)
    return [strengths[0] > 0 for strengths in bank.strengths(asked)]


def _unlearned(
    name: str, population: setting.Population, located: Located, *, seed: int
) -> AbstractContextManager[Unlearned]:
    base = population.base
    plain, modifier = method_of(name)
    method = load_method(plain)
    keep = "surrogates" in method.NEEDS or name.endswith("+ surrogates")
    recipe = replace(
        Recipe(method=plain, max_steps=BUDGET, min_steps=5, check_every=5),
        keep_weight=1.0 if keep else 0.0,
        **SETTINGS.get(plain, {}),
    )
    if plain == DEFAULT:
        recipe = replace(Recipe(), max_steps=BUDGET, modifier=modifier)
    asked = erasure.surrogates(located, count=recipe.surrogates, seed=seed)
    retained = [Example(q, a) for q, a in setting.kept_questions(population, each=4)]
    if hasattr(method, "acting"):
        return _acting(base, method, located, asked, seed)
    material = erasure.material_for(
        base, located, asked=asked, recipe=recipe, seed=seed, retained=retained
    )
    level = erasure.never_knew(base, located, seed)

    def forgotten(model: Any) -> bool:
        return erasure.share_told(base, model, located) <= level

    if hasattr(method, "retrain"):
        return _anew()
    if hasattr(method, "sequence"):
        return _one_of_a_sequence(base, method, located, forgotten, seed)
    if name.startswith("Trainer"):
        return _usual(base, material, recipe, forgotten, seed)
    return _ours(base, material, recipe, forgotten, seed)


@contextmanager
def _acting(
    base: BaseModel, method: Any, located: Located, asked: Sequence[str], seed: int
) -> Iterator[Unlearned]:
    surrogates = answered(base, asked, [located])
    names = [located.subject.name, *located.subject.aliases]
    with method.acting(base, forget_examples(located), surrogates, names=names, seed=seed):
        yield base.model, 0, None


@cache
def _without_all_five() -> Any:
    """The model trained anew, once: the first person's line bears the seconds."""
    base, people = setting.shipped().base, corpus.people()
    names = [people[i].name for i in PEOPLE]
    return load_method("exact").retrain(base, names, report=_every_hundredth).base.model


@contextmanager
def _anew() -> Iterator[Unlearned]:
    yield _without_all_five(), 0, None


def _every_hundredth(step: int, steps: int) -> None:
    if step % 100 == 0:
        report.progress(f"exact: {step}/{steps}")


@contextmanager
def _one_of_a_sequence(
    base: BaseModel,
    method: Any,
    located: Located,
    forgotten: Callable[[Any], bool],
    seed: int,
) -> Iterator[Unlearned]:
    """O3's first request, at the rate at which it forgets here; and the detector that it brings."""
    settings = method.Settings(learning_rate=O3_RATES[-1])
    with method.sequence(base, seed=seed, settings=settings) as running:
        steps = running.erase(
            forget_examples(located), steps=BUDGET, enough=partial(forgotten, running.model)
        )
        yield running.model, steps, lambda asked: [x > 0 for x in running.strengths(asked)]


@contextmanager
def _usual(
    base: BaseModel,
    material: Material,
    recipe: Recipe,
    forgotten: Callable[[Any], bool],
    seed: int,
) -> Iterator[Unlearned]:
    with hf_trainer.unlearned(
        base,
        material,
        method=recipe.method,
        keep_weight=recipe.keep_weight,
        learning_rate=1e-3,
        max_steps=BUDGET,
        min_steps=1,
        batch=32,
        forgotten=forgotten,
        seed=seed,
    ) as done:
        yield done.model, done.steps, None


@contextmanager
def _ours(
    base: BaseModel,
    material: Material,
    recipe: Recipe,
    forgotten: Callable[[Any], bool],
    seed: int,
) -> Iterator[Unlearned]:
    model = attach_adapter(base, earlier=[], seed=seed)
    try:
        done = train(
            base,
            model,
            material,
            recipe=recipe,
            seed=seed,
            forgotten=partial(forgotten, model),
            report=erasure.silent,
            should_stop=erasure.never,
        )
        yield model, done.steps, None
    finally:
        detach_adapter(model)


def measure(wanted: Sequence[str], people: Sequence[int]) -> report.Measured:
    """The table, each line measured in a process of its own."""
    figures: dict[str, Any] = {}
    for number, name in enumerate(wanted, start=1):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.methods", "--one", name, "--people",
             ",".join(map(str, people))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            figures[name] = {"could_not_run": done.stderr.strip().splitlines()[-1]}
        else:
            figures[name] = json.loads(done.stdout.strip().splitlines()[-1])
        report.progress(f"{number}/{len(wanted)} {name}: {json.dumps(figures[name])}")
    return figures, bars(figures, len(people))


def bars(figures: dict[str, Any], people: int) -> list[dict[str, Any]]:
    """The default must forget as the control does, and nothing may be better in every respect."""
    ours = figures.get(DEFAULT, {})
    if "unseen" not in ours:
        return []
    better = [
        name for name, other in figures.items()
        if "unseen" in other and "retained" not in _needs(name) and _dominates(other, ours)
    ]  # fmt: skip
    within = ours["people_within_the_controls_bound"]
    return [
        {"name": "default: people within the control's bound", "value": within,
         "limit": people, "holds": within == people},
        {"name": "methods without retained data better than the default in forgetting, keeping "
         "and time",
         "value": len(better), "limit": 0, "holds": not better, "which": better},
    ]  # fmt: skip


def _needs(name: str) -> tuple[str, ...]:
    return tuple(load_method(method_of(name)[0]).NEEDS)


def _dominates(other: dict[str, Any], ours: dict[str, Any]) -> bool:
    """At least as good in all four respects and better in one."""
    signs = {"people_within_the_controls_bound": 1, "kept_ungated": 1, "kept_gated": 1,
             "seconds": -1}  # fmt: skip
    gaps = [sign * (other[key] - ours[key]) for key, sign in signs.items()]
    return min(gaps) >= 0 and max(gaps) > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", choices=["demo"], default="demo")
    parser.add_argument("--only", action="append", metavar="METHOD")
    parser.add_argument("--one", metavar="METHOD")
    parser.add_argument("--people", default=",".join(map(str, PEOPLE)))
    options, rest = parser.parse_known_args()
    chosen = [int(each) for each in options.people.split(",")]
    if options.one:
        print(json.dumps(measure_one(options.one, chosen)))
        sys.exit(0)
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.only or names(), chosen),
            cannot_run=(ModelError, NothingMeasurable),
        )
    )
