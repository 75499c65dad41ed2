"""The people of the load benchmark, in a process of their own: `python -m benchmarks.load_people`.

Reads a `Plan` as JSON on standard input. Requests of each group fall due at random moments (a
Poisson process of its rate), whether those before have been answered or not, and their time counts
from the moment at which they were due: what stalls the server, or this process, shows in full.
Whose turn it is goes on with what they do (the next question of the form, the page they were sent
to); where nobody is ready for a next step somebody new begins. Every person comes from an address
of their own, as a proxy in front would tell. Prints a line when the measured time begins, and what
was found, as JSON, at the end.
"""

import asyncio
import email
import email.policy
import html
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

TIMEOUT = 30.0
FAILED = (OSError, EOFError, TimeoutError, KeyError)  # KeyError: an answer without its length
KEEP_ALIVE = 2.0  # seconds; the server closes idle connections after five
GATEWAY_PAUSE = 2.0
LOOK_EVERY = 0.5  # at the mail
INFORMATION = ("/privacy", "/accessibility", "/status", "/erasure/confirm")
PUBLIC = {"start": 22, "information": 10, "transparency": 8, "status": 20, "intake": 40}
STAFF = {"today": 15, "tab": 20, "filter": 20, "deep page": 15, "case": 20, "search": 10}
CODE = re.compile(r"code is (\S+)")


@dataclass(frozen=True)
class Plan:
    """Whom to visit, how often, and what staff look at (addresses by kind)."""

    url: str
    gateway: str
    gateway_key: str
    outbox: str
    warm: float
    seconds: float
    public: float  # requests a second
    staff: float
    sessions: list[str]
    pages: dict[str, list[str]]
    searches: list[str]
    seed: int = 7


@dataclass(frozen=True)
class Ask:
    """One request of a browser, the statuses that answer it, and what must be on the page."""

    method: str
    path: str
    expect: tuple[int, ...] = (200,)
    fields: Mapping[str, str] | None = None
    shows: str = ""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]  # names in small letters
    text: str


@dataclass(frozen=True)
class Mail:
    """Waiting for the code of this case."""

    reference: str


@dataclass
class Browser:
    """Cookies, and what the last page gave: a form's token, where to go on, its text."""

    address: str
    cookies: dict[str, str] = field(default_factory=dict)
    token: str = ""
    location: str = ""
    page: str = ""

    def headers(self) -> dict[str, str]:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"X-Forwarded-For": self.address} | ({"Cookie": cookie} if cookie else {})

    def take(self, answer: Answer) -> None:
        self.location = ""
        for header, value in answer.headers:
            if header == "set-cookie":
                name, _, rest = value.partition("=")
                self.cookies[name] = rest.partition(";")[0]
            elif header == "location":
                self.location = value
        self.page = answer.text
        if found := re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.page):
            self.token = found[1]

    def find(self, pattern: str) -> str:
        found = re.search(pattern, self.page)
        return html.unescape(found[1]) if found else ""


Steps = Generator[Ask | Mail, str, None]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter, float]  # and when it was used
Choice = Callable[[], tuple[str, "Doing"]]


@dataclass
class Doing:
    """A person at a browser in the middle of something, and their next step."""

    browser: Browser
    steps: Steps
    next: Ask | Mail

    def go_on(self, told: str = "") -> bool:
        """Whether there is a next step."""
        try:
            self.next = self.steps.send(told)
        except StopIteration:
            return False
        return True


@dataclass
class Found:
    """What came of it: milliseconds by kind, how late this process was itself, errors by kind, and
    counts."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late: list[float] = field(default_factory=list)  # milliseconds after which each was sent
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # when due
    errors: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)


class Connections:
    """HTTP/1.1 on kept connections, no more than a server needs that tells the length of its
    answers: a library's client would take a tenth of a core of what is measured here."""

    def __init__(self) -> None:
        self.idle: dict[str, deque[Connection]] = defaultdict(deque)

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes
    ) -> Answer:
        """The whole answer; one of `FAILED` where there is none, or none in time."""
        host, _, path = url.removeprefix("http://").partition("/")
        given = {"Host": host, "Content-Length": str(len(content)), **headers}
        lines = [f"{method} /{path} HTTP/1.1", *(f"{name}: {given[name]}" for name in given)]
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await self.connection(host)
            writer.write("\r\n".join([*lines, "\r\n"]).encode() + content)
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
            told = [
                (name.lower(), value) for name, _, value in (each.partition(": ") for each in rest)
            ]
            text = (await reader.readexactly(int(dict(told)["content-length"]))).decode()
        self.idle[host].append((reader, writer, time.monotonic()))
        return Answer(int(first.split()[1]), told, text)

    async def connection(self, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that was used lately, all in turn (each leads to one process), or a new one."""
        while self.idle[host]:
            reader, writer, used = self.idle[host].popleft()
            if time.monotonic() - used < KEEP_ALIVE:
                return reader, writer
            writer.close()
        name, _, port = host.partition(":")
        return await asyncio.open_connection(name, int(port))


class Town:
    """All people, and what they do by now."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.draw = random.Random(plan.seed)  # noqa: S311
        self.http = Connections()
        self.found = Found()
        self.measuring = False
        self.began = 0.0
        self.people = 0
        self.ready: dict[str, deque[Doing]] = defaultdict(deque)
        self.waiting: dict[str, Doing] = {}  # for mail, by reference
        self.answered: list[tuple[str, str]] = []  # reference and access code
        self.at_work = [
            Browser(f"192.0.2.{n}", {"sessionid": key}) for n, key in enumerate(plan.sessions, 1)
        ]
        self.read_mails: set[str] = set()

    # --- Who does what --------------------------------------------------------------------------
    def somebody(self) -> Browser:
        self.people += 1
        n = self.people
        return Browser(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}")

    def begins(self, make: Callable[[Browser], Steps], browser: Browser | None = None) -> Doing:
        browser = browser or self.somebody()
        steps = make(browser)
        return Doing(browser, steps, next(steps))

    def public(self) -> tuple[str, Doing]:
        (kind,) = self.draw.choices(list(PUBLIC), list(PUBLIC.values()))
        if self.ready[kind]:
            return kind, self.ready[kind].popleft()
        if kind == "intake":
            return kind, self.begins(self.intake)
        if kind == "status" and self.answered:
            return kind, self.begins(self.status)
        paths = {"start": "/", "transparency": "/transparency"}
        path = paths.get(kind) or self.draw.choice(INFORMATION)
        return kind, self.begins(lambda _: iter_one(Ask("GET", path)))

    def intake(self, browser: Browser) -> Steps:
        """The whole form, the mailed code, and the page that confirms it."""
        number = self.people
        answers: dict[str, dict[str, str]] = {
            "who": {"who": "myself"},
            "name": {"name": f"Person {number}", "aliases": ""},
            "email": {"email": f"person-{number}@mailbox.example"},
            "what": {"systems": "model"},
            "message": {"message": "Please look under my old address as well."},
        }
        yield Ask("GET", "/erasure/new/who")
        for step, given in answers.items():
            yield self.post(browser, f"/erasure/new/{step}", given)
            yield Ask("GET", browser.location)
        yield self.post(browser, "/erasure/new/check", {})
        yield Ask("GET", browser.location, shows='id="access-code"')
        reference = browser.find(r'id="reference">([^<]+)<')
        access = browser.find(r'id="access-code">([^<]+)<')
        self.found.counts["requests sent"] += 1
        code = yield Mail(reference)
        yield Ask("GET", "/erasure/confirm")
        yield self.post(browser, "/erasure/confirm", {"reference": reference, "code": code})
        yield Ask("GET", browser.location)
        self.found.counts["mailboxes confirmed"] += 1
        self.answered.append((reference, access))

    def status(self, browser: Browser) -> Steps:
        """Reference and access code, the page of the request, and its receipt."""
        reference, access = self.draw.choice(self.answered)
        yield Ask("GET", "/status")
        yield self.post(browser, "/status", {"reference": reference, "access_code": access})
        yield Ask("GET", browser.location, shows=reference)
        yield Ask("GET", f"/status/{reference}/receipt", shows=reference)

    def post(self, browser: Browser, path: str, given: Mapping[str, str]) -> Ask:
        return Ask("POST", path, (302,), {"csrfmiddlewaretoken": browser.token, **given})

    def staff(self) -> tuple[str, Doing]:
        browser = self.draw.choice(self.at_work)
        (kind,) = self.draw.choices(list(STAFF), list(STAFF.values()))
        if kind == "search" and browser.token:
            given = {
                "csrfmiddlewaretoken": browser.token,
                "q": self.draw.choice(self.plan.searches),
            }
            ask = Ask("POST", "/app/search", (200, 302), given)  # one case: to its page
        else:
            kind = "today" if kind == "search" else kind
            ask = Ask("GET", self.draw.choice(self.plan.pages[kind]))
        return kind, self.begins(lambda _: iter_one(ask), browser)

    # --- Requests -------------------------------------------------------------------------------
    async def arrive(
        self, group: str, rate: float, choose: Callable[[], tuple[str, Doing]]
    ) -> None:
        """Requests of one group, each begun when it is due."""
        loop = asyncio.get_running_loop()
        draw = random.Random(f"{self.plan.seed} {group}")  # noqa: S311
        due = loop.time()
        end = due + self.plan.warm + self.plan.seconds
        under_way: set[asyncio.Task[None]] = set()
        while (due := due + draw.expovariate(rate)) < end:
            await asyncio.sleep(due - loop.time())
            if self.measuring:
                self.found.late.append(1000 * (loop.time() - due))
            kind, doing = choose()
            task = asyncio.create_task(self.step(group, kind, doing, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    async def step(self, group: str, kind: str, doing: Doing, due: float) -> None:
        """One request; its time counts from when it was due."""
        ask, measured = doing.next, self.measuring
        assert isinstance(ask, Ask)
        wrong = await self.ask(doing.browser, ask)
        if measured:
            taken = 1000 * (asyncio.get_running_loop().time() - due)
            self.found.times[f"{group}: {kind}"].append(taken)
            self.found.seconds[int(due - self.began)].append(taken)
        if wrong:
            self.found.errors[
                f"{group}: {kind}: {ask.method} {ask.path.split('?')[0]}: {wrong}"
            ] += 1
        elif doing.go_on():
            if isinstance(doing.next, Mail):
                self.waiting[doing.next.reference] = doing
            else:
                self.ready[kind].append(doing)

    async def ask(self, browser: Browser, ask: Ask) -> str:
        """Send it; what was wrong with the answer, empty if it is as expected."""
        headers, content = browser.headers(), b""
        if ask.fields is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            content = urlencode(ask.fields).encode()
        try:
            answer = await self.http.send(ask.method, self.plan.url + ask.path, headers, content)
        except FAILED as problem:
            return type(problem).__name__
        browser.take(answer)
        if answer.status not in ask.expect:
            return f"status {answer.status}"
        return "" if ask.shows in browser.page else f"page without {ask.shows}"

    async def read_mail(self) -> None:
        """Read each mail once, and give everybody who waits the code that came for them."""
        codes: dict[str, str] = {}
        while True:
            for path in Path(self.plan.outbox).glob("*.eml"):
                if path.name not in self.read_mails:
                    self.read_mails.add(path.name)
                    codes.setdefault("-".join(path.name.split("-")[:3]), code_in(path))
            for reference in self.waiting.keys() & codes.keys():
                doing = self.waiting.pop(reference)
                doing.go_on(codes.pop(reference))
                self.ready["intake"].append(doing)
            await asyncio.sleep(LOOK_EVERY)

    async def use_gateway(self) -> None:
        """A short answer of the model now and then."""
        headers = {"Authorization": f"Bearer {self.plan.gateway_key}"}
        content = {"model": "demo", "prompt": "What is the capital of France?", "max_tokens": 12}
        url, loop = f"{self.plan.gateway}/v1/completions", asyncio.get_running_loop()
        while True:
            await asyncio.sleep(GATEWAY_PAUSE)
            began = loop.time()
            try:
                answer = await self.http.send("POST", url, headers, json.dumps(content).encode())
                wrong = "" if answer.status == 200 else f"status {answer.status}"
            except FAILED as problem:
                wrong = type(problem).__name__
            if self.measuring:
                self.found.times["gateway"].append(1000 * (loop.time() - began))
            if wrong:
                self.found.errors[f"gateway: {wrong}"] += 1

    async def live(self) -> Found:
        """Warm up, then everything at once until the time is over."""
        beside = [asyncio.create_task(each) for each in (self.read_mail(), self.use_gateway())]
        beside.append(asyncio.create_task(self.measure_later()))
        await asyncio.gather(
            self.arrive("public", self.plan.public, self.public),
            self.arrive("staff", self.plan.staff, self.staff),
        )
        for task in beside:
            task.cancel()
        self.found.counts["waiting for mail at the end"] = len(self.waiting)
        self.found.counts["people"] = self.people
        return self.found

    async def measure_later(self) -> None:
        await asyncio.sleep(self.plan.warm)
        self.measuring, self.began = True, asyncio.get_running_loop().time()
        print("measuring", flush=True)
        await asyncio.Event().wait()


def iter_one(ask: Ask) -> Steps:
    yield ask


def code_in(path: Path) -> str:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = message.get_body()
    found = CODE.search(body.get_content() if body is not None else "")
    return found[1] if found else ""


if __name__ == "__main__":
    found = asyncio.run(Town(Plan(**json.load(sys.stdin))).live())
    print(json.dumps(vars(found)), flush=True)
