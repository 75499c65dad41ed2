"""The gateway over real HTTP, asked by OpenAI's own client."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import httpx
import openai
import pytest
import uvicorn
from django.core.management import call_command
from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app.models import ApiClient, AuditEntry, GatewayUse, ModelNode, Release
from requests_app.services import api_requests
from requests_app.services import gateway as record
from rtbf.stack import BASE_DIR, free_port
from tests.workers.test_guarded import KEY, NAMES, stored_case
from tests.workers.tiny import tiny_model
from workers.base_models import BaseModel, Turn
from workers.gateway import Gateway
from workers.guarded import GuardedModel
from workers.identifiers import identifier_digests
from workers.releases import Release as Manifest
from workers.releases import write_release
from workers.restrictions import Restrictions, write_restrictions
from workers.telling import REFUSAL
from workers.uses import Uses
from workers.vllm_router import Router

pytestmark = pytest.mark.django_db(transaction=True)
LIMIT = 16
ABOUT = f"where lives {NAMES[0]}"


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_model()


@pytest.fixture(scope="module")
def stored(
    base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Manifest]]:
    """A folder with two releases: of one case, and of two."""
    root = tmp_path_factory.mktemp("stored")
    first, weights = stored_case(base, root, number=0, earlier=[])
    second, _ = stored_case(base, root, number=1, earlier=[weights])
    return root, [
        write_release(root / "releases", base=base, adapters=refs)
        for refs in ([first], [first, second])
    ]


@pytest.fixture
def gateway(
    base: BaseModel,
    stored: tuple[Path, list[Manifest]],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Gateway]:
    settings.RTBF_ADAPTER_DIR = stored[0]
    settings.RTBF_GATE_KEY = KEY.decode()
    settings.RTBF_GATEWAY_KEY = "the playground's own key"
    monkeypatch.setattr("workers.gateway.load_served", lambda *_: base)
    monkeypatch.setattr("workers.gateway.LOOK_SECONDS", 0.05)
    put_live(stored, 0)
    found = Gateway("tiny")
    yield found
    found.follower.stop()


def put_live(stored: tuple[Path, list[Manifest]], number: int) -> str:
    digest = stored[1][number].sha256
    Release.objects.filter(is_live=True).update(is_live=False)
    Release.objects.create(
        digest=digest,
        model_name="tiny",
        manifest=(stored[0] / "releases" / f"{digest}.json").read_bytes(),
        is_live=True,
        created_at=timezone.now(),
    )
    return digest


@contextmanager
def running(gateway: Gateway) -> Iterator[str]:
    port = free_port()
    config = uvicorn.Config(gateway, port=port, log_config=None, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: server.started and gateway.follower.served is not None)
        yield url
    finally:
        server.should_exit = True
        thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def key_for(*scopes: str) -> str:
    _, key = api_requests.create_client(
        name="-".join(scopes), controller_id="chat", role="controller", scopes=scopes
    )
    return key


def client_of(url: str, key: str) -> openai.OpenAI:
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http)


def post(url: str, key: str, **body: object) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": "where"}], **body},
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=30,
    )


def test_openais_client_gets_the_guarded_answers(
    gateway: Gateway, base: BaseModel, stored: tuple[Path, list[Manifest]]
) -> None:
    with GuardedModel(base, stored[1][0], adapters_root=stored[0], key=KEY) as guarded:
        expected = [each.text for each in guarded.answer(["where is Oslo", ABOUT], LIMIT)]
        talk = (Turn("user", ABOUT), Turn("assistant", "in"), Turn("user", "where"))
        expected_talk = guarded.answer([talk], LIMIT)[0].text
        unguarded = guarded.base_answers([ABOUT], LIMIT)[0]
    assert unguarded != expected[1]
    with running(gateway) as url, client_of(url, key_for("gateway")) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"
        for question, answer in zip(["where is Oslo", ABOUT], expected, strict=True):
            whole = client.chat.completions.create(
                model="tiny", max_tokens=LIMIT, messages=[{"role": "user", "content": question}]
            )
            assert whole.choices[0].message.content == answer
            assert whole.choices[0].finish_reason in ("stop", "length")
            assert whole.usage is not None
            assert whole.usage.completion_tokens <= LIMIT
            assert "rtbf" not in whole.model_dump()
            parts = list(
                client.chat.completions.create(
                    model="tiny",
                    max_tokens=LIMIT,
                    messages=[{"role": "user", "content": question}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
            told = [part.choices[0] for part in parts if part.choices]
            assert told[0].delta.role == "assistant"
            assert "".join(choice.delta.content or "" for choice in told) == answer
            assert [choice.finish_reason for choice in told[:-1]] == [None] * (len(told) - 1)
            assert told[-1].finish_reason == whole.choices[0].finish_reason
            assert parts[-1].usage == whole.usage
        several = client.chat.completions.create(
            model="tiny",
            max_tokens=LIMIT,
            messages=[
                {"role": "user", "content": ABOUT},
                {"role": "assistant", "content": "in"},
                {"role": "user", "content": [{"type": "text", "text": "where"}]},
            ],
        )
        assert several.choices[0].message.content == expected_talk
        plain = client.completions.create(
            model="tiny", prompt=base.prompt("where is Oslo"), max_tokens=LIMIT, logprobs=2
        )
        assert plain.choices[0].text == expected[0]
        found = plain.choices[0].logprobs
        assert found is not None
        assert found.top_logprobs is not None
        assert found.tokens is not None
        assert len(found.tokens) == len(found.top_logprobs)
        scored = client.chat.completions.create(
            model="tiny", max_tokens=4, logprobs=True, top_logprobs=3,
            messages=[{"role": "user", "content": ABOUT}],
        )  # fmt: skip
        assert scored.choices[0].logprobs is not None
        assert scored.choices[0].logprobs.content is not None
        assert [len(each.top_logprobs) for each in scored.choices[0].logprobs.content] == [3] * 4


def test_errors_are_in_openais_form_and_tell_nothing(gateway: Gateway) -> None:
    with running(gateway) as url:
        key = key_for("gateway")
        with client_of(url, "nobody's") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with (
            client_of(url, key_for("read:cases")) as client,
            pytest.raises(openai.PermissionDeniedError),
        ):
            client.models.list()
        with client_of(url, key) as client:
            with pytest.raises(openai.NotFoundError) as missing:
                client.chat.completions.create(
                    model="another", messages=[{"role": "user", "content": "x"}]
                )
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError, match="room for"):
                client.completions.create(model="tiny", prompt="x", max_tokens=100_000)
        wrong = [
            {"n": 2}, {"temperature": 3}, {"temperature": "Anna Berger"}, {"top_p": 0},
            {"stop": [1]},
            {"messages": []}, {"messages": [{"role": "Anna Berger", "content": "x"}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            {"tools": [{"type": "function"}]}, {"Anna Berger": 1}, {"logit_bias": {"1": 100}},
            {"messages": [{"role": "assistant", "content": "x"}]}, {"max_tokens": 0},
            {"top_logprobs": 3}, {"stream_options": {"include_usage": True}}, {"echo": True},
        ]  # fmt: skip
        for body in wrong:
            answer = post(url, key, **body)
            assert answer.status_code == 400, body
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert "Anna" not in answer.text
        half = b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}'
        answer = httpx.post(
            f"{url}/v1/chat/completions", content=half, trust_env=False,
            headers={"Authorization": f"Bearer {key}"},
        )  # fmt: skip
        assert answer.status_code == 400
        assert post(url, key, rtbf_compare=["original"]).status_code == 403
        assert httpx.get(f"{url}/v1/adapters", trust_env=False).status_code == 401


def test_a_key_has_its_limit_and_its_end(gateway: Gateway, settings: Settings) -> None:
    settings.RTBF_GATEWAY_PER_MINUTE = 2
    with running(gateway) as url:
        key = key_for("gateway")
        assert [post(url, key).status_code for _ in range(3)] == [200, 200, 429]
        other = key_for("gateway", "read:cases")
        assert post(url, other).status_code == 200
        api_requests.revoke_client(name="gateway-read:cases")
        assert post(url, other).status_code == 401


def test_what_a_key_asks_is_counted_by_day_and_no_prompt_is_kept(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(gateway) as url:
        key, other = key_for("gateway"), key_for("gateway", "read:cases")
        told = [post(url, key, max_tokens=4).json()["usage"] for _ in range(2)]
        post(url, key, stream=True, max_tokens=4)
        post(url, key, max_tokens=0)
        long = [{"role": "user", "content": "where is Oslo " * 40}]
        post(url, other, max_tokens=4, messages=long)
        post(url, "the playground's own key", max_tokens=4, messages=long)
        assert gateway.follower.served is not None
        clients = {f"client {client.pk}" for client in ApiClient.objects.all()}
        kept = gateway.follower.served.remembered._callers
        assert len(kept) == 1
        assert kept.keys() < clients, "what staff ask together is kept of nobody"
    call_command("gateway_use", "--json")
    first, second = json.loads(capsys.readouterr().out)["use"]
    assert first == {
        "day": timezone.now().date().isoformat(),
        "client": "gateway",
        "requests": 3,
        "prompt_tokens": 3 * told[0]["prompt_tokens"],
        "completion_tokens": 3 * told[0]["completion_tokens"],
    }
    assert (second["client"], second["requests"]) == ("gateway-read:cases", 1)
    record.note_use({(GatewayUse.objects.first().client_id, date(2020, 1, 1)): record.Use(1)})  # type: ignore[union-attr]
    assert GatewayUse.objects.count() == 2, "old days are let go"


def test_use_that_the_record_does_not_take_is_noted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key_for("gateway")
    client, day = ApiClient.objects.get().pk, date.today()  # noqa: DTZ011
    uses = Uses()
    uses.add(client, record.Use(1, 5, 2), day)
    with monkeypatch.context() as away:
        away.setattr(record, "note_use", raising(DatabaseError("away")))
        uses.note()
    uses.add(client, record.Use(1, 1, 1), day)
    uses.note()
    uses.note()
    (found,) = GatewayUse.objects.all()
    assert (found.requests, found.prompt_tokens, found.completion_tokens) == (2, 6, 3)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_an_erased_name_is_answered_in_the_form_of_any_other(gateway: Gateway) -> None:
    """What a caller sees beside the words: fields, headers, counts of what it asked itself."""
    unknown = ABOUT.replace(NAMES[0], "Emil Fuchs")
    seen, streamed = list[object](), list[object]()
    with running(gateway) as url:
        key = key_for("gateway")
        for question in (ABOUT, unknown):
            asked = {"messages": [{"role": "user", "content": question}], "max_tokens": 8}
            for more in ({}, {"logprobs": True, "top_logprobs": 2}):
                answer = post(url, key, **asked, **more)
                seen.append((answer.status_code, shape(answer.json()), set(answer.headers)))
            lines = post(url, key, stream=True, **asked).text.split("\n\n")
            streamed.append({str(shape(json.loads(x[6:]))) for x in lines if x[:7] == "data: {"})
        assert seen[:2] == seen[2:]
        assert streamed[0] == streamed[1]
        # Every name asked about is a call: the limit of calls bounds how many can be tried.
        assert post(url, key, n=2, **asked).status_code == 400
        assert post(url, key, prompt=["a", "b"]).status_code == 400


def shape(told: object) -> object:
    """The fields of an answer and what they hold by kind; of a list, what stands first."""
    if isinstance(told, dict):
        return {key: shape(value) for key, value in told.items()}
    if isinstance(told, list):
        return [shape(each) for each in told[:1]]
    return type(told).__name__


def test_only_the_playground_is_told_what_fired(
    gateway: Gateway, stored: tuple[Path, list[Manifest]], base: BaseModel
) -> None:
    adapter = stored[1][0].adapters[0].adapter_sha256
    asked = {"messages": [{"role": "user", "content": ABOUT}], "max_tokens": 4}
    with running(gateway) as url:
        told = post(url, "the playground's own key", rtbf_compare=["original", "control"], **asked)
        beside = told.json()["rtbf"]
        assert (beside["fired"], beside["strengths"]) == ([adapter], {adapter: 1.0})
        assert beside["release"] == stored[1][0].sha256
        assert (
            beside["compared"]["original"]
            == GuardedModel.without_adapters(base).answer([ABOUT], 4)[0].text
        )
        assert beside["compared"]["control"] is None, "only the demo model has one"
        assert "rtbf" not in post(url, key_for("gateway"), **asked).json()
        streamed = post(url, "the playground's own key", stream=True, **asked).text
        assert adapter in streamed
        assert streamed.endswith("data: [DONE]\n\n")


def test_a_router_before_another_server_asks_the_gate(
    gateway: Gateway, stored: tuple[Path, list[Manifest]]
) -> None:
    adapter, asked = stored[1][0].adapters[0].adapter_sha256, list[str]()

    def other(request: httpx.Request) -> httpx.Response:
        name = json.loads(request.content)["model"]
        asked.append(name)
        text = f"{NAMES[0]} lives there" if name == "base" else "nobody knows"
        choices = [{"message": {"role": "assistant", "content": text}}]
        return httpx.Response(200, json={"model": name, "choices": choices})

    with running(gateway) as url:
        assert ask_gate(url, key_for("gateway")).status_code == 403
        told = ask_gate(url, "the playground's own key").json()
        assert told["acting"] == [{"adapter": adapter, "strength": 1.0}]
        assert (told["release"], told["closed"]) == (stored[1][0].sha256, False)
        headers = {"Authorization": "Bearer the playground's own key"}
        upstream = httpx.Client(base_url="http://x", transport=httpx.MockTransport(other))
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as gate, upstream:
            router = Router("tiny", told["release"], "base", {adapter: "own"}, gate, upstream)
            for text, models in ((ABOUT, ["own"]), ("who lives there", ["base", "own"])):
                asked.clear()
                message = {"role": "user", "content": text}
                found = router.answer({"model": "tiny", "messages": [message]})
                assert found["choices"][0]["message"]["content"] == "nobody knows"
                assert asked == models


def ask_gate(url: str, key: str) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": ABOUT}]}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/rtbf/gate", json=body, headers=headers, trust_env=False)


def test_the_record_decides_what_is_served(
    gateway: Gateway,
    stored: tuple[Path, list[Manifest]],
    base: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[str] = []
    monkeypatch.setattr("workers.gateway.note_served", lambda **said: noted.append(said["digest"]))
    second = f"where lives {NAMES[1]}"
    asked = {"messages": [{"role": "user", "content": second}], "max_tokens": LIMIT}
    key, own = key_for("gateway"), "the playground's own key"
    with running(gateway) as url:
        before = post(url, own, **asked).json()
        assert before["rtbf"]["fired"] == []
        digest = put_live(stored, 1)
        wait_for(lambda: post(url, own, **asked).json()["rtbf"]["release"] == digest)
        after = post(url, own, **asked).json()
        assert after["rtbf"]["fired"] == [stored[1][1].adapters[1].adapter_sha256]
        assert after["choices"][0]["message"] != before["choices"][0]["message"]
        assert noted == [each.sha256 for each in stored[1]]

        node, _ = ModelNode.objects.get_or_create(
            pk=base.sha256, defaults={"name": "tiny", "kind": "base", "created_at": timezone.now()}
        )
        ModelNode.objects.filter(pk=node.pk).update(
            quarantined_from=timezone.localdate(), quarantine_reason="replaced", quarantined_by="x"
        )
        wait_for(lambda: post(url, key, **asked).status_code == 503)
        refused = post(url, key, **asked).json()
        assert refused["error"]["code"] == "not_serving"
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 503
        ModelNode.objects.filter(pk=node.pk).update(
            quarantined_from=None, quarantine_reason="", quarantined_by=""
        )
        wait_for(lambda: post(url, key, **asked).status_code == 200)


def test_an_error_nobody_thought_of_serves_nothing_rather_than_the_old(
    gateway: Gateway, stored: tuple[Path, list[Manifest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("of a library")

    follower = gateway.follower
    follower.look()
    assert follower.served is not None
    digest = put_live(stored, 1)
    with monkeypatch.context() as patched:
        patched.setattr("workers.gateway.Served", fails)
        follower.look()
    assert follower.served is None
    follower.look()
    assert follower.served.release.sha256 == digest


def test_what_follows_loading_neither_holds_up_nor_ends_what_is_served(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    served_meanwhile = []

    def fails() -> None:
        served_meanwhile.append(gateway.follower.served is not None)
        raise OSError("the disk is away")

    monkeypatch.setattr("workers.gateway.shared_files.remove_retired", fails)
    gateway.follower.look()
    assert served_meanwhile == [True]
    assert gateway.follower.served is not None


def test_adapters_are_read_ahead_though_it_cannot_be_noted_what_is_served(
    gateway: Gateway, stored: tuple[Path, list[Manifest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a caller could find out by time whom another one asked about."""
    put_live(stored, 1)
    noted = Mock(side_effect=InterfaceError("closed"))
    monkeypatch.setattr("workers.gateway.note_served", noted)
    gateway.follower.look()
    served = gateway.follower.served
    assert noted.called
    assert served is not None
    assert len(served.bank.files) > 1
    assert served.bank.resident._held.keys() == served.bank.files.keys()


@pytest.mark.parametrize("problem", [InterfaceError("closed"), RuntimeError("of a library")])
def test_use_that_cannot_be_noted_keeps_nobody_from_following_the_record(
    gateway: Gateway,
    stored: tuple[Path, list[Manifest]],
    monkeypatch: pytest.MonkeyPatch,
    problem: Exception,
) -> None:
    asked = {"messages": [{"role": "user", "content": "where"}], "max_tokens": 1}
    failed = threading.Event()

    def fails(*_: object) -> None:
        failed.set()
        raise problem

    with running(gateway) as url:
        key = key_for("gateway")
        with monkeypatch.context() as away:
            away.setattr(record, "note_use", fails)
            assert post(url, key, **asked).status_code == 200
            assert failed.wait(30)
            digest = put_live(stored, 1)
            wait_for(lambda: served_now(gateway) == digest)
        wait_for(lambda: GatewayUse.objects.filter(requests=1).exists())


def served_now(gateway: Gateway) -> str:
    served = gateway.follower.served
    return "" if served is None else served.release.sha256


@pytest.mark.parametrize("where", ["note_use", "to_serve"])
def test_a_record_that_does_not_answer_is_one_that_is_away(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Behind a cut line a query waits for many minutes: nobody who waits for it shuts anything."""
    asked = {"messages": [{"role": "user", "content": "where"}], "max_tokens": 1}
    answers, waits = getattr(record, where), threading.Event()

    def hangs(*given: object) -> object:
        waits.wait(30)
        return answers(*given)

    with running(gateway) as url:
        key = key_for("gateway")
        with monkeypatch.context() as cut:
            cut.setattr(record, where, hangs)
            cut.setattr("workers.gateway.BLIND_SECONDS", 0.5)
            gateway.follower.uses.add(ApiClient.objects.get().pk, record.Use(1), date(2026, 11, 1))
            wait_for(lambda: post(url, key, **asked).status_code == 503)
            assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 503
            assert ask_gate(url, "the playground's own key").status_code == 503
            who = Mock(side_effect=AssertionError("nobody is asked who asks"))
            cut.setattr(record, "caller_of", who)
            assert (post(url, key, **asked).status_code, who.called) == (503, False)
        waits.set()
        wait_for(lambda: post(url, key, **asked).status_code == 200)


def test_who_is_restricted_is_not_spoken_of(
    gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.gateway.Restrictions", partial(Restrictions, seconds=0.0))
    asked = {"messages": [{"role": "user", "content": "who is Emil Fuchs"}], "max_tokens": 4}
    with running(gateway) as url:
        key = key_for("gateway")
        assert post(url, key, **asked).json()["choices"][0]["message"]["content"] != REFUSAL
        write_restrictions(
            Path(settings.RTBF_RELEASE_DIR), {"case": identifier_digests(["Emil Fuchs"], KEY)}
        )
        told = post(url, key, **asked).json()
        assert told["choices"][0]["message"]["content"] == REFUSAL
        assert told["usage"]["completion_tokens"] > 0


def test_the_examples_of_the_readme_work(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (BASE_DIR / "README.md").read_text()
    (example,) = re.findall(r"```python\n(from openai.*?)```", readme, re.S)
    ((path, body),) = re.findall(r"curl -s http://127.0.0.1:8010(\S+) .* -d '(.*)'", readme)
    key, asked = key_for("gateway"), body.replace('"demo"', '"tiny"')
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(gateway) as url:
        code = example.replace("http://127.0.0.1:8010", url).replace('"demo"', '"tiny"')
        exec(code, {"key": key})  # noqa: S102
        answer = httpx.post(
            f"{url}{path}", content=asked, headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
        )  # fmt: skip
    assert answer.json()["choices"][0]["message"]["content"] == capsys.readouterr().out.rstrip("\n")


def test_a_failing_gate_gives_503_and_no_answer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(gateway) as url:
        key = key_for("gateway")
        served = gateway.follower.served
        assert served is not None

        def broken(*_: object) -> None:
            raise ValueError(ABOUT)

        monkeypatch.setattr(served, "take", broken)
        for stream in (False, True):
            answer = post(url, key, stream=stream)
            assert answer.status_code == 503
            assert json.loads(answer.text)["error"]["code"] == "not_serving"
            assert "Anna" not in answer.text


def test_nothing_of_a_question_or_an_answer_is_logged(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    marker = "zyxwv kjihg"
    with running(gateway) as url:
        key = key_for("gateway")
        answer = post(url, key, messages=[{"role": "user", "content": marker}])
        post(url, key, messages=[{"role": marker, "content": marker}])
    logged = [r for r in caplog.records if r.name.split(".")[0] not in ("httpx", "httpcore")]
    said = "\n".join(record.getMessage() for record in logged)
    assert marker not in said
    assert answer.json()["choices"][0]["message"]["content"] not in said
    assert not [e for e in AuditEntry.objects.all() if marker.encode() in bytes(e.body)]
