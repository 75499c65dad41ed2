"""A router before vLLM for an exported release: the base or one adapter by name, as the gate says.

It stands alone (standard library and httpx) and goes into the folder that `manage.py export_release
--format vllm` makes. The gate is asked before an answer and again about the answer, at the gateway
of this product; vLLM answers under the base's name or an adapter's (`--lora-modules`). Whatever is
not certain is refused: another release at the gate, an error, two adapters at once, a stream.

Of vLLM's answer nothing goes on but its text, which the gate has read.

What it cannot do, as vLLM applies one adapter a request at full strength: several adapters at once
(a prompt about two erased people is refused), strengths between 0 and 1 (an adapter that the gate
would let act a little acts fully), an answer in pieces.
"""

import argparse
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

PATH = "/v1/chat/completions"
KNOWN = frozenset(
    {
        "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
        "stop", "user",
    }
)  # fmt: skip
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
MAX_BYTES = 1 << 20
SECONDS = 120.0


class Refused(Exception):
    """No answer; `status` is HTTP's. The text holds nothing of what was asked."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Unavailable(Refused):
    """Gate or vLLM did not do as they must."""

    def __init__(self) -> None:
        super().__init__(503, "The model is not served at the moment.")


@dataclass(frozen=True)
class Router:
    """What is asked where. `release` is the digest that was exported; `names` are vLLM's names of
    its adapters by digest, `base` its name of the plain model; `stop` ends every answer, where the
    model has no form of its own for that."""

    model: str
    release: str
    base: str
    names: Mapping[str, str]
    gate: httpx.Client
    upstream: httpx.Client
    stop: tuple[str, ...] = ()

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The guarded answer to a chat request, in OpenAI's form. Raises Refused."""
        if set(asked) - KNOWN:
            raise Refused(400, "The request has a field that is not supported here.")
        if asked.get("model") != self.model:
            raise Refused(404, "There is no such model.")
        first = self._decided(asked.get("messages"))
        if first["closed"] or len(first["adapters"]) > 1:
            return self._said(first["refusal"])
        asked = {**self._settled(asked), "messages": first["messages"]}
        acting, used = first["adapters"], self._named(first["adapters"])
        said = self._told(asked, used)
        after = self._decided(asked["messages"], text_of(said))
        if not after["closed"] and after["adapters"] == acting:
            return self._said(text_of(said), said)
        if after["closed"] or acting or len(after["adapters"]) > 1:
            return self._said(first["refusal"])
        # The plain model was about to name somebody: told anew under that person's adapter.
        said = self._told(asked, self._named(after["adapters"]))
        last = self._decided(asked["messages"], text_of(said))
        if last["closed"] or not last["adapters"] <= after["adapters"]:
            return self._said(first["refusal"])
        return self._said(text_of(said), said)

    def _settled(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What vLLM would settle otherwise than the gateway: it draws where nobody names a
        temperature."""
        given = {name: value for name, value in asked.items() if value is not None}
        stop = given.get("stop", [])
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list):
            raise Refused(400, "A stop is a text, or a list of texts.")
        return {"temperature": 0.0, **given, "stop": [*self.stop, *stops]}

    def _named(self, adapters: frozenset[str]) -> str:
        if not adapters:
            return self.base
        (digest,) = adapters
        if digest not in self.names:
            raise Unavailable
        return self.names[digest]

    def _decided(self, messages: Any, answer: str | None = None) -> dict[str, Any]:
        """What the gate says: `closed`, the `adapters` that act, the messages as the model should
        see them."""
        found = _posted(
            self.gate, "/rtbf/gate", {"model": self.model, "messages": messages, "answer": answer}
        )
        try:
            if found["release"] != self.release:
                raise Unavailable
            return {
                "closed": found["closed"] is not False,
                "adapters": frozenset(str(each["adapter"]) for each in found["acting"]),
                "messages": list(found["messages"]),
                "refusal": str(found["refusal"]),
            }
        except (KeyError, TypeError):
            raise Unavailable from None

    def _told(self, asked: Mapping[str, Any], name: str) -> dict[str, Any]:
        found = _posted(self.upstream, PATH, {**asked, "model": name})
        if found.get("model") != name:  # vLLM says under which name it answered
            raise Unavailable
        return found

    def _said(self, text: str, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`text` in OpenAI's form; of what vLLM `told` why it ended and how long it is. Reasoning,
        log-probabilities and whatever else is there was not read by the gate."""
        reason, usage = "stop", {}
        if told is not None:
            reason = str(told["choices"][0].get("finish_reason"))
            found = told.get("usage") or {}
            usage = {"usage": {name: int(found.get(name) or 0) for name in COUNTS}}
        message = {"role": "assistant", "content": text}
        return {
            "id": "chatcmpl-" + os.urandom(12).hex(),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            **usage,
        }


def text_of(said: Mapping[str, Any]) -> str:
    """The one answer's text; Unavailable for anything else."""
    try:
        (choice,) = said["choices"]
        text = choice["message"]["content"]
    except (KeyError, TypeError, ValueError):
        raise Unavailable from None
    if not isinstance(text, str) or choice["message"].get("tool_calls"):
        raise Unavailable
    return text.strip()  # as the gateway gives it


def _posted(client: httpx.Client, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        answer = client.post(path, json=body)
        found = answer.json() if answer.status_code in (200, 400) else None
    except (httpx.HTTPError, ValueError):
        raise Unavailable from None
    if answer.status_code == 400:
        raise Refused(400, "The request is not one that is answered here.")
    if not isinstance(found, dict):
        raise Unavailable
    return found


def router_of(
    folder: Path, *, gate: str, upstream: str, base: str, keys: Mapping[str, str]
) -> Router:
    """The router of an exported folder. Raises ValueError where that is not whole."""
    manifest = (folder / "release.json").read_bytes()
    listed = json.loads((folder / "adapters.json").read_text())
    named = {each["adapter"] for each in json.loads(manifest)["adapters"]}
    if set(listed["names"]) != named:
        raise ValueError("adapters.json does not name the adapters of release.json: export again.")
    return Router(
        model=str(listed["model"]),
        release=hashlib.sha256(manifest).hexdigest(),
        base=base,
        names=dict(listed["names"]),
        gate=_client(gate, keys["gate"]),
        upstream=_client(upstream, keys["upstream"]),
        stop=tuple(listed["stop"]),
    )


def _client(url: str, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)


def server_of(router: Router, *, port: int, host: str, key: str) -> ThreadingHTTPServer:
    """Ready to serve; callers bear `key`. Nothing asked or answered is logged."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                found, status = router.answer(self._asked()), 200
            except Refused as refused:
                found, status = {"error": {"message": str(refused), "code": None}}, refused.status
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _asked(self) -> dict[str, Any]:
            given = self.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {key}".encode()):
                raise Refused(401, "Give the key of this router.")
            if self.path != PATH:
                raise Refused(404, "There is no such call.")
            length = self.headers.get("content-length", "")
            if not length.isdigit() or int(length) > MAX_BYTES:
                raise Refused(413, "The request is too long.")
            try:
                asked = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError):
                raise Refused(400, "The body is not JSON.") from None
            if not isinstance(asked, dict):
                raise Refused(400, "The body is not a JSON object.")
            return asked

        def log_message(self, *_: object) -> None:
            return

    return ThreadingHTTPServer((host, port), Handler)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gate", required=True, help="the gateway's address")
    parser.add_argument("--upstream", required=True, help="vLLM's address")
    parser.add_argument("--base", required=True, help="vLLM's name of the plain model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8020)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    wanted = ("RTBF_ROUTER_KEY", "RTBF_ROUTER_GATE_KEY")
    if missing := [name for name in wanted if not os.environ.get(name)]:
        sys.exit(f"Set {', '.join(missing)}: callers' key, and one of the scope playground.")
    keys = {
        "gate": os.environ["RTBF_ROUTER_GATE_KEY"],
        "upstream": os.environ.get("VLLM_API_KEY", ""),
    }
    router = router_of(
        given.folder, gate=given.gate, upstream=given.upstream, base=given.base, keys=keys
    )
    server = server_of(router, port=given.port, host=given.host, key=os.environ["RTBF_ROUTER_KEY"])
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
