"""A release as files for other servers, and the router before vLLM against a made-up one."""

import copy
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError
from django.utils import timezone
from peft import PeftModel
from pytest_django.fixtures import Settings
from transformers import AutoModelForCausalLM

from requests_app.models import AuditEntry, Release
from tests.workers.test_guarded import KEY, NAMES, stored_case
from tests.workers.tiny import tiny_model
from workers.answers import greedy_answers
from workers.base_models import BaseModel, Turn
from workers.guarded import GuardedModel
from workers.release_export import ExportRefused, export_release, vllm_rank
from workers.releases import Release as Manifest
from workers.releases import write_release
from workers.vllm_router import PATH, Refused, Router, router_of, server_of

COMMAND = "workers.management.commands.export_release"
PLACES = {"gateway": "rtbf", "create_api_client": "requests_app"}
ABOUT = [f"where lives {NAMES[0]}", f"who is {NAMES[0]}"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseModel, Path, list[Manifest]]:
    """A model, a store, a release of two cases and one of none."""
    base, root = tiny_model(), tmp_path_factory.mktemp("stored")
    first, weights = stored_case(base, root, number=0, earlier=[])
    second, _ = stored_case(base, root, number=1, earlier=[weights])
    releases = root / "releases"
    both = write_release(releases, base=base, adapters=[first, second])
    return (
        base,
        root,
        [
            both,
            write_release(
                releases, base=base, adapters=(), merged=["00000000-0000-4000-8000-00000000000c"]
            ),
        ],
    )


@pytest.fixture
def export(
    stored: tuple[BaseModel, Path, list[Manifest]],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    db: None,
) -> Callable[..., Path]:
    """Put a release live and call the command; the folder. CommandError where it refuses."""
    base, root, releases = stored
    settings.RTBF_ADAPTER_DIR, settings.RTBF_GATE_KEY = root, KEY.decode()
    monkeypatch.setattr(f"{COMMAND}.load_served", lambda *_: base)
    monkeypatch.setattr(f"{COMMAND}.model_folder", lambda _: root)

    def call(form: str, *options: str, number: int = 0) -> Path:
        digest = releases[number].sha256
        if not Release.objects.filter(pk=digest).exists():
            Release.objects.create(
                digest=digest, model_name="tiny", is_live=True, created_at=timezone.now(),
                manifest=(root / "releases" / f"{digest}.json").read_bytes(),
            )  # fmt: skip
        to = tmp_path / "export"
        call_command("export_release", "--model", "tiny", "--to", str(to), "--format", form,
                     *options)  # fmt: skip
        return to

    return call


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_adapters_are_peft_folders_that_act_as_in_the_release(
    export: Callable[..., Path],
    stored: tuple[BaseModel, Path, list[Manifest]],
) -> None:
    base, root, (release, _) = stored
    to = export("peft")
    names = json.loads((to / "adapters.json").read_text())["names"]
    assert set(names) == {ref.adapter_sha256 for ref in release.adapters}
    assert hashlib.sha256((to / "release.json").read_bytes()).hexdigest() == release.sha256
    with GuardedModel(base, release, adapters_root=root, key=KEY) as guarded:
        for ref in release.adapters:
            folder = to / "adapters" / names[ref.adapter_sha256]
            plain = type(base.model)(base.model.config)
            plain.load_state_dict(base.model.state_dict())
            model = PeftModel.from_pretrained(plain, folder).eval()
            prompts = [base.prompt(text) for text in ABOUT]
            told = greedy_answers(model, base.tokenizer, prompts, base.answer_tokens)
            assert told == guarded.answers_with(ref.case_id, ABOUT)
    entry = AuditEntry.objects.get(type="release.exported")
    assert release.sha256.encode() in bytes(entry.body)
    with pytest.raises(CommandError, match="there already"):
        export("peft")
    assert [each.name for each in to.parent.glob(".unfinished-*")] == []


def test_gated_cases_are_never_merged_unasked_and_the_folder_says_what_it_is_not(
    export: Callable[..., Path],
    stored: tuple[BaseModel, Path, list[Manifest]],
    tmp_path: Path,
) -> None:
    base, root, (release, _) = stored
    with pytest.raises(CommandError, match="2 cases are gated"):
        export("merged")
    assert not (tmp_path / "export").exists()
    to = export("merged", "--every-adapter-on")
    assert "NOT WHAT THE RELEASE DOES" in (to / "README.txt").read_text()
    ids = torch.tensor([[1, 2, 3, 4]])
    with GuardedModel(base, release, adapters_root=root, key=KEY) as guarded, torch.no_grad():
        together = guarded._holding(range(2))
        together.base_model.set_adapter(["case0", "case1"])
        loaded = AutoModelForCausalLM.from_pretrained(to).eval()
        assert torch.allclose(loaded(ids).logits, together(ids).logits, atol=1e-4)
        assert not torch.allclose(loaded(ids).logits, base.model(ids).logits, atol=1e-2)


def test_weights_that_stand_for_all_cases_load_as_they_are(
    export: Callable[..., Path], stored: tuple[BaseModel, Path, list[Manifest]]
) -> None:
    to = export("merged", number=1)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(to).eval()
        assert torch.equal(loaded(ids).logits, stored[0].model(ids).logits)


def test_a_changed_adapter_is_not_exported(
    export: Callable[..., Path],
    stored: tuple[BaseModel, Path, list[Manifest]],
    settings: Settings,
    tmp_path: Path,
) -> None:
    settings.RTBF_ADAPTER_DIR = tmp_path / "adapters"
    for ref in stored[2][0].adapters:
        folder = ref.folder(tmp_path / "adapters")
        folder.mkdir(parents=True)
        for file in ref.folder(stored[1]).iterdir():
            (folder / file.name).write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CommandError):
        export("vllm")
    assert not (tmp_path / "export").exists()


def test_what_the_folder_for_vllm_tells_to_type_can_be_typed(
    export: Callable[..., Path], stored: tuple[BaseModel, Path, list[Manifest]]
) -> None:
    to = export("vllm")
    text = (to / "README.txt").read_text().replace("\\\n", " ")
    serve, gateway, client, router = (
        line.strip() for line in text.splitlines() if line.startswith("     ")
    )
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\n' {serve}"], cwd=to, capture_output=True, text=True, check=True
    ).stdout.split()
    names = json.loads((to / "adapters.json").read_text())["names"].values()
    first = words.index("--lora-modules") + 1
    assert set(words[first:]) == {f"{name}=adapters/{name}" for name in names}
    assert words[words.index("--max-lora-rank") + 1] == "8"
    assert words[words.index("--chat-template") + 1] == "chat_template.jinja"
    call_command(*client.split()[1:])
    for line in (gateway, client):
        name, *options = line.split()[1:]
        load_command_class(PLACES[name], name).create_parser("manage.py", name).parse_args(options)
    line = f"{router.partition('python ')[2]} --help"
    told = subprocess.run(
        [sys.executable, "-I", *line.split()], cwd=to, capture_output=True, text=True, check=True
    ).stdout
    assert "--upstream" in told


def test_a_model_without_a_chat_template_gets_its_own_form_for_vllm_and_another_keeps_its(
    export: Callable[..., Path],
    stored: tuple[BaseModel, Path, list[Manifest]],
    tmp_path: Path,
) -> None:
    base, root, (release, _) = stored
    to = export("vllm")
    template = (to / "chat_template.jinja").read_text()
    turns = (Turn("system", "Be kind."), Turn("user", "who"), Turn("assistant", "Anna"),
             Turn("user", "where"))  # fmt: skip
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    with_template = copy.deepcopy(base.tokenizer)
    with_template.chat_template = template
    for count in (2, 4):
        rendered = with_template.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=True
        )
        assert rendered == base.prompt(turns[:count])
    assert json.loads((to / "adapters.json").read_text())["stop"] == ["\n"]
    own = export_release(
        replace(base, tokenizer=with_template),
        replace(release, settings=None),
        manifest=(root / "releases" / f"{release.sha256}.json").read_bytes(),
        form="vllm", to=tmp_path / "own", adapters_root=root, weights=None, note=lambda: None,
    )  # fmt: skip
    assert not (own / "chat_template.jinja").exists()
    assert "--chat-template" not in (own / "README.txt").read_text()
    assert json.loads((own / "adapters.json").read_text())["stop"] == []


@pytest.mark.parametrize(("rank", "named"), [(1, 1), (4, 8), (8, 8), (9, 16), (512, 512)])
def test_vllm_is_told_a_rank_that_it_takes(rank: int, named: int) -> None:
    assert vllm_rank(rank) == named
    with pytest.raises(ExportRefused, match="512"):
        vllm_rank(513)


# --- The router ---------------------------------------------------------------------------------
FIRST, SECOND = "a" * 64, "b" * 64
RELEASE = "f" * 64


class Fakes:
    """A gate that fires on names, and a vLLM that says which model it was asked as."""

    def __init__(self) -> None:
        self.release, self.status, self.asked = RELEASE, 200, list[str]()
        self.names_back: dict[str, str] = {}
        self.last, self.more = dict[str, Any](), dict[str, Any]()

    def gate(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        text = str(body["messages"]) + str(body["answer"] or "")
        acting = [
            {"adapter": digest, "strength": 0.5}
            for name, digest in (("Anna", FIRST), ("Emil", SECOND))
            if name in text
        ]
        return httpx.Response(self.status, json={
            "release": self.release, "closed": "closed" in text, "acting": acting,
            "messages": body["messages"], "refusal": "No.",
        })  # fmt: skip

    def vllm(self, request: httpx.Request) -> httpx.Response:
        self.last = json.loads(request.content)
        name = self.last["model"]
        self.asked.append(name)
        text = f" {name} says {self.names_back.get(name, '')}"  # with the space of the first token
        said = {"role": "assistant", "content": text, **self.more}
        choice = {"index": 0, "message": said, "finish_reason": "length", **self.more}
        return httpx.Response(200, json={"model": name, "choices": [choice], **self.more})


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def router(fakes: Fakes) -> Router:
    def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
        return httpx.Client(base_url="http://x", transport=httpx.MockTransport(answer))

    names = {FIRST: "anna", SECOND: "emil"}
    return Router("m", RELEASE, "base", names, client(fakes.gate), client(fakes.vllm))


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def said(answer: Mapping[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("text", "names_back", "models", "answer"),
    [
        ("the weather", {}, ["base"], "base says"),
        ("where is Anna", {}, ["anna"], "anna says"),
        ("where is Anna", {"anna": "Anna"}, ["anna"], "anna says Anna"),
        ("where are Anna and Emil", {}, [], "No."),
        ("closed", {}, [], "No."),
        ("who is it", {"base": "Anna"}, ["base", "anna"], "anna says"),
        ("who is it", {"base": "Anna", "anna": "Emil"}, ["base", "anna"], "No."),
        ("who is it", {"base": "Anna and Emil"}, ["base"], "No."),
        ("who is it", {"base": "closed"}, ["base"], "No."),
        ("where is Anna", {"anna": "Emil"}, ["anna"], "No."),
    ],
)
def test_the_router_takes_the_base_or_one_adapter_and_refuses_the_rest(
    router: Router,
    fakes: Fakes,
    text: str,
    names_back: dict[str, str],
    models: list[str],
    answer: str,
) -> None:
    fakes.names_back = names_back
    found = router.answer(asked(text))
    assert (said(found), fakes.asked, found["model"]) == (answer, models, "m")


def test_nothing_of_vllms_answer_goes_on_that_the_gate_has_not_read(
    router: Router, fakes: Fakes
) -> None:
    fakes.more = {
        "reasoning": "Anna",
        "logprobs": {"content": "Anna"},
        "usage": {"total_tokens": 3, "other": "Anna"},
    }
    found = router.answer(asked("the weather"))
    assert "Anna" not in json.dumps(found)
    assert (said(found), found["choices"][0]["finish_reason"]) == ("base says", "length")
    assert found["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 3}


def test_the_router_settles_what_vllm_would_settle_otherwise_than_the_gateway(
    router: Router, fakes: Fakes
) -> None:
    router.answer(asked("the weather", temperature=None))
    assert fakes.last["temperature"] == 0.0, "vLLM draws where nobody names a temperature"
    by_lines = replace(router, stop=("\n",))
    for given, wanted in ((None, ["\n"]), ("x", ["\n", "x"]), (["x", "y"], ["\n", "x", "y"])):
        by_lines.answer(asked("the weather", temperature=0.7, stop=given))
        assert (fakes.last["stop"], fakes.last["temperature"]) == (wanted, 0.7)
    with pytest.raises(Refused):
        router.answer(asked("the weather", stop=7))


def test_the_router_answers_nothing_where_something_is_not_certain(
    router: Router, fakes: Fakes
) -> None:
    for more in ({"stream": True}, {"logprobs": True}, {"n": 2}, {"model": "base"}):
        with pytest.raises(Refused):
            router.answer({**asked("Anna"), **more})
    assert fakes.asked == []
    fakes.release = "e" * 64  # another release went live
    with pytest.raises(Refused, match="not served"):
        router.answer(asked("Anna"))
    fakes.release, fakes.status = RELEASE, 503
    with pytest.raises(Refused, match="not served"):
        router.answer(asked("Anna"))
    assert fakes.asked == []


def test_the_router_of_an_export_serves_over_http(
    export: Callable[..., Path], stored: tuple[BaseModel, Path, list[Manifest]], fakes: Fakes
) -> None:
    to = export("vllm")
    assert "python router.py" in (to / "README.txt").read_text()
    keys = {"gate": "g", "upstream": ""}
    urls = {"gate": "http://127.0.0.1:9", "upstream": "http://127.0.0.1:9"}
    router = router_of(to, base="base", keys=keys, **urls)
    assert router.release == stored[2][0].sha256
    with serving(router) as url, httpx.Client(base_url=url, trust_env=False) as call:
        body = asked("Anna") | {"model": router.model}
        assert call.post(PATH, json=body).status_code == 401
        call.headers["authorization"] = "Bearer key"
        assert call.post(PATH, json=body).status_code == 503  # there is no gate
        assert call.post("/v1/completions", json=body).status_code == 404
        assert call.post(PATH, content=b"{").status_code == 400


@contextmanager
def serving(router: Router) -> Iterator[str]:
    server = server_of(router, port=0, host="127.0.0.1", key="key")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
