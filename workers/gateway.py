"""The process that serves a guarded model: OpenAI's API before `workers.batching`, as bare ASGI.

It follows the record: the release in force is loaded and takes the new requests, weights in
quarantine are not served, and without the record for a minute nothing is. No question and no answer
is stored or logged; what is counted are requests and tokens. Whatever is wrong inside ends in one
and the same 503.
"""

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error as DatabaseProblem
from django.db import close_old_connections

from requests_app.services import gateway as record
from requests_app.services.errors import ServiceError
from requests_app.services.serving import note_served
from workers import shared_files
from workers.adapters import AdapterError
from workers.answers import greedy_answers
from workers.asgi import (
    HungUp,
    Receive,
    Scope,
    Send,
    all_of,
    answer_json,
    body_of,
    hung_up,
    next_of,
    not_serving,
)
from workers.base_models import BaseModel, ModelError, Placement, as_turns, load_control
from workers.batching import Batcher, NotServing, Overloaded, apart
from workers.lanes import Done, Event, Failed, Piece, Request
from workers.openai_form import (
    END,
    Answer,
    Asked,
    Refused,
    event,
    parsed,
    parsed_with_answer,
)
from workers.packed import packed
from workers.releases import Release, ReleaseError, release_of
from workers.restrictions import Restrictions
from workers.serving import Served
from workers.telling import REFUSAL
from workers.uses import Uses
from workers.weights import load_served

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
BLIND_SECONDS = 60.0
"""So long without the record, and nothing is served: what is in force is not known."""
NOTE_SECONDS = 60.0
HEARTBEAT_SECONDS = 15.0
GATE_PATH = "/rtbf/gate"
PATHS = {"/v1/chat/completions": True, "/v1/completions": False}


class Follower:
    """Keeps the batcher on what the record says is in force."""

    def __init__(self, model_name: str, batcher: Batcher) -> None:
        self.model_name, self.batcher = model_name, batcher
        self.uses = Uses()
        self.process = f"{socket.gethostname()}:{os.getpid()}"
        self._served: Served | None = None
        self._seen = self._noted = float("-inf")
        self._ended = threading.Event()

    @property
    def served(self) -> Served | None:
        """What answers now: nothing where the record was not seen for a minute, even if that is
        because whoever looks waits for it, or for a large model."""
        return None if self.is_blind else self._served

    @property
    def is_blind(self) -> bool:
        """Whether the record was not seen for a minute, or never."""
        return time.monotonic() - self._seen > BLIND_SECONDS

    def start(self) -> threading.Thread:
        """Look every few seconds, in a thread of its own, until `stop`."""
        thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.is_set():
            self.look()
            self.uses.note()
            self._ended.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Serve what is in force; nothing where that is not known, not allowed or not possible."""
        try:
            close_old_connections()
            shared_files.fetch_restrictions()
            wanted = record.to_serve(self.model_name)
            is_new = not wanted.blocked and not self._is_loaded(wanted)
            if is_new:
                self._load(wanted)
            elif self._served is not None and not wanted.blocked and wanted.release is None:
                why = record.why_blocked(self._served.base.sha256)
                wanted = record.ToServe(None, None, blocked=why)
            if wanted.blocked:
                self._shut("what is in force may not be served")
            self._seen = time.monotonic()
            if is_new and self._served is not None:
                apart(self._served.bank.read_ahead)
            self._note()
            if is_new:
                shared_files.remove_retired()
        except (DatabaseProblem, OSError, shared_files.StorageAway) as error:
            log.error("record or shared storage cannot be read: %s", type(error).__name__)
            if self.is_blind:
                self._shut("record or shared storage cannot be read")
        except (AdapterError, ReleaseError, ModelError, ServiceError):
            log.exception("what is in force cannot be loaded")
            self._shut("what is in force cannot be loaded")
        except Exception as error:  # noqa: BLE001  (this thread ended would serve the old for good)
            log.critical("what is in force cannot be followed: %s", type(error).__name__)
            self._shut("what is in force cannot be followed")

    def _is_loaded(self, wanted: record.ToServe) -> bool:
        if self._served is None:
            return False
        return self._served.release.sha256 == (wanted.release or NOTHING)

    def _load(self, wanted: record.ToServe) -> None:
        root = Path(settings.RTBF_RELEASE_DIR)
        base = self._base(wanted, root)
        if wanted.release is None:
            if why := record.why_blocked(base.sha256):
                raise ModelError(why)
            release = Release(NOTHING, base.name, base.sha256, base.tokenizer_sha256, (), None)
        else:
            release = release_of(wanted.manifest)
            shared_files.fetch(release.adapters)
        self._served = served = apart(
            lambda: Served(
                base,
                release,
                adapters_root=Path(settings.RTBF_ADAPTER_DIR),
                key=str(settings.RTBF_GATE_KEY).encode(),
                restrictions=Restrictions(root),
                before=self._served,
                adapter_bytes=settings.RTBF_GATEWAY_ADAPTER_MB * 2**20,
                kept_bytes=settings.RTBF_GATEWAY_KEPT_MB * 2**20,
            )
        )
        self.batcher.serve(served)
        self._noted = float("-inf")
        log.info("the release %s is served", release.sha256)

    def _base(self, wanted: record.ToServe, root: Path) -> BaseModel:
        """The weights, those at hand if they are the same."""
        if self._served is not None and self._served.base.sha256 == wanted.base_sha256:
            return self._served.base
        placement = Placement(settings.RTBF_MODEL_DTYPE, settings.RTBF_MODEL_DEVICE_MAP)
        name, sha256 = self.model_name, wanted.base_sha256
        return apart(lambda: packed(load_served(name, sha256, root, placement)))

    def _shut(self, why: str) -> None:
        if self._served is not None:
            log.error("nothing is served: %s", why)
        self._served = None
        self.batcher.shut()

    def _note(self) -> None:
        """Tell the record what is served, at each change and every minute."""
        served = self._served
        if served is None or time.monotonic() - self._noted < NOTE_SECONDS:
            return
        release = served.release.sha256
        note_served(
            process=self.process,
            kind="gateway",
            model_name=self.model_name,
            digest="" if release == NOTHING else release,
        )
        self._noted = time.monotonic()


NOTHING = "0" * 64
"""Stands for the release before any case."""


class Gateway:
    """The ASGI application."""

    def __init__(self, model_name: str, *, rows: int | None = None) -> None:
        self.model_name = model_name
        self.batcher = Batcher(rows=rows or settings.RTBF_GATEWAY_ROWS)
        self.follower = Follower(model_name, self.batcher)
        self.counts = record.Use()
        self._control: BaseModel | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                await self._call(scope, receive, send)
            except Refused as refused:
                await answer_json(send, refused.status, refused.body())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.follower.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.follower.stop()
        self.batcher.close()
        await _noted(self.follower.uses)
        log.info(
            "served %d requests, %d tokens read, %d said",
            self.counts.requests, self.counts.prompt_tokens, self.counts.completion_tokens,
        )  # fmt: skip
        await send({"type": "lifespan.shutdown.complete"})

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = str(scope["method"]), str(scope["path"])
        if path == "/healthz" and method == "GET":
            ready = self.follower.served is not None
            await answer_json(
                send, 200 if ready else 503, {"status": "ok" if ready else "not serving"}
            )
            return
        if self.follower.is_blind:  # who asks stands in the record: nobody waits for it
            raise not_serving()
        caller = await self._caller(scope)
        if path == "/v1/models" and method == "GET":
            await answer_json(send, 200, {"object": "list", "data": [self._model()]})
        elif path == f"/v1/models/{self.model_name}" and method == "GET":
            await answer_json(send, 200, self._model())
        elif path in PATHS and method == "POST":
            asked = parsed(await body_of(receive), chat=PATHS[path])
            if asked.model != self.model_name:
                raise _no_such_model()
            if asked.compare and record.PLAYGROUND not in caller.scopes:
                raise Refused(403, "This key lacks the scope playground.", param="rtbf_compare")
            await self._answer(asked, caller, receive, send)
        elif path == GATE_PATH and method == "POST":
            if record.PLAYGROUND not in caller.scopes:
                raise Refused(403, "This key lacks the scope playground.")
            await answer_json(send, 200, await self._decided(await body_of(receive)))
        elif path.startswith("/v1/models/"):
            raise _no_such_model()
        else:
            raise Refused(404, "There is no such call.", code="unknown_url")

    async def _caller(self, scope: Scope) -> record.Caller:
        found = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        scheme, _, key = found.partition(" ")
        caller = await _caller_of(key.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Refused(401, "Give a key that is known here: Authorization: Bearer …",
                          code="invalid_api_key")  # fmt: skip
        if record.SCOPE not in caller.scopes:
            raise Refused(403, "This key lacks the scope gateway.")
        if caller.too_many:
            raise Refused(429, "Too many calls. Wait a minute.", code="rate_limit_exceeded")
        return caller

    def _model(self) -> dict[str, Any]:
        return {"id": self.model_name, "object": "model", "created": 0, "owned_by": "rtbf"}

    # --- The gate alone ---------------------------------------------------------------------------
    async def _decided(self, body: bytes) -> dict[str, Any]:
        """What the gate says of messages and, where it is given, of an answer to them: for routers
        before other servers (`workers.vllm_router`)."""
        asked, answer = parsed_with_answer(body)
        if asked.model != self.model_name:
            raise _no_such_model()
        try:
            return await asyncio.wrap_future(self.batcher.run(lambda: self._read(asked, answer)))
        except (NotServing, RuntimeError, ValueError) as error:
            log.error("the gate was asked and failed: %s", type(error).__name__)
            raise not_serving() from None

    def _read(self, asked: Asked, answer: str | None) -> dict[str, Any]:
        served = self.follower.served
        if served is None or served.gate.shut:
            raise NotServing
        conversation, decision = served.gate.read(asked.prompt.conversation)
        if answer is not None:
            decision = served.gate.after(decision, answer)
        strengths = {} if decision.closed else served.strengths(decision)
        return {
            "release": "" if served.release.sha256 == NOTHING else served.release.sha256,
            "closed": decision.closed,
            "acting": [{"adapter": name, "strength": each} for name, each in strengths.items()],
            "messages": [{"role": t.role, "content": t.text} for t in as_turns(conversation)],
            "refusal": REFUSAL,
        }

    # --- An answer --------------------------------------------------------------------------------
    async def _answer(
        self, asked: Asked, caller: record.Caller, receive: Receive, send: Send
    ) -> None:
        served = self.follower.served
        if served is None:
            raise not_serving()
        name = ("chatcmpl-" if asked.chat else "cmpl-") + secrets.token_hex(12)
        answer = Answer(
            asked, name=name, text_of=lambda token: served.base.tokenizer.decode([token])
        )
        heard: asyncio.Queue[Event] = asyncio.Queue()
        request = _request(asked, caller, heard, asyncio.get_running_loop())
        try:
            self.batcher.ask(request)
        except (Overloaded, NotServing):
            raise not_serving() from None
        gone = asyncio.create_task(hung_up(receive))
        try:
            first = await next_of(heard, gone)
            if isinstance(first, Failed):
                raise (
                    not_serving()
                    if first.ours
                    else Refused(400, first.message, code="context_length_exceeded")
                )
            if asked.stream:
                await self._streamed(answer, first, heard, gone, caller, send)
            else:
                pieces, done = await all_of(first, heard, gone)
                self._count(caller, done)
                rtbf = await self._beside(asked, caller, done)
                await answer_json(send, 200, answer.whole(pieces, done, rtbf))
        except HungUp:
            pass
        finally:
            request.cancelled = True
            gone.cancel()

    async def _streamed(
        self,
        answer: Answer,
        first: Event,
        heard: "asyncio.Queue[Event]",
        gone: "asyncio.Task[None]",
        caller: record.Caller,
        send: Send,
    ) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def put(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        for part in answer.first():
            await put(event(part))
        heard_next: Event | None = first
        while True:
            if heard_next is None:
                await put(b": \n\n")
            elif isinstance(heard_next, Piece):
                await put(event(answer.part(heard_next)))
            elif isinstance(heard_next, Failed):
                await put(event(not_serving().body()), more=False)
                return
            else:
                self._count(caller, heard_next)
                rtbf = await self._beside(answer.asked, caller, heard_next)
                for part in answer.last(heard_next, rtbf):
                    await put(event(part))
                await put(END, more=False)
                return
            heard_next = await next_of(heard, gone, seconds=HEARTBEAT_SECONDS)

    def _count(self, caller: record.Caller, done: Done) -> None:
        use = record.Use(1, done.read, done.said)
        self.counts += use
        if caller.client is not None:
            self.follower.uses.add(caller.client, use, datetime.now(UTC).date())

    async def _beside(self, asked: Asked, caller: record.Caller, done: Done) -> Any:
        """What the playground is told beside an answer; None for every other key."""
        if record.PLAYGROUND not in caller.scopes:
            return None
        told: dict[str, Any] = {
            "release": "" if done.release == NOTHING else done.release,
            "fired": sorted(done.strengths),
            "strengths": done.strengths,
        }
        if asked.compare:
            work = self.batcher.run(lambda: self._compared(asked))
            told["compared"] = await asyncio.wrap_future(work)
        return told

    def _compared(self, asked: Asked) -> dict[str, Any]:
        """What the weights say without gate and adapters, and what the control says: greedy, on
        demonstration data alone. None where it is not at hand."""
        served, found = self.follower.served, dict[str, Any]()
        for kind in asked.compare:
            model: BaseModel | None = None
            if served is not None and settings.RTBF_DEMO_DATA:
                if kind == "control":
                    model = self._control = self._control or load_control(self.model_name)
                elif not served.release.merged:
                    model = served.base
            if model is None:
                found[kind] = None
                continue
            limit = asked.limit or model.answer_tokens
            prompt = model.prompt(asked.prompt.conversation)
            found[kind] = greedy_answers(model.model, model.tokenizer, [prompt], limit)[0]
        return found


def _request(
    asked: Asked,
    caller: record.Caller,
    heard: "asyncio.Queue[Event]",
    loop: asyncio.AbstractEventLoop,
) -> Request:
    def tell(what: Event) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(heard.put_nowait, what)

    return Request(
        asked.prompt,
        tell=tell,
        limit=asked.limit,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=asked.stop,
        likeliest=asked.likeliest,
        # Several members of staff ask with the playground's key.
        caller="" if record.PLAYGROUND in caller.scopes else caller.name,
    )


@sync_to_async
def _caller_of(key: str) -> record.Caller | None:
    close_old_connections()
    try:
        return record.caller_of(key)
    except DatabaseProblem:
        raise not_serving() from None
    finally:
        close_old_connections()


@sync_to_async
def _noted(uses: Uses) -> None:
    close_old_connections()
    uses.note()
    close_old_connections()


def _no_such_model() -> Refused:
    return Refused(404, "There is no such model here.", param="model", code="model_not_found")
