"""Requests and answers in the form of OpenAI's API, as plain values.

What would weaken the guard, or is not there, is refused rather than ignored: more than one answer
at a time, `echo`, tools, penalties. No text of a request is repeated in an error.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.base_models import Turn
from workers.lanes import Done, Piece
from workers.sampling import Token
from workers.serving import Prompt

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
STOPS = 4
LIKELIEST = 20
TURNS = 200
COMPARED = ("original", "control")
# What clients send although it changes nothing: accepted with these values alone.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
}
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "parallel_tool_calls"})
STATUS_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class Refused(Exception):
    """The request cannot be answered; `status` is HTTP's, the text says why and what to do."""

    def __init__(self, status: int, text: str, *, param: str | None = None, code: str = "") -> None:
        super().__init__(text)
        self.status, self.param, self.code = status, param, code or None

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = STATUS_TYPES.get(self.status, "invalid_request_error")
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }


@dataclass(frozen=True)
class Asked:
    """A request, read: see workers.lanes.Request for the figures."""

    chat: bool
    model: str
    prompt: Prompt
    limit: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    likeliest: int | None
    stream: bool
    with_usage: bool
    compare: tuple[str, ...]


def parsed(body: bytes, *, chat: bool) -> Asked:
    """What a body asks. Raises Refused, which names the field and the rule."""
    try:
        data = json.loads(body)
        json.dumps(data, ensure_ascii=False).encode()  # half a character is no text
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON.") from None
    if not isinstance(data, dict):
        raise Refused(400, "The body is not a JSON object.")
    known = {
        "model", "stream", "stream_options", "temperature", "top_p", "seed", "stop", "logprobs",
        "max_tokens", "rtbf_compare", *NEUTRAL, *IGNORED,
    }  # fmt: skip
    known |= {"messages", "max_completion_tokens", "top_logprobs"} if chat else {"prompt"}
    if set(data) - known:
        raise Refused(400, "The request has a field that is not known here.", code="unknown_field")
    for name, values in NEUTRAL.items():
        if data.get(name) not in values:
            raise Refused(400, f"This value of {name} is not supported here.", param=name)
    stream, options = _flag(data, "stream"), data.get("stream_options") or {}
    if not isinstance(options, dict) or (options and not stream):
        raise Refused(400, "stream_options goes with stream.", param="stream_options")
    limit = _whole(data, "max_tokens", least=1)
    if chat:
        limit = _whole(data, "max_completion_tokens", least=1) or limit
    seed = _whole(data, "seed", least=-(2**63), most=2**63 - 1)
    return Asked(
        chat=chat,
        model=_text(data, "model"),
        prompt=_conversation(data) if chat else Prompt(_prompt(data), bare=True),
        limit=limit,
        temperature=_number(data, "temperature", default=0.0, most=2.0),
        top_p=_number(data, "top_p", default=1.0, most=1.0),
        seed=None if seed is None else seed % 2**63,
        stop=_stops(data),
        likeliest=_likeliest(data, chat=chat),
        stream=stream,
        with_usage=options.get("include_usage") is True,
        compare=_compared(data),
    )


def parsed_with_answer(body: bytes) -> tuple[Asked, str | None]:
    """A chat request that may hold an answer to it, as `answer`. Raises Refused."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON.") from None
    answer = data.pop("answer", None) if isinstance(data, dict) else None
    if not isinstance(answer, str | None):
        raise Refused(400, "An answer is text.", param="answer")
    return parsed(json.dumps(data).encode(), chat=True), answer


def _conversation(data: Mapping[str, Any]) -> Prompt:
    messages = data.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= TURNS:
        raise Refused(400, f"Give 1 to {TURNS} messages.", param="messages")
    turns = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise Refused(400, f"A message's role is one of {', '.join(ROLES)}.", param="messages")
        turns.append(Turn(ROLES[role], _content(message.get("content"))))
    if turns[-1].role == "assistant":
        raise Refused(400, "The last message is the one to be answered.", param="messages")
    if len(turns) == 1 and turns[0].role == "user":
        return Prompt(turns[0].text)
    return Prompt(tuple(turns))


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else []
    if parts and all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        texts = [part.get("text") for part in parts]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(texts)
    raise Refused(400, "A message's content is text.", param="messages")


def _prompt(data: Mapping[str, Any]) -> str:
    prompt = data.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise Refused(400, "Give one prompt, as text.", param="prompt")
    return prompt


def _stops(data: Mapping[str, Any]) -> tuple[str, ...]:
    found = data.get("stop")
    if found is None:
        return ()
    stops = [found] if isinstance(found, str) else found
    if not isinstance(stops, list) or len(stops) > STOPS:
        raise Refused(400, f"Give at most {STOPS} stop texts.", param="stop")
    if not all(isinstance(stop, str) and 0 < len(stop) <= 200 for stop in stops):
        raise Refused(400, "A stop is a text of 1 to 200 characters.", param="stop")
    return tuple(stops)


def _likeliest(data: Mapping[str, Any], *, chat: bool) -> int | None:
    if not chat:
        return _whole(data, "logprobs", least=0, most=LIKELIEST)
    count = _whole(data, "top_logprobs", least=0, most=LIKELIEST)
    if not _flag(data, "logprobs"):
        if count:
            raise Refused(400, "top_logprobs goes with logprobs.", param="top_logprobs")
        return None
    return count or 0


def _compared(data: Mapping[str, Any]) -> tuple[str, ...]:
    found = data.get("rtbf_compare") or []
    if not isinstance(found, list) or not set(map(str, found)) <= set(COMPARED):
        raise Refused(400, f"It lists any of {', '.join(COMPARED)}.", param="rtbf_compare")
    return tuple(found)


def _text(data: Mapping[str, Any], name: str) -> str:
    if not isinstance(data.get(name), str):
        raise Refused(400, f"Give {name} as text.", param=name)
    return str(data[name])


def _flag(data: Mapping[str, Any], name: str) -> bool:
    found = data.get(name)
    if found not in (None, True, False) or isinstance(found, int) is not isinstance(found, bool):
        raise Refused(400, f"{name} is true or false.", param=name)
    return bool(found)


def _whole(data: Mapping[str, Any], name: str, *, least: int, most: int = 10**6) -> int | None:
    found = data.get(name)
    if found is None:
        return None
    if type(found) is not int or not least <= found <= most:
        raise Refused(400, f"{name} is a whole number from {least} to {most}.", param=name)
    return found


def _number(data: Mapping[str, Any], name: str, *, default: float, most: float) -> float:
    found = data.get(name)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise Refused(400, f"{name} is a number from 0 to {most:g}.", param=name)
    if name == "top_p" and found == 0:
        raise Refused(400, "top_p is above 0.", param=name)
    return float(found)


# --- Answers ------------------------------------------------------------------------------------
class Answer:
    """One answer, whole or in parts; `text_of` decodes a token."""

    def __init__(self, asked: Asked, *, name: str, text_of: Callable[[int], str]) -> None:
        self.asked, self.text_of = asked, text_of
        kind = "chat.completion" if asked.chat else "text_completion"
        part = f"{kind}.chunk" if asked.chat and asked.stream else kind
        self.head = {
            "id": name,
            "object": part,
            "created": int(time.time()),
            "model": asked.model,
        }

    def whole(self, pieces: Sequence[Piece], done: Done, rtbf: Any) -> dict[str, Any]:
        """The answer as one object; `rtbf` is what a key for the playground is told beside."""
        text = "".join(piece.text for piece in pieces)
        tokens = [token for piece in pieces for token in piece.tokens]
        choice: dict[str, Any] = {"index": 0, "finish_reason": done.reason}
        if self.asked.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(tokens)
        extra = {} if rtbf is None else {"rtbf": rtbf}
        return {**self.head, "choices": [choice], "usage": usage(done), **extra}

    def first(self) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return [self._part({"role": "assistant", "content": ""})] if self.asked.chat else []

    def part(self, piece: Piece) -> dict[str, Any]:
        """A part of a stream."""
        return self._part({"content": piece.text}, tokens=piece.tokens)

    def last(self, done: Done, rtbf: Any) -> list[dict[str, Any]]:
        """The end of a stream, and the usage if it was asked for."""
        ending = self._part({}, reason=done.reason)
        if rtbf is not None:
            ending["rtbf"] = rtbf
        if not self.asked.with_usage:
            return [ending]
        return [ending, {**self.head, "choices": [], "usage": usage(done)}]

    def _part(
        self, delta: dict[str, str], *, tokens: Sequence[Token] = (), reason: str | None = None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice["logprobs"] = self._logprobs(tokens) if tokens else None
        if self.asked.chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        return {**self.head, "choices": [choice]}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.asked.likeliest is None:
            return None
        if self.asked.chat:
            return {
                "content": [
                    {
                        **self._told(token.id, token.logprob),
                        "top_logprobs": [self._told(*each) for each in token.likeliest],
                    }
                    for token in tokens
                ],
                "refusal": None,
            }
        texts = [self.text_of(token.id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {self.text_of(number): finite(logprob) for number, logprob in token.likeliest}
                for token in tokens
            ],
            "text_offset": [sum(map(len, texts[:place])) for place in range(len(texts))],
        }

    def _told(self, number: int, logprob: float) -> dict[str, Any]:
        text = self.text_of(number)
        return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode())}


def finite(logprob: float) -> float:
    """JSON has no infinities; OpenAI writes -9999 for what cannot be."""
    return logprob if math.isfinite(logprob) else -9999.0


def usage(done: Done) -> dict[str, int]:
    """Tokens read and said."""
    return {
        "prompt_tokens": done.read,
        "completion_tokens": done.said,
        "total_tokens": done.read + done.said,
    }


def event(data: Any) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


END = b"data: [DONE]\n\n"
