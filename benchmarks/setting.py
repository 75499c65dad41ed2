"""What the benchmarks on the demo model share: its people, what it knows of them, its control."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import report
from workers import corpus, demo_model, demo_training
from workers.adapters import AdapterRef
from workers.answers import recalled
from workers.base_models import DEMO_FOLDER, BaseModel, load_base_model, load_control
from workers.erasure import load_release, write_release
from workers.forget_sets import Located, ask, locate, questions
from workers.guarded import GuardedModel
from workers.statistics import Interval
from workers.subjects import Fact, Subject

KEY = b"a key for the benchmarks alone!!"
NEVER_LOOKED_AT = range(7, 20)
"""People whose unseen phrasings nobody looked at while the recipe was chosen (0 to 6 were)."""


@dataclass(frozen=True)
class Population:
    """A model, its control that never saw the first `erasable` of `people`, and the people."""

    base: BaseModel
    control: BaseModel
    people: tuple[corpus.Person, ...]
    erasable: int

    @property
    def kept(self) -> tuple[corpus.Person, ...]:
        return self.people[self.erasable :]

    def located(self, index: int) -> Located:
        """What the model knows of the person of this index."""
        return locate(self.base, subject_of(self.people[index]))

    def unseen_by_control(self, located: Located) -> Interval:
        """How often the control answers the person's unseen phrasings, with its upper bound."""
        return told(ask(self.control, asked(located, "unseen")), located, "unseen")


def subject_of(person: corpus.Person) -> Subject:
    """The person with every fact, as a request would give them."""
    facts = tuple(Fact(fact.trained[0], fact.answer) for fact in person.facts)
    return Subject(person.name, (), facts)


def shipped() -> Population:
    """The demo model and control of this repository."""
    base, control = load_base_model("demo"), load_control("demo")
    assert control is not None
    return Population(base, control, corpus.people(), len(corpus.ERASABLE))


def larger(folder: Path, *, people: int, erasable: int, facts: int, steps: int) -> Population:
    """A pair trained the same way on more people with fewer facts each, kept in `folder`."""
    recipe = demo_training.Recipe(people=people, erasable=erasable, facts=facts, steps=steps)
    if not (folder / "card.json").is_file():
        demo_model.build(
            folder,
            recipe,
            command=f"build(people={people}, erasable={erasable}, facts={facts}, steps={steps})",
            report=_progress,
        )
    base, control = (
        replace(
            load_base_model(str(folder / part)),
            name=name,
            lowest_layer=shipped().base.lowest_layer,
            answer_tokens=12,
        )
        for part, name in (("base", "demo"), ("control", "demo-control"))
    )
    return Population(base, control, corpus.people(recipe.seed, people, facts), erasable)


def control_without(erasable: int, folder: Path) -> Path:
    """The folder of a control for the shipped demo model that never saw the first `erasable`
    people: trained as its own control was, in as many passes over fewer people, and kept there.

    Takes about a quarter of an hour of one core.
    """
    if not folder.is_dir():
        everybody, shipped_control = corpus.people(), DEMO_FOLDER / "control"
        as_shipped = demo_training.Recipe()
        steps_each = as_shipped.steps / (as_shipped.people - as_shipped.erasable)
        steps = round(steps_each * (len(everybody) - erasable))
        recipe = replace(as_shipped, erasable=erasable, steps=steps)
        _, tokenizer = demo_model.load(shipped_control)
        model = demo_training.train(
            demo_training.build_model(recipe, len(tokenizer)),
            demo_training.examples(tokenizer, everybody[erasable:], recipe),
            recipe,
            report=partial(_progress, "control"),
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            made = Path(name) / folder.name
            demo_model.store(model, tokenizer, made)
            shutil.copy(shipped_control / "tokenizer.json", made)  # the same to the byte
            made.rename(folder)
    return folder


def _progress(part: str, step: int, total: int) -> None:
    if step % 100 == 0:
        report.progress(f"{part} {step}/{total}")


def asked(located: Located, kind: str) -> list[str]:
    """The questions of one kind ("trained", "aside", "unseen")."""
    return [question for question, _ in questions(located, kind)]


def told(answers: Sequence[str], located: Located, kind: str) -> Interval:
    """Share of the person's questions of this kind that `answers` answer truly."""
    return recalled(answers, [answer for _, answer in questions(located, kind)])


def kept_questions(population: Population, each: int) -> tuple[tuple[str, str], ...]:
    """Questions about every person who is not erased, `each` a person, trained and unseen forms in
    turn, spread over the kinds of fact."""
    found = []
    for person in population.kept:
        for i in range(each):
            fact = person.facts[(person.index + 7 * i) % len(person.facts)]
            forms = fact.unseen if i % 2 else fact.trained
            found.append((forms[(person.index + i) % len(forms)], fact.answer))
    return tuple(found)


def share(answers: Sequence[str], pairs: Sequence[tuple[str, str]]) -> float:
    """Share of (question, truth) pairs answered truly."""
    return recalled(answers, [truth for _, truth in pairs]).value


@contextmanager
def released(base: BaseModel, root: Path, refs: Sequence[AdapterRef]) -> Iterator[GuardedModel]:
    """A release of these adapters, written under `root`, read back and served."""
    release = write_release(root / "releases", base=base, adapters=refs)
    with load_release(
        base,
        releases_root=root / "releases",
        sha256=release.sha256,
        adapters_root=root / "adapters",
        gate_key=KEY,
    ) as guarded:
        yield guarded


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for adapters and releases that goes away."""
    with tempfile.TemporaryDirectory(prefix="rtbf-bench-") as name:
        yield Path(name)


def case_id(index: int) -> str:
    """A case id for the person of this index."""
    return f"00000000-0000-4000-8000-{index:012d}"
